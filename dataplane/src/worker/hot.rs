//! Directions with many packets, which a NIC might carry: told of by the workers that count them.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::dpdk::Mbuf;
use crate::flow::{FlowRef, FlowTable, Slot};

/// Directions that wait to be told of. What finds no room is told of with its next packets.
const WAITING: usize = 4096;

/// A direction that was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The direction.
    pub flow: FlowRef,
    /// The TTL, or hop limit, that its packet came in with.
    pub ttl: u8,
    /// The worker that carries it, by its place in the configuration.
    pub worker: u16,
}

/// Tells of a direction each time that it has had so many packets more; nobody looks through the table for them.
#[derive(Clone, Debug)]
pub struct Hot {
    /// One less than a power of two. All bits are set in no count, so that nothing is told of.
    mask: u64,
    queue: Arc<ArrayQueue<Told>>,
    worker: u16,
}

impl Default for Hot {
    /// Tells of nothing.
    fn default() -> Self {
        Self { mask: u64::MAX, queue: Arc::new(ArrayQueue::new(1)), worker: 0 }
    }
}

impl Hot {
    /// Tells of a direction each time that it has had `packets` more, or the next power of two.
    pub fn every(packets: u64) -> Self {
        let every = packets.clamp(1, 1 << 62).next_power_of_two();
        Self { mask: every - 1, queue: Arc::new(ArrayQueue::new(WAITING)), worker: 0 }
    }

    /// The same, told of by a worker.
    #[must_use]
    pub fn of_worker(&self, worker: u16) -> Self {
        Self { worker, ..self.clone() }
    }

    /// A direction that was told of.
    pub fn pop(&self) -> Option<Told> {
        self.queue.pop()
    }

    /// Whether a direction with so many packets is to be told of.
    #[inline(always)]
    pub(super) const fn is_due(&self, packets: u64) -> bool {
        packets & self.mask == 0
    }

    /// Tells of the direction of a packet that is ready to leave, its TTL gone down; its IP header is at `l3`.
    #[cold]
    #[inline(never)]
    pub(super) fn tell(&self, table: &FlowTable, slot: Slot, mbuf: &Mbuf, l3: usize) {
        let ip = mbuf.data().get(l3..).unwrap_or_default();
        let at = if ip.first().is_some_and(|byte| byte >> 4 == 4) { 8 } else { 7 };
        let left = ip.get(at).copied().unwrap_or(0);
        let told = Told { flow: table.reference(slot), ttl: left.wrapping_add(1), worker: self.worker };
        let _ = self.queue.push(told);
    }
}
