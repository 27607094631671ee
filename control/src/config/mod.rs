//! The gateway's configuration: a TOML file or `--port` options, checked until nothing in it can surprise.
//!
//! [`Config`] holds values in their final types. What a file says wrong ends in one [`ConfigError`] that names
//! file, line, column and value, and says what would be right.

mod bounds;
mod device;
mod difference;
mod error;
mod ipfix;
mod keys;
mod machine;
mod overrides;
mod raw;
mod reference;
mod resolve;
mod source;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use device::{Device, PciAddress, VDEV_DRIVERS};
pub use difference::{Change, Difference, Fixed};
pub use error::{ConfigError, Place, Problem};
pub use keys::{KEYS, Key, PORT_KEYS, When};
pub use machine::Machine;
pub use overrides::Overrides;
pub use reference::reference;
pub use values::{Accelerate, Bind, Construct, LogFormat, LogLevel, Mark, Offload, Tier, TwinIo};

/// Where the gateway listens for `flyover status` and the like, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/flyover.sock";
/// Where the configuration is unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/flyover/flyover.toml";
/// Connections that the flow table holds unless told otherwise.
pub const DEFAULT_CAPACITY: u32 = 1 << 20;
/// Most connections that a flow table may be made for: two cache lines each way at most, so 16 GiB with IPv6.
pub const MAX_CAPACITY: u32 = 1 << 26;
/// Longest name of a network interface in bytes (IFNAMSIZ less the terminator).
pub const MAX_INTERFACE_NAME: usize = 15;
/// Most ports of a gateway: DPDK's own limit.
pub const MAX_PORTS: usize = dataplane::flow::MAX_PORTS;
/// Most receive and transmit queues of one port.
pub const MAX_QUEUES: u16 = 256;
/// Longest config file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The ports, at least one, in the order of the file; names and devices are unique.
    pub ports: Vec<PortConfig>,
    /// Worker cores.
    pub workers: WorkersConfig,
    /// The flow table and how often flows prove themselves.
    pub flows: FlowsConfig,
    /// Which flows may fly.
    pub policy: PolicyConfig,
    /// The hardware path.
    pub hardware: HardwareConfig,
    /// The API socket.
    pub api: ApiConfig,
    /// Metrics.
    pub metrics: MetricsConfig,
    /// Flow records, if there is a collector for them.
    pub ipfix: Option<IpfixConfig>,
    /// What is said, and how.
    pub log: LogConfig,
    /// What the file asks for and this version accepts without effect, a sentence each.
    pub notices: Vec<String>,
}

/// A port: a DPDK device and the name of its twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The twin's interface name.
    pub name: String,
    /// The DPDK device.
    pub device: Device,
    /// Named network namespace (`/run/netns/NAME`) of a vdev's wire side.
    pub netns: Option<String>,
    /// Receive and transmit queues; by default one a worker.
    pub queues: Option<u16>,
    /// Descriptors of each queue; by default what the driver prefers.
    pub descriptors: Option<u16>,
    /// MTU that the twin gets at start; by default the twin's own is left as it is.
    pub mtu: Option<u16>,
    /// How the twin's frames are carried.
    pub twin_io: TwinIo,
    /// Who takes a NIC from its kernel driver, and when it goes back.
    pub bind: Bind,
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersConfig {
    /// Core of each worker: not empty, no duplicates, all of them this process's to use.
    pub cores: Vec<u16>,
    /// How long a worker that finds nothing to do sleeps at most: the latency that it adds to the first
    /// packet after idleness. Zero polls without pause and keeps the core at 100 %.
    pub idle_sleep: Duration,
}

/// `[flows]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsConfig {
    /// Connections that the table holds.
    pub capacity: u32,
    /// Within this time of an announced change every flow has proved itself again or is the kernel's.
    pub revalidate_within: Duration,
    /// Every flow proves itself again this often even if nothing was announced.
    pub reprove_every: Duration,
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Which connections may fly.
    pub accelerate: Accelerate,
    /// Constructs of the ruleset that need not see each packet of a flow.
    pub accept_loss: Vec<Construct>,
    /// The conntrack mark that selects flows with [`Accelerate::Marked`].
    pub mark: Mark,
}

/// `[hardware]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareConfig {
    /// Whether NICs may carry flows.
    pub offload: Offload,
    /// Packets a second from which on a direction may go into the NIC.
    pub hot: u32,
    /// The conntrack mark of connections that may go into the NIC; none: all.
    pub mark: Option<Mark>,
    /// By as many bytes packets without tags may be longer than the MTU of the port that they come in by; none: as the NIC
    /// says, and 8 at least.
    pub oversize: Option<u16>,
    /// The model NIC, for [`Offload::Model`].
    pub model: ModelConfig,
}

/// `[hardware.model]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// What it can do.
    pub tier: Tier,
    /// The most rules at a time.
    pub capacity: u32,
    /// Whether rules go through queues.
    pub queues: bool,
    /// Whether rules can be grouped behind guards.
    pub groups: bool,
    /// Whether packets go to another port by hairpin queues alone.
    pub hairpin: bool,
    /// Whether rules compare lengths.
    pub lengths: bool,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Address of the HTTP listener, if one is asked for.
    pub listen: Option<SocketAddr>,
}

/// `[ipfix]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpfixConfig {
    /// Where records are sent, over UDP: not empty, no duplicates.
    pub collectors: Vec<SocketAddr>,
    /// The address that they come from, of the collectors' family; by default the kernel's choice.
    pub source: Option<IpAddr>,
    /// How often a connection that goes on has a record.
    pub active_timeout: Duration,
    /// How often templates are sent again.
    pub template_interval: Duration,
    /// By which collectors tell gateways apart that send from one address.
    pub observation_domain: u32,
    /// The most bytes of a message.
    pub message_size: u16,
    /// Whether the beginning and the end of each NAT44 session is told.
    pub nat_events: bool,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// How much.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

impl Config {
    /// Reads and checks a file against this machine's cores and namespaces.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &source::read(path)?, &Machine::this())
    }

    /// Checks the text of a file; `path` is for error messages alone.
    pub fn parse(path: &Path, text: &str, machine: &Machine) -> Result<Self, ConfigError> {
        let source = source::Source::new(path, text);
        resolve::config(&source, raw::parse(&source)?, machine)
    }

    /// A configuration without ports, everything by default: for what any gateway needs.
    pub fn without_ports(machine: &Machine) -> Result<Self, ConfigError> {
        resolve::without_ports(machine)
    }

    /// The configuration of `--port NAME=DEVICE` options, everything else by default.
    pub fn from_ports<S: AsRef<str>>(options: &[S], machine: &Machine) -> Result<Self, ConfigError> {
        resolve::from_options(options, machine)
    }
}

#[cfg(test)]
mod tests;
