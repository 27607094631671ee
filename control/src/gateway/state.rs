//! The gateway's state, apart from the loop that drives it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use dataplane::clock::Clock;
use dataplane::dpdk::Mempool;
use dataplane::flow::WorkerCounters;
use dataplane::punt::{KernelFrames, LocalAddresses, PuntCounters};
use dataplane::worker::{Activity, Errand, Errands, PortFlags};

use super::flowtables::{self, Tagging};
use super::interfaces::{self, Links};
use super::kept::Place;
use super::own_table::OwnTable;
use super::plane::FlowPlane;
use super::ports::PortEvent;
use super::reload::Desk;
use super::roster::Ports;
use super::rules::Rules;
use super::shares::Shares;
use super::shortfall::Shortfall;
use super::watchdog::Watchdog;
use crate::config::{Accelerate, Config};
use crate::log::Log;
use crate::netlink::watch::{Change, InitialState, Link, Neighbour};
use crate::ruleset::Judgement;
use crate::tracker::{Changed, Policy, Tracker};

/// What configuration and ruleset say of which flows may fly.
pub(super) fn policy(config: &Config, judgement: &Judgement) -> Policy {
    match config.policy.accelerate {
        Accelerate::Marked => {
            Policy::Marked { value: config.policy.mark.value, mask: config.policy.mark.mask }
        }
        Accelerate::Auto if judgement.flowtables().is_empty() => Policy::Established,
        Accelerate::Established => Policy::Established,
        Accelerate::Auto | Accelerate::Flowtable => Policy::Flowtable,
    }
}

/// What is counted of one worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerView {
    pub(super) core: u16,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) activity: Arc<Activity>,
    pub(super) shares: Shares,
    pub(super) errands: Arc<Errands>,
    pub(super) frames: Arc<KernelFrames>,
}

impl WorkerView {
    /// Has the worker do something, soon.
    pub(super) fn send(&self, errand: Errand) {
        if let Err(errand) = self.errands.push(errand) {
            tracing::error!(core = self.core, ?errand, "a worker does not do what it is told");
        }
        self.frames.wake();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) config_file: Option<PathBuf>,
    /// What it has said.
    pub(super) log: Log,
    pub(super) hugepages: bool,
    pub(super) clock: Clock,
    pub(super) tracker: Tracker,
    pub(super) plane: FlowPlane,
    pub(super) ports: Ports,
    pub(super) workers: Vec<WorkerView>,
    pub(super) punt: Arc<PuntCounters>,
    pub(super) local: Arc<LocalAddresses>,
    pub(super) flags: Arc<PortFlags>,
    /// Addresses of this host, by interface.
    pub(super) addresses: Vec<(u32, IpAddr)>,
    /// The MAC address by which each neighbour was reached last.
    pub(super) neighbours: HashMap<Place, [u8; 6]>,
    /// Those of them that are somebody else's affair.
    pub(super) fixed: HashSet<Place>,
    pub(super) conntrack: ConntrackTotals,
    pub(super) shortfall: Shortfall,
    pub(super) watchdog: Watchdog,
    pub(super) rules: Rules,
    pub(super) links: Links,
    pub(super) tagging: Tagging,
    pub(super) own_table: OwnTable,
    pub(super) desk: Desk,
    /// Of packet buffers, for ports of the start and for further ones.
    pub(super) pools: Vec<Mempool>,
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
    /// Reads the ruleset, and sees to Flyover's table in it; `true`: other connections may fly than before.
    pub(super) fn read_rules(&mut self) -> bool {
        let now = self.clock.millis();
        let other = self.rules.read(now, &self.config.policy.accept_loss);
        let accelerate = self.config.policy.accelerate;
        let again =
            self.rules.fresh().and_then(|judgement| self.own_table.follow(now, accelerate, judgement));
        if let Some(at) = again {
            self.rules.read_again(at);
        }
        self.tracker.set_judgement(Arc::clone(self.rules.judgement()));
        self.tracker.set_policy(policy(&self.config, self.rules.judgement()));
        self.follow_interfaces(now);
        other
    }

    /// Where flowtables are, packets must go another way to the rules, and other ports may be selected; and rules may name
    /// what interfaces are called.
    pub(super) fn follow_interfaces(&mut self, now: u64) {
        let judgement = self.rules.judgement();
        let twins = self.ports.twins();
        let flowtables = flowtables::of(judgement, &twins, &self.links);
        let names = interfaces::names(&twins, &self.links);
        let tagged = self.tagging.follow(judgement, &self.links);
        let renamed = names != *self.tracker.interfaces() && judgement.keeps_any();
        let other = tagged || flowtables != *self.tracker.flowtables();
        self.tracker.set_interfaces(names);
        self.follow_lengths();
        self.tracker.set_flowtables(flowtables);
        if other || renamed {
            self.tracker.changed(now, Changed::Ruleset, &mut self.plane);
        }
    }

    /// What can come in is for ports to say, what can leave for interfaces.
    fn follow_lengths(&mut self) {
        let may_come = |number| self.ports.get(number).map_or((0, 0), |port| (port.ifindex, port.may_come()));
        let come: Vec<(u32, u16)> = (0..self.ports.len()).map(may_come).collect();
        self.plane.offload.set_lengths(interfaces::lengths(&come, &self.links));
    }

    /// Takes in what is there when following begins.
    pub(super) fn begin(&mut self, initial: &InitialState) {
        self.links = initial.links.iter().map(|link| (link.ifindex, link.clone())).collect();
        self.read_rules();
        self.addresses = initial.addresses.iter().map(|a| (a.ifindex, a.address)).collect();
        self.set_local_addresses();
        let neighbours = initial.neighbours.iter();
        self.neighbours = neighbours.filter_map(|n| Some(((n.ifindex, n.address), n.mac?))).collect();
        let fixed = initial.neighbours.iter().filter(|neighbour| neighbour.fixed);
        self.fixed = fixed.map(|n| (n.ifindex, n.address)).collect();
        for link in &initial.links {
            let index = self.ports.of_twin(link.ifindex);
            if let Some((index, port)) = index.and_then(|i| Some((i, self.ports.get_mut(i)?))) {
                self.flags.set_bridged(index, link.master.is_some());
                port.follow_twin(link);
            }
        }
        self.follow_lengths();
    }

    /// Takes note of a change in the kernel.
    pub(super) fn changed(&mut self, change: &Change) {
        let now = self.clock.millis();
        let what = match change {
            Change::Neighbour { neighbour, deleted } => self.neighbour_changed(neighbour, *deleted),
            Change::Link { link, deleted } => {
                if *deleted {
                    self.links.remove(&link.ifindex);
                } else {
                    self.links.insert(link.ifindex, link.clone());
                }
                self.follow_interfaces(now);
                let event = self.link_changed(link, *deleted);
                self.follow_lengths();
                event
            }
            Change::Address { address, added } => {
                let entry = (address.ifindex, address.address);
                self.addresses.retain(|known| *known != entry);
                if *added {
                    self.addresses.push(entry);
                }
                self.set_local_addresses();
                Some(Changed::Anything)
            }
            Change::Ruleset { .. } => {
                self.rules.changed(now);
                Some(Changed::Ruleset)
            }
            change => {
                // Lost events may have told of the ruleset.
                if matches!(change, Change::Overrun) {
                    self.rules.changed(now);
                }
                Some(Changed::Anything)
            }
        };
        if let Some(what) = what {
            tracing::debug!(?change, "the kernel has changed");
            // Neighbours come and go by themselves.
            if !matches!(change, Change::Neighbour { .. }) {
                tracing::info!(what = change.what(), "the kernel has changed: flows prove themselves again");
            }
            self.tracker.changed(now, what, &mut self.plane);
        }
    }

    fn set_local_addresses(&mut self) {
        let addresses = self.addresses.iter().map(|(_, address)| *address);
        self.local.set(addresses.clone());
        self.tracker.set_local_addresses(self.clock.millis(), addresses, &mut self.plane);
    }

    /// Flows leave a neighbour that is not where it was; one that was not there before has none.
    fn neighbour_changed(&mut self, neighbour: &Neighbour, deleted: bool) -> Option<Changed> {
        let key = (neighbour.ifindex, neighbour.address);
        if neighbour.fixed && !deleted {
            self.fixed.insert(key);
        } else {
            self.fixed.remove(&key);
        }
        let usable = neighbour.mac.filter(|_| neighbour.usable && !deleted);
        let former = match usable {
            Some(mac) => self.neighbours.insert(key, mac),
            None => self.neighbours.remove(&key),
        };
        former.filter(|mac| usable != Some(*mac)).map(|mac| Changed::NextHop { mac })
    }

    fn link_changed(&mut self, link: &Link, deleted: bool) -> Option<Changed> {
        if deleted {
            self.neighbours.retain(|(ifindex, _), _| *ifindex != link.ifindex);
            self.fixed.retain(|(ifindex, _)| *ifindex != link.ifindex);
        }
        let Some(index) = self.ports.of_twin(link.ifindex) else {
            // Bridges, VLANs, bonds: what is built on twins matters too.
            return Some(Changed::Anything);
        };
        if deleted {
            tracing::error!(port = link.name, "its twin was deleted: it is made again");
            if let Some(port) = self.ports.get_mut(index) {
                (port.bereft, port.admin_up) = (true, false);
            }
            return port_change(index, PortEvent::Changed);
        }
        self.flags.set_bridged(index, link.master.is_some());
        port_change(index, self.ports.get_mut(index)?.follow_twin(link))
    }

    /// What workers do with their time.
    pub(super) fn follow_workers(&mut self) {
        let nanos = self.clock.nanos();
        self.workers.iter_mut().for_each(|worker| worker.shares.follow(nanos, &worker.activity));
    }

    /// The ports own carrier.
    pub(super) fn follow_carriers(&mut self) {
        let now = self.clock.millis();
        for index in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(index) else { continue };
            if port.begins_to_go() {
                self.workers.iter().for_each(|worker| worker.send(Errand::LetGo(index)));
                self.plane.offload.lost_all(index);
            }
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
        PortEvent::Changed => Some(Changed::Port { port: index as u16 }),
    }
}
