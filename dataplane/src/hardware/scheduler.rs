//! Which directions go to hardware: a state machine without I/O.
//!
//! What goes in: how many packets directions have had, which leave, what became of orders, and the time. What comes out:
//! [orders](Order) to make and remove rules, and which directions that were to leave are [free](Scheduler::freed), that
//! is, have no rule any more. Until then nothing else may use their tuple.
//!
//! A rule's use is the packets a second that it saves. Directions above a threshold are put in, the busiest first, within
//! a budget. Where the NIC is full the least useful rule gives way, but only to a direction that is clearly better. How
//! much fits is learnt from refusals, and tried again later. A direction that is refused for another reason is put off,
//! longer each time, and the reason kept.

mod direction;
mod mend;
mod policy;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;

use crate::dpdk::flow_rule::FlowError;
use direction::{Direction, Stage};
pub use policy::Policy;

/// Names a direction.
pub trait Name: Copy + Ord + Hash + Debug {}

impl<T: Copy + Ord + Hash + Debug> Name for T {}

/// What is to be done at the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order<K> {
    /// Make the direction's rule; [`Scheduler::created`] is to be told.
    Create(K),
    /// Remove it; [`Scheduler::destroyed`] is to be told.
    Destroy(K),
}

/// Where a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts<'a> {
    /// Nothing is known of it: it is not hot.
    Software,
    /// It is hot, and waits for its turn or for room.
    Waiting,
    /// The NIC refused it; it is tried again at that time.
    PutOff(u64, &'a FlowError),
    /// Its rule is being made.
    GoingIn,
    /// It has a rule.
    Hardware,
    /// Its rule is being removed; with an error if that has failed before.
    ComingOut(Option<&'a FlowError>),
}

/// How many directions are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Waiting for their turn.
    pub waiting: usize,
    /// Put off.
    pub put_off: usize,
    /// Their rules are being made.
    pub going_in: usize,
    /// They have a rule.
    pub hardware: usize,
    /// Their rules are being removed.
    pub coming_out: usize,
    /// The most rules, as far as is known by now.
    pub capacity: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Scheduler<K> {
    policy: Policy,
    directions: HashMap<K, Direction>,
    /// By rate.
    waiting: BTreeSet<(u64, K)>,
    /// By rate.
    installed: BTreeSet<(u64, K)>,
    /// By the time at which they are tried again.
    put_off: BTreeSet<(u64, K)>,
    /// Rules to be removed, by the time from which on that is tried.
    doomed: BTreeSet<(u64, K)>,
    going_in: usize,
    coming_out: usize,
    capacity: usize,
    /// When more is tried than fitted last.
    grows_at: u64,
    /// Thousandths of rules that may be made now.
    tokens: u64,
    filled_at: u64,
    tidied_at: u64,
    freed: Vec<K>,
}

impl<K: Name> Scheduler<K> {
    /// One that knows of no direction.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            directions: HashMap::new(),
            waiting: BTreeSet::new(),
            installed: BTreeSet::new(),
            put_off: BTreeSet::new(),
            doomed: BTreeSet::new(),
            going_in: 0,
            coming_out: 0,
            capacity: policy.capacity,
            grows_at: u64::MAX,
            tokens: policy.budget * 1000,
            filled_at: 0,
            tidied_at: 0,
            freed: Vec::new(),
        }
    }

    /// There may be so many rules, as far as is known, from here on.
    pub fn set_capacity(&mut self, most: usize) {
        (self.policy.capacity, self.capacity) = (most, most);
    }

    /// From other rates on directions go in, and come out: the next time that they are counted.
    pub fn set_rates(&mut self, hot: u64, cold: u64) {
        (self.policy.hot, self.policy.cold) = (hot, cold);
    }

    /// How many packets a direction has had by now, in software and in hardware together. Of one in hardware this has to
    /// be told from time to time, or its rule looks as useful as it was last.
    pub fn counted(&mut self, name: K, packets: u64, now: u64) {
        let Some(direction) = self.directions.get(&name) else {
            if self.has_place(now) {
                self.directions.insert(name, Direction::new(packets, now));
            }
            return;
        };
        if direction.leaving {
            return;
        }
        let mut changed = direction.clone();
        changed.counted(packets, now);
        if changed.stage == Stage::Watched && changed.rate >= self.policy.hot {
            changed.stage = Stage::Waiting;
        } else if changed.stage == Stage::Waiting && changed.rate < self.policy.hot {
            changed.stage = Stage::Watched;
        }
        self.replace(name, changed);
        self.bound();
    }

    /// A direction leaves: it ends, or may not fly any more. True if it has no rule, and is free at once; else it will be
    /// told by [`freed`](Self::freed).
    pub fn leave(&mut self, name: K) -> bool {
        let Some(direction) = self.directions.get(&name) else { return true };
        let mut direction = direction.clone();
        direction.leaving = true;
        match direction.stage {
            Stage::Watched | Stage::Waiting | Stage::PutOff(_) => {
                self.forget(name);
                return true;
            }
            Stage::Installed(_) => direction.stage = Stage::Doomed(0),
            // Goes when it is in, or is going already.
            Stage::GoingIn | Stage::Doomed(_) | Stage::ComingOut => {}
        }
        self.replace(name, direction);
        false
    }

    /// What became of an order to make a rule.
    pub fn created(&mut self, name: K, outcome: Result<(), FlowError>, now: u64) {
        let Some(direction) = self.directions.get(&name).filter(|d| d.stage == Stage::GoingIn) else {
            return;
        };
        let mut direction = direction.clone();
        match outcome {
            Ok(()) => {
                (direction.tries, direction.error) = (0, None);
                direction.stage = if direction.leaving { Stage::Doomed(0) } else { Stage::Installed(now) };
            }
            Err(_) if direction.leaving => {
                self.forget(name);
                self.freed.push(name);
                return;
            }
            Err(error) if error.is_full() => {
                // What is in, this one left aside.
                self.capacity = self.used().saturating_sub(1).min(self.policy.capacity);
                self.grows_at = now.saturating_add(self.policy.relearn);
                direction.stage = Stage::Waiting;
            }
            Err(error) => {
                let until = now.saturating_add(direction.put_off(self.policy.retry, self.policy.retry_most));
                direction.error = Some(error);
                direction.stage = Stage::PutOff(until);
            }
        }
        self.replace(name, direction);
    }

    /// What became of an order to remove a rule. One that fails is given again, later and later.
    pub fn destroyed(&mut self, name: K, outcome: Result<(), FlowError>, now: u64) {
        let Some(direction) = self.directions.get(&name).filter(|d| d.stage == Stage::ComingOut) else {
            return;
        };
        let mut direction = direction.clone();
        match outcome {
            Ok(()) if direction.leaving => {
                self.forget(name);
                self.freed.push(name);
                return;
            }
            Ok(()) if direction.withdrawn => {
                direction.withdrawn = false;
                let until = now.saturating_add(direction.sulk(self.policy.retry, self.policy.retry_most));
                direction.stage = Stage::PutOff(until);
            }
            Ok(()) => {
                (direction.tries, direction.error) = (0, None);
                direction.stage =
                    if direction.rate >= self.policy.hot { Stage::Waiting } else { Stage::Watched };
            }
            Err(error) => {
                let most = self.policy.retry_most.min(self.policy.removal_most);
                let until = now.saturating_add(direction.put_off(self.policy.retry, most));
                direction.error = Some(error);
                direction.stage = Stage::Doomed(until);
            }
        }
        self.replace(name, direction);
    }

    /// All rules are gone at once, and no order is under way: the port was stopped.
    pub fn lost_all(&mut self) {
        let lost: Vec<K> = self.directions.keys().copied().collect();
        for name in lost {
            let Some(mut direction) = self.directions.get(&name).cloned() else { continue };
            if !direction.has_rule() {
                continue;
            }
            if direction.leaving {
                self.forget(name);
                self.freed.push(name);
                continue;
            }
            (direction.tries, direction.error, direction.withdrawn) = (0, None, false);
            direction.stage = Stage::Waiting;
            self.replace(name, direction);
        }
    }

    /// Directions that were to leave and have no rule any more, each once.
    pub fn freed(&mut self) -> Vec<K> {
        std::mem::take(&mut self.freed)
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: u64) -> Vec<Order<K>> {
        self.fill(now);
        self.try_again(now);
        self.cool(now);
        let mut orders = Vec::new();
        self.remove(now, &mut orders);
        self.put_in(now, &mut orders);
        // Who was chosen to give way goes at once.
        self.remove(now, &mut orders);
        orders
    }

    /// Where a direction is.
    pub fn whereabouts(&self, name: K) -> Whereabouts<'_> {
        let Some(direction) = self.directions.get(&name) else { return Whereabouts::Software };
        match (direction.stage, &direction.error) {
            (Stage::Watched, _) => Whereabouts::Software,
            (Stage::PutOff(until), Some(error)) => Whereabouts::PutOff(until, error),
            (Stage::Waiting | Stage::PutOff(_), _) => Whereabouts::Waiting,
            (Stage::GoingIn, _) => Whereabouts::GoingIn,
            (Stage::Installed(_), _) => Whereabouts::Hardware,
            (Stage::Doomed(_) | Stage::ComingOut, error) => Whereabouts::ComingOut(error.as_ref()),
        }
    }

    /// How many are where.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            waiting: self.waiting.len(),
            put_off: self.put_off.len(),
            going_in: self.going_in,
            hardware: self.installed.len(),
            coming_out: self.doomed.len() + self.coming_out,
            capacity: self.capacity,
        }
    }

    /// Rules that the NIC has or may have.
    fn used(&self) -> usize {
        self.going_in + self.installed.len() + self.doomed.len() + self.coming_out
    }

    /// Tokens come back with time.
    fn fill(&mut self, now: u64) {
        let passed = now.saturating_sub(self.filled_at);
        let most = self.policy.budget.saturating_mul(1000);
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.policy.budget)).min(most);
        self.filled_at = self.filled_at.max(now);
        if now >= self.grows_at {
            self.capacity = (self.capacity + 1 + self.capacity / 16).min(self.policy.capacity);
            let is_whole = self.capacity == self.policy.capacity;
            self.grows_at = if is_whole { u64::MAX } else { now.saturating_add(self.policy.relearn) };
        }
    }

    /// Who was put off long enough waits again.
    fn try_again(&mut self, now: u64) {
        while let Some((until, name)) = self.put_off.first().copied().filter(|(until, _)| *until <= now) {
            self.put_off.remove(&(until, name));
            let Some(mut direction) = self.directions.get(&name).cloned() else { continue };
            direction.stage = if direction.rate >= self.policy.hot { Stage::Waiting } else { Stage::Watched };
            self.replace(name, direction);
        }
    }

    /// Rules that are hardly used come out.
    fn cool(&mut self, now: u64) {
        let cold: Vec<K> = self
            .installed
            .iter()
            .take_while(|(rate, _)| *rate < self.policy.cold)
            .filter(|(_, name)| self.may_go(*name, now))
            .map(|(_, name)| *name)
            .collect();
        for name in cold {
            self.doom(name);
        }
    }

    fn may_go(&self, name: K, now: u64) -> bool {
        let since = self.directions.get(&name).and_then(Direction::installed_since);
        since.is_some_and(|since| now.saturating_sub(since) >= self.policy.residence)
    }

    fn doom(&mut self, name: K) {
        if let Some(mut direction) = self.directions.get(&name).cloned() {
            direction.stage = Stage::Doomed(0);
            self.replace(name, direction);
        }
    }

    fn remove(&mut self, now: u64, orders: &mut Vec<Order<K>>) {
        while self.going_in + self.coming_out < self.policy.in_flight {
            let Some((_, name)) = self.doomed.first().copied().filter(|(from, _)| *from <= now) else {
                break;
            };
            let Some(mut direction) = self.directions.get(&name).cloned() else { break };
            direction.stage = Stage::ComingOut;
            self.replace(name, direction);
            orders.push(Order::Destroy(name));
        }
    }

    /// The busiest first; where there is no room, in place of the least useful.
    fn put_in(&mut self, now: u64, orders: &mut Vec<Order<K>>) {
        let mut room = self.capacity.saturating_sub(self.used());
        // Rules on their way out make room for the busiest, too: nobody else need give way for those.
        let mut coming = self.doomed.len() + self.coming_out;
        let mut candidates: Vec<(u64, K)> = Vec::new();
        for (rate, name) in self.waiting.iter().rev().take(self.policy.in_flight) {
            candidates.push((*rate, *name));
        }
        for (rate, name) in candidates {
            let Some(mut direction) = self.directions.get(&name).cloned() else { continue };
            if now.saturating_sub(direction.heard) > self.policy.forget {
                self.forget(name);
                continue;
            }
            if self.tokens < 1000 || self.going_in + self.coming_out >= self.policy.in_flight {
                break;
            }
            if room > 0 {
                room -= 1;
                self.tokens -= 1000;
                direction.stage = Stage::GoingIn;
                self.replace(name, direction);
                orders.push(Order::Create(name));
            } else if coming > 0 {
                coming -= 1;
            } else {
                let least = self.installed.first().copied();
                let better = |(least, name): &(u64, K)| {
                    rate.saturating_mul(100) >= least.saturating_mul(self.policy.better_percent)
                        && rate > *least
                        && self.may_go(*name, now)
                };
                let Some((_, least)) = least.filter(better) else { break };
                self.doom(least);
            }
        }
    }

    /// No more directions wait than were allowed for: the least busy are forgotten.
    fn bound(&mut self) {
        while self.waiting.len() + self.put_off.len() > self.policy.waiting {
            let least = self.waiting.first().or_else(|| self.put_off.last()).copied();
            let Some((_, name)) = least else { break };
            self.forget(name);
        }
    }

    /// Whether one more direction may be watched. When there are too many those go of which nothing was heard lately; it is
    /// looked for those now and then.
    fn has_place(&mut self, now: u64) -> bool {
        let watched =
            |this: &Self| this.directions.len() - this.used() - this.waiting.len() - this.put_off.len();
        if watched(self) < self.policy.waiting {
            return true;
        }
        let forget = self.policy.forget;
        if now.saturating_sub(self.tidied_at) < forget {
            return false;
        }
        self.tidied_at = now;
        let stale = |one: &Direction| one.stage == Stage::Watched && now.saturating_sub(one.heard) > forget;
        self.directions.retain(|_, direction| !stale(direction));
        watched(self) < self.policy.waiting
    }

    fn forget(&mut self, name: K) {
        if let Some(direction) = self.directions.remove(&name) {
            self.take_out(name, &direction);
        }
    }

    /// Puts a direction where its stage says.
    fn replace(&mut self, name: K, new: Direction) {
        if let Some(old) = self.directions.get(&name).cloned() {
            self.take_out(name, &old);
        }
        match new.stage {
            Stage::Watched => {}
            Stage::Waiting => drop(self.waiting.insert((new.rate, name))),
            Stage::PutOff(until) => drop(self.put_off.insert((until, name))),
            Stage::GoingIn => self.going_in += 1,
            Stage::Installed(_) => drop(self.installed.insert((new.rate, name))),
            Stage::Doomed(from) => drop(self.doomed.insert((from, name))),
            Stage::ComingOut => self.coming_out += 1,
        }
        self.directions.insert(name, new);
    }

    fn take_out(&mut self, name: K, old: &Direction) {
        match old.stage {
            Stage::Watched => {}
            Stage::Waiting => drop(self.waiting.remove(&(old.rate, name))),
            Stage::PutOff(until) => drop(self.put_off.remove(&(until, name))),
            Stage::GoingIn => self.going_in -= 1,
            Stage::Installed(_) => drop(self.installed.remove(&(old.rate, name))),
            Stage::Doomed(from) => drop(self.doomed.remove(&(from, name))),
            Stage::ComingOut => self.coming_out -= 1,
        }
    }
}
