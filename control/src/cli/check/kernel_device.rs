//! Ports on interfaces of the kernel, net_af_packet and net_af_xdp: what the kernel does with their packets besides.

use serde_json::Value;

use super::{Finding, Severity, finding};
use crate::config::PortConfig;

/// Runs a program and gives what it prints, if it is there and ends well.
pub(super) type Run<'a> = &'a dyn Fn(&[&str]) -> Option<String>;

/// Offloads with which a veth pair's sender leaves checksums unfinished, or segments longer than the MTU.
const OFFLOADS: [&str; 3] = ["tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload"];
const OFFLOADS_OFF: &str = "tx off tso off gso off";

/// What is wrong with the interface under a port.
pub(super) fn findings(port: &PortConfig, run: Run<'_>) -> Vec<Finding> {
    let driver = port.device.name();
    let packet = driver.starts_with("net_af_packet");
    let Some(name) = port.device.arg("iface") else { return Vec::new() };
    if !packet && !driver.starts_with("net_af_xdp") {
        return Vec::new();
    }
    let place = Place { netns: port.netns.clone(), run };
    let Some(links) = place.json(&["ip", "-j", "-d", "link", "show"]) else {
        return vec![unknown(port, name, "ip")];
    };
    let links = links.as_array().map(Vec::as_slice).unwrap_or_default();
    let named = |link: &&Value| text(link, "/ifname") == Some(name);
    let Some(link) = links.iter().find(named) else {
        let within = place.netns.as_ref().map(|netns| format!(" in namespace {netns}")).unwrap_or_default();
        return vec![finding(
            Severity::Error,
            "device",
            format!("{}: there is no interface {name}{within}", port.name),
            "the port is made of this interface",
            Some("choose another iface= in device, or set netns"),
        )];
    };
    let mut found = Vec::new();
    if packet && place.netns.is_none() {
        found.push(finding(
            Severity::Warning,
            "device",
            format!("{}: the kernel receives the packets of {name} too", port.name),
            "net_af_packet takes copies: in the gateway's own namespace the kernel answers and forwards beside Flyover",
            Some(&format!("ip netns add wires && ip link set {name} netns wires  (and netns = \"wires\" for the port)")),
        ));
    }
    if text(link, "/linkinfo/info_kind") == Some("veth") {
        found.extend(peer(port, name, link, links, &place));
    }
    found
}

/// The veth pair's other end: its offloads are those that matter, as it is the one that sends to the port.
fn peer(port: &PortConfig, name: &str, link: &Value, links: &[Value], place: &Place<'_>) -> Option<Finding> {
    let elsewhere = link.get("link_netnsid").and_then(Value::as_i64);
    let index = link.get("link_index").and_then(Value::as_u64);
    let (peer, place) = match elsewhere {
        Some(id) => {
            let Some((place, index)) = place.other(id).zip(index) else {
                return Some(unseen(port, name));
            };
            let theirs = place.json(&["ip", "-j", "link", "show"]);
            let peer = theirs.as_ref().and_then(Value::as_array).and_then(|all| by_index(all, index));
            let Some(peer) = peer else { return Some(unseen(port, name)) };
            (peer, place)
        }
        None => {
            let peer = text(link, "/link").map(str::to_owned).or_else(|| by_index(links, index?));
            (peer?, Place { netns: place.netns.clone(), run: place.run })
        }
    };
    let Some(features) = place.run(&["ethtool", "-k", &peer]) else {
        return Some(unknown(port, &peer, "ethtool"));
    };
    let on: Vec<&str> = OFFLOADS.into_iter().filter(|offload| is_on(&features, offload)).collect();
    (!on.is_empty()).then(|| {
        finding(
            Severity::Warning,
            "offloads",
            format!("{}: {peer}, the other end of {name}, has {} on", port.name, on.join(", ")),
            TRAP,
            Some(&place.line(&format!("ethtool -K {peer} {OFFLOADS_OFF}"))),
        )
    })
}

const TRAP: &str =
    "its packets then come without checksums and longer than the MTU, as from no wire: TCP hangs";

fn unseen(port: &PortConfig, name: &str) -> Finding {
    finding(
        Severity::Note,
        "offloads",
        format!(
            "{}: the other end of {name} is in a namespace without a name: its offloads could not be looked at",
            port.name
        ),
        TRAP,
        Some(&format!("in that namespace: ethtool -K PEER {OFFLOADS_OFF}")),
    )
}

fn unknown(port: &PortConfig, name: &str, program: &str) -> Finding {
    finding(
        Severity::Note,
        "offloads",
        format!("{}: {name} could not be looked at with {program}", port.name),
        "if it is one end of a veth pair, the offloads of the other must be off, or TCP hangs",
        Some(&format!("ethtool -K PEER {OFFLOADS_OFF}")),
    )
}

/// A network namespace to run programs in.
struct Place<'a> {
    netns: Option<String>,
    run: Run<'a>,
}

impl<'a> Place<'a> {
    fn run(&self, command: &[&str]) -> Option<String> {
        let mut words = Vec::new();
        if let Some(netns) = &self.netns {
            words.extend_from_slice(&["ip", "netns", "exec", netns]);
        }
        words.extend_from_slice(command);
        (self.run)(&words)
    }

    fn json(&self, command: &[&str]) -> Option<Value> {
        serde_json::from_str(&self.run(command)?).ok()
    }

    /// The named namespace that this one knows by an id.
    fn other(&self, id: i64) -> Option<Self> {
        let all = self.json(&["ip", "-j", "netns", "list"])?;
        let matches = |netns: &&Value| netns.get("id").and_then(Value::as_i64) == Some(id);
        let netns = text(all.as_array()?.iter().find(matches)?, "/name")?.to_owned();
        Some(Self { netns: Some(netns), run: self.run })
    }

    fn line(&self, command: &str) -> String {
        match &self.netns {
            Some(netns) => format!("ip netns exec {netns} {command}"),
            None => command.to_owned(),
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn by_index(links: &[Value], index: u64) -> Option<String> {
    let matches = |link: &&Value| link.get("ifindex").and_then(Value::as_u64) == Some(index);
    text(links.iter().find(matches)?, "/ifname").map(str::to_owned)
}

/// Whether `ethtool -k` says that a feature is on.
fn is_on(features: &str, feature: &str) -> bool {
    let states = features.lines().filter_map(|line| line.trim().split_once(": "));
    states.into_iter().any(|(name, state)| name == feature && state.starts_with("on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Machine};

    const PAIR: &str = r#"[
        {"ifindex":7,"ifname":"up0","link":"h0","linkinfo":{"info_kind":"veth"}},
        {"ifindex":8,"ifname":"h0","link":"up0","linkinfo":{"info_kind":"veth"}},
        {"ifindex":9,"ifname":"away0","link_index":2,"link_netnsid":0,"linkinfo":{"info_kind":"veth"}},
        {"ifindex":10,"ifname":"lost0","link_index":2,"link_netnsid":5,"linkinfo":{"info_kind":"veth"}},
        {"ifindex":11,"ifname":"nic0"}]"#;
    const ON: &str = "Features for h0:\ntx-checksumming: on\n\ttx-checksum-ip-generic: on\n\
                      tcp-segmentation-offload: on\ngeneric-segmentation-offload: on\n";
    const OFF: &str = "Features for h0:\ntx-checksumming: off\n\ttx-checksum-ip-generic: off\n\
                       tcp-segmentation-offload: off\n\ttx-tcp-segmentation: on\n\
                       generic-segmentation-offload: off [requested on]\n";

    fn of(device: &str, run: Run<'_>) -> Vec<Finding> {
        let machine = Machine { cores: vec![0], netns: std::path::PathBuf::new() };
        let config = Config::from_ports(&[format!("wan0={device}").as_str()], &machine).expect("valid");
        findings(&config.ports[0], run)
    }

    fn world(features: &'static str) -> impl Fn(&[&str]) -> Option<String> {
        move |words| match words {
            ["ip", "-j", "-d", "link", "show"] => Some(PAIR.to_owned()),
            ["ip", "-j", "netns", "list"] => Some(r#"[{"name":"far","id":0},{"name":"x"}]"#.to_owned()),
            ["ip", "netns", "exec", "far", "ip", "-j", "link", "show"] => {
                Some(r#"[{"ifindex":1,"ifname":"lo"},{"ifindex":2,"ifname":"eth0"}]"#.to_owned())
            }
            ["ethtool", "-k", "h0"] | ["ip", "netns", "exec", "far", "ethtool", "-k", "eth0"] => {
                Some(features.to_owned())
            }
            _ => None,
        }
    }

    fn kinds(found: &[Finding]) -> Vec<(Severity, &'static str)> {
        found.iter().map(|finding| (finding.severity, finding.check)).collect()
    }

    #[test]
    fn offloads_of_the_other_end_are_a_trap() {
        let found = of("net_af_xdp0,iface=up0", &world(ON));
        assert_eq!(kinds(&found), [(Severity::Warning, "offloads")]);
        assert!(found[0].what.contains("h0, the other end of up0"), "{found:?}");
        assert_eq!(found[0].fix.as_deref(), Some("ethtool -K h0 tx off tso off gso off"));
        assert_eq!(of("net_af_xdp0,iface=up0", &world(OFF)), []);
    }

    #[test]
    fn the_other_end_is_found_in_another_namespace() {
        let found = of("net_af_xdp0,iface=away0", &world(ON));
        let fix = "ip netns exec far ethtool -K eth0 tx off tso off gso off";
        assert_eq!(found[0].fix.as_deref(), Some(fix));
        assert_eq!(of("net_af_xdp0,iface=away0", &world(OFF)), []);
        assert_eq!(kinds(&of("net_af_xdp0,iface=lost0", &world(ON))), [(Severity::Note, "offloads")]);
    }

    #[test]
    fn what_could_not_be_looked_at_is_said() {
        assert_eq!(kinds(&of("net_af_xdp0,iface=up0", &|_| None)), [(Severity::Note, "offloads")]);
        let no_ethtool = |words: &[&str]| world(ON)(words).filter(|_| !words.contains(&"ethtool"));
        let found = of("net_af_xdp0,iface=up0", &no_ethtool);
        assert_eq!(kinds(&found), [(Severity::Note, "offloads")]);
        assert!(found[0].what.contains("ethtool"), "{found:?}");
        let missing = of("net_af_xdp0,iface=none0", &world(ON));
        assert_eq!(kinds(&missing), [(Severity::Error, "device")]);
    }

    #[test]
    fn a_packet_socket_leaves_the_kernel_its_packets() {
        let found = of("net_af_packet0,iface=nic0", &world(ON));
        assert_eq!(kinds(&found), [(Severity::Warning, "device")]);
        assert_eq!(of("net_af_xdp0,iface=nic0", &world(ON)), []);
        assert_eq!(of("net_tap0,iface=up0", &world(ON)), []);
    }
}
