//! The model NIC's knobs, its counters and ages, and its queues.

use super::*;
use crate::dpdk::flow_rule::{Completion, Count, FlowQueues, OpStatus, QueueLimits};
use crate::hardware::model::{Call, Counters, Latency, Stuck};
use nix::errno::Errno;

fn frame(port: u16) -> Frame {
    Frame::udp(&format!("10.0.0.2:{port}"), "192.0.2.9:53").payload(b"data")
}

fn carry(port: u16) -> crate::dpdk::flow_rule::FlowRule {
    let out = Frame::udp(&format!("192.0.2.1:{port}"), "192.0.2.9:53");
    let (flow, _) = flow(&frame(port), &out).expect("it can be carried");
    encode::carry(&flow, &form(Domain::Ingress, 0, Fields::Set), Ttl::Exact(64))
}

fn send(nic: &Nic, port: u16) -> Outcome {
    nic.process(IN, &mut frame(port).build())
}

const SENT: Outcome = Outcome::Sent(OUT);

#[test]
fn counts_and_ages() {
    let (nic, rules) = nic();
    nic.set_time(5_000);
    let rule = rules.create(&carry(1)).expect("the model takes it");
    assert_eq!(rules.age(rule).map(|age| (age.aged, age.idle_s)), Ok((false, Some(0))));
    nic.set_time(12_000);
    for _ in 0..3 {
        assert_eq!(send(&nic, 1), SENT);
    }
    let counted = Count { packets: Some(3), bytes: Some(3 * frame(1).build().len() as u64) };
    assert_eq!(rules.count(rule, false), Ok(counted));
    assert_eq!(rules.count(rule, true), Ok(counted));
    assert_eq!(rules.count(rule, false), Ok(Count { packets: Some(0), bytes: Some(0) }));
    nic.set_time(41_999);
    assert_eq!(rules.age(rule).map(|age| (age.aged, age.idle_s)), Ok((false, Some(29))));
    nic.set_time(42_000);
    assert_eq!(rules.age(rule).map(|age| (age.aged, age.idle_s)), Ok((true, Some(30))));
    nic.set(|knobs| knobs.counters = Counters::Lost);
    send(&nic, 1);
    assert_eq!(rules.count(rule, false), Ok(Count { packets: Some(0), bytes: Some(0) }));
    nic.set(|knobs| knobs.counters = Counters::Missing);
    assert_eq!(rules.count(rule, false), Ok(Count::default()));
    assert_eq!(rules.age(rule).map(|age| age.idle_s), Ok(None));
}

#[test]
fn calls_are_refused() {
    let (nic, mut rules) = nic();
    let rule = rules.create(&carry(1)).expect("the model takes it");
    let calls = [Call::Validate, Call::Create, Call::Destroy, Call::Query, Call::Flush, Call::Configure];
    nic.set(|knobs| knobs.refusals = calls.map(|call| (call, Errno::EBUSY)).into());
    let queues = FlowQueues { queues: 1, depth: 8, rules: 8 };
    for refused in [
        rules.validate(&carry(2)).err(),
        rules.create(&carry(2)).err(),
        rules.destroy(rule).err(),
        rules.count(rule, false).err(),
        rules.age(rule).err(),
        rules.flush().err(),
        rules.configure(&queues).err(),
    ] {
        assert_eq!(refused.map(|error| error.errno), Some(Errno::EBUSY));
    }
    assert_eq!(send(&nic, 1), SENT);
    // One that lies when it is asked beforehand.
    nic.set(|knobs| (knobs.refusals, knobs.validates_anything, knobs.priorities) = (Vec::new(), true, 0));
    assert_eq!(rules.validate(&carry(2)), Ok(()));
    assert!(rules.create(&carry(2)).is_err());
}

#[test]
fn rules_that_do_not_go() {
    let (nic, rules) = nic_with(Knobs { stuck: Stuck::Refuses, ..Knobs::default() });
    let rule = rules.create(&carry(1)).expect("the model takes it");
    assert_eq!(rules.destroy(rule).map_err(|error| error.errno), Err(Errno::EIO));
    assert_eq!((send(&nic, 1), nic.rules()), (SENT, 1));
    nic.set(|knobs| knobs.stuck = Stuck::Lies);
    assert_eq!(rules.destroy(rule), Ok(()));
    assert_eq!((send(&nic, 1), nic.rules()), (SENT, 1), "it said that the rule went");
    assert!(rules.count(rule, false).is_err(), "and knows nothing of it");
}

#[test]
fn checksums_go_wrong() {
    let (nic, rules) = nic_with(Knobs { wrong_checksum: true, ..Knobs::default() });
    rules.create(&carry(1)).expect("the model takes it");
    let mut packet = frame(1).build();
    assert_eq!(nic.process(IN, &mut packet), SENT);
    assert!(!l4_checksum_is_right(&packet));
}

#[test]
fn rules_take_their_time() {
    let latency = Latency { millis: 20, packets: 0 };
    let (nic, rules) = nic_with(Knobs { latency, ..Knobs::default() });
    rules.create(&carry(1)).expect("the model takes it");
    assert_eq!(send(&nic, 1), TO_SOFTWARE);
    nic.set_time(19);
    assert_eq!(send(&nic, 1), TO_SOFTWARE);
    nic.set_time(20);
    assert_eq!(send(&nic, 1), SENT);
    nic.set(|knobs| knobs.latency = Latency { millis: 0, packets: 2 });
    rules.create(&carry(2)).expect("the model takes it");
    assert_eq!([send(&nic, 2), send(&nic, 2), send(&nic, 2)], [TO_SOFTWARE, SENT, SENT]);
}

fn pull(rules: &FlowRules, most: usize) -> Vec<Completion> {
    let mut ended = Vec::new();
    rules.pull(0, most, &mut ended).expect("there is the queue");
    ended
}

fn tokens(ended: &[Completion]) -> Vec<u64> {
    assert!(ended.iter().all(|completion| completion.status == OpStatus::Done), "{ended:?}");
    ended.iter().map(|completion| completion.token).collect()
}

#[test]
fn queues_complete_later() {
    let latency = Latency { millis: 5, packets: 0 };
    let (nic, mut rules) = nic_with(Knobs { latency, ..Knobs::default() });
    rules.configure(&FlowQueues { queues: 1, depth: 3, rules: 64 }).expect("the model has queues");
    let ids: Vec<_> =
        (1..=3).map(|n| rules.enqueue_create(0, &carry(n), n.into()).expect("there is room")).collect();
    assert_eq!(rules.enqueue_create(0, &carry(4), 4).map_err(|error| error.errno), Err(Errno::EAGAIN));
    assert!(rules.enqueue_create(1, &carry(4), 4).is_err(), "no such queue");
    nic.set_time(100);
    assert!(pull(&rules, 8).is_empty(), "nothing was pushed");
    rules.push(0).expect("there is the queue");
    assert_eq!((send(&nic, 1), pull(&rules, 8)), (TO_SOFTWARE, Vec::new()));
    let early = rules.enqueue_destroy(0, ids[0], 9).map_err(|error| error.errno);
    assert_eq!(early, Err(Errno::EAGAIN), "the queue is full");
    nic.set_time(105);
    assert_eq!(send(&nic, 1), SENT);
    assert_eq!(tokens(&pull(&rules, 2)), [1, 2]);
    let early = rules.enqueue_destroy(0, ids[2], 9).map_err(|error| error.errno);
    assert_eq!(early, Err(Errno::EBUSY), "its making has not been told");
    assert_eq!(tokens(&pull(&rules, 8)), [3]);
    rules.enqueue_destroy(0, ids[0], 10).expect("there is room");
    rules.push(0).expect("there is the queue");
    nic.set_time(110);
    assert_eq!(send(&nic, 1), SENT, "until that is told");
    assert_eq!(tokens(&pull(&rules, 8)), [10]);
    assert_eq!((send(&nic, 1), nic.rules()), (TO_SOFTWARE, 2));
}

#[test]
fn queues_complete_out_of_order_and_with_errors() {
    let (nic, mut rules) = nic_with(Knobs { out_of_order: true, ..Knobs::default() });
    rules.configure(&FlowQueues { queues: 1, depth: 64, rules: 64 }).expect("the model has queues");
    for n in 1..=6 {
        rules.enqueue_create(0, &carry(n), n.into()).expect("there is room");
    }
    rules.push(0).expect("there is the queue");
    let ended = tokens(&pull(&rules, 64));
    let mut sorted = ended.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 2, 3, 4, 5, 6]);
    assert_ne!(ended, sorted);

    nic.set(|knobs| knobs.refusals = vec![(Call::Complete, Errno::EIO)]);
    let id = rules.enqueue_create(0, &carry(7), 7).expect("there is room");
    rules.push(0).expect("there is the queue");
    assert_eq!(send(&nic, 7), TO_SOFTWARE);
    let ended = pull(&rules, 8);
    assert!(matches!(&ended[..], [Completion { token: 7, status: OpStatus::Refused(_) }]), "{ended:?}");
    assert_eq!((rules.destroy(id).is_err(), nic.rules()), (true, 6));
    // A rule that does not go.
    nic.set(|knobs| (knobs.refusals, knobs.stuck) = (Vec::new(), Stuck::Refuses));
    let id = rules.enqueue_create(0, &carry(8), 8).expect("there is room");
    rules.push(0).expect("there is the queue");
    assert_eq!(tokens(&pull(&rules, 8)), [8]);
    rules.enqueue_destroy(0, id, 9).expect("there is room");
    rules.push(0).expect("there is the queue");
    assert!(matches!(pull(&rules, 8)[..], [Completion { token: 9, status: OpStatus::Refused(_) }]));
    assert_eq!(send(&nic, 8), SENT);
}

#[test]
fn without_queues_operations_end_at_once() {
    let (nic, mut rules) = nic_with(Knobs { has_queues: false, ..Knobs::default() });
    let queues = FlowQueues { queues: 1, depth: 4, rules: 64 };
    assert_eq!(rules.configure(&queues).map_err(|error| error.errno), Err(Errno::ENOSYS));
    let id = rules.enqueue_create(0, &carry(1), 1).expect("the model takes it");
    rules.push(0).expect("nothing to do");
    assert_eq!((send(&nic, 1), tokens(&pull(&rules, 8))), (SENT, vec![1]));
    rules.enqueue_destroy(0, id, 2).expect("the model takes it");
    assert_eq!((send(&nic, 1), tokens(&pull(&rules, 8))), (TO_SOFTWARE, vec![2]));
}

#[test]
fn calls_that_wait_go_through_a_queue_where_there_is_no_other_way() {
    let (nic, mut rules) = nic_with(Knobs { queues_alone: true, ..Knobs::default() });
    rules.configure(&FlowQueues { queues: 2, depth: 4, rules: 64 }).expect("the model has queues");
    let id = rules.create(&carry(1)).expect("it waits");
    assert_eq!((send(&nic, 1), pull(&rules, 8).len()), (SENT, 0), "the other queue knows nothing of it");
    assert_eq!(rules.held(), [id.number()]);
    rules.destroy(id).expect("it waits");
    assert_eq!((send(&nic, 1), rules.held()), (TO_SOFTWARE, vec![]));
    let again = rules.destroy(id).map_err(|error| error.errno);
    assert_eq!(again, Err(Errno::ENOENT));
    // What else ends meanwhile is not lost, where there is but one queue.
    let (nic, mut rules) = nic_with(Knobs { queues_alone: true, ..Knobs::default() });
    rules.configure(&FlowQueues { queues: 1, depth: 4, rules: 64 }).expect("the model has queues");
    rules.enqueue_create(0, &carry(1), 1).expect("there is room");
    rules.create(&carry(2)).expect("it waits");
    assert_eq!(tokens(&pull(&rules, 8)), [1]);
    // A NIC that does not answer holds nobody up for ever.
    nic.set(|knobs| knobs.latency = Latency { millis: 1, packets: 0 });
    assert_eq!(rules.create(&carry(3)).map_err(|error| error.errno), Err(Errno::ETIMEDOUT));
    nic.set(|knobs| knobs.refusals = vec![(Call::Enqueue, Errno::ENOTSUP)]);
    assert_eq!(rules.create(&carry(4)).map_err(|error| error.errno), Err(Errno::EOPNOTSUPP));
}

#[test]
fn rules_go_as_they_came() {
    let (nic, mut rules) = nic();
    let before = rules.create(&carry(1)).expect("the model takes it");
    rules.configure(&FlowQueues { queues: 1, depth: 4, rules: 64 }).expect("the model has queues");
    let through = rules.enqueue_create(0, &carry(2), 2).expect("there is room");
    rules.push(0).expect("there is the queue");
    assert_eq!(tokens(&pull(&rules, 8)), [2]);
    // Whoever does not know how it came is helped.
    rules.enqueue_destroy(0, before, 3).expect("it goes at once");
    rules.destroy(through).expect("it waits");
    assert_eq!((tokens(&pull(&rules, 8)), nic.rules()), (vec![3], 0));
    // The driver itself is not that kind.
    let engine = Arc::clone(&nic) as Arc<dyn FlowEngine>;
    let rule = rules.create(&carry(1)).expect("the model takes it");
    assert!(engine.enqueue_destroy(IN, 0, rule.number(), 4).is_err());
    let rule = rules.enqueue_create(0, &carry(2), 5).expect("there is room");
    assert!(engine.destroy(IN, rule.number()).is_err());
    assert_eq!((rules.flush(), nic.rules(), pull(&rules, 8).len()), (Ok(()), 0, 0));
}

#[test]
fn what_is_lost_is_not_there() {
    let (nic, rules) = nic();
    let rule = rules.create(&carry(1)).expect("the model takes it");
    nic.lose(rule.number());
    assert_eq!((send(&nic, 1), nic.rules()), (TO_SOFTWARE, 0));
    assert_eq!(rules.count(rule, false).map_err(|error| error.errno), Err(Errno::ENOENT));
    rules.create(&carry(1)).expect("there is room for it again");
}

#[test]
fn queues_are_as_many_as_there_are() {
    let wanted = FlowQueues { queues: 2, depth: 512, rules: 1 << 20 };
    let limits = |queues, depth, counters| QueueLimits { queues, depth, counters };
    assert_eq!(wanted.within(&limits(u32::MAX, u32::MAX, 0)), Some(wanted));
    let less = FlowQueues { queues: 1, depth: 64, rules: 1000 };
    assert_eq!(wanted.within(&limits(1, 64, 1000)), Some(less));
    assert_eq!(wanted.within(&limits(0, 64, 1000)), None);
    let (_, rules) = nic_with(Knobs { has_queues: false, ..Knobs::default() });
    assert!(rules.queue_limits().is_err());
}
