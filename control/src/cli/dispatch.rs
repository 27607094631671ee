//! From the command line to what it asks for, and from failures to exit codes.

use std::error::Error;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::args::{
    Arguments, CheckArguments, Command, DoctorArguments, EventsArguments, ExplainArguments,
    HardwareArguments, RunArguments, Shown, Source,
};
use super::error::ShowError;
use super::findings::{self, Finding, Severity};
use super::{check, events, explain, flows, hardware, show, top};
use crate::api::{Client, ClientError, Request, Status};
use crate::config::{Config, ConfigError, DEFAULT_SOCKET, Machine};
use crate::log::Log;

/// What the gateway needs to know beyond its configuration.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The file that the configuration came from, if it came from one.
    pub config_file: Option<PathBuf>,
    /// No nftables table of Flyover's own.
    pub no_nft: bool,
    /// What is said, for `flyover events`.
    pub log: Log,
}

/// Runs the gateway until it is told to stop.
pub type Runner<'a> = dyn Fn(&Config, &RunOptions) -> Result<(), Box<dyn Error + Send + Sync>> + 'a;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Usage(String),
    #[error("the gateway can't run: {0}")]
    Run(Box<dyn Error + Send + Sync>),
    #[error("this machine isn't ready to run the gateway:\n{0}")]
    Machine(String),
    /// Told already.
    #[error("check failed")]
    Check,
    #[error("{0}")]
    Top(#[from] top::TopError),
    #[error("can't write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Does what the command line asks for; `run` is what `flyover run` calls.
pub fn dispatch(arguments: Arguments, run: &Runner<'_>) -> ExitCode {
    let socket = arguments.socket;
    let outcome = match arguments.command {
        Command::Run(arguments) => start(&arguments, socket, run),
        Command::Check(arguments) => check_all(&arguments, socket),
        Command::Doctor(arguments) => doctor(&arguments, socket),
        Command::Status(shown) => {
            answer(socket, &Request::Status {}, shown, |out, status| show::status(out, &status))
        }
        Command::Ports(shown) => {
            answer(socket, &Request::Ports {}, shown, |out, ports: Vec<_>| show::ports(out, &ports))
        }
        Command::Stats(shown) => {
            answer(socket, &Request::Stats {}, shown, |out, stats| show::stats(out, &stats))
        }
        Command::Explain(ExplainArguments { proto, src, dst, shown }) => {
            let request = Request::Explain { proto, src, dst };
            answer(socket, &request, shown, |out, found| explain::show(out, &found))
        }
        Command::Hardware(arguments) => hardware_of(&arguments, socket),
        Command::Events(arguments) => events_of(&arguments, socket),
        Command::Top(arguments) => {
            let socket = socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
            top::run(&socket, &arguments).map_err(Failure::from)
        }
        Command::Flows(arguments) => {
            let pace = arguments.shown.pace();
            connect(socket)
                .and_then(|mut client| repeatedly(pace, |out| Ok(flows::show(&mut client, &arguments, out)?)))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    let code = match failure {
        // Whoever reads has seen enough: `flyover flows | head`.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Failure::Check => return ExitCode::from(1),
        Failure::Config(_) | Failure::Usage(_) | Failure::Top(top::TopError::NoTerminal) => 2,
        _ => 1,
    };
    let mut text = failure.to_string();
    let mut cause = match failure {
        Failure::Run(error) => error.source(),
        _ => None,
    };
    while let Some(error) = cause {
        let words = error.to_string();
        // Some errors say their cause themselves.
        if !text.contains(&words) {
            text.push_str("\n  because: ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    // Nothing is left to do if standard error is closed.
    let _ = writeln!(io::stderr(), "flyover: {text}");
    ExitCode::from(code)
}

/// Lets `write` fill standard output, buffered.
fn print(write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out)?;
    Ok(out.flush()?)
}

impl From<ShowError> for Failure {
    fn from(error: ShowError) -> Self {
        match error {
            ShowError::Client(error) => Self::Client(error),
            ShowError::Output(error) => Self::Output(error),
        }
    }
}

fn connect(socket: Option<PathBuf>) -> Result<Client, Failure> {
    Ok(Client::connect(&socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)))?)
}

/// One question, its answer as JSON as the gateway wrote it, or as `show` shows it.
fn answer<T: serde::de::DeserializeOwned>(
    socket: Option<PathBuf>,
    request: &Request,
    shown: Shown,
    show: impl Fn(&mut dyn Write, T) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut client = connect(socket)?;
    repeatedly(shown.pace(), |out| {
        if shown.output.json {
            Ok(writeln!(out, "{}", client.ask_raw(request)?)?)
        } else {
            Ok(show(out, client.ask(request)?)?)
        }
    })
}

/// Prints once, or again and again until interrupted: on a terminal in place of the last, else below it.
fn repeatedly(
    pace: Option<Duration>,
    mut write: impl FnMut(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(pace) = pace else { return print(write) };
    let clear: &[u8] = if io::stdout().is_terminal() { b"\x1b[2J\x1b[H" } else { b"" };
    loop {
        // Whole before it is shown: half a picture is none.
        let mut picture = clear.to_vec();
        write(&mut picture)?;
        print(|out| Ok(out.write_all(&picture)?))?;
        thread::sleep(pace);
    }
}

fn load(source: &Source, socket: Option<PathBuf>) -> Result<Config, ConfigError> {
    let mut config = match &source.config {
        Some(path) => Config::load(path)?,
        None => Config::from_ports(&source.port, &Machine::this())?,
    };
    if let Some(socket) = socket {
        config.api.socket = socket;
    }
    Ok(config)
}

fn start(arguments: &RunArguments, socket: Option<PathBuf>, run: &Runner<'_>) -> Result<(), Failure> {
    let config = load(&arguments.source, socket)?;
    let log = Log::start(arguments.log_level.into(), arguments.log_format.into());
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let blockers: Vec<Finding> =
        check::machine(&config).into_iter().filter(|finding| finding.severity == Severity::Error).collect();
    if !blockers.is_empty() {
        let mut text = Vec::new();
        findings::write(&mut text, &blockers)?;
        return Err(Failure::Machine(String::from_utf8_lossy(&text).trim_end().to_owned()));
    }
    // Told to others, who are elsewhere.
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let config_file = arguments.source.config.as_ref().map(absolute);
    let options = RunOptions { config_file, no_nft: arguments.no_nft, log };
    run(&config, &options).map_err(Failure::Run)
}

fn check_all(arguments: &CheckArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    let (findings, failure) = match load(&arguments.source, socket) {
        Ok(config) => {
            let mut found = check::machine(&config);
            found.extend(check::ruleset(&config));
            found.sort_by_key(|finding| finding.severity);
            (found, None)
        }
        Err(error) => (vec![Finding::config(&error)], Some(Failure::Config(error))),
    };
    let failed = findings.iter().any(|finding| finding.severity == Severity::Error);
    if arguments.output.json {
        print(|out| Ok(findings::write_json(out, !failed, &findings)?))?;
    } else if failure.is_none() {
        print(|out| Ok(findings::write_all(out, name(&arguments.source), &findings)?))?;
    }
    match failure {
        Some(failure) => Err(failure),
        None if failed => Err(Failure::Check),
        None => Ok(()),
    }
}

fn hardware_of(arguments: &HardwareArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    let shown = arguments.shown;
    match arguments.connection() {
        None => {
            answer(socket, &Request::Hardware {}, shown, |out, ports: Vec<_>| hardware::ports(out, &ports))
        }
        Some(Err(message)) => Err(Failure::Usage(message)),
        Some(Ok((proto, src, dst))) => {
            let request = Request::Rules { proto, src, dst };
            answer(socket, &request, shown, |out, rules: Vec<_>| hardware::rules(out, &rules))
        }
    }
}

fn events_of(arguments: &EventsArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    let mut client = connect(socket)?;
    print(|out| Ok(events::show(&mut client, arguments, out)?))
}

/// As `check`, of what runs: by its own configuration, wherever that is.
fn doctor(arguments: &DoctorArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    let mut source = Source { config: arguments.config.clone(), port: Vec::new() };
    if source.config.is_none() {
        let status: Status = connect(socket.clone())?.ask(&Request::Status {})?;
        source.config = status.config_file.map(PathBuf::from);
        if source.config.is_none() {
            source.port = status.ports.iter().map(|port| format!("{}={}", port.name, port.device)).collect();
        }
    }
    check_all(&CheckArguments { source, output: arguments.output }, socket)
}

fn name(source: &Source) -> &Path {
    source.config.as_deref().unwrap_or(Path::new("--port"))
}
