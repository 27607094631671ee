//! From what the file says to what it means: defaults, ranges, and what must not be there twice.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::bounds::{
    CAPACITY, DEFAULT_HOT, DEFAULT_IDLE_SLEEP, DEFAULT_MODEL_CAPACITY, DEFAULT_REPROVE_EVERY,
    DEFAULT_REVALIDATE_WITHIN, DESCRIPTORS, HOT, IDLE_SLEEP, MODEL_CAPACITY, MTU, OVERSIZE, PROVE, QUEUES,
};
use super::device::Device;
use super::error::{ConfigError, Problem};
use super::machine::Machine;
use super::raw::{Raw, RawFlows, RawHardware, RawLog, RawPolicy, RawPort, RawWorkers};
use super::source::Source;
use super::values::{self, Accelerate, Bind, Construct, LogFormat, LogLevel, Mark, Offload, Tier};
use super::{
    ApiConfig, Config, DEFAULT_CAPACITY, DEFAULT_SOCKET, FlowsConfig, HardwareConfig, LogConfig,
    MAX_INTERFACE_NAME, MAX_PORTS, MetricsConfig, ModelConfig, PolicyConfig, PortConfig, TwinIo,
    WorkersConfig,
};

/// `sun_path` without its terminator (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The meaning of a file.
pub(super) fn config(source: &Source<'_>, mut raw: Raw, machine: &Machine) -> Result<Config, ConfigError> {
    let mut ports = Ports::default();
    let given = std::mem::take(&mut raw.port);
    if let Some(beyond) = given.get(MAX_PORTS) {
        let problem = Problem::TooManyPorts { count: given.len(), most: MAX_PORTS };
        return Err(source.fault_at(&beyond.span(), problem));
    }
    for port in given {
        let span = port.span();
        ports.add(source, &span, port.into_inner(), machine)?;
    }
    if ports.done.is_empty() {
        return Err(source.fault(Problem::NoPort));
    }
    assemble(source, ports.done, &raw, machine)
}

/// The meaning of `--port` options.
pub(super) fn from_options<S: AsRef<str>>(options: &[S], machine: &Machine) -> Result<Config, ConfigError> {
    let mut ports = Ports::default();
    if let Some(beyond) = options.get(MAX_PORTS) {
        let problem = Problem::TooManyPorts { count: options.len(), most: MAX_PORTS };
        return Err(Source::PortOption(beyond.as_ref()).fault(problem));
    }
    for option in options {
        let source = Source::PortOption(option.as_ref());
        let (name, device) =
            option.as_ref().split_once('=').ok_or_else(|| source.fault(Problem::NotNameAndDevice))?;
        let text = |text: &str| Spanned::new(0..0, text.to_owned());
        let (name, device) = (text(name), text(device));
        let port = RawPort {
            name,
            device,
            netns: None,
            queues: None,
            descriptors: None,
            mtu: None,
            twin_io: None,
            bind: None,
        };
        ports.add(&source, &(0..0), port, machine)?;
    }
    let source = Source::PortOption("NAME=DEVICE");
    if ports.done.is_empty() {
        return Err(source.fault(Problem::NoPort));
    }
    assemble(&source, ports.done, &Raw::default(), machine)
}

/// The meaning of nothing at all.
pub(super) fn without_ports(machine: &Machine) -> Result<Config, ConfigError> {
    assemble(&Source::PortOption("NAME=DEVICE"), Vec::new(), &Raw::default(), machine)
}

fn assemble(
    source: &Source<'_>,
    ports: Vec<PortConfig>,
    raw: &Raw,
    machine: &Machine,
) -> Result<Config, ConfigError> {
    let socket = raw.api.socket.as_ref().map(|text| socket(source, text)).transpose()?;
    let config = Config {
        ports,
        workers: workers(source, &raw.workers, machine)?,
        flows: flows(source, &raw.flows)?,
        policy: policy(source, &raw.policy)?,
        hardware: hardware(source, &raw.hardware)?,
        api: ApiConfig { socket: socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)) },
        metrics: MetricsConfig {
            listen: raw.metrics.listen.as_ref().map(|text| listen(source, text)).transpose()?,
        },
        ipfix: raw.ipfix.as_ref().map(|raw| super::ipfix::resolve(source, raw)).transpose()?,
        log: log(source, &raw.log)?,
        notices: Vec::new(),
    };
    Ok(Config { notices: notices(&config), ..config })
}

/// What is accepted, and an operator should know of.
fn notices(config: &Config) -> Vec<String> {
    let mut notices = Vec::new();
    if let Some(listen) = config.metrics.listen.filter(|listen| !listen.ip().is_loopback()) {
        notices.push(format!(
            "metrics.listen = \"{listen}\": whoever reaches this address reads the gateway's counters, without a password"
        ));
    }
    notices
}

/// Ports as they are read, and where their names and devices stood.
#[derive(Default)]
struct Ports {
    done: Vec<PortConfig>,
    places: Vec<String>,
}

impl Ports {
    fn add(
        &mut self,
        source: &Source<'_>,
        span: &Range<usize>,
        raw: RawPort,
        machine: &Machine,
    ) -> Result<(), ConfigError> {
        let name = interface_name(source, "name", &raw.name)?;
        let device = Device::parse(raw.device.get_ref())
            .map_err(|right| value(source, "device", &raw.device, right))?;
        self.unique(source, &raw.name, "name", "each twin needs a name of its own", |port| {
            port.name == name
        })?;
        let device_name = device.name();
        self.unique(source, &raw.device, "device", "a device can be one port only", |port| {
            port.device.name() == device_name
        })?;
        let netns = raw.netns.map(|text| netns(source, &device, &text, machine)).transpose()?;
        if let Some(wire) = device.arg("iface").filter(|_| device.name().starts_with("net_tap")) {
            wire_name(source, &raw.device, &name, wire, netns.is_some())?;
        }
        let small = |key, range, value: Option<Spanned<i64>>| {
            value.map(|value| number(source, key, &value, range)).transpose()
        };
        let twin_io = raw.twin_io.map_or(Ok(TwinIo::Auto), |text| {
            TwinIo::parse(text.get_ref()).map_err(|right| value(source, "twin_io", &text, right))
        })?;
        let bind = raw.bind.map_or(Ok(Bind::Manual), |text| bind(source, &device, &text))?;
        self.places.push(source.earlier(span));
        self.done.push(PortConfig {
            queues: small("queues", QUEUES, raw.queues)?,
            descriptors: small("descriptors", DESCRIPTORS, raw.descriptors)?,
            mtu: small("mtu", MTU, raw.mtu)?,
            twin_io,
            bind,
            name,
            device,
            netns,
        });
        Ok(())
    }

    fn unique(
        &self,
        source: &Source<'_>,
        text: &Spanned<String>,
        key: &'static str,
        right: &'static str,
        same: impl Fn(&PortConfig) -> bool,
    ) -> Result<(), ConfigError> {
        let Some(index) = self.done.iter().position(same) else { return Ok(()) };
        let first = match self.places.get(index) {
            Some(place) => format!("the port of {place}"),
            None => "another port".to_owned(),
        };
        let value = format!("{:?}", text.get_ref());
        Err(source.fault_at(&text.span(), Problem::Duplicate { key, value, first, right }))
    }
}

fn bind(source: &Source<'_>, device: &Device, text: &Spanned<String>) -> Result<Bind, ConfigError> {
    let bind = Bind::parse(text.get_ref()).map_err(|right| value(source, "bind", text, right))?;
    if bind != Bind::Manual && device.is_vdev() {
        let right = "a vdev has no kernel driver to be taken from; leave the line out".to_owned();
        return Err(value(source, "bind", text, right));
    }
    Ok(bind)
}

/// A fault of a string's value.
pub(super) fn value(
    source: &Source<'_>,
    key: &'static str,
    text: &Spanned<String>,
    right: String,
) -> ConfigError {
    source.fault_at(&text.span(), Problem::Value { key, value: format!("{:?}", text.get_ref()), right })
}

/// The rules of `dev_valid_name` (net/core/dev.c), and no `%`, which would make the kernel number it.
fn interface_name(
    source: &Source<'_>,
    key: &'static str,
    text: &Spanned<String>,
) -> Result<String, ConfigError> {
    interface_fault(text.get_ref())
        .map_or_else(|| Ok(text.get_ref().clone()), |right| Err(value(source, key, text, right)))
}

fn interface_fault(name: &str) -> Option<String> {
    if name.is_empty() || name == "." || name == ".." {
        return Some("an interface needs a name, such as \"wan0\"".to_owned());
    }
    if name.len() > MAX_INTERFACE_NAME {
        let length = name.len();
        return Some(format!("{length} bytes long, but an interface name has at most {MAX_INTERFACE_NAME}"));
    }
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    let found = name.chars().find(|c| bad(*c))?;
    Some(format!("an interface name can't have {found:?} in it"))
}

/// The device that net_tap makes on the wire side lives beside the twin unless `netns` moves it.
fn wire_name(
    source: &Source<'_>,
    text: &Spanned<String>,
    twin: &str,
    wire: &str,
    moved: bool,
) -> Result<(), ConfigError> {
    if let Some(fault) = interface_fault(wire) {
        return Err(value(source, "device", text, format!("iface={wire}: {fault}")));
    }
    if wire == twin && !moved {
        let right =
            format!("the wire side can't be named {wire}, as the twin is: change iface= or set netns");
        return Err(value(source, "device", text, right));
    }
    Ok(())
}

fn netns(
    source: &Source<'_>,
    device: &Device,
    text: &Spanned<String>,
    machine: &Machine,
) -> Result<String, ConfigError> {
    let name = text.get_ref();
    if !device.is_vdev() {
        let right = format!("only a vdev's wire side can be in another namespace, and {device} is a NIC");
        return Err(value(source, "netns", text, right));
    }
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        let right = "it must be the name of a namespace, as `ip netns list` shows it".to_owned();
        return Err(value(source, "netns", text, right));
    }
    if !machine.netns.join(name).exists() {
        let right = format!("there is no such namespace; make it with: ip netns add {name}");
        return Err(value(source, "netns", text, right));
    }
    Ok(name.clone())
}

pub(super) fn number<T: TryFrom<i64>>(
    source: &Source<'_>,
    key: &'static str,
    number: &Spanned<i64>,
    range: RangeInclusive<i64>,
) -> Result<T, ConfigError> {
    let value = *number.get_ref();
    T::try_from(value).ok().filter(|_| range.contains(&value)).ok_or_else(|| {
        let right = format!("it must be from {} to {}", range.start(), range.end());
        source.fault_at(&number.span(), Problem::Value { key, value: value.to_string(), right })
    })
}

pub(super) fn duration(
    source: &Source<'_>,
    key: &'static str,
    text: Option<&Spanned<String>>,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    values::duration(text.get_ref(), *range.start(), *range.end())
        .map_err(|right| value(source, key, text, right))
}

fn workers(source: &Source<'_>, raw: &RawWorkers, machine: &Machine) -> Result<WorkersConfig, ConfigError> {
    let idle_sleep = duration(source, "idle_sleep", raw.idle_sleep.as_ref(), DEFAULT_IDLE_SLEEP, IDLE_SLEEP)?;
    let Some(list) = &raw.cores else {
        return Ok(WorkersConfig { cores: machine.default_workers(), idle_sleep });
    };
    let fault = |span: &Range<usize>, right: String| {
        let value = source.text(span).unwrap_or("[]").to_owned();
        source.fault_at(span, Problem::Value { key: "cores", value, right })
    };
    if list.get_ref().is_empty() {
        return Err(fault(
            &list.span(),
            "at least one core must work; leave the line out for all but the first".into(),
        ));
    }
    let mut cores = Vec::new();
    for core in list.get_ref() {
        let number = u16::try_from(*core.get_ref()).ok().filter(|core| machine.cores.contains(core));
        let number = number.ok_or_else(|| {
            fault(&core.span(), format!("this process may use the cores {}", machine.cores_text()))
        })?;
        if cores.contains(&number) {
            return Err(fault(&core.span(), "the core is in the list already: one worker a core".into()));
        }
        cores.push(number);
    }
    Ok(WorkersConfig { cores, idle_sleep })
}

fn flows(source: &Source<'_>, raw: &RawFlows) -> Result<FlowsConfig, ConfigError> {
    let capacity =
        raw.capacity.as_ref().map(|capacity| number(source, "capacity", capacity, CAPACITY)).transpose()?;
    let time =
        |key, text: &Option<Spanned<String>>, default| duration(source, key, text.as_ref(), default, PROVE);
    Ok(FlowsConfig {
        capacity: capacity.unwrap_or(DEFAULT_CAPACITY),
        revalidate_within: time("revalidate_within", &raw.revalidate_within, DEFAULT_REVALIDATE_WITHIN)?,
        reprove_every: time("reprove_every", &raw.reprove_every, DEFAULT_REPROVE_EVERY)?,
    })
}

fn policy(source: &Source<'_>, raw: &RawPolicy) -> Result<PolicyConfig, ConfigError> {
    let accelerate = match &raw.accelerate {
        None => Accelerate::Auto,
        Some(text) => {
            Accelerate::parse(text.get_ref()).map_err(|right| value(source, "accelerate", text, right))?
        }
    };
    let construct = |text: &Spanned<String>| {
        Construct::parse(text.get_ref()).map_err(|right| value(source, "accept_loss", text, right))
    };
    Ok(PolicyConfig {
        accelerate,
        accept_loss: raw.accept_loss.iter().map(construct).collect::<Result<_, _>>()?,
        mark: raw.mark.as_ref().map_or(Ok(Mark::default()), |text| mark(source, text))?,
    })
}

fn mark(source: &Source<'_>, text: &Spanned<String>) -> Result<Mark, ConfigError> {
    Mark::parse(text.get_ref()).map_err(|right| value(source, "mark", text, right))
}

fn hardware(source: &Source<'_>, raw: &RawHardware) -> Result<HardwareConfig, ConfigError> {
    let offload = raw.offload.as_ref().map_or(Ok(Offload::Auto), |text| {
        Offload::parse(text.get_ref()).map_err(|right| value(source, "offload", text, right))
    })?;
    let tier = raw.model.tier.as_ref().map_or(Ok(Tier::Full), |text| {
        Tier::parse(text.get_ref()).map_err(|right| value(source, "tier", text, right))
    })?;
    let count = |key, given: &Option<Spanned<i64>>, range, default| {
        given.as_ref().map_or(Ok(default), |given| number(source, key, given, range))
    };
    Ok(HardwareConfig {
        offload,
        hot: count("hot", &raw.hot, HOT, DEFAULT_HOT)?,
        mark: raw.mark.as_ref().map(|text| mark(source, text)).transpose()?,
        oversize: raw
            .oversize
            .as_ref()
            .map(|given| number(source, "oversize", given, OVERSIZE))
            .transpose()?,
        model: ModelConfig {
            tier,
            capacity: count("capacity", &raw.model.capacity, MODEL_CAPACITY, DEFAULT_MODEL_CAPACITY)?,
            queues: raw.model.queues.unwrap_or(true),
            groups: raw.model.groups.unwrap_or(true),
            hairpin: raw.model.hairpin.unwrap_or(false),
            lengths: raw.model.lengths.unwrap_or(true),
        },
    })
}

fn log(source: &Source<'_>, raw: &RawLog) -> Result<LogConfig, ConfigError> {
    Ok(LogConfig {
        level: raw.level.as_ref().map_or(Ok(LogLevel::Warn), |text| {
            LogLevel::parse(text.get_ref()).map_err(|right| value(source, "level", text, right))
        })?,
        format: raw.format.as_ref().map_or(Ok(LogFormat::Text), |text| {
            LogFormat::parse(text.get_ref()).map_err(|right| value(source, "format", text, right))
        })?,
    })
}

fn socket(source: &Source<'_>, text: &Spanned<String>) -> Result<PathBuf, ConfigError> {
    let path = Path::new(text.get_ref());
    let right = if !path.is_absolute() {
        "it must be an absolute path, such as \"/run/flyover.sock\"".to_owned()
    } else if text.get_ref().len() > MAX_SOCKET_PATH {
        format!("a Unix socket's path has at most {MAX_SOCKET_PATH} bytes")
    } else if text.get_ref().contains('\0') || text.get_ref().ends_with('/') {
        "it must be the path of a file".to_owned()
    } else {
        return Ok(path.to_owned());
    };
    Err(value(source, "socket", text, right))
}

fn listen(source: &Source<'_>, text: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
    text.get_ref().parse().map_err(|_| {
        let right = "it must be an address and a port, such as \"127.0.0.1:9477\" or \"[::1]:9477\"";
        value(source, "listen", text, right.to_owned())
    })
}
