//! Operations on rules that have begun and not ended.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nix::errno::Errno;

use super::rule::{Moment, Rule};
use crate::dpdk::flow_rule::{Completion, ErrorKind, FlowError, FlowQueues, OpStatus};

/// The queues of all ports.
#[derive(Debug, Default)]
pub(super) struct Queues {
    depth: HashMap<u16, FlowQueues>,
    waiting: HashMap<(u16, u16), VecDeque<Operation>>,
    pulls: usize,
}

/// An operation.
#[derive(Debug)]
pub(super) struct Operation {
    token: u64,
    rule: Arc<Rule>,
    creates: bool,
    due: Moment,
}

impl Operation {
    /// The rule that goes with its end.
    pub(super) fn removes(&self) -> Option<u64> {
        (!self.creates).then_some(self.rule.id)
    }

    /// The rule that it was to make, and did not.
    pub(super) fn failed(&self) -> Option<u64> {
        (self.creates && self.rule.from.is_never()).then_some(self.rule.id)
    }

    pub(super) fn end(self, status: Result<(), FlowError>) -> Completion {
        Completion { token: self.token, status: status.map_or_else(OpStatus::Refused, |()| OpStatus::Done) }
    }
}

impl Queues {
    pub(super) fn configure(&mut self, port: u16, queues: &FlowQueues) -> Result<(), FlowError> {
        if queues.queues == 0 || queues.depth == 0 {
            return Err(FlowError::new(ErrorKind::Unspecified, Errno::EINVAL, "queues without room"));
        }
        self.depth.insert(port, *queues);
        Ok(())
    }

    /// Whether a port has any.
    pub(super) fn has(&self, port: u16) -> bool {
        self.depth.contains_key(&port)
    }

    /// A port's operations have no end.
    pub(super) fn forget(&mut self, port: u16) {
        self.waiting.retain(|(of, _), _| *of != port);
    }

    /// Whether a queue has room for an operation.
    pub(super) fn room(&self, port: u16, queue: u16) -> Result<(), FlowError> {
        let Some(queues) = self.depth.get(&port).filter(|queues| queue < queues.queues) else {
            return Err(FlowError::new(ErrorKind::State, Errno::EINVAL, "there is no such flow queue"));
        };
        let waiting = self.waiting.get(&(port, queue)).map_or(0, VecDeque::len);
        if waiting < queues.depth as usize {
            return Ok(());
        }
        Err(FlowError::new(ErrorKind::State, Errno::EAGAIN, "the flow queue is full"))
    }

    pub(super) fn create(&mut self, port: u16, queue: u16, token: u64, rule: Arc<Rule>) {
        self.add(port, queue, Operation { token, rule, creates: true, due: Moment::never() });
    }

    /// Refused while another operation on the rule has not ended.
    pub(super) fn destroy(
        &mut self,
        port: u16,
        queue: u16,
        token: u64,
        rule: Arc<Rule>,
    ) -> Result<(), FlowError> {
        if self.waiting.values().flatten().any(|waiting| waiting.rule.id == rule.id) {
            let message = "an operation on this rule has not ended yet";
            return Err(FlowError::new(ErrorKind::Handle, Errno::EBUSY, message));
        }
        self.add(port, queue, Operation { token, rule, creates: false, due: Moment::never() });
        Ok(())
    }

    fn add(&mut self, port: u16, queue: u16, operation: Operation) {
        self.waiting.entry((port, queue)).or_default().push_back(operation);
    }

    /// Begins with what waits: it ends at a moment. `fails`: rules that are to be made do not come to be.
    pub(super) fn push(&mut self, port: u16, queue: u16, due: &Moment, fails: bool) -> Result<(), FlowError> {
        if self.depth.get(&port).is_none_or(|queues| queue >= queues.queues) {
            return Err(FlowError::new(ErrorKind::State, Errno::EINVAL, "there is no such flow queue"));
        }
        let waiting = self.waiting.entry((port, queue)).or_default();
        for operation in waiting.iter().filter(|operation| operation.due.is_never()) {
            operation.due.set(due);
            if operation.creates && !fails {
                operation.rule.from.set(due);
                operation.rule.touch(due);
            }
        }
        Ok(())
    }

    /// Takes operations that have ended.
    pub(super) fn pull(
        &mut self,
        port: u16,
        queue: u16,
        most: usize,
        now: (u64, u64),
        out_of_order: bool,
    ) -> Result<Vec<Operation>, FlowError> {
        if !self.depth.contains_key(&port) {
            return Err(FlowError::new(ErrorKind::State, Errno::EINVAL, "there is no such flow queue"));
        }
        self.pulls += 1;
        let waiting = self.waiting.entry((port, queue)).or_default();
        let (mut ended, left): (Vec<_>, Vec<_>) =
            waiting.drain(..).partition(|operation| operation.due.has_come(now));
        waiting.extend(left);
        if out_of_order && !ended.is_empty() {
            let by = self.pulls % ended.len();
            ended.reverse();
            ended.rotate_left(by);
        }
        // What there is no room for ends with the next pull.
        for operation in ended.drain(most.min(ended.len())..).rev() {
            waiting.push_front(operation);
        }
        Ok(ended)
    }
}
