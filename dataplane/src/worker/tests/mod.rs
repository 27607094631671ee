//! A worker driven by hand, round by round: two ports whose wires are rings, no thread, no hardware.

mod decide;
mod errands;
mod hold;
mod hot;
mod lanes;
mod marks;
mod order;
mod recorded;
mod rounds;

use std::net::IpAddr;

use crate::clock::Clock;
use crate::dpdk::testing::{Bench, receive, send};
use crate::flow::{
    AdjacencyWriter, ContextWriter, Egress, EntryState, EntryView, FiveTuple, FlowRef, Key, Key4, Mark,
    MarkCounter, Placement, Slot, TableConfig, TableWriter,
};
use crate::packet::testing::Frame;
use crate::packet::{DropReason, Headers, Ingress, Outline, PuntReason, parse};
use crate::punt::{FromKernel, PuntClass, PuntEvent, Punted};

use super::decide::Verdict;
use super::*;

/// Where the frames of port 0 and port 1 are addressed to.
const GATEWAY: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];
/// L2 headers that packets leave with: to the hosts behind port 0 and port 1.
const HEADER: [[u8; 14]; 2] =
    [[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0], [2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 8, 0]];
const CONTROL_RING: usize = 512;
const TRANSIT_RING: usize = 2048;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    V4,
    V6,
}

impl Version {
    /// Of the client, the server, and the gateway towards the server.
    fn addresses(self) -> [IpAddr; 3] {
        match self {
            Self::V4 => [[10, 0, 0, 2], [192, 0, 2, 9], [192, 0, 2, 1]].map(IpAddr::from),
            Self::V6 => [[0xfd00, 2], [0x2001, 9], [0x2001, 1]]
                .map(|[first, last]| IpAddr::from([first, 0xdb8, 0, 0, 0, 0, 0, last])),
        }
    }

    const fn ether_type(self) -> [u8; 2] {
        match self {
            Self::V4 => [8, 0],
            Self::V6 => [0x86, 0xdd],
        }
    }
}

/// A client behind port 0 is masqueraded towards a server behind port 1.
struct Connection {
    orig: FiveTuple,
    reply: FiveTuple,
    flows: [FlowRef; 2],
}

impl Connection {
    fn frame(&self, number: u16) -> Frame {
        Frame::of(self.orig).payload(&number.to_be_bytes()).with(|f| f.dst_mac = GATEWAY[0])
    }

    fn answer(&self, number: u16) -> Frame {
        Frame::of(self.reply).payload(&number.to_be_bytes()).with(|f| f.dst_mac = GATEWAY[1])
    }
}

/// As it leaves: what the kernel would have made of it.
fn forwarded(frame: &Frame, connection: &Connection) -> Frame {
    let (to, port) = if frame.tuple == connection.orig {
        (connection.reply.inverted(), 1)
    } else {
        (connection.orig.inverted(), 0)
    };
    frame.clone().with(|f| {
        f.tuple = to;
        f.ttl -= 1;
        f.padding.clear();
        f.dst_mac.copy_from_slice(&HEADER[port][..6]);
        f.src_mac.copy_from_slice(&HEADER[port][6..12]);
    })
}

struct Rig {
    worker: Worker,
    writer: TableWriter,
    adjacencies: AdjacencyWriter,
    contexts: ContextWriter,
    into: [TxQueue; 2],
    out: [RxQueue; 2],
    connections: u16,
    // Last, so that the next test begins when all is gone.
    bench: Bench,
}

impl Rig {
    fn new() -> Self {
        Self::with_rings(CONTROL_RING, TRANSIT_RING)
    }

    fn with_rings(control: usize, transit: usize) -> Self {
        Self::with_room(64, control, transit)
    }

    fn with_room(connections: usize, control: usize, transit: usize) -> Self {
        let bench = Bench::new();
        let placement = Placement { huge_pages: false, numa_node: None };
        let config = TableConfig { placement, ipv6_share: 100, ..TableConfig::new(connections) };
        let (table, writer) = FlowTable::create(config).expect("memory");
        let (adjacency_table, adjacencies) =
            AdjacencyTable::create(8, table.qsbr(), placement).expect("memory");
        let (context_table, contexts) = ContextTable::create(table.qsbr(), placement).expect("memory");
        let quiescence = table.qsbr().register().expect("a place");
        let [(in0, rx0), (in1, rx1), (tx0, out0), (tx1, out1)] = bench.wires();
        let ports =
            [(rx0, tx0), (rx1, tx1)].map(|(rx, tx)| WorkerPort { rx: Some(rx), tx, marks: false }).into();
        let link = WorkerLink {
            table,
            adjacencies: adjacency_table,
            contexts: context_table,
            rings: PuntRings::new(control, transit),
            from_kernel: Arc::new(KernelFrames::new(1024)),
            local: Arc::default(),
            flags: Arc::default(),
            errands: Arc::default(),
            hot: Hot::default(),
            counters: Arc::default(),
            activity: Arc::default(),
            door: Arc::default(),
            stop: Arc::default(),
        };
        let worker = Worker::new(ports, link, quiescence, Clock::start(), IdlePolicy::default());
        let (into, out) = ([in0, in1], [out0, out1]);
        Self { worker, writer, adjacencies, contexts, into, out, connections: 0, bench }
    }

    /// Makes a connection whose directions are set up, in this state.
    fn connect(&mut self, proto: u8, state: EntryState) -> Connection {
        self.connect_over(Version::V4, proto, state)
    }

    /// The same over either family.
    fn connect_over(&mut self, version: Version, proto: u8, state: EntryState) -> Connection {
        let client = 4000 + self.connections;
        self.connections += 1;
        let [src, dst, public] = version.addresses();
        let orig = FiveTuple { proto, src, dst, sport: client, dport: 80 };
        let reply = FiveTuple { src: dst, dst: public, sport: 80, dport: client, ..orig };
        let [key, back] = [orig, reply].map(|tuple| Key::from_tuple(&tuple).expect("one family"));
        let flows = self.writer.insert_pair(&key, &back, 0).expect("room");
        for (port, flow) in flows.into_iter().enumerate() {
            let context =
                self.contexts.acquire(&Ingress::untagged(port as u16, GATEWAY[port])).expect("room");
            let header = HEADER[1 - port][..12].iter().copied().chain(version.ether_type()).collect();
            let egress = Egress { port: 1 - port as u16, header, mtu: 1500, pppoe_length: None, dscp: None };
            let adjacency = self.adjacencies.acquire(&egress).expect("room");
            self.writer.set_forwarding(flow.slot, context, adjacency, 0);
            self.writer.set_proved_length(flow.slot, 1500);
            self.link().table.entry(flow.slot).set_state(state);
        }
        Connection { orig, reply, flows }
    }

    fn link(&self) -> &WorkerLink {
        &self.worker.carrier.link
    }

    fn state(&self, flow: FlowRef) -> EntryState {
        self.link().table.entry(flow.slot).state()
    }

    fn set_state(&self, flow: FlowRef, state: EntryState) {
        self.link().table.entry(flow.slot).set_state(state);
    }

    /// Frames arrive at a port.
    fn arrive(&mut self, port: usize, frames: &[Frame]) {
        let frames: Vec<Vec<u8>> = frames.iter().map(Frame::build).collect();
        send(&self.bench, &mut self.into[port], &frames);
    }

    /// A frame arrives at a port whose rules mark packets, with a mark or without.
    fn arrive_marked(&mut self, port: usize, frame: &Frame, mark: Option<u32>) {
        self.worker.carrier.ports[port].marks = true;
        let mut mbuf = self.bench.packet(&frame.build());
        if let Some(mark) = mark {
            mbuf.set_mark(mark);
        }
        let mut burst = Burst::new();
        burst.extend([mbuf]);
        self.into[port].burst(&mut burst);
        assert!(burst.is_empty(), "the wire is full");
    }

    /// Marked packets of all ports: those whose lookup was skipped, and those that were looked up nevertheless.
    fn marked(&self) -> (u64, u64) {
        let counters = [0, 1].map(|port| self.link().counters.marked(port).expect("a port"));
        let sum = |of: fn(&MarkCounter) -> u64| counters.into_iter().map(of).sum();
        (sum(|counter| counter.found.get()), sum(|counter| counter.missed.get()))
    }

    /// The kernel sends a frame out of a port's twin.
    fn kernel_sends(&mut self, port: u16, frame: &Frame) {
        let mbuf = self.bench.packet(&frame.build());
        assert!(self.link().from_kernel.push(FromKernel { mbuf, port }).is_ok());
    }

    /// Rounds until nothing arrives any more.
    fn rounds(&mut self) {
        while self.worker.round() > 0 {}
    }

    /// What a port has sent.
    fn sent(&mut self, port: usize) -> Vec<Vec<u8>> {
        receive(&mut self.out[port])
    }

    /// The numbers of the packets that a port has sent.
    fn numbers_sent(&mut self, port: usize) -> Vec<u16> {
        self.sent(port).iter().map(|frame| number(frame)).collect()
    }

    /// What went to the kernel as transit traffic.
    fn punted(&self) -> Vec<Punted> {
        std::iter::from_fn(|| self.link().rings.pop(PuntClass::Transit)).collect()
    }

    fn count(&self, reason: PuntReason) -> u64 {
        self.link().counters.punted(reason).get()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.link().counters.dropped(reason).get()
    }

    /// Nothing waits anywhere, and no buffer is missing.
    fn finish(mut self) {
        self.rounds();
        for port in [0, 1] {
            assert!(self.sent(port).is_empty(), "port {port} sent more");
        }
        assert!(self.link().rings.is_empty(), "more went to the kernel");
        assert_eq!(self.bench.in_use(), self.worker.carrier.held.len() as u32, "buffers are missing");
        let Self { worker, into, out, bench, .. } = self;
        drop((worker, into, out));
        assert_eq!(bench.in_use(), 0, "buffers are missing");
    }
}

/// The number that a packet carries in its last two bytes.
fn number(frame: &[u8]) -> u16 {
    frame.last_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn numbers(punted: &[Punted]) -> Vec<u16> {
    punted.iter().map(|packet| number(packet.mbuf.data())).collect()
}
