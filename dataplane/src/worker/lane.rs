//! Lanes: the packets of a burst that could fly, by family, looked up together.
//!
//! A burst is taken in parts. While one part is parsed, the tags of the one before are on their way from memory,
//! and when these are compared, its entries: what one packet waits for is hidden behind the work on others.
//! Plain IPv4 packets stay in the burst that they came in with; of each packet no more is kept than its key and
//! its outline, since all else can be read again where it matters.

use super::carrier::Carrier;
use super::decide::{self, Verdict};
use super::hold::HoldQueue;
use super::{BURST, WorkerLink};
use crate::dpdk::{Burst, Mbuf};
use crate::flow::{FlowTable, Key, Key4, Line, Line4, Line6, Lookup, NOWHERE, Slot};
use crate::packet::{Headers, Outline, PuntReason, parse_other, parse_plain4};
use crate::punt::PuntEvent;

/// Packets of a part: enough for the memory to be busy, few enough for their lines to be there before they are
/// used and not gone again after.
const PART: usize = 16;

/// One burst's packets that could fly.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) v4: Lane<Line4>,
    pub(super) v6: Lane<Line6>,
}

/// Those of one family, in the order of their coming, with what is known of them.
#[derive(Debug)]
pub(super) struct Lane<L: Line> {
    pub(super) packets: Burst,
    pub(super) known: Known<L>,
    pub(super) fates: Fates,
}

/// What is known of the packets of a lane.
#[derive(Debug)]
pub(super) struct Known<L: Line> {
    len: usize,
    keys: [L::Key; BURST],
    outlines: [Outline; BURST],
    lookup: Lookup,
}

/// What becomes of the packets of a lane.
#[derive(Debug)]
pub(super) struct Fates {
    /// The entries by which packets fly, as indices into the arena; [`NOWHERE`] for those that don't.
    flying: [u32; BURST],
    /// Of those that don't fly: where they belong, and what becomes of them.
    staying: [(Option<Slot>, Verdict); BURST],
}

impl<L: Line> Default for Lane<L> {
    fn default() -> Self {
        let (keys, outlines) = ([L::Key::default(); BURST], [Outline::default(); BURST]);
        let known = Known { len: 0, keys, outlines, lookup: Lookup::default() };
        let fates = Fates { flying: [NOWHERE; BURST], staying: [(None, Verdict::Hold); BURST] };
        Self { packets: Burst::new(), known, fates }
    }
}

impl Lanes {
    /// Sorts what has come in, all of it in the burst of the IPv4 lane: what could fly to the lanes, the rest to the
    /// kernel.
    pub(super) fn sort(&mut self, port: u16, carrier: &mut Carrier) {
        let Self { v4: Lane { packets, known, .. }, v6 } = self;
        for mbuf in packets.iter() {
            mbuf.prefetch_data();
        }
        packets.sift(|_, mbuf| {
            let (mbuf, key, outline) = match parse_plain4(mbuf.data(), port) {
                Some((key, outline)) if mbuf.segments() == 1 => (mbuf, key, outline),
                _ => sort_other(mbuf, port, v6, carrier)?,
            };
            known.push(key, &outline, &carrier.link.table);
            Some(mbuf)
        });
        known.complete(&carrier.link.table);
        v6.known.complete(&carrier.link.table);
    }
}

/// A packet that is not plain IPv4: gives it back if it is IPv4 nevertheless, and could fly.
#[inline(never)]
fn sort_other(
    mbuf: Mbuf,
    port: u16,
    v6: &mut Lane<Line6>,
    carrier: &mut Carrier,
) -> Option<(Mbuf, Key4, Outline)> {
    if mbuf.segments() > 1 {
        // Headers may lie across segments: the punt thread gathers, the kernel decides.
        carrier.refuse(port.into(), mbuf, None);
        return None;
    }
    match parse_other(mbuf.data(), port) {
        Ok(Headers { key: Key::V4(key), outline }) => Some((mbuf, key, outline)),
        Ok(Headers { key: Key::V6(key), outline }) => {
            // A burst has no more packets than the lane places.
            if v6.packets.push(mbuf).is_ok() {
                v6.known.push(key, &outline, &carrier.link.table);
            }
            None
        }
        Err(refusal) => {
            carrier.refuse(port.into(), mbuf, Some(refusal));
            None
        }
    }
}

impl<L: Line> Known<L> {
    /// Takes a packet in; with each that completes a part, lookups go on.
    #[inline(always)]
    fn push(&mut self, key: L::Key, outline: &Outline, table: &FlowTable) {
        let at = self.len % BURST;
        self.keys[at] = key;
        self.outlines[at] = *outline;
        self.len = at + 1;
        if self.len.is_multiple_of(PART) {
            self.look_up(table);
        }
    }

    /// Begins the lookup of the packets that are new, and has those before them find their candidates.
    #[inline(never)]
    fn look_up(&mut self, table: &FlowTable) {
        let (arena, before) = (L::arena(table), self.lookup.len);
        let new = self.keys.get(before..self.len).unwrap_or_default();
        arena.prepare(new, &mut self.lookup);
        arena.find_candidates(&mut self.lookup, before);
    }

    /// The packets are all there: goes on with their lookups until their entries are on their way.
    fn complete(&mut self, table: &FlowTable) {
        if self.len > self.lookup.len {
            self.look_up(table);
        }
        L::arena(table).find_candidates(&mut self.lookup, self.len);
    }

    #[inline(always)]
    pub(super) fn outline(&self, at: usize) -> &Outline {
        &self.outlines[at % BURST]
    }

    pub(super) fn headers(&self, at: usize) -> Headers {
        Headers { key: L::any_key(self.keys[at % BURST]), outline: *self.outline(at) }
    }

    /// For another burst.
    fn clear(&mut self) {
        self.len = 0;
        self.lookup.clear();
    }
}

impl Fates {
    /// The entry by which a packet flies, as an index into its arena; beyond the arena if it doesn't.
    #[inline(always)]
    pub(super) fn flies_by(&self, at: usize) -> usize {
        self.flying[at % BURST] as usize
    }

    /// What becomes of a packet that does not fly.
    pub(super) fn stays(&self, at: usize) -> (Option<Slot>, Verdict) {
        self.staying[at % BURST]
    }
}

impl<L: Line> Lane<L> {
    /// Finds each packet's entry and decides by it, before anything is sent.
    pub(super) fn decide(&mut self, link: &WorkerLink, held: &mut HoldQueue, now: u32) {
        let Self { packets, known, fates: Fates { flying, staying } } = self;
        let arena = L::arena(&link.table);
        arena.gather(&mut known.lookup);
        let mut nobody_waits = held.is_empty();
        for (at, mbuf) in packets.iter().enumerate() {
            let at = at % BURST;
            let found = arena.confirm_at(at, &known.keys[at], &known.lookup);
            if let Some((index, entry)) = found
                && nobody_waits
                && decide::flies(link, mbuf, &known.outlines[at], entry.view(), now)
            {
                flying[at] = index;
                continue;
            }
            let slot = found.map(|(index, _)| L::slot(index));
            let verdict = match slot {
                None => Verdict::Punt(PuntReason::NoFlow, PuntEvent::None),
                Some(slot) => {
                    held.decide_new(slot, || decide::flow(link, mbuf, &known.headers(at), slot, now))
                }
            };
            nobody_waits &= verdict != Verdict::Hold;
            let flies = found.filter(|_| verdict == Verdict::Fly);
            flying[at] = flies.map_or(NOWHERE, |(index, _)| index);
            staying[at] = (slot, verdict);
        }
        known.clear();
    }
}
