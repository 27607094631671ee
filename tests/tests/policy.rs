//! The ruleset in force is the only policy, also for connections that fly.

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use lab::change::{GRACE, REVALIDATE_WITHIN, lab, udp_pair, until_quiet};
use lab::rules::{HOME_ROUTER, ROUTED};
use lab::tcp::{Pair, Service};
use lab::topology::SERVER;
use lab::{Result, udp, wait};

#[test]
fn a_rule_that_forbids_a_running_stream_stops_it() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let streams = [udp::Stream::start(&pair, Duration::from_millis(1), true)?];
    wait::until_true(wait::PATIENCE, "the stream", || streams[0].received() > 100)?;
    lab.gateway().nft("insert rule inet filter forward udp dport 5000 drop")?;
    until_quiet(&streams)?;
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("udp", pair.source_port())?;
        assert!(flow.as_ref().is_none_or(|flow| !flow.flies()), "{flow:?}");
    }
    // The stream goes on knocking, and goes on once it may again.
    let received = streams[0].received();
    lab.gateway().nft("flush chain inet filter forward; add rule inet filter forward accept")?;
    wait::until_true(wait::PATIENCE, "the stream again", || streams[0].received() > received + 100)
}

#[test]
fn a_rule_that_forbids_a_running_tcp_connection_stops_it() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    pair.client.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    pair.server.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    lab.gateway().nft("insert rule inet filter forward tcp dport 80 drop")?;
    let mut token = 2;
    wait::until_true(REVALIDATE_WITHIN + GRACE, "the connection to stand still", || {
        token += 1;
        pair.ping(token).is_err()
    })
}

#[test]
fn an_unrelated_change_does_not_stop_anything() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let mut token = 2;
    for port in 6000..6005 {
        lab.gateway().nft(&format!("insert rule inet filter forward udp dport {port} drop"))?;
        let started = Instant::now();
        while started.elapsed() < REVALIDATE_WITHIN {
            pair.ping(token)?;
            token += 1;
        }
    }
    lab.until_flying("udp", pair.source_port(), || pair.ping(token).map(drop))?;
    Ok(())
}

/// Streams are forbidden at every moment of their admission: at their first packet, while they are candidates,
/// while their first packets are on the way through the kernel, and just after. A packet that was queued before
/// the change and let through must not admit its flow after it: such a flow would fly on for ten minutes.
#[test]
fn a_frame_queued_before_a_change_never_admits_after_it() -> Result<()> {
    const STREAMS: u16 = 8;
    let lab = lab(ROUTED).build()?;
    for round in 0..6_u16 {
        let mut pairs = Vec::new();
        let mut streams = Vec::new();
        let ports: Vec<u16> = (0..STREAMS).map(|number| 5000 + round * STREAMS + number).collect();
        for port in &ports {
            pairs.push(udp_pair(&lab, *port)?);
        }
        for pair in &pairs {
            streams.push(udp::Stream::start(pair, Duration::from_micros(200), true)?);
            // From all at once to one every 10 ms: the last has just begun when the change comes.
            thread::sleep(Duration::from_millis(u64::from(round) * 2));
        }
        let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        lab.gateway().nft(&format!("insert rule inet filter forward udp dport {{ {list} }} drop"))?;
        until_quiet(&streams)?;
        if let Some(gateway) = lab.flyover() {
            let flying: Vec<_> = gateway
                .flows()?
                .into_iter()
                .filter(|flow| {
                    flow.flies() && flow.original().is_some_and(|way| ports.contains(&way.destination.port()))
                })
                .collect();
            assert!(flying.is_empty(), "in round {round}: {flying:?}");
        }
    }
    Ok(())
}
