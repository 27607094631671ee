//! Directions that wait until every worker has seen their new state.

use std::collections::{HashMap, VecDeque};
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
    waiting: VecDeque<(Token, FlowRef, u32)>,
    /// Numbers of the newest commands that have no answer yet: a direction may have been given back and set to holding
    /// again since an older one, and packets punted between are on their way.
    newest: HashMap<FlowRef, u32>,
    next: u32,
}

impl Settling {
    pub(super) fn new(qsbr: Arc<Qsbr>, commands: Arc<ArrayQueue<PuntCommand>>, bell: Arc<Bell>) -> Self {
        Self { qsbr, commands, bell, waiting: VecDeque::new(), newest: HashMap::new(), next: 0 }
    }

    /// These directions have just been set to holding.
    pub(super) fn add(&mut self, flows: impl IntoIterator<Item = FlowRef>) {
        let mut flows = flows.into_iter().peekable();
        if flows.peek().is_some() {
            let token = self.qsbr.start();
            for flow in flows {
                self.next = self.next.wrapping_add(1);
                self.newest.insert(flow, self.next);
                self.waiting.push_back((token, flow, self.next));
            }
        }
    }

    /// Passes on what may be. What finds no room waits for the next time.
    ///
    /// Packets are being held back meanwhile: workers that are awake pass within microseconds, so it is worth
    /// waiting for them.
    pub(super) fn advance(&mut self) {
        let mut passed_on = false;
        while let Some((token, flow, number)) = self.waiting.front() {
            if !self.passes_soon(*token) || self.commands.push(PuntCommand::Settle(*flow, *number)).is_err() {
                break;
            }
            self.waiting.pop_front();
            passed_on = true;
        }
        if passed_on {
            self.bell.ring();
        }
    }

    /// Whether an observation tells of how things are now: all do but the answer to a command that has a successor.
    pub(super) fn is_current(&mut self, observation: &Observation) -> bool {
        let Observation::Settled(flow, number) = observation else { return true };
        let current = self.newest.get(flow) == Some(number);
        if current {
            self.newest.remove(flow);
        }
        current
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

#[cfg(test)]
mod tests {
    use dataplane::flow::Slot;

    use super::*;

    #[test]
    fn an_answer_to_an_older_command_is_not_taken_for_the_newest() {
        let commands = Arc::new(ArrayQueue::new(8));
        let bell = Arc::new(Bell::new().expect("a descriptor"));
        let mut settling = Settling::new(Arc::new(Qsbr::new()), Arc::clone(&commands), bell);
        let flow = FlowRef { slot: Slot::from_bits(1).expect("not 0"), generation: 3 };
        for _ in 0..2 {
            settling.add([flow]);
            settling.advance();
        }
        let answer = |command| match command {
            PuntCommand::Settle(flow, number) => Observation::Settled(flow, number),
        };
        let answers: Vec<_> = std::iter::from_fn(|| commands.pop()).map(answer).collect();
        let current: Vec<_> = answers.iter().map(|answer| settling.is_current(answer)).collect();
        assert_eq!(current, [false, true]);
        assert!(settling.is_current(&Observation::Lost(flow)));
        assert!(settling.newest.is_empty());
    }
}
