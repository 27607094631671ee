//! Connections fly whatever their frames are wrapped in, exactly as the kernel would send them.

use dataplane::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};
use lab::carries::carries;
use lab::leg::{Laid, Leg, reach};
use lab::raw;
use lab::rules::ROUTED;
use lab::stack::{Layer, Stack};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_OTHER, GATEWAY_WAN, HOST_INTERFACE, OTHER, SERVER};
use lab::wrapping::Wrapping;
use lab::{Lab, Namespace, Plane, Result};

const VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 10)], pppoe: None };
const HIGH_VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 4094)], pppoe: None };
const QINQ: Wrapping = Wrapping { tags: &[(ETHER_SERVICE_VLAN, 200), (ETHER_VLAN, 300)], pppoe: None };
const PPPOE: Wrapping = Wrapping { tags: &[], pppoe: Some(0x1234) };
const PPPOE_IN_VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 7)], pppoe: Some(0xffff) };
const LAN: Laid =
    Laid { twin: "lan0", name: "inside", gateway: GATEWAY_LAN, address: CLIENT, wrapping: VLAN, mtu: 1500 };
const WAN: Laid =
    Laid { twin: "wan0", name: "outside", gateway: GATEWAY_WAN, address: SERVER, wrapping: VLAN, mtu: 1500 };

/// Like [`ROUTED`], and what leaves by `outside` gets its address.
const MASQUERADED: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname != outside ct state new accept
  }
}
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname outside masquerade
  }
}
";

fn lab(rules: &str) -> lab::LabBuilder {
    Lab::builder(Plane::under_test()).rules(rules)
}

#[test]
fn from_a_tagged_port_to_an_untagged_one() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut server = Leg::plain(&lab, "wan0", SERVER)?;
    let client = Leg::wrapped(&lab, &LAN)?;
    carries(&lab, &client, &mut server, 1500)
}

#[test]
fn from_an_untagged_port_to_a_tagged_one_of_smaller_mtu() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: HIGH_VLAN, mtu: 1400, ..WAN })?;
    carries(&lab, &client, &mut server, 1400)
}

/// A route's MTU is smaller than any link's.
#[test]
fn from_one_vlan_to_another_by_a_route_with_an_mtu() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let client = Leg::wrapped(&lab, &LAN)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: HIGH_VLAN, ..WAN })?;
    lab.gateway().run(&format!("ip route add {SERVER}/32 dev outside mtu 1300"))?;
    carries(&lab, &client, &mut server, 1300)
}

#[test]
fn from_two_tags_to_none() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut server = Leg::plain(&lab, "wan0", SERVER)?;
    let client = Leg::wrapped(&lab, &Laid { wrapping: QINQ, mtu: 1496, ..LAN })?;
    carries(&lab, &client, &mut server, 0)
}

#[test]
fn from_none_to_two_tags() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: QINQ, mtu: 1496, ..WAN })?;
    carries(&lab, &client, &mut server, 1496)
}

#[test]
fn to_a_pppoe_session_by_masquerade() -> Result<()> {
    let lab = lab(MASQUERADED).build()?;
    let client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: PPPOE, mtu: 1492, ..WAN })?;
    carries(&lab, &client, &mut server, 1492)
}

/// As fibre lines are: PPPoE in a VLAN, and a VLAN in the LAN.
#[test]
fn from_a_vlan_to_a_pppoe_session_in_another() -> Result<()> {
    let lab = lab(MASQUERADED).build()?;
    let client = Leg::wrapped(&lab, &LAN)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: PPPOE_IN_VLAN, mtu: 1492, ..WAN })?;
    carries(&lab, &client, &mut server, 1492)
}

/// A router on a stick: both legs are VLANs of one port.
#[test]
fn from_one_vlan_to_another_of_the_same_port() -> Result<()> {
    const SECOND: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 20)], pppoe: None };
    let first = Layer { name: "inside", wrapping: VLAN, mtu: 1500, peer: None };
    let second = Layer { name: "outside", wrapping: SECOND, mtu: 1400, peer: None };
    let lab = lab(ROUTED).build()?;
    let far = Namespace::new("far")?;
    let host = lab.client().clone();
    let macs = (raw::mac(&host, HOST_INTERFACE)?, raw::mac(lab.gateway(), "lan0")?);
    lab.gateway().run("ip address flush dev lan0")?;
    host.run(&format!("ip address flush dev {HOST_INTERFACE}"))?;
    let _ours = Stack::build(lab.gateway(), &["lan0"], &[first, second])?;
    let theirs = Stack::build(&host, &[HOST_INTERFACE], &[first, second])?;
    host.run(&format!("ip link set outside netns {}", far.name()))?;
    far.run("ip link set outside up")?;
    for (namespace, name, gateway, address) in
        [(&host, "inside", GATEWAY_LAN, CLIENT), (&far, "outside", GATEWAY_OTHER, OTHER)]
    {
        lab.gateway().run(&format!("ip address add {gateway}/24 dev {name}"))?;
        namespace.run(&format!("ip address add {address}/24 dev {name}"))?;
        namespace.run(&format!("ip route replace default via {gateway}"))?;
        reach(namespace, gateway)?;
    }
    // Both hosts are on one wire: one stack sees what either gets, and sends in either's name.
    let mut server = Leg::of(&far, OTHER, &second, macs, theirs);
    let mut client = Leg::plain(&lab, "lan0", CLIENT)?;
    (client.interface, client.wrapping) = ("inside", VLAN);
    carries(&lab, &client, &mut server, 1400)
}
