//! The kernel as oracle: every rule that counts a packet of a running connection must have been found, for that
//! connection. Rulesets are drawn at random from parts; each rule counts.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use dataplane::flow::UDP;
use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::netlink::conntrack::{ConntrackEntry, ConntrackMessage, DumpFilter, Request, RequestSocket};
use crate::netlink::testing::{eventually, run};

const CLIENT: [&str; 2] = ["10.1.0.2", "fd01::2"];
const SERVER: [&str; 2] = ["10.2.0.2", "fd02::2"];
const PLAIN: u16 = 7000;
const BEHIND_SNAT: u16 = 7001;
const BEHIND_DNAT: u16 = 7002;
const FORWARDED: u16 = 8080;

/// Runs `build` in a network namespace of its own, on a thread that lives until `done` is dropped. The
/// namespace's end of a veth pair is `eth0`, its other end `gateway` here.
fn host<T: Send + 'static>(
    gateway: &'static str,
    addresses: [&'static str; 2],
    build: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    let (go, ready) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        tell.send(nix::unistd::gettid()).expect("told");
        ready.recv().expect("told to go on");
        run("ip link set lo up");
        up("eth0", "02:00:00:00:00:02", addresses);
        let net = |address: &str| address.rsplit_once('2').expect("host 2").0.to_owned();
        for (address, bits, all) in [(addresses[0], 24, "0.0.0.0/0"), (addresses[1], 64, "::/0")] {
            let via = format!("{}1", net(address));
            run(&format!("ip neigh replace {via} lladdr 02:00:00:00:00:01 nud permanent dev eth0"));
            run(&format!("ip route add {all} via {via} dev eth0"));
            assert!(bits > 0);
        }
        build()
    });
    let tid = told.recv().expect("a thread id");
    run(&format!("ip link add {gateway} type veth peer name eth0 netns {tid}"));
    let net = |address: &'static str| format!("{}1", address.rsplit_once('2').expect("host 2").0);
    let own = addresses.map(net);
    up(gateway, "02:00:00:00:00:01", [&own[0], &own[1]]);
    for address in addresses {
        run(&format!("ip neigh replace {address} lladdr 02:00:00:00:00:02 nud permanent dev {gateway}"));
    }
    go.send(()).expect("told");
    thread.join().expect("built")
}

/// Up, with addresses, and without a word of its own.
fn up(link: &str, mac: &str, addresses: [&str; 2]) {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/addr_gen_mode"), "1").expect("sysctl");
    run(&format!("ip link set {link} address {mac} up"));
    run(&format!("ip addr add {}/24 dev {link}", addresses[0]));
    run(&format!("ip addr add {}/64 dev {link} nodad", addresses[1]));
}

fn address(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().expect("address"), port)
}

/// Answers whatever comes, until the test process ends.
fn serve() {
    for (host, port) in [(SERVER[0], PLAIN), (SERVER[1], PLAIN), (SERVER[0], BEHIND_SNAT)] {
        let socket = UdpSocket::bind(address(host, port)).expect("bound");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if len == 1 || socket.send_to(&buffer[..len], from).is_err() {
                    return;
                }
            }
        });
    }
    let listener = TcpListener::bind(address(SERVER[0], BEHIND_DNAT)).expect("bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("set");
        let mut buffer = [0; 2048];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    });
}

/// A connection of the client's.
enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Connection {
    fn udp(host: usize, port: u16) -> Self {
        let socket = UdpSocket::bind(address(CLIENT[host], 40000 + port % 10)).expect("bound");
        socket.connect(address(SERVER[host], port)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        Self::Udp(socket)
    }

    fn tcp() -> Self {
        // The port of the gateway that is forwarded to the server.
        let stream = TcpStream::connect(address("10.1.0.1", FORWARDED)).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        Self::Tcp(stream)
    }

    /// Packets of several lengths, TTLs and DSCPs, there and back.
    fn talk(&mut self) {
        for (len, ttl, tos) in [(20, 64, 0), (1100, 9, 0x20), (300, 64, 0x01)] {
            let (fd, v6) = match &*self {
                Self::Udp(socket) => (socket.as_fd(), socket.local_addr().expect("address").is_ipv6()),
                Self::Tcp(stream) => (stream.as_fd(), false),
            };
            if v6 {
                setsockopt(&fd, sockopt::Ipv6Ttl, &ttl).expect("set");
                setsockopt(&fd, sockopt::Ipv6TClass, &tos).expect("set");
            } else {
                setsockopt(&fd, sockopt::Ipv4Ttl, &ttl).expect("set");
                setsockopt(&fd, sockopt::Ipv4Tos, &tos).expect("set");
            }
            let data = vec![b'x'; len];
            let mut buffer = [0; 2048];
            match self {
                Self::Udp(socket) => {
                    socket.send(&data).expect("sent");
                    assert_eq!(socket.recv(&mut buffer).expect("answered"), len);
                }
                Self::Tcp(stream) => {
                    stream.write_all(&data).expect("sent");
                    stream.read_exact(&mut buffer[..len]).expect("answered");
                }
            }
        }
        if matches!(self, Self::Tcp(_)) {
            // The last acknowledgement is delayed by 40 ms at most.
            std::thread::sleep(Duration::from_millis(60));
        }
    }
}

/// What conntrack says of the connections to the echo services, by the ports that they are sent to.
fn entries() -> Vec<ConntrackEntry> {
    let mut socket = RequestSocket::open().expect("socket");
    socket.send(&Request::Dump(DumpFilter::default())).expect("sent");
    let (mut entries, mut done) = (Vec::new(), false);
    eventually("the end of a dump", || {
        let handle = |message| match message {
            ConntrackMessage::DumpEntry { entry, .. } => entries.push(entry),
            ConntrackMessage::Done { .. } => done = true,
            other => panic!("{other:?}"),
        };
        socket.drain(64, handle).expect("drained");
        done
    });
    entries
}

/// Packets counted by each rule of the table under test.
fn counts() -> BTreeMap<u64, u64> {
    let listing: serde_json::Value =
        serde_json::from_str(&run("nft -j list table inet r")).expect("JSON from nft");
    let rules = listing["nftables"].as_array().expect("a list").iter().filter_map(|item| item.get("rule"));
    rules
        .map(|rule| {
            let expressions = rule["expr"].as_array().expect("expressions");
            let counted = expressions.iter().find_map(|one| one["counter"]["packets"].as_u64());
            (rule["handle"].as_u64().expect("a handle"), counted.expect("every rule counts"))
        })
        .collect()
}

fn matches() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "ct state established",
        "ct state new",
        "ct state != established",
        "ct state { established, related }",
        "ct direction reply",
        "ct direction original",
        "ct status dnat",
        "ct status snat",
        "ct mark 0",
        "ct mark & 1 == 1",
        "ct original ip daddr 10.1.0.1",
        "ct reply ip saddr 10.2.0.2",
        "meta nfproto ipv4",
        "meta nfproto ipv6",
        "meta l4proto tcp",
        "meta l4proto udp",
        "meta protocol ip",
        "iifname \"c0\"",
        "iifname != \"c0\"",
        "oifname { \"c0\", \"lo\" }",
        "oifname \"s*\"",
        "iif \"s0\"",
        "ip saddr 10.1.0.2",
        "ip saddr != 10.1.0.2",
        "ip daddr 10.1.0.0/16",
        "ip daddr { 10.1.0.1, 10.2.0.1 }",
        "ip daddr 10.2.0.0-10.2.0.9",
        "ip saddr & 255.0.255.255 == 10.0.0.2",
        "ip saddr . udp dport { 10.1.0.2 . 7000, 10.1.0.2 . 7001 }",
        "ip saddr . ip daddr { 10.1.0.0/24 . 10.2.0.0/24 }",
        "ip6 saddr fd01::/16",
        "ip6 daddr fd01::2",
        "tcp dport 7002",
        "tcp sport 8080",
        "tcp dport { 8080, 40000-65535 }",
        "udp dport 7000-7001",
        "th sport 7000",
        "th dport != 7001",
        "tcp flags ack",
        "tcp flags psh",
        "tcp flags & (fin | syn | rst) == 0",
        "tcp flags & (syn | ack) == syn",
        "tcp flags != syn",
        "meta length > 1000",
        "ip length < 100",
        "ip dscp cs1",
        "ip ecn ect1",
        "ip ttl < 10",
        "ip6 hoplimit < 10",
        "ip frag-off & 0x1fff == 0",
        "fib daddr type local",
        "meta mark 0",
        "tcp option timestamp exists",
        "@th,0,16 40000",
    ])
}

fn verdict() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "",
        "",
        "accept",
        "return",
        "continue",
        "jump a",
        "jump b",
        "jump d",
        "goto b",
        "goto d",
        "ct mark set 1",
        "ct mark set 0 jump d",
        "meta mark set 1",
        "ct state vmap { established : jump d, new : accept }",
        "meta l4proto vmap { tcp : jump b, udp : return }",
        "ip daddr vmap { 10.1.0.0/16 : goto d, 10.2.0.2 : accept }",
        "ip saddr . ip protocol vmap { 10.1.0.2 . udp : jump d, 10.2.0.2 . tcp : accept }",
        "ct direction vmap { original : accept, reply : continue }",
        "th sport vmap { 7000-7001 : jump d, 7002 : return }",
        "meta length vmap { 1000-2000 : accept, 0-100 : jump d }",
        "iifname . oifname vmap { \"c0\" . \"s0\" : jump d, \"s0\" . \"c0\" : accept }",
    ])
}

fn rules(calls: &'static [&'static str]) -> impl Strategy<Value = String> {
    let rule = (prop::collection::vec(matches(), 0..3), verdict())
        .prop_map(|(matches, verdict)| format!("{} counter {verdict}\n", matches.join(" ")));
    prop::collection::vec(rule, 1..6).prop_map(move |rules| {
        // Chains lead on to later ones alone: a, b, d.
        let allowed = |rule: &String| {
            ["a", "b", "d"].iter().all(|name| {
                calls.contains(name)
                    || !(rule.contains(&format!("jump {name}")) || rule.contains(&format!("goto {name}")))
            })
        };
        rules.into_iter().filter(allowed).collect()
    })
}

fn ruleset() -> impl Strategy<Value = String> {
    const BASES: [&str; 7] = [
        "prerouting priority -300",
        "prerouting priority -150",
        "prerouting priority 0",
        "forward priority 0",
        "forward priority 5",
        "postrouting priority 0",
        "postrouting priority 200",
    ];
    let any = || rules(&["a", "b", "d"]);
    let bases = prop::collection::vec(any(), BASES.len());
    (bases, rules(&["b", "d"]), rules(&["d"]), rules(&[])).prop_map(|(bases, a, b, d)| {
        let bases = BASES.iter().zip(bases).enumerate().map(|(n, (hook, rules))| {
            format!("chain base{n} {{\ntype filter hook {hook}; policy accept;\n{rules}}}\n")
        });
        let bases: String = bases.collect();
        format!("table inet r {{\nchain d {{\n{d}}}\nchain b {{\n{b}}}\nchain a {{\n{a}}}\n{bases}}}\n")
    })
}

/// Rulesets that are tried, some 200 ms each, unless `FLYOVER_RULESETS` says how many.
const RULESETS: usize = 30;

#[test]
fn whatever_the_kernel_counts_was_found() {
    in_namespace(|| {
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        // Translation stays as it is while rulesets come and go.
        load(&format!(
            "table ip n {{
                chain out {{ type nat hook postrouting priority srcnat; udp dport {BEHIND_SNAT} snat to 10.2.0.1; }}
                chain in {{ type nat hook prerouting priority dstnat; tcp dport {FORWARDED} dnat to 10.2.0.2:{BEHIND_DNAT}; }}
            }}
            table inet t {{
                chain tracked {{ type filter hook forward priority 0; ct state invalid drop; }}
                # Multicast reports and the like are nobody's connection.
                chain in {{ type filter hook prerouting priority -500; meta l4proto != {{ tcp, udp }} drop; }}
                chain out {{ type filter hook postrouting priority -500; meta l4proto != {{ tcp, udp }} drop; }}
            }}"
        ));
        let () = host("s0", SERVER, serve);
        let mut connections = host("c0", CLIENT, || {
            [
                Connection::udp(0, PLAIN),
                Connection::udp(1, PLAIN),
                Connection::udp(0, BEHIND_SNAT),
                Connection::tcp(),
            ]
        });
        connections.iter_mut().for_each(Connection::talk);
        let ports =
            [(UDP, false, PLAIN), (UDP, true, PLAIN), (UDP, false, BEHIND_SNAT), (TCP, false, FORWARDED)];

        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let (mut counted, mut told) = (0, 0);
        let asked = std::env::var("FLYOVER_RULESETS").ok().and_then(|number| number.parse().ok());
        let rulesets = asked.unwrap_or(RULESETS);
        for _ in 0..rulesets {
            let text = ruleset().new_tree(&mut runner).expect("a ruleset").current();
            let path = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(path.path(), format!("table inet r\ndelete table inet r\n{text}"))
                .expect("written");
            let loaded = Command::new("nft").arg("-f").arg(path.path()).output().expect("nft");
            if !loaded.status.success() {
                // Some matches contradict each other, which nft notices.
                let error = String::from_utf8_lossy(&loaded.stderr).into_owned();
                assert!(
                    error.contains("conflicting") || error.contains("unsatisfiable"),
                    "{error:.600}\n{text}"
                );
                continue;
            }
            let judgement = Judgement::new(&read().expect("read"), &[]);
            for (connection, (proto, v6, port)) in connections.iter_mut().zip(ports) {
                let before = counts();
                let entry = |entries: Vec<ConntrackEntry>| {
                    let wanted = |entry: &ConntrackEntry| {
                        (entry.orig.proto, entry.orig.src.is_ipv6(), entry.orig.dport) == (proto, v6, port)
                    };
                    entries.into_iter().find(wanted).expect("an entry")
                };
                let first = entry(entries());
                connection.talk();
                let last = entry(entries());
                let after = counts();
                for (handle, count) in after {
                    if before.get(&handle) == Some(&count) {
                        continue;
                    }
                    counted += 1;
                    // Rules may have set the mark meanwhile, of which an event would tell.
                    let concerned = judgement.findings().iter().any(|finding| {
                        let here = &finding.location;
                        (here.table.as_str(), here.handle) == ("r", Some(handle))
                            && finding.what == What::Warns(Warning::Counter)
                            && [&first, &last].iter().any(|entry| {
                                let view = ConnectionView::of(entry);
                                let (near, far): (&[&str], &[&str]) = (&["c0"], &["s0"]);
                                let orig = Direction { input: near, output: far, ..view.orig };
                                let reply = Direction { input: far, output: near, ..view.reply };
                                finding.concerns(&ConnectionView { orig, reply, ..view })
                            })
                    });
                    if !concerned {
                        let chains = run("nft -a list table inet r");
                        panic!("rule {handle} counted, but was not found for {last:?}\n{chains}");
                    }
                }
                told += judgement.findings().len();
            }
        }
        assert!(counted > 10 * rulesets && told > 0, "{counted} counted, {told} found");
    });
}
