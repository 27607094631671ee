//! What a driver is asked for, of the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::check;
use super::rule::Moment;
use super::{Call, Counters, Nic};
use crate::dpdk::Direction;
use crate::dpdk::flow_rule::{
    Completion, Count, ErrorKind, FlowEngine, FlowError, FlowQueues, QueueLimits, RuleAge, RuleView,
};
use crate::dpdk::hairpin::{HairpinConf, HairpinLimits};
use crate::hardware::Tier;

impl FlowEngine for Nic {
    fn validate(&self, port: u16, rule: &RuleView<'_>) -> Result<(), FlowError> {
        let state = self.read();
        state.knobs.refuses(Call::Validate)?;
        if state.knobs.validates_anything {
            return Ok(());
        }
        check::check(port, rule, &self.limits(&state)).map(|_| ())
    }

    fn create(&self, port: u16, rule: &RuleView<'_>) -> Result<u64, FlowError> {
        self.at_once(port)?;
        let mut state = self.write();
        state.tables.sweep(self.now());
        let from = self.after_latency(&state);
        self.add(&mut state, port, rule, from)
    }

    fn destroy(&self, port: u16, rule: u64) -> Result<(), FlowError> {
        self.at_once(port)?;
        let mut state = self.write();
        Self::made(&state, port, rule, false)?;
        // A driver that answers has waited for the NIC.
        let (millis, packets) = self.now();
        self.end(&mut state, port, rule, &Moment::at(millis, packets))?;
        state.tables.sweep((millis, packets));
        Ok(())
    }

    fn count(&self, port: u16, rule: u64, reset: bool) -> Result<Count, FlowError> {
        let (knobs, rule) = self.rule_of(port, rule)?;
        if !rule.checked.counts {
            let message = "the rule does not count";
            return Err(FlowError::new(ErrorKind::Action, Errno::EINVAL, message));
        }
        let read = |count: &AtomicU64| {
            if reset { count.swap(0, Ordering::Relaxed) } else { count.load(Ordering::Relaxed) }
        };
        let (packets, bytes) = (read(&rule.packets), read(&rule.bytes));
        Ok(match knobs.counters {
            Counters::Right => Count { packets: Some(packets), bytes: Some(bytes) },
            Counters::Lost => Count { packets: Some(0), bytes: Some(0) },
            Counters::Missing => Count::default(),
        })
    }

    fn age(&self, port: u16, rule: u64) -> Result<RuleAge, FlowError> {
        let (knobs, rule) = self.rule_of(port, rule)?;
        let Some(timeout) = rule.checked.age_s else {
            let message = "the rule has no age";
            return Err(FlowError::new(ErrorKind::Action, Errno::EINVAL, message));
        };
        let idle = self.now().0.saturating_sub(rule.last_hit.load(Ordering::Relaxed)) / 1000;
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        let idle_s = (knobs.counters != Counters::Missing).then_some(idle);
        Ok(RuleAge { aged: idle >= timeout, idle_s })
    }

    fn flush(&self, port: u16) -> Result<(), FlowError> {
        let mut pending = self.pending();
        let mut state = self.write();
        state.knobs.refuses(Call::Flush)?;
        let (millis, packets) = self.now();
        let ids: Vec<u64> =
            state.rules.values().filter(|rule| rule.owner == port).map(|rule| rule.id).collect();
        for id in ids {
            self.end(&mut state, port, id, &Moment::at(millis, packets))?;
        }
        // What was under way is not told of any more.
        pending.forget(port);
        state.tables.sweep((millis, packets));
        Ok(())
    }

    fn queue_limits(&self, port: u16) -> Result<QueueLimits, FlowError> {
        let knobs = &self.read().knobs;
        if knobs.tier == Tier::None || !knobs.has_queues || !self.ports.contains(&port) {
            return Err(FlowError::unsupported());
        }
        Ok(QueueLimits { queues: 8, depth: 4096, counters: 0 })
    }

    fn held(&self, port: u16) -> Vec<u64> {
        self.read().rules.values().filter(|rule| rule.owner == port).map(|rule| rule.id).collect()
    }

    fn configure(&self, port: u16, queues: &FlowQueues) -> Result<(), FlowError> {
        let state = self.read();
        state.knobs.refuses(Call::Configure)?;
        if state.knobs.tier == Tier::None || !state.knobs.has_queues {
            return Err(FlowError::unsupported());
        }
        drop(state);
        self.pending().configure(port, queues)
    }

    fn enqueue_create(
        &self,
        port: u16,
        queue: u16,
        rule: &RuleView<'_>,
        token: u64,
    ) -> Result<u64, FlowError> {
        let mut pending = self.pending();
        pending.room(port, queue)?;
        let mut state = self.write();
        state.knobs.refuses(Call::Enqueue)?;
        state.tables.sweep(self.now());
        // It begins with the push.
        let id = self.add(&mut state, port, rule, Moment::never())?;
        let rule = state.rules.get(&id).map(Arc::clone).ok_or_else(FlowError::no_such_rule)?;
        pending.create(port, queue, token, rule);
        Ok(id)
    }

    fn enqueue_destroy(&self, port: u16, queue: u16, rule: u64, token: u64) -> Result<(), FlowError> {
        let mut pending = self.pending();
        pending.room(port, queue)?;
        let state = self.read();
        state.knobs.refuses(Call::Destroy)?;
        pending.destroy(port, queue, token, Self::made(&state, port, rule, true)?)
    }

    fn push(&self, port: u16, queue: u16) -> Result<(), FlowError> {
        let mut pending = self.pending();
        let state = self.read();
        let due = self.after_latency(&state);
        let fails = state.knobs.refuses(Call::Complete).is_err();
        pending.push(port, queue, &due, fails)
    }

    fn pull(&self, port: u16, queue: u16, most: usize, ended: &mut Vec<Completion>) -> Result<(), FlowError> {
        let mut pending = self.pending();
        let mut state = self.write();
        let now = self.now();
        for operation in pending.pull(port, queue, most, now, state.knobs.out_of_order)? {
            let status = match operation.failed() {
                Some(rule) => {
                    self.take_out(&mut state, rule);
                    Err(FlowError::new(ErrorKind::Unspecified, Errno::EIO, "the NIC refused it"))
                }
                None => match operation.removes() {
                    Some(rule) => self.end(&mut state, port, rule, &Moment::at(now.0, now.1)),
                    None => Ok(()),
                },
            };
            ended.push(operation.end(status));
        }
        state.tables.sweep(now);
        Ok(())
    }

    fn hairpin_limits(&self, port: u16) -> Result<HairpinLimits, FlowError> {
        if !self.read().knobs.hairpin || !self.ports.contains(&port) {
            return Err(FlowError::new(
                ErrorKind::Unspecified,
                Errno::ENOTSUP,
                "there are no hairpin queues",
            ));
        }
        Ok(HairpinLimits { queues: u16::MAX, descriptors: 8192 })
    }

    fn set_up_hairpin(
        &self,
        port: u16,
        direction: Direction,
        queue: u16,
        conf: &HairpinConf,
    ) -> Result<(), FlowError> {
        self.hairpin_limits(port)?;
        self.write().hairpins.set_up((port, queue), direction, conf, self.queues, &self.ports)
    }

    fn bind_hairpin(&self, tx: u16, rx: u16) -> Result<(), FlowError> {
        self.hairpin_limits(tx)?;
        self.write().hairpins.bind(tx, rx)
    }
}
