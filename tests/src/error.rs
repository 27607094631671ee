//! What can go wrong in a laboratory.

use std::io;

/// An error of the laboratory itself or of what runs in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, in words.
        status: String,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something did not come true before its deadline.
    #[error("after {seconds} s still waiting for {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// Output that should have been JSON of a known shape was not.
    #[error("{what}: {text}")]
    Shape {
        /// What was read.
        what: String,
        /// The text, or what is missing in it.
        text: String,
    },
    /// Something that a laboratory needs is missing on this machine.
    #[error("{0}")]
    Missing(String),
}

impl LabError {
    /// Wraps an I/O error together with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
