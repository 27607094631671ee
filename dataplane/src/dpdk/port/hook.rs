//! Hooks: who sees packets between the driver and whoever polls.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;

use dpdk_sys as sys;
use nix::errno::Errno;

use crate::dpdk::Mbuf;

/// Sees what a receive queue receives, before its user does, on the thread that polls.
pub trait ReceiveHook: Send {
    /// Takes a packet, or gives it on.
    fn received(&mut self, packet: Mbuf) -> Option<Mbuf>;

    /// The burst is over.
    fn burst_ended(&mut self) {}
}

/// A hook in place: until this is dropped.
pub(super) struct Hooked {
    port: u16,
    queue: u16,
    callback: NonNull<sys::rte_eth_rxtx_callback>,
    /// From `Box::into_raw`.
    hook: NonNull<Box<dyn ReceiveHook>>,
}

// SAFETY: the hook is `Send`, and is touched by who holds this or polls the queue that this is part of. The callback is
// DPDK's memory, which any thread may give back.
unsafe impl Send for Hooked {}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hooked({}, {})", self.port, self.queue)
    }
}

impl Hooked {
    /// For `RxQueue` alone, which nobody else polls and which drops this before it is gone itself.
    pub(super) fn install(port: u16, queue: u16, hook: Box<dyn ReceiveHook>) -> Result<Self, Errno> {
        let hook = NonNull::from(Box::leak(Box::new(hook)));
        let context = hook.as_ptr().cast();
        // SAFETY: the port and its queue exist. The hook lives until `drop`, which takes the callback off first.
        let callback = unsafe { sys::rte_eth_add_rx_callback(port, queue, Some(receive), context) };
        match NonNull::new(callback.cast_mut()) {
            Some(callback) => Ok(Self { port, queue, callback, hook }),
            None => {
                // SAFETY: leaked above, and nobody else has it.
                drop(unsafe { Box::from_raw(hook.as_ptr()) });
                // SAFETY: reads this thread's rte_errno.
                Err(Errno::from_raw(unsafe { sys::shim_errno() }))
            }
        }
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        // SAFETY: whoever drops this holds the only handle of the queue, so nobody polls it now, or ever with this
        // callback again: neither it nor the hook is in use.
        unsafe {
            if sys::rte_eth_remove_rx_callback(self.port, self.queue, self.callback.as_ptr()) == 0 {
                sys::rte_free(self.callback.as_ptr().cast());
                drop(Box::from_raw(self.hook.as_ptr()));
            }
        }
    }
}

/// What DPDK calls. A panic of the hook ends the process.
unsafe extern "C" fn receive(
    _port: u16,
    _queue: u16,
    packets: *mut *mut sys::rte_mbuf,
    received: u16,
    _room: u16,
    hook: *mut c_void,
) -> u16 {
    // SAFETY: `install` gave the hook, which is there as long as the callback, and one thread polls at a time.
    let hook = unsafe { &mut *hook.cast::<Box<dyn ReceiveHook>>() };
    let mut kept = 0;
    for at in 0..received {
        // SAFETY: the driver has written so many packets, which nobody else owns. Each is taken once, and those that
        // stay are put where one was taken before.
        unsafe {
            let Some(packet) = Mbuf::from_raw(packets.add(usize::from(at)).read()) else { continue };
            if let Some(packet) = hook.received(packet) {
                packets.add(usize::from(kept)).write(packet.into_raw());
                kept += 1;
            }
        }
    }
    hook.burst_ended();
    kept
}
