//! The command line.
//!
//! Standard output carries the answer alone, JSON alone with `--json`; errors go to standard error. Exit codes:
//! 0 well, 1 failed, 2 wrong usage or configuration.

mod args;
mod bind;
mod capture;
mod check;
mod dispatch;
mod doctor;
mod error;
mod events;
mod examples;
mod explain;
mod findings;
mod flows;
mod format;
mod hardware;
mod mend;
mod reload;
mod show;
mod style;
mod table;
mod top;
mod trace;
mod verdict;

pub use args::{Arguments, Command};
pub use check::machine as check_machine;
pub use dispatch::{RunOptions, Runner, dispatch};
pub use findings::{Finding, Severity};

#[cfg(test)]
mod schema;
