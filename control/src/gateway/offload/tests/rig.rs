//! Directions that are made hot, moved and ended by hand, before a model NIC.

use std::collections::HashSet;
use std::sync::atomic::AtomicU32;

use dataplane::dpdk::flow_rule::{FlowEngine, FlowQueues, FlowRules};
use dataplane::dpdk::hairpin::{self, HairpinPort};
use dataplane::flow::{FiveTuple, Placement, TableConfig, UDP};
use dataplane::hardware::model::Knobs;
use dataplane::hardware::scheduler::Policy;
use dataplane::packet::{Ingress, L2Header};
use dataplane::punt::Proof;

use super::super::port::Site;
use super::super::*;
use super::{GATEWAY, HOT, PORTS};
use crate::gateway::plane::FlowPlane;
use crate::tracker::Plane;

pub(super) fn tuples(number: u8) -> [Key; 2] {
    let ip = |text: &str| text.parse().expect("address");
    let (inside, outside, seen) = (ip("10.0.0.2"), ip("192.0.2.9"), ip("192.0.2.1"));
    let sport = 4000 + u16::from(number);
    let orig = FiveTuple { proto: UDP, src: inside, dst: outside, sport, dport: 80 };
    let reply = FiveTuple { proto: UDP, src: outside, dst: seen, sport: 80, dport: sport };
    [orig, reply].map(|tuple| Key::from_tuple(&tuple).expect("one family"))
}

/// Rules one by one, and through queues.
pub(in crate::gateway::offload) const WAYS: [bool; 2] = [false, true];

pub(in crate::gateway::offload) struct Rig {
    pub(in crate::gateway::offload) plane: FlowPlane,
    pub(in crate::gateway::offload) nic: Arc<Nic>,
    pub(super) guards: usize,
    pub(in crate::gateway::offload) flows: HashMap<u8, [FlowRef; 2]>,
    pub(super) now: u64,
    /// Rules that the NIC was made to forget.
    pub(super) lost: HashSet<(usize, u64)>,
    /// That packets come in with.
    pub(super) ttl: u8,
}

impl Rig {
    pub(super) fn new(by_queue: bool) -> Self {
        Self::with(by_queue, Knobs::default())
    }

    pub(super) fn with(by_queue: bool, knobs: Knobs) -> Self {
        let Knobs { queues_alone, groups, hairpin, lengths, .. } = knobs;
        Self::probed(by_queue, Knobs { queues_alone, groups, hairpin, lengths, ..Knobs::default() }, knobs)
    }

    /// Before a NIC that behaved otherwise when it was probed.
    pub(in crate::gateway::offload) fn probed(by_queue: bool, at_start: Knobs, knobs: Knobs) -> Self {
        let nic = Nic::new(&PORTS, 1, at_start);
        let between = PORTS.map(|id| HairpinPort { id, rx_queues: 1, tx_queues: 1 });
        let hairpins = hairpin::set_up(&*nic, &between).unwrap_or_default();
        let policy = Policy { hot: HOT, residence: 0, retry: 100, retry_most: 200, ..Policy::default() };
        let port = |id: u16| {
            let mut rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, id);
            if by_queue {
                let queues = FlowQueues { queues: 2, depth: 8, rules: 64 };
                rules.configure(&queues).expect("the model has queues");
            }
            let hairpins = hairpins.get(usize::from(id)).cloned().unwrap_or_default();
            let site = Site { mac: GATEWAY, egress: 1 - id, queues: vec![0], hairpins };
            let found = site.probe(id, &rules).run(&mut &*nic);
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

    pub(in crate::gateway::offload) fn insert(&mut self, number: u8) -> bool {
        let [orig, reply] = tuples(number);
        match self.plane.insert(&orig, &reply, number.into()) {
            Ok(flows) => self.flows.insert(number, flows).is_none(),
            Err(_) => false,
        }
    }

    pub(in crate::gateway::offload) fn remove(&mut self, number: u8) {
        if let Some(flows) = self.flows.remove(&number) {
            self.plane.remove(flows);
        }
    }

    /// The kernel has forwarded the longest packet that can come.
    pub(in crate::gateway::offload) fn prove(&mut self, number: u8, dir: usize) {
        self.prove_by(number, dir, dir as u16);
    }

    /// It came in by this port.
    pub(in crate::gateway::offload) fn prove_by(&mut self, number: u8, dir: usize, port: u16) {
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
    pub(in crate::gateway::offload) fn heat(&mut self, number: u8, dir: usize) {
        for _ in 0..2 {
            self.count(number, dir);
            self.pass(200);
        }
    }

    /// The same, but no time passes.
    pub(super) fn count(&mut self, number: u8, dir: usize) {
        let Some(flow) = self.flows.get(&number).map(|flows| flows[dir]) else { return };
        if let Some(slot) = self.plane.table.resolve(flow) {
            for _ in 0..HOT {
                self.plane.table.entry(slot).count(100, self.now as u32);
            }
        }
        self.plane.offload.consider(Told { flow, ttl: self.ttl, worker: 0 });
    }

    pub(in crate::gateway::offload) fn pass(&mut self, millis: u64) {
        self.now += millis;
        self.plane.offload.tick(self.now);
        self.plane.reclaim();
    }

    pub(in crate::gateway::offload) fn rules(&self) -> usize {
        self.nic.rules() - self.guards
    }

    pub(super) fn flies(&self, flow: FlowRef) -> bool {
        self.plane.table.resolve(flow).is_some() && self.plane.state(flow) == EntryState::Software
    }

    /// Rules that the NIC has are known, and those of directions that do not fly are on their way out.
    pub(super) fn check(&self) {
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
    pub(super) fn carried(&self) -> usize {
        let offload = &self.plane.offload;
        let carried =
            |flows: &&[FlowRef; 2]| flows.iter().any(|flow| offload.has(*flow) && offload.carries(*flow));
        self.flows.values().filter(carried).count()
    }
}

/// A packet of the original direction.
pub(in crate::gateway::offload) fn frame_of(number: u8) -> Vec<u8> {
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
