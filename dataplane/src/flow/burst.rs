//! The stages of a burst's lookup that use the processor's vector and AES instructions, chosen once.
#![allow(unsafe_code)]

use super::arena::{Arena, Lookup, MAX_BURST, NOWHERE, Probe};
use super::entry::Line;
use super::hash::{HashKey, HashMethod, Sip};
use super::tags::{MatchMethod, Words, prefetch};

/// The best code that this processor can run.
#[derive(Debug)]
pub(crate) struct Kernel<L: Line> {
    name: &'static str,
    hash: unsafe fn(&HashKey, &L::Key) -> u64,
    prepare: unsafe fn(&Arena<L>, &[L::Key], &mut Lookup),
    find: unsafe fn(&Arena<L>, &mut Lookup, usize),
    prepare_unmarked: unsafe fn(&Arena<L>, &[L::Key], &mut Lookup),
    find_unmarked: unsafe fn(&Arena<L>, &mut Lookup, usize),
}

impl<L: Line> Clone for Kernel<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Line> Copy for Kernel<L> {}

impl<L: Line> Kernel<L> {
    /// Asks the processor what it can do, of what it may.
    #[cfg_attr(
        any(loom, miri, not(target_arch = "x86_64")),
        expect(unused_variables, reason = "one kernel alone")
    )]
    pub(crate) fn detect(avx2: bool) -> Self {
        #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
        {
            if avx2 && has_avx2() {
                return x86::avx2();
            }
            if is_x86_feature_detected!("aes") {
                return x86::sse2();
            }
        }
        Self::portable()
    }

    /// What every processor can run.
    pub(crate) fn portable() -> Self {
        Self {
            name: "portable",
            hash: |secret, key| {
                // SAFETY: SipHash needs nothing.
                unsafe { L::hash::<Sip>(secret, key) }
            },
            prepare: |arena, keys, lookup| {
                // SAFETY: SipHash needs nothing.
                unsafe { prepare::<L, Sip, false>(arena, keys, lookup) }
            },
            find: |arena, lookup, until| {
                // SAFETY: words need nothing.
                unsafe { find::<L, Words, false>(arena, lookup, until) }
            },
            prepare_unmarked: |arena, keys, lookup| {
                // SAFETY: SipHash needs nothing.
                unsafe { prepare::<L, Sip, true>(arena, keys, lookup) }
            },
            find_unmarked: |arena, lookup, until| {
                // SAFETY: words need nothing.
                unsafe { find::<L, Words, true>(arena, lookup, until) }
            },
        }
    }

    /// Everything that this processor can run.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn all() -> Vec<Self> {
        #[cfg_attr(any(miri, not(target_arch = "x86_64")), expect(unused_mut, reason = "one kernel alone"))]
        let mut all = vec![Self::portable()];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if is_x86_feature_detected!("aes") {
            all.push(x86::sse2());
            if has_avx2() {
                all.push(x86::avx2());
            }
        }
        all
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    #[inline]
    pub(crate) fn hash(&self, secret: &HashKey, key: &L::Key) -> u64 {
        // SAFETY: the constructors take only what the processor was found to have.
        unsafe { (self.hash)(secret, key) }
    }
}

impl<L: Line> Arena<L> {
    /// First stage: hashes more keys, of at most [`MAX_BURST`], and asks for their tags.
    #[inline]
    pub(crate) fn prepare(&self, keys: &[L::Key], lookup: &mut Lookup) {
        // SAFETY: the kernel's constructors take only what the processor was found to have.
        unsafe { (self.kernel.prepare)(self, keys, lookup) }
    }

    /// Second stage: compares the tags of the first `until` keys, of those that it has not yet, and asks for the candidates.
    #[inline]
    pub(crate) fn find_candidates(&self, lookup: &mut Lookup, until: usize) {
        // SAFETY: as above.
        unsafe { (self.kernel.find)(self, lookup, until) }
    }

    /// First stage, but for those keys whose candidates marks have named.
    #[inline]
    pub(crate) fn prepare_unmarked(&self, keys: &[L::Key], lookup: &mut Lookup) {
        // SAFETY: as above.
        unsafe { (self.kernel.prepare_unmarked)(self, keys, lookup) }
    }

    /// Second stage, but for those keys whose candidates marks have named.
    #[inline]
    pub(crate) fn find_unmarked_candidates(&self, lookup: &mut Lookup, until: usize) {
        // SAFETY: as above.
        unsafe { (self.kernel.find_unmarked)(self, lookup, until) }
    }
}

/// Every processor with AVX2 has these; ask nevertheless.
#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
fn has_avx2() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

/// `MARKS`: some of the candidates may have been named by marks.
#[inline(always)]
unsafe fn prepare<L: Line, H: HashMethod, const MARKS: bool>(
    arena: &Arena<L>,
    keys: &[L::Key],
    lookup: &mut Lookup,
) {
    let (tags, groups) = (arena.tags.as_ptr(), arena.groups());
    let mut marked = if MARKS { lookup.marked.unbounded_shr(lookup.len as u32) } else { 0 };
    let hashes = lookup.hashes.get_mut(lookup.len..).unwrap_or_default();
    lookup.len += keys.len().min(hashes.len());
    for (key, slot) in keys.iter().zip(hashes) {
        if MARKS {
            let skip = marked & 1 != 0;
            marked >>= 1;
            if skip {
                continue;
            }
        }
        // SAFETY: the caller has what H needs.
        let hash = unsafe { L::hash::<H>(&arena.secret, key) };
        *slot = hash;
        prefetch(tags.wrapping_add(Probe::new(hash, groups).home()));
    }
}

/// `MARKS`: as for [`prepare`].
#[inline(always)]
unsafe fn find<L: Line, M: MatchMethod, const MARKS: bool>(
    arena: &Arena<L>,
    lookup: &mut Lookup,
    until: usize,
) {
    let (entries, groups) = (arena.entries.as_ptr(), arena.groups());
    let from = lookup.matched;
    let until = until.min(lookup.len).min(MAX_BURST).max(from);
    lookup.matched = until;
    for position in from..until {
        if MARKS && lookup.is_marked(position) {
            continue;
        }
        let probe = Probe::new(lookup.hashes[position], groups);
        // SAFETY: `home` is below `groups`, the length of `tags`; the caller has what M needs.
        let mask = unsafe { M::matches(arena.tags.get_unchecked(probe.home()), probe.tag()) };
        if mask == 0 {
            seek_stray(arena, probe, position, lookup);
            continue;
        }
        let first = probe.first(probe.home(), mask);
        lookup.first[position] = first as u32;
        L::prefetch_at(entries.wrapping_add(first));
    }
}

/// Nothing at home: the key is in the sibling, away, or not in the table.
#[cold]
#[inline(never)]
fn seek_stray<L: Line>(arena: &Arena<L>, probe: Probe, position: usize, lookup: &mut Lookup) {
    lookup.first[position] = NOWHERE;
    if !arena.has_strays(probe.home()) {
        return;
    }
    let mask = arena.tags.get(probe.sibling()).map_or(0, |tags| tags.matches(probe.tag()));
    if mask == 0 {
        prefetch(arena.tags.as_ptr().wrapping_add(probe.away()));
        lookup.away[lookup.away_len % MAX_BURST] = position as u8;
        lookup.away_len += 1;
    } else {
        let first = probe.first(probe.sibling(), mask);
        lookup.first[position] = first as u32;
        L::prefetch_at(arena.entries.as_ptr().wrapping_add(first));
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod x86 {
    use super::*;
    use crate::flow::hash::Aes;
    use crate::flow::tags::{Avx2, Sse2};

    /// Instantiates the stages inside functions that may use the features, so that everything is inlined into them.
    macro_rules! kernel {
        ($name:ident, $features:literal, $matches:ty) => {
            /// To be called only where the processor has the features of that name and AES.
            pub(super) fn $name<L: Line>() -> Kernel<L> {
                #[target_feature(enable = $features)]
                unsafe fn hash_one<L: Line>(secret: &HashKey, key: &L::Key) -> u64 {
                    // SAFETY: the features are enabled here.
                    unsafe { L::hash::<Aes>(secret, key) }
                }
                #[target_feature(enable = $features)]
                unsafe fn prepare_burst<L: Line>(arena: &Arena<L>, keys: &[L::Key], lookup: &mut Lookup) {
                    // SAFETY: the features are enabled here.
                    unsafe { prepare::<L, Aes, false>(arena, keys, lookup) }
                }
                #[target_feature(enable = $features)]
                unsafe fn find_burst<L: Line>(arena: &Arena<L>, lookup: &mut Lookup, until: usize) {
                    // SAFETY: the features are enabled here.
                    unsafe { find::<L, $matches, false>(arena, lookup, until) }
                }
                #[target_feature(enable = $features)]
                unsafe fn prepare_unmarked<L: Line>(arena: &Arena<L>, keys: &[L::Key], lookup: &mut Lookup) {
                    // SAFETY: the features are enabled here.
                    unsafe { prepare::<L, Aes, true>(arena, keys, lookup) }
                }
                #[target_feature(enable = $features)]
                unsafe fn find_unmarked<L: Line>(arena: &Arena<L>, lookup: &mut Lookup, until: usize) {
                    // SAFETY: the features are enabled here.
                    unsafe { find::<L, $matches, true>(arena, lookup, until) }
                }
                Kernel {
                    name: stringify!($name),
                    hash: hash_one::<L>,
                    prepare: prepare_burst::<L>,
                    find: find_burst::<L>,
                    prepare_unmarked: prepare_unmarked::<L>,
                    find_unmarked: find_unmarked::<L>,
                }
            }
        };
    }

    kernel!(avx2, "aes,avx2,bmi1,bmi2,lzcnt,popcnt", Avx2);
    kernel!(sse2, "aes,sse2", Sse2);
}
