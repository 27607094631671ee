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

#[test]
fn each_construct_keeps_what_it_can_see() {
    in_namespace(|| {
        for (rule, name) in [
            ("queue", "queue"),
            ("queue num 1-3 fanout,bypass", "queue"),
            ("meta l4proto tcp queue to symhash mod 4", "queue"),
            ("quota over 1 gbytes drop", "quota"),
            ("quota 1 gbytes", "quota"),
            ("limit rate over 10 mbytes/second drop", "limit"),
            ("limit rate 10/second accept", "limit"),
            ("ct bytes > 1000000 drop", "ct bytes"),
            ("ct original packets > 100 drop", "ct bytes"),
            ("ct avgpkt > 100 drop", "ct bytes"),
            ("ct count over 20 drop", "ct count"),
            ("ct expiration < 10s drop", "ct expiration"),
            ("dup to 10.0.0.9", "dup"),
            ("meta hour \"08:00\"-\"17:00\" drop", "time"),
            ("meta day \"Saturday\" drop", "time"),
            ("meta time > \"2038-01-01 00:00\" drop", "time"),
            ("ether saddr 02:00:00:00:00:01 drop", "ether saddr"),
            ("meta length > 1000 drop", "length"),
            ("ip length > 1000 drop", "length"),
            ("ip6 length > 1000 drop", "length"),
            ("udp length > 1000 drop", "length"),
            ("ip dscp cs1 drop", "dscp"),
            ("ip6 dscp cs1 drop", "dscp"),
            ("ip ecn ce drop", "dscp"),
            ("meta mark set ip dscp map { cs1 : 1, cs2 : 2 }", "dscp"),
            ("ip dscp vmap { cs1 : drop, cs2 : accept }", "dscp"),
            ("meta priority 1:2 drop", "dscp"),
            ("ip ttl < 5 drop", "ttl"),
            ("ip6 hoplimit 9 drop", "ttl"),
            ("ip ttl set 64", "ttl"),
            ("tcp flags psh drop", "tcp flags"),
            ("tcp flags & (ack | psh) == ack drop", "tcp flags"),
            ("tcp option timestamp exists drop", "tcp option"),
            ("tcp option sack0 left 1 drop", "tcp option"),
            ("tcp window < 100 drop", "payload"),
            ("@th,160,32 0x47455420 drop", "payload"),
            ("ip id 7 drop", "payload"),
            ("ip saddr set 10.0.0.1", "payload"),
            ("ip6 flowlabel 7 drop", "payload"),
            ("meta random > 100 drop", "numgen"),
            ("numgen inc mod 2 0 drop", "numgen"),
            ("meta cpu 1 drop", "numgen"),
        ] {
            let table = if rule.contains("dup") { "ip" } else { "inet" };
            let judgement = judge(&format!(
                "table {table} t {{ chain forward {{ type filter hook forward priority filter; {rule}; }}; }}"
            ));
            assert_eq!(names(&judgement), [name], "{rule}");
            let finding = judgement.findings().first().expect("one");
            assert!(finding.keeps() && finding.location.handle.is_some(), "{rule}");
            let accepted = Construct::ALL.iter().find(|construct| construct.name() == name).expect("a name");
            let accepting = Judgement::new(&read().expect("read"), &[*accepted]);
            assert!(!accepting.keeps_any() && accepting.findings().len() == 1, "{rule}");
        }
        let _ = UDP;
    });
}
