//! Which connections a finding concerns.

use dataplane::flow::UDP;

use super::*;

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
        // Set by several rules, it may be any of theirs where a packet meets the test.
        let with = |rules: &str| forward(&format!("ct mark 7 {OVER}; {rules}")).keeps(&view).is_some();
        assert!(with("ct mark set 7; ip saddr 10.0.0.9 ct mark set 8"));
        assert!(!with("ct mark set 8; ct state new ct mark set 9"), "one, and one for new connections");
        assert!(
            !with("ct mark set ct mark | 8; ct mark set ct mark & 0xffff | 0x10000"),
            "bits of their own"
        );
        assert!(with("ct mark set ct mark | 8; ct mark set ct mark & 0xffff | 8"));
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
