//! `kill -9` under load and a restart cost speed for a moment, and nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lab::change::udp_pair;
use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Way};
use lab::topology::SERVER;
use lab::{Gateway, Lab, Namespace, Plane, Result, conntrack, model_nic, turn, udp, wait};
use serde_json::Value;

/// What users have configured on twins, without what comes and goes with the carrier.
#[derive(Debug, PartialEq, Eq)]
struct Configured {
    addresses: BTreeSet<String>,
    routes: BTreeSet<String>,
    macs: BTreeSet<String>,
}

impl Configured {
    fn read(namespace: &Namespace) -> Result<Self> {
        let list = |line: &str| -> Result<Vec<Value>> {
            let text = namespace.run(line)?;
            Ok(serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|v| v.as_array().cloned())
                .unwrap_or_default())
        };
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        let mut addresses = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for link in list("ip -j -4 address show")? {
            let name = text(&link, "ifname");
            for address in link.get("addr_info").and_then(Value::as_array).into_iter().flatten() {
                let length = address.get("prefixlen").and_then(Value::as_u64).unwrap_or(0);
                addresses.insert(format!("{name} {}/{length}", text(address, "local")));
            }
            macs.insert(format!("{name} {}", text(&link, "address")));
        }
        let route =
            |route: &Value| ["dst", "gateway", "dev", "prefsrc"].map(|key| text(route, key)).join(" ");
        let routes = list("ip -j -4 route show")?.iter().map(route).collect();
        Ok(Self { addresses, routes, macs })
    }
}

#[test]
fn kill_9_under_load_and_restart() -> Result<()> {
    let _turn = turn::take();
    let mut lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    lab.gateway().run("ip address add 10.99.0.1/24 dev lan0")?;
    lab.gateway().run("ip route add 10.88.0.0/16 via 192.168.1.2")?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let to = SocketAddrV4::new(SERVER, 80);
    let open = || Pair::open(lab.client(), None, to, &service);
    let pairs = (0..5).map(|_| open()).collect::<Result<Vec<_>>>()?;
    let loaded = open()?;
    for pair in pairs.iter().chain([&loaded]) {
        lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    }
    let configured = Configured::read(lab.gateway())?;
    let ids = |lab: &Lab| -> Result<BTreeSet<u64>> {
        let of_ours = |entry: &conntrack::Entry| entry.original.destination_port == 80;
        Ok(conntrack::list(lab.gateway())?.iter().filter(|e| of_ours(e)).map(|e| e.id).collect())
    };
    let ids_before = ids(&lab)?;
    assert_eq!(ids_before.len(), 6);

    thread::scope(|scope| -> Result<()> {
        // 60 MB at what taps carry is more than a second: the kill comes in the midst of it.
        let transfer = scope.spawn(|| loaded.transfer(Way::Up, 60_000_000));
        let gateway = lab.flyover_mut().expect("Flyover forwards");
        let fast = gateway.status()?.counter("packets.fast")?;
        wait::until_true(wait::PATIENCE, "the load to fly", || {
            gateway
                .status()
                .and_then(|status| status.counter("packets.fast"))
                .is_ok_and(|now| now > fast + 2000)
        })?;
        assert!(!transfer.is_finished(), "the load was over before the kill");
        gateway.kill()?;
        assert_eq!(Configured::read(lab.gateway())?, configured, "while nobody forwards");
        assert_eq!(ids(&lab)?, ids_before, "while nobody forwards");
        lab.restart()?;
        let transfer = transfer.join().expect("the transfer does not panic")?;
        assert_eq!(transfer.sent, transfer.received);
        Ok(())
    })?;
    assert_eq!(Configured::read(lab.gateway())?, configured);
    for (number, pair) in pairs.iter().chain([&loaded]).enumerate() {
        lab.until_flying("tcp", pair.source_port(), || pair.ping(number as u64))?;
    }
    assert_eq!(ids(&lab)?, ids_before);
    loaded.finish()?;
    pairs.into_iter().try_for_each(Pair::finish)
}

/// At any moment while rules come and go: the next process begins with a clean NIC, and traffic goes on.
#[test]
fn kill_9_at_any_moment_while_the_nic_carries() -> Result<()> {
    const STREAMS: u16 = 3;
    let _turn = turn::take();
    // Each direction leaves the NIC and comes back every two seconds.
    let mut lab = model_nic::lab().config("flows", "reprove_every = \"2s\"").build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let tcp = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    let pairs = (0..STREAMS).map(|number| udp_pair(&lab, 5000 + number)).collect::<Result<Vec<_>>>()?;
    let start = |pair| udp::Stream::start(pair, Duration::from_millis(5), true);
    let streams = pairs.iter().map(start).collect::<Result<Vec<_>>>()?;
    let in_nic = |lab: &Lab, least: u64| {
        wait::until_true(wait::PATIENCE, "the streams to be in the NIC", || {
            lab.flyover().is_some_and(|gateway| model_nic::rules(gateway).is_ok_and(|rules| rules >= least))
        })
    };
    let ids = |lab: &Lab| -> Result<BTreeSet<u64>> {
        let ours =
            |entry: &conntrack::Entry| (5000..5000 + STREAMS).contains(&entry.original.destination_port);
        Ok(conntrack::list(lab.gateway())?.iter().filter(|entry| ours(entry)).map(|entry| entry.id).collect())
    };
    in_nic(&lab, u64::from(STREAMS))?;
    let ids_before = ids(&lab)?;
    let mut chance =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64 | 1);
    for round in 0..4 {
        in_nic(&lab, 1)?;
        // xorshift64
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let moment = Duration::from_millis(chance % 2500);
        println!("round {round}: killed after {moment:?}");
        thread::sleep(moment);
        lab.flyover_mut().expect("Flyover forwards").kill()?;
        for host in [lab.client(), lab.server()] {
            assert_eq!(host.interfaces()?, ["lo"], "the wire side is left behind");
        }
        lab.restart()?;
        let before: Vec<u64> = streams.iter().map(udp::Stream::received).collect();
        wait::until_true(wait::PATIENCE, "all streams to go on", || {
            streams.iter().zip(&before).all(|(stream, before)| stream.received() > before + 100)
        })?;
        let transfer = tcp.transfer(Way::Up, 2_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
        in_nic(&lab, u64::from(STREAMS))?;
    }
    assert_eq!(ids(&lab)?, ids_before, "the connections are the same");
    for stream in streams {
        assert_eq!((stream.foreign(), stream.duplicated()), (0, 0));
        stream.finish();
    }
    tcp.finish()?;
    // Nor does a rule stay when it ends by itself: it would say so.
    let gateway = lab.flyover_mut().expect("Flyover forwards");
    let carried = model_nic::rules(gateway)?;
    let status = gateway.stop()?;
    assert_eq!(status.code(), Some(0), "{status} with {carried} rules");
    Ok(())
}

/// SIGTERM and a start: the same, and nothing left behind in between but the twins.
#[test]
fn clean_stop_and_restart() -> Result<()> {
    let _turn = turn::take();
    let mut lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let before = Configured::read(lab.gateway())?;
    let id = conntrack::find(lab.gateway(), "tcp", pair.source_port())?.map(|entry| entry.id);
    let Some(gateway) = lab.flyover_mut() else { return Ok(()) };
    let socket = gateway.socket();
    let status = gateway.stop()?;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!socket.exists(), "the socket is left behind");
    for host in [lab.client(), lab.server()] {
        assert_eq!(host.interfaces()?, ["lo"], "the wire side is left behind");
    }
    assert_eq!(Configured::read(lab.gateway())?, before);
    // Kept alive by minutes while it flew, it has the kernel's five days again.
    let timeout = conntrack::find(lab.gateway(), "tcp", pair.source_port())?.map(|entry| entry.timeout);
    assert!(timeout.is_some_and(|seconds| seconds > 400_000), "{timeout:?}");
    lab.restart()?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(2))?;
    assert_eq!(conntrack::find(lab.gateway(), "tcp", pair.source_port())?.map(|entry| entry.id), id);
    pair.finish()
}

/// The kernel watches over the neighbours behind which packets fly. They outlive the process where a service manager
/// holds the twins' descriptors, and are lost with the last descriptor where none does.
#[test]
fn neighbours_outlive_a_process_whose_descriptors_are_stored() -> Result<()> {
    let _turn = turn::take();
    let mut lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    let gateway = lab.gateway().clone();
    let neighbour = || gateway.run("ip neigh show 192.168.1.10 dev lan0");
    let watched = || {
        wait::until_true(wait::PATIENCE, "the neighbour to be managed", || {
            neighbour().is_ok_and(|line| line.contains("managed") && line.contains("lladdr"))
        })
    };
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    watched()?;
    fn flyover(lab: &mut Lab) -> &mut Gateway {
        lab.flyover_mut().expect("Flyover forwards")
    }
    flyover(&mut lab).stop()?;
    assert_eq!(neighbour()?, "", "with the last descriptor the neighbours go");

    flyover(&mut lab).serve()?;
    lab.restart()?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(2))?;
    watched()?;
    assert_eq!(flyover(&mut lab).service()?.stored(), ["twin-lan0", "twin-wan0"]);
    flyover(&mut lab).kill()?;
    assert!(neighbour()?.contains("lladdr"), "{}", neighbour()?);
    // Not `lab.restart()`: its hosts would be heard of anew.
    flyover(&mut lab).start()?;
    assert!(neighbour()?.contains("lladdr"), "{}", neighbour()?);
    let told = flyover(&mut lab).service()?.told().iter().filter(|line| *line == "READY=1").count();
    assert_eq!(told, 2);
    assert_eq!(flyover(&mut lab).service()?.stored().len(), 2);
    lab.plug_hosts()?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(3))?;
    watched()?;

    flyover(&mut lab).stop()?;
    let left = neighbour()?;
    assert!(left.contains("lladdr") && !left.contains("managed"), "an ordinary one again: {left}");
    flyover(&mut lab).start()?;
    lab.plug_hosts()?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(4))?;
    pair.finish()
}
