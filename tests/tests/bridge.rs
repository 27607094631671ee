//! Twins in a bridge, and twins in a bond.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::carries::{PORT, carries, same_bytes};
use lab::change::{self, last_of_the_old_way};
use lab::leg::{Leg, reach};
use lab::raw::{self, Wire};
use lab::rules::ROUTED;
use lab::stack::{Layer, Stack};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_WAN, HOST_INTERFACE, SERVER};
use lab::wrapping::Wrapping;
use lab::{Lab, Result, udp, wait};

/// The host on the bridge's other port.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

/// The LAN is a bridge over `lan0` and `opt0`, whose host is [`NEIGHBOUR`].
fn bridged_lan() -> Result<Lab> {
    let lab = change::lab(ROUTED).third_port().build()?;
    for line in [
        "ip link add lan type bridge".to_owned(),
        "ip address flush dev lan0".to_owned(),
        "ip address flush dev opt0".to_owned(),
        "ip link set lan0 master lan".to_owned(),
        "ip link set opt0 master lan".to_owned(),
        "ip link set lan up".to_owned(),
        format!("ip address add {GATEWAY_LAN}/24 dev lan"),
    ] {
        lab.gateway().run(&line)?;
    }
    lab.other().run(&format!("ip address flush dev {HOST_INTERFACE}"))?;
    lab.other().run(&format!("ip address add {NEIGHBOUR}/24 dev {HOST_INTERFACE}"))?;
    lab.other().run(&format!("ip route replace default via {GATEWAY_LAN}"))?;
    // The bridge has another MAC address than the twin had.
    for host in [lab.client(), lab.other()] {
        host.run(&format!("ip neigh flush dev {HOST_INTERFACE}"))?;
        reach(host, GATEWAY_LAN)?;
    }
    Ok(lab)
}

/// A leg in the LAN, whose frames go to the bridge's MAC address.
fn lan_leg(lab: &Lab, twin: &str, address: Ipv4Addr) -> Result<Leg> {
    let mut leg = Leg::plain(lab, twin, address)?;
    leg.macs.1 = raw::mac(lab.gateway(), "lan")?;
    Ok(leg)
}

#[test]
fn from_both_ports_of_a_bridge_to_a_third() -> Result<()> {
    let lab = bridged_lan()?;
    for (twin, address) in [("lan0", CLIENT), ("opt0", NEIGHBOUR)] {
        let client = lan_leg(&lab, twin, address)?;
        let mut server = Leg::plain(&lab, "wan0", SERVER)?;
        carries(&lab, &client, &mut server, 0)?;
        if let Some(gateway) = lab.flyover() {
            let flows = gateway.flows()?;
            let own = |flow: &&lab::status::Flow| {
                flow.protocol() == "udp" && flow.original().is_some_and(|way| way.source.ip() == address)
            };
            let flow = flows.iter().find(own).expect("the stream's entry");
            assert_eq!((flow.in_port(), flow.out_port()), (twin, Some("wan0")), "{flow:?}");
        }
    }
    Ok(())
}

/// Between the ports of a bridge packets are not routed: the MAC addresses stay, and so does the TTL.
#[test]
fn from_one_port_of_a_bridge_to_the_other() -> Result<()> {
    let lab = bridged_lan()?;
    // Conntrack sees bridged packets by br_netfilter alone. Where there is none, they go through the kernel.
    lab.gateway().sysctl("net.bridge.bridge-nf-call-iptables", "1")?;
    let mut client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut neighbour = Leg::plain(&lab, "opt0", NEIGHBOUR)?;
    client.macs.1 = neighbour.macs.0;
    let pair = same_bytes(&lab, &client, &mut neighbour)?;
    let payload = udp::datagram(77, 100);
    let from = (CLIENT, pair.source_port());
    let frame = raw::udp_frame(client.macs, from, (NEIGHBOUR, PORT), &payload)?;
    neighbour.watch()?;
    client.send(&frame)?;
    let holds = |frame: &[u8]| frame.windows(payload.len()).any(|window| window == payload);
    assert_eq!(neighbour.next(Duration::from_secs(2), holds)?, frame);
    Ok(())
}

/// A host moves from one port of the bridge to the other, as one does between access points: what is for it follows.
#[test]
fn a_host_roams_from_one_port_of_a_bridge_to_the_other() -> Result<()> {
    let lab = bridged_lan()?;
    let client = lan_leg(&lab, "lan0", CLIENT)?;
    let socket = udp::bind(lab.server(), SERVER, PORT)?;
    let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, PORT), socket)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let from = (CLIENT, pair.source_port());
    let is_answer = |frame: &[u8]| {
        frame.get(..6) == Some(&client.macs.0[..]) && frame.get(34..36) == Some(&PORT.to_be_bytes())
    };
    let old = Wire::open(lab.client(), HOST_INTERFACE)?;
    let new = Wire::open(lab.other(), HOST_INTERFACE)?;
    // The server goes on sending, whatever it hears.
    let back = pair.server.try_clone().map_err(lab::LabError::io("share a socket"))?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = back.send_to(&udp::datagram(2, 64), from);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let outcome = (|| {
            let hello = raw::udp_frame(client.macs, from, (SERVER, PORT), &udp::datagram(3, 64))?;
            last_of_the_old_way(&old, is_answer, || new.send(&hello))?;
            wait::until_true(wait::PATIENCE, "answers by the new port", || {
                new.receive(Duration::from_millis(100)).is_ok_and(|f| f.is_some_and(|f| is_answer(&f)))
            })?;
            let Some(gateway) = lab.flyover() else { return Ok(()) };
            wait::until_true(wait::PATIENCE, "the flow to fly by the new port", || {
                // The host speaks now and then.
                new.send(&hello).is_ok()
                    && gateway
                        .flow("udp", pair.source_port())
                        .is_ok_and(|flow| flow.is_some_and(|flow| flow.flies() && flow.in_port() == "opt0"))
            })
        })();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    })
}

const BOND: Layer =
    Layer { name: "bond0", wrapping: Wrapping { tags: &[], pppoe: None }, mtu: 1500, peer: None };

/// Both wires of the gateway's bond lead to the server: by a switch in each host's place, with a cable between them.
fn switched(lab: &Lab) -> Result<()> {
    let (server, other) = (lab.server(), lab.other());
    other.run(&format!("ip link add cable type veth peer name cable netns {}", server.name()))?;
    for host in [other, server] {
        for line in [
            "ip link add switch type bridge".to_owned(),
            format!("ip address flush dev {HOST_INTERFACE}"),
            format!("ip link set {HOST_INTERFACE} master switch"),
            "ip link set cable master switch up".to_owned(),
            "ip link set switch up".to_owned(),
        ] {
            host.run(&line)?;
        }
    }
    server.run(&format!("ip address add {SERVER}/24 dev switch"))?;
    server.run(&format!("ip route replace default via {GATEWAY_WAN}")).map(drop)
}

/// A bond of which one twin is used at a time: it fails over, and the flow follows.
#[test]
fn over_a_bond_that_fails_over() -> Result<()> {
    let lab = change::lab(ROUTED).third_port().build()?;
    switched(&lab)?;
    for twin in ["wan0", "opt0"] {
        lab.gateway().run(&format!("ip address flush dev {twin}"))?;
    }
    let bond = Stack::build(lab.gateway(), &["wan0", "opt0"], &[BOND])?;
    // All slaves of a bond have its address.
    let address = raw::mac(lab.gateway(), "bond0")?.map(|byte| format!("{byte:02x}")).join(":");
    lab.gateway().run(&format!("ip link set opt0 address {address}"))?;
    lab.gateway().run(&format!("ip address add {GATEWAY_WAN}/24 dev bond0"))?;
    reach(lab.server(), GATEWAY_WAN)?;
    let socket = udp::bind(lab.server(), SERVER, PORT)?;
    let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, PORT), socket)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    for (below, used, failed) in [(1, "opt0", "wan0"), (0, "wan0", "opt0")] {
        lab.gateway().run(&format!("ip link set {failed} down"))?;
        bond.switch(below);
        // The first frame by the other slave tells the switches, as the driver's announcement does.
        lab.gateway().run("ip neigh flush dev bond0")?;
        wait::until_true(wait::PATIENCE, "the stream to go on over the other slave", || {
            pair.ping(2).is_ok()
        })?;
        if let Some(gateway) = lab.flyover() {
            wait::until_true(wait::PATIENCE, "the stream to fly over the other slave", || {
                pair.ping(3).is_ok()
                    && gateway.flow("udp", pair.source_port()).is_ok_and(|flow| {
                        flow.is_some_and(|flow| flow.flies() && flow.out_port() == Some(used))
                    })
            })?;
        }
        lab.gateway().run(&format!("ip link set {failed} up"))?;
    }
    Ok(())
}
