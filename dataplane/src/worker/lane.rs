//! The lane: the packets of a burst that could fly, looked up together.
//!
//! A burst is taken in parts. While one part is parsed, the tags of the one before are on their way from memory,
//! and when these are compared, its entries: what one packet waits for is hidden behind the work on others.
//! Nothing is moved but the pointers to the packets; all else stays where it was written first.

use arrayvec::ArrayVec;

use super::decide::{self, Verdict};
use super::hold::HoldQueue;
use super::{BURST, WorkerLink};
use crate::dpdk::Mbuf;
use crate::flow::{FlowTable, Key, Key4, Key6, Lookup, Slot};
use crate::packet::{Headers, PuntReason, Refusal, parse_other_into, parse_plain4_into};
use crate::punt::PuntEvent;

/// Packets of a part: enough for the memory to be busy, few enough for their lines to be there before they are
/// used and not gone again after.
const PART: usize = 16;
const PARTS: usize = BURST.div_ceil(PART);

/// One burst's packets with what is known of them, in the order of their coming.
#[derive(Debug)]
pub(super) struct Lane {
    mbufs: ArrayVec<Mbuf, BURST>,
    headers: [Headers; BURST],
    slots: [Option<Slot>; BURST],
    verdicts: [Verdict; BURST],
    parts: [Part; PARTS],
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            mbufs: ArrayVec::new(),
            headers: [Headers::default(); BURST],
            slots: [None; BURST],
            verdicts: [Verdict::Hold; BURST],
            parts: Default::default(),
        }
    }
}

/// A packet in its lane: where it is, what it says, and what becomes of it.
#[derive(Debug)]
pub(super) struct Laned<'a> {
    pub(super) mbuf: Mbuf,
    pub(super) headers: &'a Headers,
    pub(super) slot: Option<Slot>,
    pub(super) verdict: Verdict,
}

impl Lane {
    /// Parses a packet and takes it in, or gives it back with the reason why it can't fly.
    #[inline(always)]
    pub(super) fn push(&mut self, mbuf: Mbuf, port: u16, table: &FlowTable) -> Result<(), (Mbuf, Refusal)> {
        let at = self.mbufs.len();
        let Some(headers) = self.headers.get_mut(at) else {
            // A burst has no more packets than the lane places.
            return Ok(());
        };
        let part = at / PART;
        if let Some(key) = parse_plain4_into(mbuf.data(), port, headers) {
            self.parts[part].v4.push(at, key);
        } else if let Err(refusal) = parse_other_into(mbuf.data(), port, headers) {
            return Err((mbuf, refusal));
        } else {
            self.parts[part].push(at, &headers.key);
        }
        self.mbufs.push(mbuf);
        if at % PART == PART - 1 {
            self.parts[part].prepare(table);
            if let Some(before) = part.checked_sub(1) {
                self.parts[before].find(table);
            }
        }
        Ok(())
    }

    /// Finishes the lookups that the packets' coming has begun.
    pub(super) fn look_up(&mut self, table: &FlowTable) {
        let len = self.mbufs.len();
        let (whole, rest) = (len / PART, len % PART);
        if rest > 0 {
            self.parts[whole].prepare(table);
        }
        if let Some(last) = whole.checked_sub(1) {
            self.parts[last].find(table);
        }
        if rest > 0 {
            self.parts[whole].find(table);
        }
        for part in &mut self.parts[..len.div_ceil(PART)] {
            part.confirm(table, &mut self.slots);
        }
    }

    /// Decides on each packet, reading every entry's state before anything is sent.
    pub(super) fn decide(&mut self, link: &WorkerLink, held: &mut HoldQueue, now: u32) {
        let packets = self.mbufs.iter().zip(&self.headers).zip(&self.slots);
        for (((mbuf, headers), slot), verdict) in packets.zip(&mut self.verdicts) {
            *verdict = match slot {
                Some(slot) => held.decide_new(*slot, || decide::flow(link, mbuf, headers, *slot, now)),
                None => Verdict::Punt(PuntReason::NoFlow, PuntEvent::None),
            };
        }
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Laned<'_>> {
        let Self { mbufs, headers, slots, verdicts, .. } = self;
        let known = headers.iter().zip(slots.iter().zip(verdicts.iter()));
        mbufs.drain(..).zip(known).map(|(mbuf, (headers, (slot, verdict)))| Laned {
            mbuf,
            headers,
            slot: *slot,
            verdict: *verdict,
        })
    }
}

/// The keys of some neighbouring packets, by family.
#[derive(Debug, Default)]
struct Part {
    v4: Keys<Key4>,
    v6: Keys<Key6>,
}

#[derive(Debug)]
struct Keys<K> {
    keys: [K; PART],
    /// Each key's packet.
    at: [u8; PART],
    len: usize,
    lookup: Lookup,
}

impl<K: Copy + Default> Default for Keys<K> {
    fn default() -> Self {
        Self { keys: [K::default(); PART], at: [0; PART], len: 0, lookup: Lookup::default() }
    }
}

impl<K> Keys<K> {
    #[inline(always)]
    fn push(&mut self, at: usize, key: K) {
        let index = self.len % PART;
        self.keys[index] = key;
        self.at[index] = at as u8;
        self.len = index + 1;
    }

    /// Gives each packet its slot.
    #[inline(always)]
    fn scatter(&mut self, found: &[Option<Slot>; PART], slots: &mut [Option<Slot>; BURST]) {
        for (at, found) in self.at.iter().zip(found).take(self.len) {
            slots[usize::from(*at) % BURST] = *found;
        }
        self.len = 0;
    }
}

impl Part {
    fn push(&mut self, at: usize, key: &Key) {
        match key {
            Key::V4(key) => self.v4.push(at, *key),
            Key::V6(key) => self.v6.push(at, *key),
        }
    }

    fn prepare(&mut self, table: &FlowTable) {
        if self.v4.len > 0 {
            table.prepare4(self.v4.keys.get(..self.v4.len).unwrap_or(&self.v4.keys), &mut self.v4.lookup);
        }
        if self.v6.len > 0 {
            table.prepare6(self.v6.keys.get(..self.v6.len).unwrap_or(&self.v6.keys), &mut self.v6.lookup);
        }
    }

    fn find(&mut self, table: &FlowTable) {
        if self.v4.len > 0 {
            table.match4(&mut self.v4.lookup);
        }
        if self.v6.len > 0 {
            table.match6(&mut self.v6.lookup);
        }
    }

    fn confirm(&mut self, table: &FlowTable, slots: &mut [Option<Slot>; BURST]) {
        let mut found = [None; PART];
        if self.v4.len > 0 {
            let Keys { keys, len, lookup, .. } = &mut self.v4;
            table.confirm4(keys.get(..*len).unwrap_or(&*keys), lookup, &mut found);
            self.v4.scatter(&found, slots);
        }
        if self.v6.len > 0 {
            let Keys { keys, len, lookup, .. } = &mut self.v6;
            table.confirm6(keys.get(..*len).unwrap_or(&*keys), lookup, &mut found);
            self.v6.scatter(&found, slots);
        }
    }
}
