//! The kernel's NAT, at Flyover's speed: every kind of it, TCP and UDP, and what the far end sees.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use lab::path::Path;
use lab::rules::{HOME_ROUTER, ROUTED, SHIPPED, SNAT};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_SNAT, GATEWAY_WAN, LAN_SERVER, SERVER};
use lab::{Lab, Plane, Result};

const MASQUERADE: Path = Path::out(CLIENT, SERVER, GATEWAY_WAN);
const DNAT: Path = Path {
    from_client: false,
    source: IpAddr::V4(SERVER),
    to: SocketAddr::V4(SocketAddrV4::new(GATEWAY_WAN, 8080)),
    service_at_client: true,
    listen: SocketAddr::V4(SocketAddrV4::new(LAN_SERVER, 80)),
    seen: IpAddr::V4(SERVER),
};
const HAIRPIN: Path =
    Path { from_client: true, source: IpAddr::V4(CLIENT), seen: IpAddr::V4(GATEWAY_LAN), ..DNAT };
const PLAIN: Path = Path::out(CLIENT, SERVER, CLIENT);
const FIXED: Path = Path::out(CLIENT, SERVER, GATEWAY_SNAT);

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
    MASQUERADE.tcp(&lab)?;
    MASQUERADE.udp(&lab)?;
    DNAT.tcp(&lab).map(drop)
}

#[test]
fn plain_routing() -> Result<()> {
    carries(ROUTED, &PLAIN)
}

#[test]
fn snat_to_an_address_and_ports() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(SNAT).build()?;
    let seen = FIXED.tcp(&lab)?;
    assert!((20000..30000).contains(&seen.port()), "{seen}");
    let seen = FIXED.udp(&lab)?;
    assert!((20000..30000).contains(&seen.port()), "{seen}");
    Ok(())
}

fn carries(rules: &str, path: &Path) -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(rules).build()?;
    path.both(&lab)
}
