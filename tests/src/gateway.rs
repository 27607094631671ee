//! A running `flyover`, and what it says of itself.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::{Process, mortal};
use crate::service::ServiceManager;
use crate::status::{Flow, Status, parse_flows};
use crate::{LabError, Namespace, Result, wait};

/// How long Flyover may take until it is ready: EAL alone takes a second on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A port of the configuration.
#[derive(Clone, Debug)]
pub struct Port {
    /// The twin's name.
    pub name: String,
    /// The DPDK device.
    pub device: String,
    /// The namespace that a vdev's wire side is put into.
    pub netns: Option<String>,
    /// The twin's MTU and the port's, where it is not 1500.
    pub mtu: Option<u16>,
}

/// `flyover run` in a namespace, with its configuration.
#[derive(Debug)]
pub struct Gateway {
    namespace: Namespace,
    directory: PathBuf,
    binary: PathBuf,
    options: Vec<String>,
    process: Option<Process>,
    service: Option<ServiceManager>,
}

impl Gateway {
    /// Writes the configuration; starts nothing. `extra` is TOML that follows the ports.
    ///
    /// # Errors
    /// When the binary is neither there nor can be built, or the file can't be written.
    pub fn new(namespace: &Namespace, directory: &Path, ports: &[Port], extra: &str) -> Result<Self> {
        let gateway = Self {
            namespace: namespace.clone(),
            directory: directory.to_owned(),
            binary: binary()?.to_owned(),
            options: Vec::new(),
            process: None,
            service: None,
        };
        let config = configuration(ports, &gateway.socket(), extra);
        let path = gateway.config();
        std::fs::write(&path, config).map_err(LabError::io(format!("write {}", path.display())))?;
        Ok(gateway)
    }

    /// The path of the configuration.
    pub fn config(&self) -> PathBuf {
        self.directory.join("flyover.toml")
    }

    /// The path of the API socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("flyover.sock")
    }

    /// Starts `flyover run` and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within 30 s, with what it wrote to standard error.
    pub fn start(&mut self) -> Result<()> {
        let (mut command, _passed) = match &mut self.service {
            Some(service) => {
                service.hear()?;
                service.command(&self.binary)?
            }
            None => (mortal(&self.binary), Vec::new()),
        };
        command.arg("run").arg("-c").arg(self.config()).args(&self.options);
        command.env("RUST_BACKTRACE", "1");
        self.process = Some(self.namespace.start("flyover", command, &self.directory)?);
        let ready = wait::until(START_WITHIN, "flyover to be ready", || {
            if let Some(status) = self.process.as_mut().and_then(Process::try_wait) {
                return Some(Err(status));
            }
            self.status().is_ok_and(|status| status.ready()).then_some(Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => Err(self.failure(&status.to_string())),
            Err(timeout) => Err(self.failure(&timeout.to_string())),
        }
    }

    /// From the next start on, `flyover run` gets these options.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// From the next start on, a service manager is told, and holds descriptors.
    ///
    /// # Errors
    /// When its socket can't be made.
    pub fn serve(&mut self) -> Result<()> {
        self.service = Some(ServiceManager::listen(&self.directory)?);
        Ok(())
    }

    /// The same, and the service is to feed a watchdog.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn serve_with_watchdog(&mut self, within: Duration) -> Result<()> {
        self.serve()?;
        self.service.iter_mut().for_each(|service| service.set_watchdog(within));
        Ok(())
    }

    /// The service manager, with what it has heard by now.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&mut self) -> Result<&ServiceManager> {
        let service = self.service.as_mut().ok_or(LabError::Missing("a service manager".to_owned()))?;
        service.hear()?;
        Ok(service)
    }

    /// Stops with SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it has not ended within 15 s.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    /// Kills with SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL)
    }

    /// The process, while it runs.
    ///
    /// # Errors
    /// When it is not running.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().ok_or_else(not_running)
    }

    /// Asks `flyover status --json`.
    ///
    /// # Errors
    /// When nobody answers, or no JSON.
    pub fn status(&self) -> Result<Status> {
        let text = self.ask(&["status", "--json"])?;
        let json = serde_json::from_str(&text).map_err(|e| LabError::Shape {
            what: "status --json".to_owned(),
            text: format!("{e}: {text}"),
        })?;
        Ok(Status(json))
    }

    /// Asks `flyover stats --json`.
    ///
    /// # Errors
    /// When nobody answers, or no JSON.
    pub fn stats(&self) -> Result<Status> {
        let text = self.ask(&["stats", "--json"])?;
        let json = serde_json::from_str(&text)
            .map_err(|e| LabError::Shape { what: "stats --json".to_owned(), text: format!("{e}: {text}") })?;
        Ok(Status(json))
    }

    /// Asks `flyover flows --json`.
    ///
    /// # Errors
    /// When nobody answers, or not as the contract says.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        parse_flows(&self.ask(&["flows", "--json"])?)
    }

    /// The connection of this protocol whose first packet came from port `source_port`.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn flow(&self, protocol: &str, source_port: u16) -> Result<Option<Flow>> {
        let wanted = |flow: &Flow| {
            flow.protocol() == protocol && flow.original().is_some_and(|d| d.source.port() == source_port)
        };
        Ok(self.flows()?.into_iter().find(wanted))
    }

    /// Runs a subcommand against this instance and returns what it prints.
    ///
    /// # Errors
    /// When it ends with an error.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.flyover(arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(LabError::Command {
            command: format!("flyover {}", arguments.join(" ")),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a subcommand against this instance, however it ends.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn flyover(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = mortal(&self.binary);
        command.args(arguments).arg("--socket").arg(self.socket());
        self.namespace.command("flyover", command)
    }

    /// All that helps to see what went wrong.
    pub fn report(&self) -> String {
        let mut text = String::new();
        let status = self.ask(&["status", "--json"]).unwrap_or_else(|e| e.to_string());
        let flows = self.flows().map(|flows| flows.into_iter().take(20).collect::<Vec<_>>());
        let errors = self.process.as_ref().map(Process::errors).unwrap_or_default();
        // Writing to a string can't fail.
        let _ = writeln!(text, "flyover status: {status}\nflyover flows (20 at most): {flows:#?}");
        let _ = writeln!(text, "flyover's standard error:\n{}", tail(&errors, 60));
        text
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let process = self.process.as_mut().ok_or_else(not_running)?;
        process.signal(signal)?;
        let status = process.wait(STOP_WITHIN)?;
        self.process = None;
        Ok(status)
    }

    fn failure(&mut self, status: &str) -> LabError {
        let stderr = self.process.take().map(|process| process.errors()).unwrap_or_default();
        LabError::Command {
            command: format!("flyover run -c {}", self.config().display()),
            status: status.to_owned(),
            stderr: tail(&stderr, 60),
        }
    }
}

/// The `flyover` binary: `FLYOVER_BIN`, or that of the profile and target directory these tests were built in,
/// built first by cargo.
///
/// # Errors
/// When it can't be built.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(find_or_build).as_deref().map_err(|why| LabError::Missing(why.clone()))
}

fn find_or_build() -> std::result::Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("FLYOVER_BIN") {
        let path = PathBuf::from(path);
        return path.is_file().then_some(path).ok_or_else(|| "FLYOVER_BIN is no file".to_owned());
    }
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    // target/PROFILE/demo, or target/PROFILE/deps/test-HASH.
    let profile = own
        .ancestors()
        .skip(1)
        .find(|directory| directory.file_name() != Some(OsStr::new("deps")))
        .ok_or("no target directory")?;
    let binary = profile.join("flyover");
    // Cargo is asked even when the file is there, so that no test runs against yesterday's binary; without cargo
    // a binary that is there will do.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "flyover", "--bin", "flyover"]);
    if profile.file_name() == Some(OsStr::new("release")) {
        cargo.arg("--release");
    }
    if let Some(target) = profile.parent() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    match cargo.output() {
        Ok(output) if !output.status.success() => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        _ if binary.is_file() => Ok(binary),
        _ => Err(format!("{} is missing and could not be built", binary.display())),
    }
}

fn configuration(ports: &[Port], socket: &Path, extra: &str) -> String {
    let mut text = String::new();
    for Port { name, device, netns, mtu } in ports {
        let _ = writeln!(text, "[[port]]\nname = {name:?}\ndevice = {device:?}");
        if let Some(netns) = netns {
            let _ = writeln!(text, "netns = {netns:?}");
        }
        if let Some(mtu) = mtu {
            let _ = writeln!(text, "mtu = {mtu}");
        }
    }
    let _ = write!(text, "[api]\nsocket = {socket:?}\n{extra}");
    text
}

fn not_running() -> LabError {
    LabError::Missing("flyover is not running".to_owned())
}

/// The last `lines` lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
