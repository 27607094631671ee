//! Entries: one cache line for IPv4, two for IPv6, read and counted by workers while control writes.
//!
//! Key and rewrite are written before the entry is published and never again until its grace period is over.
//! Everything else may change under a reader, one word at a time. Every word is an atomic; on x86 the relaxed
//! accesses are plain moves.

#![allow(unsafe_code)]

mod status;
mod v4;
mod v6;
mod view;

use std::fmt;

pub(crate) use status::{Status, Totals};
pub use v4::Entry4;
pub(crate) use v4::Line4;
pub use v6::Entry6;
pub(crate) use v6::Line6;
pub use view::{Entry, EntryView};

use super::arena::Arena;
use super::hash::{HashKey, HashMethod};
use super::region::Zeroed;
use super::sync::Ordering;
use super::{FlowTable, Key, Slot};

const RELAXED: Ordering = Ordering::Relaxed;

/// What the table and its workers must be able to do with an entry of a family.
pub(crate) trait Line: Zeroed + fmt::Debug + 'static {
    type Key: Copy + Default + Eq + fmt::Debug;

    /// As many keys go through a stage of the lookup at once: few calls and many lines under way at a time, but no
    /// more than the processor has places for (some two dozen), as it does nothing else while it lacks one.
    const PART: usize;

    /// Where this family's entries are.
    fn arena(table: &FlowTable) -> &Arena<Self>;

    /// Names the entry at `index` of this family's arena.
    fn slot(index: u32) -> Slot;

    /// Hashes a key of this family.
    ///
    /// # Safety
    /// The processor has what `H` needs.
    unsafe fn hash<H: HashMethod>(secret: &HashKey, key: &Self::Key) -> u64;

    /// Asks for all the entry's lines. A hint: any address will do.
    fn prefetch_at(entry: *const Self);

    fn status(&self) -> &Status;
    fn matches(&self, key: &Self::Key) -> bool;
    fn key(&self) -> Self::Key;

    /// The same, when the family does not matter.
    fn any_key(key: Self::Key) -> Key;

    /// The entry as others see it.
    fn view(&self) -> Entry<'_>;

    /// The headers of the shortest packet that is [applied](Self::apply) to, from the IP header on.
    const HEADERS: usize;

    /// Makes a packet, from its IP header on, what leaves; false, and no change, if it is too short. `flags` are the
    /// entry's.
    fn apply(&self, packet: &mut [u8], flags: u8) -> bool;

    /// Writes a new flow into a line that nobody can find: candidate, no adjacency, counters at 0.
    fn write(&self, key: &Self::Key, leaves_as: &Self::Key);

    fn generation(&self) -> u16 {
        self.status().generation()
    }

    /// Whether the entry can be found: from when it is [published](Arena::publish) until it is withdrawn.
    #[inline(always)]
    fn is_live(&self) -> bool {
        self.status().is_live()
    }

    /// It can be found from here on.
    fn appear(&self) {
        self.status().appear();
    }

    /// It can't be found any more.
    fn vanish(&self) {
        self.status().vanish();
    }
}
