//! How a worker gets a recorder, and gives it back: neither side waits for the other.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use super::Recorder;

/// One worker's. Recorders are made and dropped by control alone, since that takes memory.
#[derive(Debug)]
pub struct Door {
    enter: ArrayQueue<Box<Recorder>>,
    leave: ArrayQueue<Box<Recorder>>,
    /// A recorder is with the worker, or waits for it.
    out: AtomicBool,
}

impl Default for Door {
    fn default() -> Self {
        Self { enter: ArrayQueue::new(1), leave: ArrayQueue::new(1), out: AtomicBool::new(false) }
    }
}

impl Door {
    /// Has the worker record from when it is told to; gives the recorder back while an earlier one is out.
    ///
    /// # Errors
    /// While an earlier one is out.
    pub fn send(&self, recorder: Box<Recorder>) -> Result<(), Box<Recorder>> {
        if self.out.swap(true, Ordering::Relaxed) {
            return Err(recorder);
        }
        self.enter.push(recorder)
    }

    /// Whether no recorder is out: call until it is so, after workers were told to stop recording.
    pub fn is_shut(&self) -> bool {
        // One that the worker has not come for is nobody's any more.
        if self.leave.pop().is_some() || self.enter.pop().is_some() {
            self.out.store(false, Ordering::Relaxed);
        }
        !self.out.load(Ordering::Relaxed)
    }

    /// For the worker, when it is told to record.
    pub(crate) fn enter(&self) -> Option<Box<Recorder>> {
        self.enter.pop()
    }

    /// For the worker, when it is told to stop.
    pub(crate) fn leave(&self, recorder: Box<Recorder>) {
        // There is room: no more than one is out.
        let _ = self.leave.push(recorder);
    }
}
