//! The rules of a port: the one place where a driver and its stand-in part.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Completion, Count, FlowEngine, FlowError, FlowQueues, FlowRule, OpStatus, RuleAge};
use crate::dpdk::Port;
use crate::dpdk::port::PmdFlows;

/// Names a rule of a port. A name is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

impl FlowId {
    /// The rule's number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The rules of one port.
///
/// There are two ways to make and remove them. [`create`](Self::create) and [`destroy`](Self::destroy) wait for the NIC.
/// [`enqueue_create`](Self::enqueue_create) and [`enqueue_destroy`](Self::enqueue_destroy) do not where the port has
/// [queues](Self::configure) for it; where it has none they do, but the end is told by [`pull`](Self::pull) all the same.
///
/// A port's rules end with its stop: they are flushed, and their names mean nothing any more.
#[derive(Debug)]
pub struct FlowRules {
    backend: Backend,
    /// What ended at once, where the port has no queues.
    ended: Mutex<VecDeque<(u16, Completion)>>,
    queued: bool,
}

#[derive(Debug)]
enum Backend {
    Driver(PmdFlows),
    Engine(Arc<dyn FlowEngine>, u16),
}

impl FlowRules {
    /// The rules of a port's own driver.
    pub fn of(port: &Port) -> Self {
        Self::with(Backend::Driver(PmdFlows::of(port)))
    }

    /// The rules of a stand-in for the driver of this port. It hears nothing of the port's stop: flush before.
    pub fn of_engine(engine: Arc<dyn FlowEngine>, port: u16) -> Self {
        Self::with(Backend::Engine(engine, port))
    }

    fn with(backend: Backend) -> Self {
        Self { backend, ended: Mutex::default(), queued: false }
    }

    /// Whether the port would take the rule. Drivers are known to say so of rules that they refuse to make.
    pub fn validate(&self, rule: &FlowRule) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.validate(rule),
            Backend::Engine(engine, port) => engine.validate(*port, &rule.view()),
        }
    }

    /// Makes a rule.
    pub fn create(&self, rule: &FlowRule) -> Result<FlowId, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.create(rule),
            Backend::Engine(engine, port) => engine.create(*port, &rule.view()),
        }
        .map(FlowId)
    }

    /// Removes a rule. If that fails it is still there.
    pub fn destroy(&self, rule: FlowId) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.destroy(rule.0),
            Backend::Engine(engine, port) => engine.destroy(*port, rule.0),
        }
    }

    /// What a rule with a COUNT action has counted; `reset`: from now on from 0.
    pub fn count(&self, rule: FlowId, reset: bool) -> Result<Count, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.count(rule.0, reset),
            Backend::Engine(engine, port) => engine.count(*port, rule.0, reset),
        }
    }

    /// How long a rule with an AGE action has had no packet.
    pub fn age(&self, rule: FlowId) -> Result<RuleAge, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.age(rule.0),
            Backend::Engine(engine, port) => engine.age(*port, rule.0),
        }
    }

    /// Removes all of the port's rules. If that fails some may still be there.
    pub fn flush(&self) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.flush(),
            Backend::Engine(engine, port) => engine.flush(*port),
        }
    }

    /// Sets up queues for rules, before the port is started. Where that is refused operations end before they return.
    /// A stop of the port ends the queues, too: they are set up again before the next start.
    pub fn configure(&mut self, queues: &FlowQueues) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.configure(queues),
            Backend::Engine(engine, port) => engine.configure(*port, queues),
        }?;
        self.queued = true;
        Ok(())
    }

    /// Begins to make a rule. `token` comes back with its end.
    pub fn enqueue_create(&self, queue: u16, rule: &FlowRule, token: u64) -> Result<FlowId, FlowError> {
        if !self.queued {
            let id = self.create(rule)?;
            self.end(queue, token, OpStatus::Done);
            return Ok(id);
        }
        match &self.backend {
            Backend::Driver(driver) => driver.enqueue_create(queue, rule, token),
            Backend::Engine(engine, port) => engine.enqueue_create(*port, queue, &rule.view(), token),
        }
        .map(FlowId)
    }

    /// Begins to remove a rule whose making has ended. `token` comes back with its end.
    pub fn enqueue_destroy(&self, queue: u16, rule: FlowId, token: u64) -> Result<(), FlowError> {
        if !self.queued {
            let status = self.destroy(rule).map_or_else(OpStatus::Refused, |()| OpStatus::Done);
            self.end(queue, token, status);
            return Ok(());
        }
        match &self.backend {
            Backend::Driver(driver) => driver.enqueue_destroy(queue, rule.0, token),
            Backend::Engine(engine, port) => engine.enqueue_destroy(*port, queue, rule.0, token),
        }
    }

    /// Has the NIC begin with what was enqueued.
    pub fn push(&self, queue: u16) -> Result<(), FlowError> {
        if !self.queued {
            return Ok(());
        }
        match &self.backend {
            Backend::Driver(driver) => driver.push(queue),
            Backend::Engine(engine, port) => engine.push(*port, queue),
        }
    }

    /// Adds at most so many operations that have ended. They may end in any order.
    pub fn pull(&self, queue: u16, most: usize, ended: &mut Vec<Completion>) -> Result<(), FlowError> {
        if !self.queued {
            let mut waiting = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            for _ in 0..most {
                let Some(at) = waiting.iter().position(|(of, _)| *of == queue) else { break };
                ended.extend(waiting.remove(at).map(|(_, completion)| completion));
            }
            return Ok(());
        }
        match &self.backend {
            Backend::Driver(driver) => driver.pull(queue, most, ended),
            Backend::Engine(engine, port) => engine.pull(*port, queue, most, ended),
        }
    }

    fn end(&self, queue: u16, token: u64, status: OpStatus) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back((queue, Completion { token, status }));
    }
}
