//! Tags: one byte a slot that says whether a lookup may find its key there, compared many at a time.
//!
//! A cache line holds the tags of 64 slots, in four buckets of 16. Workers load them with vector instructions while
//! the writer stores words; both go through atomics or through assembly, so that no compiler may assume them still.
#![allow(unsafe_code)]

use super::region::Zeroed;
use super::sync::{AtomicU64, Ordering};

/// Slots in a bucket.
pub(crate) const BUCKET: usize = 16;
/// Buckets in a line of tags.
pub(crate) const BUCKETS: usize = 4;
/// Slots whose tags share a cache line.
pub(crate) const LINE: usize = BUCKET * BUCKETS;

/// The tags of 64 slots; two words a bucket, lowest byte first.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub(crate) struct TagLine([AtomicU64; LINE / 8]);

// SAFETY: atomic integers, whose default is 0.
unsafe impl Zeroed for TagLine {}

impl TagLine {
    /// The tag of a slot of this line, 0 if nothing is there.
    pub(crate) fn get(&self, slot: usize) -> u8 {
        (self.0[slot / 8].load(Ordering::Acquire) >> (slot % 8 * 8)) as u8
    }

    /// Sets a tag; what was written before is published with it. For the only writer.
    pub(crate) fn set(&self, slot: usize, tag: u8) {
        let (word, shift) = (&self.0[slot / 8], slot % 8 * 8);
        let others = word.load(Ordering::Relaxed) & !(0xff << shift);
        word.store(others | u64::from(tag) << shift, Ordering::Release);
    }
}

/// A way to compare the tags of two buckets of a line with one tag.
pub(crate) trait MatchMethod {
    /// Bit `i` of the lower 16 says that slot `i` of bucket `first` has the tag; the upper 16 are for `second`.
    /// The loads are relaxed: an acquire fence must follow before entries are read.
    ///
    /// # Safety
    /// The buckets are below [`BUCKETS`], and the processor has what the implementation needs.
    unsafe fn matches(line: &TagLine, first: usize, second: usize, tag: u8) -> u32;
}

/// Words of eight tags: for every processor, loom and miri.
pub(crate) struct Words;

impl Words {
    /// [`MatchMethod::matches`], which for words is safe.
    pub(crate) fn find(line: &TagLine, first: usize, second: usize, tag: u8) -> u32 {
        let word = |index: usize| equal_bytes(line.0[index].load(Ordering::Relaxed), tag);
        let bucket = |index: usize| word(2 * index) | word(2 * index + 1) << 8;
        bucket(first) | bucket(second) << 16
    }
}

impl MatchMethod for Words {
    #[inline(always)]
    unsafe fn matches(line: &TagLine, first: usize, second: usize, tag: u8) -> u32 {
        Self::find(line, first, second, tag)
    }
}

/// One bit for each byte of `word` that equals `byte`, lowest first.
fn equal_bytes(word: u64, byte: u8) -> u32 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = LOW << 7;
    let difference = word ^ (LOW * u64::from(byte));
    // The high bit stays clear only where all eight bits of the difference are; no carry leaves a byte.
    let clear = !(((difference & !HIGH) + !HIGH) | difference) & HIGH;
    // Moves bit 8i to bit 56 + i.
    ((clear >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
pub(crate) use simd::{Avx2, Sse2};

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod simd {
    use super::*;
    use core::arch::asm;
    use core::arch::x86_64::*;

    /// Both buckets in one register. Needs `avx2`.
    pub(crate) struct Avx2;

    impl MatchMethod for Avx2 {
        #[inline(always)]
        unsafe fn matches(line: &TagLine, first: usize, second: usize, tag: u8) -> u32 {
            // SAFETY: passed on to the caller.
            unsafe { matches_avx2(line, first, second, tag) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn matches_avx2(line: &TagLine, first: usize, second: usize, tag: u8) -> u32 {
        let base = line.0.as_ptr();
        let tags: __m256i;
        // SAFETY: buckets are 16 aligned bytes inside the line. To the abstract machine the assembly is relaxed
        // loads of four AtomicU64: aligned vector loads don't tear within 8 bytes.
        unsafe {
            asm!(
                "vmovdqa {tags:x}, [{first}]",
                "vinserti128 {tags}, {tags}, [{second}], 1",
                tags = out(ymm_reg) tags,
                first = in(reg) base.add(2 * first),
                second = in(reg) base.add(2 * second),
                options(nostack, readonly, preserves_flags)
            );
        }
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(tags, _mm256_set1_epi8(tag as i8))) as u32
    }

    /// A register a bucket. Needs nothing: SSE2 is part of x86-64.
    pub(crate) struct Sse2;

    impl MatchMethod for Sse2 {
        #[inline(always)]
        unsafe fn matches(line: &TagLine, first: usize, second: usize, tag: u8) -> u32 {
            let base = line.0.as_ptr();
            // SAFETY: as for Avx2.
            unsafe {
                let (a, b): (__m128i, __m128i);
                asm!(
                    "movdqa {a}, [{first}]",
                    "movdqa {b}, [{second}]",
                    a = out(xmm_reg) a,
                    b = out(xmm_reg) b,
                    first = in(reg) base.add(2 * first),
                    second = in(reg) base.add(2 * second),
                    options(nostack, readonly, preserves_flags)
                );
                let tag = _mm_set1_epi8(tag as i8);
                let bits = |tags| _mm_movemask_epi8(_mm_cmpeq_epi8(tags, tag)) as u32;
                bits(a) | bits(b) << 16
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
        fn every_method_finds_the_same(
            tags in proptest::collection::vec(0u8..4, LINE),
            first in 0..BUCKETS,
            second in 0..BUCKETS,
            tag in 0u8..4,
        ) {
            let line = TagLine::default();
            for (slot, tag) in tags.iter().enumerate() {
                line.set(slot, *tag);
            }
            let expected = [first, second].iter().enumerate().fold(0, |mask, (half, bucket)| {
                (0..BUCKET).filter(|i| line.get(bucket * BUCKET + i) == tag).fold(mask, |m, i| m | 1 << (half * 16 + i))
            });
            // SAFETY: the buckets are in range.
            prop_assert_eq!(unsafe { Words::matches(&line, first, second, tag) }, expected);
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            {
                // SAFETY: the buckets are in range.
                prop_assert_eq!(unsafe { Sse2::matches(&line, first, second, tag) }, expected);
                if is_x86_feature_detected!("avx2") {
                    #[target_feature(enable = "avx2")]
                    unsafe fn avx2(line: &TagLine, first: usize, second: usize, tag: u8) -> u32 {
                        // SAFETY: the caller has avx2 and buckets in range.
                        unsafe { Avx2::matches(line, first, second, tag) }
                    }
                    // SAFETY: just detected.
                    prop_assert_eq!(unsafe { avx2(&line, first, second, tag) }, expected);
                }
            }
        }
    }
}
