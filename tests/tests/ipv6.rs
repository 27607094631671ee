//! IPv6 over twins: routing, NAT66 and prefix translation, neighbour discovery, link-local next hops, hop limits and
//! extension headers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use lab::icmp;
use lab::path::Path;
use lab::raw::{self, Wire};
use lab::raw6::{self, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, UDP};
use lab::rules::{HOME_ROUTER6, NPT, ROUTED};
use lab::topology::{CLIENT6, GATEWAY_LAN6, GATEWAY_WAN6, HOST_INTERFACE, LAN_SERVER6, SERVER6};
use lab::{Lab, LabError, Namespace, Plane, Result, udp, wait};

/// The client's address as [`NPT`] shows it to the world.
const TRANSLATED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x10);
/// An address behind the server, reached over its link-local address.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1);

fn lab(rules: &str) -> Result<Lab> {
    Lab::builder(Plane::under_test()).ipv6().rules(rules).build()
}

const fn out(server: Ipv6Addr, seen: Ipv6Addr) -> Path {
    Path::out_by(IpAddr::V6(CLIENT6), IpAddr::V6(server), IpAddr::V6(seen))
}

/// From the server to an address that the gateway translates.
const fn inwards(to: Ipv6Addr, port: u16, listen: Ipv6Addr) -> Path {
    Path {
        from_client: false,
        source: IpAddr::V6(SERVER6),
        to: SocketAddr::V6(SocketAddrV6::new(to, port, 0, 0)),
        service_at_client: true,
        listen: SocketAddr::V6(SocketAddrV6::new(listen, 80, 0, 0)),
        seen: IpAddr::V6(SERVER6),
    }
}

#[test]
fn plain_routing() -> Result<()> {
    out(SERVER6, CLIENT6).both(&lab(ROUTED)?)
}

#[test]
fn masquerade() -> Result<()> {
    out(SERVER6, GATEWAY_WAN6).both(&lab(HOME_ROUTER6)?)
}

#[test]
fn dnat_to_a_port() -> Result<()> {
    inwards(GATEWAY_WAN6, 8080, LAN_SERVER6).both(&lab(HOME_ROUTER6)?)
}

#[test]
fn prefix_translation_both_ways() -> Result<()> {
    let lab = lab(NPT)?;
    out(SERVER6, TRANSLATED).both(&lab)?;
    inwards(TRANSLATED, 80, CLIENT6).both(&lab)
}

/// Both families at once, over the same ports.
#[test]
fn beside_ipv4() -> Result<()> {
    use lab::topology::{CLIENT, SERVER};
    let lab = lab(ROUTED)?;
    Path::out(CLIENT, SERVER, CLIENT).both(&lab)?;
    out(SERVER6, CLIENT6).both(&lab)
}

#[test]
fn neighbours_are_found_and_found_again() -> Result<()> {
    let lab = lab(ROUTED)?;
    let pair = flying(&lab)?;
    for twin in ["lan0", "wan0"] {
        let addresses = lab.gateway().run(&format!("ip -6 address show dev {twin}"))?;
        assert!(addresses.contains("scope link") && addresses.contains("scope global"), "{addresses}");
        assert!(!addresses.contains("dadfailed") && !addresses.contains("tentative"), "{addresses}");
    }
    for namespace in [lab.gateway(), lab.client(), lab.server()] {
        let neighbours = namespace.run("ip -6 neigh show")?;
        assert!(neighbours.contains("lladdr") && !neighbours.contains("PERMANENT"), "{neighbours}");
    }
    for (namespace, device) in
        [(lab.gateway(), "lan0"), (lab.gateway(), "wan0"), (lab.client(), "eth0"), (lab.server(), "eth0")]
    {
        namespace.run(&format!("ip -6 neigh flush dev {device}"))?;
    }
    lab.until_flying("udp", pair.source_port(), || pair.ping(2).map(drop))?;
    Ok(())
}

#[test]
fn a_duplicate_of_the_gateways_address_is_noticed() -> Result<()> {
    let lab = lab(ROUTED)?;
    lab.server().run(&format!("ip address add {GATEWAY_WAN6}/64 dev {HOST_INTERFACE}"))?;
    wait::until_true(wait::PATIENCE, "the server to find the address taken", || {
        lab.server().run("ip -6 address show dadfailed").is_ok_and(|text| text.contains("2001:db8:1::1/"))
    })?;
    let taken = lab.gateway().run("ip -6 address show dadfailed")?;
    assert!(taken.trim().is_empty(), "{taken}");
    Ok(())
}

#[test]
fn next_hops_by_their_link_local_addresses() -> Result<()> {
    let lab = lab(ROUTED)?;
    let (lan, wan) = (link_local(lab.gateway(), "lan0")?, link_local(lab.gateway(), "wan0")?);
    let server = link_local(lab.server(), HOST_INTERFACE)?;
    lab.server().run(&format!("ip address add {FAR}/128 dev lo"))?;
    lab.gateway().run(&format!("ip route add {FAR}/128 via {server} dev wan0"))?;
    lab.client().run(&format!("ip -6 route replace default via {lan} dev {HOST_INTERFACE}"))?;
    lab.server().run(&format!("ip -6 route replace default via {wan} dev {HOST_INTERFACE}"))?;
    out(FAR, CLIENT6).both(&lab)
}

#[test]
fn a_hop_limit_of_one_is_answered_by_the_gateway() -> Result<()> {
    let lab = lab(HOME_ROUTER6)?;
    let pair = flying(&lab)?;
    let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
    let socket = socket2::SockRef::from(&pair.client);
    let what = || LabError::io("set the hop limit");
    socket.set_unicast_hops_v6(1).map_err(what())?;
    pair.client.send(&udp::datagram(77, 64)).map_err(LabError::io("send"))?;
    let error = icmp::Error::wait(&wire, icmp::Error::time_exceeded(IpAddr::V6(CLIENT6)))?;
    assert_eq!((error.from, error.to), (IpAddr::V6(GATEWAY_LAN6), IpAddr::V6(CLIENT6)));
    // What came back is what was sent, before any NAT.
    assert_eq!(Some(error.inner_source), pair.client.local_addr().ok());
    assert_eq!(Some(error.inner_destination), pair.client.peer_addr().ok());
    socket.set_unicast_hops_v6(64).map_err(what())?;
    // The error that the socket holds comes with its next call.
    let _ = pair.client.take_error();
    lab.until_flying("udp", pair.source_port(), || pair.ping(3).map(drop))?;
    Ok(())
}

#[test]
fn packets_with_extension_headers_go_through_the_kernel() -> Result<()> {
    let lab = lab(ROUTED)?;
    let pair = flying(&lab)?;
    let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
    let macs = (wire.mac, raw::mac(lab.gateway(), "lan0")?);
    let (addresses, ports) = ((CLIENT6, SERVER6), (pair.source_port(), 5000));
    let datagram =
        |token, size| raw6::udp((CLIENT6, ports.0), (SERVER6, ports.1), &udp::datagram(token, size));
    let punted = |reason: &str| match lab.flyover() {
        Some(gateway) => gateway.status()?.counter(&format!("punted_by_reason.{reason}")),
        None => Ok(0),
    };
    let before = (punted("extension_header")?, punted("fragment")?);
    for (token, kind) in [(100, HOP_BY_HOP), (101, DESTINATION_OPTIONS)] {
        let payload = [&raw6::options(UDP)[..], &datagram(token, 64)?].concat();
        wire.send(&raw6::frame(macs, addresses, 64, kind, &payload)?)?;
        assert_eq!(pair.arrival(token)?.port(), ports.0);
    }
    let whole = datagram(102, 600)?;
    let (head, tail) = whole.split_at(304);
    for (offset, more, part) in [(0, true, head), (304, false, tail)] {
        let payload = [&raw6::fragment(UDP, offset, more, 7)[..], part].concat();
        wire.send(&raw6::frame(macs, addresses, 64, FRAGMENT, &payload)?)?;
    }
    assert_eq!(pair.arrival(102)?.port(), ports.0);
    // A fragment that is a whole packet (RFC 6946).
    let payload = [&raw6::fragment(UDP, 0, false, 8)[..], &datagram(103, 64)?].concat();
    wire.send(&raw6::frame(macs, addresses, 64, FRAGMENT, &payload)?)?;
    assert_eq!(pair.arrival(103)?.port(), ports.0);
    if lab.flyover().is_some() {
        let after = (punted("extension_header")?, punted("fragment")?);
        assert!(after.0 >= before.0 + 2 && after.1 >= before.1 + 3, "{before:?} {after:?}");
    }
    lab.until_flying("udp", pair.source_port(), || pair.ping(4).map(drop))?;
    Ok(())
}

/// A UDP flow that flies.
fn flying(lab: &Lab) -> Result<udp::Pair> {
    let to = SocketAddr::from((SERVER6, 5000));
    let pair = udp::Pair::open(lab.client(), CLIENT6, to, udp::bind(lab.server(), SERVER6, 5000)?)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    Ok(pair)
}

fn link_local(namespace: &Namespace, device: &str) -> Result<String> {
    let text = namespace.run(&format!("ip -6 -o address show dev {device} scope link"))?;
    let address = text.split_whitespace().find_map(|word| word.strip_suffix("/64"));
    address.map(str::to_owned).ok_or_else(|| LabError::Missing(format!("a link-local address of {device}")))
}
