//! Directions that wait until every worker has seen their new state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use dataplane::flow::{FlowRef, Qsbr, Token};
use dataplane::punt::{Bell, Observation, PuntCommand};

/// How long it waits for workers on the spot.
const SOON: Duration = Duration::from_micros(30);

/// Passes [`PuntCommand::Settle`] on once no worker can punt by an older state any more.
#[derive(Debug)]
pub(super) struct Settling {
    qsbr: Arc<Qsbr>,
    commands: Arc<ArrayQueue<PuntCommand>>,
    bell: Arc<Bell>,
    waiting: VecDeque<(Token, FlowRef)>,
}

impl Settling {
    pub(super) const fn new(
        qsbr: Arc<Qsbr>,
        commands: Arc<ArrayQueue<PuntCommand>>,
        bell: Arc<Bell>,
    ) -> Self {
        Self { qsbr, commands, bell, waiting: VecDeque::new() }
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
    ///
    /// Packets are being held back meanwhile: workers that are awake pass within microseconds, so it is worth
    /// waiting for them.
    pub(super) fn advance(&mut self) {
        let mut passed_on = false;
        while let Some((token, flow)) = self.waiting.front() {
            if !self.passes_soon(*token) || self.commands.push(PuntCommand::Settle(*flow)).is_err() {
                break;
            }
            self.waiting.pop_front();
            passed_on = true;
        }
        if passed_on {
            self.bell.ring();
        }
    }

    fn passes_soon(&self, token: Token) -> bool {
        let begun = Instant::now();
        while !self.qsbr.passed(token) {
            if begun.elapsed() > SOON {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Observations that wait until every worker has passed a quiescent state.
#[derive(Debug)]
pub(super) struct Later {
    qsbr: Arc<Qsbr>,
    waiting: VecDeque<(Token, Observation)>,
}

impl Later {
    pub(super) const fn new(qsbr: Arc<Qsbr>) -> Self {
        Self { qsbr, waiting: VecDeque::new() }
    }

    pub(super) fn add(&mut self, observation: Observation) {
        self.waiting.push_back((self.qsbr.start(), observation));
    }

    /// Hands on those whose time has come, in order.
    pub(super) fn each(&mut self, mut handle: impl FnMut(Observation)) {
        while self.waiting.front().is_some_and(|(token, _)| self.qsbr.passed(*token)) {
            let Some((_, observation)) = self.waiting.pop_front() else { return };
            handle(observation);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
