//! What stands in for a driver, and what drivers and their stand-ins answer.

use std::fmt;

use super::{FlowError, RuleView};

/// What a rule has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets; none if the NIC does not count them.
    pub packets: Option<u64>,
    /// Bytes; none if the NIC does not count them.
    pub bytes: Option<u64>,
}

/// How long a rule has had no packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleAge {
    /// For longer than the rule's timeout.
    pub aged: bool,
    /// Seconds since the last packet, if the NIC tells.
    pub idle_s: Option<u32>,
}

/// What is asked of a port whose rules go through queues: sized once, before the port starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowQueues {
    /// Queues; each is for one thread at a time.
    pub queues: u16,
    /// Operations that may wait in each.
    pub depth: u32,
    /// Rules of each shape, and counters.
    pub rules: u32,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpStatus {
    /// It is done.
    Done,
    /// It was refused; a rule that was to be made is not there, one that was to go still is.
    Refused(FlowError),
}

/// An operation that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What was given with the operation.
    pub token: u64,
    /// How it ended.
    pub status: OpStatus,
}

/// What stands in for a driver. Its calls are those of `rte_flow.h`, and mean the same; rules are named by numbers of the
/// engine's choice.
pub trait FlowEngine: Send + Sync + fmt::Debug {
    /// `rte_flow_validate`.
    fn validate(&self, port: u16, rule: &RuleView<'_>) -> Result<(), FlowError>;

    /// `rte_flow_create`.
    fn create(&self, port: u16, rule: &RuleView<'_>) -> Result<u64, FlowError>;

    /// `rte_flow_destroy`.
    fn destroy(&self, port: u16, rule: u64) -> Result<(), FlowError>;

    /// `rte_flow_query` of a COUNT action.
    fn count(&self, port: u16, rule: u64, reset: bool) -> Result<Count, FlowError>;

    /// `rte_flow_query` of an AGE action.
    fn age(&self, port: u16, rule: u64) -> Result<RuleAge, FlowError>;

    /// `rte_flow_flush`.
    fn flush(&self, port: u16) -> Result<(), FlowError>;

    /// `rte_flow_configure`.
    fn configure(&self, port: u16, queues: &FlowQueues) -> Result<(), FlowError>;

    /// `rte_flow_async_create`, after a `rte_flow_template_table_create` for the rule's shape.
    fn enqueue_create(
        &self,
        port: u16,
        queue: u16,
        rule: &RuleView<'_>,
        token: u64,
    ) -> Result<u64, FlowError>;

    /// `rte_flow_async_destroy`. The rule's creation must have completed.
    fn enqueue_destroy(&self, port: u16, queue: u16, rule: u64, token: u64) -> Result<(), FlowError>;

    /// `rte_flow_push`.
    fn push(&self, port: u16, queue: u16) -> Result<(), FlowError>;

    /// `rte_flow_pull`: adds at most so many operations that have ended, in any order.
    fn pull(&self, port: u16, queue: u16, most: usize, ended: &mut Vec<Completion>) -> Result<(), FlowError>;
}
