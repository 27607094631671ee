//! Quiescent-state-based reclamation: when is nobody looking any more?
//!
//! Workers say at the end of every burst that they hold no reference into a shared table. The writer takes
//! something out of sight, starts a grace period, and reuses the memory once every worker has said so since.

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use thiserror::Error;

use super::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// The most readers at a time.
#[cfg(not(loom))]
pub const MAX_READERS: usize = 128;
/// The most readers at a time.
#[cfg(loom)]
pub const MAX_READERS: usize = 3;

/// No reader has this place.
const VACANT: u64 = u64::MAX;
/// The reader holds no references and need not be waited for.
const OFFLINE: u64 = u64::MAX - 1;

/// A grace period that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

/// All of [`MAX_READERS`] places are taken.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("more than {MAX_READERS} threads want to read the flow table")]
pub struct TooManyReaders;

/// The readers of shared tables, and how far each has come.
#[derive(Debug)]
pub struct Qsbr {
    /// Number of the newest grace period.
    newest: CachePadded<AtomicU64>,
    /// The newest grace period that each reader has seen while it held no reference.
    seen: Box<[CachePadded<AtomicU64>]>,
    /// One more than the highest place ever taken: what the writer must scan.
    used: AtomicU32,
}

impl Default for Qsbr {
    fn default() -> Self {
        Self::new()
    }
}

impl Qsbr {
    /// No readers yet.
    pub fn new() -> Self {
        Self {
            newest: CachePadded::new(AtomicU64::new(0)),
            seen: (0..MAX_READERS).map(|_| CachePadded::new(AtomicU64::new(VACANT))).collect(),
            used: AtomicU32::new(0),
        }
    }

    /// Takes a place for the calling thread, online.
    ///
    /// # Errors
    /// When [`MAX_READERS`] are registered already.
    pub fn register(self: &Arc<Self>) -> Result<QsbrReader, TooManyReaders> {
        let place = (0..MAX_READERS)
            .find(|&place| {
                let seen = &self.seen[place];
                seen.compare_exchange(VACANT, OFFLINE, Ordering::Acquire, Ordering::Relaxed).is_ok()
            })
            .ok_or(TooManyReaders)?;
        self.used.fetch_max(place as u32 + 1, Ordering::SeqCst);
        let reader = QsbrReader { qsbr: Arc::clone(self), place };
        reader.online();
        Ok(reader)
    }

    /// Starts a grace period for what has been taken out of sight before the call.
    pub fn start(&self) -> Token {
        // AcqRel: a reader that sees the new number sees also what was taken away before it.
        let token = self.newest.fetch_add(1, Ordering::AcqRel) + 1;
        // Pairs with the fence in `online`: either `passed` sees the reader, or the reader sees the removal.
        fence(Ordering::SeqCst);
        Token(token)
    }

    /// Whether every reader has been quiescent since the grace period was started.
    pub fn passed(&self, token: Token) -> bool {
        let used = self.used.load(Ordering::SeqCst) as usize;
        self.seen[..used].iter().all(|seen| {
            // Acquire: the reader's loads from before its quiescent state are over.
            let seen = seen.load(Ordering::Acquire);
            seen == VACANT || seen == OFFLINE || seen >= token.0
        })
    }
}

/// One reading thread's place. Dropping it gives the place back.
#[derive(Debug)]
pub struct QsbrReader {
    qsbr: Arc<Qsbr>,
    place: usize,
}

impl QsbrReader {
    #[inline]
    fn seen(&self) -> &AtomicU64 {
        &self.qsbr.seen[self.place]
    }

    /// Says that this thread holds no reference into any table now. A load and a store: once a burst.
    #[inline]
    pub fn quiescent(&self) {
        // Acquire: later loads of the tables see all that was removed before this number was given.
        let newest = self.qsbr.newest.load(Ordering::Acquire);
        // Release: earlier loads of the tables are over when the writer sees this.
        self.seen().store(newest, Ordering::Release);
    }

    /// Says that this thread holds no reference and will take none until [`online`](Self::online):
    /// nobody waits for it. For threads that sleep.
    pub fn offline(&self) {
        self.seen().store(OFFLINE, Ordering::Release);
    }

    /// Ends [`offline`](Self::offline).
    pub fn online(&self) {
        let newest = self.qsbr.newest.load(Ordering::Acquire);
        // Release: the writer may see this number and not the OFFLINE before it; earlier loads are over then too.
        self.seen().store(newest, Ordering::Release);
        // Loads of the tables must not be done before the store is visible: see `start`.
        fence(Ordering::SeqCst);
    }
}

impl Drop for QsbrReader {
    fn drop(&mut self) {
        self.seen().store(VACANT, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_waits_for_every_online_reader() {
        let qsbr = Arc::new(Qsbr::new());
        assert!(qsbr.passed(qsbr.start()), "nobody reads");
        let (a, b) = (qsbr.register().expect("a place"), qsbr.register().expect("a place"));
        let token = qsbr.start();
        assert!(!qsbr.passed(token));
        a.quiescent();
        assert!(!qsbr.passed(token));
        b.offline();
        assert!(qsbr.passed(token));
        b.online();
        assert!(qsbr.passed(token), "came after the removal");
        let next = qsbr.start();
        a.quiescent();
        assert!(!qsbr.passed(next));
        drop(b);
        assert!(qsbr.passed(next));
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let qsbr = Arc::new(Qsbr::new());
        let mut readers: Vec<_> = (0..MAX_READERS).map(|_| qsbr.register().expect("a place")).collect();
        assert_eq!(qsbr.register().err(), Some(TooManyReaders));
        readers.pop();
        assert!(qsbr.register().is_ok());
    }
}
