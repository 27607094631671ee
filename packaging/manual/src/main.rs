//! Writes manual pages and shell completions into a directory, as packages carry them: `cargo run --package flyover-manual -- DIR`.
#![forbid(unsafe_code)]

mod generate;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a tool for the package build")]
fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: flyover-manual DIR");
        return ExitCode::from(2);
    };
    match generate::all(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flyover-manual: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}
