//! `flyover-bench`: what packets cost, beside what they cost others.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dataplane::dpdk::{EalOptions, Hugepages};
use flyover_bench::error::Error;
use flyover_bench::gateway::Ports;
use flyover_bench::machine::{self, HugePages};
use flyover_bench::measure::Effort;
use flyover_bench::path::{self, Scenario};
use flyover_bench::report::{Report, Row};
use flyover_bench::{assist, churn, control, micro, plot, rules, workers};

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
    /// What IPv6, a larger table and misses cost beside the plain path, in turns.
    Compare(Options),
    /// The parts of the path, each beside its peer.
    Micro(Options),
    /// Marks of a NIC in place of lookups, and taking notice of hot directions.
    Assist(Options),
    /// New connections, from the kernel's events into the table.
    Control(Options),
    /// Flow rules, made and removed by a model of a NIC, and refused.
    Rules(Options),
    /// Everything, also written to a directory as JSON and plots.
    All {
        /// Where latest.json and the plots go.
        #[arg(long, default_value = "bench/results")]
        results: PathBuf,
        /// What is measured.
        #[command(flatten)]
        options: Options,
    },
    /// The worker alone, for a profiler or for callgrind: no figures.
    Hot {
        /// Rounds of the worker, two bursts each.
        #[arg(long, default_value_t = 2000)]
        rounds: u32,
        /// Connections in the table.
        #[arg(long, default_value_t = 1000)]
        connections: u32,
        /// IPv6 instead of IPv4.
        #[arg(long)]
        ipv6: bool,
        /// Compare tags with AVX2, as a gateway does where the processor has it.
        #[arg(long)]
        avx2: bool,
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
    let mut pages = HugePages::reserve(mib.unwrap_or(0));
    // Two thirds are what DPDK and the peer need; a table that finds no more lies in transparent ones.
    let huge = mib.is_some_and(|mib| HugePages::free(mib * 2 / 3));
    if !huge {
        // Too few would do for a start, and then be missed.
        drop(pages);
        pages = HugePages::reserve(0);
    }
    let options = EalOptions {
        hugepages: if huge { Hugepages::On } else { Hugepages::Off },
        memory_mb: if huge { None } else { mib.map(|mib| mib as u32 / 2) },
        file_prefix: format!("flyover-bench-{}", std::process::id()),
        ..EalOptions::default()
    };
    Ok((pages, Ports::start(&options)?))
}

fn prepare(options: Options) -> Result<(HugePages, Ports), Error> {
    machine::pin(options.cpu);
    machine::take_precedence();
    start(Some(if options.quick { 2048 } else { 7168 }))
}

fn path_rows(ports: &mut Ports, options: Options) -> Result<Vec<Row>, Error> {
    let mut scenarios: Vec<Scenario> = CONNECTIONS.map(Scenario::plain).to_vec();
    if !options.quick {
        scenarios.extend(path::more());
    }
    let mut run = |scenario: &Scenario| {
        path::run(scenario, ports, effort(scenario.connections), !options.quick).map(|(row, _)| row)
    };
    let mut rows = scenarios.iter().map(&mut run).collect::<Result<Vec<_>, _>>()?;
    if !options.quick {
        rows.extend(comparisons(ports)?);
        rows.push(workers::two(&Scenario::plain(1 << 20), ports)?);
    }
    Ok(rows)
}

/// What IPv6, a larger table and misses cost beside IPv4 with a million connections and no miss, in turns.
fn comparisons(ports: &mut Ports) -> Result<Vec<Row>, Error> {
    let plain = Scenario::plain(1 << 20);
    let others = [
        ("compare.ipv6", Scenario::plain6(1 << 20)),
        ("compare.16m", Scenario::plain(1 << 24)),
        ("compare.hits99", Scenario { name: "ipv4.snat.hits99", strangers: 10, ..plain }),
    ];
    let compare =
        |(name, other): (&str, Scenario)| path::compare(name, &other, &plain, ports, effort(1 << 20));
    others.into_iter().map(compare).collect()
}

fn micro_rows(ports: &mut Ports, options: Options) -> Result<Vec<Row>, Error> {
    let mut rows = micro::parts(effort(1))?;
    rows.push(path::burst(ports, effort(1))?);
    for connections in CONNECTIONS {
        rows.extend(micro::lookup(connections, effort(connections))?);
    }
    for connections in if options.quick { &CONNECTIONS[2..3] } else { &CONNECTIONS[1..] } {
        rows.extend(micro::change(*connections)?);
    }
    Ok(rows)
}

fn run_path(options: Options) -> Result<Report, Error> {
    let (_pages, mut ports) = prepare(options)?;
    Ok(Report::new(path_rows(&mut ports, options)?))
}

fn run_compare(options: Options) -> Result<Report, Error> {
    let (_pages, mut ports) = prepare(options)?;
    Ok(Report::new(comparisons(&mut ports)?))
}

fn run_micro(options: Options) -> Result<Report, Error> {
    let (_pages, mut ports) = prepare(options)?;
    Ok(Report::new(micro_rows(&mut ports, options)?))
}

fn assist_rows(ports: &mut Ports, options: Options) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for connections in [1_000, 1 << 20, 1 << 22] {
        rows.push(assist::marked(&Scenario::plain(connections), false, ports, effort(connections))?);
    }
    if !options.quick {
        rows.push(assist::marked(&Scenario::plain6(1 << 20), false, ports, effort(1 << 20))?);
        rows.push(assist::marked(&Scenario::plain(1 << 20), true, ports, effort(1 << 20))?);
    }
    for connections in [1_000, 1 << 20] {
        rows.push(assist::detection(&Scenario::plain(connections), ports, effort(connections))?);
    }
    Ok(rows)
}

fn run_assist(options: Options) -> Result<Report, Error> {
    let (_pages, mut ports) = prepare(options)?;
    Ok(Report::new(assist_rows(&mut ports, options)?))
}

fn control_rows(ports: &mut Ports, options: Options) -> Result<Vec<Row>, Error> {
    let repetitions = if options.quick { 5 } else { 9 };
    let mut rows = vec![control::admit(1 << 20, repetitions)?];
    rows.extend(churn::run(1 << 20, ports, options.cpu)?);
    Ok(rows)
}

fn run_control(options: Options) -> Result<Report, Error> {
    let (_pages, mut ports) = prepare(options)?;
    Ok(Report::new(control_rows(&mut ports, options)?))
}

fn run_rules(options: Options) -> Result<Report, Error> {
    let (_pages, _ports) = prepare(options)?;
    Ok(Report::new(rules::run()?))
}

fn run_all(options: Options, results: &Path) -> Result<Report, Error> {
    let (_pages, mut ports) = prepare(options)?;
    let mut rows = path_rows(&mut ports, options)?;
    rows.extend(micro_rows(&mut ports, options)?);
    rows.extend(assist_rows(&mut ports, options)?);
    rows.extend(control_rows(&mut ports, options)?);
    rows.extend(rules::run()?);
    let report = Report::new(rows);
    let write = |name: &str, text: String| {
        let path = results.join(name);
        let failed = |source| Error::Write { path: path.display().to_string(), source };
        fs::create_dir_all(results).and_then(|()| fs::write(&path, text)).map_err(failed)
    };
    write("latest.json", report.json() + "\n")?;
    let names: BTreeSet<&str> = report.rows.iter().map(|row| row.name.as_str()).collect();
    for name in names {
        let series = plot::series(report.rows.iter().filter(|row| row.name == name));
        if !series.is_empty() {
            write(&format!("{name}.svg"), plot::svg(name, &series))?;
        }
    }
    Ok(report)
}

fn run_hot(scenario: &Scenario, rounds: u32, avx2: bool) -> Result<(), Error> {
    let (_pages, mut ports) = start(None)?;
    path::hot(scenario, &mut ports, rounds, avx2)
}

fn print(text: &str) {
    // A reader that has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let show = |report: Report, options: Options| {
        print(&if options.json { report.json() + "\n" } else { report.table() });
    };
    let result = match arguments.command {
        Command::Path(options) => run_path(options).map(|report| show(report, options)),
        Command::Compare(options) => run_compare(options).map(|report| show(report, options)),
        Command::Micro(options) => run_micro(options).map(|report| show(report, options)),
        Command::Assist(options) => run_assist(options).map(|report| show(report, options)),
        Command::Control(options) => run_control(options).map(|report| show(report, options)),
        Command::Rules(options) => run_rules(options).map(|report| show(report, options)),
        Command::All { results, options } => run_all(options, &results).map(|report| show(report, options)),
        Command::Hot { rounds, connections, ipv6, avx2 } => {
            let scenario = if ipv6 { Scenario::plain6(connections) } else { Scenario::plain(connections) };
            run_hot(&scenario, rounds, avx2)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "flyover-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
