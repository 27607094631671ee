//! Marked packets go where they would have gone without a mark, whatever the mark says.

use super::*;
use crate::flow::{TCP, UDP};

const VERSIONS: [Version; 2] = [Version::V4, Version::V6];

fn mark(flow: FlowRef) -> Option<u32> {
    Mark::of(flow.slot).map(Mark::to_bits)
}

/// The direction's packets are to come in as this frame does.
fn comes_in_as(rig: &mut Rig, flow: FlowRef, frame: &Frame) {
    let ingress = parse(&frame.build(), 0).expect("can fly").ingress;
    let context = rig.contexts.acquire(&ingress).expect("room");
    let entry = rig.worker.carrier.link.table.entry(flow.slot);
    let (adjacency, flags) = (entry.adjacency(), entry.flags());
    rig.writer.set_forwarding(flow.slot, context, adjacency, flags);
}

#[test]
fn lookups_are_skipped_in_every_encapsulation_of_both_families() {
    type Wrap = fn(Frame) -> Frame;
    let wraps: [Wrap; 5] =
        [|f| f, |f| f.vlan(9), |f| f.vlan(9).vlan(10), |f| f.pppoe(7), |f| f.vlan(9).pppoe(7)];
    for (version, wrap) in VERSIONS.into_iter().flat_map(|version| wraps.map(|wrap| (version, wrap))) {
        for proto in [UDP, TCP] {
            let mut rig = Rig::new();
            let connection = rig.connect_over(version, proto, EntryState::Software);
            let flow = connection.flows[0];
            let frames = [1, 2].map(|number| wrap(connection.frame(number)));
            comes_in_as(&mut rig, flow, &frames[0]);
            rig.arrive_marked(0, &frames[0], mark(flow));
            rig.arrive_marked(0, &frames[1], None);
            rig.rounds();
            let leaves = [1, 2].map(|number| forwarded(&connection.frame(number), &connection).build());
            assert_eq!(rig.sent(1), leaves, "{:?}", frames[0]);
            assert_eq!(rig.marked(), (1, 0));
            rig.finish();
        }
    }
}

#[test]
fn marks_that_lie_lead_nowhere() {
    for version in VERSIONS {
        let mut rig = Rig::new();
        let [own, other] = [UDP, UDP].map(|proto| rig.connect_over(version, proto, EntryState::Software));
        // Of the same place in the other family's arena, too.
        let families = VERSIONS.map(|version| rig.connect_over(version, TCP, EntryState::Software));
        let marks = [other.flows[0], other.flows[1], own.flows[1]].map(mark).into_iter();
        let marks = marks.chain(families.map(|connection| mark(connection.flows[0])));
        let marks: Vec<_> = marks.chain([0, u32::MAX, Mark::MOST, 1 << 31].map(Some)).collect();
        for (number, mark) in marks.iter().enumerate() {
            rig.arrive_marked(0, &own.frame(number as u16), *mark);
        }
        rig.rounds();
        let leaves: Vec<_> =
            (0..marks.len() as u16).map(|number| forwarded(&own.frame(number), &own).build()).collect();
        assert_eq!(rig.sent(1), leaves);
        let same_place = marks.iter().filter(|at| **at == mark(own.flows[0])).count() as u64;
        assert_eq!(rig.marked(), (same_place, marks.len() as u64 - same_place));
        rig.finish();
    }
}

#[test]
fn marks_of_flows_that_are_gone_find_neither_them_nor_their_successors() {
    let mut rig = Rig::new();
    let gone = rig.connect(UDP, EntryState::Software);
    let stale = mark(gone.flows[0]);
    rig.writer.remove_pair(gone.flows);
    // Its line is still as it was.
    rig.arrive_marked(0, &gone.frame(1), stale);
    rig.rounds();
    assert_eq!((rig.count(PuntReason::NoFlow), rig.marked()), (1, (0, 1)));
    assert_eq!(numbers(&rig.punted()), [1]);
    rig.worker.quiescent();
    while rig.writer.limbo() > 0 {
        rig.writer.reclaim();
        rig.worker.quiescent();
    }
    // Until another flow lies there.
    let successor = loop {
        let next = rig.connect(UDP, EntryState::Software);
        if next.flows[0].slot == gone.flows[0].slot {
            break next;
        }
        rig.writer.remove_pair(next.flows);
        while rig.writer.limbo() > 0 {
            rig.writer.reclaim();
            rig.worker.quiescent();
        }
    };
    rig.arrive_marked(0, &gone.frame(2), stale);
    rig.arrive_marked(0, &successor.frame(3), stale);
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [3]);
    assert_eq!(numbers(&rig.punted()), [2]);
    assert_eq!((rig.count(PuntReason::NoFlow), rig.marked()), (2, (1, 2)));
    rig.finish();
}

#[test]
fn what_a_rule_does_not_match_is_judged_all_the_same() {
    for version in VERSIONS {
        let mut rig = Rig::new();
        let connection = rig.connect_over(version, TCP, EntryState::Software);
        let flow = connection.flows[0];
        let frames = [
            connection.frame(1).with(|f| f.ttl = 1),
            connection.frame(2).with(|f| f.dst_mac = GATEWAY[1]),
            connection.frame(3).vlan(9),
            connection.frame(4).payload(&[0; 1500]),
        ];
        for frame in &frames {
            rig.arrive_marked(0, frame, mark(flow));
        }
        rig.rounds();
        assert!(rig.sent(1).is_empty());
        let reasons: Vec<_> = rig.punted().iter().map(|packet| packet.reason).collect();
        let context = PuntReason::IngressContext;
        assert_eq!(reasons, [PuntReason::Ttl, context, context, PuntReason::ProvedLength]);
        assert_eq!(rig.state(flow), EntryState::Candidate, "the longer packet gave the direction back");
        rig.finish();
    }
}

#[test]
fn a_fin_closes_marked_or_not() {
    for marked in [false, true] {
        let mut rig = Rig::new();
        let connection = rig.connect(TCP, EntryState::Software);
        let fin =
            connection.frame(1).with(|f| f.tcp.flags = crate::packet::tcp::FIN | crate::packet::tcp::ACK);
        rig.arrive_marked(0, &fin, mark(connection.flows[0]).filter(|_| marked));
        rig.rounds();
        assert_eq!(connection.flows.map(|flow| rig.state(flow)), [EntryState::Closing; 2]);
        assert_eq!(numbers(&rig.punted()), [1]);
        rig.finish();
    }
}

#[test]
fn marked_packets_wait_with_those_that_are_not() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    let other = rig.connect(UDP, EntryState::Software);
    for number in 1..=6 {
        let own = mark(connection.flows[0]).filter(|_| number % 2 == 0);
        rig.arrive_marked(0, &connection.frame(number), own);
        rig.arrive_marked(0, &other.frame(100 + number), mark(other.flows[0]).filter(|_| number % 3 == 0));
    }
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [101, 102, 103, 104, 105, 106]);
    rig.set_state(connection.flows[0], EntryState::Software);
    rig.arrive_marked(0, &connection.frame(7), mark(connection.flows[0]));
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(rig.marked(), (6, 0));
    rig.finish();
}

#[test]
fn a_port_without_such_rules_has_no_marks() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    rig.arrive_marked(0, &connection.frame(1), mark(connection.flows[0]));
    rig.worker.carrier.ports[0].marks = false;
    rig.rounds();
    assert_eq!((rig.numbers_sent(1), rig.marked()), (vec![1], (0, 0)));
    rig.finish();
}
