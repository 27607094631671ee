//! The gateway's state, apart from the loop that drives it.

use std::path::PathBuf;
use std::sync::Arc;

use dataplane::clock::Clock;
use dataplane::flow::WorkerCounters;
use dataplane::punt::{LocalAddresses, PuntCounters};

use super::plane::FlowPlane;
use super::ports::{GatewayPort, PortEvent};
use crate::config::{Accelerate, Config};
use crate::netlink::watch::{Change, LinkState};
use crate::tracker::{Changed, Policy, Tracker};

/// What the configuration says of which flows may fly.
pub(super) fn policy(config: &Config) -> Policy {
    match config.policy.accelerate {
        Accelerate::Marked => {
            Policy::Marked { value: config.policy.mark.value, mask: config.policy.mark.mask }
        }
        // Flowtables are refused by the configuration of this version; `auto` without any is `established`.
        Accelerate::Auto | Accelerate::Established | Accelerate::Flowtable => Policy::Established,
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) config_path: Option<PathBuf>,
    pub(super) hugepages: bool,
    pub(super) clock: Clock,
    pub(super) tracker: Tracker,
    pub(super) plane: FlowPlane,
    pub(super) ports: Vec<GatewayPort>,
    pub(super) workers: Vec<Arc<WorkerCounters>>,
    pub(super) punt: Arc<PuntCounters>,
    pub(super) local: Arc<LocalAddresses>,
    pub(super) addresses: Vec<(u32, std::net::IpAddr)>,
    pub(super) conntrack: ConntrackTotals,
    pub(super) ready: bool,
}

/// What was seen of conntrack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConntrackTotals {
    pub(super) events: u64,
    pub(super) overruns: u64,
    pub(super) resyncs: u64,
}

impl State {
    /// Takes note of a change in the kernel.
    pub(super) fn changed(&mut self, change: &Change) {
        let now = self.clock.millis();
        let what = match change {
            Change::Neighbour { former: Some(mac), .. } => Changed::NextHop { mac: *mac },
            Change::Link(link) => match self.link_changed(link) {
                Some(what) => what,
                None => return,
            },
            Change::Address { ifindex, address, added } => {
                let entry = (*ifindex, *address);
                self.addresses.retain(|known| *known != entry);
                if *added {
                    self.addresses.push(entry);
                }
                self.set_local_addresses();
                Changed::Anything
            }
            // A neighbour that was not there before: nothing flies to it yet.
            Change::Neighbour { former: None, .. } => return,
            _ => Changed::Anything,
        };
        tracing::debug!(?change, "kernel");
        self.tracker.changed(now, what, &mut self.plane);
    }

    pub(super) fn set_local_addresses(&mut self) {
        let addresses = self.addresses.iter().map(|(_, address)| *address);
        self.local.set(addresses.clone());
        self.tracker.set_local_addresses(addresses, &mut self.plane);
    }

    fn link_changed(&mut self, link: &LinkState) -> Option<Changed> {
        let Some(index) = self.ports.iter().position(|port| port.ifindex == link.ifindex) else {
            // Bridges, VLANs, bonds: what is built on twins matters too.
            return Some(Changed::Anything);
        };
        let event = self.ports.get_mut(index)?.follow_twin(link);
        port_change(index, event)
    }

    /// The ports own carrier.
    pub(super) fn follow_carriers(&mut self) {
        let now = self.clock.millis();
        for index in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(index) else { continue };
            let event = port.follow_carrier();
            if let Some(change) = port_change(index, event) {
                self.tracker.changed(now, change, &mut self.plane);
            }
        }
    }
}

fn port_change(index: usize, event: PortEvent) -> Option<Changed> {
    match event {
        PortEvent::None => None,
        PortEvent::Changed => Some(Changed::Anything),
        PortEvent::Down => Some(Changed::PortDown { port: index as u16 }),
    }
}
