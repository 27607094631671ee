//! Any bytes as rules and packets for the model NIC.

use arbitrary::Unstructured;

use super::model::Outcome;
use super::testing::{
    IN, OUT, TO_SOFTWARE, form, hairpin_form, install, l4_checksum_is_right, nic, nic_for, worker,
};
use super::{Domain, Fields, Form, HardwareFlow, print};
use crate::dpdk::flow_rule::{ActionKind, FlowAttr, FlowRule, ItemKind, Parts};
use crate::flow::Key;
use crate::packet::fuzz::{REWRITE_HEAD, leaves_as, prepared};
use crate::packet::{L2Header, PuntReason, Refused, parse};

/// Rules as [`seed_of`] writes them, and then a packet: the model takes or refuses each, and nothing else happens.
pub fn rules(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let (nic, port) = nic();
    let mut made = 0;
    for _ in 0..byte(&mut input) % 8 {
        let rule = rule(&mut input);
        let validated = port.validate(&rule);
        match port.create(&rule) {
            Ok(_) => made += 1,
            // Of two rules for the same packets the second is refused.
            Err(error) => assert!(validated.is_err() || error.errno == nix::errno::Errno::EEXIST),
        }
        assert_eq!(print::testpmd(IN, &rule).lines().count(), 1);
        assert_eq!(format!("{rule:?}"), format!("{:?}", rule.clone()));
    }
    assert_eq!(nic.rules(), made);
    let before = input.take_rest().to_vec();
    let mut packet = before.clone();
    if let Outcome::Software { .. } = nic.process(IN, &mut packet) {
        assert_eq!(packet, before);
    }
    assert_eq!(port.flush(), Ok(()));
    assert_eq!(nic.rules(), 0);
}

fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or_default()
}

/// As many bytes, the missing ones 0.
fn bytes(input: &mut Unstructured<'_>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    // It never fails.
    let _ = input.fill_buffer(&mut bytes);
    bytes
}

fn rule(input: &mut Unstructured<'_>) -> FlowRule {
    let [group, priority, domain, items, actions] = [(); 5].map(|()| byte(input));
    let [ingress, egress, transfer] = [1, 2, 4].map(|bit| domain & bit != 0);
    let mut rule =
        FlowRule::new(FlowAttr { group: group.into(), priority: priority.into(), ingress, egress, transfer });
    for _ in 0..items % 16 {
        let kind = ItemKind::from_raw(byte(input).into());
        let present = byte(input);
        let [spec, last, mask] =
            [1, 2, 4].map(|bit| (present & bit != 0).then(|| bytes(input, kind.size().unwrap_or_default())));
        let [spec, last, mask] = [&spec, &last, &mask].map(Option::as_deref);
        rule.item(kind, &Parts { spec, last, mask });
    }
    for _ in 0..actions % 24 {
        let kind = ActionKind::from_raw(byte(input).into());
        let present = byte(input);
        if kind == ActionKind::RSS {
            let queues: Vec<u16> =
                bytes(input, usize::from(present % 8)).into_iter().map(u16::from).collect();
            rule.rss(&queues);
        } else {
            let conf = (present & 1 != 0).then(|| bytes(input, kind.size().unwrap_or_default()));
            rule.action(kind, conf.as_deref());
        }
    }
    if domain & 8 != 0 {
        rule.unterminated();
    }
    rule
}

/// Bytes before the lengths in [`carried`]'s input: a form, and what [`leaves_as`] takes.
const CARRIED_HEAD: usize = 1 + REWRITE_HEAD;

/// A form, a tuple, an L2 header and a frame of a flow, for which the rules are encoded; then another frame, which is
/// carried as a worker would carry it, or goes to software as it came. Without another frame it is the flow's own.
pub fn carried(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<CARRIED_HEAD>() else { return };
    let Some((nat, [header_len, frame_len, rest @ ..])) = head[1..].first_chunk().zip(Some(rest)) else {
        return;
    };
    let Some((header, rest)) = rest.split_at_checked(usize::from(*header_len)) else { return };
    let (own, other) = rest.split_at_checked(usize::from(*frame_len)).unwrap_or((rest, &[]));
    let own = prepared(nat[0], own);
    let other = if other.is_empty() { own.clone() } else { prepared(nat[0] >> 2, other) };
    let Ok(headers) = parse(&own, IN) else { return };
    let Some(leaves) = Key::from_tuple(&leaves_as(&headers.key.tuple(), nat)) else { return };
    let Some(header) = L2Header::learn(header).filter(|learnt| learnt.bytes() == header) else { return };
    let Ok(flow) = HardwareFlow::new(headers.ingress, headers.key, leaves, OUT, header.bytes()) else {
        return;
    };

    let form = form_of(head[0]);
    let ttl = own[usize::from(headers.l3) + if matches!(headers.key, Key::V4(_)) { 8 } else { 7 }];
    let (nic, rules) = nic_for(&form);
    install(&rules, &flow, &form, ttl);
    let mut packet = other.clone();
    let outcome = nic.process(IN, &mut packet);
    let found = parse(&other, IN);
    let same = found.is_ok_and(|found| {
        let at = usize::from(found.l3) + if matches!(found.key, Key::V4(_)) { 8 } else { 7 };
        found.ingress == headers.ingress && (form.is_guarded() || other[at] == ttl)
    });
    let carried = worker(&other, &flow, &header).filter(|_| same);
    match carried.filter(|_| !form.integrity || l4_checksum_is_right(&other)) {
        Some(expected) => {
            assert_eq!(outcome, Outcome::Sent(OUT));
            assert_eq!(&packet[..expected.len()], &expected[..]);
            let padding = &other[found.map_or(0, |found| found.frame_len())..];
            assert_eq!(&packet[expected.len()..], padding, "a NIC leaves padding where it is");
        }
        // Nobody looks at lengths and checksums then, nor at L4 flags where there are no guards.
        None if outcome != TO_SOFTWARE => {
            let what = found.err().map(|refusal| refusal.what);
            let unseen = matches!(what, Some(Refused::Drop(_) | Refused::Punt(PuntReason::Malformed)));
            assert!(unseen && !form.integrity, "{what:?} with {form:?}");
        }
        None => assert_eq!(packet, other),
    }
}

fn form_of(byte: u8) -> Form {
    let fields = if byte & 1 == 0 { Fields::Set } else { Fields::Modify };
    let domain = if byte & 6 == 6 { Domain::Transfer } else { Domain::Ingress };
    let form = Form { integrity: byte & 8 != 0, ..form(domain, u32::from(byte >> 4) % 3, fields) };
    if byte & 6 == 2 { hairpin_form(form) } else { form }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::replay;
    use crate::hardware::encode;
    use crate::hardware::testing::ttl_for;
    use crate::packet::fuzz::tests::frames;
    use crate::packet::testing::Frame;

    /// A rule as [`rule`] reads it.
    fn seed_of(rule: &FlowRule) -> Vec<u8> {
        let (view, attr) = (rule.view(), rule.attr());
        let domain = u8::from(attr.ingress) | u8::from(attr.egress) << 1 | u8::from(attr.transfer) << 2;
        let lens = [view.items().len(), view.actions().len()].map(|len| len as u8);
        let mut seed = vec![attr.group as u8, attr.priority as u8, domain, lens[0], lens[1]];
        for item in view.items() {
            let parts = [item.spec, item.last, item.mask];
            let present = parts.iter().enumerate().map(|(bit, part)| u8::from(part.is_some()) << bit).sum();
            seed.extend([item.kind.raw() as u8, present]);
            parts.into_iter().flatten().for_each(|part| seed.extend(part));
        }
        for action in view.actions() {
            seed.push(action.kind.raw() as u8);
            if action.kind == ActionKind::RSS {
                seed.push(action.queues.len() as u8);
                seed.extend(action.queues.iter().map(|queue| *queue as u8));
            } else {
                seed.push(action.conf.is_some().into());
                seed.extend(action.conf.unwrap_or_default());
            }
        }
        seed
    }

    fn flow(frame: &Frame, out: &Frame) -> Option<(HardwareFlow, L2Header)> {
        let headers = parse(&frame.build(), IN).ok()?;
        let header = L2Header::learn(&out.build())?;
        let flow = HardwareFlow::new(headers.ingress, headers.key, headers.key, OUT, header.bytes());
        Some((flow.ok()?, header))
    }

    #[test]
    fn corpus_of_rules() {
        let out = frames()[0].clone();
        let mut seeds = Vec::new();
        for (at, frame) in frames().iter().enumerate() {
            let Some((flow, _)) = flow(frame, &out.clone().vlan(9)) else { continue };
            let form = form_of([0x10, 0x19, 0x06, 0x1f, 0x00, 0x01][at % 6]);
            let mut rules = encode::guards(&form, IN);
            rules.truncate(6);
            rules.push(encode::carry(&flow, &form, ttl_for(&form, frame.ttl)));
            let bytes: Vec<u8> = rules.iter().flat_map(seed_of).collect();
            assert_eq!(rule(&mut Unstructured::new(&seed_of(&rules[0]))).view(), rules[0].view());
            seeds.push([&[rules.len() as u8], &bytes[..], &frame.build()].concat());
            let mark = encode::mark(&flow, 7, &[0, 1]);
            seeds.push([&[1], &seed_of(&mark)[..], &frame.build()].concat());
        }
        replay(env!("CARGO_MANIFEST_DIR"), "rules", rules, &seeds);
    }

    #[test]
    fn corpus_of_carried() {
        let mut seeds = Vec::new();
        let all = frames();
        for (at, frame) in all.iter().enumerate() {
            for out in [all[0].clone(), all[5].clone()] {
                let out = Frame { tuple: frame.tuple, ..out };
                let Some((_, header)) = flow(frame, &out) else { continue };
                for form in [0x18, 0x00, 0x17, 0x1a] {
                    let mut seed = vec![0xab; CARRIED_HEAD];
                    (seed[0], seed[1]) = (form, [0xf5, 0x55, 0x05][at % 3]);
                    let frame = frame.build();
                    seed.extend([header.len() as u8, frame.len() as u8]);
                    seed.extend(header.bytes());
                    seed.extend(&frame);
                    seeds.push(seed);
                }
            }
        }
        // Of the first frame's flow, all the others.
        let (flow_frame, header) = (all[0].build(), flow(&all[0], &all[5]).expect("it can be carried").1);
        for frame in &all {
            let mut seed = vec![0; CARRIED_HEAD];
            seed[0] = 0x10;
            seed.extend([header.len() as u8, flow_frame.len() as u8]);
            seed.extend([header.bytes(), &flow_frame, &frame.build()].concat());
            seeds.push(seed);
        }
        replay(env!("CARGO_MANIFEST_DIR"), "carried", carried, &seeds);
    }
}
