//! Lanes: the packets of a burst that could fly, by family, looked up together.
//!
//! A burst is taken in parts. While the later ones are parsed, the tags of the earlier ones are on their way from
//! memory, and when these are compared, their entries; the entries of the later ones come while the earlier ones are
//! decided. So the memory is asked evenly, and what one packet waits for is hidden behind the work on others.
//! Plain IPv4 packets stay in the burst that they came in with; of each packet no more is kept than its key and
//! its outline, since all else can be read again where it matters.

use super::carrier::Carrier;
use super::decide::{self, Verdict};
use super::egress;
use super::hold::HoldQueue;
use super::onlooker::Onlooker;
use super::{BURST, WorkerLink};
use crate::capture::Found;
use crate::dpdk::{Burst, Following, Mbuf, Sieve};
use crate::flow::{FlowTable, Key, Key6, Line, Line4, Line6, Lookup, Mark, Slot};
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
    pub(super) packets: u64,
    pub(super) bytes: u64,
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
            packets: 0,
            bytes: 0,
        }
    }
}

impl Lanes {
    /// Sorts what has come in, all of it in the burst of the IPv4 lane: what could fly to the lanes, the rest to the
    /// kernel. `MARKS`: the port's rules may have marked packets.
    #[inline(always)]
    pub(super) fn sort<const MARKS: bool, O: Onlooker>(&mut self, port: u16, carrier: &mut Carrier<O>) {
        let Self { v4: Lane { packets, known, .. }, v6, behind } = self;
        known.clear();
        v6.known.clear();
        for mbuf in packets.iter() {
            mbuf.prefetch_data();
        }
        packets.sift(&mut Sorter::<MARKS, O> { port, known, v6, behind, carrier });
        known.complete(packets.len(), &carrier.link.table);
        v6.known.complete(v6.packets.len(), &carrier.link.table);
    }

    /// The same for a port whose rules mark packets.
    #[inline(never)]
    pub(super) fn sort_marked<O: Onlooker>(&mut self, port: u16, carrier: &mut Carrier<O>) {
        self.sort::<true, O>(port, carrier);
    }
}

/// Tells the packets of a burst apart.
struct Sorter<'a, const MARKS: bool, O: Onlooker> {
    port: u16,
    known: &'a mut Known<Line4>,
    v6: &'a mut Lane<Line6>,
    behind: &'a mut [u8; BURST],
    carrier: &'a mut Carrier<O>,
}

impl<const MARKS: bool, O: Onlooker> Sieve for Sorter<'_, MARKS, O> {
    #[inline(always)]
    fn stays(&mut self, at: usize, mbuf: &Mbuf) -> bool {
        match parse_plain4(mbuf.data(), self.port) {
            Some((key, outline)) if mbuf.segments() == 1 => {
                if MARKS {
                    self.known.follow(at, mbuf, &self.carrier.link.table);
                }
                self.known.put(at, key, &outline, &self.carrier.link.table);
                true
            }
            _ => false,
        }
    }

    #[inline(never)]
    fn other(&mut self, at: usize, mut mbuf: Mbuf, following: &mut Following<'_>) -> Option<Mbuf> {
        // Those of one family mostly come together.
        while mbuf.segments() == 1
            && let Some((key, outline)) = parse_plain6(mbuf.data(), self.port)
        {
            self.push6(at, mbuf, key, &outline);
            mbuf = following.take()?;
        }
        if mbuf.segments() > 1 {
            // Headers may lie across segments: the punt thread gathers, the kernel decides.
            self.carrier.refuse(self.port.into(), mbuf, None);
            return None;
        }
        match parse(mbuf.data(), self.port) {
            Ok(Headers { key: Key::V4(key), outline }) => {
                if MARKS {
                    self.known.follow(at, &mbuf, &self.carrier.link.table);
                }
                self.known.put(at, key, &outline, &self.carrier.link.table);
                return Some(mbuf);
            }
            Ok(Headers { key: Key::V6(key), outline }) => self.push6(at, mbuf, key, &outline),
            Err(refusal) => self.carrier.refuse(self.port.into(), mbuf, Some(refusal)),
        }
        None
    }
}

impl<const MARKS: bool, O: Onlooker> Sorter<'_, MARKS, O> {
    #[inline(always)]
    fn push6(&mut self, at: usize, mbuf: Mbuf, key: Key6, outline: &Outline) {
        self.behind[self.v6.packets.len() % BURST] = at as u8;
        if MARKS {
            self.v6.known.follow(self.v6.packets.len(), &mbuf, &self.carrier.link.table);
        }
        self.v6.push(mbuf, key, outline, &self.carrier.link.table);
    }
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

    /// Has a packet's mark, if it has one, name its entry: before it is [put](Self::put) in.
    #[inline(always)]
    fn follow(&mut self, at: usize, mbuf: &Mbuf, table: &FlowTable) {
        if let Some(mark) = mbuf.mark() {
            L::arena(table).follow(at, Mark::from_packet(mark), &mut self.lookup);
        }
    }

    /// Begins the lookup of those of the first `len` packets that are new, and has those well before them find their
    /// candidates.
    #[inline(never)]
    fn look_up(&mut self, len: usize, table: &FlowTable) {
        let (arena, before, lookup) = (L::arena(table), self.lookup.len, &mut self.lookup);
        let (keys, until) = (self.keys.get(before..len).unwrap_or_default(), len.saturating_sub(BEHIND));
        if lookup.marked == 0 {
            arena.prepare(keys, lookup);
            arena.find_candidates(lookup, until);
        } else {
            arena.prepare_unmarked(keys, lookup);
            arena.find_unmarked_candidates(lookup, until);
        }
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
    /// For a burst of so many packets, all of which leave as long as nothing else is said.
    fn begin(&mut self, packets: usize) {
        (self.together, self.mixed) = (NO_PORT, false);
        (self.packets, self.bytes) = (packets as u64, 0);
    }

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
    fn leaves(&mut self, at: usize, port: u16, length: u32) {
        self.bytes += u64::from(length);
        self.ports[at] = port;
        if self.together != port {
            self.mixed |= at > 0;
            self.together = port;
        }
    }

    fn stays(&mut self, at: usize, slot: Option<Slot>, verdict: Verdict) {
        self.mixed = true;
        self.packets -= 1;
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
    // For one who looks on, and one for nobody: as if there were but one.
    #[inline(always)]
    pub(super) fn prepare<O: Onlooker>(
        &mut self,
        link: &WorkerLink,
        held: &mut HoldQueue,
        onlooker: &mut O,
        now: u32,
    ) {
        self.fates.begin(self.packets.len());
        if self.known.lookup.marked != 0 {
            return self.prepare_marked(link, held, onlooker, now);
        }
        L::arena(&link.table).find_candidates(&mut self.known.lookup, AHEAD);
        let from = if held.is_empty() {
            self.prepare_from::<true, false, O>(0, link, held, onlooker, now)
        } else {
            0
        };
        self.prepare_from::<false, false, O>(from, link, held, onlooker, now);
    }

    /// The same where some packets are marked.
    #[inline(never)]
    fn prepare_marked<O: Onlooker>(
        &mut self,
        link: &WorkerLink,
        held: &mut HoldQueue,
        onlooker: &mut O,
        now: u32,
    ) {
        L::arena(&link.table).find_unmarked_candidates(&mut self.known.lookup, AHEAD);
        let from = if held.is_empty() {
            self.prepare_from::<true, true, O>(0, link, held, onlooker, now)
        } else {
            0
        };
        self.prepare_from::<false, true, O>(from, link, held, onlooker, now);
        // All of a burst came in by one port.
        let (port, lookup) = (self.known.outlines[0].ingress.port(), &self.known.lookup);
        if let Some(counter) = link.counters.marked(port.into()) {
            counter.found.add(u64::from(lookup.marked.count_ones()) - lookup.missed as u64);
            counter.missed.add(lookup.missed as u64);
        }
    }

    /// The same from a packet on. `ALONE`: nobody waits, and where somebody begins to it ends; says where that is.
    /// `MARKS`: some packets are marked.
    #[inline(always)]
    fn prepare_from<const ALONE: bool, const MARKS: bool, O: Onlooker>(
        &mut self,
        from: usize,
        link: &WorkerLink,
        held: &mut HoldQueue,
        onlooker: &mut O,
        now: u32,
    ) -> usize {
        let Self { packets, known: Known { keys, outlines, lookup }, fates } = self;
        let (arena, packets) = (L::arena(&link.table), &mut packets[..]);
        let (contexts, adjacencies) = (link.contexts.all(), link.adjacencies.all());
        let len = packets.len().min(BURST);
        for at in from..len {
            if at % L::PART == 0 {
                arena.gather(lookup);
                if MARKS {
                    arena.find_unmarked_candidates(lookup, at + L::PART + AHEAD);
                } else {
                    arena.find_candidates(lookup, at + L::PART + AHEAD);
                }
            }
            let (mbuf, key, outline) = (&mut packets[at], &keys[at], &outlines[at]);
            let guess = if MARKS && lookup.is_marked(at) {
                let found = arena.marked_guess(at, key, lookup);
                lookup.missed += usize::from(found.is_none());
                found
            } else {
                arena.first_guess(at, key, lookup)
            };
            let (index, entry) = match guess {
                Some(found) => found,
                None => match arena.second_guess(at, key, lookup) {
                    Some(found) => found,
                    None => {
                        let verdict = Verdict::Punt(PuntReason::NoFlow, PuntEvent::None);
                        if O::LOOKS {
                            onlooker.decided(mbuf, Found::Nowhere, None, verdict);
                        }
                        fates.stays(at, None, verdict);
                        continue;
                    }
                },
            };
            let tell = |mbuf: &Mbuf, l3| link.hot.tell(&link.table, L::slot(index), mbuf, l3);
            let ready = match decide::flies(contexts, mbuf, outline, entry.view()) {
                Some(adjacency) if ALONE => {
                    if O::LOOKS {
                        let looked = onlooker.look(mbuf, entry.view(), contexts);
                        let found = Found::by(MARKS && guess.is_some() && lookup.is_marked(at));
                        onlooker.decided(mbuf, found, looked, Verdict::Fly);
                    }
                    decide::saw_ack(&entry.view(), outline, now);
                    egress::make_ready(
                        adjacencies,
                        (entry, (adjacency, 0)),
                        mbuf,
                        outline,
                        now,
                        (&link.hot, tell),
                    )
                }
                _ => {
                    let headers = Headers { key: L::any_key(*key), outline: *outline };
                    let slot = L::slot(index);
                    let looked = if O::LOOKS { onlooker.look(mbuf, entry.view(), contexts) } else { None };
                    let verdict = held.decide_new(slot, || decide::flow(link, mbuf, &headers, slot, now));
                    if O::LOOKS {
                        let found = Found::by(MARKS && guess.is_some() && lookup.is_marked(at));
                        onlooker.decided(mbuf, found, looked, verdict);
                    }
                    if verdict != Verdict::Fly {
                        fates.stays(at, Some(slot), verdict);
                        if ALONE && verdict == Verdict::Hold {
                            return at + 1;
                        }
                        continue;
                    }
                    egress::make_unusual_ready(adjacencies, entry, mbuf, outline, now, (&link.hot, tell))
                }
            };
            match ready {
                Some((port, length)) => fates.leaves(at, port, length),
                None => fates.stays(at, Some(L::slot(index)), Verdict::Drop(DropReason::NoPort)),
            }
        }
        len
    }
}
