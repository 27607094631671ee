//! The flow table's writes, and what becomes of rules by them, before a model NIC with faults.

mod audit;
mod hairpins;
mod queues;
mod rig;

use dataplane::hardware::model::{Call, Knobs, Latency, Outcome, Stuck};
use proptest::prelude::*;
use proptest::sample::select;
use rig::tuples;

pub(super) use rig::{Rig, WAYS, frame_of};

use super::counts::COUNT_EVERY;
use super::*;
use crate::tracker::Plane;

const PORTS: [u16; 2] = [0, 1];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOT: u64 = 1000;
const TO_SOFTWARE: Outcome = Outcome::Software { mark: None, queue: None };

#[test]
fn a_hot_direction_goes_in_and_leaves_before_it_changes() {
    let changes: [fn(&mut Rig, FlowRef); 5] = [
        |rig, flow| assert!(rig.plane.transition(flow, EntryState::Software, EntryState::Probing)),
        |rig, flow| rig.plane.set_state(flow, EntryState::Candidate),
        |rig, flow| rig.plane.set_state(flow, EntryState::Closing),
        |rig, flow| rig.plane.set_length(flow, 1500, true),
        |rig, _| {
            rig.remove(1);
            rig.pass(0);
        },
    ];
    for (change, by_queue) in changes.into_iter().flat_map(|change| WAYS.map(|way| (change, way))) {
        let mut rig = Rig::new(by_queue);
        assert!(rig.insert(1));
        rig.prove(1, 0);
        rig.heat(1, 0);
        let flow = rig.flows[&1][0];
        assert!(rig.plane.offload.has(flow) && rig.rules() == 1);
        change(&mut rig, flow);
        assert!(!rig.plane.offload.has(flow) && rig.rules() == 0);
        rig.check();
    }
}

#[test]
fn a_direction_that_comes_in_elsewhere_leaves_there() {
    for by_queue in WAYS {
        let mut rig = Rig::new(by_queue);
        rig.insert(1);
        for port in [0, 1, 0] {
            rig.prove_by(1, 0, port);
            rig.heat(1, 0);
            let flow = rig.flows[&1][0];
            assert!(rig.plane.offload.has(flow));
            rig.plane.set_state(flow, EntryState::Candidate);
            assert_eq!(rig.rules(), 0, "port {port}");
            rig.check();
        }
        // What waited to be read is forgotten with its rule.
        rig.pass(2 * COUNT_EVERY);
        assert!(rig.plane.offload.to_count.is_empty());
    }
}

#[test]
fn only_what_flies_and_fits_goes_in() {
    for by_queue in WAYS {
        let mut rig = Rig::with(by_queue, Knobs { lengths: false, ..Knobs::default() });
        rig.insert(1);
        rig.heat(1, 0);
        assert_eq!(rig.rules(), 0, "not proved");
        rig.prove(1, 0);
        let flow = rig.flows[&1][0];
        // Longer packets can come than are known to leave, and there is no route to ask for.
        rig.plane.set_length(flow, 1499, false);
        rig.heat(1, 0);
        assert_eq!(rig.rules(), 0);
        let why = rig.plane.offload.why_not(flow).expect("put off");
        assert!(why.contains("packets of up to 1500 bytes can come in, and only 1499"), "{why}");
        rig.plane.set_length(flow, 1500, false);
        rig.pass(1_000);
        rig.heat(1, 0);
        assert_eq!(rig.rules(), 1);
    }
}

#[test]
fn what_is_too_long_to_leave_goes_to_software_where_the_nic_compares_lengths() {
    let of_length = |length: u16| {
        let mut frame = frame_of(1);
        frame.resize(14 + usize::from(length), 0);
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        let sum = dataplane::packet::checksum::compute(&[&frame[14..24], &[0, 0], &frame[26..34]].concat());
        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
        frame
    };
    for by_queue in WAYS {
        let mut rig = Rig::new(by_queue);
        let lengths = PortLengths { may_come: 1508, may_leave_by: HashMap::new() };
        rig.plane.offload.set_lengths(vec![lengths.clone(), lengths]);
        rig.insert(1);
        rig.prove(1, 0);
        rig.heat(1, 0);
        let flow = rig.flows[&1][0];
        assert!(rig.plane.offload.has(flow), "{:?}", rig.plane.offload.why_not(flow));
        for (length, outcome) in
            [(1500, Outcome::Sent(1)), (1501, TO_SOFTWARE), (1504, TO_SOFTWARE), (1508, TO_SOFTWARE)]
        {
            assert_eq!(rig.nic.process(0, &mut of_length(length)), outcome, "{length}");
        }
        // Longer ones were seen to be fragmented: they come to workers, one by one.
        rig.plane.set_state(flow, EntryState::Candidate);
        rig.prove(1, 0);
        rig.plane.set_length(flow, 1400, true);
        rig.heat(1, 0);
        assert!(rig.plane.offload.has(flow), "{:?}", rig.plane.offload.why_not(flow));
        assert_eq!(rig.nic.process(0, &mut of_length(1400)), Outcome::Sent(1));
        assert_eq!(rig.nic.process(0, &mut of_length(1401)), TO_SOFTWARE);
    }
}

#[test]
fn what_the_nic_counts_is_the_connections() {
    for by_queue in WAYS {
        let mut rig = Rig::new(by_queue);
        rig.insert(1);
        rig.prove(1, 0);
        rig.heat(1, 0);
        let (flow, before) = (rig.flows[&1][0], rig.plane.counters(rig.flows[&1][0]).packets);
        let mut frame = frame_of(1);
        for _ in 0..7 {
            assert_eq!(rig.nic.process(0, &mut frame.clone()), Outcome::Sent(1));
        }
        rig.pass(COUNT_EVERY);
        let counters = rig.plane.counters(flow);
        assert_eq!((counters.packets, counters.last_seen), (before + 7, rig.now as u32));
        // Neither is lost when the rule goes and comes again.
        rig.plane.set_state(flow, EntryState::Candidate);
        rig.prove(1, 0);
        rig.heat(1, 0);
        assert!(rig.plane.offload.has(flow));
        let before = rig.plane.counters(flow).packets;
        rig.nic.process(0, &mut frame);
        rig.pass(COUNT_EVERY);
        assert_eq!(rig.plane.counters(flow).packets, before + 1);
        // Nor what came after the last reading.
        rig.nic.process(0, &mut frame_of(1));
        rig.remove(1);
        rig.pass(0);
        assert_eq!(rig.plane.offload.totals(), (9, 9 * 42));
    }
}

#[test]
fn a_tuple_is_nobodys_until_its_rule_is_gone() {
    for by_queue in WAYS {
        let mut rig = Rig::new(by_queue);
        rig.insert(1);
        rig.prove(1, 0);
        rig.heat(1, 0);
        rig.nic.set(|knobs| knobs.stuck = Stuck::Refuses);
        rig.remove(1);
        rig.pass(0);
        assert_eq!(rig.rules(), 1);
        assert!(!rig.insert(1), "its packets would go where those of the former connection went");
        assert!(rig.insert(2));
        rig.nic.set(|knobs| knobs.stuck = Stuck::No);
        rig.pass(1_000);
        assert_eq!(rig.rules(), 0);
        assert!(rig.insert(1));
    }
}

#[test]
fn without_groups_a_rule_is_for_the_ttl_that_packets_come_with() {
    for by_queue in WAYS {
        let mut rig = Rig::with(by_queue, Knobs { groups: 1, ..Knobs::default() });
        assert_eq!(rig.guards, 0);
        rig.insert(1);
        rig.prove(1, 0);
        let outcome = |rig: &Rig, ttl| {
            let mut frame = frame_of(1);
            frame[22] = ttl;
            frame[24..26].fill(0);
            let sum = dataplane::packet::checksum::compute(&frame[14..34]).to_ne_bytes();
            frame[24..26].copy_from_slice(&sum);
            rig.nic.process(0, &mut frame) == Outcome::Sent(1)
        };
        for ttl in [64, 57] {
            rig.ttl = ttl;
            rig.heat(1, 0);
            rig.heat(1, 0);
            assert_eq!(rig.rules(), 1, "TTL {ttl}");
            assert!(outcome(&rig, ttl) && !outcome(&rig, ttl - 1) && !outcome(&rig, 1), "TTL {ttl}");
            rig.check();
        }
        rig.plane.set_state(rig.flows[&1][0], EntryState::Candidate);
        assert_eq!(rig.rules(), 0);
    }
}

#[test]
fn no_rule_stays_behind() {
    for by_queue in WAYS {
        let mut rig = Rig::new(by_queue);
        rig.insert(1);
        rig.prove(1, 0);
        rig.heat(1, 0);
        let nic = Arc::clone(&rig.nic);
        assert!(nic.rules() > 0);
        drop(rig);
        assert_eq!(nic.rules(), 0, "guards included");
    }
}

#[derive(Clone, Debug)]
enum Event {
    Insert(u8),
    Remove(u8),
    Prove(u8, usize),
    Heat(u8, usize),
    Ttl(u8),
    State(u8, usize, EntryState),
    Pass(u64),
    /// Time passes, and who is due is looked at.
    Audit(u64),
    /// The NIC forgets the rule of a direction.
    Lose(u8, usize),
    /// The NIC is made to begin anew.
    Remake(usize),
    Fault(Fault),
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Stuck,
    OutOfOrder,
    Full(usize),
    Refuses(Call),
    Slow(u64),
    Busy,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flow = || 0..4_u8;
    let state = prop_oneof![
        Just(EntryState::Candidate),
        Just(EntryState::Holding),
        Just(EntryState::Probing),
        Just(EntryState::Closing)
    ];
    let fault = prop_oneof![
        Just(Fault::None),
        Just(Fault::Stuck),
        (0..4_usize).prop_map(Fault::Full),
        Just(Fault::Refuses(Call::Create)),
        Just(Fault::Refuses(Call::Destroy)),
        Just(Fault::Refuses(Call::Query)),
        Just(Fault::Refuses(Call::Complete)),
        Just(Fault::Refuses(Call::Enqueue)),
        Just(Fault::Busy),
        Just(Fault::OutOfOrder),
        (0..2_000_u64).prop_map(Fault::Slow),
    ];
    let event = prop_oneof![
        3 => flow().prop_map(Event::Insert),
        1 => flow().prop_map(Event::Remove),
        4 => (flow(), 0..2_usize).prop_map(|(flow, dir)| Event::Prove(flow, dir)),
        6 => (flow(), 0..2_usize).prop_map(|(flow, dir)| Event::Heat(flow, dir)),
        3 => (flow(), 0..2_usize, state).prop_map(|(flow, dir, state)| Event::State(flow, dir, state)),
        2 => (0..3_000_u64).prop_map(Event::Pass),
        2 => (0..6_000_u64).prop_map(Event::Audit),
        1 => (flow(), 0..2_usize).prop_map(|(flow, dir)| Event::Lose(flow, dir)),
        1 => (0..2_usize).prop_map(Event::Remake),
        1 => (62..66_u8).prop_map(Event::Ttl),
        2 => fault.prop_map(Event::Fault),
    ];
    proptest::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_rule_is_without_its_flow(
        events in events(),
        by_queue: bool,
        groups in select(vec![1, 4]),
    ) {
        let faultless = Knobs { groups, ..Knobs::default() };
        let mut rig = Rig::with(by_queue, faultless.clone());
        let (guards, mut is_healthy) = (rig.guards, true);
        for event in events {
            match event {
                Event::Insert(number) => {
                    rig.insert(number);
                }
                Event::Remove(number) => rig.remove(number),
                Event::Prove(number, dir) => rig.prove(number, dir),
                Event::Heat(number, dir) => rig.heat(number, dir),
                Event::State(number, dir, state) => {
                    if let Some(flow) = rig.flows.get(&number).map(|flows| flows[dir]) {
                        rig.plane.set_state(flow, state);
                    }
                }
                Event::Pass(millis) => rig.pass(millis),
                Event::Audit(millis) => rig.audit(millis, true),
                Event::Lose(number, dir) => {
                    if let Some(flow) = rig.flows.get(&number).map(|flows| flows[dir]) {
                        rig.lose(flow);
                    }
                }
                // A NIC with faults would be found to be able to nothing.
                Event::Remake(port) if is_healthy => rig.plane.offload.remake(port, rig.now),
                Event::Remake(_) => {}
                Event::Ttl(ttl) => rig.ttl = ttl,
                Event::Fault(fault) => rig.nic.set(|knobs| {
                    is_healthy = matches!(fault, Fault::None | Fault::OutOfOrder);
                    *knobs = faultless.clone();
                    match fault {
                        Fault::None => {}
                        Fault::Stuck => knobs.stuck = Stuck::Refuses,
                        Fault::Full(room) => knobs.capacity = guards + room,
                        Fault::Refuses(call) => knobs.refusals = vec![(call, Errno::EIO)],
                        Fault::OutOfOrder => knobs.out_of_order = true,
                        Fault::Busy => {
                            knobs.refusals = [Call::Enqueue, Call::Destroy].map(|call| (call, Errno::EAGAIN)).into();
                        }
                        Fault::Slow(millis) => knobs.latency = Latency { millis, packets: 0 },
                    }
                }),
            }
            rig.check();
        }
        // When the faults are over, what does not fly has no rule, and every tuple can be used.
        rig.nic.set(|knobs| *knobs = faultless.clone());
        for _ in 0..30 {
            rig.audit(1_000, true);
        }
        rig.lost.clear();
        rig.check();
        let stays = |placed: &Placed| placed.rule.is_none() || rig.flies(placed.flow);
        prop_assert!(rig.plane.offload.placed.values().all(stays));
        prop_assert!(rig.plane.offload.haunted.is_empty());
        prop_assert_eq!(rig.plane.offload.carried() as usize, rig.carried());
    }
}
