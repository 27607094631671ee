//! What a gateway with many connections does when it is killed and started again, or when its ruleset is loaded anew.
//!
//! Measures, in namespaces of its own: on a veth pair each side, whose wires outlive the gateway.
#![forbid(unsafe_code)]

mod crowd;
mod reload;
mod restart;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::Result;

/// Measures a gateway with many connections.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// UDP connections.
    #[arg(long, global = true, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=110_000))]
    connections: u32,
    /// Datagrams a second, over all connections; each is answered.
    #[arg(long, global = true, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rate: u32,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// SIGKILL under traffic, and a start: the longest gap, and packets lost.
    Restart,
    /// The ruleset flushed and loaded again under traffic and TCP transfers: what is lost, and how long it takes until
    /// all have proved themselves again.
    Reload,
}

fn main() -> ExitCode {
    let Arguments { what, connections, rate } = Arguments::parse();
    let outcome: Result<bool> = match what {
        What::Restart => restart::measure(connections, rate),
        What::Reload => reload::measure(connections, rate),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nobody else to tell when this fails.
            let _ = writeln!(std::io::stderr(), "scale: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A line of the report.
fn row(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<62} {value:>12}");
}
