//! A terminal with a program on it: what is on its screen, and keys.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::process::{Process, mortal};
use crate::{LabError, Namespace, Result};

/// What ends ratatui's pictures, once the program has left the screen.
const LEAVES: &str = "\x1b[?1049l";

/// A terminal, which script(1) has.
#[derive(Debug)]
pub struct Terminal {
    process: Process,
    keys: File,
    columns: u16,
    rows: u16,
}

impl Terminal {
    /// Runs a shell's command line in a namespace, on a terminal of this size.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        (columns, rows): (u16, u16),
        line: &str,
    ) -> Result<Self> {
        let fifo = directory.join("keys");
        namespace.run(&format!("mkfifo {}", fifo.display()))?;
        // For both, so that neither side waits for the other, and the program never sees an end of input.
        let keys = File::options().read(true).write(true).open(&fifo).map_err(LabError::io("open a fifo"))?;
        let size = format!("stty cols {columns} rows {rows}");
        let mut command = mortal("sh");
        command
            .arg("-c")
            .arg(format!("exec script -qec '{size}; exec {line}' /dev/null < {}", fifo.display()));
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        Ok(Self { process: namespace.start("terminal", command, directory)?, keys, columns, rows })
    }

    /// Types.
    ///
    /// # Errors
    /// When the fifo is gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).map_err(LabError::io("type"))
    }

    /// All that was written to it.
    pub fn written(&self) -> String {
        self.process.output()
    }

    /// What it shows; after the program's end the last that it showed.
    pub fn screen(&self) -> vt100::Parser {
        let written = self.written();
        let mut parser = vt100::Parser::new(self.rows, self.columns, 0);
        parser.process(written.split(LEAVES).next().unwrap_or_default().as_bytes());
        parser
    }

    /// The same as text, a line a row.
    pub fn text(&self) -> String {
        self.screen().screen().contents()
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.wait(deadline)
    }
}
