//! Connections fly whatever their frames are wrapped in, exactly as the kernel would send them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dataplane::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};
use lab::icmp::Error;
use lab::leg::{Laid, Leg, reach};
use lab::raw::{self, Wire};
use lab::rules::ROUTED;
use lab::stack::{Layer, Stack};
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_OTHER, GATEWAY_WAN, HOST_INTERFACE, OTHER, SERVER};
use lab::wrapping::Wrapping;
use lab::{Lab, Namespace, Plane, Result, udp, wait};

/// What a forged datagram begins with; a genuine one begins with [`udp::GENUINE`].
const FORGED: u8 = b'F';
const PORT: u16 = 5000;

const VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 10)], pppoe: None };
const HIGH_VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 4094)], pppoe: None };
const QINQ: Wrapping = Wrapping { tags: &[(ETHER_SERVICE_VLAN, 200), (ETHER_VLAN, 300)], pppoe: None };
const PPPOE: Wrapping = Wrapping { tags: &[], pppoe: Some(0x1234) };
const PPPOE_IN_VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 7)], pppoe: Some(0xffff) };
/// Nobody's.
const ELSEWHERE: [Wrapping; 3] = [
    Wrapping { tags: &[(ETHER_VLAN, 99)], pppoe: None },
    Wrapping { tags: &[(ETHER_VLAN, 10), (ETHER_VLAN, 99)], pppoe: None },
    Wrapping { tags: &[], pppoe: Some(99) },
];

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

/// Everything that must hold of connections from the end of one leg to that of the other.
fn carries(lab: &Lab, client: &mut Leg, server: &mut Leg, mtu: u16) -> Result<()> {
    let pair = same_bytes(lab, client, server)?;
    if mtu > 0 {
        too_long(lab, client, &pair, server.address, mtu)?;
    }
    from_elsewhere(lab, client, server, &pair)?;
    drop(pair);
    let service = Service::listen(&server.host, server.address, 80)?;
    let pair = Pair::open(&client.host, None, SocketAddrV4::new(server.address, 80), &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 2_000_000)?;
        assert_eq!(transfer.sent, transfer.received, "{way:?}");
    }
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("tcp", pair.source_port())?.expect("the connection's entry");
        let [up, down] = flow.bytes_each_way();
        assert!(up > 1_500_000 && down > 1_500_000, "most of it was to fly: {flow:?}");
    }
    pair.finish()
}

/// Sends the same frame again and again, while the kernel carries it and after: what comes out does not change.
fn same_bytes(lab: &Lab, client: &mut Leg, server: &mut Leg) -> Result<udp::Pair> {
    let socket = udp::bind(&server.host, server.address, PORT)?;
    let pair =
        udp::Pair::open(&client.host, client.address, SocketAddrV4::new(server.address, PORT), socket)?;
    let from = (client.address, pair.source_port());
    let marker = udp::datagram(0x0123_4567_89ab_cdef, 100);
    let frame = raw::udp_frame(client.macs, from, (server.address, PORT), &marker)?;
    server.watch()?;
    let contains = |frame: &[u8]| frame.windows(marker.len()).any(|window| window == marker);
    let mut first: Option<Vec<u8>> = None;
    let mut again = || -> Result<()> {
        client.send(&frame)?;
        let left = server.next(Duration::from_secs(2), contains)?;
        let expected = first.get_or_insert_with(|| left.clone());
        assert_eq!(&left, expected, "what left, and what the kernel let out first");
        // The answer makes it a connection; nobody waits for it.
        let seen = pair.arrival(0x0123_4567_89ab_cdef)?;
        pair.server.send_to(b"answer", seen).map(drop).map_err(lab::LabError::io("answer"))
    };
    lab.until_flying("udp", pair.source_port(), &mut again)?;
    let before = lab.flyover().map(|gateway| fast(gateway, &pair)).transpose()?;
    for _ in 0..20 {
        again()?;
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), before) {
        let flew = fast(gateway, &pair)? - before;
        assert!(flew >= 20, "{flew} packets of 20 and their answers");
    }
    pair.client.set_nonblocking(true).map_err(lab::LabError::io("empty a socket"))?;
    while pair.client.recv(&mut [0; 256]).is_ok() {}
    pair.client.set_nonblocking(false).map_err(lab::LabError::io("empty a socket"))?;
    Ok(pair)
}

fn fast(gateway: &lab::Gateway, pair: &udp::Pair) -> Result<u64> {
    Ok(gateway.flow("udp", pair.source_port())?.map_or(0, |flow| flow.packets()))
}

/// The longest packet that goes through arrives, one byte more is answered by the kernel, and the flow flies on.
fn too_long(lab: &Lab, client: &Leg, pair: &udp::Pair, to: Ipv4Addr, mtu: u16) -> Result<()> {
    let from = (client.address, pair.source_port());
    let errors = Wire::open(&client.host, client.interface)?;
    let longest = usize::from(mtu) - 28;
    for round in 0..3 {
        let whole = udp::datagram(1000 + round, longest);
        client.send(&raw::udp_frame(client.macs, from, (to, PORT), &whole)?)?;
        pair.arrival(1000 + round)?;
        let long = udp::datagram(2000 + round, longest + 1);
        client.send(&raw::udp_frame(client.macs, from, (to, PORT), &long)?)?;
        let error = Error::wait(&errors, Error::too_big(client.address.into()))?;
        assert_eq!((error.to, error.mtu), (client.address.into(), u32::from(mtu)));
        assert_eq!(error.inner_source, from.into());
    }
    // The client's socket has heard of it too; short ones go on.
    let _ = pair.client.take_error();
    lab.until_flying("udp", pair.source_port(), || pair.ping(7).map(drop))?;
    Ok(())
}

/// Datagrams of the same 5-tuple in another wrapping are given to the kernel, and do not get through.
fn from_elsewhere(lab: &Lab, client: &Leg, server: &mut Leg, pair: &udp::Pair) -> Result<()> {
    let mut payload = udp::datagram(u64::MAX, 64);
    payload[0] = FORGED;
    let from = (client.address, pair.source_port());
    let frame = raw::udp_frame(client.macs, from, (server.address, PORT), &payload)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(7).map(drop))?;
    server.watch()?;
    let context = |gateway: &lab::Gateway| gateway.status()?.counter("punted_by_reason.ingress_context");
    let before = lab.flyover().map(context).transpose()?;
    let others = ELSEWHERE.iter().filter(|other| **other != client.wrapping);
    let mut sent = 0;
    for other in others {
        for _ in 0..5 {
            client.send_in(other, &frame)?;
            sent += 1;
        }
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), before) {
        wait::until_true(wait::PATIENCE, "the frames from elsewhere to be punted", || {
            context(gateway).is_ok_and(|now| now == before + sent)
        })?;
        let flow = gateway.flow("udp", pair.source_port())?.expect("the stream's entry");
        assert!(flow.flies(), "{flow:?}");
    }
    pair.ping(8)?;
    let forged = server.next(Duration::from_millis(100), |frame| {
        frame.windows(payload.len()).any(|window| window == payload)
    });
    assert!(forged.is_err(), "a frame from elsewhere got through: {forged:02x?}");
    Ok(())
}

#[test]
fn from_a_tagged_port_to_an_untagged_one() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut server = Leg::plain(&lab, "wan0", SERVER)?;
    let mut client = Leg::wrapped(&lab, &LAN)?;
    carries(&lab, &mut client, &mut server, 1500)
}

#[test]
fn from_an_untagged_port_to_a_tagged_one_of_smaller_mtu() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: HIGH_VLAN, mtu: 1400, ..WAN })?;
    carries(&lab, &mut client, &mut server, 1400)
}

/// A route's MTU is smaller than any link's.
#[test]
fn from_one_vlan_to_another_by_a_route_with_an_mtu() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut client = Leg::wrapped(&lab, &LAN)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: HIGH_VLAN, ..WAN })?;
    lab.gateway().run(&format!("ip route add {SERVER}/32 dev outside mtu 1300"))?;
    carries(&lab, &mut client, &mut server, 1300)
}

#[test]
fn from_two_tags_to_none() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut server = Leg::plain(&lab, "wan0", SERVER)?;
    let mut client = Leg::wrapped(&lab, &Laid { wrapping: QINQ, mtu: 1496, ..LAN })?;
    carries(&lab, &mut client, &mut server, 0)
}

#[test]
fn from_none_to_two_tags() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let mut client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: QINQ, mtu: 1496, ..WAN })?;
    carries(&lab, &mut client, &mut server, 1496)
}

#[test]
fn to_a_pppoe_session_by_masquerade() -> Result<()> {
    let lab = lab(MASQUERADED).build()?;
    let mut client = Leg::plain(&lab, "lan0", CLIENT)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: PPPOE, mtu: 1492, ..WAN })?;
    carries(&lab, &mut client, &mut server, 1492)
}

/// As fibre lines are: PPPoE in a VLAN, and a VLAN in the LAN.
#[test]
fn from_a_vlan_to_a_pppoe_session_in_another() -> Result<()> {
    let lab = lab(MASQUERADED).build()?;
    let mut client = Leg::wrapped(&lab, &LAN)?;
    let mut server = Leg::wrapped(&lab, &Laid { wrapping: PPPOE_IN_VLAN, mtu: 1492, ..WAN })?;
    carries(&lab, &mut client, &mut server, 1492)
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
    carries(&lab, &mut client, &mut server, 1400)
}
