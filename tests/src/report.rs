//! What programs in the guest find out, a line a fact: `ok` and `FAILED` for what must be so, `note` for what is told.

use std::error::Error;
use std::process::ExitCode;

/// Facts so far.
#[derive(Debug)]
pub struct Report {
    /// All that must be so was so.
    pub well: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self { well: true }
    }
}

impl Report {
    /// What must be so, and whether it is.
    pub fn must(&mut self, what: &str, so: bool) {
        println!("{} {what}", if so { "ok" } else { "FAILED" });
        self.well &= so;
    }

    /// What differs from place to place.
    pub fn note(&self, what: &str, value: &str) {
        println!("note {what}: {value}");
    }
}

/// The exit code of a program that ended so.
pub fn exit(outcome: Result<bool, Box<dyn Error>>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
