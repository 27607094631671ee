//! Rules through queues: a NIC that takes its time, answers in any order, or has no room.

use super::*;

/// A rig whose NIC is one that has queues, with a proved direction of connection 1.
fn rig(knobs: Knobs) -> (Rig, FlowRef) {
    let mut rig = Rig::with(true, knobs);
    rig.insert(1);
    rig.prove(1, 0);
    let flow = rig.flows[&1][0];
    (rig, flow)
}

const SLOW: Latency = Latency { millis: 300, packets: 0 };

#[test]
fn control_does_not_wait_for_a_rule_to_be_made() {
    let (mut rig, flow) = rig(Knobs { latency: SLOW, ..Knobs::default() });
    rig.heat(1, 0);
    assert_eq!(rig.nic.process(0, &mut frame_of(1)), TO_SOFTWARE);
    assert!(!rig.plane.offload.has(flow) && rig.plane.offload.carried() == 0);
    let whereabouts =
        |rig: &Rig| rig.plane.offload.ports[0].scheduler.whereabouts(name(flow)) == Whereabouts::GoingIn;
    assert!(whereabouts(&rig));
    rig.check();
    rig.pass(300);
    assert!(rig.plane.offload.has(flow) && rig.plane.offload.carried() == 1);
    assert_eq!(rig.nic.process(0, &mut frame_of(1)), Outcome::Sent(1));
    rig.check();
}

#[test]
fn who_leaves_while_its_rule_is_made_is_out_as_soon_as_it_is_in() {
    let changes: [fn(&mut Rig, FlowRef); 2] =
        [|rig, flow| rig.plane.set_state(flow, EntryState::Candidate), |rig, _| rig.remove(1)];
    for change in changes {
        let (mut rig, flow) = rig(Knobs { latency: SLOW, ..Knobs::default() });
        rig.heat(1, 0);
        change(&mut rig, flow);
        assert_eq!(rig.rules(), 1);
        rig.check();
        rig.pass(300);
        // Its removal takes as long.
        assert_eq!((rig.rules(), rig.plane.offload.has(flow)), (1, true));
        rig.pass(300);
        assert_eq!((rig.rules(), rig.plane.offload.has(flow)), (0, false));
        rig.check();
    }
}

#[test]
fn one_that_a_worker_moved_while_its_rule_was_made_comes_out() {
    let (mut rig, flow) = rig(Knobs { latency: SLOW, ..Knobs::default() });
    rig.heat(1, 0);
    let slot = rig.plane.table.resolve(flow).expect("it is there");
    rig.plane.table.entry(slot).set_state(EntryState::Holding);
    rig.pass(300);
    rig.pass(300);
    assert_eq!((rig.rules(), rig.plane.offload.has(flow)), (0, false));
}

#[test]
fn nobody_waits_long_for_a_rule_to_go() {
    let (mut rig, flow) = rig(Knobs::default());
    rig.heat(1, 0);
    rig.nic.set(|knobs| knobs.latency = SLOW);
    rig.plane.set_state(flow, EntryState::Candidate);
    assert_eq!((rig.rules(), rig.plane.offload.ports[0].waits.overran), (1, 1));
    rig.check();
    // Between two ticks there is patience for a few, and the others go without.
    rig.plane.offload.set_patience(Duration::from_millis(1), Duration::ZERO);
    rig.insert(2);
    rig.prove(2, 0);
    rig.nic.set(|knobs| knobs.latency = Latency::default());
    rig.heat(2, 0);
    rig.nic.set(|knobs| knobs.latency = SLOW);
    rig.plane.set_state(rig.flows[&2][0], EntryState::Candidate);
    assert_eq!(rig.plane.offload.ports[0].waits.overran, 1);
    rig.pass(300);
    assert_eq!(rig.rules(), 0);
    rig.check();
}

#[test]
fn a_tuple_is_waited_for() {
    let (mut rig, _) = rig(Knobs::default());
    rig.heat(1, 0);
    rig.remove(1);
    // Nobody else needs it yet.
    assert_eq!(rig.rules(), 1);
    assert!(rig.insert(1), "the NIC lets go of it when it is asked");
    assert_eq!(rig.rules(), 0);
    rig.prove(1, 0);
    rig.heat(1, 0);
    rig.nic.set(|knobs| knobs.latency = SLOW);
    rig.remove(1);
    assert!(!rig.insert(1));
    rig.pass(300);
    assert!(rig.insert(1));
}

#[test]
fn ends_come_in_any_order() {
    let mut rig = Rig::with(true, Knobs { out_of_order: true, ..Knobs::default() });
    for number in 0..4 {
        rig.insert(number);
        for dir in [0, 1] {
            rig.prove(number, dir);
        }
    }
    for number in 0..4 {
        for dir in [0, 1] {
            rig.heat(number, dir);
        }
    }
    assert_eq!((rig.rules(), rig.plane.offload.carried()), (8, 4));
    for number in 0..4 {
        rig.remove(number);
    }
    rig.check();
    rig.pass(1);
    assert_eq!((rig.rules(), rig.plane.offload.carried()), (0, 0));
    assert!(rig.plane.offload.placed.is_empty());
}

#[test]
fn a_rule_that_does_not_come_to_be_is_put_off() {
    let (mut rig, flow) = rig(Knobs { refusals: vec![(Call::Complete, Errno::EIO)], ..Knobs::default() });
    rig.heat(1, 0);
    assert_eq!(rig.rules(), 0);
    let why = rig.plane.offload.why_not(flow).expect("it was refused");
    assert!(why.contains("the NIC refused it"), "{why}");
    rig.check();
    rig.nic.set(|knobs| knobs.refusals.clear());
    rig.pass(200);
    rig.heat(1, 0);
    assert!(rig.plane.offload.has(flow));
}

#[test]
fn what_a_queue_has_no_room_for_is_asked_again() {
    let busy = |call| vec![(call, Errno::EAGAIN)];
    let (mut rig, flow) = rig(Knobs { refusals: busy(Call::Enqueue), ..Knobs::default() });
    rig.heat(1, 0);
    assert_eq!((rig.rules(), rig.plane.offload.why_not(flow)), (0, None));
    rig.nic.set(|knobs| knobs.refusals.clear());
    rig.pass(10);
    assert!(rig.plane.offload.has(flow), "at once, not as one that was refused");
    rig.nic.set(|knobs| knobs.refusals = busy(Call::Destroy));
    assert!(!rig.plane.offload.leave(flow));
    rig.nic.set(|knobs| knobs.refusals.clear());
    rig.pass(10);
    assert_eq!(rig.rules(), 0);
}

#[test]
fn more_go_in_than_a_queue_holds() {
    let mut rig = Rig::with(true, Knobs::default());
    rig.nic.set(|knobs| knobs.latency = SLOW);
    // Twice as many as it is deep, all at once.
    for round in 0..2 {
        for number in 0..16 {
            if round == 0 {
                rig.insert(number);
                rig.prove(number, 0);
            }
            rig.count(number, 0);
        }
        rig.pass(200);
    }
    for rules in [8, 16] {
        assert_eq!(rig.rules(), rules);
        rig.check();
        rig.pass(300);
    }
    assert_eq!(rig.plane.offload.carried(), 16);
}

#[test]
fn a_shape_that_no_queue_takes_goes_in_one_by_one() {
    let (mut rig, flow) = rig(Knobs::default());
    rig.heat(1, 0);
    assert!(rig.plane.offload.ports[0].under_way.by_queue());
    rig.nic.set(|knobs| knobs.refusals = vec![(Call::Enqueue, Errno::ENOTSUP)]);
    rig.insert(2);
    rig.prove(2, 0);
    rig.heat(2, 0);
    let other = rig.flows[&2][0];
    assert!(rig.plane.offload.has(other));
    let port = &rig.plane.offload.ports[0];
    assert!(!port.under_way.by_queue() && rig.plane.offload.ports[1].under_way.by_queue());
    let told = port.capabilities.findings.iter().filter(|finding| finding.contains("one by one"));
    assert_eq!(told.count(), 1, "{:?}", port.capabilities.findings);
    // Each goes as it came.
    assert!(rig.plane.offload.leave(flow) && rig.plane.offload.leave(other));
    assert_eq!(rig.rules(), 0);
}

#[test]
fn what_is_refused_either_way_is_the_rules_own_affair() {
    let (mut rig, flow) = rig(Knobs { refusals: vec![(Call::Create, Errno::ENOTSUP)], ..Knobs::default() });
    rig.heat(1, 0);
    assert!(rig.plane.offload.why_not(flow).is_some());
    assert!(rig.plane.offload.ports[0].under_way.by_queue());
}

#[test]
fn a_nic_that_knows_queues_alone_is_probed_guarded_and_used() {
    let (mut rig, flow) = rig(Knobs { queues_alone: true, ..Knobs::default() });
    assert!(rig.guards > 0);
    rig.heat(1, 0);
    assert_eq!(rig.nic.process(0, &mut frame_of(1)), Outcome::Sent(1));
    assert!(rig.plane.offload.leave(flow));
    assert_eq!(rig.rules(), 0);
}
