//! Flow rules by `rte_flow`: every call of it is here.
//!
//! The driver's handles are kept with the port, so that a name can be used twice or too late without harm, and are given
//! up when the port stops, since many drivers lose their rules then.

mod queued;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Arc, MutexGuard, PoisonError};

use dpdk_sys as sys;

use super::{Inner, Port};
use crate::dpdk::flow_rule::{Count, ErrorKind, FlowError, FlowRule, RuleAge};
use crate::dpdk::log;
use nix::errno::Errno;
use queued::Queued;

/// What a driver holds for a port.
#[derive(Debug, Default)]
pub(super) struct Installed {
    rules: BTreeMap<u64, Handle>,
    last: u64,
    queued: Option<Queued>,
}

#[derive(Clone, Copy, Debug)]
struct Handle(NonNull<sys::rte_flow>);

// SAFETY: a name for the driver, which takes it from any thread.
unsafe impl Send for Handle {}
// SAFETY: it is only copied.
unsafe impl Sync for Handle {}

impl Handle {
    // By a method, so that closures capture the whole and not the pointer in it.
    fn get(self) -> *mut sys::rte_flow {
        self.0.as_ptr()
    }
}

impl Installed {
    fn add(&mut self, handle: Handle) -> u64 {
        self.last += 1;
        self.rules.insert(self.last, handle);
        self.last
    }
}

/// Rules of a port's own driver.
#[derive(Debug)]
pub(in crate::dpdk) struct PmdFlows(Arc<Inner>);

impl PmdFlows {
    pub(in crate::dpdk) fn of(port: &Port) -> Self {
        Self(Arc::clone(&port.inner))
    }

    pub(in crate::dpdk) fn validate(&self, rule: &FlowRule) -> Result<(), FlowError> {
        whole(rule)?;
        self.0.flow_call(|port, error| {
            let raw = rule.raw();
            // SAFETY: the port exists; the arrays have their ends, and what they point to lives as long as `rule`.
            unsafe {
                sys::rte_flow_validate(port, &raw.attr, raw.items.as_ptr(), raw.actions.as_ptr(), error)
            }
        })
    }

    pub(in crate::dpdk) fn create(&self, rule: &FlowRule) -> Result<u64, FlowError> {
        whole(rule)?;
        let mut installed = self.0.flows();
        let mut handle = None;
        self.0.flow_call(|port, error| {
            let raw = rule.raw();
            // SAFETY: as in `validate`.
            let made = unsafe {
                sys::rte_flow_create(port, &raw.attr, raw.items.as_ptr(), raw.actions.as_ptr(), error)
            };
            handle = NonNull::new(made).map(Handle);
            // SAFETY: reads this thread's rte_errno.
            if handle.is_some() { 0 } else { -unsafe { sys::shim_errno() } }
        })?;
        handle.map(|handle| installed.add(handle)).ok_or_else(nameless)
    }

    pub(in crate::dpdk) fn destroy(&self, id: u64) -> Result<(), FlowError> {
        let mut installed = self.0.flows();
        let handle = *installed.rules.get(&id).ok_or_else(FlowError::no_such_rule)?;
        self.0.flow_call(|port, error| {
            // SAFETY: the handle is one that the driver gave for this port and was not told to forget.
            unsafe { sys::rte_flow_destroy(port, handle.get(), error) }
        })?;
        installed.rules.remove(&id);
        Ok(())
    }

    pub(in crate::dpdk) fn count(&self, id: u64, reset: bool) -> Result<Count, FlowError> {
        let mut answer = sys::rte_flow_query_count::default();
        answer.set_reset(reset.into());
        self.query(id, sys::RTE_FLOW_ACTION_TYPE_COUNT, &mut answer)?;
        Ok(Count {
            packets: (answer.hits_set() != 0).then_some(answer.hits),
            bytes: (answer.bytes_set() != 0).then_some(answer.bytes),
        })
    }

    pub(in crate::dpdk) fn age(&self, id: u64) -> Result<RuleAge, FlowError> {
        let mut answer = sys::rte_flow_query_age::default();
        self.query(id, sys::RTE_FLOW_ACTION_TYPE_AGE, &mut answer)?;
        let idle = (answer.sec_since_last_hit_valid() != 0).then(|| answer.sec_since_last_hit());
        Ok(RuleAge { aged: answer.aged() != 0, idle_s: idle })
    }

    /// `T` is what the driver writes for the query of this action.
    fn query<T: Send>(&self, id: u64, action: u32, answer: &mut T) -> Result<(), FlowError> {
        let installed = self.0.flows();
        let handle = *installed.rules.get(&id).ok_or_else(FlowError::no_such_rule)?;
        self.0.flow_call(|port, error| {
            let conf = sys::rte_flow_action_count { id: 0 };
            let conf = if action == sys::RTE_FLOW_ACTION_TYPE_COUNT {
                ptr::from_ref(&conf).cast::<c_void>()
            } else {
                ptr::null()
            };
            let actions = [
                sys::rte_flow_action { type_: action, conf },
                sys::rte_flow_action { type_: sys::RTE_FLOW_ACTION_TYPE_END, conf: ptr::null() },
            ];
            // SAFETY: as in `destroy`; the callers give what the driver writes for this action.
            unsafe {
                sys::rte_flow_query(port, handle.get(), actions.as_ptr(), ptr::from_mut(answer).cast(), error)
            }
        })
    }

    /// Names of the rules that the driver holds.
    pub(in crate::dpdk) fn held(&self) -> Vec<u64> {
        self.0.flows().rules.keys().copied().collect()
    }

    pub(in crate::dpdk) fn flush(&self) -> Result<(), FlowError> {
        let mut installed = self.0.flows();
        self.0.flush(&mut installed)
    }
}

impl Inner {
    fn flows(&self) -> MutexGuard<'_, Installed> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up all rules: before the port stops.
    pub(super) fn give_up_rules(&self) {
        let mut installed = self.flows();
        // A driver that can't flush has nothing to flush, or loses it with the stop.
        let _ = self.flush(&mut installed);
        installed.rules.clear();
        installed.queued = None;
    }

    fn flush(&self, installed: &mut Installed) -> Result<(), FlowError> {
        if installed.rules.is_empty() {
            return Ok(());
        }
        // SAFETY: the port exists.
        self.flow_call(|port, error| unsafe { sys::rte_flow_flush(port, error) })?;
        installed.rules.clear();
        Ok(())
    }

    /// Makes a call that takes the place for an error last, in the namespace of the device's wire side.
    fn flow_call(
        &self,
        call: impl FnOnce(u16, *mut sys::rte_flow_error) -> i32 + Send,
    ) -> Result<(), FlowError> {
        let id = self.id;
        let made = self.within(|| {
            let mut error = sys::rte_flow_error {
                type_: sys::RTE_FLOW_ERROR_TYPE_NONE,
                cause: ptr::null(),
                message: ptr::null(),
            };
            let (ret, lines) = log::capture(|| call(id, &raw mut error));
            if ret < 0 { Err(FlowError::from_call(ret, &error, lines)) } else { Ok(()) }
        });
        made.unwrap_or_else(|error| Err(FlowError::new(ErrorKind::State, Errno::EIO, error.to_string())))
    }
}

/// A driver would read on behind lists that have no end.
fn whole(rule: &FlowRule) -> Result<(), FlowError> {
    if rule.is_terminated() {
        return Ok(());
    }
    Err(FlowError::new(ErrorKind::Handle, Errno::EINVAL, "a list of the rule has no end"))
}

fn nameless() -> FlowError {
    FlowError::new(ErrorKind::Handle, Errno::EIO, "the driver gave no handle")
}
