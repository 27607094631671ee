//! `flyover-bench`: what packets cost, beside what they cost others.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dataplane::dpdk::{EalOptions, Hugepages};
use flyover_bench::error::Error;
use flyover_bench::gateway::Ports;
use flyover_bench::machine::{self, HugePages};
use flyover_bench::measure::Effort;
use flyover_bench::path::{self, Scenario};
use flyover_bench::report::Report;

/// What packets cost, beside what they cost others.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Copy)]
struct Options {
    /// The four plain rows alone, within 90 seconds.
    #[arg(long)]
    quick: bool,
    /// JSON alone on standard output.
    #[arg(long)]
    json: bool,
    /// The CPU to run on.
    #[arg(long, default_value_t = machine::cpus() - 1)]
    cpu: usize,
}

#[derive(Subcommand)]
enum Command {
    /// The whole path of a packet through the real worker.
    Path(Options),
}

/// The connections of the plain rows.
const CONNECTIONS: [u32; 4] = [1_000, 65_536, 1 << 20, 1 << 22];

fn effort(connections: u32) -> Effort {
    let large = connections > 4096;
    let packets = if large { 1 << 17 } else { 1 << 15 };
    Effort { repetitions: 25, most: 75, packets, warm_up: packets / 2 }
}

fn start(mib: u64) -> Result<(HugePages, Ports), Error> {
    let pages = HugePages::reserve(mib);
    let options = EalOptions {
        hugepages: Hugepages::Auto,
        file_prefix: format!("flyover-bench-{}", std::process::id()),
        ..EalOptions::default()
    };
    Ok((pages, Ports::start(&options)?))
}

fn run_path(options: Options) -> Result<Report, Error> {
    machine::pin(options.cpu);
    machine::take_precedence();
    let (_pages, mut ports) = start(if options.quick { 2048 } else { 7168 })?;
    let mut scenarios: Vec<Scenario> = CONNECTIONS.map(Scenario::plain).to_vec();
    if !options.quick {
        scenarios.extend(path::more());
    }
    let mut rows = Vec::new();
    for scenario in &scenarios {
        rows.push(path::run(scenario, &mut ports, effort(scenario.connections), !options.quick)?.0);
    }
    Ok(Report::new(rows))
}

fn print(text: &str) {
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (options, result) = match arguments.command {
        Command::Path(options) => (options, run_path(options)),
    };
    match result {
        Ok(report) if options.json => print(&(report.json() + "\n")),
        Ok(report) => print(&report.table()),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "flyover-bench: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
