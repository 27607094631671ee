//! Several ways to one place: flows take the one that the kernel chooses for each, and follow when it chooses anew.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use lab::change::{QUIET, is_udp_to, lab, last_of_the_old_way};
use lab::raw::Wire;
use lab::rules::ROUTED;
use lab::topology::{CLIENT, HOST_INTERFACE, OTHER, SERVER};
use lab::{Lab, LabError, Namespace, Result, udp, wait};

const PORT: u16 = 5000;
/// A host behind both uplinks.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Enough for both ways to be used: that one is not has a chance of one in two thousand million.
const STREAMS: usize = 32;

/// [`BEHIND`] is behind the server as well as behind the third port's host.
fn two_uplinks() -> Result<Lab> {
    let lab = lab(ROUTED).third_port().build()?;
    for host in [lab.server(), lab.other()] {
        host.run(&format!("ip address add {BEHIND}/32 dev lo"))?;
        host.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    }
    // By ports too, so that the streams of one client take both.
    lab.gateway().sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
    Ok(lab)
}

/// Streams to [`BEHIND`], which answers behind either uplink.
struct Streams {
    pairs: [Vec<udp::Pair>; 2],
    running: Vec<udp::Stream>,
}

impl Streams {
    /// The same client sockets with a service behind each uplink: whichever a datagram reaches answers.
    fn start(lab: &Lab) -> Result<Self> {
        let (mut pairs, mut running) = ([Vec::new(), Vec::new()], Vec::new());
        let bind = |host: &Namespace| udp::bind(host, BEHIND, PORT);
        let services = [bind(lab.server())?, bind(lab.other())?];
        let share = |socket: &std::net::UdpSocket| socket.try_clone().map_err(LabError::io("share a socket"));
        for _ in 0..STREAMS {
            let to = SocketAddrV4::new(BEHIND, PORT);
            let first = udp::Pair::open(lab.client(), CLIENT, to, share(&services[0])?)?;
            let second = udp::Pair { client: share(&first.client)?, server: share(&services[1])? };
            pairs[0].push(first);
            pairs[1].push(second);
        }
        // One pair a service answers all that reaches it; the others only send.
        for (number, pair) in pairs[0].iter().enumerate() {
            running.push(udp::Stream::start(pair, Duration::from_millis(10), number == 0)?);
        }
        running.push(udp::Stream::start(&pairs[1][0], Duration::from_millis(10), true)?);
        Ok(Self { pairs, running })
    }

    /// By which port each flies, once all do.
    fn ways(&self, lab: &Lab) -> Result<Option<HashMap<u16, String>>> {
        let Some(gateway) = lab.flyover() else { return Ok(None) };
        wait::until(wait::PATIENCE, "all streams to fly", || {
            let flows = gateway.flows().ok()?;
            let flying: HashMap<u16, String> = flows
                .iter()
                .filter(|flow| flow.flies() && flow.protocol() == "udp")
                .filter_map(|flow| Some((flow.original()?.source.port(), flow.out_port()?.to_owned())))
                .collect();
            let all = self.pairs[0].iter().all(|pair| flying.contains_key(&pair.source_port()));
            all.then_some(flying)
        })
        .map(Some)
    }
}

/// The source ports of the streams that pass a wire.
fn seen(wire: &Wire) -> Result<HashMap<u16, usize>> {
    let mut seen = HashMap::new();
    let started = std::time::Instant::now();
    while started.elapsed() < QUIET {
        let Some(frame) = wire.receive(Duration::from_millis(50))? else { continue };
        if let (true, Some([high, low])) = (is_udp_to(&frame, PORT), frame.get(34..36)) {
            *seen.entry(u16::from_be_bytes([*high, *low])).or_insert(0) += 1;
        }
    }
    Ok(seen)
}

/// Both ways are used, each stream keeps to one, and flies by the one that the kernel has chosen; then all but `wan0` is
/// lost, and all streams fly there.
fn both_are_used_and_one_is_lost(ways: &[String], lose: &str) -> Result<()> {
    let lab = two_uplinks()?;
    ways.iter().try_for_each(|line| lab.gateway().run(line).map(drop))?;
    let streams = Streams::start(&lab)?;
    let ways = streams.ways(&lab)?;
    let wires = [Wire::open(lab.server(), HOST_INTERFACE)?, Wire::open(lab.other(), HOST_INTERFACE)?];
    let by = [seen(&wires[0])?, seen(&wires[1])?];
    assert!(by.iter().all(|seen| !seen.is_empty()), "both ways are to be used: {by:?}");
    assert!(by[0].keys().all(|port| !by[1].contains_key(port)), "a stream by both ways: {by:?}");
    assert_eq!(by[0].len() + by[1].len(), STREAMS);
    for (port, way) in ways.iter().flatten() {
        let expected = if by[0].contains_key(port) { "wan0" } else { "opt0" };
        assert_eq!(way, expected, "the stream from port {port}");
    }
    // One of the two goes away: all go by the other.
    let old = Wire::open(lab.other(), HOST_INTERFACE)?;
    last_of_the_old_way(&old, |frame| is_udp_to(frame, PORT), || lab.gateway().run(lose).map(drop))?;
    let ways = streams.ways(&lab)?;
    assert!(ways.iter().flatten().all(|(_, way)| way == "wan0"), "{ways:?}");
    assert_eq!(seen(&Wire::open(lab.server(), HOST_INTERFACE)?)?.len(), STREAMS);
    drop(streams.running);
    Ok(())
}

#[test]
fn both_ways_of_a_multipath_route_are_used_and_flows_follow() -> Result<()> {
    let both = format!("ip route add {BEHIND}/32 nexthop via {SERVER} nexthop via {OTHER}");
    both_are_used_and_one_is_lost(&[both], &format!("ip route replace {BEHIND}/32 via {SERVER}"))
}

/// The kernel says nothing of routes whose nexthop object loses a member.
#[test]
fn a_nexthop_group_loses_a_member() -> Result<()> {
    let ways = [
        format!("ip nexthop add id 1 via {SERVER} dev wan0"),
        format!("ip nexthop add id 2 via {OTHER} dev opt0"),
        "ip nexthop add id 3 group 1/2".to_owned(),
        format!("ip route add {BEHIND}/32 nhid 3"),
    ];
    both_are_used_and_one_is_lost(&ways, "ip nexthop del id 2")
}

/// The kernel itself takes a way whose link has no carrier out of use.
#[test]
fn a_multipath_route_loses_a_link() -> Result<()> {
    let lab = two_uplinks()?;
    lab.gateway().sysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", "1")?;
    lab.gateway().run(&format!("ip route add {BEHIND}/32 nexthop via {SERVER} nexthop via {OTHER}"))?;
    let streams = Streams::start(&lab)?;
    let ways = streams.ways(&lab)?;
    assert!(ways.iter().all(|ways| ways.values().any(|way| way == "opt0")), "{ways:?}");
    lab.other().run(&format!("ip link set {HOST_INTERFACE} down"))?;
    wait::until_true(wait::PATIENCE, "all streams to go by the other link", || {
        Wire::open(lab.server(), HOST_INTERFACE)
            .and_then(|wire| seen(&wire))
            .is_ok_and(|seen| seen.len() == STREAMS)
    })?;
    if let Some(ways) = streams.ways(&lab)? {
        wait::until_true(wait::PATIENCE, "all streams to fly by the other link", || {
            streams.ways(&lab).is_ok_and(|ways| ways.iter().flatten().all(|(_, way)| way == "wan0"))
        })?;
        drop(ways);
    }
    drop(streams.running);
    Ok(())
}
