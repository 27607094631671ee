//! IPv6 entries: two lines.

use super::{Entry, EntryView, Line, RELAXED, Status, Totals};
use crate::flow::arena::Arena;
use crate::flow::flags::BRIDGED;
use crate::flow::hash::{HashKey, HashMethod};
use crate::flow::region::Zeroed;
use crate::flow::sync::{AtomicU32, AtomicU64};
use crate::flow::tags::prefetch;
use crate::flow::{FlowTable, Key, Key6, Slot};
use crate::packet::Rewrite6;
use crate::packet::wire::{IPV6_LEN, UDP_LEN};

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
const _: () = assert!(size_of::<Line6>() == 128);

// SAFETY: made of atomic integers alone, whose default is 0 and which may be 0.
unsafe impl Zeroed for Line6 {}

#[inline(always)]
fn load_all(words: &[AtomicU64; 4]) -> [[u64; 2]; 2] {
    let [a, b, c, d] = words.each_ref().map(|word| word.load(RELAXED));
    [[a, b], [c, d]]
}

fn store_all(words: &[AtomicU64; 4], [[a, b], [c, d]]: [[u64; 2]; 2]) {
    for (word, value) in words.iter().zip([a, b, c, d]) {
        word.store(value, RELAXED);
    }
}

impl Line6 {
    #[inline(always)]
    fn rewrite(&self, flags: u8) -> Rewrite6 {
        let [src, dst] = load_all(&self.new_addresses);
        let [_, l4_delta] = self.status.deltas();
        let decrement_ttl = flags & BRIDGED == 0;
        Rewrite6 { src, dst, ports: self.new_ports.load(RELAXED), l4_delta, decrement_ttl }
    }
}

impl Line for Line6 {
    type Key = Key6;

    const PART: usize = 8;
    const HEADERS: usize = IPV6_LEN + UDP_LEN;

    #[inline(always)]
    fn arena(table: &FlowTable) -> &Arena<Self> {
        &table.v6
    }

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

    #[inline(always)]
    fn status(&self) -> &Status {
        &self.status
    }

    #[inline(always)]
    fn matches(&self, key: &Key6) -> bool {
        let [src, dst] = load_all(&self.addresses);
        let addresses =
            (src[0] ^ key.src[0]) | (src[1] ^ key.src[1]) | (dst[0] ^ key.dst[0]) | (dst[1] ^ key.dst[1]);
        addresses == 0 && self.ports.load(RELAXED) == key.ports && u32::from(self.status.proto()) == key.proto
    }

    fn key(&self) -> Key6 {
        let [src, dst] = load_all(&self.addresses);
        Key6 { src, dst, ports: self.ports.load(RELAXED), proto: self.status.proto().into() }
    }

    fn any_key(key: Key6) -> Key {
        Key::V6(key)
    }

    #[inline(always)]
    fn view(&self) -> Entry<'_> {
        Entry::V6(Entry6(self))
    }

    #[inline(always)]
    fn apply(&self, packet: &mut [u8], flags: u8) -> bool {
        self.rewrite(flags).apply(packet)
    }

    fn write(&self, key: &Key6, leaves_as: &Key6) {
        let Rewrite6 { src, dst, ports, l4_delta, .. } = Rewrite6::between(key, leaves_as, true);
        store_all(&self.addresses, [key.src, key.dst]);
        store_all(&self.new_addresses, [src, dst]);
        self.ports.store(key.ports, RELAXED);
        self.new_ports.store(ports, RELAXED);
        self.status.reset(key.proto as u8, [0, l4_delta]);
        self.totals.reset();
    }
}

/// An IPv6 entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry6<'a>(pub(crate) &'a Line6);

impl Entry6<'_> {
    /// What packets become.
    #[inline]
    pub fn rewrite6(&self) -> Rewrite6 {
        self.0.rewrite(self.0.status.egress().1)
    }
}

impl EntryView for Entry6<'_> {
    #[inline(always)]
    fn status(&self) -> &Status {
        &self.0.status
    }

    #[inline(always)]
    fn totals(&self) -> &Totals {
        &self.0.totals
    }

    fn key(&self) -> Key {
        Key::V6(self.0.key())
    }

    fn leaves_as(&self) -> Key {
        let Rewrite6 { src, dst, ports, .. } = self.rewrite6();
        Key::V6(Key6 { src, dst, ports, proto: self.proto().into() })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_key_matters() {
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
                Key6 { proto: key.proto ^ 1 << (bit % 32), ..key },
            ];
            assert!(others.iter().all(|other| !line.matches(other)), "bit {bit}");
        }
    }
}
