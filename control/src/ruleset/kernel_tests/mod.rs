//! Rulesets loaded by nft into a namespace of the tests' own, read back and judged.

mod concern;
mod constructs;
mod oracle;
mod stock;
mod walk;

use std::io::Write;
use std::process::{Command, Stdio};

use dataplane::flow::{FiveTuple, TCP};

use super::model::{Family, HookPoint};
use super::*;
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
