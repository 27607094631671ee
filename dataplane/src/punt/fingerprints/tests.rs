//! What proves a direction and what does not, packet by packet.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::flow::Key;
use crate::packet::parse;
use crate::packet::testing::{Frame, strategies};

/// Later than any time that "never" could be taken for.
const START: u64 = 10 * CONFLICT;
const EGRESS: u16 = 1;

fn flow(number: u32) -> FlowRef {
    FlowRef { slot: Slot::from_bits(number).expect("not 0"), generation: 1 }
}

fn ingress(port: u16) -> Ingress {
    Ingress::untagged(port, [2, 0, 0, 0, 0, 1])
}

/// The `number`th packet of a direction: told apart by identification, payload and so checksum.
fn packet(number: u16) -> Frame {
    Frame::udp("10.0.0.2:4000", "192.0.2.9:53").payload(&number.to_be_bytes()).with(|f| f.id = number)
}

/// As the kernel sends it on: routed and masqueraded.
fn forwarded(frame: &Frame) -> Frame {
    frame.clone().with(|f| {
        f.ttl -= 1;
        f.tuple.src = [192, 0, 2, 1].into();
        f.tuple.sport = 40_000;
        (f.dst_mac, f.src_mac) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]);
    })
}

fn snapshot(frame: &Frame) -> Snapshot {
    let bytes = frame.build();
    let headers = parse(&bytes, 0).expect("a packet that can fly");
    let snapshot = Snapshot::take(headers.packet(&bytes), &headers).expect("whole headers");
    snapshot.from_sender(Some(frame.src_mac))
}

struct Rig {
    prints: Fingerprints,
    now: u64,
}

impl Rig {
    fn new() -> Self {
        Self { prints: Fingerprints::new(), now: START }
    }

    fn punt_from(&mut self, port: u16, flow: FlowRef, frame: &Frame) {
        self.prints.punted(flow, ingress(port), snapshot(frame), 7, false, self.now);
    }

    fn punt(&mut self, frame: &Frame) {
        self.punt_from(0, flow(1), frame);
    }

    fn probe(&mut self, frame: &Frame) {
        self.prints.punted(flow(1), ingress(0), snapshot(frame), 7, true, self.now);
    }

    fn left_of(&mut self, flow: FlowRef, frame: &[u8]) -> Seen {
        let Ok(headers) = parse(frame, EGRESS) else { return Seen::Nothing };
        self.prints.left(flow, EGRESS, frame, &headers, self.now)
    }

    fn left(&mut self, frame: &Frame) -> Seen {
        self.left_of(flow(1), &frame.build())
    }

    fn proves(&mut self, frame: &Frame) -> bool {
        matches!(self.left(frame), Seen::Tell(Observation::Proof(_)))
    }

    fn expire(&mut self, drained: bool) -> Vec<Observation> {
        let mut told = Vec::new();
        self.prints.expire(self.now, drained, |observation| told.push(observation));
        told
    }
}

#[test]
fn the_rewritten_packet_proves_and_tells_how_it_left() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    let out = forwarded(&frame).vlan(7);
    let expected = Proof {
        flow: flow(1),
        ingress: ingress(0),
        egress_port: EGRESS,
        l2: L2Header::learn(&out.build()).expect("IPv4"),
        l3_len: 30,
        overtook: 0,
        decrements_ttl: true,
        epoch: 7,
    };
    rig.now += PATIENCE;
    assert_eq!(rig.left(&out), Seen::Tell(Observation::Proof(Box::new(expected))));
}

#[test]
fn a_bridged_packet_proves_too() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    let Seen::Tell(Observation::Proof(proof)) = rig.left(&frame) else { panic!("no proof") };
    assert!(!proof.decrements_ttl);
}

/// A transparent relay's datagram may be the one that came in, byte for byte from the IP header on.
#[test]
fn what_somebody_else_sends_just_so_proves_nothing() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    assert_eq!(rig.left(&frame.clone().with(|f| f.src_mac = [2, 0, 0, 0, 0, 8])), Seen::Nothing);
    assert!(rig.proves(&frame));
}

#[test]
fn no_byte_of_the_headers_may_differ() {
    for frame in [packet(1), Frame::tcp("[2001:db8::1]:1", "[2001:db8::2]:2").payload(b"1")] {
        let out = frame.clone().with(|f| f.ttl -= 1).build();
        let headers = parse(&out, 0).expect("a packet that can fly");
        let l4 = if headers.key.proto() == crate::flow::TCP { 20 } else { 8 };
        for at in usize::from(headers.l3)..headers.l4() + l4 {
            for bit in 0..8 {
                let mut rig = Rig::new();
                rig.punt(&frame);
                let mut changed = out.clone();
                changed[at] ^= 1 << bit;
                // A frame with another tuple finds another flow; it is put to this one all the same. One that
                // differs in the addresses or ports may still be the packet, translated, if its checksums fit.
                assert_eq!(rig.left_of(flow(1), &changed), Seen::Nothing, "bit {bit} of byte {at}");
                assert!(matches!(rig.left_of(flow(1), &out), Seen::Tell(Observation::Proof(_))));
            }
        }
    }
}

#[test]
fn a_frame_without_a_fingerprint_proves_nothing() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    assert!(!rig.prints.are_outstanding());
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Nothing);
    rig.punt(&frame);
    assert!(rig.prints.are_outstanding());
    assert_eq!(rig.left(&forwarded(&packet(2))), Seen::Nothing);
    assert_eq!(rig.left_of(flow(2), &forwarded(&frame).build()), Seen::Nothing, "another direction's");
}

#[test]
fn two_places_of_arrival_prove_nothing_for_a_while() {
    let mut rig = Rig::new();
    rig.punt_from(0, flow(1), &packet(1));
    rig.now += 1000;
    rig.punt_from(1, flow(1), &packet(2));
    assert!(!rig.proves(&forwarded(&packet(1))), "from before");
    assert!(!rig.proves(&forwarded(&packet(2))), "from the other place");
    // As long as copies could be on their way: nothing.
    rig.now += CONFLICT - 1;
    rig.punt_from(1, flow(1), &packet(3));
    assert!(!rig.proves(&forwarded(&packet(3))));
    rig.now += 1;
    rig.punt_from(1, flow(1), &packet(4));
    assert!(rig.proves(&forwarded(&packet(4))));
}

#[test]
fn tags_and_addresses_are_places_too() {
    let frame = packet(1);
    let other_mac = Ingress::untagged(0, [2, 0, 0, 0, 0, 2]);
    for other in [ingress(0).in_tag(1, false), ingress(0).in_pppoe(1), other_mac] {
        let mut rig = Rig::new();
        rig.punt(&frame);
        rig.prints.punted(flow(1), other, snapshot(&frame), 7, false, rig.now);
        assert!(!rig.proves(&forwarded(&frame)), "{other:?}");
    }
}

#[test]
fn an_intruder_blocks_the_proof() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    rig.prints.intruded(flow(1), rig.now);
    assert!(!rig.proves(&forwarded(&frame)));
    rig.now += CONFLICT;
    rig.punt(&frame);
    assert!(rig.proves(&forwarded(&frame)));
    // One of a direction that nothing waits for takes no memory.
    rig.prints.intruded(flow(2), rig.now);
    assert_eq!(rig.prints.tracks.len(), 1);
}

#[test]
fn a_packet_that_took_too_long_proves_nothing() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    rig.now += PATIENCE + 1;
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Nothing);
    // Its copy is no second frame of a packet that proved, but it did leave twice.
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Tell(Observation::Duplicated(flow(1))));
}

#[test]
fn a_second_frame_of_one_packet_is_a_duplicate() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    assert!(rig.proves(&forwarded(&frame)));
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Tell(Observation::Duplicated(flow(1))));
}

#[test]
fn without_all_fingerprints_a_second_frame_may_be_another_packet() {
    // More identical packets at once than are compared: the first of them lost its place.
    let (mut rig, frame) = (Rig::new(), packet(1));
    for _ in 0..=PER_TRACK {
        rig.punt(&frame);
    }
    for _ in 0..PER_TRACK {
        assert!(rig.proves(&forwarded(&frame)));
    }
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Nothing);
    rig.now += PATIENCE + 1;
    rig.punt(&frame);
    assert!(rig.proves(&forwarded(&frame)));
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Tell(Observation::Duplicated(flow(1))), "whole again");
}

#[test]
fn a_place_that_was_given_up_by_a_packet_that_came_back_hides_nothing() {
    let mut rig = Rig::new();
    for number in 0..=PER_TRACK as u16 {
        rig.punt(&packet(number));
        assert!(rig.proves(&forwarded(&packet(number))));
    }
    let last = forwarded(&packet(PER_TRACK as u16));
    assert_eq!(rig.left(&last), Seen::Tell(Observation::Duplicated(flow(1))));
}

#[test]
fn a_crowd_of_other_directions_hides_duplicates_too() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    for number in 0..=MOST_PRINTS as u32 {
        rig.punt_from(0, flow(2 + number), &packet(2));
    }
    rig.punt(&frame);
    assert!(rig.proves(&forwarded(&frame)));
    assert_eq!(rig.left(&forwarded(&frame)), Seen::Nothing);
}

#[test]
fn of_identical_packets_the_oldest_is_matched_first() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    for epoch in [3, 4, 5] {
        rig.prints.punted(flow(1), ingress(0), snapshot(&frame), epoch, false, rig.now);
    }
    for epoch in [3, 4, 5] {
        let Seen::Tell(Observation::Proof(proof)) = rig.left(&forwarded(&frame)) else { panic!("no proof") };
        assert_eq!(proof.epoch, epoch);
    }
}

/// What did not come out whole before a shorter packet did, however late that is seen, until something as long does.
#[test]
fn a_proof_tells_of_the_longer_packet_that_it_overtook() {
    let long = |number: u16| packet(number).payload(&[1; 800]);
    let overtook = |seen: Seen| match seen {
        Seen::Tell(Observation::Proof(proof)) => Some((proof.l3_len, proof.overtook)),
        _ => None,
    };
    let mut rig = Rig::new();
    rig.punt(&long(1));
    rig.punt(&packet(2));
    assert_eq!(overtook(rig.left(&forwarded(&packet(2)))), Some((30, 828)));
    rig.now += PATIENCE + 1;
    rig.expire(true);
    rig.punt(&packet(3));
    assert_eq!(overtook(rig.left(&forwarded(&packet(3)))), Some((30, 828)), "still, after it was given up");
    rig.punt(&long(4));
    assert_eq!(overtook(rig.left(&forwarded(&long(4)))), Some((828, 0)));
    rig.punt(&packet(5));
    assert_eq!(overtook(rig.left(&forwarded(&packet(5)))), Some((30, 0)));
    // A longer one that was punted later was not overtaken.
    rig.punt(&packet(6));
    rig.punt(&long(7));
    assert_eq!(overtook(rig.left(&forwarded(&packet(6)))), Some((30, 0)));
}

#[test]
fn settled_is_told_when_the_newest_packet_came_back() {
    let mut rig = Rig::new();
    for number in 1..=3 {
        rig.punt(&packet(number));
    }
    rig.prints.settle(flow(1), 7, rig.now);
    for number in [1, 2] {
        assert!(rig.proves(&forwarded(&packet(number))));
        assert!(rig.expire(true).is_empty(), "the newest is out");
    }
    assert!(rig.proves(&forwarded(&packet(3))));
    assert_eq!(rig.expire(false), [Observation::Settled(flow(1), 7)]);
    assert!(rig.expire(true).is_empty(), "once");
}

#[test]
fn settled_is_told_at_the_deadline_once_the_twins_are_empty() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    rig.punt(&frame);
    rig.prints.settle(flow(1), 7, rig.now);
    rig.now += PATIENCE - 1;
    assert!(rig.expire(true).is_empty(), "too early");
    rig.now += 1;
    assert!(rig.expire(false).is_empty(), "it may wait in a twin");
    rig.now += 10 * PATIENCE;
    assert!(rig.expire(false).is_empty(), "it may still");
    assert_eq!(rig.expire(true), [Observation::Settled(flow(1), 7)]);
}

#[test]
fn a_direction_without_packets_is_settled_at_once() {
    let mut rig = Rig::new();
    rig.prints.settle(flow(1), 7, rig.now);
    assert_eq!(rig.expire(false), [Observation::Settled(flow(1), 7)]);
}

#[test]
fn a_probe_that_does_not_come_back_is_lost() {
    let (mut rig, probe) = (Rig::new(), packet(1));
    rig.punt(&packet(2));
    rig.probe(&probe);
    rig.now += PATIENCE;
    assert!(rig.expire(true).is_empty(), "there is time yet");
    rig.now += 1;
    assert!(rig.expire(false).is_empty(), "it may wait in a twin");
    assert_eq!(rig.expire(true), [Observation::Lost(flow(1))], "and the ordinary packet is not told of");
    assert!(!rig.prints.are_outstanding() && rig.expire(true).is_empty());
}

#[test]
fn a_probe_that_comes_back_is_not_lost() {
    let (mut rig, probe) = (Rig::new(), packet(1));
    rig.probe(&probe);
    assert!(rig.proves(&forwarded(&probe)));
    rig.now += PATIENCE + 1;
    assert!(rig.expire(true).is_empty());
}

#[test]
fn another_flow_in_the_slot_has_none_of_its_predecessors_fingerprints() {
    let (mut rig, frame) = (Rig::new(), packet(1));
    let next = FlowRef { generation: 2, ..flow(1) };
    rig.punt(&frame);
    assert_eq!(rig.left_of(next, &forwarded(&frame).build()), Seen::Nothing);
    rig.punt_from(0, next, &packet(2));
    assert_eq!(rig.left_of(next, &forwarded(&frame).build()), Seen::Nothing);
    assert_eq!(
        rig.left_of(flow(1), &forwarded(&packet(2)).build()),
        Seen::Nothing,
        "nor the other way around"
    );
    rig.prints.settle(flow(1), 7, rig.now);
    assert_eq!(rig.expire(false), [Observation::Settled(flow(1), 7)], "what is gone has nothing out");
    assert!(matches!(rig.left_of(next, &forwarded(&packet(2)).build()), Seen::Tell(Observation::Proof(_))));
}

#[test]
fn memory_is_bounded() {
    let mut rig = Rig::new();
    let snapshot = snapshot(&packet(1));
    for number in 1..=MOST_TRACKS as u32 + 1000 {
        rig.prints.punted(flow(number), ingress(0), snapshot, 7, false, rig.now);
    }
    assert_eq!((rig.prints.tracks.len(), rig.prints.prints.len()), (MOST_TRACKS, MOST_PRINTS));
    // Those that are known have their fingerprints taken nevertheless.
    let frame = packet(2);
    rig.punt(&frame);
    assert!(rig.proves(&forwarded(&frame)));
    // Idle ones give way.
    rig.now += CONFLICT;
    rig.prints.forget_idle(rig.now);
    assert!(rig.prints.tracks.is_empty());
    rig.expire(true);
    assert!(rig.prints.prints.is_empty());
}

#[test]
fn a_direction_is_remembered_as_long_as_its_conflict() {
    let mut rig = Rig::new();
    rig.punt(&packet(1));
    rig.now += CONFLICT - 1;
    rig.prints.intruded(flow(1), rig.now);
    rig.now += CONFLICT - 1;
    rig.prints.forget_idle(rig.now);
    rig.punt(&packet(2));
    assert!(!rig.proves(&forwarded(&packet(2))));
}

/// A moment in the life of three directions.
#[derive(Clone, Debug)]
enum Step {
    Punt { flow: u32, number: u16, port: u16, probe: bool },
    Left { flow: u32, number: u16 },
    Intruded { flow: u32 },
    Settle { flow: u32 },
    Expire { drained: bool },
    Forget,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (flows, numbers) = (1..4_u32, 0..4_u16);
    let port = prop_oneof![30 => Just(0_u16), 1 => Just(1)];
    let step = prop_oneof![
        8 => (flows.clone(), numbers.clone(), port, any::<bool>())
            .prop_map(|(flow, number, port, probe)| Step::Punt { flow, number, port, probe }),
        8 => (flows.clone(), numbers).prop_map(|(flow, number)| Step::Left { flow, number }),
        1 => flows.clone().prop_map(|flow| Step::Intruded { flow }),
        2 => flows.prop_map(|flow| Step::Settle { flow }),
        3 => any::<bool>().prop_map(|drained| Step::Expire { drained }),
        1 => Just(Step::Forget),
        4 => (0..PATIENCE / 2).prop_map(Step::Wait),
        1 => (0..CONFLICT).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

/// A packet that was punted, as the test remembers it.
#[derive(Clone, Copy, Debug)]
struct Out {
    flow: u32,
    number: u16,
    port: u16,
    at: u64,
    probe: bool,
}

proptest! {
    #[test]
    fn any_bridged_frame_proves_and_none_with_another_byte(
        frame in strategies::legal_frames(),
        at: prop::sample::Index,
        change in 1_u8..,
    ) {
        let mut rig = Rig::new();
        rig.punt(&frame);
        let bytes = frame.build();
        let headers = parse(&bytes, EGRESS).expect("a packet that can fly");
        let l4_len = if headers.key.proto() == crate::flow::TCP { 20 } else { 8 };
        let (start, end) = (usize::from(headers.l3), headers.l4() + l4_len);
        let mut changed = bytes.clone();
        let place = start + at.index(end - start);
        changed[place] ^= change;
        // A hop limit one less is what a router does, and IPv6 has no header checksum that would then be wrong.
        let routed = matches!(headers.key, Key::V6(_)) && place == start + 7 && changed[place].wrapping_add(1) == bytes[place];
        prop_assume!(!routed);
        let proved = |seen| matches!(seen, Seen::Tell(Observation::Proof(_)));
        // Another tuple finds another direction's fingerprints; UDP without a checksum shows nothing else.
        if parse(&changed, EGRESS).is_ok_and(|other| other.key == headers.key) {
            let seen = rig.left_of(flow(1), &changed);
            prop_assert_eq!(seen, Seen::Nothing);
        }
        let seen = rig.left_of(flow(1), &bytes);
        prop_assert!(proved(seen));
    }

    #[test]
    fn whatever_happens_a_proof_has_its_packet_and_its_one_place(steps in steps()) {
        let mut rig = Rig::new();
        let (mut punted, mut used) = (Vec::<Out>::new(), Vec::<usize>::new());
        let (mut intrusions, mut settling) = (Vec::<(u32, u64)>::new(), HashMap::<u32, u64>::new());
        let mut probes_lost = HashMap::<u32, usize>::new();
        for step in steps {
            let now = rig.now;
            match step {
                Step::Punt { flow: number_of_flow, number, port, probe } => {
                    let frame = packet(number);
                    rig.prints.punted(flow(number_of_flow), ingress(port), snapshot(&frame), 7, probe, now);
                    punted.push(Out { flow: number_of_flow, number, port, at: now, probe });
                }
                Step::Left { flow: f, number } => match rig.left_of(flow(f), &forwarded(&packet(number)).build()) {
                    Seen::Nothing => {}
                    Seen::Tell(Observation::Proof(proof)) => {
                        let own = |out: &Out| out.flow == f && out.number == number && now - out.at <= PATIENCE;
                        let of = punted.iter().enumerate().position(|(i, out)| own(out) && !used.contains(&i));
                        prop_assert!(of.is_some(), "no such packet was given to the kernel");
                        used.extend(of);
                        let places = punted.iter().filter(|out| out.flow == f && now - out.at < CONFLICT);
                        prop_assert!(places.clone().all(|out| out.port == proof.ingress.port()));
                        let intruded = |(flow, at): &(u32, u64)| *flow == f && now - at < CONFLICT;
                        prop_assert!(!intrusions.iter().any(intruded));
                    }
                    Seen::Tell(Observation::Duplicated(flow)) => prop_assert_eq!(flow.slot.to_bits(), f),
                    Seen::Tell(other) => prop_assert!(false, "{:?} of a frame", other),
                },
                Step::Intruded { flow: f } => {
                    // One of which nothing is known yet leaves no trace: there is nothing to be proved.
                    if rig.prints.tracks.contains_key(&flow(f).slot) {
                        intrusions.push((f, now));
                    }
                    rig.prints.intruded(flow(f), now);
                }
                Step::Settle { flow: f } => {
                    *settling.entry(f).or_default() += 1;
                    rig.prints.settle(flow(f), 7, now);
                }
                Step::Expire { drained } => {
                    for told in rig.expire(drained) {
                        match told {
                            Observation::Settled(flow, _) => {
                                let asked = settling.entry(flow.slot.to_bits()).or_default();
                                prop_assert!(*asked > 0, "settled without being asked");
                                *asked -= 1;
                            }
                            Observation::Lost(flow) => {
                                prop_assert!(drained);
                                *probes_lost.entry(flow.slot.to_bits()).or_default() += 1;
                            }
                            other => prop_assert!(false, "{:?} of time", other),
                        }
                    }
                }
                Step::Forget => rig.prints.forget_idle(now),
                Step::Wait(time) => rig.now += time,
            }
        }
        // In the end every question has its answer, and nothing is left.
        rig.now += 2 * CONFLICT;
        let mut told = rig.expire(true);
        told.extend(rig.expire(true));
        for observation in told {
            match observation {
                Observation::Settled(flow, _) => *settling.entry(flow.slot.to_bits()).or_default() -= 1,
                Observation::Lost(flow) => *probes_lost.entry(flow.slot.to_bits()).or_default() += 1,
                other => prop_assert!(false, "{:?} of time", other),
            }
        }
        prop_assert!(settling.values().all(|asked| *asked == 0));
        for (flow, lost) in probes_lost {
            prop_assert!(lost <= punted.iter().filter(|out| out.flow == flow && out.probe).count());
        }
        rig.prints.forget_idle(rig.now);
        prop_assert!(rig.prints.tracks.is_empty() && !rig.prints.are_outstanding());
    }
}
