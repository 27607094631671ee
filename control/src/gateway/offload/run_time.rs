//! Ports that come and go, and other settings, while flows are in NICs.

use dataplane::worker::Hot;

use super::setup::{hot, policy};
use super::{Offload, PortRules};
use crate::config::HardwareConfig;

impl Offload {
    /// A port has come, in the place of one that is gone, or behind the last.
    pub(in crate::gateway) fn put(&mut self, port: usize, rules: PortRules) {
        match self.ports.get_mut(port) {
            Some(place) => *place = rules,
            None => self.ports.push(rules),
        }
    }

    /// The port of this number for DPDK is to be closed.
    pub(in crate::gateway) fn close(&mut self, gone: u16) {
        let other = self.ports.iter().map(|port| port.id).find(|id| *id != gone);
        for port in &mut self.ports {
            let own = port.id;
            port.forget(gone, other.filter(|other| *other != own).unwrap_or(own));
        }
    }

    /// Whether a NIC still sends packets out of a port by itself.
    pub(in crate::gateway) fn leads_to(&self, port: usize) -> bool {
        self.placed.values().any(|placed| {
            placed.rule.is_some()
                && placed.told.as_ref().is_some_and(|told| usize::from(told.egress) == port)
                && !self.only_marks(placed.port)
        })
    }

    /// From another rate on directions are hot, or other ports have a use for those: whom workers are to tell from now on.
    pub(in crate::gateway) fn set_hardware(&mut self, hardware: &HardwareConfig) -> Hot {
        let policy = policy(hardware);
        for port in &mut self.ports {
            port.scheduler.set_rates(policy.hot, policy.cold);
        }
        self.hot = hot(hardware, &self.ports);
        self.hot.clone()
    }
}
