//! Packets that wait until earlier ones of their direction have come out of the kernel.

use std::collections::VecDeque;

use super::decide::Verdict;
use crate::dpdk::Mbuf;
use crate::flow::{FlowRef, Slot};
use crate::packet::Headers;

/// Packets held at most, of all directions together: some milliseconds of the rates at which flows begin.
pub const CAPACITY: usize = 1024;

/// A packet that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) flow: FlowRef,
    /// When it came, in milliseconds.
    pub(super) since: u32,
    pub(super) mbuf: Mbuf,
    pub(super) headers: Headers,
    /// What was decided this round, and the slot that its flow has now.
    pub(super) verdict: Verdict,
    pub(super) slot: Option<Slot>,
}

/// All that wait, in the order of their coming. Its memory is allocated once.
#[derive(Debug)]
pub(super) struct HoldQueue {
    queue: VecDeque<Held>,
    /// How many wait, by a hash of their slots: tells in one load that none of a direction does.
    waiting: [u16; BUCKETS],
}

const BUCKETS: usize = 256;

const fn bucket(slot: Slot) -> usize {
    slot.to_bits() as usize % BUCKETS
}

impl Default for HoldQueue {
    fn default() -> Self {
        Self { queue: VecDeque::with_capacity(CAPACITY), waiting: [0; BUCKETS] }
    }
}

impl HoldQueue {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Packets of this direction may be waiting. (One that hashes alike makes a packet wait for a round: no harm.)
    pub(super) fn concerns(&self, slot: Slot) -> bool {
        !self.queue.is_empty() && self.waiting[bucket(slot)] > 0
    }

    /// Adds a packet; gives it back if there is no room.
    pub(super) fn push(&mut self, held: Held) -> Result<(), Held> {
        if self.queue.len() == CAPACITY {
            return Err(held);
        }
        self.waiting[bucket(held.flow.slot)] += 1;
        self.queue.push_back(held);
        Ok(())
    }

    /// The one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Held> {
        let held = self.queue.pop_front()?;
        self.waiting[bucket(held.flow.slot)] -= 1;
        Some(held)
    }

    /// All that wait, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.queue.iter_mut()
    }
}
