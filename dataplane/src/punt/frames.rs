//! Frames that the kernel sent out of twins, on their way to the worker that puts them on the wire.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::dpdk::Mbuf;

/// A frame that the kernel sent out of a twin, on its way to the wire.
#[derive(Debug)]
pub struct FromKernel {
    /// The frame.
    pub mbuf: Mbuf,
    /// The port to send it from.
    pub port: u16,
}

/// A bounded ring from the punt thread to one worker, which says how far it has come: packets of a flow may be carried
/// by another worker, and those must not overtake its frames.
#[derive(Debug)]
pub struct KernelFrames {
    queue: ArrayQueue<FromKernel>,
    /// Frames given to the driver so far.
    sent: CachePadded<AtomicU64>,
    /// The worker sleeps, or is about to.
    asleep: CachePadded<AtomicBool>,
    worker: OnceLock<Thread>,
}

impl KernelFrames {
    /// A ring for so many frames.
    pub fn new(capacity: usize) -> Self {
        Self {
            queue: ArrayQueue::new(capacity),
            sent: CachePadded::default(),
            asleep: CachePadded::default(),
            worker: OnceLock::new(),
        }
    }

    /// Hands a frame to the worker, and wakes it if it sleeps; gives it back if the ring is full.
    ///
    /// # Errors
    /// When the ring is full.
    pub fn push(&self, frame: FromKernel) -> Result<(), FromKernel> {
        self.queue.push(frame)?;
        self.wake();
        Ok(())
    }

    /// Wakes the worker if it sleeps: there is something for it to look at.
    pub fn wake(&self) {
        // Pairs with the store in `sleep`: either it finds the frame, or this finds it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(worker) = self.worker.get()
        {
            worker.unpark();
        }
    }

    /// The next frame; for the worker.
    pub fn pop(&self) -> Option<FromKernel> {
        self.queue.pop()
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// No frame waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The worker has given so many of its frames to the driver, counted from the start.
    pub fn set_sent(&self, count: u64) {
        // Release: whoever reads the count finds the frames sent.
        self.sent.store(count, Ordering::Release);
    }

    /// Frames that the worker has given to the driver, counted from the start.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// The worker sleeps until a frame comes, at the longest for `nap`.
    pub fn sleep(&self, nap: Duration) {
        self.worker.get_or_init(thread::current);
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            thread::park_timeout(nap);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::dpdk::testing::Bench;

    #[test]
    fn a_frame_wakes_the_worker_that_waits_for_one() {
        let bench = Bench::new();
        let frames = Arc::new(KernelFrames::new(4));
        let worker = thread::spawn({
            let frames = Arc::clone(&frames);
            move || {
                let begun = Instant::now();
                while frames.is_empty() {
                    frames.sleep(Duration::from_secs(60));
                }
                (frames.pop().map(|frame| frame.port), begun.elapsed())
            }
        });
        while !frames.asleep.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        assert!(frames.push(FromKernel { mbuf: bench.packet(&[1]), port: 3 }).is_ok());
        let (port, slept) = worker.join().expect("no panic");
        assert_eq!(port, Some(3));
        assert!(slept < Duration::from_secs(30), "{slept:?}");
    }

    #[test]
    fn nobody_falls_asleep_before_a_frame_that_is_there() {
        let bench = Bench::new();
        let frames = KernelFrames::new(1);
        assert!(frames.push(FromKernel { mbuf: bench.packet(&[1]), port: 0 }).is_ok());
        assert!(frames.push(FromKernel { mbuf: bench.packet(&[2]), port: 0 }).is_err(), "full");
        let begun = Instant::now();
        frames.sleep(Duration::from_secs(60));
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert_eq!(frames.len(), 1);
    }
}
