//! `flyover capture` and `trace` beside traffic, and what tshark makes of a capture.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use nix::sys::signal::Signal;

use crate::process::{Process, mortal};
use crate::{Gateway, Lab, LabError, Result, gateway, wait};

/// A command that looks at packets until it has seen enough, or is told to end.
#[derive(Debug)]
pub struct Looking {
    process: Process,
}

impl Looking {
    /// Starts it, and waits until it looks.
    ///
    /// # Errors
    /// When it does not begin to.
    pub fn start(lab: &Lab, gateway: &Gateway, arguments: &[&str]) -> Result<Self> {
        let mut command = mortal(gateway::binary()?);
        command.args(arguments).arg("--socket").arg(gateway.socket());
        let mut looking = Self { process: lab.gateway().start("looking", command, lab.directory())? };
        wait::until_true(wait::PATIENCE, "it to look at packets", || {
            looking.process.errors().contains("Ctrl-C ends it") || looking.process.try_wait().is_some()
        })?;
        if looking.process.try_wait().is_some() {
            return Err(LabError::Missing(format!("{arguments:?} ended: {}", looking.process.errors())));
        }
        Ok(looking)
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// As Ctrl-C does; gives how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn interrupt(mut self) -> Result<Looked> {
        self.process.signal(Signal::SIGINT)?;
        self.ended()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn ended(&mut self) -> Result<Looked> {
        let status = self.process.wait(wait::PATIENCE)?;
        Ok(Looked { status, output: self.process.output(), errors: self.process.errors() })
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Looked {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub errors: String,
}

/// A packet of a capture, as tshark reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The interface of the capture.
    pub interface: String,
    /// The direction by the packet's flags.
    pub direction: String,
    /// Comments.
    pub comment: String,
    /// Source address and port.
    pub source: String,
    /// Destination address and port.
    pub destination: String,
    /// Bytes of the packet, and of it those captured.
    pub lengths: String,
}

/// Where a capture of a laboratory is written.
pub fn file(lab: &Lab) -> PathBuf {
    lab.directory().join("capture.pcapng")
}

/// The packets of a capture, in the order of the file.
///
/// # Errors
/// When tshark finds anything wrong with it.
pub fn read(file: &Path) -> Result<Vec<Seen>> {
    const FIELDS: [&str; 10] = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.comment",
        "ip.src",
        "udp.srcport",
        "ip.dst",
        "udp.dstport",
        "frame.len",
        "frame.cap_len",
        "frame.number",
    ];
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|", "-E", "aggregator=;"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().map_err(LabError::io("run tshark"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(LabError::Missing(format!("tshark reads no {}: {errors}", file.display())));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = |line: &str| {
        let mut fields = line.split('|').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (interface, direction, comment) = (next(), next(), next());
        let source = format!("{}:{}", next(), next());
        let destination = format!("{}:{}", next(), next());
        Seen { interface, direction, comment, source, destination, lengths: format!("{} {}", next(), next()) }
    };
    Ok(text.lines().map(seen).collect())
}
