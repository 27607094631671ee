//! Ports of every kind carry flows, and so do several workers, jumbo frames, and a port that is in and out.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use lab::path::Path;
use lab::rules::{HOME_ROUTER, HOME_ROUTER6, ROUTED};
use lab::tcp::{self, Pair, Service, Way};
use lab::topology::{CLIENT, CLIENT6, Device, GATEWAY_WAN, GATEWAY_WAN6, HOST_INTERFACE, SERVER, SERVER6};
use lab::{Lab, Namespace, Plane, Result, turn, udp, wait};

const OUT: Path = Path::out(CLIENT, SERVER, GATEWAY_WAN);
const OUT6: Path = Path::out_by(
    std::net::IpAddr::V6(CLIENT6),
    std::net::IpAddr::V6(SERVER6),
    std::net::IpAddr::V6(GATEWAY_WAN6),
);

/// Both families over ports of this kind.
fn carries(device: Device) -> Result<()> {
    let rules = format!("{HOME_ROUTER}{HOME_ROUTER6}");
    let lab = Lab::builder(Plane::under_test()).ipv6().device(device).rules(&rules).build()?;
    OUT.both(&lab)?;
    OUT6.both(&lab)
}

#[test]
fn net_af_packet_on_veth() -> Result<()> {
    carries(Device::AfPacket)
}

#[test]
fn net_af_xdp_on_veth() -> Result<()> {
    carries(Device::AfXdp)
}

#[test]
fn net_memif_as_server() -> Result<()> {
    carries(Device::Memif(env!("CARGO_BIN_EXE_memif-peer")))
}

/// Over net_pcap: the net_tap of DPDK 22.11 takes no frame longer than 1522 bytes, and net_af_xdp none longer than a
/// page.
#[test]
fn jumbo_frames() -> Result<()> {
    let rules = format!("{HOME_ROUTER}{HOME_ROUTER6}");
    let lab =
        Lab::builder(Plane::under_test()).ipv6().device(Device::Pcap).mtu(9000).rules(&rules).build()?;
    for (path, overhead) in [(OUT, 28), (OUT6, 48)] {
        path.tcp(&lab)?;
        path.udp_of(&lab, 9000 - overhead)?;
    }
    Ok(())
}

/// Two workers, each with a queue of every port.
#[test]
fn several_workers_carry() -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    assert!(cores >= 2, "this needs two processors, and here is {cores}");
    let _turn = turn::take();
    let lab =
        Lab::builder(Plane::under_test()).rules(HOME_ROUTER).config("workers", "cores = [0, 1]").build()?;
    if let Some(gateway) = lab.flyover() {
        let ports: serde_json::Value = serde_json::from_str(&gateway.ask(&["ports", "--json"])?)
            .map_err(|e| lab::LabError::Shape { what: "ports --json".to_owned(), text: e.to_string() })?;
        let queues = |port: &serde_json::Value| port.get("queues").and_then(serde_json::Value::as_u64);
        let queues: Vec<_> = ports.as_array().into_iter().flatten().map(queues).collect();
        assert_eq!(queues, [Some(2), Some(2)], "{ports}");
    }
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pairs = tcp::many(lab.client(), (SERVER, 80), &service, 40, 200_000)?;
    if let Some(gateway) = lab.flyover() {
        let flown = gateway.flows()?.into_iter().filter(|flow| flow.packets() > 0).count();
        assert!(flown >= 40, "{flown} flew");
    }
    pairs.into_iter().try_for_each(Pair::finish)
}

/// The same two workers: streams that nobody answers stay in order, from their first packet through the kernel until they
/// fly on either worker, whichever of them sends the kernel's frames.
#[test]
fn several_workers_keep_order() -> Result<()> {
    order_with_several_workers(false)
}

/// Answered streams do as well where a program may steer the wire side's tap, which without one moves a flow between
/// queues whenever its other direction was sent on another: see the operator's guide.
#[test]
fn several_workers_keep_the_order_of_answered_streams() -> Result<()> {
    // The first user namespace maps all identities, and only its root may load programs.
    let identities =
        std::fs::read_to_string("/proc/self/uid_map").map_err(lab::LabError::io("read uid_map"))?;
    if identities.split_whitespace().eq(["0", "0", "4294967295"]) {
        return order_with_several_workers(true);
    }
    Ok(())
}

fn order_with_several_workers(answered: bool) -> Result<()> {
    const STREAMS: u16 = 8;
    let _turn = turn::take();
    let lab =
        Lab::builder(Plane::under_test()).rules(HOME_ROUTER).config("workers", "cores = [0, 1]").build()?;
    // A host's neighbour queue may itself let a later packet pass while it sends what waited for an address.
    let first = udp::Pair::open(
        lab.client(),
        CLIENT,
        SocketAddr::from((SERVER, 4999)),
        udp::bind(lab.server(), SERVER, 4999)?,
    )?;
    first.ping(1)?;
    let mut pairs = Vec::new();
    for port in 5000..5000 + STREAMS {
        let server = udp::bind(lab.server(), SERVER, port)?;
        pairs.push(udp::Pair::open(lab.client(), CLIENT, SocketAddr::from((SERVER, port)), server)?);
    }
    let tallies: Vec<Result<udp::Tally>> = thread::scope(|scope| {
        let streams: Vec<_> = pairs
            .iter()
            .map(|pair| scope.spawn(|| pair.stream(1000, 1000, Duration::from_secs(3), answered)))
            .collect();
        let join = |stream: thread::ScopedJoinHandle<'_, _>| {
            stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        streams.into_iter().map(join).collect()
    });
    for tally in tallies {
        let tally = tally?;
        assert_eq!((tally.lost(), tally.reordered, tally.duplicated), (0, 0, 0), "{tally:?}");
    }
    if let Some(gateway) = lab.flyover() {
        for pair in &pairs {
            let flow = gateway.flow("udp", pair.source_port())?.expect("the stream's entry");
            assert!(flow.packets() >= 300, "a third of 1000 packets should have flown: {flow:?}");
        }
        // Either worker has handled a stream at least.
        let status = gateway.status()?;
        for worker in 0..2 {
            assert!(status.counter(&format!("workers.{worker}.packets"))? >= 1000, "worker {worker}");
        }
    }
    Ok(())
}

/// A router on a stick: two subnets on one port, without NAT.
#[test]
fn one_port_between_two_subnets() -> Result<()> {
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
    let lab = Lab::builder(Plane::under_test()).rules(ROUTED).build()?;
    let far = Namespace::new("far")?;
    // A router that is the only way between its hosts does not send them round itself.
    for scope in ["all", "lan0"] {
        lab.gateway().sysctl(&format!("net.ipv4.conf.{scope}.send_redirects"), "0")?;
    }
    lab.gateway().run("ip address add 10.9.0.1/24 dev lan0")?;
    lab.client().run(&format!(
        "ip link add link {HOST_INTERFACE} name far0 netns {} type macvlan mode bridge",
        far.name()
    ))?;
    far.run(&format!("ip address add {FAR}/24 dev far0"))?;
    far.run("ip link set far0 up")?;
    far.run("ip route add default via 10.9.0.1")?;

    let service = Service::listen(&far, FAR, 80)?;
    let pair = Pair::open(lab.client(), Some(CLIENT.into()), (FAR, 80), &service)?;
    assert_eq!(pair.seen_source()?.ip(), CLIENT);
    let flow = lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 4_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
    }
    if let Some(flow) = flow {
        assert_eq!(
            (flow.in_port(), flow.0.get("out_port").and_then(serde_json::Value::as_str)),
            ("lan0", Some("lan0"))
        );
    }
    let stream =
        udp::Pair::open(lab.client(), CLIENT, SocketAddr::from((FAR, 5000)), udp::bind(&far, FAR, 5000)?)?;
    lab.until_flying("udp", stream.source_port(), || stream.ping(1).map(drop))?;
    for token in 10..200 {
        stream.ping(token)?;
    }
    if let Some(gateway) = lab.flyover() {
        wait::until_true(wait::PATIENCE, "the counters", || {
            let flow = gateway.flow("udp", stream.source_port()).ok().flatten();
            flow.is_some_and(|flow| flow.packets() >= 370)
        })?;
    }
    pair.finish()
}
