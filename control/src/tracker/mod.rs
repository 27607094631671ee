//! The life of a connection, as a state machine without I/O.
//!
//! Goes in: what conntrack says ([`Tracker::entry`], [`Tracker::destroyed`], dumps), what the punt threads saw
//! ([`Tracker::observe`]), what changed ([`Tracker::changed`]), and time ([`Tracker::tick`]).
//! Comes out: writes to the flow table, through [`Plane`], and [`Action`]s for the kernel and the punt thread.
//!
//! Times are milliseconds since the process started. Where they are stored they are 32 bits and wrap after
//! 49 days, which is longer than any interval that is compared.

mod account;
mod admission;
#[cfg(test)]
pub(crate) mod agreement;
mod changes;
mod connection;
mod flowtables;
mod interfaces;
mod keeping;
#[cfg(test)]
mod keeping_tests;
mod plane;
mod policy;
mod proof;
#[cfg(test)]
mod properties;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timers;
mod view;
mod wheel;
mod zones;

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::flow::{EntryState, FiveTuple, FlowRef, Key};
use dataplane::punt::Observation;
use hashbrown::{HashMap, HashSet};

pub use account::{Account, Carried, DirectionAccount};
pub use changes::Changed;
pub use connection::Why;
use connection::{Class, Connection, Dir};
pub use flowtables::Flowtables;
pub use interfaces::Interfaces;
pub use plane::{DirectionCounters, Forwarding, Plane};
pub use policy::{Policy, Refusal};
use table::Connections;
pub use view::{ConnectionView, Counts, DirectionView};
use wheel::Wheel;
use zones::ZonesSeen;

use crate::netlink::conntrack::{ConntrackEntry, TcpState, Zones};
use crate::ruleset::Judgement;

/// Milliseconds since the process started.
pub type Millis = u64;

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The conntrack timeout of a flow that flies; a gateway that dies leaves no entry longer than this.
    pub hold: u32,
    /// How often that is refreshed at the least, in milliseconds.
    pub refresh_every: u32,
    /// A flow without a packet for so long goes back to the kernel, in milliseconds.
    pub idle_after: u32,
    /// After a FIN, RST or SYN the kernel is asked after so many milliseconds what became of it.
    pub closing_check: u32,
    /// All flows are proved again within so many milliseconds of an announced change.
    pub revalidate_within: u32,
    /// Every flow is proved again each so many milliseconds.
    pub reprove_every: u32,
    /// A direction whose packets left twice takes no proof for so long, in milliseconds.
    pub shun: u32,
    /// conntrack's timeouts in seconds, where an entry does not tell its own.
    pub tcp_established_s: u32,
    /// The same in FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT and CLOSE.
    pub tcp_closing_s: [u32; 5],
    /// See `tcp_established_s`.
    pub udp_stream_s: u32,
    /// See `tcp_established_s`.
    pub udp_s: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            hold: 600,
            refresh_every: 200_000,
            idle_after: 30_000,
            closing_check: 1_000,
            revalidate_within: 5_000,
            reprove_every: 30_000,
            shun: 30_000,
            tcp_established_s: 432_000,
            tcp_closing_s: [120, 60, 30, 120, 10],
            udp_stream_s: 120,
            udp_s: 30,
        }
    }
}

/// Milliseconds of one tick of the timers.
pub const TICK: u64 = 10;

/// Questions about unknown 5-tuples within a second, at the most: each costs the kernel some microseconds.
const ASKS_A_SECOND: u64 = 1000;

/// Where an entry was learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An event: its timeout is what the kernel has just set.
    Event,
    /// A dump: its timeout is what is left.
    Dump,
    /// The answer to [`Action::Ask`].
    Answer,
}

/// What the tracker wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set an entry's timeout.
    Timeout {
        /// The entry's original tuple.
        orig: FiveTuple,
        /// The entry's zones.
        zones: Zones,
        /// The timeout, in seconds.
        timeout_s: u32,
        /// For TCP, make it liberal as well, so that segments which the kernel does not see do not make later
        /// ones invalid.
        liberal: bool,
    },
    /// Get the entry with this tuple: [`Tracker::entry`] with [`Source::Answer`], or
    /// [`Tracker::not_found`].
    Ask {
        /// The entry's tuple, of either direction.
        tuple: FiveTuple,
        /// The entry's zones.
        zones: Zones,
    },
    /// Give the punt thread [`dataplane::punt::PuntCommand::Settle`], once every worker has passed a
    /// quiescent state.
    Settle(FlowRef),
}

/// What the tracker counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrackerStats {
    /// Events and dump entries that were looked at.
    pub entries: u64,
    /// Timeouts set in the kernel.
    pub refreshes: u64,
    /// Proofs that were taken.
    pub proofs: u64,
    /// Proofs that came too late: something changed since the packet was given to the kernel.
    pub stale_proofs: u64,
    /// Connections that found no room in the flow table.
    pub table_full: u64,
    /// Directions that stopped flying because the kernel did not forward their probe.
    pub not_forwarded: u64,
    /// Unknown 5-tuples that the kernel was asked for.
    pub asked: u64,
    /// Unknown 5-tuples that it was not asked for, since too many were.
    pub unasked: u64,
    /// Announced changes.
    pub changes: u64,
    /// Directions that were given back because their packets flew and none of them proved it in time.
    pub deadline_missed: u64,
}

/// The state of all connections. See the module.
#[derive(Debug)]
pub struct Tracker {
    timing: Timing,
    policy: Policy,
    /// What the ruleset says of which connections it must see.
    judgement: Arc<Judgement>,
    flowtables: Flowtables,
    interfaces: Interfaces,
    connections: Connections,
    wheel: Wheel,
    actions: Vec<Action>,
    epoch: u32,
    /// The epoch since when proved lengths hold.
    lengths_at: u32,
    /// When connections were swept last.
    swept_at: Millis,
    /// Connections that the current sweep has yet to visit.
    sweep_left: usize,
    sweep_at: usize,
    /// Increases with every dump.
    dump: u32,
    dumping: bool,
    counts: [u32; 4],
    stats: TrackerStats,
    local: HashSet<IpAddr>,
    /// Tuples that stand in more than one conntrack entry, with the connections that have them.
    clashes: HashMap<Key, Vec<u32>>,
    zones: ZonesSeen,
    /// Entries that were destroyed a moment ago: an event that was overtaken by DESTROY revives none.
    buried: table::Graveyard,
    fired: Vec<(u32, u32)>,
    asks_left: u64,
    asked_at: Millis,
}

impl Tracker {
    /// A tracker that knows of no connection.
    pub fn new(timing: Timing, policy: Policy) -> Self {
        Self {
            timing,
            policy,
            judgement: Arc::default(),
            flowtables: Flowtables::default(),
            interfaces: Interfaces::default(),
            connections: Connections::default(),
            wheel: Wheel::new(),
            actions: Vec::new(),
            epoch: 1,
            lengths_at: 0,
            swept_at: 0,
            sweep_left: 0,
            sweep_at: 0,
            dump: 0,
            dumping: false,
            counts: [0; 4],
            stats: TrackerStats::default(),
            local: HashSet::new(),
            clashes: HashMap::new(),
            zones: ZonesSeen::default(),
            buried: table::Graveyard::default(),
            fired: Vec::new(),
            asks_left: ASKS_A_SECOND,
            asked_at: 0,
        }
    }

    /// What the tracker wants done, in order.
    pub fn actions(&mut self) -> std::vec::Drain<'_, Action> {
        self.actions.drain(..)
    }

    /// What was counted.
    pub const fn stats(&self) -> &TrackerStats {
        &self.stats
    }

    /// No connection is known.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Replaces the policy. What it selects shows with the entries of the next dump.
    pub const fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Replaces the timing.
    pub const fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Replaces what is known of the ruleset. What it keeps in the kernel, and what its flowtables select, shows with
    /// the entries of the next dump.
    pub fn set_judgement(&mut self, judgement: Arc<Judgement>) {
        if !judgement.selects_as(&self.judgement) {
            self.deselect();
        }
        self.judgement = judgement;
    }

    /// Why an entry is not carried. `tcp_state` is the state to assume for TCP; `selected`: a flowtable has had it.
    fn refused(
        &self,
        entry: &ConntrackEntry,
        tcp_state: Option<TcpState>,
        selected: bool,
    ) -> Option<Refusal> {
        let kept = || self.is_kept(entry).then_some(Refusal::Ruleset);
        self.policy
            .refusal(entry, tcp_state, || self.is_selected(entry, selected))
            .or_else(kept)
            .or_else(|| self.ended_by_flowtable(entry))
    }

    /// The current epoch.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Addresses of this host: connections that begin or end here are never carried.
    pub fn set_local_addresses(
        &mut self,
        now: Millis,
        addresses: impl IntoIterator<Item = IpAddr>,
        plane: &mut impl Plane,
    ) {
        self.local = addresses.into_iter().collect();
        for index in self.connections.indices() {
            let Some(flows) = self.connections[index].flows else { continue };
            let (Some(orig), Some(reply)) = (plane.key(flows[0]), plane.key(flows[1])) else { continue };
            if self.ends_here(&orig.tuple(), &reply.tuple()) {
                self.let_go(now, index, plane);
                self.forget(index, plane);
            }
        }
    }

    fn ends_here(&self, orig: &FiveTuple, reply: &FiveTuple) -> bool {
        // Each tuple's source is a true end; its destination may be an address that NAT puts in front of it.
        self.local.contains(&orig.src) || self.local.contains(&reply.src)
    }

    /// The punt thread saw something.
    pub fn observe(&mut self, now: Millis, observation: Observation, plane: &mut impl Plane) {
        match observation {
            Observation::Proof(proof) => self.proved(now, &proof, plane),
            Observation::Settled(flow, _) => self.settled(now, flow, plane),
            Observation::Duplicated(flow) => self.duplicated(now, flow, plane),
            Observation::Lost(flow) => self.lost(now, flow, plane),
            Observation::Longer { flow, .. } => self.longer(now, flow, plane),
            Observation::Closing(flow) => {
                if let Some((index, _)) = self.locate(flow, plane) {
                    self.connections[index].held = false;
                    self.close(now, index, true, plane);
                }
            }
            Observation::Unknown(key) => self.ask_for(now, &key),
        }
    }

    /// Asks for a 5-tuple that has many packets and no entry, unless too many were asked for of late.
    fn ask_for(&mut self, now: Millis, key: &Key) {
        let refill = now.saturating_sub(self.asked_at).saturating_mul(ASKS_A_SECOND) / 1000;
        if refill > 0 {
            self.asks_left = self.asks_left.saturating_add(refill).min(ASKS_A_SECOND);
            self.asked_at = now;
        }
        if self.asks_left == 0 {
            self.stats.unasked += 1;
            return;
        }
        self.asks_left -= 1;
        self.stats.asked += 1;
        let ask = |zone| Action::Ask { tuple: key.tuple(), zones: Zones { orig: zone, reply: zone } };
        self.actions.extend(self.zones.iter().map(ask));
    }

    /// The conntrack zones in which a packet's connection may be.
    pub fn zones(&self) -> impl Iterator<Item = u16> {
        self.zones.iter()
    }

    /// The connection and direction of a flow reference, if it is not stale.
    fn locate(&self, flow: FlowRef, plane: &impl Plane) -> Option<(u32, Dir)> {
        let index = plane.owner(flow)?;
        let flows = self.connections.get(index)?.flows?;
        Dir::BOTH.into_iter().find(|dir| flows[*dir as usize] == flow).map(|dir| (index, dir))
    }

    /// Changes what control knows of a direction.
    fn note(&mut self, now: Millis, index: u32, dir: Dir, state: EntryState, why: Why) {
        self.alter(index, |connection| {
            let direction = &mut connection.directions[dir as usize];
            direction.state = state;
            direction.why = why;
            direction.since = now as u32;
        });
    }

    /// Changes what a connection's class depends on, and keeps the counts.
    fn alter(&mut self, index: u32, change: impl FnOnce(&mut Connection)) {
        let connection = &mut self.connections[index];
        let counted = connection.flows.is_some();
        let before = connection.class() as usize;
        change(connection);
        if counted {
            self.counts[before] -= 1;
            self.counts[connection.class() as usize] += 1;
        }
    }

    /// Stops both directions; the kernel follows the last segments.
    fn close(&mut self, now: Millis, index: u32, ask: bool, plane: &mut impl Plane) {
        let connection = &mut self.connections[index];
        connection.established = ask;
        let Some(flows) = connection.flows else { return };
        for dir in Dir::BOTH {
            plane.set_state(flows[dir as usize], EntryState::Closing);
            self.note(now, index, dir, EntryState::Closing, Why::Closing);
        }
        if ask {
            self.arm(index, now + u64::from(self.timing.closing_check));
        }
    }

    /// What looked like a close was none: the kernel says ESTABLISHED.
    fn reopen(&mut self, now: Millis, index: u32, plane: &mut impl Plane) {
        let Some(flows) = self.connections[index].flows else { return };
        for dir in Dir::BOTH {
            if plane.transition(flows[dir as usize], EntryState::Closing, EntryState::Candidate) {
                self.note(now, index, dir, EntryState::Candidate, Why::Unproved);
            }
        }
    }

    fn arm(&mut self, index: u32, at: Millis) {
        let tick = (at / TICK) as u32;
        self.connections[index].due = self.wheel.arm(index, tick);
    }
}
