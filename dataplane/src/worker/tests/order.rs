//! No packet of a direction overtakes another, whatever its state does.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::flow::UDP;

#[test]
fn what_the_kernel_sent_then_what_was_held_then_what_is_new() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    rig.arrive(0, &[1, 2, 3].map(|number| connection.frame(number)));
    rig.rounds();
    assert!(rig.numbers_sent(1).is_empty());
    assert_eq!(rig.worker.carrier.held.len(), 3);
    // The last packet through the kernel comes out; control lets the direction fly.
    rig.kernel_sends(1, &forwarded(&connection.frame(0), &connection));
    rig.set_state(connection.flows[0], EntryState::Software);
    rig.arrive(0, &[4, 5].map(|number| connection.frame(number)));
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [0, 1, 2, 3, 4, 5]);
    rig.finish();
}

#[test]
fn held_packets_go_on_without_new_ones() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    rig.arrive(0, &[1, 2].map(|number| connection.frame(number)));
    rig.rounds();
    rig.set_state(connection.flows[0], EntryState::Software);
    rig.worker.round();
    assert_eq!(rig.numbers_sent(1), [1, 2]);
    rig.finish();
}

#[test]
fn only_the_held_direction_waits() {
    let mut rig = Rig::new();
    let (held, other) = (rig.connect(UDP, EntryState::Holding), rig.connect(UDP, EntryState::Software));
    rig.arrive(0, &[held.frame(1), other.frame(2), held.frame(3), other.frame(4)]);
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [2, 4]);
    rig.set_state(held.flows[0], EntryState::Candidate);
    rig.arrive(0, &[held.frame(5), other.frame(6)]);
    rig.rounds();
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [6]);
    rig.worker.round();
    assert_eq!(numbers(&rig.punted()), [1, 3, 5], "to the kernel in the order of their coming");
    rig.finish();
}

#[test]
fn held_packets_of_a_closing_or_vanished_flow_go_to_the_kernel() {
    for vanished in [false, true] {
        let mut rig = Rig::new();
        let connection = rig.connect(UDP, EntryState::Holding);
        rig.arrive(0, &[1, 2].map(|number| connection.frame(number)));
        rig.rounds();
        if vanished {
            rig.writer.remove_pair(connection.flows);
        } else {
            rig.set_state(connection.flows[0], EntryState::Closing);
        }
        rig.rounds();
        let punted = rig.punted();
        let reason = if vanished { PuntReason::NoFlow } else { PuntReason::Closing };
        assert!(punted.iter().all(|packet| packet.reason == reason), "{punted:?}");
        assert_eq!(numbers(&punted), [1, 2]);
        drop(punted);
        rig.finish();
    }
}

#[test]
fn when_no_more_fit_all_that_wait_go_to_the_kernel_in_order() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    let count = HOLD_CAPACITY as u16 + 1;
    let frames: Vec<Frame> = (0..count).map(|number| connection.frame(number)).collect();
    // In one go, before the first has waited too long.
    for frames in frames.chunks(512) {
        rig.arrive(0, frames);
        rig.rounds();
    }
    assert!(rig.worker.carrier.held.is_empty());
    let punted = rig.punted();
    assert!(numbers(&punted).into_iter().eq(0..count));
    // The first one says that the direction is given back; what follows may prove it anew.
    let told: Vec<_> = punted.iter().map(|packet| (packet.reason, packet.event)).collect();
    // A machine that stalled for 20 ms meanwhile has given the first ones back by the clock.
    if told[0].0 != PuntReason::HoldTimeout {
        assert_eq!(told[0], (PuntReason::HoldFull, PuntEvent::Lost));
        assert!(told[1..].iter().all(|told| *told == (PuntReason::HoldFull, PuntEvent::Fingerprint)));
    }
    assert_eq!(rig.state(connection.flows[0]), EntryState::Candidate);
    drop(punted);
    rig.finish();
}

#[test]
fn a_direction_that_is_held_too_long_goes_back_to_the_kernel() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    rig.arrive(0, &[1, 2, 3].map(|number| connection.frame(number)));
    rig.rounds();
    assert!(rig.punted().is_empty());
    std::thread::sleep(Duration::from_millis(21));
    rig.arrive(0, &[connection.frame(4)]);
    rig.rounds();
    rig.rounds();
    rig.worker.round();
    let punted = rig.punted();
    assert_eq!(numbers(&punted), [1, 2, 3, 4]);
    let told: Vec<_> = punted.iter().map(|packet| (packet.reason, packet.event)).collect();
    assert_eq!(told[0], (PuntReason::HoldTimeout, PuntEvent::Lost));
    assert!(
        told[1..].iter().all(|told| *told == (PuntReason::Candidate, PuntEvent::Fingerprint)),
        "{told:?}"
    );
    assert_eq!(rig.state(connection.flows[0]), EntryState::Candidate);
    drop(punted);
    rig.finish();
}

/// What happens to one direction.
#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(u16),
    Round,
    /// The kernel takes what was punted.
    KernelTakes(usize),
    /// And forwards some of it.
    KernelSends(usize),
    /// Control moves the state.
    Hold,
    Settle,
    Probe,
    Demote,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..5_u16).prop_map(Step::Arrive),
        6 => Just(Step::Round),
        3 => (1..8_usize).prop_map(Step::KernelTakes),
        3 => (1..8_usize).prop_map(Step::KernelSends),
        2 => Just(Step::Hold),
        3 => Just(Step::Settle),
        1 => Just(Step::Probe),
        1 => Just(Step::Demote),
    ];
    prop::collection::vec(step, 1..150)
}

/// The way through the kernel, and control's part of the contract: a direction flies only when no packet of it
/// is on its way there.
struct Kernel {
    inside: VecDeque<u16>,
}

impl Kernel {
    fn take(&mut self, rig: &Rig, most: usize) {
        let packets = std::iter::from_fn(|| rig.link().rings.pop(PuntClass::Transit)).take(most);
        self.inside.extend(packets.map(|packet| number(packet.mbuf.data())));
    }

    fn send(&mut self, rig: &mut Rig, connection: &Connection, most: usize) {
        for _ in 0..most {
            let Some(number) = self.inside.pop_front() else { return };
            rig.kernel_sends(1, &forwarded(&connection.frame(number), connection));
        }
    }

    fn is_empty(&self, rig: &Rig) -> bool {
        self.inside.is_empty() && rig.link().rings.is_empty()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn order_is_kept_whatever_the_state_does(steps in steps()) {
        let mut rig = Rig::new();
        let connection = rig.connect(UDP, EntryState::Candidate);
        let flow = connection.flows[0];
        let (mut kernel, mut next) = (Kernel { inside: VecDeque::new() }, 0);
        let mut sent = Vec::new();
        for step in steps {
            let entry = |rig: &Rig, from, to| rig.link().table.entry(flow.slot).transition(from, to);
            match step {
                Step::Arrive(count) => {
                    let frames: Vec<Frame> = (next..next + count).map(|n| connection.frame(n)).collect();
                    rig.arrive(0, &frames);
                    next += count;
                }
                Step::Round => drop(rig.worker.round()),
                Step::KernelTakes(most) => kernel.take(&rig, most),
                Step::KernelSends(most) => kernel.send(&mut rig, &connection, most),
                Step::Hold => drop(entry(&rig, EntryState::Candidate, EntryState::Holding)),
                Step::Settle if kernel.is_empty(&rig) => {
                    entry(&rig, EntryState::Holding, EntryState::Software);
                }
                Step::Settle => {}
                Step::Probe => drop(entry(&rig, EntryState::Software, EntryState::Probing)),
                Step::Demote => {
                    for from in [EntryState::Software, EntryState::Probing, EntryState::Holding] {
                        entry(&rig, from, EntryState::Candidate);
                    }
                }
            }
            sent.extend(rig.numbers_sent(1));
        }
        // Everything comes out in the end.
        for _ in 0..4 {
            rig.rounds();
            rig.set_state(flow, EntryState::Candidate);
            rig.rounds();
            kernel.take(&rig, usize::MAX);
            kernel.send(&mut rig, &connection, usize::MAX);
            sent.extend(rig.numbers_sent(1));
        }
        rig.rounds();
        sent.extend(rig.numbers_sent(1));
        prop_assert_eq!(sent, (0..next).collect::<Vec<_>>());
        rig.finish();
    }
}
