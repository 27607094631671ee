//! Rulesets loaded by nft into a namespace of the tests' own, read back and judged.

use std::io::Write;
use std::process::{Command, Stdio};

use dataplane::flow::{FiveTuple, TCP, UDP};

use super::model::{Family, HookPoint};
use super::*;
use crate::config::Construct;
use crate::netlink::conntrack::Status;
use crate::netlink::testing::in_namespace;

/// Loads a ruleset in place of all there is.
fn load(ruleset: &str) {
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("this test needs nft");
    let text = format!("flush ruleset\n{ruleset}");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    assert!(child.wait().expect("ended").success(), "nft refuses: {ruleset:.2000}");
}

fn judge(ruleset: &str) -> Judgement {
    load(ruleset);
    Judgement::new(&read().expect("read"), &[])
}

/// Rules in the forward chain of an inet table.
fn forward(rules: &str) -> Judgement {
    judge(&format!(
        "table inet t {{ chain forward {{ type filter hook forward priority filter; {rules}; }}; }}"
    ))
}

/// The names of what was found.
fn names(judgement: &Judgement) -> Vec<&'static str> {
    judgement.findings().iter().map(|finding| finding.what.name()).collect()
}

fn tuple(proto: u8, src: &str, sport: u16, dst: &str, dport: u16) -> FiveTuple {
    FiveTuple { proto, src: src.parse().expect("address"), dst: dst.parse().expect("address"), sport, dport }
}

const ESTABLISHED: Status = Status(Status::SEEN_REPLY.0 | Status::ASSURED.0 | Status::CONFIRMED.0);

/// A connection without translation, by its tuple.
fn connection(orig: FiveTuple) -> ConnectionView<'static> {
    let reply = FiveTuple { src: orig.dst, dst: orig.src, sport: orig.dport, dport: orig.sport, ..orig };
    let direction = |tuple| Direction { tuple, input: &[], output: &[] };
    ConnectionView { orig: direction(orig), reply: direction(reply), mark: 0, status: ESTABLISHED }
}

fn tcp(src: &str, dst: &str, dport: u16) -> ConnectionView<'static> {
    connection(tuple(TCP, src, 40000, dst, dport))
}

#[test]
fn all_parts_are_read() {
    in_namespace(|| {
        load(
            "table inet t {
                set ports { type inet_service; elements = { 22, 80 } }
                set nets { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.1-192.168.1.9 } }
                map go { type ct_state : verdict; elements = { established : accept, new : jump other } }
                limit slow { rate 10/second }
                chain other { tcp dport @ports ip saddr @nets limit name slow drop comment \"slow down\"; }
                chain forward {
                    type filter hook forward priority -5; policy drop;
                    ct state vmap @go
                }
            }
            table ip6 empty { flags dormant; }
            table netdev n { chain in { type filter hook ingress device lo priority 7; }; }",
        );
        let ruleset = read().expect("read");
        let [t, empty, n] = ruleset.tables.as_slice() else { panic!("{ruleset:#?}") };
        assert_eq!((t.family, t.name.as_str(), t.dormant), (Family::Inet, "t", false));
        assert_eq!((empty.family, empty.dormant), (Family::Ip6, true));
        let hook = t.chain("forward").and_then(|chain| chain.hook.clone()).expect("a base chain");
        assert_eq!((hook.point, hook.priority, hook.drops), (HookPoint::Forward, -5, true));
        assert_eq!(hook.kind, "filter");
        let hook = n.chain("in").and_then(|chain| chain.hook.clone()).expect("a base chain");
        assert_eq!((hook.point, hook.priority, hook.drops), (HookPoint::Ingress, 7, false));
        assert_eq!(hook.devices, ["lo"]);
        let other = t.chain("other").expect("a chain");
        assert_eq!(other.rules[0].comment.as_deref(), Some("slow down"));
        assert!(other.hook.is_none() && other.rules[0].handle > 0);
        let nets = t.set("nets").and_then(|set| set.elements.clone()).expect("elements");
        let ends: Vec<_> = nets.iter().map(|one| (one.key.clone(), one.key_end.clone())).collect();
        assert_eq!(
            ends,
            [
                (vec![10, 0, 0, 0], Some(vec![10, 255, 255, 255])),
                (vec![192, 168, 1, 1], Some(vec![192, 168, 1, 9]))
            ]
        );
        let go = t.set("go").and_then(|set| set.elements.clone()).expect("elements");
        assert_eq!(go.iter().filter(|element| element.verdict.is_some()).count(), 2);
        assert_eq!(t.objects.len(), 1);
        assert!(ruleset.interfaces.iter().any(|(_, name)| name == "lo"));
    });
}

#[test]
fn a_set_with_many_elements_is_left_unread() {
    in_namespace(|| {
        let elements: Vec<String> =
            (0..2 * MOST_ELEMENTS + 2).map(|n| format!("10.{}.{}.1", n / 256, n % 256)).collect();
        let elements = elements.join(", ");
        let judgement = forward(&format!("ip saddr {{ {elements} }} limit rate over 1/second drop"));
        let ruleset = read().expect("read");
        assert_eq!(ruleset.tables[0].sets[0].elements, None);
        assert!(judgement.keeps(&tcp("192.0.2.1", "192.0.2.2", 80)).is_some(), "anything may match");
    });
}

/// A rule alone, in front of everything, and the one thing that is found in it.
const CONSTRUCTS: &[(&str, &str)] = &[
    ("quota over 1000 mbytes drop", "quota"),
    ("quota 1000 mbytes", "quota"),
    ("limit rate over 10 mbytes/second drop", "limit"),
    ("limit rate 10/second accept", "limit"),
    ("ct bytes > 1000000 drop", "ct bytes"),
    ("ct original packets > 100 drop", "ct bytes"),
    ("ct avgpkt > 100 drop", "ct bytes"),
    ("ct count over 20 drop", "ct count"),
    ("ct expiration < 10s drop", "ct expiration"),
    ("ip daddr 10.0.0.1 dup to 10.0.0.9", "dup"),
    ("meta hour \"08:00\"-\"17:00\" drop", "time"),
    ("meta day \"Saturday\" drop", "time"),
    ("meta time > \"2038-01-01 00:00\" drop", "time"),
    ("ether saddr 02:00:00:00:00:01 drop", "ether saddr"),
    ("ether saddr . ip saddr { 02:00:00:00:00:01 . 10.0.0.1 } drop", "ether saddr"),
    ("meta length > 1000 drop", "length"),
    ("meta length { 40-100, 1000 } drop", "length"),
    ("ip length > 1000 drop", "length"),
    ("udp length > 1000 drop", "length"),
    ("ip dscp cs1 drop", "dscp"),
    ("ip ecn ce drop", "dscp"),
    ("meta mark set ip dscp map { cs1 : 1, cs2 : 2 }", "dscp"),
    ("ip dscp vmap { cs1 : drop, cs2 : accept }", "dscp"),
    ("meta priority 1:2 drop", "dscp"),
    ("ip ttl < 5 drop", "ttl"),
    ("ip ttl set 64", "ttl"),
    ("tcp flags psh drop", "tcp flags"),
    ("tcp flags & (ack | psh) == ack drop", "tcp flags"),
    ("tcp flags vmap { ack : accept, syn : drop }", "tcp flags"),
    ("tcp option timestamp exists drop", "tcp option"),
    ("tcp option sack0 left 1 drop", "tcp option"),
    ("tcp window < 100 drop", "payload"),
    ("@th,160,32 0x47455420 drop", "payload"),
    ("ip id 7 drop", "payload"),
    ("ip saddr set 10.0.0.1", "payload"),
    ("meta random > 100 drop", "numgen"),
    ("numgen inc mod 2 0 drop", "numgen"),
    ("ct mark set numgen inc mod 2", "numgen"),
    ("meta cpu 1 drop", "numgen"),
    ("log", "log"),
    ("limit rate 10/minute log prefix \"x\"", "log"),
    ("meta length > 1000 log", "log"),
    ("meta length > 1000 counter", "counter"),
    ("ip dscp cs1 counter", "counter"),
    ("ip6 dscp cs1 drop", "dscp"),
    ("ip6 length > 1000 drop", "length"),
    ("ip6 hoplimit 9 drop", "ttl"),
    ("ip6 flowlabel 7 drop", "payload"),
];

/// Rules that lose nothing: what they look at is the connection's, or does not occur in packets that fly.
const HARMLESS: &[&str] = &[
    "accept",
    "ip saddr 10.0.0.0/8 tcp dport 80 accept",
    "tcp dport { 22, 80-90 } accept",
    "ip saddr . tcp dport { 10.0.0.1 . 80 } accept",
    "iifname \"lan*\" oifname { \"wan0\", \"wan1\" } accept",
    "ct mark set ip saddr map { 10.0.0.1 : 1 }",
    "meta mark set ct mark",
    "ct state invalid drop",
    "ct state untracked limit rate over 1/second drop",
    "ct state { invalid, untracked } limit rate over 1/second drop",
    "ct status dnat accept",
    "fib saddr . iif oif missing drop",
    "fib daddr type local accept",
    "ct original ip daddr 192.0.2.1 accept",
    "tcp flags & (fin | syn | rst | ack) == syn limit rate over 25/second drop",
    "tcp flags syn tcp option maxseg size set rt mtu",
    "tcp option maxseg exists limit rate over 25/second drop",
    "tcp flags & (syn | rst) == 0 accept",
    "tcp flags ack accept",
    "tcp flags != syn accept",
    "tcp flags & (fin | rst) != 0 limit rate over 25/second drop",
    "ip frag-off & 0x1fff != 0 drop",
    "ip ttl 0 drop",
    "ip protocol icmp limit rate 10/second accept",
    "meta l4proto { icmp, ipv6-icmp } limit rate 10/second accept",
    "icmp type echo-request limit rate 10/second accept",
    "exthdr frag exists drop",
    "meta skuid 1000 limit rate 10/second drop",
    "meta ipsec exists limit rate 10/second drop",
    "osf name \"Linux\" limit rate 10/second drop",
    "jhash ip saddr mod 2 0 drop",
    "symhash mod 2 0 drop",
    "ip dscp set cs1",
    "ip6 dscp set cs1",
    "meta priority set none",
    "ether daddr 02:00:00:00:00:01 drop",
    "vlan id 7 drop",
    "meta nftrace set 1",
    "ct state established accept; queue",
    "ct state established,related accept; limit rate 10/second",
];

#[test]
fn each_construct_is_found_and_can_be_accepted() {
    in_namespace(|| {
        for (rule, name) in CONSTRUCTS {
            let table = if rule.contains("dup") { "ip" } else { "inet" };
            let judgement = judge(&format!(
                "table {table} t {{ chain forward {{ type filter hook forward priority filter; {rule}; }}; }}"
            ));
            assert_eq!(names(&judgement), [*name], "{rule}");
            let finding = judgement.findings().first().expect("one");
            assert!(finding.location.handle.is_some(), "{rule}");
            assert!(!finding.differs().is_empty() && !finding.remedy().is_empty());
            let construct = Construct::ALL.iter().find(|construct| construct.name() == *name);
            assert_eq!(finding.keeps(), construct.is_some(), "{rule}");
            let Some(construct) = construct else { continue };
            let accepting = Judgement::new(&read().expect("read"), &[*construct]);
            assert!(!accepting.keeps_any() && accepting.findings().len() == 1, "{rule}");
        }
    });
}

#[test]
fn what_loses_nothing_is_not_found() {
    in_namespace(|| {
        for rule in HARMLESS.iter().filter(|rule| !rule.contains("queue")) {
            assert_eq!(names(&forward(rule)), [""; 0], "{rule}");
        }
    });
}

#[test]
fn established_packets_are_followed_through_chains() {
    const LIMIT: &str = "limit rate over 10/second drop";
    in_namespace(|| {
        let chains = |forward: &str, other: &str| {
            judge(&format!(
                "table inet t {{
                    chain last {{ {LIMIT}; }}
                    chain other {{ {other}; }}
                    chain forward {{ type filter hook forward priority filter; {forward}; }}
                }}"
            ))
        };
        // Not come to by established packets; one-way streams are another matter.
        for (forward, other) in [
            ("ct state vmap { established : accept, related : accept, new : jump other }", LIMIT),
            ("ct state established,related accept; jump other", LIMIT),
            ("ct state vmap { established : accept }; jump other", LIMIT),
            ("jump other; jump last", "ct state established accept"),
            ("goto other; jump last", "return"),
            ("ct state != established jump other", LIMIT),
            ("ct state new jump other", LIMIT),
            ("tcp flags syn jump other; ct state established accept; jump other", LIMIT),
            ("meta nfproto vmap { ipv4 : accept, ipv6 : accept }; jump other", LIMIT),
            ("meta l4proto vmap { tcp : accept, udp : drop }; jump other", LIMIT),
            ("accept; jump other", LIMIT),
            ("reject; jump other", LIMIT),
        ] {
            let judgement = chains(forward, other);
            let limits = judgement.findings().iter().filter(|finding| finding.keeps());
            assert!(limits.clone().all(Finding::concerns_one_way_alone), "{forward} / {other}");
            assert!(judgement.keeps(&tcp("10.0.0.1", "10.0.0.2", 80)).is_none(), "{forward} / {other}");
        }
        for (forward, other) in [
            ("jump other", LIMIT),
            ("goto other", LIMIT),
            ("jump other; jump last", "ct state new accept"),
            ("jump other; jump last", "return"),
            ("ct state established jump other; accept", "jump last"),
            ("ct state vmap { established : jump other, new : accept }", LIMIT),
            ("ct state vmap { established : goto other, new : accept }", LIMIT),
            ("iifname \"lan0\" accept; jump other", LIMIT),
            ("meta l4proto udp accept; jump other", LIMIT),
            ("ct mark 0 jump other", "ct mark set 1; ct mark 1 jump last"),
        ] {
            let judgement = chains(forward, other);
            assert!(judgement.keeps(&tcp("10.0.0.1", "10.0.0.2", 80)).is_some(), "{forward} / {other}");
        }
    });
}

#[test]
fn base_chains_stand_for_themselves() {
    in_namespace(|| {
        let at = |hook: &str| {
            judge(&format!(
                "table inet accepting {{
                    chain f {{ type filter hook forward priority -10; ct state established accept; }}
                    chain p {{ type filter hook prerouting priority -150; ct state established accept; }}
                }}
                table inet t {{ chain c {{ type {hook}; limit rate over 10/second drop; }}; }}"
            ))
            .keeps_any()
        };
        assert!(at("filter hook forward priority 10"), "accepted before, but in another chain");
        assert!(at("filter hook prerouting priority -300"));
        assert!(at("filter hook prerouting priority 0"));
        assert!(at("filter hook postrouting priority 0"));
        assert!(!at("filter hook input priority 0"), "local");
        assert!(!at("filter hook output priority 0"), "local");
        assert!(!at("nat hook prerouting priority dstnat"), "first packets alone");
        assert!(!at("nat hook postrouting priority srcnat"), "first packets alone");
        assert!(at("filter hook ingress device lo priority 0"));
        // Before conntrack there is no state.
        let raw = |rule: &str| {
            names(&judge(&format!(
                "table inet t {{ chain c {{ type filter hook prerouting priority raw; {rule}; }}; }}"
            )))
        };
        assert_eq!(raw("ct state established accept; limit rate over 10/second drop"), ["limit"]);
        assert_eq!(raw("ct state established limit rate over 10/second drop"), [""; 0]);
        // Dormant tables see nothing.
        load(
            "table inet t { flags dormant; chain c { type filter hook forward priority 0; limit rate over 10/second drop; }; }",
        );
        assert!(!Judgement::new(&read().expect("read"), &[]).keeps_any());
    });
}

#[test]
fn other_families() {
    in_namespace(|| {
        let bridge = judge(
            "table bridge b { chain c { type filter hook forward priority 0; ether saddr 02:00:00:00:00:01 drop; }; }",
        );
        assert_eq!(names(&bridge), ["ether saddr"]);
        let bridge = judge(
            "table bridge b { chain c { type filter hook output priority 0; ip saddr 10.0.0.1 limit rate over 1/second drop; }; }",
        );
        assert!(bridge.keeps(&tcp("10.0.0.1", "10.0.0.2", 80)).is_some());
        assert!(bridge.keeps(&tcp("10.0.0.3", "10.0.0.2", 80)).is_none());
        let netdev = judge(
            "table netdev n { chain c { type filter hook ingress device lo priority 0; ip saddr 10.0.0.1 limit rate over 1/second drop; }; }",
        );
        assert_eq!(names(&netdev), ["netdev chain", "limit"]);
        let arp = judge(
            "table arp a { chain c { type filter hook input priority 0; limit rate over 1/second drop; }; }",
        );
        assert_eq!(names(&arp), [""; 0]);
    });
}

#[test]
fn a_finding_concerns_what_its_matches_let_through() {
    in_namespace(|| {
        const OVER: &str = "limit rate over 10/second drop";
        let (client, server, other) = ("10.0.0.5", "192.0.2.7", "198.51.100.1");
        let view = tcp(client, server, 443);
        let elsewhere = tcp("10.9.9.9", other, 80);
        let v6 = tcp("fd00::5", "2001:db8::7", 443);
        // What concerns the connection to port 443 of 192.0.2.7, and none of the others.
        for matches in [
            "ip daddr 192.0.2.7",
            "ip saddr 192.0.2.7",
            "ip saddr 10.0.0.0/24",
            "ip saddr 10.0.0.0/29",
            "ip saddr 10.0.0.4-10.0.0.6",
            "ip daddr { 192.0.2.0/24, 203.0.113.1 }",
            "ip saddr 10.0.0.5 ip daddr 192.0.2.7",
            "ip saddr . tcp dport { 10.0.0.5 . 443, 10.0.0.6 . 80 }",
            "ip saddr . tcp dport { 10.0.0.0/28 . 400-500 }",
            "ip saddr != { 10.9.9.9, 198.51.100.1 }",
            "ct original ip daddr 192.0.2.7",
            "ct reply ip saddr 192.0.2.7",
            "meta nfproto ipv4 tcp dport 443",
            "meta nfproto ipv4 th dport 443",
            "meta nfproto ipv4 tcp sport 440-450",
        ] {
            let judgement = forward(&format!("{matches} {OVER}"));
            let keeps = |view| judgement.keeps(view).is_some();
            assert!(keeps(&view) && !keeps(&elsewhere) && !keeps(&v6), "{matches}");
        }
        for matches in
            ["ip6 daddr 2001:db8::/32", "ip6 saddr fd00::5", "meta nfproto ipv6", "ip6 nexthdr tcp"]
        {
            let judgement = forward(&format!("{matches} {OVER}"));
            let keeps = |view| judgement.keeps(view).is_some();
            assert!(!keeps(&view) && !keeps(&elsewhere) && keeps(&v6), "{matches}");
        }
        let udp = connection(tuple(UDP, client, 40000, server, 443));
        assert!(forward(&format!("udp dport 443 {OVER}")).keeps(&udp).is_some());
        assert!(forward(&format!("tcp dport 443 {OVER}")).keeps(&udp).is_none());
        // Passed before by a rule with one match.
        let judgement = forward(&format!("ip daddr 192.0.2.7 accept; ip saddr 192.0.2.7 accept; {OVER}"));
        assert!(judgement.keeps(&view).is_some(), "not one match: nft asks for the protocol too");
        let judgement = judge(&format!(
            "table ip t {{ chain forward {{ type filter hook forward priority filter; \
             ip daddr 192.0.2.0/24 accept; ip saddr 192.0.2.0/24 accept; {OVER}; }}; }}"
        ));
        assert!(judgement.keeps(&view).is_none() && judgement.keeps(&elsewhere).is_some());
    });
}

#[test]
fn marks_states_and_interfaces_narrow_a_finding() {
    in_namespace(|| {
        const OVER: &str = "limit rate over 10/second drop";
        let view = tcp("10.0.0.5", "192.0.2.7", 443);
        let marked = ConnectionView { mark: 0x1_0007, ..view };
        for matches in
            ["ct mark 0x10007", "ct mark & 0x10000 != 0", "ct mark & 0xff == 7", "ct mark { 1, 0x10007 }"]
        {
            let judgement = forward(&format!("{matches} {OVER}"));
            assert!(judgement.keeps(&marked).is_some() && judgement.keeps(&view).is_none(), "{matches}");
        }
        let translated = ConnectionView { status: Status(ESTABLISHED.0 | Status::DST_NAT.0), ..view };
        let judgement = forward(&format!("ct status dnat {OVER}"));
        assert!(judgement.keeps(&translated).is_some() && judgement.keeps(&view).is_none());

        let one_way = ConnectionView { status: Status::CONFIRMED, ..view };
        let judgement = forward(&format!("ct state new {OVER}"));
        assert!(judgement.keeps(&one_way).is_some() && judgement.keeps(&view).is_none());
        assert!(judgement.findings().iter().all(Finding::concerns_one_way_alone));
        let judgement = forward(&format!("ct direction reply {OVER}"));
        assert!(judgement.keeps(&view).is_some());

        let from = |input: &'static [&'static str], output: &'static [&'static str]| {
            let orig = Direction { input, output, ..view.orig };
            let reply = Direction { input: output, output: input, ..view.reply };
            ConnectionView { orig, reply, ..view }
        };
        let lan = from(&["lan0", "br-lan"], &["wan0"]);
        let dmz = from(&["dmz0"], &["wan0"]);
        for matches in [
            "iifname \"br-lan\"",
            "oifname \"lan*\"",
            "iifname { \"lan0\", \"lan1\" }",
            "iifname != { \"dmz0\", \"wan0\" }",
        ] {
            let judgement = forward(&format!("{matches} {OVER}"));
            let keeps = |view| judgement.keeps(view).is_some();
            assert!(keeps(&lan) && !keeps(&dmz) && keeps(&view), "{matches}");
        }
        let lo = forward(&format!("iif \"lo\" {OVER}"));
        assert!(lo.keeps(&lan).is_none() && lo.keeps(&from(&["lo"], &[])).is_some());
    });
}

#[test]
fn addresses_are_those_of_the_place() {
    in_namespace(|| {
        // 10.0.0.5 goes out as 203.0.113.1; what comes to 203.0.113.1:8080 goes to 10.0.0.9:80.
        let orig = tuple(TCP, "10.0.0.5", 40000, "192.0.2.7", 443);
        let reply = tuple(TCP, "192.0.2.7", 443, "203.0.113.1", 5000);
        let direction = |tuple| Direction { tuple, input: &[], output: &[] };
        let snat =
            ConnectionView { orig: direction(orig), reply: direction(reply), mark: 0, status: ESTABLISHED };
        let orig = tuple(TCP, "198.51.100.1", 40000, "203.0.113.1", 8080);
        let reply = tuple(TCP, "10.0.0.9", 80, "198.51.100.1", 40000);
        let dnat =
            ConnectionView { orig: direction(orig), reply: direction(reply), mark: 0, status: ESTABLISHED };
        let keeps = |hook: &str, matches: &str, view: &ConnectionView<'_>| {
            judge(&format!(
                "table ip t {{ chain c {{ type filter hook {hook}; {matches} limit rate over 1/second drop; }}; }}"
            ))
            .keeps(view)
            .is_some()
        };
        let (before, after) = ("prerouting priority -150", "prerouting priority -50");
        let (early, late) = ("postrouting priority 50", "postrouting priority 150");
        let forward = "forward priority 0";
        for (matches, view, places) in [
            // As it arrives: 203.0.113.1 before, 10.0.0.9 behind translation; replies' source until it leaves.
            ("ip daddr 203.0.113.1", &dnat, [true, false, false, false, false]),
            ("tcp dport 8080", &dnat, [true, false, false, false, false]),
            ("ip daddr 10.0.0.9", &dnat, [false, true, true, true, true]),
            ("ip saddr 10.0.0.9", &dnat, [true, true, true, true, false]),
            ("ip saddr 203.0.113.1", &dnat, [false, false, false, false, true]),
            ("ip saddr 10.0.0.5", &snat, [true, true, true, true, false]),
            ("ip saddr 203.0.113.1", &snat, [false, false, false, false, true]),
            ("ip daddr 10.0.0.5", &snat, [false, true, true, true, true]),
            ("ip daddr 203.0.113.1", &snat, [true, false, false, false, false]),
            ("ip daddr 10.0.0.77", &snat, [false; 5]),
        ] {
            let found = [before, after, forward, early, late].map(|hook| keeps(hook, matches, view));
            assert_eq!(found, places, "{matches}");
        }
        // At translation's own priority either may be seen.
        assert!(keeps("prerouting priority -100", "ip daddr 203.0.113.1", &dnat));
        assert!(keeps("prerouting priority -100", "ip daddr 10.0.0.9", &dnat));
    });
}

#[test]
fn sets_that_packets_fill_may_match_anything() {
    in_namespace(|| {
        let with = |set: &str, rules: &str| {
            judge(&format!(
                "table ip t {{
                    set s {{ type ipv4_addr; {set}; }}
                    chain c {{ type filter hook forward priority filter; {rules}; }}
                }}"
            ))
        };
        let view = tcp("10.0.0.5", "192.0.2.7", 443);
        const OVER: &str = "limit rate over 1/second drop";
        let keeps = |set: &str, rules: &str| with(set, rules).keeps(&view).is_some();
        assert!(!keeps("elements = { 10.9.9.9 }", &format!("ip saddr @s {OVER}")));
        assert!(keeps("flags dynamic", &format!("ip saddr @s {OVER}")));
        assert!(keeps("flags dynamic", &format!("ip saddr != @s {OVER}")));
        // An element that expires lets what follows see the packet.
        assert!(keeps(
            "flags timeout; elements = { 10.0.0.5, 192.0.2.7 }",
            &format!("ip saddr @s accept; {OVER}")
        ));
        assert!(!keeps("elements = { 10.0.0.5, 192.0.2.7 }", &format!("ip saddr @s accept; {OVER}")));
        let names = |set, rules| names(&with(set, rules));
        assert_eq!(names("flags dynamic", "add @s { ip saddr limit rate over 1/second } drop"), ["limit"]);
        assert_eq!(names("flags dynamic", "add @s { ip saddr ct count over 9 } drop"), ["ct count"]);
        assert_eq!(names("flags dynamic,timeout", "update @s { ip saddr timeout 10s }"), ["set"]);
        assert_eq!(names("flags dynamic,timeout; timeout 10s", "update @s { ip saddr }"), ["set"]);
        assert_eq!(names("flags dynamic,timeout", "update @s { ip saddr timeout 1h }"), [""; 0]);
        assert_eq!(names("flags dynamic,timeout", "update @s { ip saddr timeout 1h counter }"), ["counter"]);
    });
}

#[test]
fn named_objects_are_what_they_are() {
    in_namespace(|| {
        let with = |object: &str, rule: &str| {
            names(&judge(&format!(
                "table ip t {{
                    {object}
                    chain c {{ type filter hook forward priority filter; {rule}; }}
                }}"
            )))
        };
        assert_eq!(with("limit o { rate over 10/second; }", "limit name \"o\" drop"), ["limit"]);
        assert_eq!(with("quota o { over 10 mbytes; }", "quota name \"o\" drop"), ["quota"]);
        assert_eq!(with("counter o { }", "counter name \"o\" drop"), ["counter"]);
        let map =
            "quota o { over 10 mbytes; }; map m { type ipv4_addr : quota; elements = { 10.0.0.1 : \"o\" }; }";
        assert_eq!(with(map, "quota name ip saddr map @m drop"), ["quota"]);
        let map = "counter o { }; map m { type ipv4_addr : counter; elements = { 10.0.0.1 : \"o\" }; }";
        assert_eq!(with(map, "counter name ip saddr map @m"), ["counter"]);
    });
}

#[test]
fn who_asks_for_connection_tracking() {
    in_namespace(|| {
        let tracks = |ruleset: &str| judge(ruleset).tracks();
        let chain = |family: &str, rule: &str| {
            tracks(&format!(
                "table {family} t {{ chain c {{ type filter hook forward priority 0; {rule}; }}; }}"
            ))
        };
        assert_eq!(tracks(""), (false, false));
        assert_eq!(chain("inet", "ip saddr 10.0.0.1 accept"), (false, false));
        assert_eq!(chain("inet", "ct state established accept"), (true, true));
        assert_eq!(chain("ip", "ct mark 1 accept"), (true, false));
        assert_eq!(chain("ip6", "ct state new drop"), (false, true));
        let nat = "table ip n { chain c { type nat hook postrouting priority srcnat; snat to 192.0.2.1; }; }";
        assert_eq!(tracks(nat), (true, false));
    });
}

#[test]
fn a_ruleset_that_is_replaced_while_it_is_read() {
    in_namespace(|| {
        let ruleset = |n: usize| {
            let rules: String = (0..n).map(|n| format!("ip saddr 10.0.0.{n} accept\n")).collect();
            format!(
                "table ip t {{\nset s {{ type inet_service; elements = {{ {n} }}; }}\nchain c {{\n{rules}}}\n}}"
            )
        };
        load(&ruleset(100));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..20).for_each(|n| load(&ruleset(100 + n))));
            while !writer.is_finished() {
                let Ok(ruleset) = read() else { continue };
                let table = ruleset.tables.first().expect("a table");
                let rules = table.chain("c").expect("a chain").rules.len();
                let elements = table.set("s").and_then(|set| set.elements.clone()).expect("elements");
                let element = elements.first().expect("an element");
                assert_eq!(element.key, (rules as u16).to_be_bytes(), "parts of different rulesets");
            }
        });
    });
}
