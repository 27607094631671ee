//! Connections of every shape are carried, unharmed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::rules::HOME_ROUTER;
use lab::tcp::{self, Pair, Service, Way};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_WAN, SERVER};
use lab::{Lab, Meter, Plane, Result, conntrack, udp, wait};

const WEB: SocketAddrV4 = SocketAddrV4::new(SERVER, 80);

fn home() -> Result<Lab> {
    Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()
}

fn pair(lab: &Lab) -> Result<Pair> {
    Pair::open(lab.client(), None, WEB, &Service::listen(lab.server(), SERVER, WEB.port())?)
}

#[test]
fn tcp_up_then_down_then_both_at_once() -> Result<()> {
    let lab = home()?;
    let pair = pair(&lab)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 10_000_000)?;
        assert_eq!(transfer.sent, transfer.received, "{way:?}");
    }
    let (up, down) = pair.transfer_both(10_000_000)?;
    assert_eq!(up.sent, up.received);
    assert_eq!(down.sent, down.received);
    pair.finish()
}

#[test]
fn udp_one_way_after_a_greeting() -> Result<()> {
    let lab = home()?;
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, 5000), server)?;
    pair.ping(u64::MAX)?;
    let tally = pair.one_way(4000, 1000, Duration::from_secs(2))?;
    assert_eq!((tally.lost(), tally.reordered, tally.duplicated, tally.foreign), (0, 0, 0, 0), "{tally:?}");
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("udp", pair.source_port())?.expect("the stream's entry");
        let fast = flow.0.pointer("/packets/orig").and_then(serde_json::Value::as_u64);
        assert!(fast.is_some_and(|fast| fast >= 2000), "half of 4000 packets should have flown: {flow:?}");
    }
    Ok(())
}

#[test]
fn two_hundred_connections_at_once() -> Result<()> {
    const COUNT: usize = 200;
    let lab = home()?;
    let service = Service::listen(lab.server(), SERVER, WEB.port())?;
    let meter = lab.flyover().map(|gateway| Meter::start(&lab, gateway)).transpose()?;
    let pairs = tcp::many(lab.client(), WEB, &service, COUNT, 300_000)?;
    if let (Some(gateway), Some(meter)) = (lab.flyover(), meter) {
        let ports: Vec<u16> = pairs.iter().map(Pair::source_port).collect();
        wait::until_true(wait::PATIENCE, "all 200 connections to fly", || {
            // Those that were done before they could fly get another packet.
            pairs.iter().try_for_each(|pair| pair.ping(7)).is_ok_and(|()| {
                gateway.flows().is_ok_and(|flows| {
                    let flying = flows.iter().filter(|flow| {
                        flow.flies()
                            && flow
                                .original()
                                .is_some_and(|direction| ports.contains(&direction.source.port()))
                    });
                    flying.count() == COUNT
                })
            })
        })?;
        let share = meter.share(&lab, gateway)?;
        // A connection of 600 kB has some 600 packets, of which its first few have to meet the ruleset.
        assert!(share.by_flyover() > 0.8 && share.by_kernel() > 0.8, "{share:?}");
    }
    pairs.into_iter().try_for_each(Pair::finish)?;
    wait::until_true(wait::PATIENCE, "no connection to be ESTABLISHED any more", || {
        conntrack::list(lab.gateway())
            .is_ok_and(|entries| entries.iter().all(|entry| entry.state.as_deref() != Some("ESTABLISHED")))
    })
}

#[test]
fn server_speaks_first() -> Result<()> {
    let lab = home()?;
    let mut pair = pair(&lab)?;
    pair.server.write_all(b"220 ready\r\n").expect("a greeting leaves");
    let mut greeting = [0; 11];
    pair.client.read_exact(&mut greeting).expect("a greeting arrives");
    assert_eq!(&greeting, b"220 ready\r\n");
    lab.until_flying("tcp", pair.source_port(), || pair.ping(2))?;
    pair.finish()
}

#[test]
fn after_a_half_close_the_other_half_goes_on() -> Result<()> {
    for way in [Way::Up, Way::Down] {
        let lab = home()?;
        let pair = pair(&lab)?;
        lab.until_flying("tcp", pair.source_port(), || pair.ping(3))?;
        pair.half_close(way)?;
        let other = if way == Way::Up { Way::Down } else { Way::Up };
        let transfer = pair.transfer(other, 3_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
        pair.half_close(other)?;
    }
    Ok(())
}

#[test]
fn the_gateways_own_connections_are_never_admitted() -> Result<()> {
    let lab = home()?;
    let meter = lab.flyover().map(|gateway| Meter::start(&lab, gateway)).transpose()?;
    let own = |to: Ipv4Addr, port| SocketAddrV4::new(to, port);
    let at_server = Service::listen(lab.server(), SERVER, 80)?;
    let at_gateway = Service::listen(lab.gateway(), Ipv4Addr::UNSPECIFIED, 22)?;
    let pairs = [
        Pair::open(lab.gateway(), None, own(SERVER, 80), &at_server)?,
        Pair::open(lab.server(), None, own(GATEWAY_WAN, 22), &at_gateway)?,
        Pair::open(lab.client(), None, own(GATEWAY_LAN, 22), &at_gateway)?,
        // By the LAN to the address towards the world: through the gateway's routing, and still its own.
        Pair::open(lab.client(), None, own(GATEWAY_WAN, 22), &at_gateway)?,
    ];
    for pair in &pairs {
        let (up, down) = pair.transfer_both(2_000_000)?;
        assert_eq!((up.sent, down.sent), (up.received, down.received));
    }
    if let (Some(gateway), Some(meter)) = (lab.flyover(), meter) {
        assert_eq!(meter.share(&lab, gateway)?.fast, 0, "packets of the gateway's own flew");
        let flying: Vec<_> = gateway.flows()?.into_iter().filter(lab::status::Flow::flies).collect();
        assert!(flying.is_empty(), "{flying:?}");
    }
    Ok(())
}
