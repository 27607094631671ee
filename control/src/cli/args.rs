//! Commands and options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ColorChoice, Parser, Subcommand, ValueEnum};

use super::capture::duration;
use super::examples;
use crate::api::{FlowFilter, FlowState, Prefix};
use crate::config;
use crate::nics::{HANDED_OVER, VFIO};

/// Carries the packets of connections that the kernel has let through past it, at DPDK's speed.
///
/// The kernel's nftables ruleset, conntrack, NAT and routes stay the only policy. Exit codes: 0 well, 1 failed,
/// 2 wrong usage or configuration.
#[derive(Debug, Parser)]
#[command(name = "flyover", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    /// The gateway's API socket: which instance to ask, or where `run` listens [default: /run/flyover.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Whether to print in colour; `auto` does on a terminal, and heeds NO_COLOR and CLICOLOR_FORCE
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub color: ColorChoice,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground, until SIGTERM or SIGINT
    #[command(after_help = examples::RUN)]
    Run(RunArguments),
    /// Check a configuration and this machine without starting anything
    #[command(after_help = examples::CHECK)]
    Check(CheckArguments),
    /// Have the running gateway read its configuration again, and take over what can change at run time
    #[command(after_help = examples::RELOAD)]
    Reload(ReloadArguments),
    /// What of this machine, its kernel and its ruleset keeps a gateway from its best, and what mends it
    #[command(after_help = examples::DOCTOR)]
    Doctor(DoctorArguments),
    /// Take NICs from their kernel drivers, for DPDK
    #[command(after_help = examples::BIND)]
    Bind(BindArguments),
    /// Give NICs back to their kernel drivers
    #[command(after_help = examples::UNBIND)]
    Unbind(UnbindArguments),
    /// The gateway at a glance: readiness, connections by state, packets by path
    #[command(after_help = examples::STATUS)]
    Status(Shown),
    /// Ports and their twins: link, MAC, MTU, packets
    #[command(after_help = examples::PORTS)]
    Ports(Shown),
    /// Connections: both directions, state and why, packets, age
    #[command(after_help = examples::FLOWS)]
    Flows(FlowsArguments),
    /// Counters by worker, reason and punt thread
    #[command(after_help = examples::STATS)]
    Stats(Shown),
    /// What has happened at the gateway, the last of it, and what happens
    #[command(after_help = examples::EVENTS)]
    Events(EventsArguments),
    /// What ports' hardware can do and does, and the rules of a connection
    #[command(after_help = examples::HARDWARE)]
    Hardware(HardwareArguments),
    /// A live screen: ports, paths, workers, the busiest connections, events
    #[command(after_help = examples::TOP)]
    Top(TopArguments),
    /// Where a connection is, since when, and why not further
    #[command(after_help = examples::EXPLAIN)]
    Explain(ExplainArguments),
    /// What becomes of the next packets, step by step and why
    #[command(after_help = examples::TRACE)]
    Trace(TraceArguments),
    /// Packets at the ports, as pcapng for tcpdump and Wireshark: as they come in, leave, go to the kernel, or are dropped
    #[command(after_help = examples::CAPTURE)]
    Capture(CaptureArguments),
}

/// Where the ports and everything else are described.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("source").required(true).args(["config", "port"])))]
pub struct Source {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A port, instead of a file; may be repeated. DEVICE is a PCI address or a vdev with its arguments, as in
    /// `wan0=0000:3b:00.0` or `wan0=net_tap0,iface=uplink`
    #[arg(short, long, value_name = "NAME=DEVICE")]
    pub port: Vec<String>,
}

/// `flyover run`
#[derive(Args, Debug)]
pub struct RunArguments {
    /// Ports and settings.
    #[command(flatten)]
    pub source: Source,
    /// Never install the table `inet flyover`, which has the kernel track connections where nothing else in the
    /// ruleset does
    #[arg(long)]
    pub no_nft: bool,
    /// How much to say on standard error; goes before what the file says [default: warn]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// How to say it, likewise; under systemd `text` goes to the journal with its fields [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

impl From<LogFormat> for config::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What fails.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And what happens to ports and the ruleset.
    Info,
    /// And what happens to connections.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for config::LogLevel {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// `flyover events`
#[derive(Args, Debug)]
pub struct EventsArguments {
    /// Go on with what happens, until interrupted; with --json an object a line
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many of what has happened
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u64>,
    /// Nothing below this level
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub level: EventLevel,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `flyover top`
#[derive(Args, Debug)]
pub struct TopArguments {
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
}

impl TopArguments {
    /// Between two looks.
    pub const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }
}

/// `flyover trace`
#[derive(Args, Debug)]
pub struct TraceArguments {
    /// So many packets
    #[arg(short = 'n', long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub packets: u32,
    /// Wait no longer for them, as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Only packets that pass, as libpcap writes filters (man pcap-filter): `udp port 53`
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `flyover capture`
#[derive(Args, Debug)]
pub struct CaptureArguments {
    /// Where packets are written, as pcapng; - for standard output
    #[arg(short = 'w', long, value_name = "FILE")]
    pub write: PathBuf,
    /// Only by this port; may be repeated
    #[arg(short = 'i', long = "port", value_name = "PORT")]
    pub interface: Vec<String>,
    /// Where packets are captured
    #[arg(long, value_name = "POINTS", value_delimiter = ',', default_value = "rx,tx,punt,drop")]
    pub points: Vec<Point>,
    /// End after so many packets
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// No more than so many bytes of each packet
    #[arg(short = 's', long, value_name = "BYTES", default_value = "65535", value_parser = clap::value_parser!(u16).range(1..))]
    pub snaplen: u16,
    /// End after so long, as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Only packets that pass as they come in or as they leave, as libpcap writes filters (man pcap-filter)
    #[arg(value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Print a summary as JSON instead of text
    #[command(flatten)]
    pub output: Output,
}

impl CaptureArguments {
    /// Where packets are captured, each point once.
    pub fn points(&self) -> Vec<Point> {
        let all = [Point::Rx, Point::Tx, Point::Punt, Point::Drop];
        all.into_iter().filter(|point| self.points.contains(point)).collect()
    }
}

/// Where packets are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Point {
    /// As they come in.
    Rx,
    /// As they leave.
    Tx,
    /// As they are given to the kernel.
    Punt,
    /// As they are dropped.
    Drop,
}

/// From which level on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventLevel {
    /// What fails.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And what happens to ports and the ruleset.
    Info,
}

impl EventLevel {
    /// Whether events of a level, by its name, are wanted.
    pub fn includes(self, level: &str) -> bool {
        match self {
            Self::Error => level == "error",
            Self::Warn => level != "info",
            Self::Info => true,
        }
    }
}

/// `flyover check`
#[derive(Args, Debug)]
pub struct CheckArguments {
    /// Ports and settings.
    #[command(flatten)]
    pub source: Source,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `flyover reload`
#[derive(Args, Debug)]
pub struct ReloadArguments {
    /// Say what differs, and change nothing
    #[arg(long)]
    pub check: bool,
    /// Where something takes a restart, take over the rest nevertheless
    #[arg(long)]
    pub partial: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `flyover doctor`
#[derive(Args, Debug)]
pub struct DoctorArguments {
    /// Configuration file, instead of the one that the running gateway has read; without either
    /// /etc/flyover/flyover.toml, if it is there
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Mend what can be mended while everything runs: sysctls, hugepages, modules, the frequency governor. Nothing that
    /// decides what is forwarded, and nothing that outlives a restart of the machine
    #[arg(long)]
    pub fix: bool,
    /// With --fix: only say what it would do
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
    /// Only findings of this name, as JSON has it under `check`; may be repeated
    #[arg(long, value_name = "CHECK")]
    pub only: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `flyover bind`
#[derive(Args, Debug)]
pub struct BindArguments {
    /// PCI addresses of NICs, or the names of their interfaces
    #[arg(value_name = "DEVICE", required_unless_present = "status")]
    pub devices: Vec<String>,
    /// List the NICs instead, with what can be done
    #[arg(long, conflicts_with_all = ["devices", "force", "lose"])]
    pub status: bool,
    /// The driver that they get
    #[arg(long, value_name = "DRIVER", default_value = VFIO, value_parser = HANDED_OVER)]
    pub driver: String,
    /// Also those that are in use: with addresses, in a bond or bridge, below a VLAN
    #[arg(long)]
    pub force: bool,
    /// Also the NIC of this interface, by which the machine is reached: with the default route, or this SSH session
    #[arg(long, value_name = "INTERFACE")]
    pub lose: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// `flyover unbind`
#[derive(Args, Debug)]
pub struct UnbindArguments {
    /// PCI addresses of NICs
    #[arg(value_name = "DEVICE", required = true)]
    pub devices: Vec<String>,
    /// The kernel driver that they get, in place of the one that they were taken from
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// How to print.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How to print, and how often.
#[derive(Args, Clone, Copy, Debug)]
pub struct Shown {
    /// How to print.
    #[command(flatten)]
    pub output: Output,
    /// Again each second, or each so many seconds, until interrupted
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=86400)
    )]
    pub watch: Option<u64>,
}

impl Shown {
    /// Between two looks; none for one alone.
    pub fn pace(&self) -> Option<Duration> {
        self.watch.map(Duration::from_secs)
    }
}

/// `flyover hardware`
#[derive(Args, Debug)]
pub struct HardwareArguments {
    /// Show the rules of one connection instead, as testpmd takes them: `tcp 192.168.1.10:40000 192.0.2.1:443`
    #[arg(long, num_args = 3, value_names = ["PROTO", "SRC", "DST"])]
    pub rules: Vec<String>,
    /// How to print, and how often.
    #[command(flatten)]
    pub shown: Shown,
}

impl HardwareArguments {
    /// The connection whose rules are asked for.
    ///
    /// # Errors
    /// What would be right in place of what was given.
    pub fn connection(&self) -> Option<Result<(String, SocketAddr, SocketAddr), String>> {
        let [proto, src, dst] = self.rules.as_slice() else { return None };
        if !matches!(proto.as_str(), "tcp" | "udp") {
            return Some(Err(format!("{proto}: the protocol must be tcp or udp")));
        }
        let ends = endpoint(src).and_then(|from| Ok((from, endpoint(dst)?)));
        Some(ends.map(|(src, dst)| (proto.clone(), src, dst)))
    }
}

/// `flyover explain`
#[derive(Args, Debug)]
pub struct ExplainArguments {
    /// The protocol
    #[arg(value_name = "PROTO", value_parser = ["tcp", "udp"])]
    pub proto: String,
    /// Where a packet of the connection comes from, as the gateway receives it: 192.168.1.10:40000, or [fd00::10]:40000
    #[arg(value_name = "SRC", value_parser = endpoint)]
    pub src: SocketAddr,
    /// Where that packet is sent
    #[arg(value_name = "DST", value_parser = endpoint)]
    pub dst: SocketAddr,
    /// How to print, and how often.
    #[command(flatten)]
    pub shown: Shown,
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address and a port, as 192.0.2.1:443 or [2001:db8::1]:443".to_owned())
}

/// `flyover flows`
#[derive(Args, Debug)]
pub struct FlowsArguments {
    /// Only connections with this address at either end, before or after NAT; or with one of a network, as 192.0.2.0/24
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<Prefix>,
    /// Only connections with this L4 port at either end, before or after NAT
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only this protocol
    #[arg(long, value_name = "PROTO", value_parser = ["tcp", "udp"])]
    pub proto: Option<String>,
    /// Only this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<FlowState>,
    /// At most this many; with --sort 100 unless said otherwise
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// The first of all by this order, the most first
    #[arg(long, value_name = "ORDER")]
    pub sort: Option<Sort>,
    /// How to print, and how often.
    #[command(flatten)]
    pub shown: Shown,
}

/// By what connections are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Bits a second, over a second.
    Rate,
    /// Packets past the kernel.
    Packets,
    /// Bytes past the kernel.
    Bytes,
    /// How long they have been known.
    Age,
    /// How long they have had no packet.
    Idle,
}

impl FlowsArguments {
    /// Which flows to ask for.
    pub fn filter(&self) -> FlowFilter {
        let Self { address, port, state, .. } = *self;
        FlowFilter { proto: self.proto.clone(), address, port, state }
    }
}

fn state(text: &str) -> Result<FlowState, String> {
    FlowState::ALL.iter().copied().find(|state| state.name() == text).ok_or_else(|| {
        let names: Vec<_> = FlowState::ALL.iter().map(|state| state.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
