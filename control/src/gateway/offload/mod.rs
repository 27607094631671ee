//! Flows in the NIC: which directions have rules, what those have counted, and that none has one that must not.
//!
//! Workers tell of directions with many packets, a scheduler for each port says whose rules are to be made and removed,
//! and the tracker's writes to the flow table say who must leave: a direction whose state, way or length changes has its
//! rule removed before the change is made.

mod port;
mod setup;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::dpdk::flow_rule::{ErrorKind, FlowError, FlowId};
use dataplane::flow::{
    AdjacencyId, AdjacencyTable, ContextTable, EntryState, EntryView, FlowRef, FlowTable, Key, flags,
};
use dataplane::hardware::model::Nic;
use dataplane::hardware::scheduler::{Order, Whereabouts};
use dataplane::hardware::{HardwareFlow, Lengths};
use dataplane::worker::{Hot, Told};
use nix::errno::Errno;

pub(super) use port::PortRules;
pub(super) use setup::{Hardware, prepare};

use crate::netlink::egress::egress;
use crate::tracker::DirectionCounters;

/// How often a rule's counter is read, in milliseconds; the tracker wants to see packets that are not older than a
/// second.
const COUNT_EVERY: u64 = 500;
/// Counters read in one go.
const COUNT_BATCH: usize = 1024;
/// What one end has acknowledged says nothing of what the other may send once so many bytes went past workers: half of
/// the largest TCP window.
const ACK_IS_OLD: u64 = 1 << 29;

/// A direction that no NIC may have.
fn cannot(why: impl Into<String>) -> FlowError {
    FlowError::new(ErrorKind::Handle, Errno::EOPNOTSUPP, why)
}

/// How long packets of a port can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortLengths {
    /// The longest that can come in.
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
    key: Key,
    /// That its packets came in with, when last told of.
    ttl: u8,
    rule: Option<FlowId>,
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
    /// Tuples of directions that are gone from the table, and whose rules are not.
    haunted: HashSet<Key>,
    /// Rules by the time at which their counter was read last.
    to_count: VecDeque<(u64, Name, FlowId)>,
    /// Of directions that are gone.
    past: (u64, u64),
    model: Option<Arc<Nic>>,
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
            haunted: HashSet::new(),
            to_count: VecDeque::new(),
            past: (0, 0),
            model,
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
        if let Some(model) = &self.model {
            model.set_time(now);
        }
        self.read_counters(now);
        for port in 0..self.ports.len() {
            self.obey(port, now);
        }
    }

    /// A direction that a worker has told of.
    pub(super) fn next_hot(&self) -> Option<Told> {
        self.hot.pop()
    }

    /// It may go into the NIC.
    pub(super) fn consider(&mut self, told: Told) {
        let (now, flow) = (self.now, told.flow);
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
        let Some(rules) = self.ports.get_mut(port).filter(|port| port.carries()) else { return };
        let placed = self.placed.entry(name(flow)).or_insert_with(|| Placed {
            flow,
            port,
            key: entry.key(),
            ttl: told.ttl,
            rule: None,
            counted: DirectionCounters::default(),
            before: (0, 0),
        });
        // It left when its packets began to come in elsewhere.
        if placed.rule.is_none() {
            (placed.port, placed.ttl) = (port, told.ttl);
        }
        rules.scheduler.counted(name(flow), entry.packets() + placed.counted.packets, now);
    }

    /// Whether rules of the port that a direction comes in by are for one TTL each.
    fn for_one_ttl(&self, flow: FlowRef) -> bool {
        let port = self.placed.get(&name(flow)).and_then(|placed| self.ports.get(placed.port));
        port.is_some_and(PortRules::for_one_ttl)
    }

    /// Carries out what the scheduler of a port wants.
    fn obey(&mut self, port: usize, now: u64) {
        let Some(orders) = self.ports.get_mut(port).map(|port| port.scheduler.poll(now)) else { return };
        for order in orders {
            match order {
                Order::Create(name) => self.create(port, name, now),
                Order::Destroy(name) => self.destroy(port, name, now),
            }
        }
        let freed = self.ports.get_mut(port).map(|port| port.scheduler.freed()).unwrap_or_default();
        for name in freed {
            self.is_free(name);
        }
    }

    fn create(&mut self, port: usize, name: Name, now: u64) {
        let outcome = self.rule_for(port, name);
        let made = outcome.as_ref().ok().copied();
        if let Some(rules) = self.ports.get_mut(port) {
            rules.scheduler.created(name, outcome.map(drop), now);
        }
        let (Some(rule), Some(placed)) = (made, self.placed.get_mut(&name)) else { return };
        placed.rule = Some(rule);
        let flow = placed.flow;
        self.to_count.push_back((now, name, rule));
        // A worker may have moved it meanwhile.
        let stays = |slot| self.table.entry(slot).state() == EntryState::Software;
        if !self.table.resolve(flow).is_some_and(stays) {
            self.leave(flow);
        }
    }

    /// Makes the rule of a direction.
    fn rule_for(&self, port: usize, name: Name) -> Result<FlowId, FlowError> {
        let Some(placed) = self.placed.get(&name) else { return Err(cannot("the direction is gone")) };
        let stays = |slot| self.table.entry(slot).state() == EntryState::Software;
        if !self.table.resolve(placed.flow).is_some_and(stays) {
            return Err(cannot("the direction does not fly"));
        }
        let (comes_in_by, flow) = self.derive(placed.flow)?;
        if comes_in_by != port {
            return Err(cannot("it comes in by another port now"));
        }
        let ids: Vec<u16> = self.ports.iter().map(|port| port.id).collect();
        self.ports
            .get(port)
            .map_or_else(|| Err(cannot("there is no such port")), |rules| rules.carry(flow, &ids, placed.ttl))
    }

    /// What a NIC would be told of a direction, and the port that it comes in by.
    fn derive(&self, flow: FlowRef) -> Result<(usize, HardwareFlow), FlowError> {
        let entry = self.table.resolve(flow).map(|slot| self.table.entry(slot));
        let entry = entry.ok_or_else(|| cannot("the direction is gone"))?;
        if entry.context() == ContextTable::NONE || entry.adjacency() == AdjacencyId::NONE {
            return Err(cannot("where it comes in and how it leaves is not proved"));
        }
        if entry.flags() & flags::REFUSE_LONGER != 0 {
            return Err(cannot("longer packets were seen to come that do not leave in one piece"));
        }
        let port = usize::from(self.contexts.get(entry.context()).port());
        let out = usize::from(self.adjacencies.get(entry.adjacency()).fields().port());
        let may_come = self.lengths.get(port).map_or(u16::MAX, |port| port.may_come);
        // What was seen to leave is enough if nothing longer can come; else the routes have to say.
        let proved = entry.proved_length();
        let leaves_as = || self.may_leave(out, &entry.leaves_as());
        let may_leave = if proved < may_come { proved.max(leaves_as()) } else { proved };
        let lengths = Lengths { may_come, may_leave };
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
        // Where its packets' TTL was not told of: what most hosts send.
        let ttl = self.placed.get(&name(flow)).map_or(64, |placed| placed.ttl);
        let (port, flow) = self.derive(flow).map_err(|error| error.to_string())?;
        let ids: Vec<u16> = self.ports.iter().map(|port| port.id).collect();
        let rules = self.ports.get(port).ok_or("there is no such port")?;
        rules.printed(flow, &ids, ttl).map(|printed| (port, printed)).map_err(|error| error.to_string())
    }

    fn destroy(&mut self, port: usize, name: Name, now: u64) {
        self.read_counter(name, now);
        let Some(rules) = self.ports.get_mut(port) else { return };
        let outcome = match self.placed.get(&name).and_then(|placed| placed.rule) {
            Some(rule) => rules.rules().and_then(|rules| rules.destroy(rule)),
            None => Ok(()),
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, "a rule could not be removed from the NIC: its packets go on past the rules of nftables");
        } else if let Some(placed) = self.placed.get_mut(&name) {
            placed.rule = None;
            placed.before = (placed.counted.packets, placed.counted.bytes);
        }
        rules.scheduler.destroyed(name, outcome, now);
    }

    /// A direction that was to leave has no rule any more.
    fn is_free(&mut self, name: Name) {
        let Some(placed) = self.placed.get(&name) else { return };
        if self.haunted.remove(&placed.key) {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: Name) {
        if let Some(placed) = self.placed.remove(&name) {
            self.past.0 += placed.counted.packets;
            self.past.1 += placed.counted.bytes;
        }
    }

    /// A direction must not be in the NIC from here on. `false`: the NIC did not let go of it.
    pub(super) fn leave(&mut self, flow: FlowRef) -> bool {
        let Some(port) = self.placed.get(&name(flow)).map(|placed| placed.port) else { return true };
        let now = self.now;
        let Some(rules) = self.ports.get_mut(port) else { return true };
        if rules.scheduler.leave(name(flow)) {
            return true;
        }
        self.obey(port, now);
        self.placed.get(&name(flow)).is_none_or(|placed| placed.rule.is_none())
    }

    /// The same of one that is taken out of the table.
    pub(super) fn remove(&mut self, flow: FlowRef) {
        let free = self.leave(flow);
        if let Some(placed) = self.placed.get(&name(flow)).filter(|_| !free) {
            self.haunted.insert(placed.key);
        } else {
            self.forget(name(flow));
        }
    }

    /// Whether a NIC still has a rule for packets with this tuple that is nobody's.
    pub(super) fn is_haunted(&self, key: &Key) -> bool {
        !self.haunted.is_empty() && self.haunted.contains(key)
    }

    /// Whether the direction has a rule.
    pub(super) fn has(&self, flow: FlowRef) -> bool {
        self.placed.get(&name(flow)).is_some_and(|placed| placed.rule.is_some())
    }

    /// Where the scheduler has it, and why not further.
    pub(super) fn why_not(&self, flow: FlowRef) -> Option<String> {
        let placed = self.placed.get(&name(flow))?;
        match self.ports.get(placed.port)?.scheduler.whereabouts(name(flow)) {
            Whereabouts::PutOff(_, error) => Some(format!("not in the NIC: {error}")),
            Whereabouts::ComingOut(Some(error)) => Some(format!("still in the NIC: {error}")),
            _ => None,
        }
    }

    /// What the NIC has counted of a direction.
    pub(super) fn counters(&self, flow: FlowRef) -> Option<&DirectionCounters> {
        self.placed.get(&name(flow)).map(|placed| &placed.counted)
    }

    /// Packets and bytes that NICs have carried, as far as is known.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.placed.values().fold(self.past, |(packets, bytes), placed| {
            (packets + placed.counted.packets, bytes + placed.counted.bytes)
        })
    }

    /// Directions with a rule.
    pub(super) fn carried(&self) -> impl Iterator<Item = FlowRef> {
        self.placed.values().filter(|placed| placed.rule.is_some()).map(|placed| placed.flow)
    }

    /// Reads those counters whose time has come.
    fn read_counters(&mut self, now: u64) {
        for _ in 0..COUNT_BATCH {
            let first = self.to_count.front().copied();
            let Some((_, name, rule)) = first.filter(|(at, ..)| *at + COUNT_EVERY <= now) else { break };
            self.to_count.pop_front();
            // A later rule of the same direction has a place of its own.
            if self.placed.get(&name).is_some_and(|placed| placed.rule == Some(rule)) {
                self.read_counter(name, now);
                self.to_count.push_back((now, name, rule));
            }
        }
    }

    fn read_counter(&mut self, name: Name, now: u64) {
        let Some(placed) = self.placed.get_mut(&name) else { return };
        let (Some(rule), Some(port)) = (placed.rule, self.ports.get_mut(placed.port)) else { return };
        let Ok(count) = port.rules().and_then(|rules| rules.count(rule, false)) else { return };
        let packets = placed.before.0 + count.packets.unwrap_or(0);
        if packets > placed.counted.packets {
            placed.counted.packets = packets;
            placed.counted.bytes = placed.before.1 + count.bytes.unwrap_or(0);
            placed.counted.last_seen = (now as u32).max(1);
        }
        let Some(slot) = self.table.resolve(placed.flow) else { return };
        let entry = self.table.entry(slot);
        port.scheduler.counted(name, entry.packets() + placed.counted.packets, now);
        if count.bytes.unwrap_or(0) > ACK_IS_OLD {
            entry.set_last_ack(0);
            if let Some(peer) = self.table.peer(slot) {
                self.table.entry(peer).set_last_ack(0);
            }
        }
    }

    /// A port has lost all of its rules: its device went away.
    pub(super) fn lost_all(&mut self, port: usize) {
        let Some(rules) = self.ports.get_mut(port) else { return };
        rules.scheduler.lost_all();
        rules.gone();
        let freed = rules.scheduler.freed();
        for placed in self.placed.values_mut().filter(|placed| placed.port == port) {
            placed.rule = None;
        }
        for name in freed {
            self.is_free(name);
        }
    }
}

#[cfg(test)]
mod tests;
