//! Errands between rounds: ports that come and go, and other settings.

use std::time::Duration;

use super::*;
use crate::flow::UDP;

fn run(rig: &mut Rig, errand: Errand) {
    rig.link().errands.push(errand).expect("room");
    assert!(rig.link().errands.calls().errands);
    rig.worker.run_errands();
    assert!(!rig.link().errands.calls().errands);
}

#[test]
fn a_port_that_goes_is_polled_no_more_and_the_others_carry_on() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    rig.arrive(0, &[connection.frame(1)]);
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [1]);
    run(&mut rig, Errand::LetGo(1));
    // What leaves by it is lost, and counted.
    rig.arrive(0, &[connection.frame(2)]);
    rig.arrive(1, &[connection.answer(3)]);
    rig.rounds();
    assert_eq!(rig.dropped(DropReason::TxQueueFull), 1);
    assert!(rig.sent(0).is_empty() && rig.sent(1).is_empty());
    // One that never was does no harm.
    run(&mut rig, Errand::LetGo(7));
    rig.set_state(connection.flows[0], EntryState::Candidate);
    rig.arrive(0, &[connection.frame(4)]);
    rig.rounds();
    assert_eq!(numbers(&rig.punted()), [4]);
    // The frame that nobody fetched lies on the wire.
    drop(receive(&mut rig.out[1]));
}

/// The queues of port 1, which is none any more.
fn queues_of_the_second(rig: &mut Rig, marks: bool) -> WorkerPort {
    let PortState { rx, tx, .. } = std::mem::take(&mut rig.worker.carrier.ports[1]);
    WorkerPort { rx, tx: tx.expect("a port"), marks }
}

#[test]
fn a_port_that_comes_is_polled_under_its_number() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let queues = queues_of_the_second(&mut rig, false);
    run(&mut rig, Errand::Take(3, queues));
    // By the wire that was port 1's: it is another ingress than the proved one.
    rig.arrive(1, &[connection.answer(5)]);
    rig.rounds();
    let punted = rig.punted();
    let seen: Vec<_> = punted.iter().map(|packet| (packet.ingress.port(), packet.reason)).collect();
    assert_eq!(seen, [(3, PuntReason::IngressContext)]);
    drop(punted);
    rig.kernel_sends(3, &connection.frame(6));
    rig.kernel_sends(2, &connection.frame(7));
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [6]);
    assert_eq!(rig.dropped(DropReason::TxQueueFull), 1, "there is no port 2");
    let has: Vec<bool> = rig.worker.carrier.ports.iter().map(|port| port.tx.is_some()).collect();
    assert_eq!(has, [true, false, false, true]);
}

#[test]
fn there_are_only_so_many_ports() {
    let mut rig = Rig::new();
    let queues = queues_of_the_second(&mut rig, false);
    run(&mut rig, Errand::Take(MAX_PORTS, queues));
    assert_eq!(rig.worker.carrier.ports.len(), 2);
}

#[test]
fn counts_by_port_begin_anew_with_another_port() {
    let mut rig = Rig::new();
    rig.link().counters.marked(2).expect("a port").found.add(9);
    let queues = queues_of_the_second(&mut rig, true);
    run(&mut rig, Errand::Take(2, queues));
    assert_eq!(rig.link().counters.marked(2).expect("a port").found.get(), 0);
    assert!(rig.worker.carrier.ports[2].marks);
}

#[test]
fn settings_change_between_rounds() {
    let mut rig = Rig::new();
    let hot = Hot::every(1);
    run(&mut rig, Errand::Tell(hot.of_worker(5)));
    let connection = rig.connect(UDP, EntryState::Software);
    rig.arrive(0, &[connection.frame(1)]);
    rig.rounds();
    assert_eq!(hot.pop().map(|told| (told.flow, told.worker)), Some((connection.flows[0], 5)));
    run(&mut rig, Errand::Rest(IdlePolicy { longest: Duration::ZERO }));
    assert_eq!(rig.worker.idle.nothing_to_do(&Clock::start()), None);
    drop(receive(&mut rig.out[1]));
}

#[test]
fn no_more_waits_than_there_is_room_for() {
    let errands = Errands::default();
    let mut taken = 0;
    while errands.push(Errand::LetGo(taken)).is_ok() {
        taken += 1;
    }
    assert!(taken > 2 * MAX_PORTS);
    let done: Vec<usize> = std::iter::from_fn(|| errands.pop())
        .map(|errand| if let Errand::LetGo(port) = errand { port } else { panic!("{errand:?}") })
        .collect();
    assert_eq!(done, (0..taken).collect::<Vec<_>>());
}
