//! Memory for the shared tables: zeroed, aligned, on huge pages where there are any.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;

use super::sync::{AtomicU32, AtomicU64};

/// A type whose value may be all zero bytes.
///
/// # Safety
/// A zeroed `Self` is valid and equal to `Self::default()`, and it needs no drop.
pub(crate) unsafe trait Zeroed: Default + Sync + Send {}

// SAFETY: 0 is an AtomicU32's default.
unsafe impl Zeroed for AtomicU32 {}
// SAFETY: 0 is an AtomicU64's default.
unsafe impl Zeroed for AtomicU64 {}

/// What the memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// 2 MiB pages from the kernel's reserved pool.
    Huge,
    /// Ordinary pages that the kernel was asked to merge into transparent huge pages.
    Transparent,
}

/// Where the memory of a table is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Take 2 MiB pages from the reserved pool when enough of them are free.
    pub huge_pages: bool,
    /// Prefer this NUMA node's memory. Best effort: where the kernel refuses, pages go to the node of the
    /// thread that touches them first, which is the writer.
    pub numa_node: Option<u32>,
}

impl Default for Placement {
    fn default() -> Self {
        Self { huge_pages: true, numa_node: None }
    }
}

pub(crate) use imp::Region;

#[cfg(not(loom))]
mod imp {
    use super::*;
    use std::ptr::NonNull;

    const HUGE_PAGE: usize = 2 << 20;

    /// A slice in its own mapping.
    #[derive(Debug)]
    pub(crate) struct Region<T: Zeroed> {
        items: NonNull<T>,
        len: usize,
        map: NonNull<libc::c_void>,
        map_len: usize,
        kind: PageKind,
    }

    // SAFETY: a Region owns its mapping alone and hands out nothing but `&[T]`, and T is Send and Sync (Zeroed).
    unsafe impl<T: Zeroed> Send for Region<T> {}
    // SAFETY: as above.
    unsafe impl<T: Zeroed> Sync for Region<T> {}

    impl<T: Zeroed> Region<T> {
        /// Maps room for `len` zeroed items.
        ///
        /// # Errors
        /// What `mmap` said; out of memory if the size can't be expressed.
        pub(crate) fn new(len: usize, placement: Placement) -> io::Result<Self> {
            let bytes = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(2 * HUGE_PAGE));
            let Some(padded) = bytes else { return Err(io::ErrorKind::OutOfMemory.into()) };
            let bytes = padded - 2 * HUGE_PAGE;
            let big = bytes >= HUGE_PAGE;
            let huge_len = bytes.next_multiple_of(HUGE_PAGE);
            let huge = (big && placement.huge_pages)
                .then(|| map(huge_len, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB).ok())
                .flatten();
            let (start, map_len, kind) = match huge {
                Some(start) => (start, huge_len, PageKind::Huge),
                // A transparent huge page must be aligned: map one more and start at the boundary.
                None => {
                    let len = if big { huge_len + HUGE_PAGE } else { bytes.max(1) };
                    (map(len, 0)?, len, PageKind::Transparent)
                }
            };
            // SAFETY: the boundary is less than HUGE_PAGE after the start, and big maps have that much to spare
            // (huge ones are aligned, so there it is 0).
            let items = if big { unsafe { start.byte_add(start.align_offset_to(HUGE_PAGE)) } } else { start };
            let region = Self { items: items.cast(), len, map: start, map_len, kind };
            if kind == PageKind::Transparent && big {
                // Refusal costs speed only.
                // SAFETY: the range lies inside the map; MADV_HUGEPAGE changes no content.
                unsafe { libc::madvise(items.as_ptr(), huge_len, libc::MADV_HUGEPAGE) };
            }
            if let Some(node) = placement.numa_node {
                prefer_node(start, map_len, node);
            }
            Ok(region)
        }

        /// What the memory is made of.
        pub(crate) fn kind(&self) -> PageKind {
            self.kind
        }
    }

    impl<T: Zeroed> Deref for Region<T> {
        type Target = [T];

        #[inline]
        fn deref(&self) -> &[T] {
            // SAFETY: `items` is aligned (page or better), the map holds `len` items, all zero at first, which is a
            // valid T (Zeroed), and lives as long as self.
            unsafe { std::slice::from_raw_parts(self.items.as_ptr(), self.len) }
        }
    }

    impl<T: Zeroed> Drop for Region<T> {
        fn drop(&mut self) {
            // SAFETY: the map is ours alone and no reference into it outlives self.
            unsafe { libc::munmap(self.map.as_ptr(), self.map_len) };
        }
    }

    trait AlignOffset {
        fn align_offset_to(self, align: usize) -> usize;
    }

    impl AlignOffset for NonNull<libc::c_void> {
        fn align_offset_to(self, align: usize) -> usize {
            self.addr().get().wrapping_neg() % align
        }
    }

    fn map(len: usize, flags: libc::c_int) -> io::Result<NonNull<libc::c_void>> {
        // SAFETY: a new anonymous private map, wherever the kernel likes: touches no memory that exists.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(map).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Best effort: a kernel without NUMA, or a node that is not there, leaves first touch in force.
    fn prefer_node(map: NonNull<libc::c_void>, len: usize, node: u32) {
        const MPOL_PREFERRED: libc::c_long = 1;
        let mut mask = [0u64; 16];
        let Some(word) = mask.get_mut(node as usize / 64) else { return };
        *word = 1 << (node % 64);
        // The kernel takes one bit less than it is told.
        let bits = u64::BITS as usize * mask.len() + 1;
        // SAFETY: mbind reads `bits` bits of mask, which has them (see above), and sets a policy on our own map.
        unsafe { libc::syscall(libc::SYS_mbind, map.as_ptr(), len, MPOL_PREFERRED, mask.as_ptr(), bits, 0) };
    }
}

#[cfg(loom)]
mod imp {
    use super::*;

    /// loom's atomics need to be constructed: a plain vector of them.
    #[derive(Debug)]
    pub(crate) struct Region<T: Zeroed>(Vec<T>);

    impl<T: Zeroed> Region<T> {
        pub(crate) fn new(len: usize, _: Placement) -> io::Result<Self> {
            Ok(Self((0..len).map(|_| T::default()).collect()))
        }

        pub(crate) fn kind(&self) -> PageKind {
            PageKind::Transparent
        }
    }

    impl<T: Zeroed> Deref for Region<T> {
        type Target = [T];

        fn deref(&self) -> &[T] {
            &self.0
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::flow::sync::Ordering;

    #[test]
    fn regions_are_zeroed_writable_and_aligned() {
        for (len, align) in [(0, 1), (1, 4096), (5000, 4096), (1 << 19, 2 << 20)] {
            for huge_pages in [false, true] {
                let region: Region<AtomicU64> =
                    Region::new(len, Placement { huge_pages, numa_node: Some(0) }).expect("memory");
                assert_eq!(region.len(), len);
                assert_eq!(region.as_ptr().addr() % align, 0);
                for cell in region.iter() {
                    assert_eq!(cell.swap(1, Ordering::Relaxed), 0);
                }
            }
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Region::<AtomicU64>::new(usize::MAX, Placement::default()).is_err());
        assert!(Region::<AtomicU64>::new(usize::MAX / 16, Placement::default()).is_err());
    }
}
