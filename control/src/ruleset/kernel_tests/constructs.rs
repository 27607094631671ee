//! Each construct, and what is none.

use super::*;
use crate::config::Construct;

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
fn what_is_not_to_be_tracked_any_more_is_kept() {
    in_namespace(|| {
        let with = |priority: &str, rule: &str| {
            judge(&format!(
                "table inet t {{ chain c {{ type filter hook prerouting priority {priority}; {rule}; }}; }}"
            ))
        };
        let judgement = with("raw", "udp dport 53 notrack");
        assert_eq!(names(&judgement), ["notrack"]);
        let view = |port| tcp("10.0.0.5", "192.0.2.7", port);
        let judgement = with("raw", "tcp sport 443 notrack");
        assert!(judgement.keeps(&view(443)).is_some(), "by the packets that come back");
        assert!(judgement.keeps(&view(80)).is_none());
        // Before a SYN proxy.
        assert_eq!(names(&with("raw", "tcp flags & (fin | syn | rst | ack) == syn notrack")), [""; 0]);
        // Behind conntrack it does nothing (nft_notrack_eval of net/netfilter/nft_ct.c).
        assert_eq!(names(&with("mangle", "udp dport 53 notrack")), [""; 0]);
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
