//! `make oracle`: the same packets through a kernel gateway and through Flyover's fast path, compared byte for byte.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use lab::oracle::compare::Finding;
use lab::oracle::{Case, Effort, Event, Oracle, OracleError};

/// Sends the same packets through a kernel gateway and through Flyover's fast path, and compares what leaves.
#[derive(Debug, Parser)]
#[command(name = "oracle")]
struct Arguments {
    /// Packets to send
    #[arg(long, default_value_t = 300_000)]
    packets: u64,
    /// Seconds after which to end, if the packets have not been sent by then
    #[arg(long)]
    duration: Option<u64>,
    /// What all packets follow from; a random one if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Try one case alone: a line as a mismatch prints it
    #[arg(long)]
    replay: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nobody else to tell when this fails.
            let _ = writeln!(std::io::stderr(), "oracle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, OracleError> {
    let started = Instant::now();
    let mut oracle = Oracle::new()?;
    if let Some(line) = &arguments.replay {
        return replay(&mut oracle, line);
    }
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) << 32 ^ nanoseconds());
    println!("seed {seed}");
    let failures = oracle.replay_regressions()?;
    failures.iter().for_each(|failure| println!("regression: {failure}"));

    let duration = arguments.duration.map(Duration::from_secs);
    let effort = Effort { packets: arguments.packets, duration, seed };
    let report = oracle.run(effort, &mut |event| match event {
        Event::Progress(report) => {
            let (packets, mismatches) = (report.packets, report.mismatches);
            println!("{:>5} s: {packets} packets, {mismatches} mismatches", started.elapsed().as_secs());
        }
        Event::Mismatch(case, mismatch) => println!("\nmismatch: {case}\n{mismatch}"),
        Event::Burst { expected, found } => {
            println!("\nmismatch in a burst: alone {expected:?}\nin the burst {found:?}");
        }
    })?;
    println!();
    report.print(started.elapsed());
    let missing = report.missing();
    missing.iter().for_each(|missing| println!("not reached: {missing}"));
    Ok(failures.is_empty() && missing.is_empty() && report.mismatches == 0)
}

fn replay(oracle: &mut Oracle, line: &str) -> Result<bool, OracleError> {
    let case: Case = line.parse().map_err(OracleError::Line)?;
    let finding = oracle.replay(&case)?;
    if let Finding::Mismatch(mismatch) = &finding {
        println!("mismatch\n{mismatch}");
        return Ok(false);
    }
    println!("{finding:?}");
    Ok(true)
}

/// Of the clock: different each time, which is all that is asked of it.
fn nanoseconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
