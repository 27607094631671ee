//! Rules are made and removed: what the scheduler wants, what the NIC makes of it, and who waits for that.
//!
//! Orders through queues end when the NIC says so; until then a direction whose rule is made or removed keeps its place in
//! the scheduler, and its tuple is its own. Control waits for a NIC where something is about to change that a rule still
//! goes by, and not for long: what does not go in time stays a rule that is on its way out.

use std::time::Instant;

use dataplane::dpdk::flow_rule::{FlowError, FlowId, FlowRule};
use dataplane::flow::{EntryView, FlowRef, Key};
use dataplane::hardware::HardwareFlow;
use dataplane::hardware::scheduler::Order;
use nix::errno::Errno;

use super::audit::Looked;
use super::{Name, Offload, cannot, name};

/// Rounds of orders and their ends in one go.
const ROUNDS: usize = 8;
/// That rules do not go is told so often, in milliseconds.
const TELL_EVERY: u64 = 10_000;

impl Offload {
    /// Gives a port's NIC its orders, and hears what became of earlier ones.
    pub(super) fn serve(&mut self, port: usize, now: u64) {
        self.collect(port, now);
        for _ in 0..ROUNDS {
            self.obey(port, now);
            if self.collect(port, now) == 0 {
                break;
            }
        }
    }

    /// Carries out what the scheduler of a port wants.
    fn obey(&mut self, port: usize, now: u64) {
        let Some(orders) = self.ports.get_mut(port).map(|port| port.scheduler.poll(now)) else { return };
        let mut has_room = true;
        for order in orders {
            let (Order::Create(name) | Order::Destroy(name)) = order;
            if has_room {
                has_room = match order {
                    Order::Create(_) => self.create(port, name, now),
                    Order::Destroy(_) => self.destroy(port, name, now),
                };
            } else if let Some(rules) = self.ports.get_mut(port) {
                rules.scheduler.not_begun(name);
            }
        }
        if let Some(rules) = self.ports.get_mut(port) {
            rules.push();
        }
        self.free(port);
    }

    /// Hears what became of orders; how many have ended.
    fn collect(&mut self, port: usize, now: u64) -> usize {
        let ended = self.ports.get_mut(port).map(|port| port.pull(now)).unwrap_or_default();
        let count = ended.len();
        for (order, outcome) in ended {
            match order {
                Order::Create(name) => {
                    self.created(port, name, outcome, now);
                    // A worker may have moved it meanwhile: out again, with the next orders.
                    if let Some(flow) = self.placed.get(&name).map(|placed| placed.flow)
                        && !self.flies(flow)
                        && !self.only_marks(port)
                        && let Some(rules) = self.ports.get_mut(port)
                    {
                        rules.scheduler.leave(name);
                    }
                }
                Order::Destroy(name) => self.destroyed(port, name, outcome, now),
            }
        }
        self.free(port);
        count
    }

    /// Directions that were to leave have no rule any more.
    fn free(&mut self, port: usize) {
        let freed = self.ports.get_mut(port).map(|port| port.scheduler.freed()).unwrap_or_default();
        for name in freed {
            self.is_free(name);
        }
    }

    /// Begins to make a rule. `false`: the NIC has no room for orders now.
    fn create(&mut self, port: usize, name: Name, now: u64) -> bool {
        let rule = self.rule_for(port, name);
        let Some(rules) = self.ports.get_mut(port) else { return true };
        match rule.and_then(|(rule, told)| Ok((rules.begin_create(name, &rule)?, told))) {
            Ok(((rule, ended), told)) => {
                let Some(placed) = self.placed.get_mut(&name) else { return true };
                (placed.rule, placed.told) = (Some(rule), Some(told));
                let flow = placed.flow;
                if ended {
                    self.created(port, name, Ok(()), now);
                    // A worker may have moved it meanwhile.
                    if !self.flies(flow) {
                        self.leave(flow);
                    }
                }
            }
            Err(error) if error.is_busy() && rules.under_way.by_queue() => {
                rules.scheduler.not_begun(name);
                return false;
            }
            Err(error) => rules.scheduler.created(name, Err(error), now),
        }
        true
    }

    /// A rule is made, or is not.
    fn created(&mut self, port: usize, name: Name, outcome: Result<(), FlowError>, now: u64) {
        if let Some(placed) = self.placed.get_mut(&name) {
            placed.is_in = outcome.is_ok();
            placed.rule = placed.rule.filter(|_| outcome.is_ok());
            if let Some(rule) = placed.rule {
                let by_workers =
                    self.table.resolve(placed.flow).map_or(0, |slot| self.table.entry(slot).packets());
                placed.looked = Looked::after(by_workers);
                self.to_count.push_back((now, name, rule));
                // A mark that is wrong does no harm, and is counted by workers.
                if !self.only_marks(port) {
                    self.audit.add(name, rule, now);
                }
            }
        }
        if let Some(rules) = self.ports.get_mut(port) {
            rules.scheduler.created(name, outcome, now);
        }
        self.recount(name);
    }

    /// The rule of a direction, and what it says.
    fn rule_for(&self, port: usize, name: Name) -> Result<(FlowRule, HardwareFlow), FlowError> {
        let Some(placed) = self.placed.get(&name) else { return Err(cannot("the direction is gone")) };
        if !self.flies(placed.flow) {
            return Err(cannot("the direction does not fly"));
        }
        if self.only_marks(port) {
            return self.mark_rule(port, placed);
        }
        let (comes_in_by, flow) = self.derive(placed.flow)?;
        if comes_in_by != port {
            return Err(cannot("it comes in by another port now"));
        }
        let ids: Vec<u16> = self.ports.iter().map(|port| port.id).collect();
        let rules = self.ports.get(port).ok_or_else(|| cannot("there is no such port"))?;
        Ok((rules.rule(flow.clone(), &ids, placed.ttl)?, flow))
    }

    /// Begins to remove a rule. `false`: the NIC has no room for orders now.
    fn destroy(&mut self, port: usize, name: Name, now: u64) -> bool {
        // It can't be read later.
        self.read_counter(name, now);
        let Some(rules) = self.ports.get_mut(port) else { return true };
        let rule = self.placed.get(&name).and_then(|placed| placed.rule);
        let begun = match rule {
            Some(rule) => rules.begin_destroy(name, rule),
            None => Ok(true),
        };
        match begun {
            Ok(true) => self.destroyed(port, name, Ok(()), now),
            Ok(false) => {}
            Err(error) if error.is_busy() && rule.is_some_and(FlowId::is_queued) => {
                rules.scheduler.not_begun(name);
                return false;
            }
            Err(error) => self.destroyed(port, name, Err(error), now),
        }
        true
    }

    /// A rule is gone, or is not.
    fn destroyed(&mut self, port: usize, name: Name, outcome: Result<(), FlowError>, now: u64) {
        // What the NIC has lost is gone, too.
        let outcome = match outcome {
            Err(error) if error.errno == Errno::ENOENT => Ok(()),
            outcome => outcome,
        };
        match &outcome {
            Err(error) => {
                tracing::error!(%error, "a rule could not be removed from the NIC: its packets go on past the rules of nftables");
            }
            Ok(()) => self.is_out(name),
        }
        if let Some(rules) = self.ports.get_mut(port) {
            rules.scheduler.destroyed(name, outcome, now);
        }
    }

    /// A direction has no rule any more.
    pub(super) fn is_out(&mut self, name: Name) {
        if let Some(placed) = self.placed.get_mut(&name) {
            (placed.rule, placed.told, placed.is_in) = (None, None, false);
            placed.before = (placed.counted.packets, placed.counted.bytes);
        }
        self.recount(name);
    }

    /// A direction that was to leave has no rule any more.
    fn is_free(&mut self, name: Name) {
        let Some(placed) = self.placed.get(&name) else { return };
        if placed.ended {
            if !self.only_marks(placed.port) {
                self.haunted.remove(&placed.key);
            }
            self.placed.remove(&name);
        }
    }

    /// A direction must not be in the NIC from here on. `false`: the NIC has not let go of it yet.
    ///
    /// Rules that mark stay: their packets come to workers, which judge them as all others.
    pub(in crate::gateway) fn leave(&mut self, flow: FlowRef) -> bool {
        let Some(port) = self.placed.get(&name(flow)).map(|placed| placed.port) else { return true };
        self.only_marks(port) || self.take_out(flow)
    }

    /// A direction is to have no rule from here on, not even one that marks: another one's packets are its own, or none.
    /// `false`: the NIC has not let go of it yet.
    pub(in crate::gateway) fn take_out(&mut self, flow: FlowRef) -> bool {
        let name = name(flow);
        let Some(port) = self.placed.get(&name).map(|placed| placed.port) else { return true };
        let Some(rules) = self.ports.get_mut(port) else { return true };
        if rules.scheduler.leave(name) {
            return true;
        }
        self.wait(port, |this| this.placed.get(&name).is_none_or(|placed| placed.rule.is_none()))
    }

    /// The same of one that is taken out of the table.
    pub(in crate::gateway) fn remove(&mut self, flow: FlowRef) {
        let name = name(flow);
        let Some((port, rule)) = self.placed.get(&name).map(|placed| (placed.port, placed.rule)) else {
            return;
        };
        // Nobody needs to wait: until the NIC has let go of its tuple, that is nobody else's.
        let free = match self.ports.get_mut(port) {
            Some(rules) if rule.is_some_and(FlowId::is_queued) => rules.scheduler.leave(name),
            _ => self.take_out(flow),
        };
        if free {
            self.forget(name);
            return;
        }
        self.count_as(name, false);
        // A mark that is left over leads nowhere.
        let only_marks = self.only_marks(port);
        if let Some(placed) = self.placed.get_mut(&name) {
            placed.ended = true;
            if !only_marks {
                self.haunted.insert(placed.key, placed.port);
            }
        }
    }

    /// Whether a NIC still has a rule for packets with this tuple that is nobody's. If so it is waited for.
    pub(in crate::gateway) fn is_haunted(&mut self, key: &Key) -> bool {
        let Some(port) = self.haunted.get(key).copied() else { return false };
        !self.wait(port, |this| !this.haunted.contains_key(key))
    }

    /// Waits until something is so, which a port's NIC has to be done with orders for; whether it is so.
    fn wait(&mut self, port: usize, is_so: impl Fn(&Self) -> bool) -> bool {
        let (now, begun) = (self.now, Instant::now());
        let patience = self.waits.each.min(self.waits.together.saturating_sub(self.waits.since_tick));
        self.serve(port, now);
        let is_under_way = |this: &Self| this.ports.get(port).is_some_and(|port| !port.under_way.is_empty());
        while !is_so(self) && is_under_way(self) && begun.elapsed() < patience {
            std::thread::yield_now();
            self.serve(port, now);
        }
        let took = begun.elapsed();
        self.waits.since_tick += took;
        if let Some(rules) = self.ports.get_mut(port) {
            rules.waits.took(took);
        }
        let outcome = is_so(self);
        // Less patience than for one rule says only that there are many.
        if !outcome && is_under_way(self) && took >= self.waits.each {
            self.overrun(port);
        }
        outcome
    }

    fn overrun(&mut self, port: usize) {
        let Some(rules) = self.ports.get_mut(port) else { return };
        rules.waits.overran += 1;
        if self.waits.told.is_none_or(|told| self.now >= told + TELL_EVERY) {
            self.waits.told = Some(self.now);
            tracing::warn!(
                port = rules.id,
                overran = rules.waits.overran,
                "the NIC takes its time to remove rules: packets of what has changed go by the old ones until then"
            );
        }
    }

    /// How long control may wait, for one rule and between two ticks.
    #[cfg(test)]
    pub(super) const fn set_patience(&mut self, each: std::time::Duration, together: std::time::Duration) {
        (self.waits.each, self.waits.together) = (each, together);
    }

    /// A port has lost all of its rules: its device went away.
    pub(in crate::gateway) fn lost_all(&mut self, port: usize) {
        let Some(rules) = self.ports.get_mut(port) else { return };
        rules.scheduler.lost_all();
        rules.gone();
        self.all_out(port);
    }

    /// A port's NIC has lost its rules, or may have: it is probed and guarded anew, and the rules go in again. If it does
    /// not let go of what it has, all stays as it is.
    pub(in crate::gateway) fn remake(&mut self, port: usize, now: u64) {
        // What is under way has to end, or its end would be taken for another's.
        if !self.wait(port, |this| this.ports.get(port).is_none_or(|port| port.under_way.is_empty())) {
            return;
        }
        let Some(rules) = self.ports.get_mut(port).filter(|rules| rules.carries()) else { return };
        let outcome = rules.remake(self.model.as_deref());
        let id = rules.id;
        if let Err(error) = outcome {
            tracing::error!(port = id, %error, "the NIC seems to have lost its rules, and can't be cleared to make them anew");
            return;
        }
        tracing::warn!(port = id, "the NIC had lost its rules: they are made anew");
        rules.scheduler.lost_all();
        rules.differences.remade += 1;
        self.all_out(port);
        self.serve(port, now);
    }

    /// No direction of a port has a rule.
    fn all_out(&mut self, port: usize) {
        let of_port = self.placed.iter().filter(|(_, placed)| placed.port == port && placed.rule.is_some());
        let names: Vec<Name> = of_port.map(|(name, _)| *name).collect();
        for name in names {
            self.is_out(name);
        }
        self.free(port);
    }
}
