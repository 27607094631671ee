//! The entries of one family, their tags, and the staged lookup.
//!
//! A key has a home line of 64 tags and in it two buckets of 16 (see [`Probe`]). Almost every entry lies in one of
//! them, so that a lookup touches one line of tags and one entry. What does not fit at home *strays* to the same
//! two buckets of one other line; each home line counts its strays, so that a lookup goes there only when it may
//! help. Probes are bounded by these four buckets and there are no tombstones.

use std::io;

use super::Slot;
use super::burst::Kernel;
use super::entry::Line;
use super::hash::HashKey;
use super::region::{PageKind, Placement, Region};
use super::sync::{AtomicU32, Ordering, fence};
use super::tags::{BUCKET, BUCKETS, LINE, TagLine, Words, prefetch};

/// The most keys that one burst looks up.
pub const MAX_BURST: usize = 64;

/// Tables are at most this full when all the connections asked for are there; two choices of bucket at home and two
/// elsewhere then always find room (measured: no failure in 8 M insertions at this load, see the tests).
const LOAD: (usize, usize) = (3, 4);

/// Where a key may lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// Line of tags where it should be.
    pub(crate) home: usize,
    /// The two buckets in any line.
    pub(crate) buckets: [usize; 2],
    /// Never 0.
    pub(crate) tag: u8,
    /// The upper half of the hash, which chooses the line for strays.
    upper: u64,
}

impl Probe {
    /// Takes a hash apart. The line comes from the upper bits of the lower half, the buckets from its lowest
    /// three; the line for strays from the upper bits of the upper half, the tag from its lowest eight.
    #[inline(always)]
    pub(crate) fn new(hash: u64, lines: u32) -> Self {
        let (lower, upper) = (hash & 0xffff_ffff, hash >> 32);
        let first = (hash & 3) as usize;
        Self {
            home: range(lower, lines),
            buckets: [first, first ^ (1 + (hash >> 2 & 1) as usize)],
            tag: (upper as u8).max(1),
            upper,
        }
    }

    /// The line where it may be if it strayed: never the home line.
    pub(crate) fn away(&self, lines: u32) -> usize {
        let line = range(self.upper, lines);
        if line != self.home {
            line
        } else if line + 1 < lines as usize {
            line + 1
        } else {
            0
        }
    }

    /// Index of the entry that the lowest bit of a mask from [`MatchMethod`] stands for.
    #[inline(always)]
    pub(crate) fn lowest(&self, line: usize, mask: u32) -> usize {
        self.index(line, mask.trailing_zeros() as usize & 31)
    }

    /// The same for the highest bit.
    #[inline(always)]
    pub(crate) fn highest(&self, line: usize, mask: u32) -> usize {
        self.index(line, mask.leading_zeros() as usize & 31 ^ 31)
    }

    #[inline(always)]
    fn index(&self, line: usize, bit: usize) -> usize {
        let bucket = if bit < BUCKET { self.buckets[0] } else { self.buckets[1] };
        (line * BUCKETS + bucket) * BUCKET + bit % BUCKET
    }
}

/// Reduces 32 bits evenly to less than `lines`, by multiplication instead of division.
#[inline(always)]
fn range(bits: u64, lines: u32) -> usize {
    (bits * u64::from(lines) >> 32) as usize
}

/// What one burst's lookup carries from stage to stage. Made once, used for every burst.
#[derive(Debug)]
pub struct Lookup {
    pub(crate) hashes: [u64; MAX_BURST],
    pub(crate) masks: [u32; MAX_BURST],
    /// Positions whose home has no candidate but has strays.
    pub(crate) away: [u8; MAX_BURST],
    pub(crate) away_len: usize,
    pub(crate) len: usize,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { hashes: [0; MAX_BURST], masks: [0; MAX_BURST], away: [0; MAX_BURST], away_len: 0, len: 0 }
    }
}

/// Entries of one family.
#[derive(Debug)]
pub(crate) struct Arena<L: Line> {
    pub(crate) tags: Region<TagLine>,
    pub(crate) entries: Region<L>,
    /// For each home line, how many of its entries lie elsewhere.
    strays: Region<AtomicU32>,
    /// The slot of the other direction, by entry.
    peers: Region<AtomicU32>,
    pub(crate) secret: HashKey,
    pub(crate) kernel: Kernel<L>,
}

impl<L: Line> Arena<L> {
    /// Room for at least `entries`.
    pub(crate) fn new(lines: usize, placement: Placement, kernel: Kernel<L>) -> io::Result<Self> {
        let slots = lines * LINE;
        Ok(Self {
            tags: Region::new(lines, placement)?,
            entries: Region::new(slots, placement)?,
            strays: Region::new(lines, placement)?,
            peers: Region::new(slots, placement)?,
            secret: HashKey::random(),
            kernel,
        })
    }

    /// Lines of tags that give `entries` enough room.
    pub(crate) const fn lines_for(entries: usize) -> usize {
        // Two more, because chance weighs more in a small table.
        entries.saturating_mul(LOAD.1).div_ceil(LOAD.0 * LINE) + 2
    }

    pub(crate) fn lines(&self) -> u32 {
        self.tags.len() as u32
    }

    pub(crate) fn page_kind(&self) -> PageKind {
        self.entries.kind()
    }

    pub(crate) fn probe(&self, key: &L::Key) -> Probe {
        Probe::new(self.kernel.hash(&self.secret, key), self.lines())
    }

    /// Looks up one key.
    pub(crate) fn find(&self, key: &L::Key) -> Option<usize> {
        let probe = self.probe(key);
        self.find_in(&probe, probe.home, key).or_else(|| self.find_away(&probe, key))
    }

    /// Looks a key up where it may have strayed.
    #[cold]
    pub(crate) fn find_away(&self, probe: &Probe, key: &L::Key) -> Option<usize> {
        self.has_strays(probe.home).then(|| self.find_in(probe, probe.away(self.lines()), key)).flatten()
    }

    fn find_in(&self, probe: &Probe, line: usize, key: &L::Key) -> Option<usize> {
        let mut mask = self.candidates(probe, line);
        fence(Ordering::Acquire);
        while mask != 0 {
            let index = probe.lowest(line, mask);
            if self.entries.get(index)?.matches(key) {
                return Some(index);
            }
            mask &= mask - 1;
        }
        None
    }

    /// Slots of a line that have the tag. An acquire fence must follow before the entries are read.
    pub(crate) fn candidates(&self, probe: &Probe, line: usize) -> u32 {
        let [first, second] = probe.buckets;
        self.tags.get(line).map_or(0, |tags| Words::find(tags, first, second, probe.tag))
    }

    #[inline]
    pub(crate) fn has_strays(&self, line: usize) -> bool {
        self.strays.get(line).is_some_and(|strays| strays.load(Ordering::Relaxed) != 0)
    }

    /// Third stage: compares the whole keys. `found[i]` becomes the slot of `keys[i]`.
    #[inline]
    pub(crate) fn confirm(&self, keys: &[L::Key], lookup: &mut Lookup, found: &mut [Option<Slot>]) {
        let lines = self.lines();
        for &position in &lookup.away[..lookup.away_len] {
            let probe = Probe::new(lookup.hashes[usize::from(position) % MAX_BURST], lines);
            let away = probe.away(lines);
            let mask = self.candidates(&probe, away);
            if let Some(entry) = self.entries.get(probe.lowest(away, mask)) {
                entry.prefetch();
            }
        }
        fence(Ordering::Acquire);
        let stages = lookup.hashes.iter().zip(&lookup.masks).take(lookup.len);
        for ((key, found), (&hash, &mask)) in keys.iter().zip(found).zip(stages) {
            let probe = Probe::new(hash, lines);
            let index = probe.lowest(probe.home, mask);
            let hit = mask != 0 && self.entries.get(index).is_some_and(|entry| entry.matches(key));
            *found = if hit { Some(L::slot(index as u32)) } else { self.second_guess(&probe, mask, key) };
        }
    }

    /// The first candidate was a stranger, or there was none.
    #[cold]
    fn second_guess(&self, probe: &Probe, mask: u32, key: &L::Key) -> Option<Slot> {
        let mut rest = mask & mask.wrapping_sub(1);
        while rest != 0 {
            let index = probe.lowest(probe.home, rest);
            if self.entries.get(index)?.matches(key) {
                return Some(L::slot(index as u32));
            }
            rest &= rest - 1;
        }
        self.find_away(probe, key).map(|index| L::slot(index as u32))
    }

    /// The tag of a slot; 0 if nothing is there.
    pub(crate) fn tag(&self, index: usize) -> u8 {
        self.tags.get(index / LINE).map_or(0, |tags| tags.get(index % LINE))
    }

    pub(crate) fn peer(&self, index: usize) -> Option<Slot> {
        Slot::from_bits(self.peers.get(index)?.load(Ordering::Relaxed))
    }

    /// Makes a written entry visible. For the only writer.
    pub(crate) fn publish(&self, probe: &Probe, index: usize, peer: Slot) {
        let line = index / LINE;
        self.peers[index].store(peer.to_bits(), Ordering::Relaxed);
        if line != probe.home {
            self.add_strays(probe.home, 1);
        }
        self.tags[line].set(index % LINE, probe.tag);
    }

    /// Makes an entry invisible. For the only writer.
    pub(crate) fn withdraw(&self, index: usize) {
        let (line, home) = (index / LINE, self.probe(&self.entries[index].key()).home);
        self.tags[line].set(index % LINE, 0);
        if line != home {
            self.add_strays(home, u32::MAX);
        }
    }

    fn add_strays(&self, line: usize, change: u32) {
        let strays = &self.strays[line];
        strays.store(strays.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }

    /// Asks for the line of tags where strays of this home lie.
    #[cold]
    pub(crate) fn prefetch_away(&self, probe: &Probe) {
        if let Some(tags) = self.tags.get(probe.away(self.lines())) {
            prefetch(tags);
        }
    }
}
