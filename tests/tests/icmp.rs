//! ICMP and ICMPv6 about flows that fly: errors reach the host that they are for, with the headers that it knows,
//! and path MTU discovery works in both directions.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use lab::icmp::{self, Error};
use lab::raw::Wire;
use lab::rules::{HOME_ROUTER, HOME_ROUTER6};
use lab::tcp::{Pair, Service, Way};
use lab::topology::{
    CLIENT, CLIENT6, GATEWAY_LAN, GATEWAY_LAN6, GATEWAY_WAN, GATEWAY_WAN6, HOST_INTERFACE, SERVER, SERVER6,
};
use lab::{Lab, LabError, Plane, Result, udp, wait};
use nix::errno::Errno;

/// What a link gets whose MTU shrinks.
const SMALLER: u32 = 1300;
/// How long a transfer may stand still while its path MTU is found out.
const STALL: Duration = Duration::from_secs(5);
/// Until when a gateway on a busy machine has heard of a change: packets may fly as before for as long.
const ANNOUNCED: Duration = Duration::from_millis(500);

/// Who is who in a family.
#[derive(Clone, Copy, Debug)]
struct Family {
    client: IpAddr,
    server: IpAddr,
    gateway_lan: IpAddr,
    gateway_wan: IpAddr,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: IpAddr::V4(CLIENT),
        server: IpAddr::V4(SERVER),
        gateway_lan: IpAddr::V4(GATEWAY_LAN),
        gateway_wan: IpAddr::V4(GATEWAY_WAN),
    },
    Family {
        client: IpAddr::V6(CLIENT6),
        server: IpAddr::V6(SERVER6),
        gateway_lan: IpAddr::V6(GATEWAY_LAN6),
        gateway_wan: IpAddr::V6(GATEWAY_WAN6),
    },
];

/// A home router of both families, masquerading in both.
fn lab() -> Result<Lab> {
    Lab::builder(Plane::under_test()).ipv6().rules(&format!("{HOME_ROUTER}{HOME_ROUTER6}")).build()
}

/// A UDP flow that flies, and where the server sees it come from.
fn flying(lab: &Lab, family: Family) -> Result<(udp::Pair, SocketAddr)> {
    let to = SocketAddr::new(family.server, 5000);
    let server = udp::bind(lab.server(), family.server, 5000)?;
    let pair = udp::Pair::open(lab.client(), family.client, to, server)?;
    let seen = pair.ping(0)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    Ok((pair, seen))
}

#[test]
fn a_closed_port_at_the_server_is_told_to_the_client() -> Result<()> {
    let lab = lab()?;
    for family in FAMILIES {
        let (pair, _) = flying(&lab, family)?;
        let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
        let udp::Pair { client, server } = pair;
        drop(server);
        client.send(&udp::datagram(2, 64)).map_err(LabError::io("send"))?;
        let error = Error::wait(&wire, Error::port_unreachable(family.server))?;
        assert_eq!((error.from, error.to), (family.server, family.client));
        assert_eq!(Some(error.inner_source), client.local_addr().ok());
        assert_eq!(Some(error.inner_destination), client.peer_addr().ok());
        let refused = client.recv(&mut [0; 64]).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    }
    Ok(())
}

#[test]
fn a_closed_port_at_the_client_is_told_to_the_server() -> Result<()> {
    let lab = lab()?;
    for family in FAMILIES {
        let (pair, seen) = flying(&lab, family)?;
        let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
        let udp::Pair { client, server } = pair;
        drop(client);
        server.connect(seen).map_err(LabError::io("connect"))?;
        server.send(&udp::datagram(2, 64)).map_err(LabError::io("send"))?;
        let error = Error::wait(&wire, Error::port_unreachable(family.server))?;
        // The server knows of no client: all that it has ever seen is the gateway.
        assert_eq!((error.from, error.to), (family.gateway_wan, family.server));
        assert_eq!(error.inner_source, SocketAddr::new(family.server, 5000));
        assert_eq!(error.inner_destination, seen);
        let refused = server.recv(&mut [0; 64]).map_err(|e| e.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    }
    Ok(())
}

/// A router behind the server finds a packet of the flow too big; its path MTU is kept by the client.
#[test]
fn a_smaller_mtu_beyond_the_server_reaches_the_client() -> Result<()> {
    let lab = lab()?;
    for family in FAMILIES {
        let (pair, seen) = flying(&lab, family)?;
        let wires = (Wire::open(lab.server(), HOST_INTERFACE)?, Wire::open(lab.client(), HOST_INTERFACE)?);
        pair.client.send(&udp::datagram(2, 1400)).map_err(LabError::io("send"))?;
        let frame = wait::until(wait::PATIENCE, "a long datagram", || {
            let frame = wires.0.receive(Duration::from_millis(10)).ok().flatten()?;
            (frame.len() > 1400).then_some(frame)
        })?;
        wires.0.send(&icmp::too_big_of(&frame, 1290)?)?;
        let error = Error::wait(&wires.1, Error::too_big(family.server))?;
        assert_eq!((error.to, error.mtu), (family.client, 1290));
        assert_eq!(Some(error.inner_source), pair.client.local_addr().ok(), "and not {seen}");
        wait::until_true(wait::PATIENCE, "the client to know the path MTU", || {
            let route = lab.client().run(&format!("ip route get {}", family.server));
            route.is_ok_and(|route| route.contains("mtu 1290"))
        })?;
    }
    Ok(())
}

#[test]
fn traceroute_shows_the_gateway() -> Result<()> {
    let lab = lab()?;
    for family in FAMILIES {
        let (pair, _) = flying(&lab, family)?;
        let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
        let hops = |hops| {
            let socket = socket2::SockRef::from(&pair.client);
            if family.client.is_ipv4() { socket.set_ttl_v4(hops) } else { socket.set_unicast_hops_v6(hops) }
                .map_err(LabError::io("set the hop limit"))
        };
        hops(1)?;
        pair.client.send(&udp::datagram(77, 64)).map_err(LabError::io("send"))?;
        let error = Error::wait(&wire, Error::time_exceeded(family.client))?;
        assert_eq!((error.from, error.to), (family.gateway_lan, family.client));
        assert_eq!(Some(error.inner_source), pair.client.local_addr().ok());
        hops(2)?;
        pair.client.send(&udp::datagram(78, 64)).map_err(LabError::io("send"))?;
        pair.arrival(78)?;
        hops(64)?;
        // The error that the socket may hold.
        let _ = pair.client.take_error();
        lab.until_flying("udp", pair.source_port(), || pair.ping(3).map(drop))?;
    }
    Ok(())
}

#[test]
fn fragments_of_a_carried_flow_arrive() -> Result<()> {
    let lab = lab()?;
    for family in FAMILIES {
        let (pair, seen) = flying(&lab, family)?;
        for token in 10..20 {
            assert_eq!(pair.ping_of(token, 4000)?, seen);
            assert_eq!(pair.ping(token)?, seen);
        }
    }
    Ok(())
}

#[test]
fn datagrams_that_may_not_be_fragmented_are_answered() -> Result<()> {
    let lab = lab()?;
    for family in FAMILIES {
        let (pair, _) = flying(&lab, family)?;
        // The longest that goes is proved first.
        pair.ping_of(2, 1400)?;
        lab.gateway().run(&format!("ip link set wan0 mtu {SMALLER}"))?;
        thread::sleep(ANNOUNCED);
        let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
        pair.client.send(&udp::datagram(3, 1400)).map_err(LabError::io("send"))?;
        let error = Error::wait(&wire, Error::too_big(family.client))?;
        assert_eq!((error.from, error.to, error.mtu), (family.gateway_lan, family.client, SMALLER));
        assert_eq!(Some(error.inner_source), pair.client.local_addr().ok());
        // The socket may be told by its next call; from then on the client fragments by itself.
        let told = pair.client.send(&udp::datagram(4, 1400));
        if let Err(error) = told {
            assert_eq!(error.raw_os_error(), Some(Errno::EMSGSIZE as i32), "{error}");
            pair.client.send(&udp::datagram(4, 1400)).map_err(LabError::io("send"))?;
        }
        pair.arrival(4)?;
        lab.gateway().run("ip link set wan0 mtu 1500")?;
    }
    Ok(())
}

#[test]
fn datagrams_that_may_be_fragmented_are() -> Result<()> {
    let lab = lab()?;
    // Sockets made from now on leave "don't fragment" clear.
    lab.client().sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
    let (pair, _) = flying(&lab, FAMILIES[0])?;
    pair.ping_of(2, 1400)?;
    lab.gateway().run(&format!("ip link set wan0 mtu {SMALLER}"))?;
    thread::sleep(ANNOUNCED);
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    for token in 10..20 {
        pair.client.send(&udp::datagram(token, 1400)).map_err(LabError::io("send"))?;
        pair.arrival(token)?;
    }
    let mut fragments = 0;
    while let Some(frame) = wire.receive(Duration::ZERO)? {
        assert!(frame.len() <= 14 + SMALLER as usize, "longer than the MTU: {}", frame.len());
        // "More fragments" of an IPv4 packet.
        fragments += usize::from(frame.get(12..14) == Some(&[8, 0]) && frame[20] & 0x20 != 0);
    }
    assert_eq!(fragments, 10);
    Ok(())
}

/// How the way of a transfer gets its smaller MTU.
#[derive(Clone, Copy, Debug)]
enum Narrow {
    Link,
    Route,
}

#[test]
fn path_mtu_discovery_by_a_link_known_before() -> Result<()> {
    path_mtu(Narrow::Link, false)
}

#[test]
fn path_mtu_discovery_by_a_link_that_shrinks_in_flight() -> Result<()> {
    path_mtu(Narrow::Link, true)
}

#[test]
fn path_mtu_discovery_by_a_route_known_before() -> Result<()> {
    path_mtu(Narrow::Route, false)
}

#[test]
fn path_mtu_discovery_by_a_route_that_shrinks_in_flight() -> Result<()> {
    path_mtu(Narrow::Route, true)
}

fn path_mtu(narrow: Narrow, in_flight: bool) -> Result<()> {
    for way in [Way::Up, Way::Down] {
        let lab = lab()?;
        for family in FAMILIES {
            let service = Service::listen(lab.server(), family.server, 80)?;
            if !in_flight {
                shrink(&lab, narrow, way, family)?;
            }
            let pair =
                Pair::open(lab.client(), Some(family.client), SocketAddr::new(family.server, 80), &service)?;
            lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
            if in_flight {
                let transfer = pair.transfer(way, 2_000_000)?;
                assert_eq!(transfer.sent, transfer.received);
                shrink(&lab, narrow, way, family)?;
            }
            let wire = Wire::open(if way == Way::Up { lab.server() } else { lab.client() }, HOST_INTERFACE)?;
            let transfer = pair.transfer(way, 4_000_000)?;
            assert_eq!(transfer.sent, transfer.received);
            assert!(transfer.longest_wait < STALL, "{narrow:?} {way:?} {family:?}: {transfer:?}");
            while let Some(frame) = wire.receive(Duration::ZERO)? {
                let to_us = frame.get(..6) == Some(&wire.mac[..]);
                assert!(!to_us || frame.len() <= 14 + SMALLER as usize, "{} bytes", frame.len());
            }
            lab.until_flying("tcp", pair.source_port(), || pair.ping(2))?;
            pair.finish()?;
            if matches!(narrow, Narrow::Link) {
                for twin in ["wan0", "lan0"] {
                    lab.gateway().run(&format!("ip link set {twin} mtu 1500"))?;
                }
            }
        }
    }
    Ok(())
}

/// Makes the gateway's egress narrower. The sender's own link stays as it is.
fn shrink(lab: &Lab, narrow: Narrow, way: Way, family: Family) -> Result<()> {
    let (twin, to) = if way == Way::Up { ("wan0", family.server) } else { ("lan0", family.client) };
    match narrow {
        Narrow::Link => lab.gateway().run(&format!("ip link set {twin} mtu {SMALLER}")),
        // Locked, or IPv4 takes it for what other routers say (ip_forward_use_pmtu).
        Narrow::Route => lab.gateway().run(&format!("ip route add {to} dev {twin} mtu lock {SMALLER}")),
    }
    .map(|_| thread::sleep(ANNOUNCED))
}
