//! From the command line to what it asks for, and from failures to exit codes.

use std::error::Error;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::args::{
    Arguments, CheckArguments, Command, DoctorArguments, EventsArguments, ExplainArguments,
    HardwareArguments, ReloadArguments, RunArguments, Shown, Source,
};
use super::capture::CaptureError;
use super::check::Running;
use super::error::ShowError;
use super::findings::{self, Finding, Severity};
use super::{
    bind, capture, check, doctor, events, explain, flows, hardware, mend, reload, show, style, top, trace,
};
use crate::api::{Client, ClientError, Request, Status};
use crate::config::{Config, ConfigError, DEFAULT_CONFIG, DEFAULT_SOCKET, Machine, Overrides};
use crate::host::Host;
use crate::log::Log;
use crate::nics::{BindError, Kept};

/// What the gateway needs to know beyond its configuration.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The file that the configuration came from, if it came from one.
    pub config_file: Option<PathBuf>,
    /// What goes before what the file says.
    pub overrides: Overrides,
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
    Reload(String),
    #[error("{0}")]
    Top(#[from] top::TopError),
    /// One a device.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nflyover: "))]
    Bind(Vec<BindError>),
    #[error("{0}")]
    Capture(#[from] CaptureError),
    #[error("can't write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Does what the command line asks for; `run` is what `flyover run` calls.
pub fn dispatch(arguments: Arguments, run: &Runner<'_>) -> ExitCode {
    let color = arguments.color;
    style::decide(color);
    let socket = arguments.socket;
    let outcome = match arguments.command {
        Command::Run(arguments) => start(&arguments, socket, run),
        Command::Check(arguments) => check_all(&arguments, socket),
        Command::Reload(arguments) => reload_of(&arguments, socket),
        Command::Doctor(arguments) => examine(&arguments, socket),
        Command::Bind(arguments) if arguments.status => {
            print(|out| Ok(bind::status(out, &Host::this(), arguments.output.json)?))
        }
        Command::Bind(arguments) => nics(|out| bind::bind(out, &Host::this(), &arguments)),
        Command::Unbind(arguments) => nics(|out| bind::unbind(out, &Host::this(), &arguments)),
        Command::Status(shown) => {
            answer(socket.as_ref(), &Request::Status {}, shown, |out, status| show::status(out, &status))
        }
        Command::Ports(shown) => {
            answer(socket.as_ref(), &Request::Ports {}, shown, |out, ports: Vec<_>| show::ports(out, &ports))
        }
        Command::Stats(shown) => {
            answer(socket.as_ref(), &Request::Stats {}, shown, |out, stats| show::stats(out, &stats))
        }
        Command::Explain(ExplainArguments { proto, src, dst, shown }) => {
            let request = Request::Explain { proto, src, dst };
            answer(socket.as_ref(), &request, shown, |out, found| explain::show(out, &found))
        }
        Command::Hardware(arguments) => hardware_of(&arguments, socket.as_ref()),
        Command::Events(arguments) => events_of(&arguments, socket),
        Command::Top(arguments) => {
            style::decide_screen(color);
            let socket = socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET));
            top::run(&socket, &arguments).map_err(Failure::from)
        }
        Command::Trace(arguments) => {
            connect(socket).map_err(Failure::from).and_then(|client| Ok(trace::run(client, &arguments)?))
        }
        Command::Capture(arguments) => {
            connect(socket).map_err(Failure::from).and_then(|client| Ok(capture::run(client, &arguments)?))
        }
        Command::Flows(arguments) => {
            let pace = arguments.shown.pace();
            repeatedly(socket.as_ref(), pace, |client, out| Ok(flows::show(client, &arguments, out)?))
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
        Failure::Capture(CaptureError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Failure::Check => return ExitCode::from(1),
        Failure::Config(_) | Failure::Usage(_) | Failure::Top(top::TopError::NoTerminal) => 2,
        Failure::Capture(error) if error.is_usage() => 2,
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

fn connect(socket: Option<PathBuf>) -> Result<Client, ClientError> {
    Client::connect(&socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)))
}

/// One question, its answer as JSON as the gateway wrote it, or as `show` shows it.
fn answer<T: serde::de::DeserializeOwned>(
    socket: Option<&PathBuf>,
    request: &Request,
    shown: Shown,
    show: impl Fn(&mut dyn Write, T) -> io::Result<()>,
) -> Result<(), Failure> {
    repeatedly(socket, shown.pace(), |client, out| {
        if shown.output.json {
            Ok(writeln!(out, "{}", client.ask_raw(request)?)?)
        } else {
            Ok(show(out, client.ask(request)?)?)
        }
    })
}

/// Asks and prints once; or again and again until interrupted: on a terminal in place of the last, else below it. A gateway
/// that goes away is told of, and waited for.
fn repeatedly(
    socket: Option<&PathBuf>,
    pace: Option<Duration>,
    mut write: impl FnMut(&mut Client, &mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut client = connect(socket.cloned())?;
    let Some(pace) = pace else { return print(|out| write(&mut client, out)) };
    let clear: &[u8] = if io::stdout().is_terminal() { b"\x1b[2J\x1b[H" } else { b"" };
    loop {
        // Whole before it is shown: half a picture is none.
        let mut picture = clear.to_vec();
        match write(&mut client, &mut picture) {
            Ok(()) => print(|out| Ok(out.write_all(&picture)?))?,
            Err(Failure::Client(error)) if error.may_pass() => client = again(socket, pace, &error)?,
            Err(failure) => return Err(failure),
        }
        thread::sleep(pace);
    }
}

/// Connects to a gateway that has gone away, when it is there again.
fn again(socket: Option<&PathBuf>, pace: Duration, why: &ClientError) -> Result<Client, Failure> {
    writeln!(io::stderr(), "flyover: {why}; waiting for it to come back")?;
    loop {
        match connect(socket.cloned()) {
            Ok(client) => return Ok(client),
            Err(error) if error.may_pass() => thread::sleep(pace),
            Err(error) => return Err(error.into()),
        }
    }
}

fn load(source: &Source, socket: Option<PathBuf>) -> Result<Config, ConfigError> {
    let mut config = read(source)?;
    Overrides { socket, ..Overrides::default() }.apply(&mut config);
    Ok(config)
}

fn read(source: &Source) -> Result<Config, ConfigError> {
    match &source.config {
        Some(path) => Config::load(path),
        None => Config::from_ports(&source.port, &Machine::this()),
    }
}

fn start(arguments: &RunArguments, socket: Option<PathBuf>, run: &Runner<'_>) -> Result<(), Failure> {
    let log_level = arguments.log_level.map(Into::into);
    let overrides = Overrides { socket, log_level, log_format: arguments.log_format.map(Into::into) };
    let mut config = read(&arguments.source)?;
    overrides.apply(&mut config);
    let log = Log::start(config.log);
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let kept = Kept::of(&config);
    let outcome = run_with(&kept, &config, arguments, &overrides, log, run);
    for back in kept.give_back(&Host::this(), outcome.is_err()) {
        match back {
            Ok(bound) => tracing::warn!(nic = %bound.nic.address, "given back to the kernel: {bound}"),
            Err(error) => tracing::error!(%error, "a NIC could not be given back to the kernel"),
        }
    }
    outcome
}

/// From the checks before the start to the end.
fn run_with(
    kept: &Kept,
    config: &Config,
    arguments: &RunArguments,
    overrides: &Overrides,
    log: Log,
    run: &Runner<'_>,
) -> Result<(), Failure> {
    let blockers: Vec<Finding> =
        check::machine(config).into_iter().filter(|finding| finding.severity == Severity::Error).collect();
    if !blockers.is_empty() {
        let mut text = Vec::new();
        findings::write(&mut text, &blockers)?;
        return Err(Failure::Machine(String::from_utf8_lossy(&text).trim_end().to_owned()));
    }
    for bound in kept.take(&Host::this()).map_err(|error| Failure::Bind(vec![error]))? {
        tracing::info!(nic = %bound.nic.address, "taken from the kernel: {bound}");
    }
    // Told to others, who are elsewhere.
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let config_file = arguments.source.config.as_ref().map(absolute);
    let options = RunOptions { config_file, overrides: overrides.clone(), no_nft: arguments.no_nft, log };
    run(config, &options).map_err(Failure::Run)
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

fn hardware_of(arguments: &HardwareArguments, socket: Option<&PathBuf>) -> Result<(), Failure> {
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

/// Exit code 1 if the configuration was not taken over, or would not be.
fn reload_of(arguments: &ReloadArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    let mut client = connect(socket)?;
    let (document, report) = reload::ask(&mut client, arguments)?;
    print(|out| {
        if arguments.output.json {
            writeln!(out, "{document}")?;
        } else {
            reload::show(out, &report)?;
        }
        Ok(())
    })?;
    reload::fault(&report).map_or(Ok(()), |fault| Err(Failure::Reload(fault)))
}

fn nics(act: impl FnOnce(&mut dyn Write) -> io::Result<Vec<BindError>>) -> Result<(), Failure> {
    let mut failed = Vec::new();
    print(|out| {
        failed = act(out)?;
        Ok(())
    })?;
    if failed.is_empty() { Ok(()) } else { Err(Failure::Bind(failed)) }
}

/// A configuration to look at, its name, and what the gateway that runs with it says.
struct Patient {
    source: Source,
    running: Option<Running>,
}

impl Patient {
    /// By the option; else what runs, wherever its configuration is; else the file where it usually is.
    fn find(arguments: &DoctorArguments, socket: Option<&PathBuf>) -> Result<Self, Failure> {
        let status = connect(socket.cloned()).and_then(|mut client| client.ask(&Request::Status {}));
        let status: Option<Status> = match status {
            Ok(status) => Some(status),
            // Whoever names neither file nor socket wants to know whatever there is.
            Err(ClientError::NotRunning { .. }) if arguments.config.is_some() || socket.is_none() => None,
            Err(_) if arguments.config.is_some() => None,
            Err(error) => return Err(error.into()),
        };
        let mut source = Source { config: arguments.config.clone(), port: Vec::new() };
        let running = status.map(|status| {
            if source.config.is_none() {
                source.config = status.config_file.map(PathBuf::from);
            }
            if source.config.is_none() {
                let ports = status.ports.iter().map(|port| format!("{}={}", port.name, port.device));
                source.port = ports.collect();
            }
            Running { hugepages: status.hugepages, overruns: status.conntrack.overruns }
        });
        if source.config.is_none() && source.port.is_empty() && Path::new(DEFAULT_CONFIG).exists() {
            source.config = Some(PathBuf::from(DEFAULT_CONFIG));
        }
        Ok(Self { source, running })
    }

    fn is_known(&self) -> bool {
        self.source.config.is_some() || !self.source.port.is_empty()
    }

    fn name(&self) -> &Path {
        if self.is_known() { name(&self.source) } else { Path::new("this machine") }
    }

    fn load(&self, socket: Option<PathBuf>) -> Result<Config, ConfigError> {
        if self.is_known() { load(&self.source, socket) } else { Config::without_ports(&Machine::this()) }
    }

    fn findings(&self, config: &Config, only: &[String]) -> Vec<Finding> {
        let mut found = doctor::findings(Host::this(), config, self.running.as_ref());
        found.extend(check::ruleset(config));
        if !self.is_known() {
            found.push(doctor::no_configuration(DEFAULT_CONFIG));
        }
        found.retain(|finding| only.is_empty() || only.iter().any(|name| name == finding.check));
        found.sort_by_key(|finding| finding.severity);
        found
    }
}

/// `flyover doctor`
fn examine(arguments: &DoctorArguments, socket: Option<PathBuf>) -> Result<(), Failure> {
    let patient = Patient::find(arguments, socket.as_ref())?;
    let json = arguments.output.json;
    let config = match patient.load(socket) {
        Ok(config) => config,
        Err(error) => {
            let finding = [Finding::config(&error)];
            if json {
                let dry = arguments.dry_run;
                print(|out| Ok(findings::write_doctor_json(out, false, &finding, &[], dry)?))?;
            }
            return Err(Failure::Config(error));
        }
    };
    let mut found = patient.findings(&config, &arguments.only);
    let mut fixes = Vec::new();
    if arguments.fix {
        fixes = mend::mend(&Host::this(), &found, arguments.dry_run);
        if !arguments.dry_run && !fixes.is_empty() {
            found = patient.findings(&config, &arguments.only);
        }
        mend::explain(&mut found, &fixes);
    }
    let failed = found.iter().any(|finding| finding.severity == Severity::Error);
    print(|out| {
        if json {
            return Ok(findings::write_doctor_json(out, !failed, &found, &fixes, arguments.dry_run)?);
        }
        mend::write(out, &fixes, arguments.dry_run)?;
        Ok(findings::write_all(out, patient.name(), &found)?)
    })?;
    if failed { Err(Failure::Check) } else { Ok(()) }
}

fn name(source: &Source) -> &Path {
    source.config.as_deref().unwrap_or(Path::new("--port"))
}
