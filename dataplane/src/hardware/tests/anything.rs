//! Any bytes as a packet, and any bytes as a rule: the model NIC takes or refuses them, and nothing else happens.

use proptest::collection::vec;
use proptest::option;

use super::*;
use crate::dpdk::flow_rule::layout::MODIFY_FIELD_LEN;
use crate::dpdk::flow_rule::{ActionKind, FlowAttr, FlowRule, ItemKind, Parts};

/// Ethernet, and anything behind it; often something that looks like IP in tags.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let types = select(vec![[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0, 0]]);
    let version = select(vec![0x45, 0x46, 0x60, 0x4f, 0x00]);
    (vec(types, 1..4), version, vec(any::<u8>(), 0..80), 0usize..140).prop_map(
        |(types, version, rest, len)| {
            let mut frame = vec![2; 12];
            for (at, kind) in types.iter().enumerate() {
                if at > 0 {
                    frame.extend([0, 7]);
                }
                frame.extend(kind);
            }
            frame.push(version);
            frame.extend(rest);
            frame.truncate(len);
            frame
        },
    )
}

/// Mostly masks of whole bytes, and values to them: some are taken.
fn contents() -> impl Strategy<Value = [Option<Vec<u8>>; 3]> {
    let mask = vec(prop_oneof![4 => Just(0u8), 2 => Just(0xff), 1 => any::<u8>()], 0..48);
    let spec = prop_oneof![3 => Just(true), 1 => Just(false)];
    (option::weighted(0.7, mask), spec, option::weighted(0.05, vec(any::<u8>(), 0..48))).prop_map(
        |(mask, spec, last)| {
            let zeros = mask.clone().map(|mask| vec![0; mask.len()]);
            [if spec { zeros } else { mask.clone() }, last, mask]
        },
    )
}

fn rules() -> impl Strategy<Value = FlowRule> {
    let item = prop_oneof![20 => 0u32..12, 1 => any::<u32>()];
    let action = prop_oneof![20 => 0u32..70, 1 => any::<u32>()];
    let conf = prop_oneof![
        vec(prop_oneof![4 => Just(0u8), 2 => 0u8..34, 1 => any::<u8>()], 0..MODIFY_FIELD_LEN),
        vec(any::<u8>(), 0..16),
    ];
    let attr = (0u32..3, 0u32..3, any::<[bool; 2]>());
    let known = [ItemKind::ETH, ItemKind::VLAN, ItemKind::IPV4, ItemKind::IPV6, ItemKind::TCP, ItemKind::UDP];
    let items =
        vec((prop_oneof![select(known.to_vec()), item.prop_map(ItemKind::from_raw)], contents()), 0..5);
    let actions = vec((action.prop_map(ActionKind::from_raw), option::weighted(0.8, conf)), 0..6);
    (attr, items, actions, any::<bool>()).prop_map(
        |((group, priority, [ingress, transfer]), items, actions, drop)| {
            let mut rule = FlowRule::new(FlowAttr { group, priority, ingress, egress: false, transfer });
            for (kind, [spec, last, mask]) in &items {
                let [spec, last, mask] = [spec, last, mask].map(Option::as_deref);
                rule.item(*kind, &Parts { spec, last, mask });
            }
            for (kind, conf) in &actions {
                match *kind {
                    ActionKind::RSS => rule.rss(&[0, 1]),
                    kind => rule.action(kind, conf.as_deref()),
                };
            }
            if drop {
                rule.action(ActionKind::DROP, None);
            }
            rule
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_packet_and_any_rule_are_safe(rules in vec(rules(), 0..12), packets in vec(packets(), 1..6)) {
        let (nic, port) = nic();
        let mut made = 0;
        for rule in &rules {
            let validated = port.validate(rule);
            match port.create(rule) {
                Ok(_) => made += 1,
                // Of two rules for the same packets the second is refused.
                Err(error) => prop_assert!(validated.is_err() || error.errno == nix::errno::Errno::EEXIST),
            }
            // What is printed can be anything, but is one line.
            prop_assert_eq!(print::testpmd(IN, rule).lines().count(), 1);
        }
        prop_assert_eq!(nic.rules(), made);
        for packet in packets {
            let before = packet.clone();
            let mut packet = packet;
            if let Outcome::Software { .. } = nic.process(IN, &mut packet) {
                prop_assert_eq!(packet, before);
            }
        }
        prop_assert_eq!(port.flush(), Ok(()));
        prop_assert_eq!(nic.rules(), 0);
    }

    #[test]
    fn any_bytes_meet_a_flow_of_theirs(packet in packets(), form in forms()) {
        let Ok(headers) = parse(&packet, IN) else { return Ok(()) };
        let header = [&[4; 12][..], if matches!(headers.key, Key::V4(_)) { &[8, 0] } else { &[0x86, 0xdd] }].concat();
        let flow = HardwareFlow::new(headers.ingress, headers.key, headers.key, OUT, &header);
        let Ok(flow) = flow else { return Ok(()) };
        let (nic, rules) = nic_for(&form);
        install(&rules, &flow, &form, 64);
        let mut packet = packet;
        nic.process(IN, &mut packet);
    }
}
