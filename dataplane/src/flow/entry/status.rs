//! The words that change while an entry can be found, the same for both families.

use super::RELAXED;
use crate::flow::sync::{AtomicU32, AtomicU64, Ordering};
use crate::flow::{AdjacencyId, ContextTable, EntryState};

/// The lowest bit of the generation, in [`Status::proved`]'s place: set while the entry can be found.
const LIVE: u32 = 1 << 16;

/// The small words of an entry of either family.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Status {
    /// Context (16 bits, lowest), protocol (8), state (8).
    meta: AtomicU32,
    /// Adjacency (24 bits, lowest), flags (8).
    egress: AtomicU32,
    /// Proved length (16 bits, lowest), generation (16): odd while the entry can be found.
    proved: AtomicU32,
    /// Checksum differences: IP header (16 bits, lowest), L4 (16).
    deltas: AtomicU32,
    last_ack: AtomicU32,
    last_seen: AtomicU32,
}

/// Counters of an entry of either family.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Totals {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Status {
    /// Starts over for a new flow in the same slot, whose generation begins when it [can be found](Self::appear).
    pub(super) fn reset(&self, proto: u8, [ip_delta, l4_delta]: [u16; 2]) {
        self.proved.store(u32::from(self.generation()) << 16, RELAXED);
        self.meta.store(meta(ContextTable::NONE, proto, EntryState::Candidate), RELAXED);
        self.egress.store(AdjacencyId::NONE.0, RELAXED);
        self.deltas.store(u32::from(ip_delta) | u32::from(l4_delta) << 16, RELAXED);
        self.last_ack.store(0, RELAXED);
        self.last_seen.store(0, RELAXED);
    }

    #[inline(always)]
    pub(super) fn proto(&self) -> u8 {
        (self.meta.load(RELAXED) >> 16) as u8
    }

    /// State and context of one moment.
    #[inline(always)]
    pub(super) fn state_and_context(&self) -> (EntryState, u16) {
        // Acquire: context, adjacency and proved length are at least as new as the state.
        let meta = self.meta.load(Ordering::Acquire);
        (state_of(meta), meta as u16)
    }

    #[inline(always)]
    pub(super) fn context(&self) -> u16 {
        self.meta.load(RELAXED) as u16
    }

    /// Adjacency and flags of one moment.
    #[inline(always)]
    pub(super) fn egress(&self) -> (AdjacencyId, u8) {
        let egress = self.egress.load(RELAXED);
        (AdjacencyId(egress & AdjacencyId::MASK), (egress >> 24) as u8)
    }

    #[inline(always)]
    pub(super) fn proved_length(&self) -> u16 {
        self.proved.load(RELAXED) as u16
    }

    #[inline(always)]
    pub(super) fn generation(&self) -> u16 {
        (self.proved.load(RELAXED) >> 16) as u16
    }

    /// Whether the entry can be found; then all is seen that was written before.
    #[inline(always)]
    pub(super) fn is_live(&self) -> bool {
        self.proved.load(Ordering::Acquire) & LIVE != 0
    }

    /// The entry can be found from here on. For the writer.
    pub(super) fn appear(&self) {
        self.next_generation();
    }

    /// The entry can't be found any more. For the writer.
    pub(super) fn vanish(&self) {
        self.next_generation();
    }

    fn next_generation(&self) {
        // The proved length is the lower half: nothing carries over into it.
        self.proved.store(self.proved.load(RELAXED).wrapping_add(LIVE), Ordering::Release);
    }

    /// Checksum differences: of the IP header, and of L4.
    #[inline(always)]
    pub(super) fn deltas(&self) -> [u16; 2] {
        let deltas = self.deltas.load(RELAXED);
        [deltas as u16, (deltas >> 16) as u16]
    }

    #[inline(always)]
    pub(super) fn last_ack(&self) -> &AtomicU32 {
        &self.last_ack
    }

    #[inline(always)]
    pub(super) fn last_seen(&self) -> &AtomicU32 {
        &self.last_seen
    }

    /// Moves to `state` from whatever it is.
    pub(super) fn set_state(&self, state: EntryState) {
        self.update(|meta| Some(with_state(meta, state)));
    }

    /// Moves from one state to another; false if it is not, or no longer, `from`.
    pub(super) fn transition(&self, from: EntryState, to: EntryState) -> bool {
        self.update(|meta| (state_of(meta) == from).then(|| with_state(meta, to)))
    }

    /// Changes `meta` unless `change` gives up; says whether it did. Workers move states while control writes
    /// contexts, so both go through here.
    fn update(&self, change: impl Fn(u32) -> Option<u32>) -> bool {
        let mut meta = self.meta.load(RELAXED);
        while let Some(new) = change(meta) {
            match self.meta.compare_exchange_weak(meta, new, Ordering::Release, RELAXED) {
                Ok(_) => return true,
                Err(now) => meta = now,
            }
        }
        false
    }

    /// For the writer.
    pub(crate) fn set_forwarding(&self, context: u16, adjacency: AdjacencyId, flags: u8) {
        self.egress.store(adjacency.0 & AdjacencyId::MASK | u32::from(flags) << 24, RELAXED);
        self.update(|meta| Some(meta & !0xffff | u32::from(context)));
    }

    /// For the writer.
    pub(crate) fn set_proved_length(&self, length: u16) {
        let proved = self.proved.load(RELAXED);
        // Release: whoever sees by this word that the entry is live sees all of it.
        self.proved.store(proved & !0xffff | u32::from(length), Ordering::Release);
    }
}

impl Totals {
    pub(super) fn reset(&self) {
        self.packets.store(0, RELAXED);
        self.bytes.store(0, RELAXED);
    }

    /// Adds one packet: a plain load and store each. Says how many there are.
    #[inline(always)]
    pub(super) fn count(&self, bytes: u32) -> u64 {
        let packets = self.packets.load(RELAXED).wrapping_add(1);
        self.packets.store(packets, RELAXED);
        self.bytes.store(self.bytes.load(RELAXED).wrapping_add(u64::from(bytes)), RELAXED);
        packets
    }

    pub(super) fn packets(&self) -> u64 {
        self.packets.load(RELAXED)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(RELAXED)
    }
}

fn meta(context: u16, proto: u8, state: EntryState) -> u32 {
    u32::from(context) | u32::from(proto) << 16 | u32::from(state as u8) << 24
}

#[inline(always)]
fn state_of(meta: u32) -> EntryState {
    EntryState::from_byte((meta >> 24) as u8)
}

fn with_state(meta: u32, state: EntryState) -> u32 {
    meta & 0x00ff_ffff | u32::from(state as u8) << 24
}
