//! Where packets leave a worker: rewritten and sent, held for a moment, or given to the punt thread.

use super::decide::{self, Verdict};
use super::egress;
use super::hold::{Held, HoldQueue};
use super::lane::{Fate, Fates, Lane, Lanes};
use super::onlooker::Onlooker;
use super::{BURST, CONTROL_BUDGET, CONTROL_BURST, PortState, WorkerLink};
use crate::dpdk::{Burst, Mbuf, TxQueue};
use crate::flow::{Entry, Entry4, Entry6, Line, Slot, WorkerCounters};
use crate::packet::{DropReason, Headers, Ingress, Outline, PuntReason, Refusal, Refused};
use crate::punt::{FromKernel, PuntClass, PuntEvent, Punted};

/// Everything of a worker but the burst that has just come in.
#[derive(Debug)]
pub(super) struct Carrier<O: Onlooker> {
    pub(super) ports: Vec<PortState>,
    pub(super) link: WorkerLink,
    /// Milliseconds since start, read once a round.
    pub(super) now: u32,
    pub(super) held: HoldQueue,
    /// The kernel's frames taken from their ring, and those of them that the punt thread knows to be sent.
    pub(super) fetched: u64,
    pub(super) sent: u64,
    pub(super) onlooker: O,
}

/// As many packets for one port are sent at once; fewer wait for others until the round ends.
const WORTH_SENDING: usize = BURST / 2;

impl<O: Onlooker> Carrier<O> {
    /// Does with each packet what was decided, in the order of their coming.
    // Once a burst: within the round it would take registers from the loops over packets.
    #[inline(never)]
    pub(super) fn carry_out(&mut self, lanes: &mut Lanes) {
        let Lanes { v4, v6, behind } = lanes;
        if v6.packets.is_empty() {
            return self.carry_out_lane(v4);
        }
        if v4.packets.is_empty() {
            return self.carry_out_lane(v6);
        }
        self.count(&v4.fates);
        self.count(&v6.fates);
        let mut six = v6.packets.drain().enumerate().peekable();
        for (at, mbuf) in v4.packets.drain().enumerate() {
            while let Some((at6, mbuf)) = six.next_if(|(at6, _)| usize::from(behind[at6 % BURST]) <= at) {
                self.carry_out_one(mbuf, v6.fates.of(at6), || v6.known.headers(at6));
            }
            self.carry_out_one(mbuf, v4.fates.of(at), || v4.known.headers(at));
        }
        for (at6, mbuf) in six {
            self.carry_out_one(mbuf, v6.fates.of(at6), || v6.known.headers(at6));
        }
    }

    /// The same for a burst of one family.
    fn carry_out_lane<L: Line>(&mut self, lane: &mut Lane<L>) {
        let Lane { packets, known, fates } = lane;
        self.count(fates);
        if let Some(port) = fates.common_port() {
            return self.send_all(port.into(), packets);
        }
        for (at, mbuf) in packets.drain().enumerate() {
            self.carry_out_one(mbuf, fates.of(at), || known.headers(at));
        }
    }

    fn count(&self, fates: &Fates) {
        self.link.counters.fast().add(fates.packets, fates.bytes);
    }

    fn carry_out_one(&mut self, mbuf: Mbuf, fate: Fate, headers: impl FnOnce() -> Headers) {
        match fate {
            Fate::Leaves(port) => self.send(port.into(), mbuf),
            Fate::Stays(slot, verdict) => self.stay(mbuf, &headers(), slot, verdict),
        }
    }

    /// A packet that does not fly.
    #[cold]
    #[inline(never)]
    fn stay(&mut self, mbuf: Mbuf, headers: &Headers, slot: Option<Slot>, verdict: Verdict) {
        match (verdict, slot) {
            (Verdict::Hold, Some(slot)) => self.hold(mbuf, *headers, slot),
            (Verdict::Drop(reason), _) => self.drop(&mbuf, reason),
            (Verdict::Punt(reason, event), slot) => self.punt(mbuf, headers, slot, reason, event),
            (Verdict::Fly | Verdict::Hold, _) => {
                self.punt(mbuf, headers, None, PuntReason::NoFlow, PuntEvent::None);
            }
        }
    }

    /// Has a packet fly that was held.
    fn fly_late(&mut self, mut mbuf: Mbuf, outline: &Outline, slot: Slot) {
        let (adjacencies, now) = (self.link.adjacencies.all(), self.now);
        let tell = |mbuf: &Mbuf, l3| self.link.hot.tell(&self.link.table, slot, mbuf, l3);
        let hot = (&self.link.hot, tell);
        let ready = match self.link.table.entry(slot) {
            Entry::V4(Entry4(line)) => {
                egress::make_unusual_ready(adjacencies, line, &mut mbuf, outline, now, hot)
            }
            Entry::V6(Entry6(line)) => {
                egress::make_unusual_ready(adjacencies, line, &mut mbuf, outline, now, hot)
            }
        };
        let Some((port, bytes)) = ready else {
            return self.drop(&mbuf, DropReason::NoPort);
        };
        self.link.counters.fast().add(1, bytes.into());
        self.send(port.into(), mbuf);
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
                (Verdict::Fly, Some(slot)) => self.fly_late(held.mbuf, &held.headers, slot),
                (Verdict::Hold, _) => {
                    // There is room: it was taken from there.
                    let _ = self.held.push(held);
                }
                (Verdict::Punt(reason, event), _) => self.punt_held(held, reason, event),
                (Verdict::Drop(reason), _) => self.drop(&held.mbuf, reason),
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
        if event.ends_a_flight() {
            // It may be another worker that sends what the kernel makes of this.
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
            Refused::Drop(reason) => return self.drop(&mbuf, reason),
        };
        let to_gateway = refusal.dst.is_some_and(|address| self.link.local.contains(address));
        let class = match (refusal.link_control || to_gateway, self.take_token(port)) {
            (true, true) => PuntClass::Control,
            (true, false) if refusal.link_control => {
                return self.drop(&mbuf, DropReason::ControlBudget);
            }
            _ => PuntClass::Transit,
        };
        let Refusal { ingress, l3, .. } = refusal;
        let packet = Punted { mbuf, ingress, l3, reason, flow: None, event: PuntEvent::None };
        self.push_punted(class, packet);
    }

    /// Counts a packet that goes no further.
    fn drop(&mut self, mbuf: &Mbuf, reason: DropReason) {
        self.link.counters.dropped(reason).add(1);
        self.onlooker.dropped(mbuf, reason);
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

    fn push_punted(&mut self, class: PuntClass, packet: Punted) {
        let (reason, event, flow) = (packet.reason, packet.event, packet.flow);
        let kept = self.onlooker.may_be_punted(&packet.mbuf);
        match self.link.rings.push(class, packet) {
            Ok(()) => {
                self.link.counters.punted(reason).add(1);
                self.onlooker.punted(kept, reason, event, class);
            }
            Err(packet) => {
                self.drop(&packet.mbuf, DropReason::PuntRingFull);
                decide::undo(&self.link, flow, event);
            }
        }
    }

    /// Sends all that the kernel has sent so far.
    pub(super) fn send_from_kernel(&mut self) -> usize {
        let waiting = self.link.from_kernel.len();
        for nth in 0..waiting {
            let Some(FromKernel { mut mbuf, port }) = self.link.from_kernel.pop() else { return nth };
            self.fetched += 1;
            self.onlooker.fetched(port, &mut mbuf);
            self.link.counters.from_kernel().add(1, mbuf.len() as u64);
            self.send(usize::from(port), mbuf);
        }
        waiting
    }

    /// Queues a packet on its port; it leaves with others, at the end of the round at the latest.
    fn send(&mut self, port: usize, mbuf: Mbuf) {
        let Some(state) = self.ports.get_mut(port) else { return self.drop(&mbuf, DropReason::NoPort) };
        if state.out.is_full() {
            state.flush(port, &self.link.counters, &mut self.onlooker);
        }
        if let Err(mbuf) = state.out.push(mbuf) {
            self.drop(&mbuf, DropReason::TxQueueFull);
        }
    }

    /// The same for all packets of a burst: many at once, without moving them.
    fn send_all(&mut self, port: usize, packets: &mut Burst) {
        match self.ports.get_mut(port) {
            Some(state) if packets.len() >= WORTH_SENDING => {
                state.flush(port, &self.link.counters, &mut self.onlooker);
                transmit(&mut state.tx, port, packets, &self.link.counters, &mut self.onlooker);
            }
            _ => packets.drain().for_each(|mbuf| self.send(port, mbuf)),
        }
    }

    pub(super) fn flush(&mut self) {
        for (port, state) in self.ports.iter_mut().enumerate() {
            state.flush(port, &self.link.counters, &mut self.onlooker);
        }
        if self.sent != self.fetched {
            self.sent = self.fetched;
            self.link.from_kernel.set_sent(self.sent);
        }
    }
}

impl PortState {
    /// Sends what waits.
    fn flush<O: Onlooker>(&mut self, port: usize, counters: &WorkerCounters, onlooker: &mut O) {
        if !self.out.is_empty() {
            transmit(&mut self.tx, port, &mut self.out, counters, onlooker);
        }
    }
}

/// Sends a burst; what the queue does not take is dropped, as a NIC would.
fn transmit<O: Onlooker>(
    tx: &mut Option<TxQueue>,
    port: usize,
    packets: &mut Burst,
    counters: &WorkerCounters,
    onlooker: &mut O,
) {
    if let Some(tx) = tx {
        onlooker.sends(port as u16, packets);
        tx.burst(packets);
    }
    for mbuf in packets.drain() {
        counters.dropped(DropReason::TxQueueFull).add(1);
        onlooker.dropped(&mbuf, DropReason::TxQueueFull);
        // Counted when it was queued, and a packet counts once.
        let was = if mbuf.was_received() { counters.fast() } else { counters.from_kernel() };
        was.take_back(1, mbuf.len() as u64);
    }
}
