//! What stands in for a driver, and what drivers and their stand-ins answer.

use std::fmt;

use super::{FlowError, RuleView};
use crate::dpdk::Direction;
use crate::dpdk::hairpin::{HairpinConf, HairpinLimits};

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
    /// Queues; each is for one thread at a time. Calls that wait for the NIC take the last one.
    pub queues: u16,
    /// Operations that may wait in each.
    pub depth: u32,
    /// Rules of each shape, and counters.
    pub rules: u32,
}

impl FlowQueues {
    /// As much of it as a port has; none if it has no queues.
    pub fn within(self, limits: &QueueLimits) -> Option<Self> {
        let queues = self.queues.min(u16::try_from(limits.queues).unwrap_or(u16::MAX));
        let depth = self.depth.min(limits.depth);
        // Drivers leave it at 0 where they don't know.
        let rules = if limits.counters == 0 { self.rules } else { self.rules.min(limits.counters) };
        (queues > 0 && depth > 0).then_some(Self { queues, depth, rules })
    }
}

/// What a port has for rules through queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Queues.
    pub queues: u32,
    /// Operations that may wait in each.
    pub depth: u32,
    /// Counters; 0 if that is not known.
    pub counters: u32,
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

/// What stands in for a driver. Its calls are those of `rte_flow.h`, and those of `rte_ethdev.h` for queues that rules send
/// to, and mean the same; rules are named by numbers of the engine's choice.
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

    /// `rte_flow_info_get`.
    fn queue_limits(&self, port: u16) -> Result<QueueLimits, FlowError>;

    /// The rules of a port that were made and not removed, by name. Drivers have no such call: their handles are counted.
    fn held(&self, port: u16) -> Vec<u64>;

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

    /// `rte_eth_dev_hairpin_capability_get`.
    fn hairpin_limits(&self, port: u16) -> Result<HairpinLimits, FlowError>;

    /// `rte_eth_rx_hairpin_queue_setup` or `rte_eth_tx_hairpin_queue_setup`.
    fn set_up_hairpin(
        &self,
        port: u16,
        direction: Direction,
        queue: u16,
        conf: &HairpinConf,
    ) -> Result<(), FlowError>;

    /// `rte_eth_hairpin_bind`: what is received by `rx` leaves by `tx`.
    fn bind_hairpin(&self, tx: u16, rx: u16) -> Result<(), FlowError>;
}
