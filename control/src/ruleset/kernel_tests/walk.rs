//! Which rules are come to.

use super::*;

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
