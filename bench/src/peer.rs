//! The peer: DPDK's `rte_hash`, lock-free for readers, CRC hash, keys of 16 or 40 bytes, looked up in bulk.

use std::ffi::{CString, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use dataplane::flow::{Key, Key4, Key6};
use dpdk_sys as sys;

use crate::error::Error;

/// Keys looked up at once.
pub const BULK: usize = 32;

/// A key as `rte_hash` takes it.
pub trait PeerKey: Copy + Default {
    /// From a table's key.
    fn of(key: &Key) -> Option<Self>;
}

/// 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Peer4([u32; 4]);

/// 40 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Peer6([u64; 5]);

impl Peer4 {
    /// From a table's key.
    #[inline(always)]
    pub fn new(key: &Key4) -> Self {
        Self([key.src, key.dst, key.ports, key.proto])
    }
}

impl Peer6 {
    /// From a table's key.
    #[inline(always)]
    pub fn new(key: &Key6) -> Self {
        let rest = u64::from(key.ports) | u64::from(key.proto) << 32;
        Self([key.src[0], key.src[1], key.dst[0], key.dst[1], rest])
    }
}

impl PeerKey for Peer4 {
    fn of(key: &Key) -> Option<Self> {
        if let Key::V4(key) = key { Some(Self::new(key)) } else { None }
    }
}

impl PeerKey for Peer6 {
    fn of(key: &Key) -> Option<Self> {
        if let Key::V6(key) = key { Some(Self::new(key)) } else { None }
    }
}

/// An `rte_hash`.
#[derive(Debug)]
pub struct RteHash<K: PeerKey> {
    hash: NonNull<sys::rte_hash>,
    _keys: std::marker::PhantomData<K>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl<K: PeerKey> RteHash<K> {
    /// An empty one with room for so many keys: a third more than asked for, so that a full one is at the load that
    /// Flyover's own table has.
    pub fn new(keys: u32) -> Result<Self, Error> {
        let name = CString::new(format!("peer{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
            .map_err(|_| Error::Peer("name"))?;
        let parameters = sys::rte_hash_parameters {
            name: name.as_ptr(),
            entries: (keys.saturating_add(keys / 3)).max(64),
            key_len: size_of::<K>() as u32,
            // None is the CRC where the processor has it.
            hash_func: None,
            extra_flag: sys::RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF as u8,
            ..Default::default()
        };
        // SAFETY: EAL is up, or the call fails; the parameters are copied.
        let hash = unsafe { sys::rte_hash_create(&raw const parameters) };
        let hash = NonNull::new(hash).ok_or(Error::Peer("no memory"))?;
        Ok(Self { hash, _keys: std::marker::PhantomData })
    }

    /// Puts a key in.
    pub fn insert(&mut self, key: &K) -> Result<(), Error> {
        // SAFETY: the hash lives as long as self and has keys of this size.
        let position = unsafe { sys::rte_hash_add_key(self.hash.as_ptr(), (&raw const *key).cast()) };
        if position < 0 { Err(Error::Peer("full")) } else { Ok(()) }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &K) {
        // SAFETY: as above. With lock-free readers the position must be freed separately.
        unsafe {
            let position = sys::rte_hash_del_key(self.hash.as_ptr(), (&raw const *key).cast());
            if position >= 0 {
                sys::rte_hash_free_key_with_position(self.hash.as_ptr(), position);
            }
        }
    }

    /// Looks up at most [`BULK`] keys; gives how many were found.
    #[inline]
    pub fn look_up(&self, keys: &[K]) -> usize {
        let mut pointers = [std::ptr::null::<c_void>(); BULK];
        let mut positions = [0i32; BULK];
        let count = keys.len().min(BULK);
        for (pointer, key) in pointers.iter_mut().zip(keys) {
            *pointer = (&raw const *key).cast();
        }
        // SAFETY: `count` pointers to keys of the right size, and room for as many positions.
        unsafe {
            sys::rte_hash_lookup_bulk(
                self.hash.as_ptr(),
                pointers.as_mut_ptr(),
                count as u32,
                positions.as_mut_ptr(),
            );
        }
        positions[..count].iter().filter(|position| **position >= 0).count()
    }
}

impl<K: PeerKey> Drop for RteHash<K> {
    fn drop(&mut self) {
        // SAFETY: created by us, used by nobody after this.
        unsafe { sys::rte_hash_free(self.hash.as_ptr()) };
    }
}
