//! What control has a worker do between two rounds, while packets go on.

use std::sync::atomic::{AtomicU8, Ordering};

use crossbeam::queue::ArrayQueue;

use super::{Hot, IdlePolicy, WorkerPort};
use crate::flow::MAX_PORTS;

/// Errands that may wait: each port taken and let go, and some more.
const WAITING_AT_MOST: usize = 2 * MAX_PORTS + 16;

/// Errands wait.
const WAITING: u8 = 1;
/// The worker is to record.
const RECORD: u8 = 2;

/// Something for a worker to do.
#[derive(Debug)]
pub enum Errand {
    /// To receive from and send to a port from now on, by its number.
    Take(usize, WorkerPort),
    /// To drop the queues of a port. What is sent there from then on is lost.
    LetGo(usize),
    /// To rest otherwise.
    Rest(IdlePolicy),
    /// To tell of directions with many packets otherwise.
    Tell(Hot),
}

/// A bounded ring of errands from control to one worker, and whether it is to record: one load a round tells of both.
#[derive(Debug)]
pub struct Errands {
    queue: ArrayQueue<Errand>,
    calls: AtomicU8,
}

/// What a worker finds between two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calls {
    /// Errands wait.
    pub(super) errands: bool,
    /// It is to record.
    pub(super) record: bool,
}

impl Default for Errands {
    fn default() -> Self {
        Self { queue: ArrayQueue::new(WAITING_AT_MOST), calls: AtomicU8::new(0) }
    }
}

impl Errands {
    /// Has the worker do something, after its round at the latest, or its nap; gives it back if too much waits already.
    ///
    /// # Errors
    /// When the ring is full.
    pub fn push(&self, errand: Errand) -> Result<(), Errand> {
        self.queue.push(errand)?;
        // Release: whoever sees the bit finds the errand.
        self.calls.fetch_or(WAITING, Ordering::Release);
        Ok(())
    }

    /// The worker is to record in what its [door](crate::capture::Door) has for it, or to give it back.
    pub fn set_recording(&self, recording: bool) {
        if recording {
            self.calls.fetch_or(RECORD, Ordering::Release);
        } else {
            self.calls.fetch_and(!RECORD, Ordering::Release);
        }
    }

    /// What there is to do.
    #[inline]
    pub(super) fn calls(&self) -> Calls {
        let calls = self.calls.load(Ordering::Acquire);
        Calls { errands: calls & WAITING != 0, record: calls & RECORD != 0 }
    }

    /// The next one. Asked until there is none.
    pub(super) fn pop(&self) -> Option<Errand> {
        // Before it is looked for: one that comes later sets the bit again.
        self.calls.fetch_and(!WAITING, Ordering::Acquire);
        self.queue.pop()
    }
}
