//! The entries of one family, their tags, and the staged lookup.
//!
//! Slots come in groups of 32, whose tags fill half a cache line. A key has a *home* group; a tag there that equals its own
//! points to where it probably is. What does not fit at home *strays* to the *sibling*, the group that shares the cache
//! line, and if that is full too, *away* to one other group. Each home counts its strays, so that a lookup goes on only
//! when it may help. Probes are bounded by these three groups and there are no tombstones; nearly every lookup
//! touches one line of tags and one entry.

use std::io;

use super::burst::Kernel;
use super::entry::Line;
use super::hash::HashKey;
use super::region::{PageKind, Placement, Region};
use super::sync::{AtomicU32, AtomicU64, Ordering, fence};
use super::tags::{GROUP, Mask, TagGroup, prefetch};
use super::{Mark, Slot};

/// The most keys that one burst looks up.
pub const MAX_BURST: usize = 64;

/// A table is at most this full when all the connections asked for are there. Above, more keys stray.
const LOAD: (usize, usize) = (3, 4);

/// No candidate: beyond every arena.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Where a key may lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    hash: u64,
    groups: u32,
}

impl Probe {
    #[inline(always)]
    pub(crate) fn new(hash: u64, groups: u32) -> Self {
        Self { hash, groups }
    }

    /// The group where the key should be: from the upper bits of the hash's lower half.
    #[inline(always)]
    pub(crate) fn home(self) -> usize {
        range(self.hash as u32, self.groups)
    }

    /// The group whose tags share a cache line with those of the home.
    #[inline(always)]
    pub(crate) fn sibling(self) -> usize {
        self.home() ^ 1
    }

    /// The last group where the key may be: from the upper bits of the hash's upper half, in another line than home.
    pub(crate) fn away(self) -> usize {
        let (home, group) = (self.home(), range((self.hash >> 32) as u32, self.groups));
        match group {
            group if group / 2 != home / 2 => group,
            group if group + 2 < self.groups as usize => group + 2,
            group => group % 2,
        }
    }

    /// The slot of any group where the search for the key begins, going round. As the writer puts a key into the first
    /// free slot from there, few strangers lie before it whose tags might happen to be equal.
    #[inline(always)]
    fn start(self) -> u32 {
        self.hash as u32 % Mask::BITS
    }

    /// The first slot of a mask, from [`start`](Self::start) on, as an index into the arena. The mask must not be 0.
    #[inline(always)]
    pub(crate) fn first(self, group: usize, mask: Mask) -> usize {
        let start = self.start();
        let place = (mask.rotate_right(start).trailing_zeros() + start) % Mask::BITS;
        group * GROUP + place as usize
    }

    /// What marks the key's slot; never 0. From the lowest bits of the upper half.
    #[inline(always)]
    pub(crate) fn tag(self) -> u8 {
        ((self.hash >> 32) as u8).max(1)
    }
}

/// Reduces 32 bits evenly to less than `groups`, by a multiplication instead of a division.
#[inline(always)]
fn range(bits: u32, groups: u32) -> usize {
    ((u64::from(bits) * u64::from(groups)) >> 32) as usize
}

/// What the lookup of one burst carries from stage to stage. Made once, used for every burst.
///
/// A burst may enter the stages part by part: the first stage takes more keys in, the second one goes on where it was.
#[derive(Debug)]
pub struct Lookup {
    /// Keys that have passed the first stage.
    pub(crate) len: usize,
    /// Keys that have passed the second stage.
    pub(crate) matched: usize,
    pub(crate) hashes: [u64; MAX_BURST],
    /// Index of the first candidate, or [`NOWHERE`].
    pub(crate) first: [u32; MAX_BURST],
    /// Positions whose candidate a mark has named: the stages leave them out.
    pub(crate) marked: u64,
    /// Marks of these that led nowhere.
    pub(crate) missed: usize,
    /// Positions of keys that can only be away.
    pub(crate) away: [u8; MAX_BURST],
    pub(crate) away_len: usize,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            len: 0,
            matched: 0,
            hashes: [0; MAX_BURST],
            first: [NOWHERE; MAX_BURST],
            marked: 0,
            missed: 0,
            away: [0; MAX_BURST],
            away_len: 0,
        }
    }
}

impl Lookup {
    /// For another burst.
    #[inline]
    pub(crate) fn clear(&mut self) {
        (self.len, self.matched, self.marked, self.missed, self.away_len) = (0, 0, 0, 0, 0);
    }

    /// Whether a mark has named the candidate of the key at this position.
    #[inline(always)]
    pub(crate) fn is_marked(&self, position: usize) -> bool {
        self.marked >> (position % MAX_BURST) & 1 != 0
    }
}

/// Entries of one family.
#[derive(Debug)]
pub(crate) struct Arena<L: Line> {
    pub(crate) tags: Region<TagGroup>,
    pub(crate) entries: Region<L>,
    /// How many of a home group's keys lie elsewhere.
    pub(crate) strays: Region<AtomicU32>,
    /// The slot of the other direction (lower half) and control's connection (upper half).
    links: Region<AtomicU64>,
    pub(crate) secret: HashKey,
    pub(crate) kernel: Kernel<L>,
}

impl<L: Line> Arena<L> {
    /// `groups` must be even, at least 4, and have no more slots than a [`Slot`] can name.
    pub(crate) fn new(groups: usize, placement: Placement, kernel: Kernel<L>) -> io::Result<Self> {
        Ok(Self {
            tags: Region::new(groups, placement)?,
            entries: Region::new(groups * GROUP, placement)?,
            strays: Region::new(groups, placement)?,
            links: Region::new(groups * GROUP, placement)?,
            secret: HashKey::random(),
            kernel,
        })
    }

    /// Groups that give so many entries enough room; `None` if a slot can't name them.
    pub(crate) fn groups_for(entries: usize) -> Option<usize> {
        // Chance weighs more in a small table: two lines more.
        let lines = entries.checked_mul(LOAD.1)?.div_ceil(LOAD.0 * 2 * GROUP) + 2;
        (lines * 2 * GROUP <= Slot::MAX).then_some(lines * 2)
    }

    #[inline]
    pub(crate) fn groups(&self) -> u32 {
        self.tags.len() as u32
    }

    pub(crate) fn page_kind(&self) -> PageKind {
        self.entries.kind()
    }

    pub(crate) fn probe(&self, key: &L::Key) -> Probe {
        Probe::new(self.kernel.hash(&self.secret, key), self.groups())
    }

    /// Looks up one key: the index of its entry.
    pub(crate) fn find(&self, key: &L::Key, probe: Probe) -> Option<usize> {
        self.find_in(probe.home(), key, probe).or_else(|| self.find_stray(key, probe))
    }

    fn find_stray(&self, key: &L::Key, probe: Probe) -> Option<usize> {
        if !self.has_strays(probe.home()) {
            return None;
        }
        self.find_in(probe.sibling(), key, probe).or_else(|| self.find_in(probe.away(), key, probe))
    }

    fn find_in(&self, group: usize, key: &L::Key, probe: Probe) -> Option<usize> {
        let mut mask = self.tags.get(group)?.matches(probe.tag());
        fence(Ordering::Acquire);
        while mask != 0 {
            let index = probe.first(group, mask);
            if self.entries.get(index)?.matches(key) {
                return Some(index);
            }
            mask &= !(1 << (index % GROUP));
        }
        None
    }

    #[inline]
    pub(crate) fn has_strays(&self, home: usize) -> bool {
        self.strays.get(home).is_some_and(|strays| strays.load(Ordering::Relaxed) != 0)
    }

    /// Before the third stage: sees to those that can only be away.
    #[inline(always)]
    pub(crate) fn gather(&self, lookup: &mut Lookup) {
        if lookup.away_len > 0 {
            self.look_away(lookup);
        }
        // The tags were loaded relaxed, in the stage before and just now.
        fence(Ordering::Acquire);
    }

    /// Third stage, for the key at this position: compares it with that of its candidate. Gives its entry, with its index.
    #[inline(always)]
    pub(crate) fn first_guess(&self, position: usize, key: &L::Key, lookup: &Lookup) -> Option<(u32, &L)> {
        let first = lookup.first[position % MAX_BURST];
        let entry = self.entries.get(first as usize)?;
        entry.matches(key).then_some((first, entry))
    }

    /// In place of the first two stages, for the key at this position: its packet has a mark, which says where its entry
    /// is. Any mark is safe.
    #[inline(always)]
    pub(crate) fn follow(&self, position: usize, mark: Mark, lookup: &mut Lookup) {
        let (position, index) = (position % MAX_BURST, mark.index());
        lookup.marked |= 1 << position;
        lookup.first[position] = index;
        L::prefetch_at(self.entries.as_ptr().wrapping_add(index as usize));
    }

    /// Third stage for a key whose candidate a mark has named. What it finds is what a search would: no two entries that
    /// can be found have the same key.
    #[inline(always)]
    pub(crate) fn marked_guess(&self, position: usize, key: &L::Key, lookup: &Lookup) -> Option<(u32, &L)> {
        let first = lookup.first[position % MAX_BURST];
        let entry = self.entries.get(first as usize)?;
        // In this order: of an entry that is not live any of the key's words may be another flow's.
        (entry.is_live() && entry.matches(key)).then_some((first, entry))
    }

    /// Third stage for all: `found[i]` becomes the slot of `keys[i]`.
    pub(crate) fn confirm(&self, keys: &[L::Key], lookup: &mut Lookup, found: &mut [Option<Slot>]) {
        self.gather(lookup);
        let len = lookup.len.min(MAX_BURST);
        for (position, (key, found)) in keys.iter().zip(found).take(len).enumerate() {
            let entry = self.first_guess(position, key, lookup);
            let entry = entry.or_else(|| self.second_guess(position, key, lookup));
            *found = entry.map(|(index, _)| L::slot(index));
        }
    }

    /// Finds the candidates of keys that can only be away, whose tags have been asked for, and asks for them.
    #[cold]
    #[inline(never)]
    fn look_away(&self, lookup: &mut Lookup) {
        for &position in lookup.away.iter().take(lookup.away_len) {
            let position = usize::from(position) % MAX_BURST;
            let probe = Probe::new(lookup.hashes[position], self.groups());
            let mask = self.tags.get(probe.away()).map_or(0, |tags| tags.matches(probe.tag()));
            if mask != 0 {
                let index = probe.first(probe.away(), mask);
                L::prefetch_at(self.entries.as_ptr().wrapping_add(index));
                lookup.first[position] = index as u32;
            }
        }
        lookup.away_len = 0;
    }

    /// The first candidate was a stranger, or there was none: the whole search.
    #[cold]
    #[inline(never)]
    pub(crate) fn second_guess(&self, position: usize, key: &L::Key, lookup: &Lookup) -> Option<(u32, &L)> {
        let hashed = || Probe::new(lookup.hashes[position % MAX_BURST], self.groups());
        let probe = if lookup.is_marked(position) { self.probe(key) } else { hashed() };
        let index = self.find(key, probe)?;
        Some((index as u32, self.entries.get(index)?))
    }

    /// The tag of a slot; 0 if nothing is there.
    pub(crate) fn tag(&self, index: usize) -> u8 {
        self.tags.get(index / GROUP).map_or(0, |tags| tags.get(index % GROUP))
    }

    /// The slot of the other direction; `None` if the slot never held a flow.
    pub(crate) fn peer(&self, index: usize) -> Option<Slot> {
        Slot::from_bits(self.links.get(index)?.load(Ordering::Relaxed) as u32)
    }

    /// What control calls the connection.
    pub(crate) fn owner(&self, index: usize) -> Option<u32> {
        Some((self.links.get(index)?.load(Ordering::Relaxed) >> 32) as u32)
    }

    /// Asks for the lines that an insertion at `index` will write. A hint.
    pub(crate) fn prefetch_slot(&self, index: usize) {
        prefetch(self.tags.as_ptr().wrapping_add(index / GROUP));
        prefetch(self.links.as_ptr().wrapping_add(index));
        L::prefetch_at(self.entries.as_ptr().wrapping_add(index));
    }

    /// Makes a written entry visible. For the only writer.
    pub(crate) fn publish(&self, probe: Probe, index: usize, peer: Slot, owner: u32) {
        let link = u64::from(peer.to_bits()) | u64::from(owner) << 32;
        self.links[index].store(link, Ordering::Relaxed);
        // Before the tag: a reader that finds no stray counted may say that the key is not there yet.
        self.count_stray(probe, index, 1);
        self.entries[index].appear();
        self.tags[index / GROUP].set(index % GROUP, probe.tag());
    }

    /// Makes an entry invisible. For the only writer.
    pub(crate) fn withdraw(&self, index: usize) {
        let probe = self.probe(&self.entries[index].key());
        self.tags[index / GROUP].set(index % GROUP, 0);
        self.entries[index].vanish();
        self.count_stray(probe, index, u32::MAX);
    }

    fn count_stray(&self, probe: Probe, index: usize, change: u32) {
        if index / GROUP != probe.home() {
            let strays = &self.strays[probe.home()];
            strays.store(strays.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
        }
    }
}
