//! Flow records, as a collector that is not ours (nfcapd) has them. They reach it through the gateway's own twin.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lab::collector::{Collector, Record, total};
use lab::rules::{HOME_ROUTER, HOME_ROUTER6};
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, CLIENT6, GATEWAY_WAN, SERVER, SERVER6};
use lab::{Gateway, Lab, LabBuilder, Plane, Result, turn, udp, wait};

const PORT: u16 = 4739;
/// Where nobody listens.
const NOBODY: u16 = 4740;
/// What the kernel adds to a datagram's payload over IPv4 and IPv6.
const HEADERS4: u64 = 28;
const HEADERS6: u64 = 48;
/// Addresses and ports of IPv4, and TCP's header with time stamps.
const TCP_HEADERS: u64 = 52;

fn builder(collectors: &[SocketAddr]) -> LabBuilder {
    let collectors: Vec<String> = collectors.iter().map(|to| format!("\"{to}\"")).collect();
    Lab::builder(Plane::under_test())
        .config("ipfix", &format!("collectors = [{}]", collectors.join(", ")))
        .config("ipfix", "active_timeout = \"1s\"")
        .config("ipfix", "template_interval = \"1s\"")
}

/// A collector that has templates: without them it understands nothing.
fn listen(lab: &Lab, gateway: &Gateway, address: impl Into<IpAddr>) -> Result<Collector> {
    let collector = Collector::listen(lab.server(), (address.into(), PORT).into(), lab.directory())?;
    let messages = || gateway.status()?.counter("ipfix.0.messages");
    let before = messages()?;
    // The second was begun when the first had been sent.
    wait::until_true(wait::PATIENCE, "templates to be sent", || {
        messages().is_ok_and(|messages| messages >= before + 2)
    })?;
    Ok(collector)
}

/// The kernel counts its share, and TCP ends soon.
fn count(lab: &Lab) -> Result<()> {
    lab.gateway().sysctl("net.netfilter.nf_conntrack_acct", "1")?;
    for state in ["time_wait", "close", "last_ack", "close_wait", "fin_wait"] {
        lab.gateway().sysctl(&format!("net.netfilter.nf_conntrack_tcp_timeout_{state}"), "1")?;
    }
    Ok(())
}

/// A flow record, not a NAT event, of what came from this port.
fn of(source_port: u16) -> impl Fn(&Record) -> bool {
    move |record| record.text("nat event").is_empty() && record.number("src port") == Some(source_port.into())
}

fn has_reason(records: &[Record], reason: u64) -> bool {
    records.iter().any(|record| record.number("end reason") == Some(reason))
}

#[test]
fn a_masqueraded_connection_is_accounted_for_to_the_byte() -> Result<()> {
    let _turn = turn::take();
    let lab = builder(&[SocketAddr::from((SERVER, PORT))]).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    count(&lab)?;
    let collector = listen(&lab, gateway, SERVER)?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), Some(CLIENT.into()), (SERVER, 80), &service)?;
    let (source, seen) = (pair.client.local_addr().expect("an address"), pair.seen_source()?);
    lab.until_flying("tcp", source.port(), || pair.ping(1))?;
    let (mut up, mut down) = (0, 0);
    // Until some of it was told while the connection goes on.
    collector.wait_for("records of a connection that goes on", of(source.port()), |records| {
        let transfer = |way, bytes| pair.transfer(way, bytes).expect("a transfer").bytes;
        up += transfer(Way::Up, 600_000);
        down += transfer(Way::Down, 300_000);
        has_reason(records, 2)
    })?;
    pair.finish()?;
    let records = collector.wait_for("the record of its end", of(source.port()), |records| {
        // Reading the table makes the kernel look for what has ended.
        let _ = lab.gateway().run("conntrack -L");
        has_reason(records, 3)
    })?;
    for record in &records {
        assert_eq!(record.number("proto"), Some(6), "{record:?}");
        assert_eq!((record.end("src"), record.end("dst")), (Some(source), Some((SERVER, 80).into())));
        assert_eq!(record.end("src xlt"), Some(seen), "{record:?}");
        assert_eq!((seen.ip(), record.end("dst xlt")), (GATEWAY_WAN.into(), Some((SERVER, 80).into())));
        let interface = |name: &str| lab.gateway().run(&format!("ip -o link show dev {name}"));
        let index = |name: &str| interface(name).ok()?.split(':').next()?.parse().ok();
        assert_eq!((record.number("input"), record.number("output")), (index("lan0"), index("wan0")));
        assert_eq!(record.text("biFlow Dir"), "0x01 initiator");
    }
    let of_end = records.iter().filter(|record| record.number("end reason") != Some(2)).count();
    assert_eq!(of_end, 1, "one last record: {records:?}");
    // A token each way before the transfers; segments have the headers that TCP gives them.
    let [[up_packets, up_bytes], [down_packets, down_bytes]] = total(&records);
    for (payload, packets, bytes) in [(up, up_packets, up_bytes), (down, down_packets, down_bytes)] {
        let carried = bytes.checked_sub(packets * TCP_HEADERS).expect("headers at the least");
        assert!(carried >= payload, "{payload} bytes were sent, and {carried} told of");
        assert!(carried <= payload + payload / 50 + 1000, "{payload} bytes were sent, and {carried} told of");
        assert!(packets >= payload / 1448, "{packets} packets for {payload} bytes");
    }
    let flown = records.iter().filter(|record| record.number("end reason") == Some(2));
    let flown = total(&flown.cloned().collect::<Vec<_>>());
    assert!(flown[0][1] > 500_000 && flown[1][1] > 250_000, "told while it went on: {flown:?}");
    let status = gateway.status()?;
    assert_eq!(status.counter("ipfix.0.lost")?, 0, "{status:?}");
    assert!(status.counter("ipfix.0.records")? >= records.len() as u64, "{status:?}");
    Ok(())
}

/// Every datagram of a stream is told of, whoever carried it; so is the NAT session, and a connection that never flew.
#[test]
fn datagrams_are_counted_and_sessions_logged() -> Result<()> {
    let _turn = turn::take();
    let collectors = [SocketAddr::from((SERVER, PORT)), SocketAddr::from((SERVER, NOBODY))];
    let mut lab = builder(&collectors).config("ipfix", "nat_events = true").rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    count(&lab)?;
    let collector = listen(&lab, gateway, SERVER)?;
    let size = 100;
    let stream = |port, pings: u64| -> Result<(udp::Pair, SocketAddr, u64)> {
        let server = udp::bind(lab.server(), SERVER, port)?;
        let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddr::from((SERVER, port)), server)?;
        let (mut seen, mut sent) = (pair.ping_of(0, size)?, 1);
        if pings > 0 {
            lab.until_flying("udp", pair.source_port(), || {
                sent += 1;
                seen = pair.ping_of(sent, size)?;
                Ok(())
            })?;
        }
        for token in 0..pings {
            pair.ping_of(10_000 + token, size)?;
        }
        Ok((pair, seen, sent + pings))
    };
    for (port, pings) in [(5000, 500), (5001, 0)] {
        let (pair, seen, sent) = stream(port, pings)?;
        let source = pair.source_port();
        lab.gateway().run(&format!("conntrack -D -p udp --orig-port-src {source}"))?;
        let records =
            collector.wait_for("the record of its end", of(source), |records| has_reason(records, 4))?;
        let all = [sent, sent * (size as u64 + HEADERS4)];
        assert_eq!(total(&records), [all; 2], "{records:?}");
        assert!(records.iter().all(|record| record.end("src xlt") == Some(seen)), "{records:?}");
        let events = collector.wait_for(
            "both NAT events",
            |record| !record.text("nat event").is_empty() && record.number("src port") == Some(source.into()),
            |events| events.len() >= 2,
        )?;
        let numbers: Vec<Option<u64>> = events.iter().map(|event| event.number("nat event")).collect();
        assert_eq!(numbers, [Some(4), Some(5)], "{events:?}");
        for event in events {
            assert_eq!(event.end("src"), Some((CLIENT, source).into()), "{event:?}");
            assert_eq!(event.end("src xlt"), Some(seen), "{event:?}");
        }
    }
    // Nobody's fault but the collector's: told, and in nobody's way.
    wait::until_true(wait::PATIENCE, "the other collector to be missed", || {
        gateway.status().is_ok_and(|status| status.counter("ipfix.1.lost").is_ok_and(|lost| lost > 0))
    })?;
    let status = gateway.status()?;
    let told =
        status.0.pointer("/ipfix/1/error").and_then(|error| error.as_str()).unwrap_or_default().to_owned();
    assert!(told.contains("refused"), "{status:?}");
    let text = gateway.ask(&["status"])?;
    assert!(text.contains(&format!("ipfix: records for {SERVER}:{NOBODY} can't be sent")), "{text}");
    // What flies when the gateway ends has a last record, which still goes through its own twin.
    let (pair, _, _) = stream(5002, 100)?;
    let source = pair.source_port();
    assert!(lab.flyover_mut().expect("the gateway").stop()?.success());
    collector.wait_for("the last record", of(source), |records| has_reason(records, 4))?;
    Ok(())
}

#[test]
fn ipv6_is_accounted_for_over_ipv6() -> Result<()> {
    let _turn = turn::take();
    let lab = builder(&[SocketAddr::from((SERVER6, PORT))]).ipv6().rules(HOME_ROUTER6).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    count(&lab)?;
    let collector = listen(&lab, gateway, SERVER6)?;
    let server = udp::bind(lab.server(), SERVER6, 5000)?;
    let pair = udp::Pair::open(lab.client(), CLIENT6, SocketAddr::from((SERVER6, 5000)), server)?;
    let (source, size, mut sent) = (pair.source_port(), 200, 0);
    lab.until_flying("udp", source, || {
        sent += 1;
        pair.ping_of(sent, size).map(drop)
    })?;
    for _ in 0..200 {
        sent += 1;
        pair.ping_of(sent, size)?;
    }
    lab.gateway().run(&format!("conntrack -D -f ipv6 -p udp --orig-port-src {source}"))?;
    let records =
        collector.wait_for("the record of its end", of(source), |records| has_reason(records, 4))?;
    assert_eq!(total(&records), [[sent, sent * (size as u64 + HEADERS6)]; 2], "{records:?}");
    for record in &records {
        let ends = (record.end("src"), record.end("dst"));
        assert_eq!(ends, (Some((CLIENT6, source).into()), Some((SERVER6, 5000).into())));
    }
    Ok(())
}

/// Without the kernel's counters status says what is missing.
#[test]
fn what_the_kernel_does_not_count_is_said() -> Result<()> {
    let _turn = turn::take();
    let lab = builder(&[SocketAddr::from((IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)), PORT))])
        .rules(HOME_ROUTER)
        .build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    lab.gateway().sysctl("net.netfilter.nf_conntrack_acct", "0")?;
    let text = gateway.ask(&["status"])?;
    assert!(text.contains("sysctl -w net.netfilter.nf_conntrack_acct=1"), "{text}");
    // A collector that no route leads to is no reason to fail, and is told of.
    wait::until_true(wait::PATIENCE, "the collector to be out of reach", || {
        gateway.ask(&["status"]).is_ok_and(|text| text.contains("ip route get 203.0.113.77"))
    })?;
    lab.gateway().sysctl("net.netfilter.nf_conntrack_acct", "1")?;
    let text = gateway.ask(&["status"])?;
    assert!(!text.contains("nf_conntrack_acct"), "{text}");
    Ok(())
}
