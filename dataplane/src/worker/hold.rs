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
    /// Directions of which a packet was found to have to wait since all were last decided on.
    waiters: Waiters,
    /// How many wait, by a hash of their slots: tells in one load that none of a direction does.
    waiting: [u16; BUCKETS],
}

const BUCKETS: usize = 256;

const fn bucket(slot: Slot) -> usize {
    slot.to_bits() as usize % BUCKETS
}

impl Default for HoldQueue {
    fn default() -> Self {
        Self { queue: VecDeque::with_capacity(CAPACITY), waiters: Waiters::default(), waiting: [0; BUCKETS] }
    }
}

impl HoldQueue {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// All that wait.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.queue.iter_mut()
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

    /// Decides on all that wait, oldest first. Control may move a direction's state meanwhile: where one packet has to
    /// wait, those behind it wait too.
    pub(super) fn decide(&mut self, mut decide: impl FnMut(&Held) -> (Verdict, Option<Slot>)) {
        self.waiters.clear();
        for held in &mut self.queue {
            if self.waiters.contains(held.flow.slot) {
                held.verdict = Verdict::Hold;
                continue;
            }
            (held.verdict, held.slot) = decide(held);
            if held.verdict == Verdict::Hold {
                self.waiters.insert(held.flow.slot);
            }
        }
    }

    /// Decides on a packet that has just come, by the same rule; behind all that wait and those decided on before it.
    #[inline(always)]
    pub(super) fn decide_new(&mut self, slot: Slot, decide: impl FnOnce() -> Verdict) -> Verdict {
        if !self.waiters.is_empty() && self.waiters.contains(slot) {
            return Verdict::Hold;
        }
        let verdict = if self.concerns(slot) { Verdict::Hold } else { decide() };
        if verdict == Verdict::Hold {
            self.waiters.insert(slot);
        }
        verdict
    }
}

/// A set of slots, of fixed size: twice as many places as there can be packets that wait.
#[derive(Debug)]
struct Waiters {
    /// A slot, and the clearing since which it is in.
    places: Box<[(u32, u32); PLACES]>,
    clearing: u32,
    len: usize,
}

const PLACES: usize = (2 * (CAPACITY + super::BURST)).next_power_of_two();

impl Default for Waiters {
    fn default() -> Self {
        Self { places: Box::new([(0, 0); PLACES]), clearing: 1, len: 0 }
    }
}

impl Waiters {
    fn clear(&mut self) {
        if self.len == 0 {
            return;
        }
        self.len = 0;
        self.clearing = self.clearing.wrapping_add(1);
        if self.clearing == 0 {
            // What was left by the clearing of this number four thousand million ago.
            self.places.fill((0, 0));
            self.clearing = 1;
        }
    }

    const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn contains(&self, slot: Slot) -> bool {
        self.place(slot).is_some_and(|(_, found)| found)
    }

    fn insert(&mut self, slot: Slot) {
        if let Some((place, false)) = self.place(slot) {
            self.places[place % PLACES] = (slot.to_bits(), self.clearing);
            self.len += 1;
        }
    }

    /// Where a slot is, or would be put.
    fn place(&self, slot: Slot) -> Option<(usize, bool)> {
        let first = (slot.to_bits().wrapping_mul(0x9e37_79b1) >> 16) as usize;
        (first..first + PLACES).find_map(|at| {
            let (other, clearing) = self.places[at % PLACES];
            let vacant = clearing != self.clearing;
            (vacant || other == slot.to_bits()).then_some((at % PLACES, !vacant))
        })
    }
}
