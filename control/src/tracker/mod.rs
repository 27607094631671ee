//! The life of a connection, as a state machine without I/O.
//!
//! Goes in: what conntrack says ([`Tracker::entry`], [`Tracker::destroyed`], dumps), what the punt threads saw
//! ([`Tracker::observe`]), what changed ([`Tracker::changed`]), and time ([`Tracker::tick`]).
//! Comes out: writes to the flow table, through [`Plane`], and [`Action`]s for the kernel and the punt thread.
//!
//! Times are milliseconds since the process started. Where they are stored they are 32 bits and wrap after
//! 49 days, which is longer than any interval that is compared.

#[cfg(test)]
mod agreement;
mod changes;
mod connection;
mod keeping;
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

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::flow::{EntryState, FiveTuple, FlowRef, InsertError, Key};
use dataplane::punt::Observation;
use hashbrown::{HashMap, HashSet};

pub use changes::Changed;
pub use connection::Why;
use connection::{Class, Connection, Dir, Direction};
pub use plane::{DirectionCounters, Forwarding, Plane};
pub use policy::{Policy, Refusal};
use table::Connections;
pub use view::{ConnectionView, Counts, DirectionView};
use wheel::Wheel;

use crate::netlink::conntrack::{ConntrackEntry, Status, TcpState, Zones};
use crate::ruleset::{self, Judgement};

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

    /// Replaces policy and timing. What they select shows with the entries of the next dump.
    pub fn set_policy(&mut self, policy: Policy, timing: Timing) {
        self.policy = policy;
        self.timing = timing;
    }

    /// Replaces what is known of the ruleset. What it keeps in the kernel shows with the entries of the next dump.
    pub fn set_judgement(&mut self, judgement: Arc<Judgement>) {
        self.judgement = judgement;
    }

    /// Why an entry is not carried. `tcp_state` is the state to assume for TCP.
    fn refused(&self, entry: &ConntrackEntry, tcp_state: Option<TcpState>) -> Option<Refusal> {
        let kept = || {
            let keeps = self.judgement.keeps_any()
                && self.judgement.keeps(&ruleset::ConnectionView::of(entry)).is_some();
            keeps.then_some(Refusal::Ruleset)
        };
        self.policy.refusal(entry, tcp_state).or_else(kept)
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

    /// conntrack says that an entry is, or has become, so.
    pub fn entry(&mut self, now: Millis, entry: &ConntrackEntry, source: Source, plane: &mut impl Plane) {
        self.stats.entries += 1;
        let hash = self.connections.hash(entry.id, &entry.orig, entry.zones);
        if let Some(index) = self.connections.find(hash, entry.id) {
            self.update(now, index, entry, source, plane);
        } else if !self.buried.contains(hash, now) {
            self.admit(now, hash, entry, source, plane);
        }
    }

    fn update(
        &mut self,
        now: Millis,
        index: u32,
        entry: &ConntrackEntry,
        source: Source,
        plane: &mut impl Plane,
    ) {
        let dump = self.dump;
        let connection = &mut self.connections[index];
        connection.dump = dump;
        let opening = matches!(
            entry.tcp_state(),
            Some(TcpState::None | TcpState::SynSent | TcpState::SynSent2 | TcpState::SynRecv)
        );
        let assured = entry.status.contains(Status::ASSURED);
        // Events of several CPUs overtake each other, and an entry never goes back to where it was.
        if source == Source::Event && (opening || (connection.assured && !assured)) {
            return;
        }
        let marked = entry.mark.unwrap_or(0);
        let remarked = std::mem::replace(&mut connection.mark, marked) != marked;
        let replied = entry.status.contains(Status::SEEN_REPLY);
        let grown = assured && !std::mem::replace(&mut connection.assured, assured);
        if grown {
            // What a packet has just made of it has the timeout that packets get.
            let fresh = source == Source::Event && !connection.held;
            connection.timeout_s = if fresh { entry.timeout_s.unwrap_or(0) } else { 0 };
        }
        self.alter(index, |connection| connection.replied |= replied);
        if self.refused(entry, Some(TcpState::Established)).is_some() {
            self.let_go(now, index, plane);
            return self.forget(index, plane);
        }
        if remarked {
            self.doubt(now, index, plane);
        }
        if source == Source::Answer && self.connections[index].returning {
            self.returned(now, index, entry, plane);
        } else if source == Source::Answer && self.was_held(entry) {
            self.connections[index].held = true;
            self.arm_next(now, index, plane);
        }
        match entry.tcp_state() {
            Some(TcpState::Established) => {
                self.connections[index].established = true;
                let closing = self.connections[index].class() == Class::Closing;
                // An event may be older than the FIN that a worker saw: only an answer to a question counts.
                if closing && source == Source::Answer {
                    self.reopen(now, index, plane);
                }
            }
            Some(_) => {
                self.let_close(now, index, source, plane);
                self.close(now, index, false, plane);
            }
            None => {}
        }
        if self.connections[index].flows.is_none() {
            self.insert(now, index, entry, plane);
        }
    }

    fn admit(
        &mut self,
        now: Millis,
        hash: u64,
        entry: &ConntrackEntry,
        source: Source,
        plane: &mut impl Plane,
    ) {
        if self.refused(entry, entry.tcp_state()).is_some() || self.ends_here(&entry.orig, &entry.reply) {
            if self.dumping && source == Source::Event {
                // The dump may have read it before, and be behind.
                self.buried.add(hash, now);
            }
            return;
        }
        let held = source != Source::Event && self.was_held(entry);
        let answered = entry.status.contains(Status::SEEN_REPLY);
        let timeout_s = match source {
            Source::Event => entry.timeout_s.unwrap_or(0),
            // It flew, so the kernel may not have seen that it is a stream.
            Source::Dump if held && answered && entry.tcp.is_none() => self.timing.udp_stream_s,
            _ => 0,
        };
        let index = self.connections.add(
            hash,
            Connection {
                id: entry.id,
                tag: 0,
                zones: entry.zones,
                proto: entry.orig.proto,
                replied: answered,
                assured: entry.status.contains(Status::ASSURED),
                established: true,
                held,
                returning: false,
                flows: None,
                directions: [Direction::NEW; 2],
                mark: entry.mark.unwrap_or(0),
                timeout_s,
                due: 0,
                born: now as u32,
                refreshed: now as u32,
                dump: self.dump,
            },
        );
        self.insert(now, index, entry, plane);
        if self.connections[index].flows.is_none() && !self.clashes_has(index) {
            self.connections.remove(index);
        }
    }

    fn clashes_has(&self, index: u32) -> bool {
        self.clashes.values().any(|owners| owners.contains(&index))
    }

    /// Puts a connection into the flow table, unless its tuple stands in another conntrack entry too.
    fn insert(&mut self, now: Millis, index: u32, entry: &ConntrackEntry, plane: &mut impl Plane) {
        let (Some(orig), Some(reply)) = (Key::from_tuple(&entry.orig), Key::from_tuple(&entry.reply)) else {
            return;
        };
        let others = |key| self.clashes.get(key).is_some_and(|owners| owners.iter().any(|o| *o != index));
        if others(&orig) || others(&reply) {
            return self.clash(index, &orig, &reply);
        }
        self.clashes.remove(&orig);
        self.clashes.remove(&reply);
        for _ in 0..3 {
            match plane.insert(&orig, &reply, index) {
                Ok(flows) => {
                    let connection = &mut self.connections[index];
                    connection.flows = Some(flows);
                    connection.directions = [Direction { since: now as u32, ..Direction::NEW }; 2];
                    self.counts[connection.class() as usize] += 1;
                    if connection.held {
                        self.arm_next(now, index, plane);
                    }
                    return;
                }
                Err(InsertError::Exists(_)) => {
                    let other = plane.owner_of_key(&orig).or_else(|| plane.owner_of_key(&reply));
                    let Some(other) = other.filter(|other| *other != index) else { return };
                    let same_zone = self.connections.get(other).is_some_and(|o| o.zones == entry.zones);
                    if same_zone {
                        // The kernel has made it anew: the DESTROY of the former entry is late or lost, and the last
                        // timeouts that were meant for that one may be the new one's.
                        self.connections[index].held |= self.connections[other].held;
                        self.forget(other, plane);
                    } else {
                        self.let_go(now, other, plane);
                        self.withhold(other, plane);
                        self.clash(other, &orig, &reply);
                        return self.clash(index, &orig, &reply);
                    }
                }
                Err(InsertError::Full) => {
                    self.stats.table_full += 1;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn clash(&mut self, index: u32, orig: &Key, reply: &Key) {
        for key in [orig, reply] {
            let owners = self.clashes.entry(*key).or_default();
            if !owners.contains(&index) {
                owners.push(index);
            }
        }
    }

    /// The kernel has destroyed an entry.
    pub fn destroyed(&mut self, now: Millis, entry: &ConntrackEntry, plane: &mut impl Plane) {
        let hash = self.connections.hash(entry.id, &entry.orig, entry.zones);
        self.buried.add(hash, now);
        if let Some(index) = self.connections.find(hash, entry.id) {
            let connection = &self.connections[index];
            if connection.held && timers::elapsed(now, connection.refreshed) < 2 * Self::RECENT {
                // Its last timeout may have become that of another entry, which has its tuple now.
                self.actions.push(Action::Ask { tuple: entry.orig, zones: entry.zones });
            }
            self.forget(index, plane);
        }
    }

    /// The kernel has no entry with a tuple that was asked for.
    pub fn not_found(&mut self, tuple: &FiveTuple, zones: Zones, plane: &mut impl Plane) {
        let owner = Key::from_tuple(tuple).and_then(|key| plane.owner_of_key(&key));
        if let Some(index) =
            owner.filter(|index| self.connections.get(*index).is_some_and(|c| c.zones == zones))
        {
            self.forget(index, plane);
        }
    }

    /// A dump begins. Entries told by events meanwhile count as seen.
    pub const fn dump_started(&mut self) {
        self.dump = self.dump.wrapping_add(1);
        self.dumping = true;
    }

    /// The dump is complete: what neither it nor an event told of is gone.
    pub fn dump_finished(&mut self, plane: &mut impl Plane) {
        self.dumping = false;
        for index in self.connections.indices() {
            if self.connections[index].dump != self.dump {
                self.forget(index, plane);
            }
        }
    }

    /// Takes a connection out of the table and out of memory.
    fn forget(&mut self, index: u32, plane: &mut impl Plane) {
        self.withhold(index, plane);
        if !self.clashes.is_empty() {
            self.clashes.retain(|_, owners| {
                owners.retain(|owner| *owner != index);
                !owners.is_empty()
            });
        }
        self.connections.remove(index);
    }

    /// Takes a connection out of the table.
    fn withhold(&mut self, index: u32, plane: &mut impl Plane) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if let Some(flows) = connection.flows.take() {
            self.counts[connection.class() as usize] -= 1;
            plane.remove(flows);
        }
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
        // Only the default zone's entries can be found by a packet's 5-tuple alone.
        self.actions.push(Action::Ask { tuple: key.tuple(), zones: Zones::default() });
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
