//! Rules as C structures, and what drivers without rules say.

use nix::errno::Errno;

use super::layout::{self, Field, ModifyField, Operation};
use super::*;
use crate::dpdk::testing::Bench;

fn sample() -> FlowRule {
    let mut rule = FlowRule::new(FlowAttr { group: 3, priority: 7, ingress: true, ..FlowAttr::default() });
    let mut eth = [0u8; 20];
    eth[12..14].copy_from_slice(&[8, 0]);
    layout::set_flag(&mut eth, layout::ETH_HAS_VLAN);
    rule.item(ItemKind::ETH, &Parts { spec: Some(&eth), last: None, mask: Some(&[0xff; 14]) })
        .item(ItemKind::IPV4, &Parts::default())
        .action(ActionKind::COUNT, Some(&[]))
        .action(ActionKind::DEC_TTL, None)
        .rss(&[0, 3]);
    rule
}

#[test]
fn what_is_put_in_is_read_from_the_structures() {
    let rule = sample();
    for rule in [&rule, &rule.clone()] {
        let view = rule.view();
        assert_eq!(view.attr(), FlowAttr { group: 3, priority: 7, ingress: true, ..FlowAttr::default() });
        assert!(!view.has_reserved_bits());
        assert_eq!(view.ends(), [true, true]);
        let [eth, ip] = view.items() else { panic!("two items") };
        assert_eq!((eth.kind, ip.kind), (ItemKind::ETH, ItemKind::IPV4));
        assert!(layout::flag(eth.spec.expect("a spec"), layout::ETH_HAS_VLAN));
        let mask = eth.mask.expect("a mask");
        // Shorter contents are filled up with zeros.
        assert_eq!((mask.len(), &mask[14..]), (20, &[0; 6][..]));
        assert_eq!((ip.spec, ip.last, ip.mask), (None, None, None));
        let [count, ttl, rss] = view.actions() else { panic!("three actions") };
        assert_eq!((count.kind, count.conf), (ActionKind::COUNT, Some(&[0; 4][..])));
        assert_eq!((ttl.kind, ttl.conf), (ActionKind::DEC_TTL, None));
        assert_eq!((rss.kind, &rss.queues[..]), (ActionKind::RSS, &[0, 3][..]));
    }
    let mut cut = sample();
    assert_eq!(cut.unterminated().view().ends(), [false, false]);
}

#[test]
fn a_rule_may_move_while_it_is_made() {
    let rules: Vec<FlowRule> = (0..64).map(|_| sample()).collect();
    let moved: Vec<FlowRule> = rules.into_iter().rev().collect();
    assert!(moved.iter().all(|rule| rule.view() == sample().view()));
}

#[test]
fn modify_field_has_the_layout_of_c() {
    let modify = ModifyField::new(Operation::Subtract, Field::Ipv4Ttl, &[1]);
    let bytes = modify.bytes();
    assert_eq!(ModifyField::read(&bytes), Some(modify));
    let address = ModifyField::set(Field::Ipv6Dst, &[7; 16]);
    assert_eq!(ModifyField::read(&address.bytes()), Some(address));
    // rte_flow.h: operation, then destination and source of a field and a union of 16 bytes, then the width.
    assert_eq!(bytes[..4], 2u32.to_ne_bytes());
    assert_eq!(ModifyField::read(&bytes[..40]), None);
    let mut pointer = bytes;
    pointer[32..36].copy_from_slice(&27u32.to_ne_bytes());
    assert_eq!(ModifyField::read(&pointer), None, "a pointer as the source");
    // What a template holds fixed, and what differs from rule to rule.
    let fixed = ModifyField::constant_part(bytes.len());
    let same = |a: &[u8], b: &[u8]| a.iter().zip(b).zip(&fixed).all(|((a, b), m)| a & m == b & m);
    assert!(same(&bytes, &ModifyField { value: [9; 16], ..modify }.bytes()));
    assert!(!same(&bytes, &ModifyField { field: Field::Ipv4Src, ..modify }.bytes()));
}

#[test]
fn a_driver_without_rules_says_so() {
    let bench = Bench::new();
    let mut rules = FlowRules::of(bench.port(0));
    for refused in [rules.validate(&sample()).err(), rules.create(&sample()).err()] {
        let error = refused.expect("rings have no rules");
        assert_eq!((error.errno, error.kind), (Errno::ENOSYS, ErrorKind::Unspecified), "{error}");
    }
    // Nothing was made, so there is nothing to flush, and no name means anything.
    assert_eq!(rules.flush(), Ok(()));
    // Queues come before the start, and a started port is told so.
    let queues = FlowQueues { queues: 1, depth: 64, rules: 64 };
    assert_eq!(rules.configure(&queues).map_err(|error| error.kind), Err(ErrorKind::State));
    let refused = rules.enqueue_create(0, &sample(), 1).expect_err("no rules");
    assert_eq!(refused.errno, Errno::ENOSYS);
    let mut ended = Vec::new();
    assert_eq!((rules.push(0), rules.pull(0, 8, &mut ended)), (Ok(()), Ok(())));
    assert!(ended.is_empty());
}

#[test]
fn a_driver_is_never_given_a_list_without_an_end() {
    let bench = Bench::new();
    let rules = FlowRules::of(bench.port(0));
    let mut rule = sample();
    rule.unterminated();
    assert_eq!(rules.validate(&rule).map_err(|error| error.errno), Err(Errno::EINVAL));
    assert_eq!(rules.create(&rule).map_err(|error| error.errno), Err(Errno::EINVAL));
}

#[test]
fn errors_say_what_and_why() {
    let error = FlowError::new(ErrorKind::ItemMask, Errno::ENOTSUP, "TTL can't be matched");
    assert_eq!(error.to_string(), "mask of an item: TTL can't be matched (EOPNOTSUPP)");
    let silent = FlowError { message: String::new(), log: vec!["tap: no flower".into()], ..error };
    assert_eq!(silent.to_string(), "mask of an item: tap: no flower (EOPNOTSUPP)");
}
