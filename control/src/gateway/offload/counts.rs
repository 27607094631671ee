//! What rules have counted, and how many connections NICs carry.

use dataplane::flow::{EntryView, FlowRef};

use super::{Name, Offload, name};

/// How often a rule's counter is read, in milliseconds; the tracker wants to see packets that are not older than a
/// second.
pub(super) const COUNT_EVERY: u64 = 500;
/// Counters read in one go.
const COUNT_BATCH: usize = 1024;
/// What one end has acknowledged says nothing of what the other may send once so many bytes went past workers: half of
/// the largest TCP window.
const ACK_IS_OLD: u64 = 1 << 29;

impl Offload {
    /// Packets and bytes that NICs have carried, as far as is known.
    pub(in crate::gateway) const fn totals(&self) -> (u64, u64) {
        self.totals
    }

    /// Connections that NICs carry, as of when their counters were read last.
    pub(in crate::gateway) const fn carried(&self) -> u64 {
        self.carried
    }

    /// Whether NICs carry all of a connection that flies: both of its directions, or the one that has packets.
    pub(in crate::gateway) fn carries(&self, flow: FlowRef) -> bool {
        let idle = |flow| !self.flies(flow);
        match (self.has(flow), self.peer(flow).map(|peer| (self.has(peer), idle(peer)))) {
            (true, Some((other, idle))) => other || idle,
            (true, None) => true,
            (false, Some((true, _))) => idle(flow),
            (false, _) => false,
        }
    }

    fn peer(&self, flow: FlowRef) -> Option<FlowRef> {
        self.table.peer(self.table.resolve(flow)?).map(|slot| self.table.reference(slot))
    }

    /// Looks again at who stands for a connection, of a direction and its peer.
    pub(super) fn recount(&mut self, of: Name) {
        let Some(flow) = self.placed.get(&of).map(|placed| placed.flow) else { return };
        let peer = self.peer(flow);
        for flow in [Some(flow), peer].into_iter().flatten() {
            // Of two directions that are in, the one with the lower slot counts.
            let is_first = |peer: FlowRef| flow.slot.to_bits() < peer.slot.to_bits();
            let counts = self.has(flow)
                && self.carries(flow)
                && self.peer(flow).filter(|peer| self.has(*peer)).is_none_or(is_first);
            self.count_as(name(flow), counts);
        }
    }

    pub(super) fn count_as(&mut self, name: Name, counts: bool) {
        let Some(placed) = self.placed.get_mut(&name) else { return };
        match (std::mem::replace(&mut placed.counts, counts), counts) {
            (false, true) => self.carried += 1,
            (true, false) => self.carried -= 1,
            _ => {}
        }
    }

    /// A direction is over, and has no rule.
    pub(super) fn forget(&mut self, name: Name) {
        self.count_as(name, false);
        self.placed.remove(&name);
    }

    /// Reads those counters whose time has come.
    pub(super) fn read_counters(&mut self, now: u64) {
        for _ in 0..COUNT_BATCH {
            let first = self.to_count.front().copied();
            let Some((_, name, rule)) = first.filter(|(at, ..)| *at + COUNT_EVERY <= now) else { break };
            self.to_count.pop_front();
            // A later rule of the same direction has a place of its own.
            if self.placed.get(&name).is_some_and(|placed| placed.rule == Some(rule)) {
                self.read_counter(name, now);
                self.recount(name);
                self.to_count.push_back((now, name, rule));
            }
        }
    }

    pub(super) fn read_counter(&mut self, name: Name, now: u64) {
        let Some(placed) = self.placed.get_mut(&name) else { return };
        let (Some(rule), Some(port)) = (placed.rule, self.ports.get_mut(placed.port)) else { return };
        if port.marks() {
            // Workers count.
            let packets = self.table.resolve(placed.flow).map(|slot| self.table.entry(slot).packets());
            return port.scheduler.counted(name, packets.unwrap_or(0), now);
        }
        let Ok(count) = port.rules().and_then(|rules| rules.count(rule, false)) else { return };
        let packets = placed.before.0 + count.packets.unwrap_or(0);
        if packets > placed.counted.packets {
            let bytes = (placed.before.1 + count.bytes.unwrap_or(0)).max(placed.counted.bytes);
            self.totals.0 += packets - placed.counted.packets;
            self.totals.1 += bytes - placed.counted.bytes;
            (placed.counted.packets, placed.counted.bytes) = (packets, bytes);
            placed.counted.last_seen = (now as u32).max(1);
        }
        let Some(slot) = self.table.resolve(placed.flow) else { return };
        let entry = self.table.entry(slot);
        port.scheduler.counted(name, entry.packets() + placed.counted.packets, now);
        if count.bytes.unwrap_or(0) > ACK_IS_OLD {
            entry.set_last_ack(0);
            if let Some(peer) = self.table.peer(slot) {
                self.table.entry(peer).set_last_ack(0);
            }
        }
    }
}
