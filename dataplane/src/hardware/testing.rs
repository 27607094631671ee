//! A model NIC with a flow's rules, and what a worker makes of the same packets: for tests and for the fuzzer.

use std::sync::Arc;

use super::model::{Knobs, Nic, Outcome};
use super::*;
use crate::dpdk::flow_rule::{FlowEngine, FlowRules};
use crate::dpdk::hairpin::{self, HairpinPort};
use crate::flow::Key;
use crate::packet::{Ingress, L2Header, Rewrite, checksum, parse, write_l2};

/// Packets come in by this port.
pub(super) const IN: u16 = 3;
/// And leave by this one.
pub(super) const OUT: u16 = 5;
pub(super) const TO_SOFTWARE: Outcome = Outcome::Software { mark: None, queue: None };

pub(super) fn nic() -> (Arc<Nic>, FlowRules) {
    nic_with(Knobs::default())
}

pub(super) fn nic_with(knobs: Knobs) -> (Arc<Nic>, FlowRules) {
    let nic = Nic::new(&[IN, OUT], 2, knobs);
    let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, IN);
    (nic, rules)
}

/// A NIC that takes this form.
pub(super) fn nic_for(form: &Form) -> (Arc<Nic>, FlowRules) {
    let hairpin = form.egress == Egress::Hairpin;
    let (nic, rules) = nic_with(Knobs { hairpin, ..Knobs::default() });
    if hairpin {
        let made = hairpin::set_up(&*nic, &[IN, OUT].map(between)).expect("the model has hairpin queues");
        assert_eq!(made[0], form.hairpins);
    }
    (nic, rules)
}

pub(super) const fn between(id: u16) -> HairpinPort {
    HairpinPort { id, rx_queues: 2, tx_queues: 2 }
}

/// A form by which packets leave through hairpin queues.
pub(super) fn hairpin_form(form: Form) -> Form {
    let ports = [IN, OUT].map(between);
    let hairpins = (0..2).filter_map(|to| hairpin::hairpin(&ports[0], &ports, to)).collect();
    Form { egress: Egress::Hairpin, hairpins, ..form }
}

/// A form that the model takes.
pub(super) fn form(domain: Domain, group: u32, fields: Fields) -> Form {
    let egress = if domain == Domain::Transfer { Egress::RepresentedPort } else { Egress::PortId };
    let hairpins = Vec::new();
    Form { domain, group, fields, egress, integrity: true, queues: vec![0, 1], hairpins, age_s: Some(30) }
}

/// What the form needs to carry a packet with this TTL.
pub(super) fn ttl_for(form: &Form, ttl: u8) -> Ttl {
    if form.is_guarded() { Ttl::Decrement } else { Ttl::Exact(ttl) }
}

/// Puts a flow's rule and its guards in.
pub(super) fn install(rules: &FlowRules, flow: &HardwareFlow, form: &Form, ttl: u8) {
    for guard in encode::guards(form, flow.port) {
        rules.create(&guard).expect("the model takes a guard");
    }
    rules.create(&encode::carry(flow, form, ttl_for(form, ttl))).expect("the model takes the rule");
}

/// The context that a frame comes in with, as far as it can be told.
pub(super) fn context(frame: &[u8]) -> Ingress {
    parse(frame, IN).map_or_else(|refusal| refusal.ingress, |headers| headers.ingress)
}

/// What a worker makes of a frame of the flow, padding cut off; none if it would not carry it.
pub(super) fn worker(frame: &[u8], flow: &HardwareFlow, header: &L2Header) -> Option<Vec<u8>> {
    let headers = parse(frame, IN).ok()?;
    if headers.key != flow.key || headers.ingress != context(frame) || headers.is_tcp_control() {
        return None;
    }
    let mut packet = headers.packet(frame).to_vec();
    if !Rewrite::between(&flow.key, &flow.leaves_as, true)?.apply(&mut packet) {
        return None;
    }
    let mut leaves = vec![0; header.len()];
    leaves.extend(packet);
    write_l2(&mut leaves, header.bytes(), None, headers.l3_len).then_some(leaves)
}

/// Whether a frame's L4 checksum is right, or there is none.
pub(super) fn l4_checksum_is_right(frame: &[u8]) -> bool {
    let Ok(headers) = parse(frame, IN) else { return false };
    let packet = headers.packet(frame);
    let (addresses, l4) = match headers.key {
        Key::V4(_) => (&packet[12..20], &packet[20..]),
        Key::V6(_) => (&packet[8..40], &packet[40..]),
    };
    let none = headers.key.proto() == 17 && l4[6..8] == [0, 0];
    none || checksum::compute_l4(addresses, headers.key.proto(), l4) == 0
}
