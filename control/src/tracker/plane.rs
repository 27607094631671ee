//! What the tracker needs of the dataplane: writing the flow table, and reading its counters.

use dataplane::flow::{EntryState, FlowRef, InsertError, Key};
use dataplane::punt::Proof;

use super::{Account, Carried};

/// What workers counted for one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounters {
    /// Packets past the kernel.
    pub packets: u64,
    /// Bytes of those, L2 included.
    pub bytes: u64,
    /// When the last one flew: milliseconds since the process started, wrapping; 0 if none did.
    pub last_seen: u32,
}

impl DirectionCounters {
    /// Together with what went another way.
    #[must_use]
    pub const fn with(self, other: &Self) -> Self {
        let later = other.last_seen.wrapping_sub(self.last_seen).cast_signed() > 0;
        let last_seen = match (self.last_seen, other.last_seen) {
            (0, seen) | (seen, 0) => seen,
            (_, other) if later => other,
            (own, _) => own,
        };
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes, last_seen }
    }
}

/// How a direction was set up by [`Plane::forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// As it was already: same ingress context, same egress, same L2 header.
    Unchanged,
    /// Something is new.
    Changed,
    /// There is no room for another context or adjacency: the direction can't fly.
    NoRoom,
}

/// The dataplane as the tracker sees it. All methods are immediate and never block.
///
/// A [`FlowRef`] that is stale is ignored by setters and answered by defaults.
pub trait Plane {
    /// Inserts both directions of a connection as candidates. `orig` and `reply` are conntrack's tuples.
    fn insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError>;
    /// Removes both directions.
    fn remove(&mut self, flows: [FlowRef; 2]);
    /// The connection that an occupied slot belongs to.
    fn owner(&self, flow: FlowRef) -> Option<u32>;
    /// The connection that has this key.
    fn owner_of_key(&self, key: &Key) -> Option<u32>;
    /// The direction's state.
    fn state(&self, flow: FlowRef) -> EntryState;
    /// Sets the direction's state.
    fn set_state(&mut self, flow: FlowRef, state: EntryState);
    /// Moves the direction from one state to another, unless a worker has moved it elsewhere.
    fn transition(&mut self, flow: FlowRef, from: EntryState, to: EntryState) -> bool;
    /// Gives the direction the ingress context, egress and L2 header of a proof.
    fn forward(&mut self, proof: &Proof) -> Forwarding;
    /// Sets the longest L3 length that flies; `refuse_longer`: longer ones go to the kernel one by one,
    /// instead of giving the direction back.
    fn set_length(&mut self, flow: FlowRef, length: u16, refuse_longer: bool);
    /// The longest L3 length that flies.
    fn length(&self, flow: FlowRef) -> u16;
    /// What workers counted.
    fn counters(&self, flow: FlowRef) -> DirectionCounters;
    /// The direction's key.
    fn key(&self, flow: FlowRef) -> Option<Key>;
    /// Ingress and egress port of a direction that was set up.
    fn ports(&self, flow: FlowRef) -> Option<(u16, u16)>;
    /// Destination MAC of the frames that the direction sends.
    fn next_hop(&self, flow: FlowRef) -> Option<[u8; 6]>;
    /// Stamps all packets that are given to the kernel from now on.
    fn set_epoch(&mut self, epoch: u32);
    /// What workers and NICs have carried of a direction.
    fn carried(&self, flow: FlowRef) -> [Carried; 2] {
        let DirectionCounters { packets, bytes, .. } = self.counters(flow);
        [Carried { packets, bytes, header: 0 }, Carried::default()]
    }
    /// Whether [`closed`](Self::closed) wants to be told.
    fn keeps_accounts(&self) -> bool {
        false
    }
    /// A connection is about to leave the table.
    fn closed(&mut self, _account: &Account) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_the_later_time_counts() {
        let counters = |packets, last_seen| DirectionCounters { packets, bytes: 10 * packets, last_seen };
        assert_eq!(counters(3, 50).with(&counters(4, 70)), counters(7, 70));
        assert_eq!(counters(3, 70).with(&counters(4, 50)), counters(7, 70));
        assert_eq!(counters(0, 0).with(&counters(4, u32::MAX)), counters(4, u32::MAX), "0: never");
        assert_eq!(counters(3, u32::MAX).with(&counters(4, 5)), counters(7, 5), "wrapped");
        assert_eq!(counters(3, 9).with(&counters(0, 0)), counters(3, 9));
    }
}
