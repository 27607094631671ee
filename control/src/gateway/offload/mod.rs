//! Flows in the NIC: which directions have rules, what those have counted, and that none has one that must not.
//!
//! Workers tell of directions with many packets, a scheduler for each port says whose rules are to be made and removed,
//! and the tracker's writes to the flow table say who must leave: a direction whose state, way or length changes has its
//! rule removed before the change is made.

#[cfg(test)]
mod agreement;
mod audit;
mod captured;
mod counts;
mod marks;
mod orders;
mod port;
mod run_time;
mod setup;
mod under_way;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::capture::Wanted;
use dataplane::dpdk::flow_rule::{ErrorKind, FlowError, FlowId};
use dataplane::flow::{
    AdjacencyId, AdjacencyTable, ContextTable, EntryState, EntryView, FlowRef, FlowTable, Key, flags,
};
use dataplane::hardware::model::Nic;
use dataplane::hardware::scheduler::Whereabouts;
use dataplane::hardware::{HardwareFlow, Lengths};
use dataplane::worker::{Hot, Told};
use nix::errno::Errno;

use audit::{Audit, Looked};
pub(super) use port::PortRules;
pub(super) use setup::{Hardware, prepare, prepare_one, set_up_queues};

use crate::netlink::egress::egress;
use crate::tracker::DirectionCounters;

/// A direction that no NIC may have.
fn cannot(why: impl Into<String>) -> FlowError {
    FlowError::new(ErrorKind::Handle, Errno::EOPNOTSUPP, why)
}

/// How long packets of a port can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortLengths {
    /// The longest without tags that can come in.
    pub(super) may_come: u16,
    /// The MTU of each interface by which packets leave by this port: the twin, and what is built on it.
    pub(super) may_leave_by: HashMap<u32, u32>,
}

/// `net.ipv6.conf.NAME.mtu`.
fn ipv6_mtu(ifindex: u32) -> Option<u32> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    let path = format!("/proc/sys/net/ipv6/conf/{}/mtu", name.to_str().ok()?);
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Names a direction for the scheduler: its slot and generation.
pub(super) type Name = (u32, u16);

const fn name(flow: FlowRef) -> Name {
    (flow.slot.to_bits(), flow.generation)
}

/// A direction that a NIC has, or has had, something to do with.
#[derive(Debug)]
struct Placed {
    flow: FlowRef,
    /// Of its ingress.
    port: usize,
    /// The worker that carries it, and polls the queue of the same number.
    worker: u16,
    /// It is gone from the table.
    ended: bool,
    key: Key,
    /// That its packets came in with, when last told of.
    ttl: u8,
    rule: Option<FlowId>,
    /// Whether its making has ended.
    is_in: bool,
    /// It stands for its connection among those that NICs carry.
    counts: bool,
    /// What the NIC was told, while there is a rule.
    told: Option<HardwareFlow>,
    /// What the last audit saw.
    looked: Looked,
    /// What the rule has counted, and those before it.
    counted: DirectionCounters,
    /// What those before it have counted.
    before: (u64, u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Offload {
    table: Arc<FlowTable>,
    contexts: Arc<ContextTable>,
    adjacencies: Arc<AdjacencyTable>,
    /// Milliseconds since the process started, as of the last tick.
    now: u64,
    hot: Hot,
    ports: Vec<PortRules>,
    /// How long packets can be, by port.
    lengths: Vec<PortLengths>,
    placed: HashMap<Name, Placed>,
    /// Tuples of directions that are gone from the table, and whose rules are not; by which port they come in.
    haunted: HashMap<Key, usize>,
    /// Rules by the time at which their counter was read last.
    to_count: VecDeque<(u64, Name, FlowId)>,
    /// Packets and bytes that NICs have carried, as far as is known.
    totals: (u64, u64),
    /// Connections that NICs carry.
    carried: u64,
    waits: Waits,
    audit: Audit,
    model: Option<Arc<Nic>>,
    /// Packets that somebody wants to see: their directions stay with workers.
    captured: Option<Arc<Wanted>>,
}

/// How long control waits for NICs.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// For one rule to go, at most.
    each: Duration,
    /// For all of them between two ticks.
    together: Duration,
    /// Since the last tick.
    since_tick: Duration,
    /// Overrunning was told then.
    told: Option<u64>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            each: Duration::from_millis(2),
            together: Duration::from_millis(10),
            since_tick: Duration::ZERO,
            told: None,
        }
    }
}

impl Offload {
    pub(super) fn new(
        hardware: Hardware,
        tables: (&Arc<FlowTable>, &Arc<ContextTable>, &Arc<AdjacencyTable>),
    ) -> Self {
        let Hardware { ports, hot, model } = hardware;
        Self {
            table: Arc::clone(tables.0),
            contexts: Arc::clone(tables.1),
            adjacencies: Arc::clone(tables.2),
            now: 0,
            hot,
            lengths: Vec::new(),
            ports,
            placed: HashMap::new(),
            haunted: HashMap::new(),
            to_count: VecDeque::new(),
            totals: (0, 0),
            carried: 0,
            waits: Waits::default(),
            audit: Audit::default(),
            model,
            captured: None,
        }
    }

    /// By port, in their order.
    pub(super) fn ports(&self) -> &[PortRules] {
        &self.ports
    }

    /// Replaces what is known of packets' lengths, by port.
    pub(super) fn set_lengths(&mut self, lengths: Vec<PortLengths>) {
        self.lengths = lengths;
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: u64) {
        self.now = now;
        self.waits.since_tick = Duration::ZERO;
        if let Some(model) = &self.model {
            model.set_time(now);
        }
        let begun = Instant::now();
        self.read_counters(now);
        self.ports.iter_mut().for_each(|port| port.waits.took(begun.elapsed()));
        for port in 0..self.ports.len() {
            let begun = Instant::now();
            self.serve(port, now);
            if let Some(rules) = self.ports.get_mut(port) {
                rules.waits.took(begun.elapsed());
            }
        }
    }

    /// A direction that a worker has told of.
    pub(super) fn next_hot(&self) -> Option<Told> {
        self.hot.pop()
    }

    /// It may go into the NIC.
    pub(super) fn consider(&mut self, told: Told) {
        let (now, flow) = (self.now, told.flow);
        if self.is_captured(flow) {
            return;
        }
        // A rule for another TTL takes none of its packets.
        if self.placed.get(&name(flow)).is_some_and(|placed| placed.rule.is_some() && placed.ttl != told.ttl)
            && self.for_one_ttl(flow)
            && !self.leave(flow)
        {
            return;
        }
        let Some(slot) = self.table.resolve(flow) else { return };
        let entry = self.table.entry(slot);
        if entry.state() != EntryState::Software {
            return;
        }
        let port = usize::from(self.contexts.get(entry.context()).port());
        let Some(rules) = self.ports.get_mut(port).filter(|port| port.carries() || port.marks()) else {
            return;
        };
        let placed = self.placed.entry(name(flow)).or_insert_with(|| Placed {
            flow,
            port,
            worker: told.worker,
            ended: false,
            key: entry.key(),
            ttl: told.ttl,
            rule: None,
            is_in: false,
            counts: false,
            told: None,
            looked: Looked::default(),
            counted: DirectionCounters::default(),
            before: (0, 0),
        });
        // It left when its packets began to come in elsewhere.
        if placed.rule.is_none() {
            (placed.port, placed.ttl, placed.worker) = (port, told.ttl, told.worker);
        }
        rules.scheduler.counted(name(flow), entry.packets() + placed.counted.packets, now);
    }

    /// Whether rules of the port that a direction comes in by are for one TTL each.
    fn for_one_ttl(&self, flow: FlowRef) -> bool {
        let port = self.placed.get(&name(flow)).and_then(|placed| self.ports.get(placed.port));
        port.is_some_and(PortRules::for_one_ttl)
    }

    /// Whether the direction flies with workers, so that it may fly in the NIC.
    fn flies(&self, flow: FlowRef) -> bool {
        self.table.resolve(flow).is_some_and(|slot| self.table.entry(slot).state() == EntryState::Software)
    }

    /// What a NIC would be told of a direction, and the port that it comes in by.
    fn derive(&self, flow: FlowRef) -> Result<(usize, HardwareFlow), FlowError> {
        let entry = self.table.resolve(flow).map(|slot| self.table.entry(slot));
        let entry = entry.ok_or_else(|| cannot("the direction is gone"))?;
        if entry.context() == ContextTable::NONE || entry.adjacency() == AdjacencyId::NONE {
            return Err(cannot("where it comes in and how it leaves is not proved"));
        }
        let ingress = self.contexts.get(entry.context());
        let port = usize::from(ingress.port());
        let compared = self.ports.get(port).is_some_and(|port| port.capabilities.lengths);
        if entry.flags() & flags::REFUSE_LONGER != 0 && !compared {
            return Err(cannot("longer packets were seen to come that do not leave in one piece"));
        }
        let fields = self.adjacencies.get(entry.adjacency()).fields();
        let out = usize::from(fields.port());
        // Tags take of the room that there is for them.
        let tags = 4 * ingress.tags().into_iter().flatten().count() as u16;
        let may_come = self.lengths.get(port).map_or(u16::MAX, |port| port.may_come.saturating_sub(tags));
        // What was seen to leave is enough if nothing longer can come, or leave by this link; else the routes have to say.
        let proved = entry.proved_length();
        let leaves_as = || self.may_leave(out, &entry.leaves_as());
        let refuses = entry.flags() & flags::REFUSE_LONGER != 0;
        let most = may_come.min(fields.mtu());
        let may_leave = if proved < most && !refuses { proved.max(leaves_as()) } else { proved };
        let lengths = Lengths { may_come, may_leave, compared };
        HardwareFlow::derive(entry, &self.contexts, &self.adjacencies, lengths)
            .map(|flow| (port, flow))
            .map_err(|unfit| cannot(unfit.to_string()))
    }

    /// The longest packet that leaves in one piece by a port, to where such a packet goes: 0 if the route to there is
    /// another, so that something else than the destination decides.
    fn may_leave(&self, port: usize, packet: &Key) -> u16 {
        let Some(port) = self.lengths.get(port) else { return 0 };
        let destination = packet.tuple().dst;
        let Some(way) = egress(destination).ok() else { return 0 };
        let Some(mtu) = port.may_leave_by.get(&way.ifindex) else { return 0 };
        // Routers and sysctls may set another for IPv6.
        let ipv6 = match destination {
            IpAddr::V4(_) => None,
            IpAddr::V6(_) => Some(ipv6_mtu(way.ifindex).unwrap_or(0)),
        };
        let least = [Some(*mtu), way.mtu, ipv6].into_iter().flatten().min().unwrap_or(0);
        u16::try_from(least).unwrap_or(u16::MAX)
    }

    /// The port that a direction comes in by, and its rules as testpmd takes them, or why there are none.
    pub(super) fn rules_of(&self, flow: FlowRef) -> Result<(usize, Vec<String>), String> {
        if let Some(printed) = self.mark_printed(flow) {
            return printed.map_err(|error| error.to_string());
        }
        // Where its packets' TTL was not told of: what most hosts send.
        let ttl = self.placed.get(&name(flow)).map_or(64, |placed| placed.ttl);
        let (port, flow) = self.derive(flow).map_err(|error| error.to_string())?;
        let ids: Vec<u16> = self.ports.iter().map(|port| port.id).collect();
        let rules = self.ports.get(port).ok_or("there is no such port")?;
        rules.printed(flow, &ids, ttl).map(|printed| (port, printed)).map_err(|error| error.to_string())
    }

    /// Whether the direction has a rule, made, by which the NIC carries it.
    pub(super) fn has(&self, flow: FlowRef) -> bool {
        self.placed.get(&name(flow)).is_some_and(|placed| placed.is_in && !self.only_marks(placed.port))
    }

    /// Where the scheduler has it, and why not further.
    pub(super) fn why_not(&self, flow: FlowRef) -> Option<String> {
        if self.is_captured(flow) {
            return Some("kept out of the NIC: its packets are captured or traced".to_owned());
        }
        let placed = self.placed.get(&name(flow))?;
        let scheduler = &self.ports.get(placed.port)?.scheduler;
        match scheduler.whereabouts(name(flow)) {
            Whereabouts::PutOff(_, error) => Some(format!("not in the NIC: {error}")),
            Whereabouts::ComingOut(Some(error)) => Some(format!("still in the NIC: {error}")),
            Whereabouts::ComingOut(None) | Whereabouts::GoingIn if scheduler.is_leaving(name(flow)) => {
                Some("still in the NIC: its rule is being removed".to_owned())
            }
            Whereabouts::Hardware if self.only_marks(placed.port) => {
                Some("the NIC marks its packets: they are not looked up".to_owned())
            }
            _ => None,
        }
    }

    /// What the NIC has counted of a direction.
    pub(super) fn counters(&self, flow: FlowRef) -> Option<&DirectionCounters> {
        self.placed.get(&name(flow)).map(|placed| &placed.counted)
    }
}

#[cfg(test)]
mod tests;
