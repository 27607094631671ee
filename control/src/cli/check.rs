//! `flyover check`: whether this machine can run a configuration, and what would make it better.

use std::fs;
use std::io::ErrorKind;

use super::findings::{Finding, Severity};
use super::mend::Mend;
use crate::config::{Config, PortConfig};
use crate::host::Host;

mod flowtable;
mod hugepages;
mod kernel_device;
mod nic;
mod ruleset;

pub(super) use flowtable::FlowtableReference;
pub(super) use ruleset::RuleReference;

/// Capabilities by their bit (capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// `IFF_TAP` and `IFF_MULTI_QUEUE` of if_tun.h, as `tun_flags` in sysfs shows them.
const IFF_TAP: u32 = 0x0002;
const IFF_MULTI_QUEUE: u32 = 0x0100;

/// What this machine lacks for a configuration, the worst first.
pub fn machine(config: &Config) -> Vec<Finding> {
    of_host(Host::this(), config, None)
}

/// The same of any machine, and of one where the configuration's gateway runs.
pub(super) fn of_host(host: Host<'_>, config: &Config, running: Option<&Running>) -> Vec<Finding> {
    Checks { host, running }.findings(config)
}

/// What a gateway that runs says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    /// Packet memory is in hugepages.
    pub(super) hugepages: bool,
    /// Times that conntrack's events were lost.
    pub(super) overruns: u64,
}

/// What of the running ruleset, and of what else the kernel does with packets, concerns connections that fly.
pub(super) fn ruleset(config: &Config) -> Vec<Finding> {
    ruleset::Kernel::read(config).findings(config)
}

struct Checks<'a> {
    host: Host<'a>,
    running: Option<&'a Running>,
}

impl Checks<'_> {
    fn findings(&self, config: &Config) -> Vec<Finding> {
        let mut found = Vec::new();
        // Whatever runs had what it takes to start.
        if self.running.is_none() {
            found.extend(self.tun());
            found.extend(self.privileges(config));
        }
        for port in &config.ports {
            found.extend(self.twin(port));
            found.extend(self.wire(port));
            found.extend(nic::finding(&self.host, port));
            found.extend(kernel_device::findings(port, &|words| self.host.run(words).ok()));
        }
        found.extend(self.conntrack());
        found.extend(self.forwarding());
        found.extend(hugepages::finding(&self.host, config, self.running));
        found.extend(config.notices.iter().map(|notice| {
            finding(Severity::Warning, "config", notice.clone(), "the setting has no effect", None)
        }));
        found.sort_by_key(|finding| finding.severity);
        found
    }

    fn read(&self, path: &str) -> Option<String> {
        self.host.read(path)
    }

    fn tun(&self) -> Option<Finding> {
        let error = fs::File::options().read(true).write(true).open(self.host.path("dev/net/tun")).err()?;
        let fix = match error.kind() {
            ErrorKind::PermissionDenied => "chmod 0666 /dev/net/tun",
            _ => "modprobe tun  (in a container: start it with --device /dev/net/tun)",
        };
        let why = "twins are taps, made through this device";
        Some(finding(
            Severity::Error,
            "tun",
            format!("/dev/net/tun can't be opened: {error}"),
            why,
            Some(fix),
        ))
    }

    fn privileges(&self, config: &Config) -> Vec<Finding> {
        let capabilities = self.read("proc/self/status").and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim().to_owned();
            u64::from_str_radix(&line, 16).ok()
        });
        let Some(capabilities) = capabilities else { return Vec::new() };
        let lacks = |bit: u32| capabilities >> bit & 1 == 0;
        let mut found = Vec::new();
        if lacks(CAP_NET_ADMIN) {
            let why = "twins, conntrack and neighbours are managed with it";
            let fix = "run as root, or with AmbientCapabilities=CAP_NET_ADMIN in the unit, or inside `unshare -Urn`";
            let what = "CAP_NET_ADMIN is missing".to_owned();
            found.push(finding(Severity::Error, "privileges", what, why, Some(fix)));
        }
        if lacks(CAP_SYS_ADMIN) && config.ports.iter().any(|port| port.netns.is_some()) {
            let why = "a port's wire side is put into another network namespace with it (setns)";
            let what = "CAP_SYS_ADMIN is missing, and a port has `netns`".to_owned();
            found.push(finding(Severity::Error, "privileges", what, why, Some("run as root")));
        }
        found
    }

    /// Flags of a tun device; `None` for another kind of interface. sysfs may show another namespace than
    /// this process's: then the index differs and nothing can be said.
    fn tun_flags(&self, name: &str, index: u32) -> Result<Option<u32>, ()> {
        let shown = self.read(&format!("sys/class/net/{name}/ifindex"));
        if shown != Some(index.to_string()) {
            return Err(());
        }
        let flags = self.read(&format!("sys/class/net/{name}/tun_flags"));
        Ok(flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()))
    }

    fn twin(&self, port: &PortConfig) -> Option<Finding> {
        let name = &port.name;
        let flags = self.tun_flags(name, self.host.index_of(name)?).ok()?;
        match flags {
            Some(flags) if flags & IFF_TAP != 0 && flags & IFF_MULTI_QUEUE != 0 => None,
            Some(flags) if flags & IFF_TAP != 0 => Some(finding(
                Severity::Error,
                "twin",
                format!("the tap {name} has a single queue"),
                "a twin is a multi-queue tap, and the kernel can't change one into the other",
                Some(&format!("ip link delete {name}  (its addresses and routes go with it)")),
            )),
            _ => Some(finding(
                Severity::Error,
                "twin",
                format!("the name {name} is in use by an interface that is not a tap"),
                "the port's twin gets this name",
                Some(&format!("ip link set {name} down && ip link set {name} name {}", spare(name))),
            )),
        }
    }

    /// net_tap's own interface, where it stays in this namespace.
    fn wire(&self, port: &PortConfig) -> Option<Finding> {
        let name = port.device.arg("iface").filter(|_| port.netns.is_none())?;
        if !port.device.name().starts_with("net_tap") {
            return None;
        }
        match self.tun_flags(name, self.host.index_of(name)?).ok()? {
            Some(_) => None,
            None => Some(finding(
                Severity::Error,
                "device",
                format!("{}: the name {name} is in use by an interface that is not a tap", port.name),
                "net_tap makes the wire side under this name",
                Some("choose another iface= in device, or set netns"),
            )),
        }
    }

    fn conntrack(&self) -> Option<Finding> {
        const EVENTS_ON: &str = "sysctl -w net.netfilter.nf_conntrack_events=1";
        let why = "Flyover carries connections that conntrack knows";
        let mends = vec![Mend::sysctl("net.netfilter.nf_conntrack_events", 1)];
        match self.read("proc/sys/net/netfilter/nf_conntrack_events").as_deref() {
            None if self.read("proc/sys/net/netfilter/nf_conntrack_max").is_some() => {
                let what = "the kernel has no conntrack events (CONFIG_NF_CONNTRACK_EVENTS)".to_owned();
                Some(finding(Severity::Error, "conntrack", what, why, None))
            }
            None => {
                let what = "nf_conntrack is not loaded, or this namespace can't see it".to_owned();
                let fix = Some("modprobe -a nf_conntrack nf_conntrack_netlink");
                let mends = vec![Mend::Load("nf_conntrack"), Mend::Load("nf_conntrack_netlink")];
                Some(finding(Severity::Warning, "conntrack", what, why, fix).mended_by(mends))
            }
            Some("1") => None,
            Some(value) if self.running.is_some() => {
                let what = format!("net.netfilter.nf_conntrack_events is {value}, while a gateway runs");
                let why = "connections made meanwhile say nothing when they change or end: they are found late, and kept too long";
                Some(finding(Severity::Warning, "conntrack", what, why, Some(EVENTS_ON)).mended_by(mends))
            }
            Some(value) => {
                let what =
                    format!("net.netfilter.nf_conntrack_events is {value}; Flyover sets it to 1 at start");
                let why = "connections that are older than the setting emit no events";
                Some(finding(Severity::Note, "conntrack", what, why, Some(EVENTS_ON)).mended_by(mends))
            }
        }
    }

    fn forwarding(&self) -> Option<Finding> {
        let value = self.read("proc/sys/net/ipv4/ip_forward")?;
        let what = "net.ipv4.ip_forward is 0".to_owned();
        let why = "the kernel forwards no IPv4, so that no connection can ever be carried";
        let fix = Some("sysctl -w net.ipv4.ip_forward=1");
        (value == "0").then(|| finding(Severity::Warning, "forwarding", what, why, fix))
    }
}

fn finding(severity: Severity, check: &'static str, what: String, why: &str, fix: Option<&str>) -> Finding {
    Finding::new(severity, check, what, why, fix)
}

/// A name to give to an interface that is in the way.
fn spare(name: &str) -> String {
    let short: String = name.chars().take(12).collect();
    format!("{short}-nic").chars().take(15).collect()
}

#[cfg(test)]
mod tests;
