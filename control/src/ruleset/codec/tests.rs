//! Recorded and hand-made messages.

use proptest::prelude::*;

use super::*;
use crate::netlink::message::Messages;
use crate::ruleset::expression::{Base, Comparison, Expression, ObjectKind, Register, Verdict};

// Recorded on Linux 6.18 from the dumps of
//
// table inet t {
//     set s { type inet_service; flags interval; elements = { 22, 80-90 } }
//     chain c {
//         type filter hook forward priority filter; policy drop;
//         tcp dport @s ct state established limit rate 10/second accept comment "hi"
//     }
// }

/// GETCHAIN.
const CHAIN: &str = "68000000030a020001000000b423000001000002060001007400000006000300630000000c00020000000000000000011400 \
     04000800010000000002080002000000000008000500000000000b00070066696c746572000008000a000000000108000600 \
     00000001";

/// GETRULE.
const RULE: &str = "fc010000060a020801000000b423000001000002060001007400000006000200630000000c0003000000000000000003c001 \
     040024000100090001006d6574610000000014000200080002000000001008000100000000012c00010008000100636d7000 \
     20000200080001000000000108000200000000000c0003000500010006000000340001000c0001007061796c6f6164002400 \
     020008000100000000010800020000000002080003000000000208000400000000022c0001000b0001006c6f6f6b75700000 \
     1c00020006000100730000000800020000000001080005000000000020000100070001006374000014000200080001000000 \
     000108000200000000004c0001000c00010062697477697365003c0002000800010000000001080002000000000108000300 \
     0000000408000600000000000c00040008000100020000000c00050008000100000000002c00010008000100636d70002000 \
     0200080001000000000108000200000000010c0003000800010000000000440001000a0001006c696d697400000034000200 \
     0c000100000000000000000a0c00020000000000000000010800030000000005080004000000000008000500000000003000 \
     01000e000100696d6d6564696174650000001c0002000800010000000000100002000c000200080001000000000109000700 \
     0003686900000000";

/// GETSET.
const SET: &str = "78000000090a020001000000b423000001000002060001007400000006000200730000000c00100000000000000000020800 \
     030000000004080004000000000d08000500000000020a000d00000402000000000004000900170013003078666666666666 \
     6666383235303830653000000800140000000002";

/// GETSETELEM of `s`, in two messages.
const ELEMENTS: &str = "900000000c0a020001000000b423000001000002060001007400000006000200730000006c000300180001000c0001000600 \
     0100005b00000800030000000001100001000c0001000600010000500000180001000c000100060001000017000008000300 \
     00000001100001000c0001000600010000160000180001000c00010006000100000000000800030000000001280000000c0a \
     020001000000b4230000010000020600010074000000060002007300000004000300";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

fn parts(datagram: &[u8]) -> Vec<Option<Part>> {
    Messages::new(datagram).map(|message| parse(&message)).collect()
}

fn only(datagram: &[u8]) -> Part {
    let mut parts = parts(datagram);
    assert_eq!(parts.len(), 1);
    parts.remove(0).expect("understood")
}

#[test]
fn a_recorded_chain() {
    let Part::Chain(Family::Inet, table, chain) = only(&bytes(CHAIN)) else { panic!("a chain") };
    assert_eq!((table.as_str(), chain.name.as_str()), ("t", "c"));
    let hook = chain.hook.expect("a base chain");
    assert_eq!((hook.point, hook.priority, hook.drops), (HookPoint::Forward, 0, true));
    assert_eq!((hook.kind.as_str(), hook.devices.len()), ("filter", 0));
}

#[test]
fn a_recorded_rule() {
    let Part::Rule(Family::Inet, table, chain, rule) = only(&bytes(RULE)) else { panic!("a rule") };
    assert_eq!((table.as_str(), chain.as_str(), rule.handle), ("t", "c", 3));
    assert_eq!(rule.comment.as_deref(), Some("hi"));
    let first = Register(0);
    let expected = [
        Expression::Meta { key: 16, dreg: first },
        Expression::Compare { sreg: first, op: Comparison::Equal, value: vec![6] },
        Expression::Payload { base: Base::Transport, offset: 2, len: 2, dreg: first },
        Expression::Lookup { set: "s".to_owned(), sreg: first, dreg: None, verdict: false, inverted: false },
        Expression::Ct { key: 0, direction: None, dreg: first },
        Expression::Bitwise {
            sreg: first,
            dreg: first,
            len: 4,
            mask: 2_u32.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expression::Compare { sreg: first, op: Comparison::NotEqual, value: vec![0; 4] },
        Expression::Limit,
        Expression::Verdict(Verdict::Accept),
    ];
    assert_eq!(rule.expressions, expected);
}

#[test]
fn a_recorded_set() {
    let Part::Set(Family::Inet, table, mut set) = only(&bytes(SET)) else { panic!("a set") };
    assert_eq!((table.as_str(), set.name.as_str(), set.key_len), ("t", "s", 2));
    assert!(set.has_intervals() && !set.is_map() && !set.is_dynamic() && !set.expires());
    let elements = parts(&bytes(ELEMENTS)).into_iter().flat_map(|part| match part {
        Some(Part::Elements(elements)) => elements,
        other => panic!("{other:?}"),
    });
    set.elements = Some(elements.collect());
    set.close_intervals();
    let intervals = set.elements.expect("elements").into_iter().map(|one| (one.key, one.key_end));
    let pairs: Vec<_> = intervals.collect();
    assert_eq!(pairs, [(vec![0, 22], Some(vec![0, 22])), (vec![0, 80], Some(vec![0, 90]))]);
}

/// A message as the kernel would send it, of attributes that `fill` writes.
fn message(kind: Kind, family: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    let message = writer.message(kind.answer(), libc::NLM_F_MULTI, 1);
    writer.raw(&[family, 0, 0, 7]);
    fill(&mut writer);
    writer.end_message(message);
    writer.bytes().to_vec()
}

#[test]
fn a_flowtable() {
    // fw4's: devices lan0 and wan0, at ingress with priority filter, flags offload, counter.
    let datagram = message(Kind::Flowtables, 1, |writer| {
        writer.attribute(1, b"fw4\0");
        writer.attribute(2, b"ft\0");
        writer.attribute(5, &9_u64.to_be_bytes());
        writer.attribute(7, &3_u32.to_be_bytes());
        let hook = writer.nest(3);
        writer.attribute(1, &0_u32.to_be_bytes());
        writer.attribute(2, &(-10_i32).to_be_bytes());
        let devices = writer.nest(3);
        writer.attribute(1, b"lan0\0");
        writer.attribute(1, b"wan0\0");
        writer.attribute(2, b"ppp\0");
        writer.end_nest(devices);
        writer.end_nest(hook);
    });
    let expected = Flowtable {
        name: "ft".to_owned(),
        handle: 9,
        priority: -10,
        devices: vec!["lan0".to_owned(), "wan0".to_owned(), "ppp*".to_owned()],
        offload: true,
        counter: true,
    };
    assert_eq!(only(&datagram), Part::Flowtable(Family::Inet, "fw4".to_owned(), expected));
    let message = Messages::new(&datagram).next().expect("a message");
    assert_eq!(generation_of(&message), Some(7));
}

#[test]
fn an_object_and_a_device_chain() {
    let datagram = message(Kind::Objects, 2, |writer| {
        writer.attribute(1, b"t\0");
        writer.attribute(2, b"q\0");
        writer.attribute(3, &2_u32.to_be_bytes());
        writer.attribute(6, &4_u64.to_be_bytes());
    });
    let object = Object { name: "q".to_owned(), kind: ObjectKind::Quota, handle: 4 };
    assert_eq!(only(&datagram), Part::Object(Family::Ip, "t".to_owned(), object));
    // One device by both attributes.
    let datagram = message(Kind::Chains, 5, |writer| {
        writer.attribute(1, b"n\0");
        writer.attribute(3, b"c\0");
        let hook = writer.nest(4);
        writer.attribute(1, &1_u32.to_be_bytes());
        writer.attribute(2, &0_u32.to_be_bytes());
        let devices = writer.nest(4);
        writer.attribute(1, b"wan0\0");
        writer.end_nest(devices);
        writer.attribute(3, b"wan0\0");
        writer.end_nest(hook);
    });
    let Part::Chain(Family::Netdev, _, chain) = only(&datagram) else { panic!("a chain") };
    let hook = chain.hook.expect("a base chain");
    assert_eq!((hook.point, hook.devices.as_slice()), (HookPoint::Egress, &["wan0".to_owned()][..]));
}

#[test]
fn verdicts_and_what_is_not_known() {
    let rule = |name: &[u8], fill: &dyn Fn(&mut Writer)| {
        let datagram = message(Kind::Rules, 1, |writer| {
            writer.attribute(1, b"t\0");
            writer.attribute(2, b"c\0");
            let expressions = writer.nest(4);
            let element = writer.nest(1);
            writer.attribute(1, name);
            let data = writer.nest(2);
            fill(writer);
            writer.end_nest(data);
            writer.end_nest(element);
            writer.end_nest(expressions);
        });
        let Part::Rule(_, _, _, mut rule) = only(&datagram) else { panic!("a rule") };
        assert_eq!(rule.expressions.len(), 1);
        rule.expressions.remove(0)
    };
    let verdict = |code: i32| {
        rule(b"immediate\0", &|writer| {
            writer.attribute(1, &0_u32.to_be_bytes());
            let data = writer.nest(2);
            let verdict = writer.nest(2);
            writer.attribute(1, &code.to_be_bytes());
            writer.attribute(2, b"other\0");
            writer.end_nest(verdict);
            writer.end_nest(data);
        })
    };
    for (code, expected) in [
        (0, Verdict::Drop),
        (1, Verdict::Accept),
        (3, Verdict::Queue),
        (0x0007_0003, Verdict::Queue),
        (-1, Verdict::Continue),
        (-3, Verdict::Jump("other".to_owned())),
        (-4, Verdict::Goto("other".to_owned())),
        (-5, Verdict::Return),
        (-9, Verdict::Other(-9)),
    ] {
        assert_eq!(verdict(code), Expression::Verdict(expected));
    }
    assert_eq!(rule(b"queue\0", &|writer| writer.attribute(1, &[0, 1])), Expression::Queue);
    let other = |name: &str| Expression::Other { name: name.to_owned() };
    assert_eq!(rule(b"novelty\0", &|_| {}), other("novelty"));
    // Known by name, but not of the form that is known.
    assert_eq!(rule(b"cmp\0", &|_| {}), other("cmp"));
    assert_eq!(rule(b"payload\0", &|writer| writer.attribute(1, &99_u32.to_be_bytes())), other("payload"));
}

#[test]
fn requests_name_what_they_ask_for() {
    let mut writer = Writer::default();
    write_request(&mut writer, Kind::Elements, 5, Some((Family::Ip6, "t", "s")));
    let message = Messages::new(writer.bytes()).next().expect("a message");
    assert_eq!((message.kind, message.sequence), (0x0a0d, 5));
    assert_eq!(message.payload.first(), Some(&10));
    let named: Vec<_> = Attributes(&message.payload[NFGEN..]).collect();
    assert_eq!(named, [(1, &b"t\0"[..]), (2, &b"s\0"[..])]);
    for (kind, number) in [
        (Kind::Tables, 1),
        (Kind::Chains, 4),
        (Kind::Rules, 7),
        (Kind::Sets, 10),
        (Kind::Generation, 16),
        (Kind::Objects, 19),
        (Kind::Flowtables, 23),
    ] {
        assert_eq!(kind.request(), 0x0a00 | number);
    }
}

/// What the walk and the judgement make of whatever the codec lets through must not panic either.
fn judged(parts: Vec<Option<Part>>) {
    use crate::ruleset::Judgement;
    use crate::ruleset::model::Ruleset;
    let mut table = Table::new(Family::Inet, "t".to_owned());
    let hook = Hook {
        point: HookPoint::Forward,
        priority: 0,
        devices: Vec::new(),
        kind: "filter".to_owned(),
        drops: false,
    };
    let mut chain = Chain { name: "c".to_owned(), handle: 1, hook: Some(hook), rules: Vec::new() };
    for part in parts.into_iter().flatten() {
        match part {
            Part::Rule(_, _, _, rule) => chain.rules.push(rule),
            Part::Set(_, _, set) => table.sets.push(set),
            Part::Elements(elements) => {
                if let Some(set) = table.sets.last_mut() {
                    set.elements = Some(elements);
                    set.close_intervals();
                }
            }
            _ => {}
        }
    }
    table.chains.push(chain);
    Judgement::new(&Ruleset { tables: vec![table], ..Ruleset::default() }, &[]);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(kind in 0_u16..26, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let message = Message { kind: SUBSYSTEM | kind, flags: 0, sequence: 0, port: 0, payload: &bytes };
        judged(vec![parse(&message)]);
    }

    #[test]
    fn recorded_messages_with_wrong_bytes_are_survived(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut datagram = [RULE, SET, ELEMENTS].map(bytes).concat();
        for (at, byte) in changes {
            let at = at.index(datagram.len());
            datagram[at] = byte;
        }
        judged(parts(&datagram));
    }
}
