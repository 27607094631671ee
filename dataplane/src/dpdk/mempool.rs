//! Pools of packet buffers.

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use dpdk_sys as sys;

use super::eal::{self, Running};
use super::error::Cause;
use super::{Burst, Mbuf, log, thread};

/// Why a pool can't be made.
#[derive(Debug, thiserror::Error)]
pub enum MempoolError {
    /// DPDK isn't started.
    #[error("DPDK is not started")]
    NotRunning,
    /// The name holds a NUL byte.
    #[error("the pool name {0:?} holds a NUL byte")]
    Name(String),
    /// Headroom and data must fit 65535 bytes.
    #[error("a packet buffer of {0} bytes is too large")]
    DataRoom(u16),
    /// DPDK refused: `ENOMEM` (not enough memory), `EEXIST` (the name is taken), `ENAMETOOLONG`, `EINVAL` (a cache of
    /// more than 512, or of more than two thirds of the pool).
    #[error("the pool {name} of {count} packet buffers: {cause}")]
    Refused {
        /// The pool's name.
        name: String,
        /// The buffers asked for.
        count: u32,
        /// Why.
        cause: Cause,
    },
}

/// A pool of packet buffers. Clones are the same pool.
///
/// Any thread may take and return buffers; threads that are [registered](super::register_thread) do it through a cache
/// of their own. The pool's memory is given back with its last handle, if all of its buffers have come home by then and
/// no other registered thread might be returning one just now; otherwise it stays until the process ends.
#[derive(Clone, Debug)]
pub struct Mempool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: NonNull<sys::rte_mempool>,
    count: u32,
    data_room: u16,
    running: ManuallyDrop<Arc<Running>>,
}

// SAFETY: DPDK's pools are made for concurrent use: the ring behind them takes many producers and consumers, and a
// cache is touched by the one thread that has its lcore id.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Mempool {
    /// Makes a pool of `count` buffers (best a power of two less one) that hold frames of `data_room` bytes in one
    /// segment, not counting the 128 bytes of headroom. `cache` buffers are kept by each registered thread; `socket`
    /// is the NUMA node.
    pub fn packets(
        name: &str,
        count: u32,
        data_room: u16,
        cache: u32,
        socket: Option<u32>,
    ) -> Result<Self, MempoolError> {
        let running = eal::running().ok_or(MempoolError::NotRunning)?;
        let c_name = CString::new(name).map_err(|_| MempoolError::Name(name.to_owned()))?;
        let headroom = u16::try_from(sys::SHIM_PKTMBUF_HEADROOM).unwrap_or(u16::MAX);
        let room = data_room.checked_add(headroom).ok_or(MempoolError::DataRoom(data_room))?;
        let socket = socket.and_then(|s| i32::try_from(s).ok()).unwrap_or(-1);
        let mut pool = None;
        let (ret, lines) = log::capture(|| {
            let name = c_name.as_ptr();
            // SAFETY: EAL is up; the name is copied by the call; DPDK checks the numbers.
            let made = unsafe { sys::rte_pktmbuf_pool_create(name, count, cache, 0, room, socket) };
            pool = NonNull::new(made);
            // SAFETY: reads this thread's rte_errno.
            if pool.is_some() { 0 } else { -unsafe { sys::shim_errno() } }
        });
        let Some(pool) = pool else {
            let cause = Cause::from_return(ret, lines);
            return Err(MempoolError::Refused { name: name.to_owned(), count, cause });
        };
        Ok(Self { inner: Arc::new(Inner { pool, count, data_room, running: ManuallyDrop::new(running) }) })
    }

    /// Buffers, wherever they are.
    pub fn size(&self) -> u32 {
        self.inner.count
    }

    /// Buffers in the pool and its caches.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `inner`.
        unsafe { sys::rte_mempool_avail_count(self.inner.pool.as_ptr()) }
    }

    /// Buffers that are out: held as [`Mbuf`]s, or in the rings of ports.
    pub fn in_use(&self) -> u32 {
        self.inner.in_use()
    }

    /// Whether this is the same pool.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// The longest frame, in bytes, that one segment holds.
    pub fn data_room(&self) -> u16 {
        self.inner.data_room
    }

    /// Takes an empty buffer; none when the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `inner`; the buffer it gives is ours alone.
        unsafe { Mbuf::from_raw(sys::shim_mbuf_alloc(self.as_ptr())) }
    }

    /// Adds `n` empty buffers to a burst: all of them, or none when the pool has fewer or the burst no room.
    #[inline]
    pub fn alloc_bulk(&self, burst: &mut Burst, n: usize) -> bool {
        burst.alloc_bulk(self, n)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.inner.pool.as_ptr()
    }
}

impl Inner {
    fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_in_use_count(self.pool.as_ptr()) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A buffer counts as returned to a cache slightly before the cache is done with it, and as returned to the
        // ring only after. So with another registered thread about, a count of zero proves nothing.
        if thread::others_registered() || self.in_use() != 0 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: no buffer is out, so no Mbuf and no port refers to the pool, and none is being returned. `running` is
        // dropped once, here; where the pool stays, it stays too, and keeps the pool's memory mapped.
        unsafe {
            sys::rte_mempool_free(self.pool.as_ptr());
            ManuallyDrop::drop(&mut self.running);
        }
    }
}
