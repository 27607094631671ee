//! Against the running kernel, in network namespaces of the tests' own.

use std::time::Duration;

use super::*;
use crate::netlink::testing::{eventually, in_namespace, run};

/// A watcher, a pair of interfaces that is up, and nothing left to tell.
fn watcher() -> (Watcher, u32) {
    watcher_with(RECEIVE_BUFFER)
}

fn watcher_with(receive_buffer: usize) -> (Watcher, u32) {
    run("ip link add v0 type veth peer name v1");
    // No router solicitations, duplicate detection or multicast reports to disturb.
    for link in ["v0", "v1"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/addr_gen_mode"), "1").expect("sysctl");
        run(&format!("ip link set {link} up"));
    }
    run("ip addr add 10.0.0.1/24 dev v0");
    let ifindex = nix::net::if_::if_nametoindex("v0").expect("index");
    let (mut watcher, initial) = Watcher::with_receive_buffer(receive_buffer).expect("watcher");
    assert!(initial.links.iter().any(|link| link.name == "v0" && link.up && link.running));
    let address = Address { ifindex, address: "10.0.0.1".parse().expect("address"), prefix: 24 };
    assert!(initial.addresses.contains(&address), "{initial:?}");
    quiet(&mut watcher);
    (watcher, ifindex)
}

fn drain(watcher: &mut Watcher) -> Vec<Change> {
    let mut seen = Vec::new();
    watcher.drain(1000, |change| seen.push(change)).expect("drained");
    seen
}

/// Reads until nothing has come for a while: the kernel finishes some changes later.
fn quiet(watcher: &mut Watcher) -> Vec<Change> {
    let mut seen = Vec::new();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = drain(watcher);
        if now.is_empty() {
            return seen;
        }
        seen.extend(now);
    }
}

/// What a command changes. Rare messages of the kernel's own (MLD, carrier) settle before and after.
fn changes(watcher: &mut Watcher, command: &str) -> Vec<Change> {
    run(command);
    quiet(watcher)
}

fn neighbour(ifindex: u32, mac: Option<u8>) -> Neighbour {
    Neighbour {
        ifindex,
        address: "10.0.0.2".parse().expect("address"),
        mac: mac.map(|last| [2, 0, 0, 0, 0, last]),
        usable: mac.is_some(),
        kept: false,
        fixed: false,
    }
}

#[test]
fn each_kind_of_change_is_told() {
    in_namespace(|| {
        let (mut watcher, _) = watcher();
        let cases = [
            ("ip route add 10.9.0.0/16 via 10.0.0.2", Change::Route),
            ("ip -6 route add fd09::/16 dev v0", Change::Route),
            ("ip rule add fwmark 7 lookup 7", Change::Rule),
            ("ip -6 rule add fwmark 7 lookup 7", Change::Rule),
            ("ip nexthop add id 1 via 10.0.0.2 dev v0", Change::Nexthop),
            ("ip nexthop del id 1", Change::Nexthop),
            ("sysctl -qw net.ipv4.ip_forward=1", Change::Netconf),
            ("sysctl -qw net.ipv4.conf.v0.rp_filter=1", Change::Netconf),
            ("sysctl -qw net.ipv6.conf.all.forwarding=1", Change::Netconf),
            ("ip xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block", Change::Xfrm),
            ("tc qdisc add dev v0 root pfifo limit 10", Change::Tc),
        ];
        for (command, expected) in cases {
            let seen = changes(&mut watcher, command);
            assert_eq!(seen.iter().filter(|change| **change == expected).count(), 1, "{command}: {seen:?}");
        }
    });
}

#[test]
fn a_ruleset_change_names_its_author() {
    in_namespace(|| {
        let (mut watcher, _) = watcher();
        let mut last = 0;
        for command in [
            "nft add table inet t",
            "nft add chain inet t c",
            "nft add rule inet t c accept",
            "nft flush ruleset",
        ] {
            let seen = changes(&mut watcher, command);
            let [Change::Ruleset { generation, port, pid }] = seen[..] else { panic!("{command}: {seen:?}") };
            assert!(generation > last && port != 0 && pid != 0, "{seen:?}");
            last = generation;
        }
        run("nft add table inet t");
        run("nft add set inet t s { type ipv4_addr; }");
        assert_eq!(quiet(&mut watcher).len(), 2);
        let seen = changes(&mut watcher, "nft add element inet t s { 10.0.0.1 }");
        assert!(matches!(seen[..], [Change::Ruleset { .. }]), "{seen:?}");
    });
}

#[test]
fn neighbours_that_chatter_are_not_told() {
    in_namespace(|| {
        let (mut watcher, v0) = watcher();
        let now = |neighbour, deleted| vec![Change::Neighbour { neighbour, deleted }];
        let replace = |mac: u8, state| {
            format!("ip neigh replace 10.0.0.2 dev v0 lladdr 02:00:00:00:00:{mac:02} nud {state}")
        };
        assert_eq!(changes(&mut watcher, &replace(2, "reachable")), now(neighbour(v0, Some(2)), false));
        for state in ["stale", "delay", "probe", "reachable"] {
            assert_eq!(changes(&mut watcher, &replace(2, state)), [], "{state}");
        }
        let fixed = Neighbour { fixed: true, ..neighbour(v0, Some(2)) };
        assert_eq!(changes(&mut watcher, &replace(2, "permanent")), now(fixed, false));
        assert_eq!(changes(&mut watcher, &replace(3, "reachable")), now(neighbour(v0, Some(3)), false));
        assert_eq!(changes(&mut watcher, &replace(3, "failed")), now(neighbour(v0, None), false));
        assert_eq!(changes(&mut watcher, "ip neigh del 10.0.0.2 dev v0"), [], "it was no use before");
        assert_eq!(changes(&mut watcher, &replace(3, "stale")), now(neighbour(v0, Some(3)), false));
        // Deleting goes by way of FAILED.
        let seen = changes(&mut watcher, "ip neigh del 10.0.0.2 dev v0");
        assert!(
            matches!(seen[..], [Change::Neighbour { neighbour: gone, .. }] if gone == neighbour(v0, None)),
            "{seen:?}"
        );
    });
}

#[test]
fn links_and_addresses_are_followed() {
    in_namespace(|| {
        let (mut watcher, v0) = watcher();
        let mut link = |command: &str| {
            let links: Vec<_> = changes(&mut watcher, command)
                .into_iter()
                .filter_map(|change| match change {
                    Change::Link { link, deleted: false } if link.ifindex == v0 => Some(link),
                    _ => None,
                })
                .collect();
            links.last().cloned().unwrap_or_else(|| panic!("no link after '{command}'"))
        };
        assert_eq!(link("ip link set v0 mtu 1400").mtu, 1400);
        assert_eq!(link("ip link set v0 address 02:00:00:00:00:77").mac, Some([2, 0, 0, 0, 0, 0x77]));
        assert_eq!(link("ip link property add dev v0 altname uplink0").altnames, ["uplink0"]);
        let peer_down = link("ip link set v1 down");
        assert!(peer_down.up && !peer_down.running);
        assert!(link("ip link set v1 up").running);
        assert_eq!(link("ip link set v0 name wan0").name, "wan0");
        let bridge = |command: &str| -> u32 {
            run(command);
            nix::net::if_::if_nametoindex("br0").expect("index")
        };
        let master = bridge("ip link add br0 type bridge");
        assert_eq!(link("ip link set wan0 master br0").master, Some(master));
        assert_eq!(link("ip link set wan0 nomaster").master, None);
        let down = link("ip link set wan0 down");
        assert!(!down.up && !down.running);

        let address = Address { ifindex: v0, address: "fd00::1".parse().expect("address"), prefix: 64 };
        let added = Change::Address { address, added: true };
        let removed = Change::Address { address, added: false };
        run("ip link set wan0 up");
        quiet(&mut watcher);
        let seen =
            changes(&mut watcher, "ip addr add fd00::1/64 dev wan0 nodad valid_lft 1000 preferred_lft 1000");
        assert!(seen.contains(&added) && seen.contains(&Change::Route), "{seen:?}");
        let seen =
            changes(&mut watcher, "ip addr change fd00::1/64 dev wan0 valid_lft 2000 preferred_lft 2000");
        assert!(!seen.iter().any(|change| matches!(change, Change::Address { .. })), "{seen:?}");
        assert!(changes(&mut watcher, "ip addr del fd00::1/64 dev wan0").contains(&removed));

        let seen = changes(&mut watcher, "ip link del wan0");
        let gone = |name| move |change: &Change| matches!(change, Change::Link { link, deleted: true } if link.name == name);
        assert!(seen.iter().any(gone("wan0")) && seen.iter().any(gone("v1")), "{seen:?}");
        let old = "10.0.0.1".parse().expect("address");
        let old =
            Change::Address { address: Address { ifindex: v0, address: old, prefix: 24 }, added: false };
        assert!(seen.contains(&old), "{seen:?}");
    });
}

#[test]
fn a_bridge_tells_what_it_learns() {
    in_namespace(|| {
        run("ip link add br0 type bridge");
        let (mut watcher, _) = watcher();
        run("ip link set v0 master br0");
        quiet(&mut watcher);
        let seen = changes(&mut watcher, "bridge fdb add 02:00:00:00:00:55 dev v0 master static");
        assert_eq!(seen, [Change::Fdb]);
    });
}

#[test]
fn after_an_overrun_the_differences_are_told() {
    in_namespace(|| {
        let (mut watcher, v0) = watcher_with(128 << 10);
        let neighbours = 3_000;
        let mut file = tempfile::NamedTempFile::new().expect("file");
        for n in 0..neighbours {
            use std::io::Write;
            let address = std::net::Ipv4Addr::from(0x0a00_0100 + n);
            writeln!(file, "neigh replace {address} dev v0 lladdr 02:00:00:00:00:02 nud permanent")
                .expect("line");
        }
        run("ip link set v0 mtu 1300");
        // The room for messages is exhausted, while nobody reads.
        run(&format!("ip -batch {}", file.path().display()));
        let mut rest = 0;
        let mut overruns = 0;
        let mut mtu = None;
        eventually("every neighbour", || {
            watcher
                .drain(100_000, |change| match change {
                    Change::Neighbour { neighbour, deleted: false } if neighbour.usable => rest += 1,
                    Change::Link { link, .. } if link.ifindex == v0 => mtu = Some(link.mtu),
                    Change::Overrun => overruns += 1,
                    other => panic!("{other:?}"),
                })
                .expect("drained");
            rest >= neighbours
        });
        assert_eq!((rest, mtu), (neighbours, Some(1300)));
        assert!(overruns > 0, "nothing was lost, so nothing was tested");
        assert_eq!(quiet(&mut watcher), []);

        run("ip addr add 10.0.1.1/24 dev v0");
        run("ip neigh flush dev v0 nud permanent");
        let seen = quiet(&mut watcher);
        let gone =
            |change: &&Change| matches!(change, Change::Neighbour { neighbour, .. } if !neighbour.usable);
        assert_eq!(seen.iter().filter(gone).count() as u32, neighbours);
        assert!(seen.contains(&Change::Overrun));
    });
}

#[test]
fn mio_wakes_for_each_socket() {
    in_namespace(|| {
        let (mut watcher, _) = watcher();
        let mut poll = mio::Poll::new().expect("poll");
        poll.registry().register(&mut watcher, Token(3), Interest::READABLE).expect("registered");
        for command in ["ip route add 10.9.0.0/16 dev v0", "nft add table inet t", "ip xfrm policy flush"] {
            run(command);
            if command.contains("xfrm") {
                run("ip xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir fwd action block");
            }
            let mut ready = mio::Events::with_capacity(4);
            poll.poll(&mut ready, Some(Duration::from_secs(5))).expect("polled");
            assert!(ready.iter().any(|event| event.token() == Token(3)), "{command}");
            assert!(!drain(&mut watcher).is_empty(), "{command}");
        }
        poll.registry().deregister(&mut watcher).expect("deregistered");
    });
}
