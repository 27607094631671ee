//! Threads known to DPDK, and the time-stamp counter.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpdk_sys as sys;
use nix::errno::Errno;

use super::eal::{self, Running};

/// Threads that have an lcore id, and thereby a cache in every pool.
static REGISTERED: AtomicUsize = AtomicUsize::new(0);

/// Why a thread can't be registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// DPDK isn't started.
    #[error("DPDK is not started")]
    NotRunning,
    /// DPDK refused: `ENOMEM` when all of its lcore ids are taken.
    #[error("DPDK does not register this thread: {0}")]
    Refused(Errno),
}

/// This thread's registration with DPDK: while it lives the thread has a cache of its own in every [`Mempool`].
///
/// [`Mempool`]: super::Mempool
#[derive(Debug)]
pub struct ThreadRegistration {
    _running: Arc<Running>,
    // A second registration of a thread, and the one of the thread that started DPDK, have nothing to give back.
    owns: bool,
    // The lcore id belongs to the thread.
    _not_send: PhantomData<*const ()>,
}

/// Registers the calling thread with DPDK. Set its CPU affinity before.
pub fn register_thread() -> Result<ThreadRegistration, RegisterError> {
    let running = eal::running().ok_or(RegisterError::NotRunning)?;
    let owns = !is_registered();
    if owns {
        // SAFETY: EAL is up, since `running` is held.
        if unsafe { sys::rte_thread_register() } < 0 {
            // SAFETY: reads this thread's rte_errno.
            return Err(RegisterError::Refused(Errno::from_raw(unsafe { sys::shim_errno() })));
        }
        REGISTERED.fetch_add(1, Ordering::Relaxed);
    }
    Ok(ThreadRegistration { _running: running, owns, _not_send: PhantomData })
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        if self.owns {
            // SAFETY: this thread was registered by `register_thread`, and EAL is up, since `_running` is held.
            unsafe { sys::rte_thread_unregister() };
            // Release: whoever sees this thread gone also sees what it did to the caches.
            REGISTERED.fetch_sub(1, Ordering::Release);
        }
    }
}

/// The thread that starts DPDK gets an lcore id from it.
pub(super) fn count_main_core() {
    REGISTERED.fetch_add(1, Ordering::Relaxed);
}

/// Whether a thread other than this one might be at work in a cache of a pool.
pub(super) fn others_registered() -> bool {
    REGISTERED.load(Ordering::Acquire) > usize::from(is_registered())
}

fn is_registered() -> bool {
    // SAFETY: reads a thread-local variable.
    unsafe { sys::shim_lcore_id() != sys::SHIM_LCORE_ID_ANY }
}

/// The time-stamp counter, in ticks of [`tsc_hz`].
#[inline]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 CPU has the instruction.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: reads a counter register.
    unsafe {
        sys::shim_rdtsc()
    }
}

/// Ticks a second of [`tsc`], as DPDK measured them when it started; 0 before.
pub fn tsc_hz() -> u64 {
    // SAFETY: reads a variable that EAL sets when it starts.
    unsafe { sys::rte_get_tsc_hz() }
}
