//! Rules, and the model NIC that carries them out, beside what workers do with the same packets.

mod agree;
mod anything;
mod carry;
mod faults;
mod hairpins;
mod lengths;
mod live;
mod probes;
mod refuse;
mod schedule;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;

use super::model::{Knobs, Nic, Outcome};
use super::testing::*;
use super::*;
use crate::dpdk::flow_rule::{FlowEngine, FlowRules};
use crate::dpdk::hairpin::Hairpin;
use crate::flow::Key;
use crate::packet::testing::{Frame, strategies};
use crate::packet::{L2Header, parse};

fn plain_form() -> Form {
    form(Domain::Ingress, 1, Fields::Set)
}

fn forms() -> impl Strategy<Value = Form> {
    let places = select(vec![(Domain::Ingress, false), (Domain::Ingress, true), (Domain::Transfer, false)]);
    (places, 0u32..3, select(vec![Fields::Set, Fields::Modify]), any::<bool>()).prop_map(
        |((domain, by_hairpin), group, fields, integrity)| {
            let form = Form { integrity, ..form(domain, group, fields) };
            if by_hairpin { hairpin_form(form) } else { form }
        },
    )
}

/// A flow for a frame's packets, that leaves as another tuple with the L2 header of another frame.
fn flow(frame: &Frame, leaves_as: &Frame) -> Result<(HardwareFlow, L2Header), Unfit> {
    let [key, new] = [frame, leaves_as].map(|frame| Key::from_tuple(&frame.tuple).ok_or(Unfit::Protocol));
    let header = L2Header::learn(&leaves_as.build()).ok_or(Unfit::Header)?;
    Ok((HardwareFlow::new(context(&frame.build()), key?, new?, OUT, header.bytes())?, header))
}

/// A frame, and one of the same family and protocol that stands for how its flow leaves.
fn pairs(frames: impl Strategy<Value = Frame>) -> impl Strategy<Value = (Frame, Frame)> {
    frames.prop_flat_map(|frame| {
        let nat = strategies::nat(frame.tuple);
        (Just(frame), nat, strategies::legal_frames()).prop_map(|(mut frame, tuple, mut other)| {
            other.tuple = tuple;
            // What is put on has no DEI bit; another test sees that such flows are refused.
            for (_, tci) in &mut other.tags {
                *tci &= 0xefff;
            }
            other.pppoe = None;
            frame.pppoe = None;
            // Rules at both ends of what happens to tags: kept, changed, exchanged.
            if other.ttl % 4 == 0 {
                other.tags.clone_from(&frame.tags);
            } else if other.ttl % 4 == 1 && !frame.tags.is_empty() {
                other.tags = frame.tags.iter().rev().take(1).copied().collect();
                other.tags[0].1 ^= 0x2005;
            }
            (frame, other)
        })
    })
}
