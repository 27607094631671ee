//! The flow table's writes, and what becomes of rules by them, before a model NIC with faults.

mod audit;
mod queues;

use std::collections::HashSet;
use std::sync::atomic::AtomicU32;

use dataplane::dpdk::flow_rule::{FlowEngine, FlowQueues, FlowRules};
use dataplane::flow::{FiveTuple, Placement, TableConfig, UDP};
use dataplane::hardware::model::{Call, Knobs, Latency, Outcome, Stuck};
use dataplane::hardware::probe::Probe;
use dataplane::hardware::scheduler::Policy;
use dataplane::packet::{Ingress, L2Header};
use dataplane::punt::Proof;
use proptest::prelude::*;
use proptest::sample::select;

use super::counts::COUNT_EVERY;
use super::port::Site;
use super::*;
use crate::gateway::plane::FlowPlane;
use crate::tracker::Plane;

const PORTS: [u16; 2] = [0, 1];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOT: u64 = 1000;
const TO_SOFTWARE: Outcome = Outcome::Software { mark: None, queue: None };

fn tuples(number: u8) -> [Key; 2] {
    let ip = |text: &str| text.parse().expect("address");
    let (inside, outside, seen) = (ip("10.0.0.2"), ip("192.0.2.9"), ip("192.0.2.1"));
    let sport = 4000 + u16::from(number);
    let orig = FiveTuple { proto: UDP, src: inside, dst: outside, sport, dport: 80 };
    let reply = FiveTuple { proto: UDP, src: outside, dst: seen, sport: 80, dport: sport };
    [orig, reply].map(|tuple| Key::from_tuple(&tuple).expect("one family"))
}

/// Rules one by one, and through queues.
pub(super) const WAYS: [bool; 2] = [false, true];

pub(super) struct Rig {
    pub(super) plane: FlowPlane,
    pub(super) nic: Arc<Nic>,
    guards: usize,
    pub(super) flows: HashMap<u8, [FlowRef; 2]>,
    now: u64,
    /// Rules that the NIC was made to forget.
    lost: HashSet<(usize, u64)>,
    /// That packets come in with.
    ttl: u8,
}

impl Rig {
    fn new(by_queue: bool) -> Self {
        Self::with(by_queue, Knobs::default())
    }

    fn with(by_queue: bool, knobs: Knobs) -> Self {
        let Knobs { queues_alone, groups, .. } = knobs;
        Self::probed(by_queue, Knobs { queues_alone, groups, ..Knobs::default() }, knobs)
    }

    /// Before a NIC that behaved otherwise when it was probed.
    pub(super) fn probed(by_queue: bool, at_start: Knobs, knobs: Knobs) -> Self {
        let nic = Nic::new(&PORTS, 1, at_start);
        let policy = Policy { hot: HOT, residence: 0, retry: 100, retry_most: 200, ..Policy::default() };
        let port = |id: u16| {
            let mut rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, id);
            if by_queue {
                let queues = FlowQueues { queues: 2, depth: 8, rules: 64 };
                rules.configure(&queues).expect("the model has queues");
            }
            let probe = Probe { rules: &rules, port: id, mac: GATEWAY, egress: 1 - id, queues: vec![0] };
            let found = probe.run(&mut &*nic);
            let site = Site { mac: GATEWAY, egress: 1 - id, queues: vec![0] };
            PortRules::new(id, rules, found, policy).at(site)
        };
        let hardware =
            Hardware { ports: PORTS.map(port).into(), hot: Hot::default(), model: Some(Arc::clone(&nic)) };
        let placement = Placement::default();
        let (table, writer) = FlowTable::create(TableConfig::new(64)).expect("memory");
        let (adjacency_table, adjacencies) =
            AdjacencyTable::create(64, table.qsbr(), placement).expect("memory");
        let (context_table, contexts) = ContextTable::create(table.qsbr(), placement).expect("memory");
        let mut offload = Offload::new(hardware, (&table, &context_table, &adjacency_table));
        offload.set_patience(Duration::from_micros(100), Duration::from_millis(1));
        let lengths = PortLengths { may_come: 1500, may_leave_by: HashMap::new() };
        offload.set_lengths(vec![lengths.clone(), lengths]);
        let guards = nic.rules();
        nic.set(|now| *now = knobs);
        let epoch = Arc::new(AtomicU32::new(1));
        let plane = FlowPlane {
            table,
            writer,
            adjacencies,
            contexts,
            adjacency_table,
            context_table,
            epoch,
            offload,
            export: None,
        };
        Self { plane, nic, guards, flows: HashMap::new(), now: 1, lost: HashSet::new(), ttl: 64 }
    }

    pub(super) fn insert(&mut self, number: u8) -> bool {
        let [orig, reply] = tuples(number);
        match self.plane.insert(&orig, &reply, number.into()) {
            Ok(flows) => self.flows.insert(number, flows).is_none(),
            Err(_) => false,
        }
    }

    pub(super) fn remove(&mut self, number: u8) {
        if let Some(flows) = self.flows.remove(&number) {
            self.plane.remove(flows);
        }
    }

    /// The kernel has forwarded the longest packet that can come.
    pub(super) fn prove(&mut self, number: u8, dir: usize) {
        self.prove_by(number, dir, dir as u16);
    }

    /// It came in by this port.
    pub(super) fn prove_by(&mut self, number: u8, dir: usize, port: u16) {
        let Some(flow) = self.flows.get(&number).map(|flows| flows[dir]) else { return };
        let mut frame = [0_u8; 60];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        let proof = Proof {
            flow,
            ingress: Ingress::untagged(port, GATEWAY),
            egress_port: 1 - port,
            l2: L2Header::learn(&frame).expect("an IPv4 frame"),
            l3_len: 1500,
            overtook: 0,
            decrements_ttl: true,
            epoch: 1,
        };
        self.plane.forward(&proof);
        self.plane.set_length(flow, 1500, false);
        self.plane.set_state(flow, EntryState::Software);
    }

    /// Workers carry so many packets that the direction is hot, and tell of it.
    pub(super) fn heat(&mut self, number: u8, dir: usize) {
        for _ in 0..2 {
            self.count(number, dir);
            self.pass(200);
        }
    }

    /// The same, but no time passes.
    fn count(&mut self, number: u8, dir: usize) {
        let Some(flow) = self.flows.get(&number).map(|flows| flows[dir]) else { return };
        if let Some(slot) = self.plane.table.resolve(flow) {
            for _ in 0..HOT {
                self.plane.table.entry(slot).count(100, self.now as u32);
            }
        }
        self.plane.offload.consider(Told { flow, ttl: self.ttl, worker: 0 });
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now += millis;
        self.plane.offload.tick(self.now);
        self.plane.reclaim();
    }

    pub(super) fn rules(&self) -> usize {
        self.nic.rules() - self.guards
    }

    fn flies(&self, flow: FlowRef) -> bool {
        self.plane.table.resolve(flow).is_some() && self.plane.state(flow) == EntryState::Software
    }

    /// Rules that the NIC has are known, and those of directions that do not fly are on their way out.
    fn check(&self) {
        let offload = &self.plane.offload;
        let with_rule = offload.placed.values().filter(|placed| placed.rule.is_some());
        let known: HashSet<(usize, u64)> =
            with_rule.clone().filter_map(|placed| Some((placed.port, placed.rule?.number()))).collect();
        let mut held = HashSet::new();
        for (index, port) in offload.ports.iter().enumerate() {
            let guards = port.guards().iter().map(|guard| guard.number());
            held.extend(port.rules().expect("it carries").held().into_iter().map(|number| (index, number)));
            guards.for_each(|guard| assert!(held.remove(&(index, guard))));
        }
        assert_eq!(held.len(), self.rules());
        let strange: Vec<_> = held.difference(&known).collect();
        assert!(strange.is_empty(), "{strange:?} {:?}", offload.placed);
        let missing = known.difference(&held).find(|missing| !self.lost.contains(missing));
        assert_eq!(missing, None, "{:?}", offload.placed);
        for placed in with_rule {
            let port = &offload.ports[placed.port];
            let by_queue = placed.rule.is_some_and(FlowId::is_queued);
            let leaving = match port.scheduler.whereabouts(name(placed.flow)) {
                Whereabouts::ComingOut(error) => error.is_some() || by_queue,
                // Out as soon as it is in.
                Whereabouts::GoingIn => !port.under_way.is_empty(),
                _ => false,
            };
            // One whose direction is over goes with the next orders.
            let is_over = offload.haunted.contains_key(&placed.key);
            assert!(self.flies(placed.flow) || leaving || is_over, "{placed:?}");
            let counted = offload.to_count.iter().filter(|(_, _, rule)| placed.rule == Some(*rule));
            assert_eq!(counted.count(), usize::from(placed.is_in), "{placed:?}");
        }
        let counts = |placed: &&Placed| placed.counts;
        assert_eq!(offload.carried(), offload.placed.values().filter(counts).count() as u64);
    }

    /// Connections that NICs carry, by looking at all.
    fn carried(&self) -> usize {
        let offload = &self.plane.offload;
        let carried =
            |flows: &&[FlowRef; 2]| flows.iter().any(|flow| offload.has(*flow) && offload.carries(*flow));
        self.flows.values().filter(carried).count()
    }
}

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
        let mut rig = Rig::new(by_queue);
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

/// A packet of the original direction.
pub(super) fn frame_of(number: u8) -> Vec<u8> {
    let mut frame = vec![0; 14 + 28];
    frame[..6].copy_from_slice(&GATEWAY);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[14..];
    ip[..4].copy_from_slice(&[0x45, 0, 0, 28]);
    ip[8..10].copy_from_slice(&[64, 17]);
    ip[12..20].copy_from_slice(&[10, 0, 0, 2, 192, 0, 2, 9]);
    let sum =
        ip[..20].chunks(2).fold(0_u32, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    ip[20..22].copy_from_slice(&(4000 + u16::from(number)).to_be_bytes());
    ip[22..26].copy_from_slice(&[0, 80, 0, 8]);
    frame
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
