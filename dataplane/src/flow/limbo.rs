//! What has been taken out of sight and waits until no worker can be looking at it any more.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Qsbr, Token};

/// First in, first out; one grace period for all that went in between two collections.
#[derive(Debug)]
pub(crate) struct Limbo<T> {
    qsbr: Arc<Qsbr>,
    waiting: VecDeque<T>,
    /// Grace periods under way, oldest first, and how many of `waiting` each is for.
    batches: VecDeque<(Token, usize)>,
    /// How many at the end of `waiting` have no grace period yet.
    fresh: usize,
}

impl<T> Limbo<T> {
    pub(crate) fn new(qsbr: Arc<Qsbr>) -> Self {
        Self { qsbr, waiting: VecDeque::new(), batches: VecDeque::new(), fresh: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in what no reader can find from now on.
    pub(crate) fn push(&mut self, item: T) {
        self.waiting.push_back(item);
        self.fresh += 1;
    }

    /// Hands out at most `most` items whose grace period is over; says how many.
    pub(crate) fn collect(&mut self, most: usize, mut free: impl FnMut(T)) -> usize {
        if self.fresh > 0 {
            self.batches.push_back((self.qsbr.start(), self.fresh));
            self.fresh = 0;
        }
        let mut freed = 0;
        while let Some((token, count)) = self.batches.front_mut() {
            if freed >= most || !self.qsbr.passed(*token) {
                break;
            }
            let take = (*count).min(most - freed);
            self.waiting.drain(..take).for_each(&mut free);
            freed += take;
            *count -= take;
            if *count == 0 {
                self.batches.pop_front();
            }
        }
        freed
    }
}
