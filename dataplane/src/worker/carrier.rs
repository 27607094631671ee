//! Where packets leave a worker: rewritten and sent, held for a moment, or given to the punt thread.

use super::decide::{self, Verdict};
use super::hold::{Held, HoldQueue};
use super::lane::{Lane, Laned};
use super::{CONTROL_BUDGET, CONTROL_BURST, PortState, WorkerLink};
use crate::dpdk::Mbuf;
use crate::flow::{Adjacency, EntryView, Slot, WorkerCounters};
use crate::packet::wire::ETHER_LEN;
use crate::packet::{DropReason, Headers, Ingress, PuntReason, Refusal, Refused, write_l2};
use crate::punt::{FromKernel, PuntClass, PuntEvent, Punted};

/// Everything of a worker but the burst that has just come in.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) ports: Vec<PortState>,
    pub(super) link: WorkerLink,
    /// Milliseconds since start, read once a round.
    pub(super) now: u32,
    pub(super) held: HoldQueue,
    /// The kernel's frames taken from their ring, and those of them that the punt thread knows to be sent.
    pub(super) fetched: u64,
    pub(super) sent: u64,
}

/// Packets and bytes of a burst, to be counted together.
#[derive(Debug, Default)]
struct Flown {
    packets: u64,
    bytes: u64,
}

impl Carrier {
    /// Does with each packet of the lane what was decided, in the order of their coming.
    pub(super) fn carry_out(&mut self, lane: &mut Lane) {
        let mut flown = Flown::default();
        for Laned { mbuf, headers, slot, verdict } in lane.drain() {
            match (verdict, slot) {
                (Verdict::Fly, Some(slot)) => self.fly(mbuf, headers, slot, &mut flown),
                (verdict, slot) => self.stay(mbuf, headers, slot, verdict),
            }
        }
        self.link.counters.fast().add(flown.packets, flown.bytes);
    }

    /// A packet that does not fly.
    #[cold]
    #[inline(never)]
    fn stay(&mut self, mbuf: Mbuf, headers: &Headers, slot: Option<Slot>, verdict: Verdict) {
        match (verdict, slot) {
            (Verdict::Hold, Some(slot)) => self.hold(mbuf, *headers, slot),
            (Verdict::Drop(reason), _) => self.link.counters.dropped(reason).add(1),
            (Verdict::Punt(reason, event), slot) => self.punt(mbuf, headers, slot, reason, event),
            (Verdict::Fly | Verdict::Hold, _) => {
                self.punt(mbuf, headers, None, PuntReason::NoFlow, PuntEvent::None);
            }
        }
    }

    /// Rewrites a packet as the kernel would, and queues it on its egress port.
    #[inline(always)]
    fn fly(&mut self, mut mbuf: Mbuf, headers: &Headers, slot: Slot, flown: &mut Flown) {
        let (table, adjacencies) = (&self.link.table, &self.link.adjacencies);
        let now = self.now;
        let (ready, adjacency) = if slot.is_ipv6() {
            let entry = table.entry6(slot);
            let adjacency = adjacencies.get(entry.adjacency());
            let rewrite = entry.rewrite6();
            let ready = make_ready(&mut mbuf, headers, adjacency, |packet| rewrite.apply(packet));
            if ready {
                entry.count(mbuf.len() as u32, now);
            }
            (ready, adjacency)
        } else {
            let entry = table.entry4(slot);
            let adjacency = adjacencies.get(entry.adjacency());
            let rewrite = entry.rewrite4();
            let ready = make_ready(&mut mbuf, headers, adjacency, |packet| rewrite.apply(packet));
            if ready {
                entry.count(mbuf.len() as u32, now);
            }
            (ready, adjacency)
        };
        if !ready {
            // Happens to no packet that was parsed, with an adjacency that was learned.
            return self.link.counters.dropped(DropReason::NoPort).add(1);
        }
        flown.packets += 1;
        flown.bytes += mbuf.len() as u64;
        let port = usize::from(adjacency.fields().port());
        self.send(port, mbuf);
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
    pub(super) fn decide_held(&mut self) {
        let (link, now) = (&self.link, self.now);
        self.held.decide(|held| decide::held(link, held, now));
    }

    /// Does with the held packets what was decided.
    pub(super) fn release_held(&mut self) {
        for _ in 0..self.held.len() {
            let Some(held) = self.held.pop() else { return };
            match (held.verdict, held.slot) {
                (Verdict::Fly, Some(slot)) => {
                    let mut flown = Flown::default();
                    self.fly(held.mbuf, &held.headers, slot, &mut flown);
                    self.link.counters.fast().add(flown.packets, flown.bytes);
                }
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
        if !matches!(event, PuntEvent::None | PuntEvent::Fingerprint) {
            // The direction flew until now, and it may be another worker that sends what the kernel makes of this.
            self.flush();
        }
        let port = usize::from(headers.ingress.port());
        let flow = slot.map(|slot| self.link.table.reference(slot));
        let packet = Punted { mbuf, ingress: headers.ingress, l3: headers.l3, reason, flow, event };
        let to_gateway = slot.is_none() && self.link.local.contains(headers.key.tuple().dst);
        let class = if to_gateway && self.take_token(port) { PuntClass::Control } else { PuntClass::Transit };
        self.push_punted(class, packet);
    }

    /// Gives a packet that can't fly to the kernel, or drops what the kernel would drop without a trace.
    pub(super) fn refuse(&mut self, port: usize, mbuf: Mbuf, refusal: Option<Refusal>) {
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
    pub(super) fn send_from_kernel(&mut self) -> usize {
        let waiting = self.link.from_kernel.len();
        for nth in 0..waiting {
            let Some(FromKernel { mbuf, port }) = self.link.from_kernel.pop() else { return nth };
            self.fetched += 1;
            self.link.counters.from_kernel().add(1, mbuf.len() as u64);
            self.send(usize::from(port), mbuf);
        }
        waiting
    }

    #[inline(always)]
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

    pub(super) fn flush(&mut self) {
        for state in &mut self.ports {
            state.flush(&self.link.counters);
        }
        if self.sent != self.fetched {
            self.sent = self.fetched;
            self.link.from_kernel.set_sent(self.sent);
        }
    }
}

/// Makes a packet what leaves: rewritten from its IP header on, without padding, which the kernel trims too, and
/// behind the L2 header of its next hop. False if that can't be.
#[inline(always)]
fn make_ready(
    mbuf: &mut Mbuf,
    headers: &Headers,
    adjacency: &Adjacency,
    apply: impl FnOnce(&mut [u8]) -> bool,
) -> bool {
    let (l3, frame_len, fields) = (usize::from(headers.l3), headers.frame_len(), adjacency.fields());
    let plain = l3 == ETHER_LEN && fields.is_ethernet();
    if plain {
        if mbuf.len() != frame_len && !mbuf.set_len(frame_len) {
            return false;
        }
        let Some((ethernet, packet)) = mbuf.data_mut().split_first_chunk_mut::<ETHER_LEN>() else {
            return false;
        };
        if !apply(packet) {
            return false;
        }
        *ethernet = adjacency.ethernet();
        return true;
    }
    mbuf.data_mut().get_mut(l3..frame_len).is_some_and(apply) && encapsulate(mbuf, headers, adjacency)
}

/// Puts another L2 header, of any length, in front of a packet.
#[inline(never)]
fn encapsulate(mbuf: &mut Mbuf, headers: &Headers, adjacency: &Adjacency) -> bool {
    let (fields, header) = (adjacency.fields(), adjacency.header_bytes());
    mbuf.set_len(headers.frame_len())
        && reframe(mbuf, usize::from(headers.l3), fields.header_len())
        && header
            .get(..fields.header_len())
            .is_some_and(|header| write_l2(mbuf.data_mut(), header, fields.pppoe_length(), headers.l3_len))
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
        if let Some(tx) = &mut self.tx {
            tx.burst(&mut self.out);
        }
        for mbuf in self.out.drain() {
            counters.dropped(DropReason::TxQueueFull).add(1);
            // Counted when it was queued, and a packet counts once.
            let was = if mbuf.was_received() { counters.fast() } else { counters.from_kernel() };
            was.take_back(1, mbuf.len() as u64);
        }
    }
}
