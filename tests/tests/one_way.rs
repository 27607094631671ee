//! One-way UDP: no answer ever comes, so no event tells of it. Its packets do.

use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use lab::rules::HOME_ROUTER;
use lab::topology::{CLIENT, SERVER};
use lab::{Lab, Plane, Result, conntrack, udp, wait};

fn open(lab: &Lab) -> Result<udp::Pair> {
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, 5000), server)
}

/// A stream without a single answer is found, asked for and flown; nothing of it is lost or out of order.
#[test]
fn a_stream_without_answers_flies() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let pair = open(&lab)?;
    let tally = pair.one_way(4000, 1000, Duration::from_secs(2))?;
    assert_eq!((tally.lost(), tally.reordered, tally.duplicated, tally.foreign), (0, 0, 0, 0), "{tally:?}");
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("udp", pair.source_port())?.expect("the stream's entry");
        let fast = flow.0.pointer("/packets/orig").and_then(serde_json::Value::as_u64);
        assert!(fast.is_some_and(|fast| fast >= 2000), "half of 4000 packets should have flown: {flow:?}");
    }
    Ok(())
}

/// Its entry, which the kernel would end after seconds without a packet, lives as long as packets fly.
#[test]
fn it_is_kept_alive() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    lab.gateway().run("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3")?;
    let pair = open(&lab)?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), false)?;
    wait::until_true(wait::PATIENCE, "the stream", || stream.received() > 100)?;
    let id = || -> Result<Option<u64>> {
        Ok(conntrack::find(lab.gateway(), "udp", pair.source_port())?.map(|entry| entry.id))
    };
    let before = id()?;
    assert!(before.is_some());
    for _ in 0..8 {
        thread::sleep(Duration::from_secs(1));
        assert_eq!(id()?, before, "the entry ended under a living stream");
    }
    if let Some(gateway) = lab.flyover() {
        assert!(gateway.flow("udp", pair.source_port())?.expect("the stream's entry").flies());
    }
    Ok(())
}

/// Many different 5-tuples with a packet each ask the kernel for nothing and take no room.
#[test]
fn a_flood_of_strangers_asks_for_nothing() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    for _ in 0..500 {
        let socket = udp::bind(lab.client(), CLIENT, 0)?;
        let to = SocketAddrV4::new(SERVER, 5000);
        socket.send_to(&udp::datagram(1, 64), to).map_err(lab::LabError::io("send"))?;
    }
    drop(server);
    if let Some(gateway) = lab.flyover() {
        assert!(gateway.flows()?.is_empty(), "{:?}", gateway.flows()?);
    }
    Ok(())
}
