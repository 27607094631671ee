//! Entries as others see them.

use super::{Entry4, Entry6, RELAXED, Status, Totals};
use crate::flow::{AdjacencyId, EntryState, Key};

/// An entry of either family.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// IPv4.
    V4(Entry4<'a>),
    /// IPv6.
    V6(Entry6<'a>),
}

/// What can be asked and told of an entry of either family.
pub trait EntryView: Copy {
    #[doc(hidden)]
    fn status(&self) -> &Status;
    #[doc(hidden)]
    fn totals(&self) -> &Totals;

    /// The 5-tuple of this direction's packets as they come in.
    fn key(&self) -> Key;

    /// The 5-tuple of this direction's packets as they leave.
    fn leaves_as(&self) -> Key;

    /// Where this direction's packets go.
    #[inline]
    fn state(&self) -> EntryState {
        self.status().state_and_context().0
    }

    /// [`state`](Self::state) and [`context`](Self::context) of one moment, in one load.
    #[inline]
    fn state_and_context(&self) -> (EntryState, u16) {
        self.status().state_and_context()
    }

    /// Moves to `state` from whatever it is. For control.
    fn set_state(&self, state: EntryState) {
        self.status().set_state(state);
    }

    /// Moves from one state to another; false if the entry was not, or no longer, in `from`.
    fn transition(&self, from: EntryState, to: EntryState) -> bool {
        self.status().transition(from, to)
    }

    /// The ingress context that packets must have; [`NONE`](crate::flow::ContextTable::NONE) until control has
    /// learnt it.
    #[inline]
    fn context(&self) -> u16 {
        self.status().context()
    }

    /// IP protocol.
    #[inline]
    fn proto(&self) -> u8 {
        self.status().proto()
    }

    /// Where and in what packets leave; [`AdjacencyId::NONE`] until control has learnt it.
    #[inline]
    fn adjacency(&self) -> AdjacencyId {
        self.status().egress().0
    }

    /// The flags that control gave with the adjacency.
    #[inline]
    fn flags(&self) -> u8 {
        self.status().egress().1
    }

    /// [`adjacency`](Self::adjacency) and [`flags`](Self::flags), in one load.
    #[inline]
    fn egress(&self) -> (AdjacencyId, u8) {
        self.status().egress()
    }

    /// The longest L3 packet that the kernel was seen to send on unfragmented.
    #[inline]
    fn proved_length(&self) -> u16 {
        self.status().proved_length()
    }

    /// Which of the flows that this slot has held.
    #[inline]
    fn generation(&self) -> u16 {
        self.status().generation()
    }

    /// Counts one packet, and says how many there are. Only the worker that carries the direction calls this.
    #[inline]
    fn count(&self, bytes: u32, now_ms: u32) -> u64 {
        let packets = self.totals().count(bytes);
        self.touch(now_ms);
        packets
    }

    /// Packets counted.
    fn packets(&self) -> u64 {
        self.totals().packets()
    }

    /// Bytes counted.
    fn bytes(&self) -> u64 {
        self.totals().bytes()
    }

    /// When the last packet was counted: milliseconds since the process started, wrapping.
    #[inline]
    fn last_seen(&self) -> u32 {
        self.status().last_seen().load(RELAXED)
    }

    /// The acknowledgement number of the last TCP segment of this direction.
    #[inline]
    fn last_ack(&self) -> u32 {
        self.status().last_ack().load(RELAXED)
    }

    /// Notes a packet that does not count as carried.
    #[inline]
    fn touch(&self, now_ms: u32) {
        self.status().last_seen().store(now_ms, RELAXED);
    }

    /// Remembers an acknowledgement number.
    #[inline]
    fn set_last_ack(&self, ack: u32) {
        self.status().last_ack().store(ack, RELAXED);
    }
}

impl EntryView for Entry<'_> {
    #[inline(always)]
    fn status(&self) -> &Status {
        match self {
            Self::V4(entry) => entry.status(),
            Self::V6(entry) => entry.status(),
        }
    }

    #[inline(always)]
    fn totals(&self) -> &Totals {
        match self {
            Self::V4(entry) => entry.totals(),
            Self::V6(entry) => entry.totals(),
        }
    }

    fn key(&self) -> Key {
        match self {
            Self::V4(entry) => entry.key(),
            Self::V6(entry) => entry.key(),
        }
    }

    fn leaves_as(&self) -> Key {
        match self {
            Self::V4(entry) => entry.leaves_as(),
            Self::V6(entry) => entry.leaves_as(),
        }
    }
}
