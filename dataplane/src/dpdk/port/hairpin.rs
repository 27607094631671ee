//! Hairpin queues of a port's driver: asked for, bound, and let go of before either port stops.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;

use super::{Inner, Port, PortError, SendMut};
use crate::dpdk::hairpin::HairpinLimits;

/// Pairs of ports whose hairpin queues are bound: the one that transmits, and the one that receives.
static BOUND: Mutex<Vec<(u16, u16)>> = Mutex::new(Vec::new());

/// Held around calls that bind and unbind, since those concern two ports.
fn bound() -> MutexGuard<'static, Vec<(u16, u16)>> {
    BOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    /// How many hairpin queues the port can have.
    ///
    /// # Errors
    /// When its driver has none.
    pub fn hairpin_limits(&self) -> Result<HairpinLimits, PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        let mut limits = sys::rte_eth_hairpin_cap::default();
        let to = SendMut(&raw mut limits);
        // SAFETY: the port exists as long as `self`, and `limits` is writable until the call returns.
        inner.call("hairpin queues", move |id| unsafe {
            sys::rte_eth_dev_hairpin_capability_get(id, to.get())
        })?;
        Ok(HairpinLimits { queues: limits.max_nb_queues, descriptors: limits.max_nb_desc })
    }

    /// Has packets that rules of this port send to its hairpin queue for another leave by that. Both must be started. It
    /// lasts until one of them stops.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn bind_hairpin(&self, to: &Self) -> Result<(), PortError> {
        let (from, to) = (&self.inner, to.inner.id);
        let mut bound = bound();
        let id = from.id;
        // SAFETY: both ports exist as long as their handles, and calls that bind and unbind are locked.
        from.call("hairpin binding", move |_| unsafe { sys::rte_eth_hairpin_bind(to, id) })?;
        bound.push((to, id));
        Ok(())
    }
}

impl Inner {
    /// Lets go of hairpin queues, those of other ports with this one included: before the port stops.
    pub(super) fn unbind_hairpins(&self) {
        let mut bound = bound();
        for (tx, rx) in bound.extract_if(.., |(tx, rx)| *tx == self.id || *rx == self.id) {
            // Nothing else can be done about an error; DPDK logs it.
            // SAFETY: both ports exist: each lets go of its pairs before it goes.
            let _ = self.call("hairpin unbinding", move |_| unsafe { sys::rte_eth_hairpin_unbind(tx, rx) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::dpdk::testing::Bench;

    #[test]
    fn virtual_devices_have_none_and_say_so() {
        let bench = Bench::new();
        let [from, to] = [0, 1].map(|wire| bench.port(wire));
        let refused = |error| match error {
            PortError::Refused { device, cause, .. } => (device, cause.errno),
            other => panic!("{other}"),
        };
        let name = from.name().to_owned();
        let limits = refused(from.hairpin_limits().expect_err("rings have none"));
        assert_eq!(limits, (name.clone(), Errno::ENOTSUP));
        let binding = refused(from.bind_hairpin(to).expect_err("rings have none"));
        assert_eq!(binding, (name, Errno::ENOTSUP));
        assert_eq!(bound().len(), 0, "what is not bound is not let go of");
    }
}
