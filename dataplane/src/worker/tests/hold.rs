//! The queue of packets that wait.

use super::*;
use crate::flow::UDP;
use crate::worker::hold::{CAPACITY, Held, HoldQueue};

fn held(bench: &Bench, flow: FlowRef, number: u16) -> Held {
    let mbuf = bench.packet(&number.to_be_bytes());
    let headers = Headers { key: Key::V4(Key4::default()), outline: Outline::default() };
    Held { flow, since: 0, mbuf, headers, verdict: Verdict::Hold, slot: Some(flow.slot) }
}

fn flow(bits: u32) -> FlowRef {
    FlowRef { slot: Slot::from_bits(bits).expect("not 0"), generation: 0 }
}

#[test]
fn order_and_capacity() {
    let (bench, mut queue) = (Bench::new(), HoldQueue::default());
    assert!(queue.is_empty() && queue.pop().is_none());
    for number in 0..CAPACITY as u16 {
        assert!(queue.push(held(&bench, flow(1 + u32::from(number) % 3), number)).is_ok());
    }
    let back = queue.push(held(&bench, flow(1), 9999)).expect_err("full");
    assert_eq!(number(back.mbuf.data()), 9999, "what found no room comes back");
    assert_eq!(queue.len(), CAPACITY);
    let mut seen = Vec::new();
    queue.decide(|held| {
        seen.push(number(held.mbuf.data()));
        (Verdict::Fly, held.slot)
    });
    assert!(seen.into_iter().eq(0..CAPACITY as u16), "decided on in the order of their coming");
    let popped = std::iter::from_fn(|| queue.pop()).map(|held| number(held.mbuf.data()));
    assert!(popped.eq(0..CAPACITY as u16));
    drop(back);
    assert_eq!(bench.in_use(), 0);
}

#[test]
fn a_direction_is_concerned_as_long_as_one_of_its_packets_waits() {
    let (bench, mut queue) = (Bench::new(), HoldQueue::default());
    assert!(!queue.concerns(flow(1).slot));
    for (bits, number) in [(1, 0), (2, 1), (1, 2)] {
        assert!(queue.push(held(&bench, flow(bits), number)).is_ok());
    }
    let concerned = |queue: &HoldQueue| [1, 2, 3].map(|bits| queue.concerns(flow(bits).slot));
    assert_eq!(concerned(&queue), [true, true, false]);
    drop(queue.pop());
    assert_eq!(concerned(&queue), [true, true, false]);
    drop(queue.pop());
    assert_eq!(concerned(&queue), [true, false, false]);
    drop(queue.pop());
    assert_eq!(concerned(&queue), [false; 3]);
    assert_eq!(bench.in_use(), 0);
}

/// Control moves a direction's state while the worker decides on its packets.
#[test]
fn where_one_waits_all_behind_it_wait() {
    let (bench, mut queue) = (Bench::new(), HoldQueue::default());
    // The second hashes like the first, wherever that is.
    let (moved, other) = (flow(1), flow(1 + 256));
    for (flow, number) in [(moved, 0), (other, 1), (moved, 2), (other, 3), (moved, 4)] {
        assert!(queue.push(held(&bench, flow, number)).is_ok());
    }
    let mut asked = Vec::new();
    queue.decide(|held| {
        let number = number(held.mbuf.data());
        asked.push(number);
        (if number == 0 { Verdict::Hold } else { Verdict::Fly }, held.slot)
    });
    assert_eq!(asked, [0, 1, 3], "it waits already: its state is not looked at again");
    let verdicts = |queue: &mut HoldQueue| -> Vec<_> {
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        popped.iter().map(|held| held.verdict == Verdict::Fly).collect()
    };
    assert_eq!(verdicts(&mut queue), [false, true, false, true, false]);

    // The same of packets that have just come.
    queue.decide(|_| unreachable!("none waits"));
    assert_eq!(queue.decide_new(moved.slot, || Verdict::Fly), Verdict::Fly);
    assert_eq!(queue.decide_new(moved.slot, || Verdict::Hold), Verdict::Hold);
    assert_eq!(queue.decide_new(moved.slot, || Verdict::Fly), Verdict::Hold);
    assert_eq!(queue.decide_new(other.slot, || Verdict::Fly), Verdict::Fly);
    queue.decide(|_| unreachable!("none waits"));
    assert_eq!(queue.decide_new(moved.slot, || Verdict::Fly), Verdict::Fly, "decided anew in each round");
    assert_eq!(bench.in_use(), 0);
}

#[test]
fn what_waits_goes_with_the_worker() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    rig.arrive(0, &[connection.frame(1)]);
    rig.rounds();
    assert_eq!((rig.worker.carrier.held.len(), rig.bench.in_use()), (1, 1));
    rig.finish();
}
