//! A gateway without its control side: a worker of the real code between two net_null ports, and a table whose flows
//! fly already.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrayvec::ArrayVec;
use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalOptions, Mempool, Port, PortConfig, RxQueue, TxQueue};
use dataplane::flow::{
    AdjacencyId, AdjacencyTable, AdjacencyWriter, ContextTable, ContextWriter, Egress, EntryState, EntryView,
    FlowRef, FlowTable, Placement, Slot, TableConfig, TableWriter, WorkerCounters,
};
use dataplane::packet::Ingress;
use dataplane::punt::{KernelFrames, LocalAddresses, PuntClass, PuntRings};
use dataplane::worker::{Activity, Hot, IdlePolicy, Worker, WorkerLink, WorkerPort};

use crate::error::Error;
use crate::flows::{Family, Flows};
use crate::source::MAC;

/// Next hops on the clients' side.
const NEIGHBOURS: u32 = 64;
const QUEUES: u16 = 256;
const RING: usize = 4096;

/// The two ports, 0 towards the clients and 1 towards the world, and their unused queues.
#[derive(Debug)]
pub struct Ports {
    _eal: Eal,
    _ports: Vec<Port>,
    rx: [Vec<RxQueue>; 2],
    tx: [Vec<TxQueue>; 2],
}

/// One receive and one transmit queue of each port.
pub type QueuePairs = [(RxQueue, TxQueue); 2];

impl Ports {
    /// Starts DPDK with two net_null ports.
    pub fn start(options: &EalOptions) -> Result<Self, Error> {
        let eal = Eal::init(options)?;
        let pool = Mempool::packets("bench", 16_383, 2048, 256, None)?;
        let (mut ports, mut rx, mut tx) = (Vec::new(), Vec::new(), Vec::new());
        for name in ["net_null0,size=60", "net_null1,size=60"] {
            let port = Port::attach(name, None)?;
            let mut config = PortConfig::new(&pool);
            (config.rx_queues, config.tx_queues, config.rss) = (QUEUES, QUEUES, false);
            port.configure(&config)?;
            port.start()?;
            let (receive, transmit) = port.take_queues()?;
            rx.push(receive);
            tx.push(transmit);
            ports.push(port);
        }
        let mut both = rx.into_iter();
        let rx = [both.next().unwrap_or_default(), both.next().unwrap_or_default()];
        let mut both = tx.into_iter();
        let tx = [both.next().unwrap_or_default(), both.next().unwrap_or_default()];
        Ok(Self { _eal: eal, _ports: ports, rx, tx })
    }

    /// Queues that nobody has used.
    pub fn queues(&mut self) -> Result<QueuePairs, Error> {
        let mut take = |port: usize| self.rx[port].pop().zip(self.tx[port].pop()).ok_or(Error::Queues);
        Ok([take(0)?, take(1)?])
    }
}

/// Flows that fly, and what they refer to.
#[derive(Debug)]
pub struct Gateway {
    /// The table.
    pub table: Arc<FlowTable>,
    /// Its writer.
    pub writer: TableWriter,
    adjacencies: (Arc<AdjacencyTable>, AdjacencyWriter),
    contexts: (Arc<ContextTable>, ContextWriter),
    /// Where punted packets end up.
    pub rings: Arc<PuntRings>,
    flows: Flows,
    hops: Hops,
}

/// What flows refer to.
#[derive(Debug)]
struct Hops {
    /// Ingress contexts of the two ports.
    contexts: [u16; 2],
    outside: AdjacencyId,
    inside: Vec<AdjacencyId>,
}

impl Gateway {
    /// A table with the first `connections` of `flows`, both directions in state software.
    pub fn with_flows(flows: Flows, connections: u32, placement: Placement) -> Result<Self, Error> {
        Self::with_config(
            flows,
            connections,
            TableConfig { placement, ..TableConfig::new(connections as usize) },
        )
    }

    /// The same in a table of another kind or size.
    pub fn with_config(flows: Flows, connections: u32, config: TableConfig) -> Result<Self, Error> {
        let ipv6_share = if flows.family == Family::V6 { 100 } else { 0 };
        let (config, placement) = (TableConfig { ipv6_share, ..config }, config.placement);
        let (table, writer) = FlowTable::create(config)?;
        let mut adjacencies = AdjacencyTable::create(256, table.qsbr(), placement)?;
        let mut contexts = ContextTable::create(table.qsbr(), placement)?;

        let ether_type: [u8; 2] = if flows.family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
        let egress = |port: u16, host: u8| {
            let mut header = ArrayVec::new();
            header.extend([2, 0, 0, 1, port as u8, host, 2, 0, 0, 0, 0, 0x10]);
            header.extend(ether_type);
            Egress { port, header, mtu: 1500, pppoe_length: None, dscp: None }
        };
        let numbers = [
            contexts.1.acquire(&Ingress::untagged(0, MAC))?,
            contexts.1.acquire(&Ingress::untagged(1, MAC))?,
        ];
        let outside = adjacencies.1.acquire(&egress(1, 1))?;
        let mut inside = Vec::new();
        for host in 0..NEIGHBOURS {
            inside.push(adjacencies.1.acquire(&egress(0, host as u8))?);
        }
        let hops = Hops { contexts: numbers, outside, inside };
        let rings = PuntRings::new(RING, RING);
        let mut gateway = Self { table, writer, adjacencies, contexts, rings, flows, hops };
        for number in 0..connections {
            gateway.admit(number)?;
        }
        Ok(gateway)
    }

    /// Its connections' numbering.
    pub const fn flows(&self) -> Flows {
        self.flows
    }

    /// Puts a connection in, both directions in state software.
    pub fn admit(&mut self, number: u32) -> Result<[FlowRef; 2], Error> {
        let Self { writer, flows, .. } = self;
        let pair = writer.insert_pair(&flows.key(number, false), &flows.key(number, true), number)?;
        for (flow, reply) in pair.into_iter().zip([false, true]) {
            self.set_forwarding(flow.slot, number, reply);
            self.writer.set_proved_length(flow.slot, 1500);
            self.table.entry(flow.slot).set_state(EntryState::Software);
        }
        Ok(pair)
    }

    /// Says where packets of a direction come in and leave.
    pub fn set_forwarding(&mut self, slot: Slot, number: u32, reply: bool) {
        let Hops { contexts, outside, inside } = &self.hops;
        let back = inside.get((number % NEIGHBOURS) as usize).copied().unwrap_or(*outside);
        let adjacency = if reply { back } else { *outside };
        self.writer.set_forwarding(slot, contexts[usize::from(reply)], adjacency, 0);
    }

    /// A worker on these queues, and what it counts.
    pub fn worker(&self, queues: QueuePairs) -> Result<(Worker, Arc<WorkerCounters>), Error> {
        self.worker_with(queues, Hot::default(), false)
    }

    /// The same that tells of hot directions, and whose packets may be marked.
    pub fn worker_with(
        &self,
        queues: QueuePairs,
        hot: Hot,
        marks: bool,
    ) -> Result<(Worker, Arc<WorkerCounters>), Error> {
        let counters = Arc::new(WorkerCounters::default());
        let link = WorkerLink {
            table: Arc::clone(&self.table),
            adjacencies: Arc::clone(&self.adjacencies.0),
            contexts: Arc::clone(&self.contexts.0),
            rings: Arc::clone(&self.rings),
            from_kernel: Arc::new(KernelFrames::new(RING)),
            local: Arc::new(LocalAddresses::default()),
            flags: Arc::default(),
            errands: Arc::default(),
            hot,
            counters: Arc::clone(&counters),
            activity: Arc::new(Activity::default()),
            door: Arc::default(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let ports = queues.into_iter().map(|(rx, tx)| WorkerPort { rx: Some(rx), tx, marks }).collect();
        let reader = self.table.qsbr().register()?;
        Ok((Worker::new(ports, link, reader, Clock::start(), IdlePolicy::default()), counters))
    }

    /// Frees what workers have punted.
    pub fn drain(&self) {
        while let Some(punted) =
            self.rings.pop(PuntClass::Transit).or_else(|| self.rings.pop(PuntClass::Control))
        {
            drop(punted);
        }
    }
}
