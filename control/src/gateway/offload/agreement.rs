//! The tracker, the real flow table and what goes into NICs, together, in the tracker's model world: a model kernel
//! and model NICs, with faults in between and in the NIC.

use std::sync::atomic::{AtomicU32, Ordering};

use dataplane::dpdk::flow_rule::{FlowEngine, FlowQueues, FlowRules};
use dataplane::flow::{FiveTuple, Placement, TableConfig, UDP};
use dataplane::hardware::encode;
use dataplane::hardware::model::{Call, Counters, Knobs, Latency, Outcome, Stuck};
use dataplane::hardware::probe::Probe;
use dataplane::hardware::scheduler::Policy as Hotness;
use dataplane::packet::parse;
use dataplane::packet::testing::Frame;
use proptest::prelude::*;

use super::*;
use crate::gateway::plane::FlowPlane;
use crate::tracker::agreement::air::{Air, ByNic};
use crate::tracker::agreement::kernel::{Direction, HOSTS, Kernel, Kind, Sent, orig, replies};
use crate::tracker::agreement::world::World;
use crate::tracker::agreement::{Step, histories, step};
use crate::tracker::{Millis, Plane, Policy, Timing};

const PORTS: [u16; 2] = [0, 1];
/// Of every proof in the world.
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Packets a second that make a direction hot.
const HOT: u64 = 20;
/// Packets after which a worker tells.
const TELL: u64 = 8;
/// The longest packet that comes in: that of the world's proofs.
const LONGEST: u16 = 100;
const ROOM: usize = 64;
/// How often counters of rules are read, and a bit.
const READ_EVERY: Millis = 600;

/// A NIC as it was when the process died, and a process that begins.
fn plane_on(nic: &Arc<Nic>) -> FlowPlane {
    let hotness = Hotness { hot: HOT, cold: HOT / 10, retry: 500, retry_most: 2_000, ..Hotness::default() };
    let port = |id: u16| {
        let mut rules = FlowRules::of_engine(Arc::clone(nic) as Arc<dyn FlowEngine>, id);
        rules.flush().expect("what was left behind goes");
        // One port with queues, one without.
        if id == PORTS[0] {
            let queues = FlowQueues { queues: 2, depth: 4, rules: 64 };
            rules.configure(&queues).expect("the model has queues");
        }
        let (queues, hairpins) = (vec![0], Vec::new());
        let probe = Probe { rules: &rules, port: id, mac: GATEWAY, egress: 1 - id, queues, hairpins };
        let found = probe.run(&mut &**nic);
        PortRules::new(id, rules, found, hotness)
    };
    let hardware =
        Hardware { ports: PORTS.map(port).into(), hot: Hot::default(), model: Some(Arc::clone(nic)) };
    let (table, writer) = FlowTable::create(TableConfig::new(ROOM)).expect("memory");
    let placement = Placement::default();
    let (adjacency_table, adjacencies) =
        AdjacencyTable::create(ROOM, table.qsbr(), placement).expect("memory");
    let (context_table, contexts) = ContextTable::create(table.qsbr(), placement).expect("memory");
    let mut offload = Offload::new(hardware, (&table, &context_table, &adjacency_table));
    offload.set_patience(Duration::from_micros(100), Duration::from_millis(1));
    let lengths = PortLengths { may_come: LONGEST, may_leave_by: HashMap::new() };
    offload.set_lengths(vec![lengths.clone(), lengths]);
    let epoch = Arc::new(AtomicU32::new(0));
    FlowPlane {
        table,
        writer,
        adjacencies,
        contexts,
        adjacency_table,
        context_table,
        epoch,
        offload,
        export: None,
    }
}

impl FlowPlane {
    fn model(&self) -> &Arc<Nic> {
        self.offload.model.as_ref().expect("a model")
    }

    fn fault(&self, change: impl FnOnce(&mut Knobs)) {
        self.model().set(|knobs| {
            *knobs = Knobs::default();
            change(knobs);
        });
    }

    /// Rules of flows in the NIC.
    fn rules(&self) -> usize {
        self.model().rules() - self.guards()
    }

    /// Whether the NIC tells how many packets a direction had.
    fn counts(&self, flow: FlowRef) -> bool {
        let placed = self.offload.placed.get(&name(flow));
        let count = placed.and_then(|placed| {
            let rules = self.offload.ports.get(placed.port)?.rules().ok()?;
            rules.count(placed.rule?, false).ok()
        });
        count.is_some_and(|count| count.packets.is_some())
    }

    fn guards(&self) -> usize {
        let forms = self.offload.ports.iter().filter_map(|port| port.capabilities.form.as_ref());
        forms.map(|form| encode::guards(form, 0).len()).sum()
    }
}

/// The packet as it comes in.
fn frame(tuple: &FiveTuple, kind: Kind) -> Vec<u8> {
    let mut frame = Frame::of(*tuple);
    (frame.dst_mac, frame.ttl) = (GATEWAY, 64);
    frame.tcp.flags = match kind {
        Kind::Data => 0x10,
        Kind::Syn => 0x02,
        Kind::Fin => 0x11,
        Kind::Rst => 0x04,
    };
    frame.build()
}

impl Air for FlowPlane {
    const KNOWN_LATE: Millis = READ_EVERY;

    fn new(_: Option<usize>) -> Self {
        plane_on(&Nic::new(&PORTS, 1, Knobs::default()))
    }

    fn restart(&mut self, _: Option<usize>) {
        let nic = Arc::clone(self.model());
        // What dies removes no rule.
        std::mem::take(&mut self.offload.ports).into_iter().for_each(std::mem::forget);
        nic.set(|knobs| *knobs = Knobs::default());
        *self = plane_on(&nic);
        assert_eq!(self.rules(), 0, "a rule of a process that died");
    }

    fn find(&self, key: &Key) -> Option<FlowRef> {
        self.flow(key)
    }

    fn flows(&self) -> Vec<FlowRef> {
        // The world's connections are few.
        let tuples = (0..HOSTS).flat_map(|host| replies(host).chain([orig(host)]));
        tuples.filter_map(|tuple| self.flow(&Key::from_tuple(&tuple)?)).collect()
    }

    fn nic(&mut self, direction: Direction, tuple: &FiveTuple, kind: Kind) -> ByNic {
        // In the world a stream of datagrams has an end that workers see.
        if tuple.proto == UDP && kind != Kind::Data {
            return ByNic::Software;
        }
        let before = frame(tuple, kind);
        let mut packet = before.clone();
        match self.model().process(direction as u16, &mut packet) {
            Outcome::Software { mark: None, queue: None } => {
                assert_eq!(packet, before);
                ByNic::Software
            }
            Outcome::Sent(port) => {
                let key = Key::from_tuple(tuple).expect("one family");
                let stays = |flow| self.offload.why_not(flow).is_some_and(|why| why.starts_with("still in"));
                let is_known = self.flow(&key).is_some_and(stays);
                if self.offload.haunted.contains_key(&key) || is_known {
                    return ByNic::Astray;
                }
                let headers = parse(&packet, port).expect("a packet that can be read");
                let way = packet[5] - 10;
                assert_eq!(u16::from(way & 1), port, "by another port than its next hop's");
                let sent = Sent { tuple: headers.key.tuple(), way };
                ByNic::Sent { sent, counted: self.flow(&key).is_some_and(|flow| self.counts(flow)) }
            }
            other => panic!("{other:?}"),
        }
    }

    fn flew(&mut self, flow: FlowRef, now: Millis) {
        let Some(slot) = self.table.resolve(flow) else { return };
        let entry = self.table.entry(slot);
        entry.count(60, now as u32);
        if entry.packets().is_multiple_of(TELL) {
            self.offload.consider(Told { flow, ttl: 64, worker: 0 });
        }
    }

    fn worker_sets(&mut self, flow: FlowRef, state: EntryState) {
        if let Some(slot) = self.table.resolve(flow) {
            self.table.entry(slot).set_state(state);
        }
    }

    fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    fn pass(&mut self, now: Millis) {
        self.offload.tick(now);
        for flow in self.offload.due_for_audit(now) {
            self.offload.look(flow, true, now);
        }
        self.reclaim();
    }

    /// Every rule in the NIC has its direction, or is known to be stuck; and those that fly not leave it.
    fn check(&self) {
        let placed = || self.offload.placed.values().filter(|placed| placed.rule.is_some());
        assert_eq!(placed().count(), self.rules(), "{:?}", self.offload.placed);
        for placed in placed() {
            let known = self.table.resolve(placed.flow).is_some();
            let stays = self.offload.why_not(placed.flow).is_some_and(|why| why.starts_with("still in"));
            let state = self.state(placed.flow);
            let flies = known && matches!(state, EntryState::Software | EntryState::Closing);
            assert!(flies || stays, "a rule of what is {state:?}: {placed:?}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Stuck,
    Full(usize),
    Refuses(Call),
    Slow(u64),
    OutOfOrder,
    NoCounts,
}

#[derive(Clone, Debug)]
enum Event {
    World(Step),
    Nic(Fault),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let fault = prop_oneof![
        2 => Just(Fault::None),
        1 => Just(Fault::Stuck),
        1 => (0..4_usize).prop_map(Fault::Full),
        1 => Just(Fault::Refuses(Call::Create)),
        1 => Just(Fault::Refuses(Call::Destroy)),
        1 => Just(Fault::Refuses(Call::Query)),
        1 => (0..500_u64).prop_map(Fault::Slow),
        1 => Just(Fault::Refuses(Call::Complete)),
        1 => Just(Fault::Refuses(Call::Enqueue)),
        1 => Just(Fault::OutOfOrder),
        1 => Just(Fault::NoCounts),
    ];
    let event = prop_oneof![5 => step().prop_map(Event::World), 1 => fault.prop_map(Event::Nic)];
    prop::collection::vec(event, 1..60)
}

fn happens(world: &mut World<FlowPlane>, event: &Event) {
    match *event {
        Event::World(step) => world.step(step),
        Event::Nic(fault) => {
            let guards = world.plane.guards();
            world.plane.fault(|knobs| match fault {
                Fault::None => {}
                Fault::Stuck => knobs.stuck = Stuck::Refuses,
                Fault::Full(room) => knobs.capacity = guards + room,
                Fault::Refuses(call) => knobs.refusals = vec![(call, Errno::EIO)],
                Fault::Slow(millis) => knobs.latency = Latency { millis, packets: 0 },
                Fault::OutOfOrder => knobs.out_of_order = true,
                Fault::NoCounts => knobs.counters = Counters::Missing,
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(histories()))]

    /// Whatever kernel, flows and NIC do: no packet is forwarded otherwise than the kernel would have it for longer than
    /// is promised, no rule is without its flow, and in the end all agree.
    #[test]
    fn kernel_tracker_table_and_nic_agree(seed in any::<u64>(), events in events()) {
        let mut world = World::<FlowPlane>::new(seed, Policy::Established, None);
        for event in events {
            happens(&mut world, &event);
        }
        world.plane.fault(|_| {});
        world.settle_down();
        // What was put off because of faults is over.
        world.pass(5_000);
        prop_assert!(world.plane.offload.haunted.is_empty());
        for placed in world.plane.offload.placed.values() {
            let state = world.plane.state(placed.flow);
            prop_assert!(placed.rule.is_none() || state == EntryState::Software, "{:?} is {:?}", placed, state);
        }
    }
}

/// A world in which nothing but the NIC's counters tells that flows live.
fn never_proved_again() -> World<FlowPlane> {
    let mut world = World::new(1, Policy::Established, None);
    let hours = 10_000_000;
    world.set_timing(Timing { reprove_every: hours, ..Kernel::timing() });
    (0..HOSTS).for_each(|host| world.open(host));
    // Long enough for UDP to be a stream, and to get hot.
    world.traffic(u8::MAX, true, 20, 10_000);
    world
}

#[test]
fn what_the_nic_carries_for_longer_than_any_timeout_lives() {
    let mut world = never_proved_again();
    assert_eq!(world.plane.rules(), 2 * HOSTS);
    let ids = |world: &World<FlowPlane>| -> Vec<u32> {
        world.kernel.entries.iter().map(|entry| entry.id).collect()
    };
    let (before, by_nic, by_workers) = (ids(&world), world.by_nic, world.flown);
    assert_eq!(before.len(), HOSTS);
    // A quarter of an hour: longer than the kernel's timeouts, and than the one that flying entries are given.
    let time = 900_000;
    assert!(time / 1000 > u64::from(Kernel::timing().hold));
    world.traffic(u8::MAX, true, 40, time);
    assert_eq!(ids(&world), before, "an entry ended, and another took its place");
    assert_eq!(world.by_nic - by_nic, 2 * HOSTS as u64 * time / 40, "all of it by the NIC");
    assert_eq!(world.flown, by_workers);
    // What falls silent ends when it would have ended in the kernel alone, which the kernel asserts.
    world.pass(200_000);
    assert!(world.kernel.entries.is_empty() && world.plane.rules() == 0);
    world.settle_down();
}

#[test]
fn flows_in_the_nic_are_proved_again_like_others() {
    let mut world = World::<FlowPlane>::new(1, Policy::Established, None);
    (0..HOSTS).for_each(|host| world.open(host));
    world.traffic(u8::MAX, true, 20, 600_000);
    let packets = 600_000 / 20 * 2 * HOSTS as u64;
    assert!(world.by_nic > packets * 8 / 10, "{} of {packets} by the NIC", world.by_nic);
    assert_eq!(world.kernel.entries.len(), HOSTS);
    world.settle_down();
}

#[test]
fn a_stream_that_nobody_answers_lives_in_the_nic() {
    let mut world = never_proved_again();
    let ids: Vec<u32> = world.kernel.entries.iter().map(|entry| entry.id).collect();
    world.traffic(u8::MAX, false, 40, 700_000);
    assert_eq!(world.kernel.entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
    world.settle_down();
}

#[test]
fn a_process_that_dies_leaves_no_rule_to_the_next() {
    let mut world = never_proved_again();
    for _ in 0..3 {
        assert_eq!(world.plane.rules(), 2 * HOSTS);
        world.restart();
        assert_eq!(world.plane.rules(), 0);
        world.traffic(u8::MAX, true, 20, 10_000);
    }
    world.settle_down();
}
