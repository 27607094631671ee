//! What the kernel wraps, encrypts or translates on its way stays with it, and nothing leaves as it came in once it does.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::change::{self, GRACE, REVALIDATE_WITHIN, last_of_the_old_way, until_quiet};
use lab::raw::{self, Wire};
use lab::raw6;
use lab::rules::ROUTED;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, CLIENT6, GATEWAY_WAN, HOST_INTERFACE, SERVER, SERVER6};
use lab::{Explained, Lab, Plane, Result, udp, wait};

const PORT: u16 = 5000;
const PACE: Duration = Duration::from_millis(2);
/// A network behind the server.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The two ends of the tunnel.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
/// RFC 7348, 8.
const VXLAN: u16 = 4789;

/// [`BEHIND`] is at the server; there is a tunnel to it, which no route leads to yet.
fn tunnelled() -> Result<Lab> {
    let lab = change::lab(ROUTED).build()?;
    lab.server().run(&format!("ip address add {BEHIND}/32 dev lo"))?;
    for (namespace, below, own, peer, address) in [
        (lab.gateway(), "wan0", GATEWAY_WAN, SERVER, NEAR),
        (lab.server(), HOST_INTERFACE, SERVER, GATEWAY_WAN, FAR),
    ] {
        namespace.run(&format!(
            "ip link add tunnel type vxlan id 42 local {own} remote {peer} dstport {VXLAN} dev {below}"
        ))?;
        namespace.run(&format!("ip address add {address}/30 dev tunnel"))?;
        namespace.run("ip link set tunnel up")?;
    }
    Ok(lab)
}

fn in_clear(lab: &Lab) -> Result<()> {
    lab.server().run(&format!("ip route replace {CLIENT}/32 via {GATEWAY_WAN}"))?;
    lab.gateway().run(&format!("ip route replace {BEHIND}/32 via {SERVER}")).map(drop)
}

fn by_tunnel(lab: &Lab) -> Result<()> {
    lab.server().run(&format!("ip route replace {CLIENT}/32 via {NEAR} src {BEHIND}"))?;
    lab.gateway().run(&format!("ip route replace {BEHIND}/32 via {FAR}")).map(drop)
}

fn pair(lab: &Lab) -> Result<udp::Pair> {
    let server = udp::bind(lab.server(), BEHIND, PORT)?;
    udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(BEHIND, PORT), server)
}

/// Whether a frame is UDP of this connection, not wrapped in anything.
fn is_clear(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return false };
    let addressed = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            [ip.header().source_addr(), ip.header().destination_addr()].contains(&CLIENT)
        }
        Some(NetSlice::Ipv6(ip)) => {
            [ip.header().source_addr(), ip.header().destination_addr()].contains(&CLIENT6)
        }
        _ => false,
    };
    addressed && matches!(packet.transport, Some(TransportSlice::Udp(_)))
}

fn flies(lab: &Lab, pair: &udp::Pair) -> Result<bool> {
    let Some(gateway) = lab.flyover() else { return Ok(false) };
    Ok(gateway.flow("udp", pair.source_port())?.is_some_and(|flow| flow.flies()))
}

#[test]
fn what_goes_by_a_tunnel_stays_and_what_does_not_flies() -> Result<()> {
    let lab = tunnelled()?;
    by_tunnel(&lab)?;
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    let pair = pair(&lab)?;
    let mut wrapped = 0;
    for token in 0..200 {
        pair.ping(token)?;
        while let Some(frame) = wire.receive(Duration::ZERO)? {
            assert!(!is_clear(&frame), "{frame:02x?}");
            wrapped += u32::from(change::is_udp_to(&frame, VXLAN));
        }
    }
    assert!(wrapped >= 400, "{wrapped} packets of the tunnel");
    let service = Service::listen(lab.server(), BEHIND, 80)?;
    let tcp = Pair::open(lab.client(), None, SocketAddrV4::new(BEHIND, 80), &service)?;
    for way in [Way::Up, Way::Down] {
        let transfer = tcp.transfer(way, 500_000)?;
        assert_eq!(transfer.sent, transfer.received, "{way:?}");
    }
    // To the same host, beside the tunnel.
    let server = udp::bind(lab.server(), SERVER, PORT + 1)?;
    lab.server().run(&format!("ip route replace {CLIENT}/32 via {GATEWAY_WAN}"))?;
    let plain = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, PORT + 1), server)?;
    lab.until_flying("udp", plain.source_port(), || plain.ping(1).map(drop))?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    for (protocol, port, to) in [("udp", pair.source_port(), PORT), ("tcp", tcp.source_port(), 80)] {
        assert_eq!(gateway.flow(protocol, port)?.map_or(0, |flow| flow.packets()), 0);
        let found = Explained::ask(gateway, protocol, (CLIENT, port), (BEHIND, to))?;
        assert_eq!(found.state(), "candidate", "{found:?}");
        assert!(found.notes().contains("leads out of tunnel, which is no port"), "{found:?}");
    }
    Ok(())
}

/// A route into the tunnel appears: soon nothing leaves in clear any more. It goes: the connection flies again.
#[test]
fn a_connection_that_flies_goes_into_a_tunnel_and_comes_out_again() -> Result<()> {
    let lab = tunnelled()?;
    in_clear(&lab)?;
    let pair = pair(&lab)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(&pair, PACE, true)?;
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    last_of_the_old_way(&wire, is_clear, || by_tunnel(&lab))?;
    let before = stream.received();
    wait::until_true(wait::PATIENCE, "the stream to go on in the tunnel", || {
        stream.received() > before + 200
    })?;
    assert!(!flies(&lab, &pair)?);
    in_clear(&lab)?;
    wait::until_true(wait::PATIENCE, "the stream to fly again", || {
        lab.flyover().is_none() || flies(&lab, &pair).unwrap_or(false)
    })?;
    assert_eq!(stream.duplicated() + stream.foreign(), 0);
    Ok(())
}

/// Lets everything through and tracks it; conntrack calls wrapped packets invalid.
const OPEN: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
  }
}
";

/// A tunnel that is on no interface: the route itself wraps packets, which leave by the same port (RFC 8754).
#[test]
fn a_route_that_wraps_takes_a_connection_out_of_the_air() -> Result<()> {
    let lab = change::lab(OPEN).ipv6().build()?;
    let server = udp::bind(lab.server(), SERVER6, PORT)?;
    let to = std::net::SocketAddr::from((SERVER6, PORT));
    let pair = udp::Pair::open(lab.client(), CLIENT6, to, server)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(&pair, PACE, true)?;
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    // A router on the wire, which has the server's MAC address.
    let segment = "2001:db8:1::20";
    let hop = wire.mac.map(|byte| format!("{byte:02x}")).join(":");
    lab.gateway().run(&format!("ip neigh replace {segment} lladdr {hop} dev wan0 nud permanent"))?;
    let up = |frame: &[u8]| is_clear(frame) && frame.get(56..58) == Some(&PORT.to_be_bytes());
    last_of_the_old_way(&wire, up, || {
        lab.gateway()
            .run(&format!("ip -6 route add {SERVER6}/128 encap seg6 mode encap segs {segment} dev wan0"))
            .map(drop)
    })?;
    let wrapped = |frame: &[u8]| {
        // IPv6, and a routing header in it.
        frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&43)
    };
    wait::until_true(wait::PATIENCE, "wrapped packets", || {
        wire.receive(Duration::from_millis(10)).is_ok_and(|frame| frame.is_some_and(|frame| wrapped(&frame)))
    })?;
    assert!(!flies(&lab, &pair)?);
    lab.gateway().run(&format!("ip -6 route del {SERVER6}/128"))?;
    let before = stream.received();
    wait::until_true(wait::PATIENCE, "the stream again", || stream.received() > before + 50)
}

/// An IPsec policy asks for what the kernel can't do: here it has neither ESP nor a key. What it covers stops, and does not
/// leave in clear. With ESP and WireGuard: tests/guest/tunnels.
#[test]
fn an_ipsec_policy_without_a_key_stops_what_it_covers() -> Result<()> {
    let lab = change::lab(ROUTED).build()?;
    let service = |port| -> Result<udp::Pair> {
        let server = udp::bind(lab.server(), SERVER, port)?;
        udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, port), server)
    };
    let (covered, free) = (service(PORT)?, service(PORT + 1)?);
    for pair in [&covered, &free] {
        lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    }
    let streams = [udp::Stream::start(&covered, PACE, true)?];
    wait::until_true(wait::PATIENCE, "the stream", || streams[0].received() > 50)?;
    lab.gateway().run(&format!(
        "ip xfrm policy add src {CLIENT}/32 dst {SERVER}/32 proto udp dport {PORT} dir out \
         tmpl src {GATEWAY_WAN} dst {SERVER} proto esp mode tunnel"
    ))?;
    until_quiet(&streams)?;
    assert!(!flies(&lab, &covered)?);
    lab.until_flying("udp", free.source_port(), || free.ping(2).map(drop))?;
    lab.gateway().run("ip xfrm policy flush")?;
    let before = streams[0].received();
    wait::until_true(wait::PATIENCE, "the stream again", || streams[0].received() > before + 50)
}

/// What others send through the gateway: IPsec, GRE, IP in IP, SCTP. The kernel forwards it, bytes as they were.
#[test]
fn other_protocols_go_through_as_they_are() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).ipv6().rules(ROUTED).build()?;
    let (from, to) = (Wire::open(lab.client(), HOST_INTERFACE)?, Wire::open(lab.server(), HOST_INTERFACE)?);
    let macs = (from.mac, raw::mac(lab.gateway(), "lan0")?);
    // ESP, AH, IP in IP, SIT, L2TP, OSPF. Conntrack knows none of these.
    for protocol in [50_u8, 51, 4, 41, 115, 89] {
        let payload: Vec<u8> = (0..96).map(|byte| byte ^ protocol).collect();
        let header = etherparse::Ipv4Header::new(
            96,
            64,
            etherparse::IpNumber(protocol),
            CLIENT.octets(),
            SERVER.octets(),
        )
        .expect("short enough");
        let mut four = [&macs.1[..], &macs.0, &[8, 0]].concat();
        header.write(&mut four).expect("a vector takes all");
        four.extend_from_slice(&payload);
        let six = raw6::frame(macs, (CLIENT6, SERVER6), 64, protocol, &payload)?;
        // AH is an extension header to IPv6: half of it would be malformed.
        for frame in [Some(four), (protocol != 51).then_some(six)].into_iter().flatten() {
            from.send(&frame)?;
            wait::until_true(wait::PATIENCE, &format!("protocol {protocol}"), || {
                let arrived = to.receive(Duration::from_millis(10)).ok().flatten();
                arrived.is_some_and(|arrived| arrived.len() == frame.len() && arrived.ends_with(&payload))
            })?;
        }
    }
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert!(gateway.flows()?.is_empty(), "{:?}", gateway.flows()?);
    wait::until_true(REVALIDATE_WITHIN + GRACE, "them to be counted", || {
        gateway.status().and_then(|status| status.counter("punted_by_reason.protocol")).is_ok_and(|n| n >= 10)
    })
}
