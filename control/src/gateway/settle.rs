//! Directions that wait until every worker has seen their new state.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use dataplane::flow::{FlowRef, Qsbr, Token};
use dataplane::punt::PuntCommand;

/// Passes [`PuntCommand::Settle`] on once no worker can punt by an older state any more.
#[derive(Debug)]
pub(super) struct Settling {
    qsbr: Arc<Qsbr>,
    commands: Arc<ArrayQueue<PuntCommand>>,
    waiting: VecDeque<(Token, FlowRef)>,
}

impl Settling {
    pub(super) const fn new(qsbr: Arc<Qsbr>, commands: Arc<ArrayQueue<PuntCommand>>) -> Self {
        Self { qsbr, commands, waiting: VecDeque::new() }
    }

    /// These directions have just been set to holding.
    pub(super) fn add(&mut self, flows: impl IntoIterator<Item = FlowRef>) {
        let mut flows = flows.into_iter().peekable();
        if flows.peek().is_some() {
            let token = self.qsbr.start();
            self.waiting.extend(flows.map(|flow| (token, flow)));
        }
    }

    /// Passes on what may be. What finds no room waits for the next time.
    pub(super) fn advance(&mut self) {
        while let Some((token, flow)) = self.waiting.front() {
            if !self.qsbr.passed(*token) || self.commands.push(PuntCommand::Settle(*flow)).is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
