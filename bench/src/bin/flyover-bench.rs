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
    /// The worker alone, for a profiler or for callgrind: no figures.
    Hot {
        /// Rounds of the worker, two bursts each.
        #[arg(long, default_value_t = 2000)]
        rounds: u32,
        /// Connections in the table.
        #[arg(long, default_value_t = 1000)]
        connections: u32,
    },
}

/// The connections of the plain rows.
const CONNECTIONS: [u32; 4] = [1_000, 65_536, 1 << 20, 1 << 22];

fn effort(connections: u32) -> Effort {
    let large = connections > 4096;
    let packets = if large { 1 << 17 } else { 1 << 15 };
    Effort { repetitions: 25, most: 75, packets, warm_up: packets / 2 }
}

fn start(mib: Option<u64>) -> Result<(HugePages, Ports), Error> {
    let pages = HugePages::reserve(mib.unwrap_or(0));
    let options = EalOptions {
        hugepages: if mib.is_some() { Hugepages::Auto } else { Hugepages::Off },
        file_prefix: format!("flyover-bench-{}", std::process::id()),
        ..EalOptions::default()
    };
    Ok((pages, Ports::start(&options)?))
}

fn run_path(options: Options) -> Result<Report, Error> {
    machine::pin(options.cpu);
    machine::take_precedence();
    let (_pages, mut ports) = start(Some(if options.quick { 2048 } else { 7168 }))?;
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

fn run_hot(rounds: u32, connections: u32) -> Result<(), Error> {
    let (_pages, mut ports) = start(None)?;
    path::hot(&Scenario::plain(connections), &mut ports, rounds)
}

fn print(text: &str) {
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Path(options) => run_path(options).map(|report| {
            print(&if options.json { report.json() + "\n" } else { report.table() });
        }),
        Command::Hot { rounds, connections } => run_hot(rounds, connections),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "flyover-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
