//! Lanes: the packets of a burst that could fly, by family, looked up together.
//!
//! A burst is taken in parts. While the later ones are parsed, the tags of the earlier ones are on their way from
//! memory, and when these are compared, their entries; the entries of the later ones come while the earlier ones are
//! decided. So the memory is asked evenly, and what one packet waits for is hidden behind the work on others.
//! Plain IPv4 packets stay in the burst that they came in with; of each packet no more is kept than its key and
//! its outline, since all else can be read again where it matters.

use super::carrier::Carrier;
use super::decide::{self, Verdict};
use super::egress::{self, Flown};
use super::hold::HoldQueue;
use super::{BURST, WorkerLink};
use crate::dpdk::{Burst, Following, Mbuf};
use crate::flow::{FlowTable, Key, Line, Line4, Line6, Lookup, Slot};
use crate::packet::{DropReason, Headers, Outline, PuntReason, parse, parse_plain4, parse_plain6};
use crate::punt::PuntEvent;

/// So many packets behind the last one parsed is the last one whose entry is asked for: its tags are there by then.
const BEHIND: usize = 32;
/// So many packets ahead of the one decided on is the last one whose entry is asked for.
const AHEAD: usize = BURST - BEHIND;

/// One burst's packets that could fly.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) v4: Lane<Line4>,
    pub(super) v6: Lane<Line6>,
    /// How many IPv4 packets came before each IPv6 packet.
    pub(super) behind: [u8; BURST],
}

impl Default for Lanes {
    fn default() -> Self {
        Self { v4: Lane::default(), v6: Lane::default(), behind: [0; BURST] }
    }
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
    keys: [L::Key; BURST],
    outlines: [Outline; BURST],
    lookup: Lookup,
}

/// What becomes of the packets of a lane.
#[derive(Debug)]
pub(super) struct Fates {
    /// The ports that packets leave through; [`NO_PORT`] for those that don't leave.
    ports: [u16; BURST],
    /// Of those that don't leave: where they belong, and what becomes of them.
    staying: [(Option<Slot>, Verdict); BURST],
    /// Where all leave that do.
    together: u16,
    /// Some don't leave, or not through that port.
    mixed: bool,
    /// What leaves, summed up.
    pub(super) flown: Flown,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// It is ready to leave through this port.
    Leaves(u16),
    /// It belongs there, and this is to be done with it.
    Stays(Option<Slot>, Verdict),
}

/// Stands for no port: DPDK's own numbers are far below.
const NO_PORT: u16 = u16::MAX;

impl<L: Line> Default for Lane<L> {
    fn default() -> Self {
        let (keys, outlines) = ([L::Key::default(); BURST], [Outline::default(); BURST]);
        let known = Known { keys, outlines, lookup: Lookup::default() };
        Self { packets: Burst::new(), known, fates: Fates::default() }
    }
}

impl Default for Fates {
    fn default() -> Self {
        Self {
            ports: [NO_PORT; BURST],
            staying: [(None, Verdict::Hold); BURST],
            together: NO_PORT,
            mixed: false,
            flown: Flown::default(),
        }
    }
}

impl Lanes {
    /// Sorts what has come in, all of it in the burst of the IPv4 lane: what could fly to the lanes, the rest to the
    /// kernel.
    pub(super) fn sort(&mut self, port: u16, carrier: &mut Carrier) {
        let Self { v4: Lane { packets, known, .. }, v6, behind } = self;
        known.clear();
        v6.known.clear();
        for mbuf in packets.iter() {
            mbuf.prefetch_data();
        }
        packets.sift(|at, mbuf, following| match parse_plain4(mbuf.data(), port) {
            Some((key, outline)) if mbuf.segments() == 1 => {
                known.put(at, key, &outline, &carrier.link.table);
                Some(mbuf)
            }
            _ => {
                let other = sort_plain6(mbuf, port, (at, behind), v6, following, &carrier.link.table)?;
                sort_other(other, port, (at, behind), known, v6, carrier)
            }
        });
        known.complete(packets.len(), &carrier.link.table);
        v6.known.complete(v6.packets.len(), &carrier.link.table);
    }
}

/// A packet that is not plain IPv4, and those that follow it: plain IPv6 goes to its lane. Gives the first that is neither.
#[inline(never)]
fn sort_plain6(
    mut mbuf: Mbuf,
    port: u16,
    (at, behind): (usize, &mut [u8; BURST]),
    v6: &mut Lane<Line6>,
    following: &mut Following<'_>,
    table: &FlowTable,
) -> Option<Mbuf> {
    while mbuf.segments() == 1
        && let Some((key, outline)) = parse_plain6(mbuf.data(), port)
    {
        behind[v6.packets.len() % BURST] = at as u8;
        v6.push(mbuf, key, &outline, table);
        mbuf = following.take()?;
    }
    Some(mbuf)
}

/// Any other packet: stays in the IPv4 lane, at this place, if it is IPv4 and could fly.
#[inline(never)]
fn sort_other(
    mbuf: Mbuf,
    port: u16,
    (at, behind): (usize, &mut [u8; BURST]),
    v4: &mut Known<Line4>,
    v6: &mut Lane<Line6>,
    carrier: &mut Carrier,
) -> Option<Mbuf> {
    if mbuf.segments() > 1 {
        // Headers may lie across segments: the punt thread gathers, the kernel decides.
        carrier.refuse(port.into(), mbuf, None);
        return None;
    }
    match parse(mbuf.data(), port) {
        Ok(Headers { key: Key::V4(key), outline }) => {
            v4.put(at, key, &outline, &carrier.link.table);
            return Some(mbuf);
        }
        Ok(Headers { key: Key::V6(key), outline }) => {
            behind[v6.packets.len() % BURST] = at as u8;
            v6.push(mbuf, key, &outline, &carrier.link.table);
        }
        Err(refusal) => carrier.refuse(port.into(), mbuf, Some(refusal)),
    }
    None
}

impl<L: Line> Known<L> {
    /// Takes in what is known of a packet; with each that completes a part, lookups go on.
    #[inline(always)]
    fn put(&mut self, at: usize, key: L::Key, outline: &Outline, table: &FlowTable) {
        let at = at % BURST;
        self.keys[at] = key;
        self.outlines[at] = *outline;
        if at % L::PART == L::PART - 1 {
            self.look_up(at + 1, table);
        }
    }

    /// Begins the lookup of those of the first `len` packets that are new, and has those well before them find their
    /// candidates.
    #[inline(never)]
    fn look_up(&mut self, len: usize, table: &FlowTable) {
        let (arena, before) = (L::arena(table), self.lookup.len);
        arena.prepare(self.keys.get(before..len).unwrap_or_default(), &mut self.lookup);
        arena.find_candidates(&mut self.lookup, len.saturating_sub(BEHIND));
    }

    /// The packets are all there.
    fn complete(&mut self, len: usize, table: &FlowTable) {
        if len > self.lookup.len {
            self.look_up(len, table);
        }
    }

    pub(super) fn headers(&self, at: usize) -> Headers {
        Headers { key: L::any_key(self.keys[at % BURST]), outline: self.outlines[at % BURST] }
    }

    /// For another burst.
    fn clear(&mut self) {
        self.lookup.clear();
    }
}

impl Fates {
    /// The port through which all packets leave, if there is one.
    pub(super) fn common_port(&self) -> Option<u16> {
        (!self.mixed).then_some(self.together)
    }

    /// What becomes of one packet.
    pub(super) fn of(&self, at: usize) -> Fate {
        let (slot, verdict) = self.staying[at % BURST];
        match self.ports[at % BURST] {
            NO_PORT => Fate::Stays(slot, verdict),
            port => Fate::Leaves(port),
        }
    }

    #[inline(always)]
    fn leaves(&mut self, at: usize, port: u16) {
        self.ports[at] = port;
        if self.together != port {
            self.mixed |= at > 0;
            self.together = port;
        }
    }

    fn stays(&mut self, at: usize, slot: Option<Slot>, verdict: Verdict) {
        self.mixed = true;
        self.ports[at] = NO_PORT;
        self.staying[at] = (slot, verdict);
    }
}

impl<L: Line> Lane<L> {
    fn push(&mut self, mbuf: Mbuf, key: L::Key, outline: &Outline, table: &FlowTable) {
        let at = self.packets.len();
        // A burst has no more packets than the lane places.
        if self.packets.push(mbuf).is_ok() {
            self.known.put(at, key, outline, table);
        }
    }

    /// Finds each packet's entry, decides by it, and makes ready to leave what flies. Nothing is sent yet.
    pub(super) fn prepare(&mut self, link: &WorkerLink, held: &mut HoldQueue, now: u32) {
        let Self { packets, known, fates } = self;
        let (arena, mut flown) = (L::arena(&link.table), Flown::default());
        (fates.together, fates.mixed) = (NO_PORT, false);
        let mut nobody_waits = held.is_empty();
        arena.find_candidates(&mut known.lookup, AHEAD);
        for (at, mbuf) in packets.iter_mut().enumerate() {
            let at = at % BURST;
            if at % L::PART == 0 {
                arena.gather(&mut known.lookup);
                arena.find_candidates(&mut known.lookup, at + L::PART + AHEAD);
            }
            let outline = &known.outlines[at];
            let Some((index, entry)) = arena.confirm_at(at, &known.keys[at], &known.lookup) else {
                fates.stays(at, None, Verdict::Punt(PuntReason::NoFlow, PuntEvent::None));
                continue;
            };
            if !(nobody_waits && decide::flies(link, mbuf, outline, entry.view(), now)) {
                let slot = L::slot(index);
                let verdict =
                    held.decide_new(slot, || decide::flow(link, mbuf, &known.headers(at), slot, now));
                if verdict != Verdict::Fly {
                    nobody_waits &= verdict != Verdict::Hold;
                    fates.stays(at, Some(slot), verdict);
                    continue;
                }
            }
            match egress::make_ready(link, entry, mbuf, outline, now, &mut flown) {
                Some(port) => fates.leaves(at, port),
                None => fates.stays(at, Some(L::slot(index)), Verdict::Drop(DropReason::NoPort)),
            }
        }
        fates.flown = flown;
    }
}
