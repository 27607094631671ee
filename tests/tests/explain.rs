//! `flyover explain` tells of any connection where it is, and why not further.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use dataplane::packet::testing::Frame;
use dataplane::packet::wire::ETHER_VLAN;
use lab::raw::{self, Wire};
use lab::rules::{HOME_ROUTER, ROUTED};
use lab::tcp::{Pair, Service};
use lab::topology::{CLIENT, CLIENT6, GATEWAY_LAN, HOST_INTERFACE, SERVER, SERVER6};
use lab::{Gateway, Lab, Plane, Result, turn, udp, wait};
use serde_json::Value;

fn explain(gateway: &Gateway, proto: &str, from: SocketAddr, to: SocketAddr) -> Result<Value> {
    let text = gateway.ask(&["explain", proto, &from.to_string(), &to.to_string(), "--json"])?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

#[test]
fn every_connection_is_explained() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let to = SocketAddrV4::new(SERVER, 80);
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, to, &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let from = SocketAddr::from((CLIENT, pair.source_port()));
    let found = explain(gateway, "tcp", from, to.into())?;
    assert_eq!(text(&found, "/known"), "flyover", "{found}");
    assert_eq!(text(&found, "/connection/state"), "software", "{found}");
    assert_eq!(
        [text(&found, "/directions/0/in_port"), text(&found, "/directions/0/out_port")],
        ["lan0", "wan0"],
        "{found}"
    );
    assert_eq!(
        text(&found, "/directions/0/next_hop"),
        raw::mac(lab.server(), HOST_INTERFACE)?.map(|byte| format!("{byte:02x}")).join(":"),
        "{found}"
    );
    assert_eq!(text(&found, "/conntrack/tcp_state"), "ESTABLISHED", "{found}");
    // By a packet of the other direction too, as the gateway receives it.
    let seen = pair.seen_source()?;
    let back = explain(gateway, "tcp", to.into(), seen)?;
    assert_eq!(back.pointer("/connection/orig"), found.pointer("/connection/orig"));
    let told = gateway.ask(&["explain", "tcp", &from.to_string(), &to.to_string()])?;
    assert!(told.starts_with("software: the kernel forwarded a packet"), "{told}");

    pair.finish()?;
    wait::until_true(wait::PATIENCE, "the close to be explained", || {
        explain(gateway, "tcp", from, to.into())
            .is_ok_and(|found| text(&found, "/conntrack/tcp_state") == "TIME_WAIT")
    })?;
    let found = explain(gateway, "tcp", from, to.into())?;
    assert!(text(&found, "/why").contains("FIN"), "{found}");

    // The gateway's own.
    let own = udp::bind(lab.gateway(), GATEWAY_LAN, 7000)?;
    let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(GATEWAY_LAN, 7000), own)?;
    pair.ping(1)?;
    let from = SocketAddr::from((CLIENT, pair.source_port()));
    let found = explain(gateway, "udp", from, SocketAddr::from((GATEWAY_LAN, 7000)))?;
    assert_eq!([text(&found, "/known"), text(&found, "/why")], ["kernel", "it begins or ends on this host"]);

    // Nobody's.
    let found = explain(gateway, "udp", from, SocketAddr::from((SERVER, 9)))?;
    assert_eq!(text(&found, "/known"), "nowhere", "{found}");
    assert!(found.get("connection").is_some_and(Value::is_null), "{found}");
    Ok(())
}

#[test]
fn a_bad_question_is_refused_with_what_would_be_right() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    for (words, told, code) in [
        (["explain", "icmp", "192.0.2.1:1", "192.0.2.2:2"], "tcp, udp", 2),
        (["explain", "tcp", "192.0.2.1", "192.0.2.2:2"], "192.0.2.1:443 or [2001:db8::1]:443", 2),
        (["explain", "tcp", "192.0.2.1:1", "[fd00::1]:2"], "different address families", 1),
    ] {
        let output = gateway.flyover(&words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains(told), "{errors}");
        assert_eq!(output.status.code(), Some(code), "{errors}");
    }
    Ok(())
}

/// What is told of packets of the original direction that went to the kernel for their own sake: reason, number, words.
fn punted(found: &Value) -> Vec<(String, u64, String)> {
    let list = found.pointer("/directions/0/punted").and_then(Value::as_array).cloned().unwrap_or_default();
    let entry = |entry: &Value| {
        let packets = entry.get("packets").and_then(Value::as_u64).unwrap_or(0);
        (text(entry, "/reason").to_owned(), packets, text(entry, "/why").to_owned())
    };
    list.iter().map(entry).collect()
}

/// A packet of a flow that flies, made odd: the reason for which it goes to the kernel, and a word of how that is told.
type Oddity = (&'static str, &'static str, fn(&mut Frame));

const OF_EITHER: [Oddity; 4] = [
    ("ttl", "expired", |f| f.ttl = 1),
    ("proved_length", "longer than any", |f| f.payload = vec![0; 1400]),
    ("malformed", "contradict", |f| f.faults.udp_length = Some(3)),
    ("ingress_context", "VLAN", |f| f.tags = vec![(ETHER_VLAN, 99)]),
];
const OF_IPV4: [Oddity; 2] = [
    ("fragment", "a fragment", |f| (f.payload, f.fragment) = (vec![0; 64], 0x2000)),
    ("ip_options", "IPv4 options", |f| f.options = vec![1; 4]),
];
const OF_IPV6: [Oddity; 1] = [("extension_header", "IPv6 extension headers", |f| {
    f.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
})];

/// Whatever sends a packet of a flying flow to the kernel is named for that flow, in words.
#[test]
fn each_reason_for_which_a_packet_goes_to_the_kernel_is_named() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).ipv6().rules(ROUTED).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
    let to_gateway = raw::mac(lab.gateway(), "lan0")?;
    let four: (IpAddr, IpAddr) = (CLIENT.into(), SERVER.into());
    for (client, server, odd) in
        [four, (CLIENT6.into(), SERVER6.into())].into_iter().flat_map(|(client, server)| {
            let own: &[Oddity] = if client.is_ipv4() { &OF_IPV4 } else { &OF_IPV6 };
            OF_EITHER.iter().chain(own).map(move |odd| (client, server, odd))
        })
    {
        let (reason, word, change) = odd;
        let to = SocketAddr::new(server, 5000);
        let pair = udp::Pair::open(lab.client(), client, to, udp::bind(lab.server(), server, 5000)?)?;
        lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
        let from = SocketAddr::new(client, pair.source_port());
        assert_eq!(punted(&explain(gateway, "udp", from, to)?), [], "before {reason}");
        let mut frame = Frame::udp(&from.to_string(), &to.to_string()).payload(b"odd").with(change);
        (frame.src_mac, frame.dst_mac) = (wire.mac, to_gateway);
        wire.send(&frame.build())?;
        wait::until_true(wait::PATIENCE, &format!("{reason} to be told"), || {
            explain(gateway, "udp", from, to).is_ok_and(|found| !punted(&found).is_empty())
        })?;
        let told = punted(&explain(gateway, "udp", from, to)?);
        let [(name, 1, why)] = told.as_slice() else { panic!("of {reason}: {told:?}") };
        assert!(name == reason && why.contains(word), "of {reason}: {told:?}");
        let words = gateway.ask(&["explain", "udp", &from.to_string(), &to.to_string()])?;
        assert!(words.contains(&format!("1 to the kernel, {reason}: {why}")), "{words}");
    }
    Ok(())
}

/// What the state itself explains: a TCP connection's end, and one that has no entry.
#[test]
fn states_and_ends_are_named() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(ROUTED).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let to = SocketAddrV4::new(SERVER, 80);
    let pair = Pair::open(lab.client(), None, to, &Service::listen(lab.server(), SERVER, 80)?)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let from = SocketAddr::from((CLIENT, pair.source_port()));
    pair.half_close(lab::tcp::Way::Up)?;
    wait::until_true(wait::PATIENCE, "the FIN to be told", || {
        explain(gateway, "tcp", from, to.into()).is_ok_and(|found| !punted(&found).is_empty())
    })?;
    let found = explain(gateway, "tcp", from, to.into())?;
    let mut told = punted(&found);
    // The direction may fly since a packet that was shorter than the one after it.
    told.retain(|(name, ..)| name != "proved_length");
    assert!(
        matches!(told.as_slice(), [(name, 1, why)] if name == "tcp_control" && why.contains("FIN")),
        "{told:?}"
    );
    assert!(text(&found, "/why").contains("FIN"), "{found}");
    for (dst, word) in
        [("239.1.2.3", "multicast"), ("255.255.255.255", "broadcast"), ("127.0.0.1", "loopback")]
    {
        let found = explain(gateway, "udp", from, SocketAddr::new(dst.parse().expect("an address"), 9))?;
        assert_eq!(text(&found, "/known"), "kernel", "{found}");
        assert!(text(&found, "/why").contains(word), "{found}");
    }
    Ok(())
}

#[test]
fn where_packets_lead_and_what_they_go_past_is_told() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let notes =
        |found: &Value| found.pointer("/directions/0/notes").map(Value::to_string).unwrap_or_default();

    // The kernel sends it where no port is.
    let elsewhere = Ipv4Addr::new(203, 0, 113, 9);
    lab.gateway().run("ip link add dmz0 type veth peer name dmz1")?;
    lab.gateway().run("ip link set dmz1 up")?;
    lab.gateway().run("ip link set dmz0 up")?;
    lab.gateway().run("ip route add 203.0.113.0/24 dev dmz0")?;
    lab.gateway().run("ip neighbour add 203.0.113.9 lladdr 02:00:00:00:00:09 dev dmz0")?;
    let from = SocketAddr::from((CLIENT, 7001));
    let socket = udp::bind(lab.client(), CLIENT, 7001)?;
    let to = SocketAddr::from((elsewhere, 9));
    let mut found = Value::Null;
    wait::until_true(wait::PATIENCE, "the stream to be a candidate", || {
        // As many as make it worth asking for.
        let sent = (0..10).all(|_| socket.send_to(b"to the DMZ", to).is_ok());
        found = explain(gateway, "udp", from, to).unwrap_or_default();
        sent && text(&found, "/known") == "flyover"
    })?;
    assert!(
        notes(&found).contains("the route to 203.0.113.9 leads out of dmz0, which is no port"),
        "{found}"
    );

    // What flies goes past a shaper.
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let to = SocketAddrV4::new(SERVER, 80);
    let pair = Pair::open(lab.client(), None, to, &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let from = SocketAddr::from((CLIENT, pair.source_port()));
    assert_eq!(notes(&explain(gateway, "tcp", from, to.into())?), "[]");
    lab.gateway().run("tc qdisc add dev wan0 root tbf rate 100mbit burst 64kb latency 50ms")?;
    let found = explain(gateway, "tcp", from, to.into())?;
    assert!(notes(&found).contains("past the tbf qdisc of wan0"), "{found}");
    let told = gateway.ask(&["explain", "tcp", &from.to_string(), &to.to_string()])?;
    assert!(told.contains("past the tbf qdisc of wan0"), "{told}");
    pair.finish()
}
