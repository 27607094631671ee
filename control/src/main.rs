//! The `flyover` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use control::cli::{self, Arguments};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output, which may be closed: no reason to panic.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    cli::dispatch(arguments, &|config, options| Ok(control::gateway::run(config, options)?))
}
