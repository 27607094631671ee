//! The file as it is written, by TOML's types and with the place of each value.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::bounds::{
    self, CAPACITY, DEFAULT_DOMAIN, DEFAULT_EXPORT, DEFAULT_HOT, DEFAULT_IDLE_SLEEP, DEFAULT_MESSAGE_SIZE,
    DEFAULT_MODEL_CAPACITY, DEFAULT_REPROVE_EVERY, DEFAULT_REVALIDATE_WITHIN, DESCRIPTORS, DOMAIN, EXPORT,
    HOT, IDLE_SLEEP, MESSAGE_SIZE, MODEL_CAPACITY, MTU, OVERSIZE, PROVE, QUEUES,
};
use super::error::{ConfigError, Problem, nearest};
use super::source::Source;
use super::values::{Accelerate, Bind, Construct, LogFormat, LogLevel, Offload, Tier, TwinIo};
use super::{DEFAULT_CAPACITY, DEFAULT_SOCKET, MAX_INTERFACE_NAME};

// What stands above a key here is its text in docs/configuration.md, and `schemars` says there what it may be: see
// reference.rs.

#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    #[schemars(with = "Vec<RawPort>")]
    pub(super) port: Vec<Spanned<RawPort>>,
    pub(super) workers: RawWorkers,
    pub(super) flows: RawFlows,
    pub(super) policy: RawPolicy,
    pub(super) hardware: RawHardware,
    pub(super) api: RawApi,
    pub(super) metrics: RawMetrics,
    #[schemars(with = "RawIpfix")]
    pub(super) ipfix: Option<RawIpfix>,
    pub(super) log: RawLog,
}

/// A port: a DPDK device and the twin that stands for it in the kernel. One table a port, at least one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    /// The twin's interface name: no blanks, `/`, `:` or `%`.
    #[schemars(with = "String", length(min = 1, max = MAX_INTERFACE_NAME), extend("x-type" = "string of 1 to 15 bytes"))]
    pub(super) name: Spanned<String>,
    /// A PCI address (`0000:3b:00.0`), or a vdev with its arguments (`net_tap0,iface=uplink`):
    /// [which there are](operators-guide.md#ports-that-are-not-nics). No two ports share one.
    #[schemars(with = "String")]
    pub(super) device: Spanned<String>,
    /// The named network namespace (`ip netns list`) of a vdev's wire side. It must exist.
    #[schemars(with = "String", extend("x-default" = "this namespace"))]
    #[serde(default)]
    pub(super) netns: Option<Spanned<String>>,
    /// Receive queues: no more than workers, and than the device has. net_tap always has one a worker.
    #[schemars(with = "i64", range(min = *QUEUES.start(), max = *QUEUES.end()), extend("x-default" = "one a worker"))]
    #[serde(default)]
    pub(super) queues: Option<Spanned<i64>>,
    /// Descriptors of each queue, adjusted to what the device takes.
    #[schemars(with = "i64", range(min = *DESCRIPTORS.start(), max = *DESCRIPTORS.end()), extend("x-default" = "1024"))]
    #[serde(default)]
    pub(super) descriptors: Option<Spanned<i64>>,
    /// MTU in bytes, given to port and twin at the start. Packet buffers are sized for the largest of all ports, 1984 at
    /// least: for jumbo frames set it here, not later on the twin.
    #[schemars(with = "i64", range(min = *MTU.start(), max = *MTU.end()), extend("x-default" = "the twin's own"))]
    #[serde(default)]
    pub(super) mtu: Option<Spanned<i64>>,
    /// How frames go between twin and Flyover; `flyover ports --json` says which it is
    /// ([ADR 10](adr/0010-twins-by-vhost-net.md)).
    #[schemars(with = "TwinIo", extend("default" = TwinIo::Auto.name()))]
    #[serde(default)]
    pub(super) twin_io: Option<Spanned<String>>,
    /// Who takes a NIC from its kernel driver, and when it goes back. Vdevs have `"manual"` alone.
    #[schemars(with = "Bind", extend("default" = Bind::Manual.name()))]
    #[serde(default)]
    pub(super) bind: Option<Spanned<String>>,
}

/// The threads that carry packets.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorkers {
    /// A worker is pinned to each. They must be the process's to use (`taskset`, cpusets), each once. Every port needs a
    /// transmit queue for each.
    #[schemars(with = "Vec<i64>", extend("x-default" = "every core but the first; on one core, that one"))]
    pub(super) cores: Option<Spanned<Vec<Spanned<i64>>>>,
    /// How long a worker without packets sleeps at most: [latency after a
    /// pause](operators-guide.md#latency-after-a-pause). `"0"` never sleeps, and takes the whole core.
    #[schemars(with = "String", extend("x-type" = duration(&IDLE_SLEEP), "default" = text(DEFAULT_IDLE_SLEEP)))]
    pub(super) idle_sleep: Option<Spanned<String>>,
}

/// The flow table, and how often flows prove themselves.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFlows {
    /// Connections in the table; half of them may be IPv6. More stay in the kernel.
    #[schemars(with = "i64", range(min = *CAPACITY.start(), max = *CAPACITY.end()), extend("default" = DEFAULT_CAPACITY))]
    pub(super) capacity: Option<Spanned<i64>>,
    /// Within this time of an announced change every flow has proved itself again, or is the kernel's, or had no packet.
    /// Shorter: more probes at a time.
    #[schemars(with = "String", extend("x-type" = duration(&PROVE), "default" = text(DEFAULT_REVALIDATE_WITHIN)))]
    pub(super) revalidate_within: Option<Spanned<String>>,
    /// Each direction proves itself again this often even if nothing was announced. It bounds how long a silent change (an
    /// expired set element, say) goes unnoticed. Each proof costs one packet through the kernel.
    #[schemars(with = "String", extend("x-type" = duration(&PROVE), "default" = text(DEFAULT_REPROVE_EVERY)))]
    pub(super) reprove_every: Option<Spanned<String>>,
}

/// Which connections may fly: [policy](policy.md).
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    /// Which connections may fly.
    #[schemars(with = "Accelerate", extend("default" = Accelerate::Auto.name()))]
    pub(super) accelerate: Option<Spanned<String>>,
    /// Constructs of the ruleset that need not see each packet: [what they are](policy.md#what-is-recognised). Without it,
    /// what must see each packet keeps the connections that it can concern in the kernel.
    #[schemars(with = "Vec<Construct>", extend("default" = Vec::<String>::new()))]
    pub(super) accept_loss: Vec<Spanned<String>>,
    /// For `"marked"`: a connection is selected if `ct mark & MASK == VALUE`.
    #[schemars(with = "String", extend("x-type" = MARK, "default" = "0x10000/0x10000"))]
    pub(super) mark: Option<Spanned<String>>,
}

/// [The hardware path](hardware.md).
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHardware {
    /// Whether NICs may carry flows.
    #[schemars(with = "Offload", extend("default" = Offload::Auto.name()))]
    pub(super) offload: Option<Spanned<String>>,
    /// Packets a second from which on a direction may go into the NIC; below a tenth it comes out.
    #[schemars(with = "i64", range(min = *HOT.start(), max = *HOT.end()), extend("default" = DEFAULT_HOT))]
    pub(super) hot: Option<Spanned<i64>>,
    /// Only connections whose conntrack mark matches may go into the NIC: [how](policy.md#allowing-hardware).
    #[schemars(with = "String", extend("x-type" = MARK, "x-default" = "none: all may"))]
    pub(super) mark: Option<Spanned<String>>,
    /// Bytes by which packets that come in may be longer than the MTU of their port: [lengths](hardware.md#lengths). 0: the
    /// hosts and routers on your links keep to it.
    #[schemars(with = "i64", range(min = *OVERSIZE.start(), max = *OVERSIZE.end()), extend("x-default" = "what the NIC lets in, 8 at least"))]
    pub(super) oversize: Option<Spanned<i64>>,
    pub(super) model: RawModel,
}

/// The [model NIC](hardware.md#the-model-nic), for `offload = "model"`.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    /// What the model can do.
    #[schemars(with = "Tier", extend("default" = Tier::Full.name()))]
    pub(super) tier: Option<Spanned<String>>,
    /// The most rules of the model.
    #[schemars(
        with = "i64",
        range(min = *MODEL_CAPACITY.start(), max = *MODEL_CAPACITY.end()),
        extend("default" = DEFAULT_MODEL_CAPACITY)
    )]
    pub(super) capacity: Option<Spanned<i64>>,
    /// The model takes rules through queues, as mlx5 with `dv_flow_en=2` does; `false`: one call a rule, as most drivers do.
    #[schemars(with = "bool", extend("default" = true))]
    pub(super) queues: Option<bool>,
    /// Whether its rules can stand behind guards; else each is for one TTL.
    #[schemars(with = "bool", extend("default" = true))]
    pub(super) groups: Option<bool>,
    /// Whether packets go to another port by hairpin queues alone, as with mlx5 outside of switchdev mode.
    #[schemars(with = "bool", extend("default" = false))]
    pub(super) hairpin: Option<bool>,
    /// Whether its rules compare lengths, so that what is too long to leave goes to software.
    #[schemars(with = "bool", extend("default" = true))]
    pub(super) lengths: Option<bool>,
}

/// The socket at which `flyover status` and the like ask.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApi {
    /// Its path, of mode 0660. `--socket` wins over it.
    #[schemars(with = "String", extend("x-type" = "string, an absolute path of at most 107 bytes", "default" = DEFAULT_SOCKET))]
    pub(super) socket: Option<Spanned<String>>,
}

/// [Metrics](metrics.md) and health.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    /// Where they are served over HTTP, such as `"127.0.0.1:9477"`.
    #[schemars(with = "String", extend("x-type" = "string `ADDRESS:PORT`", "x-default" = "none: nowhere"))]
    pub(super) listen: Option<Spanned<String>>,
}

/// [Flow records](ipfix.md) for IPFIX collectors.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIpfix {
    /// Where they are sent, over UDP: each collector gets every record. IPv6 in brackets. Names are not looked up.
    #[schemars(with = "Vec<String>", extend("x-type" = "list of strings `ADDRESS:PORT`"))]
    pub(super) collectors: Spanned<Vec<Spanned<String>>>,
    /// Where messages come from. It may be an address that the gateway gets later.
    #[schemars(with = "String", extend("x-type" = "string, an address", "x-default" = "the kernel's choice"))]
    #[serde(default)]
    pub(super) source: Option<Spanned<String>>,
    /// A connection that goes on, and has carried something, has a record once in this time.
    #[schemars(with = "String", extend("x-type" = duration(&EXPORT), "default" = text(DEFAULT_EXPORT)))]
    #[serde(default)]
    pub(super) active_timeout: Option<Spanned<String>>,
    /// How often templates and the exporter's statistics are sent again. A collector that was restarted understands nothing
    /// until then.
    #[schemars(with = "String", extend("x-type" = duration(&EXPORT), "default" = text(DEFAULT_EXPORT)))]
    #[serde(default)]
    pub(super) template_interval: Option<Spanned<String>>,
    /// By which a collector tells several gateways apart that send from one address.
    #[schemars(with = "i64", range(min = *DOMAIN.start(), max = *DOMAIN.end()), extend("default" = DEFAULT_DOMAIN))]
    #[serde(default)]
    pub(super) observation_domain: Option<Spanned<i64>>,
    /// The most bytes of a message, without UDP and IP.
    #[schemars(
        with = "i64",
        range(min = *MESSAGE_SIZE.start(), max = *MESSAGE_SIZE.end()),
        extend("default" = DEFAULT_MESSAGE_SIZE)
    )]
    #[serde(default)]
    pub(super) message_size: Option<Spanned<i64>>,
    /// Also tell when each NAT44 session begins and ends. It costs the kernel 3.5 us for each new connection.
    #[schemars(with = "bool", extend("default" = false))]
    #[serde(default)]
    pub(super) nat_events: Option<bool>,
}

/// What is said on standard error, or in the journal.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// How much is said. `--log-level` wins over it.
    #[schemars(with = "LogLevel", extend("default" = LogLevel::Warn.name()))]
    pub(super) level: Option<Spanned<String>>,
    /// How it is said. `--log-format` wins over it.
    #[schemars(with = "LogFormat", extend("default" = LogFormat::Text.name()))]
    pub(super) format: Option<Spanned<String>>,
}

const MARK: &str = "string `VALUE/MASK`";

fn duration(range: &RangeInclusive<Duration>) -> String {
    format!("duration, {}", bounds::words(range))
}

fn text(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Reads TOML into its shape; says what is wrong in the words of the file.
pub(super) fn parse(source: &Source<'_>) -> Result<Raw, ConfigError> {
    let Source::File { text, .. } = *source else { return Ok(Raw::default()) };
    toml::from_str(text).map_err(|error| {
        let problem = explain(source, &error);
        match error.span() {
            Some(span) => source.fault_at(&span, problem),
            None => source.fault(problem),
        }
    })
}

/// Serde tells its errors apart by their words alone; what isn't recognised is passed on as it is.
fn explain(source: &Source<'_>, error: &toml::de::Error) -> Problem {
    let message = error.message();
    let span = error.span().unwrap_or(0..0);
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown_key(source, &span, rest);
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        let key = key.trim_matches('`').to_owned();
        let right = match key.as_str() {
            "collectors" => r#"add collectors = ["192.0.2.50:4739"], where the records are to be sent"#,
            "device" => r#"add device = "0000:3b:00.0" (a PCI address) or "net_tap0,iface=uplink" (a vdev)"#,
            _ => r#"add name = "wan0", the name of the twin interface"#,
        };
        return Problem::Missing { key, table: source.table(span.start), right: right.to_owned() };
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        return Problem::WrongType {
            key: source.key(span.start).map(str::to_owned),
            found: found.to_owned(),
            expected: type_name(expected).to_owned(),
        };
    }
    Problem::Syntax { message: message.replace('\n', ", ") }
}

fn unknown_key(source: &Source<'_>, span: &Range<usize>, rest: &str) -> Problem {
    let mut words = rest.split('`').skip(1).step_by(2);
    let key = words.next().unwrap_or(rest).to_owned();
    let valid: Vec<String> = words.map(str::to_owned).collect();
    let near = nearest(&key, valid.iter().map(String::as_str)).map(str::to_owned);
    // A table that doesn't exist is its own header: naming it twice would only confuse.
    let table = source.table(span.start).filter(|header| header.trim_matches(['[', ']', ' ']) != key);
    Problem::UnknownKey { key, table, near, valid }
}

fn type_name(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "a string" => "a string in quotes",
        "a sequence" => "a list in [ ]",
        text if text.starts_with("struct RawPort") => "a [[port]] table",
        text if text.starts_with("struct ") => "a table",
        other => other,
    }
}
