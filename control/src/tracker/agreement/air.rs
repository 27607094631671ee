//! What the world's packets fly through.

use std::fmt::Debug;

use dataplane::flow::{EntryState, FiveTuple, FlowRef, Key};

use super::kernel::{Direction, Kind, Sent};
use crate::tracker::testing::Model;
use crate::tracker::{Millis, Plane};

/// What a NIC did with a packet before any worker saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByNic {
    /// It gave it to software.
    Software,
    /// It sent it on; `counted`: and can tell.
    Sent { sent: Sent, counted: bool },
    /// A rule took it that the NIC does not let go of, which is known.
    Astray,
}

/// A plane with workers, and perhaps NICs.
pub(crate) trait Air: Plane + Debug {
    /// How much later than it flew a packet may be known of, in milliseconds.
    const KNOWN_LATE: Millis;

    /// An empty one; `room`: connections that it has room for, if not for all.
    fn new(room: Option<usize>) -> Self;

    /// The process is killed, and another one begins.
    fn restart(&mut self, room: Option<usize>);

    /// The direction with this key.
    fn find(&self, key: &Key) -> Option<FlowRef>;

    /// All directions.
    fn flows(&self) -> Vec<FlowRef>;

    /// A packet comes in by the wire: what the NIC does.
    fn nic(&mut self, direction: Direction, tuple: &FiveTuple, kind: Kind) -> ByNic;

    /// A worker has sent a packet of this direction.
    fn flew(&mut self, flow: FlowRef, now: Millis);

    /// A worker moves a direction to another state.
    fn worker_sets(&mut self, flow: FlowRef, state: EntryState);

    /// What packets given to the kernel are stamped with.
    fn epoch(&self) -> u32;

    /// Time has passed.
    fn pass(&mut self, now: Millis);

    /// What holds at all times.
    fn check(&self);
}

impl Air for Model {
    const KNOWN_LATE: Millis = 0;

    fn new(room: Option<usize>) -> Self {
        Self { room: room.map(|room| 2 * room), ..Self::default() }
    }

    fn restart(&mut self, room: Option<usize>) {
        *self = <Self as Air>::new(room);
    }

    fn find(&self, key: &Key) -> Option<FlowRef> {
        Self::find(self, key)
    }

    fn flows(&self) -> Vec<FlowRef> {
        self.entries.values().filter_map(|entry| self.find(&entry.key)).collect()
    }

    fn nic(&mut self, _: Direction, _: &FiveTuple, _: Kind) -> ByNic {
        ByNic::Software
    }

    fn flew(&mut self, flow: FlowRef, now: Millis) {
        if let Some(key) = self.key(flow) {
            self.fly(key.tuple(), now);
        }
    }

    fn worker_sets(&mut self, flow: FlowRef, state: EntryState) {
        self.set_state(flow, state);
    }

    fn epoch(&self) -> u32 {
        self.epoch
    }

    fn pass(&mut self, _: Millis) {}

    fn check(&self) {}
}
