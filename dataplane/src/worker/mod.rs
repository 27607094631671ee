//! A worker: a pinned thread that polls its queue of every port.
//!
//! A round reads like what happens to a packet: received, parsed, looked up, decided; then either rewritten
//! and sent, or held for a moment, or given to the punt thread. No system call, lock, allocation or log line
//! is on this way; only a worker without work sleeps.

mod decide;
mod hold;
mod idle;
mod lane;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::clock::Clock;
use crate::dpdk::{Burst, Mbuf, RxQueue, TxQueue};
use crate::flow::{
    AdjacencyTable, ContextTable, Entry, EntryView, FlowTable, MAX_PORTS, QsbrReader, Slot, WorkerCounters,
};
use crate::packet::{DropReason, Headers, Ingress, PuntReason, Refusal, Refused, parse, write_l2};
use crate::punt::{FromKernel, LocalAddresses, PuntClass, PuntEvent, PuntRings, Punted};
use decide::Verdict;
pub use hold::CAPACITY as HOLD_CAPACITY;
use hold::{Held, HoldQueue};
use idle::Idle;
pub use idle::{Activity, IdlePolicy};
use lane::Lane;

/// Packets received at once.
pub const BURST: usize = 64;

/// A worker's queues of one port.
#[derive(Debug)]
pub struct WorkerPort {
    /// Where it receives; a port may have fewer queues than there are workers.
    pub rx: Option<RxQueue>,
    /// Where it sends.
    pub tx: TxQueue,
}

/// What workers need to know of ports beyond their queues; written by control.
#[derive(Debug, Default)]
pub struct PortFlags {
    bridged: [AtomicBool; MAX_PORTS],
}

impl PortFlags {
    /// The port's twin is part of a bridge, which also forwards what a router would drop.
    pub fn set_bridged(&self, port: usize, bridged: bool) {
        if let Some(flag) = self.bridged.get(port) {
            flag.store(bridged, Ordering::Relaxed);
        }
    }

    fn is_bridged(&self, port: usize) -> bool {
        self.bridged.get(port).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// What a worker shares with the rest.
#[derive(Debug)]
pub struct WorkerLink {
    /// Flows.
    pub table: Arc<FlowTable>,
    /// Egress ports and L2 headers.
    pub adjacencies: Arc<AdjacencyTable>,
    /// Ingress contexts.
    pub contexts: Arc<ContextTable>,
    /// To the punt thread.
    pub rings: Arc<PuntRings>,
    /// Frames that the kernel sends out of the twins of this worker's ports.
    pub from_kernel: Arc<ArrayQueue<FromKernel>>,
    /// The gateway's own addresses.
    pub local: Arc<LocalAddresses>,
    /// What ports are.
    pub flags: Arc<PortFlags>,
    /// Packets counted.
    pub counters: Arc<WorkerCounters>,
    /// Rounds and sleeps counted.
    pub activity: Arc<Activity>,
    /// Set when the worker is to end.
    pub stop: Arc<AtomicBool>,
}

/// Control packets a millisecond and port that have the control class for themselves.
const CONTROL_BUDGET: u32 = 8;
/// As many may come at once after a pause.
const CONTROL_BURST: u32 = 256;

#[derive(Debug)]
struct PortState {
    rx: Option<RxQueue>,
    tx: TxQueue,
    out: Burst,
    control_tokens: u32,
    control_refilled: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    ports: Vec<PortState>,
    link: WorkerLink,
    quiescence: QsbrReader,
    clock: Clock,
    /// Milliseconds since start, read once a round.
    now: u32,
    burst: Burst,
    lane: Lane,
    held: HoldQueue,
    idle: Idle,
}

impl Worker {
    /// A worker with one queue pair of every port, in the order of the ports.
    pub fn new(
        ports: Vec<WorkerPort>,
        link: WorkerLink,
        quiescence: QsbrReader,
        clock: Clock,
        idle: IdlePolicy,
    ) -> Self {
        let state = |port: WorkerPort| PortState {
            rx: port.rx,
            tx: port.tx,
            out: Burst::new(),
            control_tokens: CONTROL_BURST,
            control_refilled: 0,
        };
        Self {
            ports: ports.into_iter().map(state).collect(),
            link,
            quiescence,
            clock,
            now: 0,
            burst: Burst::new(),
            lane: Lane::default(),
            held: HoldQueue::default(),
            idle: Idle::new(idle),
        }
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        while !self.link.stop.load(Ordering::Relaxed) {
            let packets = self.round();
            self.quiescence.quiescent();
            if packets == 0 && self.held.is_empty() {
                if let Some(nap) = self.idle.nothing_to_do(&self.clock) {
                    self.quiescence.offline();
                    std::thread::sleep(nap);
                    self.quiescence.online();
                    self.link.activity.slept(nap);
                }
            } else {
                self.idle.worked();
            }
            self.link.activity.polled(packets > 0);
        }
    }

    /// One round over all ports; says how many packets there were.
    pub fn round(&mut self) -> usize {
        self.now = self.clock.millis() as u32;
        let mut packets = 0;
        for port in 0..self.ports.len() {
            packets += self.receive(port);
        }
        // Also without a burst the kernel's frames and held packets go on.
        self.decide_held();
        packets += self.send_from_kernel();
        self.release_held();
        self.flush();
        packets
    }

    fn receive(&mut self, port: usize) -> usize {
        let Some(rx) = self.ports.get_mut(port).and_then(|state| state.rx.as_mut()) else { return 0 };
        rx.burst(&mut self.burst);
        let received = self.burst.len();
        if received == 0 {
            return 0;
        }
        self.parse_burst(port);
        self.lane.look_up(&self.link.table);
        // All states are read before the kernel's frames are fetched: whoever sees that a direction flies finds
        // the last frame that the kernel sent for it. Then, in this order, none overtakes: what the kernel has
        // sent, what was held, what came in just now.
        self.decide_held();
        self.lane.decide(&self.link, &self.held, self.now);
        self.send_from_kernel();
        self.release_held();
        self.carry_out();
        received
    }

    /// Sorts the burst: what can fly to the lane, the rest to the kernel.
    fn parse_burst(&mut self, port: usize) {
        for mbuf in self.burst.iter() {
            mbuf.prefetch_data();
        }
        let mut burst = std::mem::take(&mut self.burst);
        for mbuf in burst.drain() {
            if mbuf.segments() > 1 {
                // Headers may lie across segments: the punt thread gathers, the kernel decides.
                self.refuse(port, mbuf, None);
                continue;
            }
            match parse(mbuf.data(), port as u16) {
                Ok(headers) => self.lane.push(mbuf, headers),
                Err(refusal) => self.refuse(port, mbuf, Some(refusal)),
            }
        }
        self.burst = burst;
    }

    /// Does with each packet of the lane what was decided, in the order of their coming.
    fn carry_out(&mut self) {
        let mut lane = std::mem::take(&mut self.lane);
        for (mbuf, headers, slot, verdict) in lane.drain() {
            match (verdict, slot) {
                (Verdict::Fly, Some(slot)) => self.fly(mbuf, &headers, slot),
                (Verdict::Hold, Some(slot)) => self.hold(mbuf, headers, slot),
                (Verdict::Drop(reason), _) => self.link.counters.dropped(reason).add(1),
                (Verdict::Punt(reason, event), slot) => self.punt(mbuf, &headers, slot, reason, event),
                (Verdict::Fly | Verdict::Hold, None) => {
                    self.punt(mbuf, &headers, None, PuntReason::NoFlow, PuntEvent::None);
                }
            }
        }
        self.lane = lane;
    }

    /// Rewrites a packet as the kernel would, and queues it on its egress port.
    fn fly(&mut self, mut mbuf: Mbuf, headers: &Headers, slot: Slot) {
        let entry = self.link.table.entry(slot);
        let adjacency = self.link.adjacencies.get(entry.adjacency());
        let (fields, header) = (adjacency.fields(), adjacency.header_bytes());
        let rewritten = mbuf
            .data_mut()
            .get_mut(usize::from(headers.l3)..headers.frame_len())
            .is_some_and(|packet| rewrite(&entry, packet));
        // Padding goes: the kernel trims it too.
        let framed = rewritten
            && mbuf.set_len(headers.frame_len())
            && reframe(&mut mbuf, usize::from(headers.l3), fields.header_len())
            && header.get(..fields.header_len()).is_some_and(|header| {
                write_l2(mbuf.data_mut(), header, fields.pppoe_length(), headers.l3_len)
            });
        if !framed {
            // Happens to no packet that was parsed, with an adjacency that was learned.
            return self.link.counters.dropped(DropReason::NoPort).add(1);
        }
        let length = mbuf.len() as u32;
        entry.count(length, self.now);
        self.link.counters.fast().add(1, u64::from(length));
        self.send(usize::from(fields.port()), mbuf);
    }

    fn hold(&mut self, mbuf: Mbuf, headers: Headers, slot: Slot) {
        let held = Held {
            flow: self.link.table.reference(slot),
            since: self.now,
            mbuf,
            headers,
            verdict: Verdict::Hold,
            slot: Some(slot),
        };
        if let Err(held) = self.held.push(held) {
            // No room: all that waits goes to the kernel, so that order is kept, and this after it.
            while let Some(held) = self.held.pop() {
                self.give_up(held);
            }
            self.give_up(held);
        }
    }

    /// Gives a held packet's direction back to the kernel, and the packet with it.
    fn give_up(&mut self, held: Held) {
        let event = decide::give_up(&self.link, held.flow);
        self.punt_held(held, PuntReason::HoldFull, event);
    }

    /// Decides which of the held packets wait no longer: because their direction flies now, or because it
    /// doesn't.
    fn decide_held(&mut self) {
        for held in self.held.iter_mut() {
            (held.verdict, held.slot) = decide::held(&self.link, held, self.now);
        }
    }

    /// Does with the held packets what was decided.
    fn release_held(&mut self) {
        for _ in 0..self.held.len() {
            let Some(held) = self.held.pop() else { return };
            match (held.verdict, held.slot) {
                (Verdict::Fly, Some(slot)) => self.fly(held.mbuf, &held.headers, slot),
                (Verdict::Hold, _) => {
                    // There is room: it was taken from there.
                    let _ = self.held.push(held);
                }
                (Verdict::Punt(reason, event), _) => self.punt_held(held, reason, event),
                (Verdict::Drop(reason), _) => self.link.counters.dropped(reason).add(1),
                (Verdict::Fly, None) => self.punt_held(held, PuntReason::NoFlow, PuntEvent::None),
            }
        }
    }

    fn punt_held(&mut self, held: Held, reason: PuntReason, event: PuntEvent) {
        let slot = self.link.table.resolve(held.flow);
        self.punt(held.mbuf, &held.headers, slot, reason, event);
    }

    /// Gives a packet that was parsed to the kernel.
    fn punt(
        &mut self,
        mbuf: Mbuf,
        headers: &Headers,
        slot: Option<Slot>,
        reason: PuntReason,
        event: PuntEvent,
    ) {
        let port = usize::from(headers.ingress.port());
        let flow = slot.map(|slot| self.link.table.reference(slot));
        let packet = Punted { mbuf, ingress: headers.ingress, l3: headers.l3, reason, flow, event };
        let to_gateway = slot.is_none() && self.link.local.contains(headers.key.tuple().dst);
        let class = if to_gateway && self.take_token(port) { PuntClass::Control } else { PuntClass::Transit };
        self.push_punted(class, packet);
    }

    /// Gives a packet that can't fly to the kernel, or drops what the kernel would drop without a trace.
    fn refuse(&mut self, port: usize, mbuf: Mbuf, refusal: Option<Refusal>) {
        let Some(refusal) = refusal else {
            let ingress = Ingress::untagged(port as u16, [0; 6]);
            let reason = PuntReason::Segmented;
            let packet = Punted { mbuf, ingress, l3: 0, reason, flow: None, event: PuntEvent::None };
            return self.push_punted(PuntClass::Transit, packet);
        };
        let reason = match refusal.what {
            Refused::Punt(reason) => reason,
            Refused::Drop(_) if self.link.flags.is_bridged(port) => PuntReason::Malformed,
            Refused::Drop(reason) => return self.link.counters.dropped(reason).add(1),
        };
        let to_gateway = refusal.dst.is_some_and(|address| self.link.local.contains(address));
        let class = match (refusal.link_control || to_gateway, self.take_token(port)) {
            (true, true) => PuntClass::Control,
            (true, false) if refusal.link_control => {
                return self.link.counters.dropped(DropReason::ControlBudget).add(1);
            }
            _ => PuntClass::Transit,
        };
        let Refusal { ingress, l3, .. } = refusal;
        let packet = Punted { mbuf, ingress, l3, reason, flow: None, event: PuntEvent::None };
        self.push_punted(class, packet);
    }

    fn take_token(&mut self, port: usize) -> bool {
        let Some(state) = self.ports.get_mut(port) else { return false };
        let elapsed = self.now.wrapping_sub(state.control_refilled);
        if elapsed > 0 {
            let refill = elapsed.saturating_mul(CONTROL_BUDGET);
            state.control_tokens = state.control_tokens.saturating_add(refill).min(CONTROL_BURST);
            state.control_refilled = self.now;
        }
        let taken = state.control_tokens > 0;
        state.control_tokens = state.control_tokens.saturating_sub(1);
        taken
    }

    fn push_punted(&self, class: PuntClass, packet: Punted) {
        let (reason, event, flow) = (packet.reason, packet.event, packet.flow);
        match self.link.rings.push(class, packet) {
            Ok(()) => self.link.counters.punted(reason).add(1),
            Err(_full) => {
                self.link.counters.dropped(DropReason::PuntRingFull).add(1);
                decide::undo(&self.link, flow, event);
            }
        }
    }

    /// Sends all that the kernel has sent so far.
    fn send_from_kernel(&mut self) -> usize {
        let waiting = self.link.from_kernel.len();
        for nth in 0..waiting {
            let Some(FromKernel { mbuf, port }) = self.link.from_kernel.pop() else { return nth };
            self.link.counters.from_kernel().add(1, mbuf.len() as u64);
            self.send(usize::from(port), mbuf);
        }
        waiting
    }

    fn send(&mut self, port: usize, mbuf: Mbuf) {
        let Some(state) = self.ports.get_mut(port) else {
            return self.link.counters.dropped(DropReason::NoPort).add(1);
        };
        if state.out.is_full() {
            state.flush(&self.link.counters);
        }
        if state.out.push(mbuf).is_err() {
            self.link.counters.dropped(DropReason::TxQueueFull).add(1);
        }
    }

    fn flush(&mut self) {
        for state in &mut self.ports {
            state.flush(&self.link.counters);
        }
    }
}

fn rewrite(entry: &Entry<'_>, packet: &mut [u8]) -> bool {
    match entry {
        Entry::V4(entry) => entry.rewrite4().apply(packet),
        Entry::V6(entry) => entry.rewrite6().apply(packet),
    }
}

/// Makes room for an L2 header of `new` bytes in place of one of `old` bytes.
fn reframe(mbuf: &mut Mbuf, old: usize, new: usize) -> bool {
    if new >= old { mbuf.prepend(new - old).is_some() } else { mbuf.trim_front(old - new) }
}

impl PortState {
    /// Sends what waits; what the queue does not take is dropped, as a NIC would.
    fn flush(&mut self, counters: &WorkerCounters) {
        if self.out.is_empty() {
            return;
        }
        self.tx.burst(&mut self.out);
        for mbuf in self.out.drain() {
            counters.dropped(DropReason::TxQueueFull).add(1);
            // Counted when it was queued, and a packet counts once.
            let was = if mbuf.was_received() { counters.fast() } else { counters.from_kernel() };
            was.take_back(1, mbuf.len() as u64);
        }
    }
}
