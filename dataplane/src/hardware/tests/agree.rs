//! The model NIC, with rules as C structures, against the workers' own code: the same bytes, for the same packets.

use super::*;
use crate::packet::{PuntReason, Refused};

/// Whether a flow for this frame can be in the flow table at all: none from or to martians and groups is.
fn is_flow_like(frame: &[u8]) -> bool {
    match parse(frame, IN) {
        Ok(_) => true,
        Err(refusal) => !matches!(refusal.what, Refused::Punt(PuntReason::Martian | PuntReason::Multicast)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_a_rule_carries_leaves_as_from_a_worker(
        (frame, leaves) in pairs(strategies::legal_frames()),
        form in forms(),
    ) {
        let Ok((flow, header)) = flow(&frame, &leaves) else { return Ok(()) };
        let (nic, rules) = nic_for(&form);
        install(&rules, &flow, &form, frame.ttl);
        let before = frame.build();
        let mut packet = before.clone();
        let outcome = nic.process(IN, &mut packet);
        match worker(&before, &flow, &header) {
            Some(expected) => {
                prop_assert_eq!(outcome, Outcome::Sent(OUT));
                // A NIC leaves padding where it is.
                prop_assert_eq!(&packet[..expected.len()], &expected[..]);
                prop_assert_eq!(&packet[expected.len()..], &frame.padding[..]);
            }
            None => {
                prop_assert_eq!(outcome, TO_SOFTWARE);
                prop_assert_eq!(packet, before);
            }
        }
    }

    #[test]
    fn rules_carry_exactly_what_workers_would(
        (frame, leaves) in pairs(strategies::any_frames()),
        form in forms(),
    ) {
        let before = frame.build();
        prop_assume!(is_flow_like(&before));
        let Ok((flow, header)) = flow(&frame, &leaves) else { return Ok(()) };
        // Nobody looks at lengths and checksums then.
        let unchecked = !form.integrity;
        let (nic, rules) = nic_for(&form);
        install(&rules, &flow, &form, frame.ttl.max(2));
        let mut packet = before.clone();
        let outcome = nic.process(IN, &mut packet);
        let carried = worker(&before, &flow, &header);
        let expected = carried.filter(|_| unchecked || l4_checksum_is_right(&before));
        match expected {
            Some(expected) => {
                prop_assert_eq!(outcome, Outcome::Sent(OUT));
                prop_assert_eq!(&packet[..expected.len()], &expected[..]);
            }
            None if unchecked && outcome != TO_SOFTWARE => {
                let what = parse(&before, IN).err().map(|refusal| refusal.what);
                prop_assert!(
                    matches!(what, Some(Refused::Drop(_) | Refused::Punt(PuntReason::Malformed))),
                    "{:?}", what
                );
            }
            None => {
                prop_assert_eq!(outcome, TO_SOFTWARE);
                prop_assert_eq!(packet, before);
            }
        }
    }

    #[test]
    fn both_encodings_are_equal(
        (frame, leaves) in pairs(strategies::legal_frames()),
        domain in select(vec![Domain::Ingress, Domain::Transfer]),
        by_hairpin: bool,
    ) {
        let Ok((flow, _)) = flow(&frame, &leaves) else { return Ok(()) };
        let form = |group, fields| match by_hairpin {
            true => hairpin_form(form(Domain::Ingress, group, fields)),
            false => form(domain, group, fields),
        };
        let results = [Fields::Set, Fields::Modify].map(|fields| {
            [0, 1].map(|group| {
                let form = form(group, fields);
                let (nic, rules) = nic_for(&form);
                install(&rules, &flow, &form, frame.ttl);
                let mut packet = frame.build();
                (nic.process(IN, &mut packet), packet)
            })
        });
        prop_assert_eq!(&results[0], &results[1]);
        prop_assert_eq!(&results[0][0], &results[0][1]);
    }

    #[test]
    fn a_packet_of_another_flow_goes_to_software(
        (frame, leaves) in pairs(strategies::legal_frames()),
        other in strategies::legal_frames(),
        which in 0..9,
        form in forms(),
    ) {
        let Ok((flow, _)) = flow(&frame, &leaves) else { return Ok(()) };
        let (nic, rules) = nic_for(&form);
        install(&rules, &flow, &form, frame.ttl);
        let mut other = Frame { pppoe: None, ..other };
        // One thing differs; where it happens to be the same there is nothing to see.
        let mut changed = frame.clone();
        match which {
            0 => changed.tuple.sport = other.tuple.sport,
            1 => changed.tuple.dport = other.tuple.dport,
            2 => changed.tuple.src = other.tuple.src,
            3 => changed.tuple.dst = other.tuple.dst,
            4 => changed.tuple.proto = 23 - frame.tuple.proto,
            5 => changed.tags = std::mem::take(&mut other.tags),
            6 => changed.dst_mac = other.dst_mac,
            7 => changed.pppoe = Some(other.id),
            _ => changed.tuple = other.tuple,
        }
        prop_assume!(changed.tuple.src.is_ipv4() == changed.tuple.dst.is_ipv4());
        let same = (changed.tuple, &changed.tags, changed.dst_mac, changed.pppoe)
            == (frame.tuple, &frame.tags, frame.dst_mac, frame.pppoe);
        prop_assume!(!same);
        let before = changed.build();
        let mut packet = before.clone();
        prop_assert_eq!(nic.process(IN, &mut packet), TO_SOFTWARE);
        prop_assert_eq!(&packet, &before);
        // And on another port.
        let before = frame.build();
        let mut packet = before.clone();
        prop_assert_eq!(nic.process(OUT, &mut packet), TO_SOFTWARE);
        prop_assert_eq!(packet, before);
    }
}
