//! Flyover's fast path: the worker's own code, fed by hand through net_ring ports.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dataplane::clock::Clock;
use dataplane::dpdk::{Burst, Eal, EalOptions, Hugepages, Mempool, Port, PortConfig, RxQueue, TxQueue};
use dataplane::flow::{
    AdjacencyTable, AdjacencyWriter, ContextTable, ContextWriter, Counter, Egress, EntryView, FlowRef,
    FlowTable, Key, Placement, TableConfig, TableWriter, WorkerCounters, flags,
};
use dataplane::hardware::{HardwareFlow, Lengths, Unfit};
use dataplane::packet::{DropReason, PuntReason};
use dataplane::punt::{KernelFrames, LocalAddresses, PuntClass, PuntRings};
use dataplane::worker::{Activity, BURST, Hot, IdlePolicy, PortFlags, Worker, WorkerLink, WorkerPort};

use super::OracleError;
use super::kernel::Opened;
use super::links::{Link, PORTS};

/// Room for the longest frame that is generated.
pub const DATA_ROOM: u16 = 16 << 10;
const BUFFERS: u32 = 2047;
const CONNECTIONS: usize = 4096;

/// What the fast path did with a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It left by a port.
    Flew {
        /// The port.
        port: u16,
        /// The bytes that left.
        frame: Vec<u8>,
    },
    /// It was given to the kernel.
    Punted {
        /// Why.
        reason: PuntReason,
        /// The bytes given to the kernel.
        frame: Vec<u8>,
    },
    /// It was dropped.
    Dropped(DropReason),
}

/// DPDK with its ports: what outlives a world.
#[derive(Debug)]
pub struct Ports {
    /// By port, first what feeds the worker, then what it sends by.
    rings: Vec<(Port, Port)>,
    pool: Mempool,
    clock: Clock,
    _eal: Eal,
}

impl Ports {
    /// Starts DPDK, once a process.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self, OracleError> {
        let options = EalOptions {
            hugepages: Hugepages::Off,
            memory_mb: Some(192),
            file_prefix: format!("flylab-oracle{}", std::process::id()),
            ..EalOptions::default()
        };
        let eal = Eal::init(&options)?;
        let pool = Mempool::packets("oracle", BUFFERS, DATA_ROOM, 256, None)?;
        let ring = |number: usize| -> Result<Port, OracleError> {
            let port = Port::attach(&format!("net_ring{number}"), None)?;
            port.configure(&PortConfig::new(&pool))?;
            port.start()?;
            Ok(port)
        };
        let rings = (0..PORTS).map(|port| Ok((ring(2 * port)?, ring(2 * port + 1)?)));
        let rings = rings.collect::<Result<_, OracleError>>()?;
        Ok(Self { rings, pool, clock: Clock::start(), _eal: eal })
    }
}

/// A worker with a flow table of its own, for one set of connections.
#[derive(Debug)]
pub struct FastPath {
    worker: Worker,
    rings: Arc<PuntRings>,
    counters: Arc<WorkerCounters>,
    table: Arc<FlowTable>,
    adjacencies: Arc<AdjacencyTable>,
    contexts: Arc<ContextTable>,
    feeds: Vec<TxQueue>,
    sinks: Vec<RxQueue>,
    pool: Mempool,
    flows: Vec<Option<[FlowRef; 2]>>,
    burst: Burst,
}

/// The writers of a worker's tables, which then stay as they are.
struct Writers {
    table: TableWriter,
    adjacencies: AdjacencyWriter,
    contexts: ContextWriter,
}

impl FastPath {
    /// A worker whose table holds these connections as the kernel has them.
    ///
    /// # Errors
    /// When there is no memory, or a port's queues are in use.
    pub fn new(ports: &Ports, connections: &[Opened]) -> Result<Self, OracleError> {
        let (table, table_writer) = FlowTable::create(TableConfig::new(CONNECTIONS))?;
        let placement = Placement::default();
        let (adjacencies, adjacency_writer) = AdjacencyTable::create(CONNECTIONS, table.qsbr(), placement)?;
        let (contexts, context_writer) = ContextTable::create(table.qsbr(), placement)?;
        let mut writers =
            Writers { table: table_writer, adjacencies: adjacency_writer, contexts: context_writer };
        let flows = connections.iter().map(|opened| writers.add(&table, opened)).collect();

        let (mut worker_ports, mut feeds, mut sinks) = (Vec::new(), Vec::new(), Vec::new());
        for (into, out) in &ports.rings {
            let ((mut into_rx, mut into_tx), (mut out_rx, mut out_tx)) =
                (into.take_queues()?, out.take_queues()?);
            let (Some(rx), Some(feed), Some(sink), Some(tx)) =
                (into_rx.pop(), into_tx.pop(), out_rx.pop(), out_tx.pop())
            else {
                return Err(OracleError::Queues);
            };
            worker_ports.push(WorkerPort { rx: Some(rx), tx, marks: false });
            feeds.push(feed);
            sinks.push(sink);
        }
        let local = LocalAddresses::default();
        let addresses = |link: Link| [IpAddr::V4(link.address4()), IpAddr::V6(link.address6())];
        local.set(Link::all().flat_map(addresses));
        let flags = PortFlags::default();
        let bridged = connections.iter().any(|opened| opened.bridged);
        (0..PORTS).for_each(|port| flags.set_bridged(port, bridged));
        let rings = PuntRings::new(4 * BURST, 4 * BURST);
        let counters = Arc::new(WorkerCounters::default());
        let link = WorkerLink {
            table: Arc::clone(&table),
            adjacencies: Arc::clone(&adjacencies),
            contexts: Arc::clone(&contexts),
            rings: Arc::clone(&rings),
            from_kernel: Arc::new(KernelFrames::new(1)),
            local: Arc::new(local),
            flags: Arc::new(flags),
            errands: Arc::default(),
            hot: Hot::default(),
            counters: Arc::clone(&counters),
            activity: Arc::new(Activity::default()),
            door: Arc::default(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let reader = table.qsbr().register()?;
        let worker = Worker::new(worker_ports, link, reader, ports.clock, IdlePolicy::default());
        let (pool, burst) = (ports.pool.clone(), Burst::new());
        Ok(Self { worker, rings, counters, table, adjacencies, contexts, feeds, sinks, pool, flows, burst })
    }

    /// Whether a connection is in the table; one whose tuple was there already is not.
    pub fn has(&self, connection: usize) -> bool {
        self.flows.get(connection).is_some_and(Option::is_some)
    }

    /// Puts both directions of a connection into the state that they are to be in before a packet.
    pub fn reset(&self, number: usize, opened: &Opened) {
        let flows = self.flows.get(number).copied().flatten();
        for slot in flows.into_iter().flatten().filter_map(|flow| self.table.resolve(flow)) {
            self.table.entry(slot).set_state(opened.connection.state);
        }
    }

    /// A direction of a connection as a NIC would get it; none if it is not in the table.
    pub fn hardware_flow(
        &self,
        connection: usize,
        way: usize,
        lengths: Lengths,
    ) -> Option<Result<HardwareFlow, Unfit>> {
        let flow = *self.flows.get(connection)?.as_ref()?.get(way)?;
        let entry = self.table.entry(self.table.resolve(flow)?);
        Some(HardwareFlow::derive(entry, &self.contexts, &self.adjacencies, lengths))
    }

    /// Takes frames through one round of the worker: what became of each, in the order that it happened.
    ///
    /// # Errors
    /// When the worker's counters disagree with what came out, or a frame is longer than a buffer.
    pub fn forward<'a>(
        &mut self,
        frames: impl IntoIterator<Item = (u16, &'a [u8])>,
    ) -> Result<Vec<Outcome>, OracleError> {
        let before = self.counts();
        let mut fed = 0;
        for (port, frame) in frames {
            let mut mbuf = self.pool.alloc().ok_or(OracleError::Buffers)?;
            if !mbuf.extend_from_slice(frame) {
                return Err(OracleError::TooLong(frame.len()));
            }
            let feed = self.feeds.get_mut(usize::from(port)).ok_or(OracleError::Queues)?;
            self.burst.extend([mbuf]);
            fed += feed.burst(&mut self.burst);
        }
        self.worker.round();

        let mut outcomes = self.gather();
        let after = self.counts();
        let dropped = DropReason::ALL.iter().enumerate().flat_map(|(index, reason)| {
            let count = after.dropped[index] - before.dropped[index];
            (0..count).map(|_| Outcome::Dropped(*reason))
        });
        let came_out = outcomes.len();
        outcomes.extend(dropped);
        let flew = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Flew { .. })).count();
        let counted = (after.fast - before.fast, after.punted - before.punted);
        if outcomes.len() != fed || counted != (flew as u64, (came_out - flew) as u64) {
            let counts = format!("{fed} in; {outcomes:?}; counted {counted:?} fast and punted");
            return Err(OracleError::Miscounted(counts));
        }
        Ok(outcomes)
    }

    /// What left by ports and what was punted.
    fn gather(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for (port, sink) in self.sinks.iter_mut().enumerate() {
            while sink.burst(&mut self.burst) > 0 {
                let flew = |frame: &[u8]| Outcome::Flew { port: port as u16, frame: frame.to_vec() };
                outcomes.extend(self.burst.drain().map(|mbuf| flew(mbuf.data())));
            }
        }
        for class in [PuntClass::Control, PuntClass::Transit] {
            while let Some(punted) = self.rings.pop(class) {
                let (reason, frame) = (punted.reason, punted.mbuf.data().to_vec());
                outcomes.push(Outcome::Punted { reason, frame });
            }
        }
        outcomes
    }

    fn counts(&self) -> Counts {
        let sum = |counters: &mut dyn Iterator<Item = &Counter>| counters.map(Counter::get).sum();
        Counts {
            fast: self.counters.fast().packets.get(),
            punted: sum(&mut PuntReason::ALL.iter().map(|reason| self.counters.punted(*reason))),
            dropped: DropReason::ALL.iter().map(|reason| self.counters.dropped(*reason).get()).collect(),
        }
    }
}

struct Counts {
    fast: u64,
    punted: u64,
    dropped: Vec<u64>,
}

impl Writers {
    /// Puts a connection in, both directions proved.
    fn add(&mut self, table: &FlowTable, opened: &Opened) -> Option<[FlowRef; 2]> {
        let [orig, reply] = opened.tuples.map(|tuple| Key::from_tuple(&tuple));
        let flows = self.table.insert_pair(&orig?, &reply?, 0).ok()?;
        for (way, flow) in flows.into_iter().enumerate() {
            let slot = table.resolve(flow)?;
            let (header, egress) = (&opened.headers[way], opened.egress[way]);
            let context = self.contexts.acquire(&opened.contexts[way]).ok()?;
            let egress_record = Egress {
                port: egress.port(),
                header: header.bytes().iter().copied().collect(),
                mtu: egress.mtu(),
                pppoe_length: header.pppoe_length_offset(),
                dscp: None,
            };
            let adjacency = self.adjacencies.acquire(&egress_record).ok()?;
            let longer = if opened.connection.refuse_longer { flags::REFUSE_LONGER } else { 0 };
            let flags = longer | if opened.bridged { flags::BRIDGED } else { 0 };
            self.table.set_forwarding(slot, context, adjacency, flags);
            self.table.set_proved_length(slot, opened.proved_length(way));
            table.entry(slot).set_state(opened.connection.state);
        }
        Some(flows)
    }
}
