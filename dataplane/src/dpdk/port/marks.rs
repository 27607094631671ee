//! Marks of flow rules: some drivers have to know before they are configured that packets are to bring them along.

use dpdk_sys as sys;
use nix::errno::Errno;

use super::{Inner, Port, PortError};

/// What a driver says to marks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Marks {
    /// It was not asked yet.
    #[default]
    Unasked,
    /// It delivers them, or need not be asked.
    Delivered,
    /// It does not, and why.
    Refused(String),
}

impl Marks {
    fn of_answer(answer: Result<u64, PortError>) -> Self {
        let mark = u64::from(sys::RTE_ETH_RX_METADATA_USER_MARK);
        match answer {
            Ok(features) if features & mark != 0 => Self::Delivered,
            Ok(_) => Self::Refused("the driver delivers no marks".to_owned()),
            // Nothing has to be agreed with most drivers.
            Err(PortError::Refused { cause, .. }) if cause.errno == Errno::ENOTSUP => Self::Delivered,
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

impl Inner {
    /// Tells the driver that marks are wanted. To be called once, before the port is configured for the first time.
    pub(super) fn ask_for_marks(&self) -> Marks {
        let mut features = u64::from(sys::RTE_ETH_RX_METADATA_USER_MARK);
        let wanted = &mut features;
        // SAFETY: the port exists, its control calls are locked, and `features` is writable.
        let outcome = self.call("marks", move |id| unsafe { sys::rte_eth_rx_metadata_negotiate(id, wanted) });
        Marks::of_answer(outcome.map(|()| features))
    }
}

impl Port {
    /// Why packets of this port bring no marks along, if the driver said so when it was configured.
    pub fn marks_refused(&self) -> Option<String> {
        match &self.inner.state().marks {
            Marks::Refused(why) => Some(why.clone()),
            Marks::Unasked | Marks::Delivered => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::dpdk::error::Cause;

    fn refused(errno: Errno) -> PortError {
        PortError::Refused {
            device: "a".to_owned(),
            operation: "marks",
            cause: Cause { errno, log: Vec::new() },
        }
    }

    #[test]
    fn drivers_that_need_not_be_asked_deliver_marks() {
        let all = u64::from(sys::RTE_ETH_RX_METADATA_USER_MARK | sys::RTE_ETH_RX_METADATA_USER_FLAG);
        assert_eq!(Marks::of_answer(Ok(all)), Marks::Delivered);
        assert_eq!(Marks::of_answer(Err(refused(Errno::ENOTSUP))), Marks::Delivered);
        assert!(matches!(Marks::of_answer(Ok(0)), Marks::Refused(_)));
        assert!(matches!(Marks::of_answer(Err(refused(Errno::EIO))), Marks::Refused(_)));
    }

    #[test]
    fn virtual_devices_need_not_be_asked() {
        let bench = crate::dpdk::testing::Bench::new();
        assert_eq!(bench.port(0).marks_refused(), None);
        assert_eq!(bench.port(0).inner.state().marks, Marks::Delivered);
    }
}
