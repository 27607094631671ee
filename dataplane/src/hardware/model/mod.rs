//! The model NIC: a NIC with flow rules, in software, for tests and for machines that have none.
//!
//! It is a [`FlowEngine`](crate::dpdk::flow_rule::FlowEngine) (`engine`): what it is asked for are the C structures that a
//! driver would get. It checks them as the strictest driver does (`check`, `actions`), keeps them by group and shape
//! (`table`), and carries them out on packets (`packet`) by code that shares nothing with the workers'. Behind a
//! [hook](NicHook) of a receive queue it does so with what a vdev receives: what a rule carries is sent at once, by the
//! thread that polls, and never reaches the worker's burst.
//!
//! Where `rte_flow.h` leaves something open the model does what is worst for whoever relies on it: rules without VLAN
//! items match tagged packets too, L4 headers are found behind IP options and in first fragments, checksums and lengths
//! are not looked at unless a rule asks, padding stays, of overlapping rules with one priority the newest wins.
//!
//! [`Knobs`] make it fail in the ways of real ones. It is a lab: packets take a lock that is shared but for the moments
//! in which rules change.

mod actions;
mod check;
mod engine;
mod hairpin;
mod hook;
mod packet;
mod queues;
mod rule;
mod table;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;

use super::Tier;
use crate::dpdk::flow_rule::{ErrorKind, FlowError, RuleView};
use check::Limits;
use hairpin::Hairpins;
pub use hook::NicHook;
pub use packet::Packet;
use queues::Queues;
use rule::{Moment, Rule};
use table::Tables;

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To validate a rule.
    Validate,
    /// To make one, at once or through a queue.
    Create,
    /// To remove one, at once or through a queue.
    Destroy,
    /// To make one through a queue: its shape has no template.
    Enqueue,
    /// To ask for a count or an age.
    Query,
    /// To remove all.
    Flush,
    /// To set up queues.
    Configure,
    /// None, but what a queue began with: rules do not come to be, which their completions tell.
    Complete,
}

/// When a rule begins, and ceases, to match after it was asked for; and when a queued operation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Milliseconds of the model.
    pub millis: u64,
    /// Packets that the model sees meanwhile.
    pub packets: u64,
}

/// What becomes of rules that are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stuck {
    /// They go.
    #[default]
    No,
    /// They can't be removed, and the NIC says so.
    Refuses,
    /// The NIC says that they went, and they match on.
    Lies,
}

/// What counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counters {
    /// What was counted.
    #[default]
    Right,
    /// Always 0: counts are lost.
    Lost,
    /// Nothing: the NIC does not count.
    Missing,
}

/// How the model behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// What it can do.
    pub tier: Tier,
    /// The most rules at a time.
    pub capacity: usize,
    /// Groups, 0 included.
    pub groups: u32,
    /// Priorities, 0 included.
    pub priorities: u32,
    /// Whether it has queues for rules.
    pub has_queues: bool,
    /// Whether, once its queues are set up, rules are made and removed through them alone.
    pub queues_alone: bool,
    /// How long rules take.
    pub latency: Latency,
    /// Whether queued operations end in another order than they began.
    pub out_of_order: bool,
    /// Calls that fail, and how.
    pub refusals: Vec<(Call, Errno)>,
    /// Whether it says of rules that it will refuse that it would take them.
    pub validates_anything: bool,
    /// What counters say.
    pub counters: Counters,
    /// Whether L4 checksums of packets that were changed are wrong.
    pub wrong_checksum: bool,
    /// What becomes of rules that are removed.
    pub stuck: Stuck,
    /// Whether it has no switch inside, so that packets go to another port by hairpin queues alone, as with mlx5 outside of
    /// switchdev mode.
    pub hairpin: bool,
    /// Whether it compares the lengths of packets, by range.
    pub lengths: bool,
}

impl Default for Knobs {
    /// A NIC without faults that can do everything.
    fn default() -> Self {
        Self {
            tier: Tier::Full,
            capacity: 1 << 20,
            groups: 4,
            priorities: 4,
            has_queues: true,
            queues_alone: false,
            latency: Latency::default(),
            out_of_order: false,
            refusals: Vec::new(),
            validates_anything: false,
            counters: Counters::Right,
            wrong_checksum: false,
            stuck: Stuck::No,
            hairpin: false,
            lengths: true,
        }
    }
}

impl Knobs {
    fn refuses(&self, call: Call) -> Result<(), FlowError> {
        match self.refusals.iter().find(|(refused, _)| *refused == call) {
            Some((_, errno)) => Err(FlowError::new(ErrorKind::Unspecified, *errno, "the NIC refuses")),
            None => Ok(()),
        }
    }
}

/// What the NIC did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No rule, or one that says so: it goes to software, as it came.
    Software {
        /// The mark that a rule put on it.
        mark: Option<u32>,
        /// The queue that a rule chose.
        queue: Option<u16>,
    },
    /// It was changed and leaves by this port.
    Sent(u16),
    /// It was thrown away.
    Dropped,
}

/// What the NIC has done, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicStats {
    /// Packets seen.
    pub seen: u64,
    /// Packets sent on.
    pub sent: u64,
    /// Packets thrown away by a rule.
    pub dropped: u64,
    /// Packets marked for software.
    pub marked: u64,
    /// Packets lost since a transmit queue was full.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Tally {
    seen: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    marked: AtomicU64,
    lost: AtomicU64,
}

/// A model of a NIC with some ports.
#[derive(Debug)]
pub struct Nic {
    ports: Vec<u16>,
    /// Receive queues of each port.
    queues: u16,
    state: RwLock<State>,
    /// Operations that have begun.
    pending: Mutex<Queues>,
    millis: AtomicU64,
    tally: Tally,
}

#[derive(Debug)]
struct State {
    knobs: Knobs,
    tables: Tables,
    hairpins: Hairpins,
    /// Rules that can be named.
    rules: HashMap<u64, Arc<Rule>>,
    last: u64,
}

impl Nic {
    /// A NIC with these ports, by their DPDK ids, with so many receive queues each.
    pub fn new(ports: &[u16], queues: u16, knobs: Knobs) -> Arc<Self> {
        Arc::new(Self {
            ports: ports.to_vec(),
            queues,
            state: RwLock::new(State {
                knobs,
                tables: Tables::default(),
                hairpins: Hairpins::default(),
                rules: HashMap::new(),
                last: 0,
            }),
            pending: Mutex::default(),
            millis: AtomicU64::new(0),
            tally: Tally::default(),
        })
    }

    /// Changes how it behaves from now on.
    pub fn set(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.write().knobs);
    }

    /// Sets the model's time, in milliseconds. It never goes back.
    pub fn set_time(&self, millis: u64) {
        self.millis.fetch_max(millis, Ordering::Relaxed);
    }

    /// Rules that match now or will, those that were forgotten included.
    pub fn rules(&self) -> usize {
        let now = self.now();
        self.read().tables.all().filter(|rule| !rule.until.has_come(now)).count()
    }

    /// Forgets a rule, by the number that its maker knows, as a NIC does that was reset behind its driver's back.
    pub fn lose(&self, rule: u64) {
        let mut state = self.write();
        self.take_out(&mut state, rule);
        state.tables.sweep(self.now());
    }

    /// What it has done.
    pub fn stats(&self) -> NicStats {
        let Tally { seen, sent, dropped, marked, lost } = &self.tally;
        let [seen, sent, dropped, marked, lost] =
            [seen, sent, dropped, marked, lost].map(|count| count.load(Ordering::Relaxed));
        NicStats { seen, sent, dropped, marked, lost }
    }

    /// Does with a packet that came in by a port what the rules say. What goes to software is as it was.
    pub fn process(&self, port: u16, packet: &mut impl Packet) -> Outcome {
        self.tally.seen.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        let state = self.read();
        let outcome = state.tables.process(port, packet, now, state.knobs.wrong_checksum);
        let count = match outcome {
            Outcome::Sent(_) => &self.tally.sent,
            Outcome::Dropped => &self.tally.dropped,
            Outcome::Software { mark: Some(_), .. } => &self.tally.marked,
            Outcome::Software { mark: None, .. } => return outcome,
        };
        count.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn lost(&self, packets: u64) {
        self.tally.lost.fetch_add(packets, Ordering::Relaxed);
    }

    fn now(&self) -> (u64, u64) {
        (self.millis.load(Ordering::Relaxed), self.tally.seen.load(Ordering::Relaxed))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Queues> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits<'a>(&'a self, State { knobs, hairpins, .. }: &'a State) -> Limits<'a> {
        Limits {
            tier: knobs.tier,
            ports: &self.ports,
            queues: self.queues,
            groups: knobs.groups,
            priorities: knobs.priorities,
            hairpins: knobs.hairpin.then_some(hairpins),
            lengths: knobs.lengths,
        }
    }

    /// Makes a rule that matches from a moment on; of one that goes through a queue, that is told with the push.
    fn add(&self, state: &mut State, port: u16, view: &RuleView<'_>, from: Moment) -> Result<u64, FlowError> {
        state.knobs.refuses(Call::Create)?;
        let checked = check::check(port, view, &self.limits(state))?;
        if state.tables.has(&checked, self.now()) {
            let message = "a rule for these packets is there already";
            return Err(FlowError::new(ErrorKind::Handle, Errno::EEXIST, message));
        }
        if state.tables.len() >= state.knobs.capacity {
            return Err(FlowError::new(ErrorKind::Handle, Errno::ENOSPC, "no room for more rules"));
        }
        state.last += 1;
        let rule = Arc::new(Rule {
            id: state.last,
            owner: port,
            queued: from.is_never(),
            checked,
            last_hit: AtomicU64::new(from.millis.load(Ordering::Relaxed)),
            from,
            until: Moment::never(),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        state.tables.insert(&rule);
        state.rules.insert(rule.id, rule);
        Ok(state.last)
    }

    /// Has a rule go at a moment.
    fn end(&self, state: &mut State, port: u16, id: u64, until: &Moment) -> Result<(), FlowError> {
        state.knobs.refuses(Call::Destroy)?;
        let rule = state.rules.get(&id).filter(|rule| rule.owner == port);
        let rule = rule.ok_or_else(FlowError::no_such_rule)?;
        match state.knobs.stuck {
            Stuck::No => {
                rule.until.set(until);
                state.tables.ends(rule);
            }
            Stuck::Lies => {}
            Stuck::Refuses => {
                return Err(FlowError::new(ErrorKind::Handle, Errno::EIO, "the NIC did not let the rule go"));
            }
        }
        state.rules.remove(&id);
        Ok(())
    }

    /// A rule that is never to match, or not any more.
    fn take_out(&self, state: &mut State, id: u64) {
        if let Some(rule) = state.rules.remove(&id) {
            let (millis, packets) = self.now();
            rule.until.set(&Moment::at(millis, packets));
            state.tables.ends(&rule);
        }
    }

    /// The rule, if it was made this way.
    fn made(state: &State, port: u16, id: u64, queued: bool) -> Result<Arc<Rule>, FlowError> {
        let rule = state.rules.get(&id).filter(|rule| rule.owner == port);
        let rule = rule.ok_or_else(FlowError::no_such_rule)?;
        if rule.queued == queued {
            return Ok(Arc::clone(rule));
        }
        let message = "rules go as they came: through a queue, or not";
        Err(FlowError::new(ErrorKind::Handle, Errno::EINVAL, message))
    }

    /// Whether something can be done without a queue.
    fn at_once(&self, port: u16) -> Result<(), FlowError> {
        let has_queues = self.pending().has(port);
        if self.read().knobs.queues_alone && has_queues {
            let message = "rules go through queues alone";
            return Err(FlowError::new(ErrorKind::Unspecified, Errno::EOPNOTSUPP, message));
        }
        Ok(())
    }

    fn after_latency(&self, state: &State) -> Moment {
        let ((millis, packets), latency) = (self.now(), state.knobs.latency);
        Moment::at(millis + latency.millis, packets + latency.packets)
    }

    fn rule_of(&self, port: u16, id: u64) -> Result<(Knobs, Arc<Rule>), FlowError> {
        let state = self.read();
        state.knobs.refuses(Call::Query)?;
        let rule = state.rules.get(&id).filter(|rule| rule.owner == port);
        Ok((state.knobs.clone(), Arc::clone(rule.ok_or_else(FlowError::no_such_rule)?)))
    }
}
