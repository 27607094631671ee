//! Entries: one cache line for IPv4, two for IPv6, read and counted by workers while control writes.
//!
//! Key and rewrite are written before the entry is published and never again until its grace period is over.
//! Everything else may change under a reader, one word at a time. Every word is an atomic; on x86 the relaxed
//! accesses are plain moves.

#![allow(unsafe_code)]

use std::fmt;

use super::flags::BRIDGED;
use super::hash::{HashKey, HashMethod};
use super::region::Zeroed;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use super::tags::prefetch;
use super::{AdjacencyId, ContextTable, EntryState, Key, Key4, Key6, Slot};
use crate::packet::{Rewrite4, Rewrite6};

const RELAXED: Ordering = Ordering::Relaxed;

/// The small words of an entry of either family.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Status {
    /// Context (16 bits, lowest), protocol (8), state (8).
    meta: AtomicU32,
    /// Adjacency (24 bits, lowest), flags (8).
    egress: AtomicU32,
    /// Proved length (16 bits, lowest), generation (16).
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

/// An IPv4 entry.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub(crate) struct Line4 {
    /// Source (low half) and destination address.
    addresses: AtomicU64,
    new_addresses: AtomicU64,
    ports: AtomicU32,
    new_ports: AtomicU32,
    status: Status,
    totals: Totals,
}

/// An IPv6 entry. What the match and most packets need is in the first line.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub(crate) struct Line6 {
    addresses: [AtomicU64; 4],
    ports: AtomicU32,
    new_ports: AtomicU32,
    status: Status,
    new_addresses: [AtomicU64; 4],
    totals: Totals,
    _spare: [AtomicU64; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line4>() == 64 && size_of::<Line6>() == 128);

// SAFETY: made of atomic integers alone, whose default is 0 and which may be 0.
unsafe impl Zeroed for Line4 {}
// SAFETY: as above.
unsafe impl Zeroed for Line6 {}

/// What the table must be able to do with an entry of a family.
pub(crate) trait Line: Zeroed {
    type Key: Copy + Eq + fmt::Debug;

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

    /// Writes a new flow into a line that nobody can find: candidate, no adjacency, counters at 0.
    fn write(&self, key: &Self::Key, leaves_as: &Self::Key);

    fn generation(&self) -> u16 {
        (self.status().proved.load(RELAXED) >> 16) as u16
    }
}

impl Status {
    /// Starts over for a new flow in the same slot.
    fn reset(&self, proto: u8, deltas: u32) {
        let generation = (self.proved.load(RELAXED) >> 16).wrapping_add(1);
        self.proved.store(generation << 16, RELAXED);
        self.meta.store(meta(ContextTable::NONE, proto, EntryState::Candidate), RELAXED);
        self.egress.store(AdjacencyId::NONE.0, RELAXED);
        self.deltas.store(deltas, RELAXED);
        self.last_ack.store(0, RELAXED);
        self.last_seen.store(0, RELAXED);
    }

    #[inline]
    fn proto(&self) -> u8 {
        (self.meta.load(RELAXED) >> 16) as u8
    }
}

impl Totals {
    fn reset(&self) {
        self.packets.store(0, RELAXED);
        self.bytes.store(0, RELAXED);
    }
}

fn meta(context: u16, proto: u8, state: EntryState) -> u32 {
    u32::from(context) | u32::from(proto) << 16 | u32::from(state as u8) << 24
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn load_all(words: &[AtomicU64; 4]) -> [[u64; 2]; 2] {
    let [a, b, c, d] = words.each_ref().map(|word| word.load(RELAXED));
    [[a, b], [c, d]]
}

fn store_all(words: &[AtomicU64; 4], [[a, b], [c, d]]: [[u64; 2]; 2]) {
    for (word, value) in words.iter().zip([a, b, c, d]) {
        word.store(value, RELAXED);
    }
}

impl Line for Line4 {
    type Key = Key4;

    #[inline(always)]
    fn slot(index: u32) -> Slot {
        Slot::v4(index)
    }

    #[inline(always)]
    unsafe fn hash<H: HashMethod>(secret: &HashKey, key: &Key4) -> u64 {
        // SAFETY: passed on to the caller.
        unsafe { H::hash4(secret, key) }
    }

    #[inline(always)]
    fn prefetch_at(entry: *const Self) {
        prefetch(entry);
    }

    #[inline]
    fn status(&self) -> &Status {
        &self.status
    }

    #[inline]
    fn matches(&self, key: &Key4) -> bool {
        let addresses = self.addresses.load(RELAXED) ^ join(key.src, key.dst);
        let rest = (self.ports.load(RELAXED) ^ key.ports) | u32::from(self.status.proto() ^ key.proto);
        addresses | u64::from(rest) == 0
    }

    fn key(&self) -> Key4 {
        let addresses = self.addresses.load(RELAXED);
        Key4 {
            src: addresses as u32,
            dst: (addresses >> 32) as u32,
            ports: self.ports.load(RELAXED),
            proto: self.status.proto(),
        }
    }

    fn write(&self, key: &Key4, leaves_as: &Key4) {
        let Rewrite4 { src, dst, ports, ip_delta, l4_delta, .. } = Rewrite4::between(key, leaves_as, true);
        self.addresses.store(join(key.src, key.dst), RELAXED);
        self.new_addresses.store(join(src, dst), RELAXED);
        self.ports.store(key.ports, RELAXED);
        self.new_ports.store(ports, RELAXED);
        self.status.reset(key.proto, u32::from(ip_delta) | u32::from(l4_delta) << 16);
        self.totals.reset();
    }
}

impl Line for Line6 {
    type Key = Key6;

    #[inline(always)]
    fn slot(index: u32) -> Slot {
        Slot::v6(index)
    }

    #[inline(always)]
    unsafe fn hash<H: HashMethod>(secret: &HashKey, key: &Key6) -> u64 {
        // SAFETY: passed on to the caller.
        unsafe { H::hash6(secret, key) }
    }

    #[inline(always)]
    fn prefetch_at(entry: *const Self) {
        prefetch(entry);
        prefetch(entry.wrapping_byte_add(64));
    }

    #[inline]
    fn status(&self) -> &Status {
        &self.status
    }

    #[inline]
    fn matches(&self, key: &Key6) -> bool {
        let [src, dst] = load_all(&self.addresses);
        let addresses =
            (src[0] ^ key.src[0]) | (src[1] ^ key.src[1]) | (dst[0] ^ key.dst[0]) | (dst[1] ^ key.dst[1]);
        let rest = (self.ports.load(RELAXED) ^ key.ports) | u32::from(self.status.proto() ^ key.proto);
        addresses | u64::from(rest) == 0
    }

    fn key(&self) -> Key6 {
        let [src, dst] = load_all(&self.addresses);
        Key6 { src, dst, ports: self.ports.load(RELAXED), proto: self.status.proto() }
    }

    fn write(&self, key: &Key6, leaves_as: &Key6) {
        let Rewrite6 { src, dst, ports, l4_delta, .. } = Rewrite6::between(key, leaves_as, true);
        store_all(&self.addresses, [key.src, key.dst]);
        store_all(&self.new_addresses, [src, dst]);
        self.ports.store(key.ports, RELAXED);
        self.new_ports.store(ports, RELAXED);
        self.status.reset(key.proto, u32::from(l4_delta) << 16);
        self.totals.reset();
    }
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
        // Acquire: context, adjacency and proved length are at least as new as the state.
        state_of(self.status().meta.load(Ordering::Acquire))
    }

    /// [`state`](Self::state) and [`context`](Self::context) of one moment, in one load.
    #[inline]
    fn state_and_context(&self) -> (EntryState, u16) {
        let meta = self.status().meta.load(Ordering::Acquire);
        (state_of(meta), meta as u16)
    }

    /// Moves to `state` from whatever it is. For control.
    fn set_state(&self, state: EntryState) {
        self.status().update(|meta| Some(with_state(meta, state)));
    }

    /// Moves from one state to another; false if the entry was not, or no longer, in `from`.
    fn transition(&self, from: EntryState, to: EntryState) -> bool {
        self.status().update(|meta| (state_of(meta) == from).then(|| with_state(meta, to)))
    }

    /// The ingress context that packets must have; [`ContextTable::NONE`] until control has learnt it.
    #[inline]
    fn context(&self) -> u16 {
        self.status().meta.load(RELAXED) as u16
    }

    /// IP protocol.
    #[inline]
    fn proto(&self) -> u8 {
        self.status().proto()
    }

    /// Where and in what packets leave; [`AdjacencyId::NONE`] until control has learnt it.
    #[inline]
    fn adjacency(&self) -> AdjacencyId {
        AdjacencyId(self.status().egress.load(RELAXED) & AdjacencyId::MASK)
    }

    /// The flags that control gave with the adjacency.
    #[inline]
    fn flags(&self) -> u8 {
        (self.status().egress.load(RELAXED) >> 24) as u8
    }

    /// The longest L3 packet that the kernel was seen to send on unfragmented.
    #[inline]
    fn proved_length(&self) -> u16 {
        self.status().proved.load(RELAXED) as u16
    }

    /// Which of the flows that this slot has held.
    #[inline]
    fn generation(&self) -> u16 {
        (self.status().proved.load(RELAXED) >> 16) as u16
    }

    /// Counts one packet. Only the worker that carries the direction calls this: a plain load and store each.
    #[inline]
    fn count(&self, bytes: u32, now_ms: u32) {
        let totals = self.totals();
        totals.packets.store(totals.packets.load(RELAXED).wrapping_add(1), RELAXED);
        totals.bytes.store(totals.bytes.load(RELAXED).wrapping_add(u64::from(bytes)), RELAXED);
        self.status().last_seen.store(now_ms, RELAXED);
    }

    /// Packets counted.
    fn packets(&self) -> u64 {
        self.totals().packets.load(RELAXED)
    }

    /// Bytes counted.
    fn bytes(&self) -> u64 {
        self.totals().bytes.load(RELAXED)
    }

    /// When the last packet was counted: milliseconds since the process started, wrapping.
    #[inline]
    fn last_seen(&self) -> u32 {
        self.status().last_seen.load(RELAXED)
    }

    /// The acknowledgement number of the last TCP segment of this direction.
    #[inline]
    fn last_ack(&self) -> u32 {
        self.status().last_ack.load(RELAXED)
    }

    /// Notes a packet that does not count as carried.
    #[inline]
    fn touch(&self, now_ms: u32) {
        self.status().last_seen.store(now_ms, RELAXED);
    }

    /// Remembers an acknowledgement number.
    #[inline]
    fn set_last_ack(&self, ack: u32) {
        self.status().last_ack.store(ack, RELAXED);
    }
}

impl Status {
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
        self.proved.store(proved & !0xffff | u32::from(length), RELAXED);
    }
}

fn state_of(meta: u32) -> EntryState {
    EntryState::from_byte((meta >> 24) as u8)
}

fn with_state(meta: u32, state: EntryState) -> u32 {
    meta & 0x00ff_ffff | u32::from(state as u8) << 24
}

/// An IPv4 entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry4<'a>(pub(crate) &'a Line4);

/// An IPv6 entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry6<'a>(pub(crate) &'a Line6);

/// An entry of either family.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// IPv4.
    V4(Entry4<'a>),
    /// IPv6.
    V6(Entry6<'a>),
}

impl Entry4<'_> {
    /// What packets become.
    #[inline]
    pub fn rewrite4(&self) -> Rewrite4 {
        if self.flags() & BRIDGED != 0 {
            return self.bridged();
        }
        let addresses = self.0.new_addresses.load(RELAXED);
        let deltas = self.0.status.deltas.load(RELAXED);
        Rewrite4 {
            src: addresses as u32,
            dst: (addresses >> 32) as u32,
            ports: self.0.new_ports.load(RELAXED),
            ip_delta: deltas as u16,
            l4_delta: (deltas >> 16) as u16,
            decrement_ttl: true,
        }
    }

    /// What is stored includes the TTL's difference: that of bridged packets is computed.
    #[cold]
    fn bridged(&self) -> Rewrite4 {
        let key = self.0.key();
        let addresses = self.0.new_addresses.load(RELAXED);
        let ports = self.0.new_ports.load(RELAXED);
        let leaves = Key4 { src: addresses as u32, dst: (addresses >> 32) as u32, ports, proto: key.proto };
        Rewrite4::between(&key, &leaves, false)
    }
}

impl Entry6<'_> {
    /// What packets become.
    #[inline]
    pub fn rewrite6(&self) -> Rewrite6 {
        let [src, dst] = load_all(&self.0.new_addresses);
        let l4_delta = (self.0.status.deltas.load(RELAXED) >> 16) as u16;
        let decrement_ttl = self.flags() & BRIDGED == 0;
        Rewrite6 { src, dst, ports: self.0.new_ports.load(RELAXED), l4_delta, decrement_ttl }
    }
}

impl EntryView for Entry4<'_> {
    #[inline]
    fn status(&self) -> &Status {
        &self.0.status
    }

    #[inline]
    fn totals(&self) -> &Totals {
        &self.0.totals
    }

    fn key(&self) -> Key {
        Key::V4(self.0.key())
    }

    fn leaves_as(&self) -> Key {
        let Rewrite4 { src, dst, ports, .. } = self.rewrite4();
        Key::V4(Key4 { src, dst, ports, proto: self.proto() })
    }
}

impl EntryView for Entry6<'_> {
    #[inline]
    fn status(&self) -> &Status {
        &self.0.status
    }

    #[inline]
    fn totals(&self) -> &Totals {
        &self.0.totals
    }

    fn key(&self) -> Key {
        Key::V6(self.0.key())
    }

    fn leaves_as(&self) -> Key {
        let Rewrite6 { src, dst, ports, .. } = self.rewrite6();
        Key::V6(Key6 { src, dst, ports, proto: self.proto() })
    }
}

impl EntryView for Entry<'_> {
    #[inline(always)]
    fn status(&self) -> &Status {
        match self {
            Self::V4(entry) => &entry.0.status,
            Self::V6(entry) => &entry.0.status,
        }
    }

    #[inline]
    fn totals(&self) -> &Totals {
        match self {
            Self::V4(entry) => &entry.0.totals,
            Self::V6(entry) => &entry.0.totals,
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_key_matters() {
        let key = Key4 { src: 1, dst: 2, ports: 3, proto: 6 };
        let line = Line4::default();
        line.write(&key, &key);
        line.status.set_forwarding(u16::MAX, AdjacencyId::NONE, u8::MAX);
        assert!(line.matches(&key) && line.key() == key);
        for bit in 0..32 {
            let flip = 1u32 << bit;
            let others = [
                Key4 { src: key.src ^ flip, ..key },
                Key4 { dst: key.dst ^ flip, ..key },
                Key4 { ports: key.ports ^ flip, ..key },
                Key4 { proto: key.proto ^ 1 << (bit % 8), ..key },
            ];
            assert!(others.iter().all(|other| !line.matches(other)), "bit {bit}");
        }
    }

    #[test]
    fn every_bit_of_an_ipv6_key_matters() {
        let key = Key6 { src: [1, 2], dst: [3, 4], ports: 5, proto: 17 };
        let line = Line6::default();
        line.write(&key, &key);
        assert!(line.matches(&key) && line.key() == key);
        for bit in 0..64 {
            let flip = 1u64 << bit;
            let others = [
                Key6 { src: [key.src[0] ^ flip, key.src[1]], ..key },
                Key6 { src: [key.src[0], key.src[1] ^ flip], ..key },
                Key6 { dst: [key.dst[0] ^ flip, key.dst[1]], ..key },
                Key6 { dst: [key.dst[0], key.dst[1] ^ flip], ..key },
                Key6 { ports: key.ports ^ 1 << (bit % 32), ..key },
                Key6 { proto: key.proto ^ 1 << (bit % 8), ..key },
            ];
            assert!(others.iter().all(|other| !line.matches(other)), "bit {bit}");
        }
    }
}
