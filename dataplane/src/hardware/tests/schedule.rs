//! The scheduler by itself, and before the model NIC with faults.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use proptest::collection::vec;

use super::*;
use crate::dpdk::flow_rule::{ErrorKind, FlowError, FlowId, FlowQueues, OpStatus};
use crate::hardware::model::{Call, Latency, Stuck};
use crate::hardware::scheduler::{Numbers, Order, Policy, Scheduler, Whereabouts};

fn policy() -> Policy {
    Policy { residence: 1_000, capacity: 4, ..Policy::default() }
}

/// A scheduler, and directions with steady rates.
struct Bench {
    scheduler: Scheduler<u32>,
    packets: BTreeMap<u32, u64>,
    now: u64,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        Self { scheduler: Scheduler::new(policy), packets: BTreeMap::new(), now: 0 }
    }

    /// Time passes while directions have packets at these rates.
    fn pass(&mut self, millis: u64, rates: &[(u32, u64)]) {
        for (name, _) in rates {
            let packets = *self.packets.entry(*name).or_default();
            self.scheduler.counted(*name, packets, self.now);
        }
        self.now += millis;
        for (name, rate) in rates {
            let packets = self.packets.entry(*name).or_default();
            *packets += rate * millis / 1000;
            self.scheduler.counted(*name, *packets, self.now);
        }
    }

    fn poll(&mut self) -> Vec<Order<u32>> {
        self.scheduler.poll(self.now)
    }

    /// Carries out all orders; gives who went in and who came out.
    fn obey(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut went_in, mut came_out) = (Vec::new(), Vec::new());
        for order in self.poll() {
            match order {
                Order::Create(name) => {
                    went_in.push(name);
                    self.scheduler.created(name, Ok(()), self.now);
                }
                Order::Destroy(name) => {
                    came_out.push(name);
                    self.scheduler.destroyed(name, Ok(()), self.now);
                }
            }
        }
        (went_in, came_out)
    }
}

fn error(errno: Errno) -> FlowError {
    FlowError::new(ErrorKind::Handle, errno, "no")
}

#[test]
fn the_busiest_go_in_and_the_idle_come_out() {
    let mut bench = Bench::new(policy());
    bench.pass(100, &[(1, 999), (2, 5_000), (3, 2_000), (4, 90_000)]);
    assert_eq!(bench.obey(), (vec![4, 2, 3], vec![]), "one is not hot");
    assert_eq!(bench.scheduler.whereabouts(1), Whereabouts::Software);
    assert_eq!(bench.scheduler.whereabouts(4), Whereabouts::Hardware);
    // Between cold and hot nothing happens.
    bench.pass(5_000, &[(2, 300), (3, 5_000), (4, 90_000)]);
    assert_eq!(bench.obey(), (vec![], vec![]));
    for _ in 0..8 {
        bench.pass(1_000, &[(2, 20), (3, 5_000), (4, 90_000)]);
    }
    assert_eq!(bench.obey(), (vec![], vec![2]));
    assert_eq!(bench.scheduler.whereabouts(2), Whereabouts::Software);
}

#[test]
fn the_least_useful_gives_way_to_who_is_clearly_better() {
    let mut bench = Bench::new(policy());
    let full = [(1, 2_000), (2, 3_000), (3, 4_000), (4, 5_000)];
    bench.pass(100, &full);
    assert_eq!(bench.obey().0, [4, 3, 2, 1]);
    // Too young to go.
    bench.pass(500, &[&full[..], &[(5, 9_000)]].concat());
    assert_eq!(bench.obey(), (vec![], vec![]));
    bench.pass(1_000, &[&full[..], &[(5, 9_000), (6, 2_900)]].concat());
    assert_eq!(bench.obey(), (vec![], vec![1]));
    assert_eq!(bench.obey(), (vec![5], vec![]));
    // Not better than the second by half.
    bench.pass(5_000, &[&full[1..], &[(5, 9_000), (6, 4_400)]].concat());
    assert_eq!(bench.obey(), (vec![], vec![]));
    assert_eq!(bench.scheduler.whereabouts(6), Whereabouts::Waiting);
}

#[test]
fn capacity_is_learnt_and_tried_again() {
    let mut bench = Bench::new(Policy { capacity: 100, ..policy() });
    let rates: Vec<(u32, u64)> = (0..10).map(|name| (name, 10_000 + u64::from(name))).collect();
    bench.pass(100, &rates);
    // The NIC has room for six.
    let mut there = 0;
    for order in bench.poll() {
        let Order::Create(name) = order else { panic!("nothing is there to go") };
        there += 1;
        let outcome = if there > 6 { Err(error(Errno::ENOSPC)) } else { Ok(()) };
        bench.scheduler.created(name, outcome, bench.now);
    }
    let numbers = Numbers { waiting: 4, hardware: 6, capacity: 6, ..Numbers::default() };
    assert_eq!(bench.scheduler.numbers(), numbers);
    bench.pass(1_000, &rates);
    assert_eq!(bench.poll(), []);
    bench.pass(9_500, &rates);
    assert_eq!(bench.obey().0.len(), 1, "one more is tried");
}

#[test]
fn who_is_refused_is_put_off_longer_each_time() {
    let mut bench = Bench::new(policy());
    let mut waits = Vec::new();
    for _ in 0..12 {
        bench.pass(100, &[(1, 5_000)]);
        let tried = (0..4_000).any(|_| {
            bench.pass(100, &[(1, 5_000)]);
            bench.poll() == [Order::Create(1)]
        });
        assert!(tried, "never again");
        bench.scheduler.created(1, Err(error(Errno::ENOTSUP)), bench.now);
        let Whereabouts::PutOff(until, why) = bench.scheduler.whereabouts(1) else { panic!("put off") };
        assert_eq!(why.errno, Errno::ENOTSUP);
        waits.push(until - bench.now);
    }
    assert_eq!(waits[..4], [1_000, 2_000, 4_000, 8_000]);
    assert_eq!(waits[9..], [300_000; 3]);
    // Who leaves meanwhile is free at once.
    assert!(bench.scheduler.leave(1));
    assert_eq!(bench.scheduler.numbers(), Numbers { capacity: 4, ..Numbers::default() });
}

#[test]
fn who_leaves_is_free_when_the_rule_is_gone() {
    let mut bench = Bench::new(policy());
    bench.pass(100, &[(1, 5_000), (2, 6_000), (3, 10)]);
    assert!(bench.scheduler.leave(3));
    assert!(bench.scheduler.leave(77), "never heard of");
    assert_eq!(bench.poll(), [Order::Create(2), Order::Create(1)]);
    // On its way in: it has to get there first.
    assert!(!bench.scheduler.leave(1));
    assert!(!bench.scheduler.leave(2));
    assert_eq!(bench.poll(), []);
    bench.scheduler.created(1, Err(error(Errno::EIO)), bench.now);
    assert_eq!(bench.scheduler.freed(), [1]);
    bench.scheduler.created(2, Ok(()), bench.now);
    assert_eq!(bench.poll(), [Order::Destroy(2)]);
    assert!(bench.scheduler.freed().is_empty());
    // It does not go: again, later and later, but not much later, since its packets go by it.
    for wait in [1_000, 2_000, 4_000, 4_000, 4_000] {
        bench.scheduler.destroyed(2, Err(error(Errno::EIO)), bench.now);
        assert!(matches!(bench.scheduler.whereabouts(2), Whereabouts::ComingOut(Some(_))));
        bench.now += wait - 1;
        assert_eq!(bench.poll(), []);
        bench.now += 1;
        assert_eq!(bench.poll(), [Order::Destroy(2)]);
    }
    bench.scheduler.destroyed(2, Ok(()), bench.now);
    assert_eq!((bench.scheduler.freed(), bench.scheduler.freed()), (vec![2], vec![]));
}

#[test]
fn budget_and_orders_under_way_are_bounded() {
    let mut bench = Bench::new(Policy { budget: 10, in_flight: 4, capacity: 1_000, ..policy() });
    let rates: Vec<(u32, u64)> = (0..100).map(|name| (name, 5_000)).collect();
    bench.pass(100, &rates);
    let orders = bench.poll();
    assert_eq!(orders.len(), 4);
    assert!(bench.poll().is_empty());
    for order in orders {
        let Order::Create(name) = order else { panic!("nothing is there to go") };
        bench.scheduler.created(name, Ok(()), bench.now);
    }
    assert_eq!([bench.obey().0.len(), bench.obey().0.len(), bench.obey().0.len()], [4, 2, 0]);
    bench.pass(300, &rates);
    assert_eq!(bench.obey().0.len(), 3);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut bench = Bench::new(Policy { waiting: 8, ..policy() });
    for name in 0..1_000 {
        bench.pass(60, &[(name, 5_000 + u64::from(name))]);
        let numbers = bench.scheduler.numbers();
        assert!(numbers.waiting <= 8, "{numbers:?}");
    }
    // The busiest were kept, until nothing more was heard of them.
    assert_eq!(bench.scheduler.whereabouts(999), Whereabouts::Waiting);
    bench.now += 4_000;
    assert_eq!(bench.poll(), []);
    assert_eq!(bench.scheduler.numbers().waiting, 0);
    for name in 2_000..2_100 {
        bench.pass(60, &[(name, 1)]);
    }
    assert_eq!(bench.scheduler.whereabouts(2_050), Whereabouts::Software);
}

#[test]
fn a_port_that_stops_loses_all_rules() {
    let mut bench = Bench::new(policy());
    bench.pass(100, &[(1, 5_000), (2, 6_000)]);
    bench.obey();
    assert!(!bench.scheduler.leave(1));
    bench.scheduler.lost_all();
    assert_eq!(bench.scheduler.freed(), [1]);
    bench.pass(100, &[(2, 6_000)]);
    assert_eq!(bench.obey(), (vec![2], vec![]));
}

/// What happens to scheduler and NIC.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A direction has had so many packets.
    Packets(u32, u64),
    Leave(u32),
    Pass(u64),
    Knob(Fault),
    Poll,
    Stop,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Full,
    RefusesCreate,
    RefusesDestroy,
    FailsToComplete,
    Stuck,
    Slow,
    OutOfOrder,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let names = 0u32..12;
    let faults = select(vec![
        Fault::None,
        Fault::Full,
        Fault::RefusesCreate,
        Fault::RefusesDestroy,
        Fault::FailsToComplete,
        Fault::Stuck,
        Fault::Slow,
        Fault::OutOfOrder,
    ]);
    let event = prop_oneof![
        8 => (names.clone(), prop_oneof![0u64..50, 0u64..50_000]).prop_map(|(n, p)| Event::Packets(n, p)),
        2 => names.prop_map(Event::Leave),
        4 => prop_oneof![1u64..200, 500u64..3_000].prop_map(Event::Pass),
        1 => faults.prop_map(Event::Knob),
        6 => Just(Event::Poll),
        1 => Just(Event::Stop),
    ];
    vec(event, 1..120)
}

/// Scheduler and NIC together, as control is to drive them.
struct Whole {
    scheduler: Scheduler<u32>,
    nic: Arc<Nic>,
    rules: FlowRules,
    ids: BTreeMap<u32, FlowId>,
    orders: BTreeMap<u64, (u32, bool)>,
    last: u64,
    packets: BTreeMap<u32, u64>,
    /// Directions that are on their way out: nobody else may use their tuple.
    leaving: BTreeSet<u32>,
    now: u64,
}

fn frame_of(name: u32) -> Frame {
    Frame::udp(&format!("10.0.0.2:{}", 1000 + name), "192.0.2.9:53")
}

fn rule_of(name: u32) -> crate::dpdk::flow_rule::FlowRule {
    let (flow, _) = flow(&frame_of(name), &frame_of(name)).expect("it can be carried");
    encode::carry(&flow, &form(Domain::Ingress, 0, Fields::Set), Ttl::Exact(64))
}

impl Whole {
    fn new(has_queues: bool) -> Self {
        let (nic, mut rules) = nic_with(Knobs { has_queues, ..Knobs::default() });
        let queues = FlowQueues { queues: 1, depth: 64, rules: 64 };
        assert_eq!(rules.configure(&queues).is_ok(), has_queues);
        let policy = Policy { capacity: 6, residence: 500, in_flight: 3, budget: 50, ..Policy::default() };
        Self {
            scheduler: Scheduler::new(policy),
            nic,
            rules,
            ids: BTreeMap::new(),
            orders: BTreeMap::new(),
            last: 0,
            packets: BTreeMap::new(),
            leaving: BTreeSet::new(),
            now: 0,
        }
    }

    fn set(&self, fault: Fault) {
        self.nic.set(|knobs| {
            let has_queues = knobs.has_queues;
            *knobs = Knobs { has_queues, ..Knobs::default() };
            match fault {
                Fault::None => {}
                Fault::Full => knobs.capacity = 2,
                Fault::RefusesCreate => knobs.refusals = vec![(Call::Create, Errno::ENOTSUP)],
                Fault::RefusesDestroy => knobs.refusals = vec![(Call::Destroy, Errno::EBUSY)],
                Fault::FailsToComplete => knobs.refusals = vec![(Call::Complete, Errno::EIO)],
                Fault::Stuck => knobs.stuck = Stuck::Refuses,
                Fault::Slow => knobs.latency = Latency { millis: 300, packets: 0 },
                Fault::OutOfOrder => knobs.out_of_order = true,
            }
        });
    }

    fn poll(&mut self) {
        for order in self.scheduler.poll(self.now) {
            self.last += 1;
            let token = self.last;
            match order {
                Order::Create(name) => match self.rules.enqueue_create(0, &rule_of(name), token) {
                    Ok(id) => {
                        assert!(self.ids.insert(name, id).is_none(), "{name} has a rule");
                        self.orders.insert(token, (name, true));
                    }
                    Err(error) => self.scheduler.created(name, Err(error), self.now),
                },
                Order::Destroy(name) => {
                    let id = *self.ids.get(&name).expect("there is a rule");
                    match self.rules.enqueue_destroy(0, id, token) {
                        Ok(()) => drop(self.orders.insert(token, (name, false))),
                        Err(error) => self.scheduler.destroyed(name, Err(error), self.now),
                    }
                }
            }
        }
        assert!(self.orders.len() <= 3, "{:?}", self.orders);
        self.rules.push(0).expect("there is the queue");
        let mut ended = Vec::new();
        self.rules.pull(0, 64, &mut ended).expect("there is the queue");
        for completion in ended {
            let (name, created) = self.orders.remove(&completion.token).expect("an order");
            let outcome = match completion.status {
                OpStatus::Done => Ok(()),
                OpStatus::Refused(error) => Err(error),
            };
            if created != outcome.is_ok() {
                self.ids.remove(&name);
            }
            if created {
                self.scheduler.created(name, outcome, self.now);
            } else {
                self.scheduler.destroyed(name, outcome, self.now);
            }
        }
        for name in self.scheduler.freed() {
            assert!(self.leaving.remove(&name), "{name} was not to leave");
            self.see_that_it_is_free(name);
        }
    }

    /// The whole point: no packet of it is carried.
    fn see_that_it_is_free(&self, name: u32) {
        assert!(!self.ids.contains_key(&name));
        assert_eq!(self.nic.process(IN, &mut frame_of(name).build()), TO_SOFTWARE, "{name}");
    }

    fn happen(&mut self, event: Event) {
        match event {
            // Who is on its way out is not heard of.
            Event::Packets(name, more) if !self.leaving.contains(&name) => {
                let packets = self.packets.entry(name).or_default();
                *packets += more;
                self.scheduler.counted(name, *packets, self.now);
            }
            Event::Packets(..) => {}
            Event::Leave(name) if self.scheduler.leave(name) => self.see_that_it_is_free(name),
            Event::Leave(name) => drop(self.leaving.insert(name)),
            Event::Pass(millis) => {
                self.now += millis;
                self.nic.set_time(self.now);
            }
            Event::Knob(fault) => self.set(fault),
            Event::Poll => self.poll(),
            // Not while an order is under way.
            Event::Stop if self.orders.is_empty() && self.rules.flush().is_ok() => {
                self.ids.clear();
                self.scheduler.lost_all();
                for name in self.scheduler.freed() {
                    assert!(self.leaving.remove(&name));
                    self.see_that_it_is_free(name);
                }
            }
            Event::Stop => {}
        }
        let numbers = self.scheduler.numbers();
        let rules = self.ids.len();
        assert_eq!(self.nic.rules(), rules, "{numbers:?}");
        let known = numbers.hardware + numbers.going_in + numbers.coming_out;
        assert_eq!(known, rules, "a rule without its direction, or the other way round");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_no_rule_is_left_without_its_direction(events in events(), has_queues: bool) {
        let mut whole = Whole::new(has_queues);
        for event in events {
            whole.happen(event);
        }
        // In the end all leave, and the NIC is well again.
        whole.set(Fault::None);
        for name in 0..12 {
            whole.happen(Event::Leave(name));
        }
        for _ in 0..2_000 {
            whole.happen(Event::Pass(500));
            whole.happen(Event::Poll);
        }
        prop_assert!(whole.leaving.is_empty(), "{:?}", whole.scheduler.numbers());
        prop_assert_eq!(whole.nic.rules(), 0);
        for name in 0..12 {
            whole.see_that_it_is_free(name);
        }
    }
}
