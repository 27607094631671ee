//! Directions that wait until every worker has seen their new state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use dataplane::flow::{FlowRef, Qsbr, Token};
use dataplane::punt::{Bell, PuntCommand};

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
