//! What the model NIC refuses, and what it names as the reason.

use super::*;
use crate::dpdk::flow_rule::layout::{self, Field, ModifyField, Operation};
use crate::dpdk::flow_rule::{ActionKind, ErrorKind, FlowAttr, FlowRule, ItemKind, Parts};
use nix::errno::Errno;

const INGRESS: FlowAttr = FlowAttr { group: 0, priority: 0, ingress: true, egress: false, transfer: false };

fn rule() -> FlowRule {
    FlowRule::new(INGRESS)
}

fn parts<'a>(spec: &'a [u8], mask: &'a [u8]) -> Parts<'a> {
    Parts { spec: Some(spec), last: None, mask: Some(mask) }
}

type Action<'a> = (ActionKind, Option<&'a [u8]>);

fn refused(rule: &FlowRule) -> ErrorKind {
    let (_, rules) = nic();
    let error = rules.validate(rule).expect_err("the model refuses");
    assert_eq!(rules.create(rule).expect_err("the model refuses").kind, error.kind);
    error.kind
}

fn taken(rule: &FlowRule) {
    let (nic, rules) = nic();
    rules.validate(rule).expect("the model takes it");
    rules.create(rule).expect("the model takes it");
    assert_eq!(nic.rules(), 1);
}

#[test]
fn attributes() {
    let with = |attr: FlowAttr| {
        let mut rule = FlowRule::new(attr);
        rule.item(ItemKind::ETH, &Parts::default()).action(ActionKind::DROP, None);
        rule
    };
    taken(&with(INGRESS));
    assert_eq!(refused(&with(FlowAttr { ingress: false, ..INGRESS })), ErrorKind::Attributes);
    assert_eq!(refused(&with(FlowAttr { transfer: true, ..INGRESS })), ErrorKind::Attributes);
    assert_eq!(refused(&with(FlowAttr { egress: true, ..INGRESS })), ErrorKind::Egress);
    assert_eq!(refused(&with(FlowAttr { group: 4, ..INGRESS })), ErrorKind::Group);
    assert_eq!(refused(&with(FlowAttr { priority: 4, ..INGRESS })), ErrorKind::Priority);
    // The switch wants to know where packets come in.
    let transfer = FlowAttr { ingress: false, transfer: true, ..INGRESS };
    assert_eq!(refused(&with(transfer)), ErrorKind::Item);
    let (nic, _) = nic();
    let elsewhere = FlowRules::of_engine(nic, 77);
    assert_eq!(elsewhere.create(&with(INGRESS)).map_err(|error| error.errno), Err(Errno::ENODEV));
}

#[test]
fn patterns() {
    let drop_all = |items: &[(ItemKind, Parts<'_>)]| {
        let mut rule = rule();
        for (kind, parts) in items {
            rule.item(*kind, parts);
        }
        rule.action(ActionKind::DROP, None);
        rule
    };
    let any = Parts::default();
    let stack = |kinds: &[ItemKind]| drop_all(&kinds.iter().map(|kind| (*kind, any)).collect::<Vec<_>>());
    use ItemKind as Is;
    taken(&stack(&[Is::ETH, Is::VOID, Is::VLAN, Is::VLAN, Is::IPV6, Is::UDP, Is::INTEGRITY]));
    for order in [
        &[][..],
        &[Is::IPV4],
        &[Is::ETH, Is::ETH],
        &[Is::ETH, Is::TCP],
        &[Is::ETH, Is::IPV4, Is::VLAN],
        &[Is::ETH, Is::IPV4, Is::IPV6],
        &[Is::ETH, Is::IPV4, Is::TCP, Is::UDP],
        &[Is::ETH, Is::VLAN, Is::VLAN, Is::VLAN],
        &[Is::ETH, Is::INTEGRITY],
        &[Is::REPRESENTED_PORT, Is::ETH],
        &[Is::ETH, Is::IPV4, Is::ICMP],
    ] {
        assert_eq!(refused(&stack(order)), ErrorKind::Item, "{order:?}");
    }
    let mut endless = stack(&[Is::ETH]);
    endless.unterminated();
    assert_eq!(refused(&endless), ErrorKind::ItemCount);
    assert_eq!(refused(&stack(&[Is::VOID; 13])), ErrorKind::ItemCount);

    let eth = |parts: &Parts<'_>| drop_all(&[(Is::ETH, *parts)]);
    let (mac, full) = ([2, 0, 0, 0, 0, 1], [0xff; 6]);
    taken(&eth(&parts(&mac, &full)));
    assert_eq!(refused(&eth(&Parts { mask: Some(&full), ..any })), ErrorKind::ItemSpec);
    assert_eq!(refused(&eth(&Parts { spec: Some(&mac), ..any })), ErrorKind::ItemMask);
    assert_eq!(refused(&eth(&Parts { last: Some(&mac), ..parts(&mac, &full) })), ErrorKind::ItemLast);
    assert_eq!(refused(&eth(&parts(&mac, &[0xff, 0, 0, 0, 0, 0]))), ErrorKind::ItemMask);
    // A value beside its mask.
    assert_eq!(refused(&eth(&parts(&[0, 0, 0, 0, 0, 0, 1], &full))), ErrorKind::ItemSpec);
    // A reserved bit.
    let mut reserved = [0; 20];
    reserved[19] = 0x80;
    assert_eq!(refused(&eth(&parts(&[], &reserved))), ErrorKind::ItemMask);

    let ipv4 = |at: usize, mask: &[u8]| {
        let mut bytes = [0; 20];
        bytes[at..at + mask.len()].copy_from_slice(mask);
        drop_all(&[(Is::ETH, any), (Is::IPV4, parts(&[], &bytes))])
    };
    for (at, mask) in [(12, &[0xff, 0xff, 0xf0, 0][..]), (8, &[0xff]), (6, &[0x3f, 0xff]), (0, &[0x0f])] {
        taken(&ipv4(at, mask));
    }
    for (at, mask) in [(12, &[0xff, 0, 0xff, 0][..]), (8, &[0x0f]), (2, &[0xff; 2]), (4, &[1, 0]), (10, &[1])]
    {
        assert_eq!(refused(&ipv4(at, mask)), ErrorKind::ItemMask, "byte {at}");
    }
    // Ranges of lengths, and of nothing else.
    let range = |at: usize, least: u16, most: u16, mask: u16, other: u8| {
        let ends = [least, most, mask].map(|number| {
            let mut bytes = [0; 20];
            bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
            bytes
        });
        let [mut spec, mut last, mut mask] = ends;
        // The protocol is TCP.
        (spec[9], last[9], mask[9]) = (6, other, 0xff);
        drop_all(&[
            (Is::ETH, any),
            (Is::IPV4, Parts { spec: Some(&spec), last: Some(&last), mask: Some(&mask) }),
        ])
    };
    taken(&range(2, 20, 1500, 0xffff, 0));
    taken(&range(2, 20, 1500, 0xffff, 6));
    for rule in [
        range(2, 20, 1500, 0xffff, 7),
        range(2, 20, 1500, 0xff00, 0),
        range(2, 1500, 20, 0xffff, 0),
        range(12, 20, 1500, 0xffff, 0),
    ] {
        assert_eq!(refused(&rule), ErrorKind::ItemLast);
    }
    // What one item says and the next contradicts.
    let mut type_of = [0; 20];
    type_of[12..14].copy_from_slice(&[0x86, 0xdd]);
    let mut type_mask = [0; 20];
    type_mask[12..14].copy_from_slice(&[0xff; 2]);
    let says_ipv6 = parts(&type_of, &type_mask);
    taken(&drop_all(&[(Is::ETH, says_ipv6), (Is::IPV6, any)]));
    assert_eq!(refused(&drop_all(&[(Is::ETH, says_ipv6), (Is::IPV4, any)])), ErrorKind::ItemSpec);
}

#[test]
fn actions() {
    use ActionKind as To;
    let with = |actions: &[Action<'_>]| {
        let mut rule = rule();
        rule.item(ItemKind::ETH, &Parts::default());
        rule.item(ItemKind::VLAN, &Parts::default()).item(ItemKind::IPV4, &Parts::default());
        rule.item(ItemKind::TCP, &Parts::default());
        for (kind, conf) in actions {
            rule.action(*kind, *conf);
        }
        rule
    };
    let (mac, id, out) = (Some(&[2; 6][..]), Some(&[0, 9][..]), Some(&OUT.to_ne_bytes()[..]));
    let drop = (To::DROP, None);
    let port = (To::REPRESENTED_PORT, out);
    let count = (To::COUNT, Some(&[0; 4][..]));
    let vlan = Some(&[0x81, 0][..]);
    taken(&with(&[
        (To::OF_POP_VLAN, None),
        (To::OF_PUSH_VLAN, vlan),
        (To::OF_SET_VLAN_VID, id),
        (To::SET_MAC_SRC, mac),
        (To::VOID, None),
        (To::DEC_TTL, None),
        count,
        port,
    ]));
    let wrong: &[(&[Action<'_>], ErrorKind)] = &[
        (&[], ErrorKind::Action),
        (&[count], ErrorKind::Action),
        (&[drop, drop], ErrorKind::Action),
        (&[drop, count], ErrorKind::Action),
        (&[count, count, drop], ErrorKind::Action),
        (&[(To::SET_MAC_SRC, mac), (To::OF_POP_VLAN, None), drop], ErrorKind::Action),
        (&[(To::SET_MAC_SRC, mac), (To::SET_MAC_SRC, mac), drop], ErrorKind::Action),
        (&[(To::SET_MAC_SRC, None), drop], ErrorKind::ActionConf),
        (&[(To::DEC_TTL, None), (To::SET_TTL, Some(&[3])), drop], ErrorKind::Action),
        (&[(To::OF_POP_VLAN, None), (To::OF_POP_VLAN, None), drop], ErrorKind::Action),
        (&[(To::OF_PUSH_VLAN, vlan), drop], ErrorKind::Action),
        (&[(To::OF_PUSH_VLAN, Some(&[8, 0])), (To::OF_SET_VLAN_VID, id), drop], ErrorKind::ActionConf),
        (&[(To::OF_SET_VLAN_VID, Some(&[0x10, 0])), drop], ErrorKind::ActionConf),
        (&[(To::OF_SET_VLAN_PCP, Some(&[8])), drop], ErrorKind::ActionConf),
        (&[(To::SET_IPV6_SRC, Some(&[1; 16])), drop], ErrorKind::Action),
        (&[(To::MARK, Some(&[1; 4])), drop], ErrorKind::ActionConf),
        (&[(To::MARK, Some(&1u32.to_ne_bytes())), drop], ErrorKind::Action),
        (&[(To::AGE, Some(&[0; 4])), drop], ErrorKind::ActionConf),
        (&[(To::QUEUE, Some(&2u16.to_ne_bytes()))], ErrorKind::ActionConf),
        (&[(To::REPRESENTED_PORT, Some(&[0; 2]))], ErrorKind::ActionConf),
        (&[(To::PORT_ID, Some(&[1, 0, 0, 0, 5, 0, 0, 0]))], ErrorKind::ActionConf),
        (&[(To::PORT_REPRESENTOR, out)], ErrorKind::Action),
        (&[(To::JUMP, Some(&0u32.to_ne_bytes()))], ErrorKind::ActionConf),
        (&[(To::JUMP, Some(&4u32.to_ne_bytes()))], ErrorKind::ActionConf),
        (&[(To::DEC_TTL, None), (To::JUMP, Some(&1u32.to_ne_bytes()))], ErrorKind::Action),
        (&[(To::from_raw(4000), None), drop], ErrorKind::Action),
    ];
    for (actions, kind) in wrong {
        assert_eq!(refused(&with(actions)), *kind, "{actions:?}");
    }
    let mut endless = with(&[drop]);
    endless.unterminated();
    assert_eq!(refused(&endless), ErrorKind::ItemCount);

    let modify = |modify: ModifyField| with(&[(To::MODIFY_FIELD, Some(&modify.bytes())), port]);
    let ttl = ModifyField::new(Operation::Subtract, Field::Ipv4Ttl, &[1]);
    taken(&modify(ttl));
    taken(&modify(ModifyField::new(Operation::Add, Field::Ipv4Ttl, &[255])));
    for wrong in [
        ModifyField { width: 4, ..ttl },
        ModifyField { offset: 1, ..ttl },
        ModifyField { level: 2, ..ttl },
        ModifyField { field: Field::Ipv6HopLimit, ..ttl },
        ModifyField::new(Operation::Add, Field::TcpSrc, &[0, 1]),
        ModifyField::set(Field::UdpSrc, &[0, 1]),
    ] {
        assert_eq!(refused(&modify(wrong)), ErrorKind::ActionConf, "{wrong:?}");
    }
    assert_eq!(refused(&modify(ModifyField::set(Field::Ipv6Src, &[1; 16]))), ErrorKind::Action);
    let bytes = ttl.bytes();
    let mixed = [(To::SET_MAC_SRC, mac), (To::MODIFY_FIELD, Some(&bytes[..])), port];
    assert_eq!(refused(&with(&mixed)), ErrorKind::Action);
    let mut empty = with(&[]);
    empty.rss(&[]);
    assert_eq!(refused(&empty), ErrorKind::ActionConf);
    let mut beyond = with(&[]);
    beyond.rss(&[0, 2]);
    assert_eq!(refused(&beyond), ErrorKind::ActionConf);
}

#[test]
fn rules_that_are_there_and_room() {
    let frame = Frame::udp("10.0.0.2:4000", "192.0.2.9:53");
    let (flow, _) = flow(&frame, &frame).expect("it can be carried");
    let form = plain_form();
    let rule = encode::carry(&flow, &form, Ttl::Decrement);
    let (nic, rules) = nic_with(Knobs { capacity: 2, ..Knobs::default() });
    let id = rules.create(&rule).expect("there is room");
    assert_eq!(rules.create(&rule).map_err(|error| error.errno), Err(Errno::EEXIST));
    let drops = encode::carry(&flow, &Form { fields: Fields::Modify, ..form.clone() }, Ttl::Decrement);
    assert_eq!(rules.create(&drops).map_err(|error| error.errno), Err(Errno::EEXIST), "other actions");
    let other = HardwareFlow { to: [2; 6], ..flow.clone() };
    rules.create(&encode::carry(&other, &form, Ttl::Decrement)).expect("there is room");
    let third = HardwareFlow { to: [4; 6], ..flow };
    let third = encode::carry(&third, &form, Ttl::Decrement);
    assert_eq!(rules.create(&third).map_err(|error| error.errno), Err(Errno::ENOSPC));
    rules.destroy(id).expect("it goes");
    assert_eq!(rules.destroy(id).map_err(|error| error.errno), Err(Errno::ENOENT));
    rules.create(&third).expect("there is room again");
    let elsewhere = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, OUT);
    elsewhere.flush().expect("there is nothing to flush");
    assert_eq!(nic.rules(), 2);
    rules.flush().expect("all go");
    assert_eq!(nic.rules(), 0);
}

#[test]
fn a_nic_of_a_lower_tier_takes_less() {
    let frame = Frame::udp("10.0.0.2:4000", "192.0.2.9:53");
    let (flow, _) = flow(&frame, &frame).expect("it can be carried");
    let alone = encode::carry(&flow, &form(Domain::Ingress, 0, Fields::Set), Ttl::Exact(64));
    let marks = encode::mark(&flow, 1, &[0]);
    let (_, rules) = nic_with(Knobs { tier: Tier::Assist, ..Knobs::default() });
    assert_eq!(rules.create(&alone).map_err(|error| error.kind), Err(ErrorKind::Action));
    assert!(rules.create(&marks).is_ok());
    let jump = &encode::guards(&plain_form(), IN)[4];
    assert_eq!(rules.create(jump).map_err(|error| error.kind), Err(ErrorKind::Action));
    let (_, rules) = nic_with(Knobs { tier: Tier::None, ..Knobs::default() });
    let errors = [&alone, &marks].map(|rule| rules.create(rule).map_err(|error| error.to_string()));
    // As a driver without rules says.
    assert_eq!(
        errors,
        [Err("Function not implemented".to_owned()), Err("Function not implemented".to_owned())]
    );
}

#[test]
fn flags_of_items() {
    let (nic, rules) = nic();
    let mut eth = [0; 20];
    layout::set_flag(&mut eth, layout::ETH_HAS_VLAN);
    let mut rule = rule();
    rule.item(ItemKind::ETH, &parts(&eth, &eth)).action(ActionKind::DROP, None);
    rules.create(&rule).expect("the model takes it");
    let frame = Frame::udp("10.0.0.2:4000", "192.0.2.9:53");
    assert_eq!(nic.process(IN, &mut frame.build()), TO_SOFTWARE);
    assert_eq!(nic.process(IN, &mut frame.vlan(1).build()), Outcome::Dropped);
}
