//! The kernel's NAT, at Flyover's speed: every kind of it, TCP and UDP, and what the far end sees.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use lab::rules::{HOME_ROUTER, ROUTED, SHIPPED, SNAT};
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_SNAT, GATEWAY_WAN, LAN_SERVER, SERVER};
use lab::{Lab, LabError, Plane, Result, udp};

/// A path through the gateway: who connects from where to where, who listens where, and what it sees.
struct Path {
    from_client: bool,
    source: Ipv4Addr,
    to: SocketAddrV4,
    service_at_client: bool,
    listen: Ipv4Addr,
    seen: Ipv4Addr,
}

const MASQUERADE: Path = Path {
    from_client: true,
    source: CLIENT,
    to: SocketAddrV4::new(SERVER, 80),
    service_at_client: false,
    listen: SERVER,
    seen: GATEWAY_WAN,
};
const DNAT: Path = Path {
    from_client: false,
    source: SERVER,
    to: SocketAddrV4::new(GATEWAY_WAN, 8080),
    service_at_client: true,
    listen: LAN_SERVER,
    seen: SERVER,
};
const HAIRPIN: Path = Path { from_client: true, source: CLIENT, seen: GATEWAY_LAN, ..DNAT };
const PLAIN: Path = Path { seen: CLIENT, ..MASQUERADE };
const FIXED: Path = Path { seen: GATEWAY_SNAT, ..MASQUERADE };

#[test]
fn masquerade() -> Result<()> {
    carries(HOME_ROUTER, &MASQUERADE)
}

#[test]
fn dnat_to_a_port() -> Result<()> {
    carries(HOME_ROUTER, &DNAT)
}

#[test]
fn hairpin() -> Result<()> {
    carries(HOME_ROUTER, &HAIRPIN)
}

#[test]
fn the_shipped_home_router_masquerades_and_forwards_a_port() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(SHIPPED).build()?;
    tcp_over(&lab, &MASQUERADE)?;
    udp_over(&lab, &MASQUERADE)?;
    tcp_over(&lab, &DNAT)?;
    Ok(())
}

#[test]
fn plain_routing() -> Result<()> {
    carries(ROUTED, &PLAIN)
}

#[test]
fn snat_to_an_address_and_ports() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(SNAT).build()?;
    let seen = tcp_over(&lab, &FIXED)?;
    assert!((20000..30000).contains(&seen.port()), "{seen}");
    let seen = udp_over(&lab, &FIXED)?;
    assert!((20000..30000).contains(&seen.port()), "{seen}");
    Ok(())
}

fn carries(rules: &str, path: &Path) -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(rules).build()?;
    tcp_over(&lab, path)?;
    udp_over(&lab, path)?;
    Ok(())
}

/// A connection over `path` flies, carries 4 MB each way unharmed, and is seen from where the kernel says.
fn tcp_over(lab: &Lab, path: &Path) -> Result<SocketAddr> {
    let service = Service::listen(path.host(lab), path.listen, path.port())?;
    let pair = Pair::open(path.initiator(lab), Some(path.source), path.to, &service)?;
    let seen = pair.seen_source()?;
    assert_eq!(seen.ip(), IpAddr::V4(path.seen));
    let flow = lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 4_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), flow) {
        let flow = gateway.flow("tcp", pair.source_port())?.ok_or_else(gone)?;
        let original = flow.original().ok_or_else(gone)?;
        assert_eq!(original.source, SocketAddr::from((path.source, pair.source_port())));
        assert_eq!(original.destination, SocketAddr::V4(path.to));
        let reply = flow.reply().ok_or_else(gone)?;
        assert_eq!(reply.source, SocketAddr::from((path.listen, path.port())));
        assert_eq!(reply.destination, seen);
        // 8 MB are some 5,500 segments.
        assert!(flow.packets() - before.packets() >= 5_000, "{flow:?}");
    }
    pair.finish()?;
    Ok(seen)
}

/// A UDP stream over `path` flies, loses nothing, and is seen from where the kernel says.
fn udp_over(lab: &Lab, path: &Path) -> Result<SocketAddr> {
    let server = udp::bind(path.host(lab), path.listen, path.port())?;
    let pair = udp::Pair::open(path.initiator(lab), path.source, path.to, server)?;
    let seen = pair.ping(0)?;
    assert_eq!(seen.ip(), IpAddr::V4(path.seen));
    let mut token = 0;
    let flow = lab.until_flying("udp", pair.source_port(), || {
        token += 1;
        assert_eq!(pair.ping(token)?, seen);
        Ok(())
    })?;
    for token in 1000..1200 {
        assert_eq!(pair.ping(token)?, seen);
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), flow) {
        let flow = gateway.flow("udp", pair.source_port())?.ok_or_else(gone)?;
        assert!(flow.packets() - before.packets() >= 390, "{flow:?}");
    }
    Ok(seen)
}

impl Path {
    fn initiator<'a>(&self, lab: &'a Lab) -> &'a lab::Namespace {
        if self.from_client { lab.client() } else { lab.server() }
    }

    fn host<'a>(&self, lab: &'a Lab) -> &'a lab::Namespace {
        if self.service_at_client { lab.client() } else { lab.server() }
    }

    /// Port 80 behind the port forward, and the port itself everywhere else.
    fn port(&self) -> u16 {
        80
    }
}

fn gone() -> LabError {
    LabError::Missing("the connection in `flyover flows`".to_owned())
}
