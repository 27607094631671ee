//! TCP transfers that go on until told to stop, without filling the cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::tcp::{Pair, Way};
use crate::{LabError, Result, wait};

/// Bytes that are sent, hashed and compared at a time, and the pause after them: some 50 Mbit/s a connection.
const PART: u64 = 128 * 1024;
const PAUSE: Duration = Duration::from_millis(20);

/// A connection that carries data one way all the time.
#[derive(Debug)]
pub struct UnderWay {
    source_port: u16,
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    thread: JoinHandle<Result<(Pair, Duration)>>,
}

impl UnderWay {
    /// Starts.
    pub fn start(pair: Pair, way: Way) -> Self {
        let (stop, bytes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, sum) = (Arc::clone(&stop), Arc::clone(&bytes));
        let source_port = pair.source_port();
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let part = pair.transfer(way, PART)?;
                if part.sent != part.received {
                    let text = format!("{part:?}");
                    return Err(LabError::Shape { what: "checksums differ".to_owned(), text });
                }
                longest = longest.max(part.longest_wait);
                sum.fetch_add(part.bytes, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok((pair, longest))
        });
        Self { source_port, stop, bytes, thread }
    }

    /// The client's port.
    pub fn source_port(&self) -> u16 {
        self.source_port
    }

    /// Bytes that have arrived as they were sent.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until it has carried something more.
    ///
    /// # Errors
    /// When it stands still, as it does when it has ended.
    pub fn until_more(&self) -> Result<()> {
        let before = self.bytes();
        let what = format!("the transfer from port {} to go on", self.source_port);
        wait::until_true(wait::PATIENCE, &what, || self.bytes() > before)
    }

    /// Stops, ends the connection in order, and returns the longest time that the receiver waited.
    ///
    /// # Errors
    /// When the connection broke, stood still for 30 s, or carried something wrong.
    pub fn finish(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        let (pair, longest) = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        pair.finish()?;
        Ok(longest)
    }
}
