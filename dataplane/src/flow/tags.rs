//! Tags: one byte a slot that says whether a lookup may find its key there, compared 32 at a time.
//!
//! Workers load them with vector instructions while the writer stores words; both go through atomics or through
//! assembly, so that no compiler may assume them still.
#![allow(unsafe_code)]

use super::region::Zeroed;
use super::sync::{AtomicU64, Ordering};

/// Slots in a group: their tags fill half a cache line and one AVX2 register.
pub(crate) const GROUP: usize = Mask::BITS as usize;

/// A bit a slot of a group.
#[cfg(not(loom))]
pub(crate) type Mask = u32;
/// A small group for loom, which walks through every order of every access.
#[cfg(loom)]
pub(crate) type Mask = u8;

/// The tags of one group of slots, lowest byte of the first word first.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(32)))]
pub(crate) struct TagGroup([AtomicU64; GROUP / 8]);

// SAFETY: atomic integers, whose default is 0.
unsafe impl Zeroed for TagGroup {}

impl TagGroup {
    /// The tag of a slot of this group, 0 if nothing is there.
    pub(crate) fn get(&self, slot: usize) -> u8 {
        (self.0[slot / 8].load(Ordering::Acquire) >> (slot % 8 * 8)) as u8
    }

    /// Sets a tag; what was written before is published with it. For the only writer.
    pub(crate) fn set(&self, slot: usize, tag: u8) {
        let (word, shift) = (&self.0[slot / 8], slot % 8 * 8);
        let others = word.load(Ordering::Relaxed) & !(0xff << shift);
        word.store(others | u64::from(tag) << shift, Ordering::Release);
    }

    /// Bit `i` says that slot `i` has the tag. The loads are relaxed: an acquire fence must follow before entries
    /// are read.
    #[inline]
    pub(crate) fn matches(&self, tag: u8) -> Mask {
        let words = self.0.iter().enumerate();
        words.fold(0, |mask, (index, word)| {
            mask | Mask::from(equal_bytes(word.load(Ordering::Relaxed), tag)) << (8 * index)
        })
    }
}

/// A way to compare the tags of a group with one tag.
pub(crate) trait MatchMethod {
    /// The same as [`TagGroup::matches`].
    ///
    /// # Safety
    /// The processor has what the implementation needs.
    unsafe fn matches(group: &TagGroup, tag: u8) -> Mask;
}

/// Words of eight tags: for every processor, loom and miri.
pub(crate) struct Words;

impl MatchMethod for Words {
    #[inline(always)]
    unsafe fn matches(group: &TagGroup, tag: u8) -> Mask {
        group.matches(tag)
    }
}

/// One bit for each byte of `word` that equals `byte`, lowest first.
fn equal_bytes(word: u64, byte: u8) -> u8 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let difference = word ^ (LOW * u64::from(byte));
    // The high bit stays clear only where all eight bits of the difference are; no carry leaves a byte.
    let clear = !(((difference & !HIGH) + !HIGH) | difference) & HIGH;
    // Moves bit 8i to bit 56 + i.
    ((clear >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
pub(crate) use simd::{Avx2, Sse2};

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod simd {
    use super::*;
    use core::arch::asm;
    use core::arch::x86_64::*;

    /// One register. Needs `avx2`.
    pub(crate) struct Avx2;

    impl MatchMethod for Avx2 {
        #[inline(always)]
        unsafe fn matches(group: &TagGroup, tag: u8) -> Mask {
            // SAFETY: passed on to the caller.
            unsafe { matches_avx2(group, tag) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn matches_avx2(group: &TagGroup, tag: u8) -> Mask {
        let equal: __m256i;
        // SAFETY: a group is 32 aligned bytes. To the abstract machine the assembly is relaxed loads of its four
        // AtomicU64: aligned vector loads don't tear within 8 bytes.
        unsafe {
            asm!(
                "vpcmpeqb {equal}, {tag}, [{group}]",
                equal = lateout(ymm_reg) equal,
                tag = in(ymm_reg) _mm256_set1_epi8(tag as i8),
                group = in(reg) group.0.as_ptr(),
                options(nostack, readonly, preserves_flags)
            );
        }
        _mm256_movemask_epi8(equal) as u32
    }

    /// Two registers. Needs nothing: SSE2 is part of x86-64.
    pub(crate) struct Sse2;

    impl MatchMethod for Sse2 {
        #[inline(always)]
        unsafe fn matches(group: &TagGroup, tag: u8) -> Mask {
            // SAFETY: SSE2 is part of x86-64; otherwise as for Avx2.
            unsafe {
                let tag = _mm_set1_epi8(tag as i8);
                let (mut low, mut high) = (tag, tag);
                asm!(
                    "pcmpeqb {low}, [{group}]",
                    "pcmpeqb {high}, [{group} + 16]",
                    low = inout(xmm_reg) low,
                    high = inout(xmm_reg) high,
                    group = in(reg) group.0.as_ptr(),
                    options(nostack, readonly, preserves_flags)
                );
                (_mm_movemask_epi8(low) | _mm_movemask_epi8(high) << 16) as u32
            }
        }
    }
}

/// Asks for a cache line that will be read and perhaps written soon. A hint: any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(line: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: a prefetch never faults; SSE is part of x86-64.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = line;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_method_finds_the_same(tags in proptest::collection::vec(0u8..4, GROUP), tag in 0u8..4) {
            let group = TagGroup::default();
            for (slot, tag) in tags.iter().enumerate() {
                group.set(slot, *tag);
            }
            let expected = (0..GROUP).filter(|slot| tags[*slot] == tag).fold(0, |mask, slot| mask | 1 << slot);
            prop_assert_eq!(group.matches(tag), expected);
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            {
                // SAFETY: SSE2 is part of x86-64.
                prop_assert_eq!(unsafe { Sse2::matches(&group, tag) }, expected);
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: just detected.
                    prop_assert_eq!(unsafe { Avx2::matches(&group, tag) }, expected);
                }
            }
        }

        #[test]
        fn words_compare_exactly(word in any::<[u8; 8]>(), flips in proptest::collection::vec((0..8usize, 0..8u32), 0..9)) {
            // Near misses: bytes that differ in single bits, whose carries must not reach the neighbours.
            let tag = word[0];
            let bytes: [u8; 8] = std::array::from_fn(|i| {
                flips.iter().filter(|(byte, _)| *byte == i).fold(tag, |byte, (_, bit)| byte ^ 1 << bit)
            });
            let expected = (0..8).filter(|i| bytes[*i] == tag).fold(0, |mask, i| mask | 1 << i);
            prop_assert_eq!(equal_bytes(u64::from_le_bytes(bytes), tag), expected);
        }
    }
}
