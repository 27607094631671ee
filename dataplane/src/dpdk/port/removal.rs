//! A device that is being taken away while it is in use.
//!
//! VFIO asks for a device back before it lets it go, and EAL hands that on. Until the port is dropped the bus waits.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::{Inner, Port};

const PORTS: usize = sys::RTE_MAX_ETHPORTS as usize;

/// By DPDK's number of the port: its device is wanted back.
static WANTED: [AtomicBool; PORTS] = [const { AtomicBool::new(false) }; PORTS];

/// Called on EAL's interrupt thread. `port` is a number, not a pointer.
unsafe extern "C" fn asked(_device: *const c_char, event: sys::rte_dev_event_type, port: *mut c_void) {
    if let Some(wanted) = WANTED.get(port.addr()).filter(|_| event == sys::RTE_DEV_EVENT_REMOVE) {
        wanted.store(true, Ordering::Relaxed);
    }
}

/// Listens for the device's removal. A bus that can't tell never does.
pub(super) fn watch(port: &Inner) {
    if let Some(wanted) = WANTED.get(usize::from(port.id)) {
        wanted.store(false, Ordering::Relaxed);
    }
    let number = ptr::without_provenance_mut(usize::from(port.id));
    // SAFETY: the device exists as long as `port`; EAL copies its name. The callback touches a static alone.
    unsafe { sys::rte_dev_event_callback_register(sys::rte_dev_name(port.device), Some(asked), number) };
}

/// Stops listening. A call that is under way does no harm.
pub(super) fn unwatch(port: &Inner) {
    let number = ptr::without_provenance_mut(usize::from(port.id));
    // SAFETY: as in `watch`; called before the device is removed.
    unsafe { sys::rte_dev_event_callback_unregister(sys::rte_dev_name(port.device), Some(asked), number) };
}

impl Port {
    /// Whether the device is wanted back: unplugged, or unbound from its driver. Whoever did that waits until the port
    /// and its queues are dropped.
    pub fn is_wanted_back(&self) -> bool {
        WANTED.get(usize::from(self.inner.id)).is_some_and(|wanted| wanted.load(Ordering::Relaxed))
    }

    /// Whether somebody holds a queue of the port.
    pub fn has_queues_out(&self) -> bool {
        self.inner.queues.load(Ordering::Acquire) > 0
    }
}
