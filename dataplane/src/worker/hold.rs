//! Packets that wait until earlier ones of their direction have come out of the kernel.

use std::collections::VecDeque;

use crate::dpdk::Mbuf;
use crate::flow::FlowRef;
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
}

/// All that wait, in the order of their coming. Its memory is allocated once.
#[derive(Debug)]
pub(super) struct HoldQueue(VecDeque<Held>);

impl Default for HoldQueue {
    fn default() -> Self {
        Self(VecDeque::with_capacity(CAPACITY))
    }
}

impl HoldQueue {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a packet; gives it back if there is no room.
    pub(super) fn push(&mut self, held: Held) -> Result<(), Held> {
        if self.0.len() == CAPACITY {
            return Err(held);
        }
        self.0.push_back(held);
        Ok(())
    }

    /// The one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Held> {
        self.0.pop_front()
    }
}
