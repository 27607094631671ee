//! A picture of `flyover top` for the documentation: a real gateway under traffic, its screen drawn as SVG.
#![forbid(unsafe_code)]

mod picture;
mod traffic;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lab::rules::HOME_ROUTER;
use lab::terminal::Terminal;
use lab::{Lab, LabError, Plane, Result, leftovers, wait};

/// So long after the change flows have proved themselves again.
const SETTLED: Duration = Duration::from_secs(4);

/// Draws `flyover top` of a gateway on taps.
#[derive(Debug, Parser)]
struct Arguments {
    /// The picture.
    file: PathBuf,
    /// The terminal's columns and rows.
    #[arg(long, num_args = 2, default_values_t = [100, 30])]
    size: Vec<u16>,
    /// How long to send before the picture is taken: graphs have a column a second.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
}

fn main() -> ExitCode {
    match take(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nobody else to tell when this fails.
            let _ = writeln!(std::io::stderr(), "screenshot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn take(arguments: &Arguments) -> Result<()> {
    let size = (arguments.size[0], arguments.size[1]);
    let lab = Lab::builder(Plane::Flyover).rules(HOME_ROUTER).ipv6().quiet().build()?;
    let gateway = lab.flyover().ok_or_else(|| LabError::Missing("Flyover".to_owned()))?;
    let traffic = traffic::Traffic::start(&lab)?;
    let directory = leftovers::directory()?;
    let line = format!("{} top --socket {}", lab::gateway::binary()?.display(), gateway.socket().display());
    let mut terminal = Terminal::start(lab.gateway(), directory.path(), size, &line)?;
    std::thread::sleep(Duration::from_secs(arguments.seconds));
    // Something to tell of.
    lab.gateway().nft("add rule inet filter forward udp dport 9 drop")?;
    wait::until_true(wait::PATIENCE, "flows and the change of rules on the screen", || {
        let shown = terminal.text();
        shown.contains("software  ") && shown.contains("what=ruleset")
    })?;
    std::thread::sleep(SETTLED);
    terminal.press("q")?;
    terminal.wait(wait::PATIENCE)?;
    traffic.finish();
    write(&arguments.file, &picture::svg(terminal.screen().screen()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))?;
    println!("{}: {} bytes", path.display(), text.len());
    Ok(())
}
