//! The rules of a port: the one place where a driver and its stand-in part.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{
    Completion, Count, ErrorKind, FlowEngine, FlowError, FlowQueues, FlowRule, OpStatus, QueueLimits, RuleAge,
};
use crate::dpdk::Port;
use crate::dpdk::port::PmdFlows;

/// Names a rule of a port. A name is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    number: u64,
    /// It was made through a queue, and goes through one.
    queued: bool,
}

impl FlowId {
    /// The rule's number.
    pub const fn number(self) -> u64 {
        self.number
    }

    /// Whether it was made through a queue.
    pub const fn is_queued(self) -> bool {
        self.queued
    }

    const fn at_once(number: u64) -> Self {
        Self { number, queued: false }
    }

    const fn queued(number: u64) -> Self {
        Self { number, queued: true }
    }
}

/// How long a call waits for the NIC to be done with what went through a queue.
const PATIENCE: Duration = Duration::from_millis(200);
/// Tokens of calls that wait begin here.
const WAITING: u64 = 1 << 63;

/// The rules of one port.
///
/// There are two ways to make and remove them. [`create`](Self::create) and [`destroy`](Self::destroy) wait for the NIC,
/// through a queue if the driver knows no other way. [`enqueue_create`](Self::enqueue_create) and
/// [`enqueue_destroy`](Self::enqueue_destroy) do not wait where the port has [queues](Self::configure) for it; where it
/// has none they do, but the end is told by [`pull`](Self::pull) all the same.
///
/// A port's rules end with its stop: they are flushed, and their names mean nothing any more.
#[derive(Debug)]
pub struct FlowRules {
    backend: Backend,
    /// What ended at once, and what ended while a call waited.
    ended: Mutex<VecDeque<(u16, Completion)>>,
    queues: Option<FlowQueues>,
    last: AtomicU64,
}

#[derive(Debug)]
enum Backend {
    Driver(PmdFlows),
    Engine(Arc<dyn FlowEngine>, u16),
}

impl FlowRules {
    /// The rules of a port's own driver.
    pub fn of(port: &Port) -> Self {
        let driver = PmdFlows::of(port);
        Self { queues: driver.queues(), ..Self::with(Backend::Driver(driver)) }
    }

    /// The rules of a stand-in for the driver of this port. It hears nothing of the port's stop: flush before.
    pub fn of_engine(engine: Arc<dyn FlowEngine>, port: u16) -> Self {
        Self::with(Backend::Engine(engine, port))
    }

    fn with(backend: Backend) -> Self {
        Self { backend, ended: Mutex::default(), queues: None, last: AtomicU64::new(WAITING) }
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
        let made = match &self.backend {
            Backend::Driver(driver) => driver.create(rule),
            Backend::Engine(engine, port) => engine.create(*port, &rule.view()),
        };
        match made {
            Err(error) if error.is_unsupported() && self.queues.is_some() => {
                self.wait(|queue, token| self.begin_create(queue, rule, token))
            }
            made => made.map(FlowId::at_once),
        }
    }

    /// Removes a rule. If that fails it is still there.
    pub fn destroy(&self, rule: FlowId) -> Result<(), FlowError> {
        if rule.queued {
            return self.wait(|queue, token| self.begin_destroy(queue, rule, token));
        }
        match &self.backend {
            Backend::Driver(driver) => driver.destroy(rule.number),
            Backend::Engine(engine, port) => engine.destroy(*port, rule.number),
        }
    }

    /// What a rule with a COUNT action has counted; `reset`: from now on from 0.
    pub fn count(&self, rule: FlowId, reset: bool) -> Result<Count, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.count(rule.number, reset),
            Backend::Engine(engine, port) => engine.count(*port, rule.number, reset),
        }
    }

    /// How long a rule with an AGE action has had no packet.
    pub fn age(&self, rule: FlowId) -> Result<RuleAge, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.age(rule.number),
            Backend::Engine(engine, port) => engine.age(*port, rule.number),
        }
    }

    /// Removes all of the port's rules. If that fails some may still be there.
    pub fn flush(&self) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.flush(),
            Backend::Engine(engine, port) => engine.flush(*port),
        }
    }

    /// Numbers of the rules that were made and not removed, those of operations under way included.
    pub fn held(&self) -> Vec<u64> {
        match &self.backend {
            Backend::Driver(driver) => driver.held(),
            Backend::Engine(engine, port) => engine.held(*port),
        }
    }

    /// Removes a rule of which only the number is known.
    pub fn destroy_held(&self, number: u64) -> Result<(), FlowError> {
        match self.destroy(FlowId::at_once(number)) {
            Err(_) if self.queues.is_some() => self.destroy(FlowId::queued(number)),
            outcome => outcome,
        }
    }

    /// What the port has for rules through queues; an error if it has none.
    pub fn queue_limits(&self) -> Result<QueueLimits, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.queue_limits(),
            Backend::Engine(engine, port) => engine.queue_limits(*port),
        }
    }

    /// The queues that were set up.
    pub const fn queues(&self) -> Option<FlowQueues> {
        self.queues
    }

    /// Sets up queues for rules, before the port is started. Where that is refused operations end before they return.
    /// A stop of the port ends the queues, too: they are set up again before the next start.
    pub fn configure(&mut self, queues: &FlowQueues) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.configure(queues),
            Backend::Engine(engine, port) => engine.configure(*port, queues),
        }?;
        self.queues = Some(*queues);
        Ok(())
    }

    /// Begins to make a rule. `token`, below 2^63, comes back with its end.
    pub fn enqueue_create(&self, queue: u16, rule: &FlowRule, token: u64) -> Result<FlowId, FlowError> {
        if self.queues.is_none() {
            let id = self.create(rule)?;
            self.end(queue, token, OpStatus::Done);
            return Ok(id);
        }
        self.begin_create(queue, rule, token)
    }

    /// Begins to remove a rule whose making has ended. `token`, below 2^63, comes back with its end.
    pub fn enqueue_destroy(&self, queue: u16, rule: FlowId, token: u64) -> Result<(), FlowError> {
        if !rule.queued {
            let status = self.destroy(rule).map_or_else(OpStatus::Refused, |()| OpStatus::Done);
            self.end(queue, token, status);
            return Ok(());
        }
        self.begin_destroy(queue, rule, token)
    }

    /// Has the NIC begin with what was enqueued.
    pub fn push(&self, queue: u16) -> Result<(), FlowError> {
        if self.queues.is_none() {
            return Ok(());
        }
        match &self.backend {
            Backend::Driver(driver) => driver.push(queue),
            Backend::Engine(engine, port) => engine.push(*port, queue),
        }
    }

    /// Adds at most so many operations that have ended. They may end in any order.
    pub fn pull(&self, queue: u16, most: usize, ended: &mut Vec<Completion>) -> Result<(), FlowError> {
        let before = ended.len();
        {
            let mut waiting = self.ended();
            for _ in 0..most {
                let Some(at) = waiting.iter().position(|(of, _)| *of == queue) else { break };
                ended.extend(waiting.remove(at).map(|(_, completion)| completion));
            }
        }
        let left = most.saturating_sub(ended.len() - before);
        if self.queues.is_none() || left == 0 {
            return Ok(());
        }
        self.pull_queue(queue, left, ended)
    }

    fn pull_queue(&self, queue: u16, most: usize, ended: &mut Vec<Completion>) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.pull(queue, most, ended),
            Backend::Engine(engine, port) => engine.pull(*port, queue, most, ended),
        }
    }

    fn begin_create(&self, queue: u16, rule: &FlowRule, token: u64) -> Result<FlowId, FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.enqueue_create(queue, rule, token),
            Backend::Engine(engine, port) => engine.enqueue_create(*port, queue, &rule.view(), token),
        }
        .map(FlowId::queued)
    }

    fn begin_destroy(&self, queue: u16, rule: FlowId, token: u64) -> Result<(), FlowError> {
        match &self.backend {
            Backend::Driver(driver) => driver.enqueue_destroy(queue, rule.number, token),
            Backend::Engine(engine, port) => engine.enqueue_destroy(*port, queue, rule.number, token),
        }
    }

    /// Has an operation carried out through a queue, and waits for its end.
    fn wait<T>(&self, begin: impl FnOnce(u16, u64) -> Result<T, FlowError>) -> Result<T, FlowError> {
        let queue = self.queues.map_or(0, |queues| queues.queues.saturating_sub(1));
        let token = self.last.fetch_add(1, Ordering::Relaxed);
        let begun = begin(queue, token)?;
        self.push(queue)?;
        let since = Instant::now();
        loop {
            let mut ended = Vec::new();
            self.pull_queue(queue, 64, &mut ended)?;
            let mut outcome = None;
            for completion in ended {
                if completion.token == token {
                    outcome = Some(completion.status);
                } else if completion.token < WAITING {
                    self.end(queue, completion.token, completion.status);
                }
            }
            match outcome {
                Some(OpStatus::Done) => return Ok(begun),
                Some(OpStatus::Refused(error)) => return Err(error),
                None if since.elapsed() > PATIENCE => {
                    let message = "the NIC did not say in time what became of it";
                    return Err(FlowError::new(ErrorKind::State, Errno::ETIMEDOUT, message));
                }
                None => std::thread::yield_now(),
            }
        }
    }

    fn end(&self, queue: u16, token: u64, status: OpStatus) {
        self.ended().push_back((queue, Completion { token, status }));
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<(u16, Completion)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
