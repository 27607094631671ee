//! Every key of a configuration: its value in words, and whether it can change while the gateway runs.
//!
//! A key that is missing here fails a test, which finds out about all that the parser takes.

use std::time::Duration;

use super::{Config, Mark, PortConfig};

/// When a change takes effect.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// With the reload.
    AtRunTime,
    /// With the reload: the port is taken away and added again, and its flows start anew.
    PortAnew,
    /// With a restart, for this reason. The function leaves in the first configuration what the second one has.
    Restart(&'static str, fn(&mut Config, &Config)),
    /// With a restart, for this reason, as a key of a port that stays.
    PortRestart(&'static str),
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// As in `flows.capacity`.
    pub name: &'static str,
    /// When its change takes effect.
    pub when: When,
    /// Its value as it may be written in a file; none: not set.
    pub value: fn(&Config) -> Option<String>,
}

/// A key of a `[[port]]`.
#[derive(Debug)]
pub struct PortKey {
    /// As in `device`.
    pub name: &'static str,
    /// When its change takes effect.
    pub when: When,
    /// Its value as it may be written in a file; none: not set.
    pub value: fn(&PortConfig) -> Option<String>,
}

pub(super) const TAKEN: &str = "NICs are taken from their kernel drivers at the start";
const AT_START: &str = "workers are made at the start, each with a queue of every port";
const TABLE: &str = "the flow table is made at the start";
const PROBED: &str = "NICs are set up for rules, and probed, at the start";
const MODEL: &str = "the model NIC is made at the start";
const SOCKET: &str = "whoever asks would have to know the new one";
const SENDING: &str = "collectors know connections by what they were told since the start";
const FORMAT: &str = "whoever reads the log expects it to stay what it is";

/// A restart, for a key whose value is this field.
macro_rules! restart {
    ($why:expr, $($field:ident).+) => {
        When::Restart($why, |to, of| to.$($field).+.clone_from(&of.$($field).+))
    };
}

/// Keys of sections, by section.
pub const KEYS: &[Key] = &[
    key("workers.cores", restart!(AT_START, workers.cores), |c| Some(format!("{:?}", c.workers.cores))),
    key("workers.idle_sleep", When::AtRunTime, |c| Some(time(c.workers.idle_sleep))),
    key("flows.capacity", restart!(TABLE, flows.capacity), |c| Some(c.flows.capacity.to_string())),
    key("flows.revalidate_within", When::AtRunTime, |c| Some(time(c.flows.revalidate_within))),
    key("flows.reprove_every", When::AtRunTime, |c| Some(time(c.flows.reprove_every))),
    key("policy.accelerate", When::AtRunTime, |c| Some(quoted(c.policy.accelerate.name()))),
    key("policy.accept_loss", When::AtRunTime, |c| {
        let names: Vec<_> = c.policy.accept_loss.iter().map(|construct| construct.name()).collect();
        Some(format!("{names:?}"))
    }),
    key("policy.mark", When::AtRunTime, |c| Some(mark(c.policy.mark))),
    key("hardware.offload", restart!(PROBED, hardware.offload), |c| Some(quoted(c.hardware.offload.name()))),
    key("hardware.hot", When::AtRunTime, |c| Some(c.hardware.hot.to_string())),
    key("hardware.mark", When::AtRunTime, |c| c.hardware.mark.map(mark)),
    key("hardware.model.tier", restart!(MODEL, hardware.model.tier), |c| {
        Some(quoted(c.hardware.model.tier.name()))
    }),
    key("hardware.model.capacity", restart!(MODEL, hardware.model.capacity), |c| {
        Some(c.hardware.model.capacity.to_string())
    }),
    key("hardware.model.queues", restart!(MODEL, hardware.model.queues), |c| {
        Some(c.hardware.model.queues.to_string())
    }),
    key("hardware.model.groups", restart!(MODEL, hardware.model.groups), |c| {
        Some(c.hardware.model.groups.to_string())
    }),
    key("hardware.model.hairpin", restart!(MODEL, hardware.model.hairpin), |c| {
        Some(c.hardware.model.hairpin.to_string())
    }),
    key("hardware.model.lengths", restart!(MODEL, hardware.model.lengths), |c| {
        Some(c.hardware.model.lengths.to_string())
    }),
    key("hardware.oversize", restart!(PROBED, hardware.oversize), |c| {
        c.hardware.oversize.map(|bytes| bytes.to_string())
    }),
    key("api.socket", restart!(SOCKET, api.socket), |c| Some(quoted(&c.api.socket.display().to_string()))),
    key("metrics.listen", When::AtRunTime, |c| c.metrics.listen.map(|listen| quoted(&listen.to_string()))),
    // The keys of a table that may be missing go together.
    key("ipfix.collectors", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref().map(|ipfix| {
            let collectors: Vec<_> = ipfix.collectors.iter().map(ToString::to_string).collect();
            format!("{collectors:?}")
        })
    }),
    key("ipfix.source", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref()?.source.map(|source| quoted(&source.to_string()))
    }),
    key("ipfix.active_timeout", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref().map(|ipfix| time(ipfix.active_timeout))
    }),
    key("ipfix.template_interval", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref().map(|ipfix| time(ipfix.template_interval))
    }),
    key("ipfix.observation_domain", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref().map(|ipfix| ipfix.observation_domain.to_string())
    }),
    key("ipfix.message_size", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref().map(|ipfix| ipfix.message_size.to_string())
    }),
    key("ipfix.nat_events", restart!(SENDING, ipfix), |c| {
        c.ipfix.as_ref().map(|ipfix| ipfix.nat_events.to_string())
    }),
    key("log.level", When::AtRunTime, |c| Some(quoted(c.log.level.name()))),
    key("log.format", restart!(FORMAT, log.format), |c| Some(quoted(c.log.format.name()))),
];

/// Keys of a port. A port is known by its name: under another it is another port.
pub const PORT_KEYS: &[PortKey] = &[
    port_key("name", When::PortAnew, |p| Some(quoted(&p.name))),
    port_key("device", When::PortAnew, |p| Some(quoted(&p.device.to_string()))),
    port_key("netns", When::PortAnew, |p| p.netns.as_deref().map(quoted)),
    port_key("queues", When::PortAnew, |p| p.queues.map(|queues| queues.to_string())),
    port_key("descriptors", When::PortAnew, |p| p.descriptors.map(|descriptors| descriptors.to_string())),
    port_key("mtu", When::AtRunTime, |p| p.mtu.map(|mtu| mtu.to_string())),
    port_key("twin_io", When::PortAnew, |p| Some(quoted(p.twin_io.name()))),
    port_key("bind", When::PortRestart(TAKEN), |p| Some(quoted(p.bind.name()))),
];

const fn key(name: &'static str, when: When, value: fn(&Config) -> Option<String>) -> Key {
    Key { name, when, value }
}

const fn port_key(name: &'static str, when: When, value: fn(&PortConfig) -> Option<String>) -> PortKey {
    PortKey { name, when, value }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn time(duration: Duration) -> String {
    quoted(&humantime::format_duration(duration).to_string())
}

fn mark(mark: Mark) -> String {
    quoted(&format!("{:#x}/{:#x}", mark.value, mark.mask))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Machine, Problem};

    fn problem(text: &str) -> Problem {
        let machine = Machine { cores: vec![0], netns: "/nowhere".into() };
        *Config::parse(Path::new("x"), text, &machine).expect_err(text).problem
    }

    /// All keys that the parser takes below a table, found by a key which it does not take: the error names those.
    fn taken_below(table: &str, header: &dyn Fn(&str) -> String) -> Vec<String> {
        let Problem::UnknownKey { valid, .. } = problem(&format!("{}\nno_such_key = 1\n", header(table)))
        else {
            panic!("{table}")
        };
        valid
    }

    fn walk(table: &str, found: &mut Vec<String>) {
        let header = |table: &str| if table.is_empty() { String::new() } else { format!("[{table}]") };
        for key in taken_below(table, &header) {
            let name = if table.is_empty() { key } else { format!("{table}.{key}") };
            if name == "port" {
                found.extend(
                    taken_below("port", &|_| "[[port]]".to_owned())
                        .into_iter()
                        .map(|key| format!("port.{key}")),
                );
            } else if let Problem::UnknownKey { .. } = problem(&format!("[{name}]\nno_such_key = 1\n")) {
                walk(&name, found);
            } else {
                found.push(name);
            }
        }
    }

    #[test]
    fn every_key_that_the_parser_takes_is_told_whether_it_can_change() {
        let mut taken = Vec::new();
        walk("", &mut taken);
        let mut told: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        told.extend(PORT_KEYS.iter().map(|key| format!("port.{}", key.name)));
        taken.sort();
        told.sort();
        assert_eq!(taken, told);
        assert!(taken.len() >= 27, "{taken:?}");
    }

    #[test]
    fn values_are_written_as_a_file_takes_them() {
        let machine = Machine { cores: vec![0], netns: "/nowhere".into() };
        let port = "[[port]]\nname = \"a\"\ndevice = \"net_tap0\"\n";
        let optional = "hardware.oversize = 4\nhardware.mark = \"1/3\"\nmetrics.listen = \"[::1]:9477\"\n\
                        ipfix = { collectors = [\"192.0.2.1:4739\", \"[2001:db8::1]:4739\"], \
                        active_timeout = \"90s\", nat_events = true }\n";
        for before in ["", optional] {
            // Before the table of the port, which would take them in.
            let config = Config::parse(Path::new("x"), &format!("{before}{port}"), &machine).expect("good");
            let line = |key: &Key| Some(format!("{} = {}\n", key.name, (key.value)(&config)?));
            let text: String = KEYS.iter().filter_map(line).collect();
            let again = Config::parse(Path::new("x"), &format!("{text}{port}"), &machine).expect("good");
            assert_eq!(again, config);
        }
    }
}
