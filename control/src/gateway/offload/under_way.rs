//! Orders of one port that its NIC has been given and is not done with.
//!
//! Where the port has queues for rules, orders are enqueued, pushed together, and their ends pulled: nobody waits for the
//! NIC. Where it has none, or refuses through them what it takes otherwise, an order ends before the call returns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dataplane::dpdk::flow_rule::{Completion, FlowError, FlowId, FlowQueues, FlowRule, FlowRules, OpStatus};
use dataplane::hardware::scheduler::{Order, Policy};

use super::Name;

/// The queue for rules: all are made on one thread.
const QUEUE: u16 = 0;
/// Ends that are pulled in one go.
const PULLED: usize = 256;

/// A NIC that was not done with any of its orders for so long, in milliseconds, is told of.
const UNANSWERED: u64 = 5_000;
/// How long the end of a port waits for orders to end.
const LAST_PATIENCE: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug, Default)]
pub(in crate::gateway) struct UnderWay {
    queues: Option<FlowQueues>,
    orders: HashMap<u64, Order<Name>>,
    last: u64,
    /// Something was enqueued since the last push.
    unpushed: bool,
    /// The queue fails, which was told.
    fails: bool,
    /// Since when no order has ended though there are some, and whether it was told.
    quiet: Option<(u64, bool)>,
    /// Why queues are not used, though there are some; told once.
    refused: Option<String>,
}

impl UnderWay {
    /// Without queues each order ends at once.
    pub(super) fn new(queues: Option<FlowQueues>) -> Self {
        Self { queues, ..Self::default() }
    }

    /// Whether rules go through queues.
    pub(in crate::gateway) const fn by_queue(&self) -> bool {
        self.queues.is_some()
    }

    /// No more orders at a time than a queue holds.
    pub(super) fn within(&self, policy: Policy) -> Policy {
        let depth = self.queues.map_or(usize::MAX, |queues| queues.depth as usize);
        Policy { in_flight: policy.in_flight.min(depth), ..policy }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// The port has forgotten them all.
    pub(super) fn clear(&mut self) {
        self.orders.clear();
        self.unpushed = false;
    }

    /// Why orders go one by one from now on; each time once.
    pub(super) fn fell_back(&mut self) -> Option<String> {
        self.refused.take()
    }

    /// Begins to make a rule; whether it is made already.
    pub(super) fn create(
        &mut self,
        rules: &FlowRules,
        name: Name,
        rule: &FlowRule,
    ) -> Result<(FlowId, bool), FlowError> {
        if !self.by_queue() {
            return rules.create(rule).map(|id| (id, true));
        }
        let token = self.token();
        match rules.enqueue_create(QUEUE, rule, token) {
            Ok(id) => {
                self.add(token, Order::Create(name));
                Ok((id, false))
            }
            Err(error) if error.is_busy() || error.is_full() => Err(error),
            Err(refused) => {
                // What is refused either way is the rule's own affair.
                let Ok(id) = rules.create(rule) else { return Err(refused) };
                self.queues = None;
                self.refused = Some(refused.to_string());
                Ok((id, true))
            }
        }
    }

    /// Begins to remove a rule; whether it is gone already.
    pub(super) fn destroy(&mut self, rules: &FlowRules, name: Name, rule: FlowId) -> Result<bool, FlowError> {
        // Rules go as they came, whatever is done with new ones.
        if !rule.is_queued() {
            return rules.destroy(rule).map(|()| true);
        }
        let token = self.token();
        rules.enqueue_destroy(QUEUE, rule, token)?;
        self.add(token, Order::Destroy(name));
        Ok(false)
    }

    /// Has the NIC begin with what was enqueued. If that fails it is tried again with the next.
    pub(super) fn push(&mut self, rules: &FlowRules) {
        if !self.unpushed {
            return;
        }
        let pushed = rules.push(QUEUE);
        self.unpushed = pushed.is_err();
        self.tell(pushed);
    }

    /// Orders that have ended, and how.
    pub(super) fn pull(&mut self, rules: &FlowRules, now: u64) -> Vec<(Order<Name>, Result<(), FlowError>)> {
        let ended = self.pull_some(rules);
        if !ended.is_empty() || self.orders.is_empty() {
            self.quiet = None;
            return ended;
        }
        let (since, told) = self.quiet.get_or_insert((now, false));
        if !*told && now.saturating_sub(*since) >= UNANSWERED {
            *told = true;
            tracing::error!(
                orders = self.orders.len(),
                "the NIC does not say what became of orders to make and remove rules: what is in stays, nothing more goes in"
            );
        }
        ended
    }

    /// Waits for all orders to end, and not for long: before rules are given up.
    pub(super) fn drain(&mut self, rules: &FlowRules) {
        let begun = Instant::now();
        self.push(rules);
        while !self.orders.is_empty() && begun.elapsed() < LAST_PATIENCE {
            if self.pull_some(rules).is_empty() {
                std::thread::yield_now();
            }
        }
    }

    fn pull_some(&mut self, rules: &FlowRules) -> Vec<(Order<Name>, Result<(), FlowError>)> {
        if self.orders.is_empty() {
            return Vec::new();
        }
        let mut ended = Vec::new();
        let pulled = rules.pull(QUEUE, PULLED, &mut ended);
        self.tell(pulled);
        let outcome = |ended: Completion| {
            let order = self.orders.remove(&ended.token)?;
            let outcome = match ended.status {
                OpStatus::Done => Ok(()),
                OpStatus::Refused(error) => Err(error),
            };
            Some((order, outcome))
        };
        ended.into_iter().filter_map(outcome).collect()
    }

    fn tell(&mut self, outcome: Result<(), FlowError>) {
        match outcome {
            Ok(()) => self.fails = false,
            Err(error) if !self.fails => {
                self.fails = true;
                tracing::error!(%error, "the NIC's queue for rules fails: nothing goes in, and what is in stays");
            }
            Err(_) => {}
        }
    }

    const fn token(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn add(&mut self, token: u64, order: Order<Name>) {
        self.orders.insert(token, order);
        self.unpushed = true;
    }
}
