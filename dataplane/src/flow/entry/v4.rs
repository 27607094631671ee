//! IPv4 entries: one line.

use super::{Entry, EntryView, Line, RELAXED, Status, Totals};
use crate::flow::arena::Arena;
use crate::flow::flags::BRIDGED;
use crate::flow::hash::{HashKey, HashMethod};
use crate::flow::region::Zeroed;
use crate::flow::sync::{AtomicU32, AtomicU64};
use crate::flow::tags::prefetch;
use crate::flow::{FlowTable, Key, Key4, Slot};
use crate::packet::Rewrite4;
use crate::packet::wire::{IPV4_LEN, UDP_LEN};

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

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line4>() == 64);

// SAFETY: made of atomic integers alone, whose default is 0 and which may be 0.
unsafe impl Zeroed for Line4 {}

const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Line4 {
    /// What packets become; what is stored includes the difference of a TTL that goes down.
    #[inline(always)]
    fn routed(&self) -> Rewrite4 {
        let addresses = self.new_addresses.load(RELAXED);
        let [ip_delta, l4_delta] = self.status.deltas();
        Rewrite4 {
            src: addresses as u32,
            dst: (addresses >> 32) as u32,
            ports: self.new_ports.load(RELAXED),
            ip_delta,
            l4_delta,
            decrement_ttl: true,
        }
    }

    /// What bridged packets become: computed, since it happens seldom.
    fn bridged(&self) -> Rewrite4 {
        let (key, Rewrite4 { src, dst, ports, .. }) = (self.key(), self.routed());
        Rewrite4::between(&key, &Key4 { src, dst, ports, ..key }, false)
    }

    #[cold]
    #[inline(never)]
    fn apply_bridged(&self, packet: &mut [u8]) -> bool {
        self.bridged().apply(packet)
    }

    #[inline(always)]
    fn is_bridged(&self) -> bool {
        self.status.egress().1 & BRIDGED != 0
    }
}

impl Line for Line4 {
    type Key = Key4;

    const PART: usize = 16;
    const HEADERS: usize = IPV4_LEN + UDP_LEN;

    #[inline(always)]
    fn arena(table: &FlowTable) -> &Arena<Self> {
        &table.v4
    }

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

    #[inline(always)]
    fn status(&self) -> &Status {
        &self.status
    }

    #[inline(always)]
    fn matches(&self, key: &Key4) -> bool {
        self.addresses.load(RELAXED) == join(key.src, key.dst)
            && self.ports.load(RELAXED) == key.ports
            && u32::from(self.status.proto()) == key.proto
    }

    fn key(&self) -> Key4 {
        let addresses = self.addresses.load(RELAXED);
        Key4 {
            src: addresses as u32,
            dst: (addresses >> 32) as u32,
            ports: self.ports.load(RELAXED),
            proto: self.status.proto().into(),
        }
    }

    fn any_key(key: Key4) -> Key {
        Key::V4(key)
    }

    #[inline(always)]
    fn view(&self) -> Entry<'_> {
        Entry::V4(Entry4(self))
    }

    #[inline(always)]
    fn apply(&self, packet: &mut [u8], flags: u8) -> bool {
        if flags & BRIDGED != 0 { self.apply_bridged(packet) } else { self.routed().apply(packet) }
    }

    fn write(&self, key: &Key4, leaves_as: &Key4) {
        let Rewrite4 { src, dst, ports, ip_delta, l4_delta, .. } = Rewrite4::between(key, leaves_as, true);
        self.addresses.store(join(key.src, key.dst), RELAXED);
        self.new_addresses.store(join(src, dst), RELAXED);
        self.ports.store(key.ports, RELAXED);
        self.new_ports.store(ports, RELAXED);
        self.status.reset(key.proto as u8, [ip_delta, l4_delta]);
        self.totals.reset();
    }
}

/// An IPv4 entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry4<'a>(pub(crate) &'a Line4);

impl Entry4<'_> {
    /// What packets become.
    #[inline]
    pub fn rewrite4(&self) -> Rewrite4 {
        if self.0.is_bridged() { self.0.bridged() } else { self.0.routed() }
    }
}

impl EntryView for Entry4<'_> {
    #[inline(always)]
    fn status(&self) -> &Status {
        &self.0.status
    }

    #[inline(always)]
    fn totals(&self) -> &Totals {
        &self.0.totals
    }

    fn key(&self) -> Key {
        Key::V4(self.0.key())
    }

    fn leaves_as(&self) -> Key {
        let Rewrite4 { src, dst, ports, .. } = self.rewrite4();
        Key::V4(Key4 { src, dst, ports, proto: self.proto().into() })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::flow::AdjacencyId;

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
                Key4 { proto: key.proto ^ flip, ..key },
            ];
            assert!(others.iter().all(|other| !line.matches(other)), "bit {bit}");
        }
    }
}
