//! A stream of records, from when it begins until it has ended, by whoever wants it to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::api::{ClientError, RecordStream, Told};

/// How long the gateway has, once asked, to tell what is left.
const LAST: Duration = Duration::from_secs(10);

/// When the user has had enough: at Ctrl-C, or when the time is up.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupted: Arc<AtomicBool>,
    within: Option<Duration>,
}

impl Stop {
    /// Takes Ctrl-C for an end, not for a kill.
    ///
    /// # Errors
    /// When signals can't be had.
    pub(crate) fn new(within: Option<Duration>) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self { interrupted, within })
    }
}

/// See the module.
pub(crate) struct Session {
    records: RecordStream,
    stop: Stop,
    begun: Instant,
    ending: Option<Instant>,
}

impl Session {
    pub(crate) fn new(records: RecordStream, stop: Stop) -> Self {
        Self { records, stop, begun: Instant::now(), ending: None }
    }

    /// What comes next; asks for the end when it is time.
    pub(crate) fn next(&mut self) -> Result<Told<'_>, ClientError> {
        let up = self.stop.within.is_some_and(|within| self.begun.elapsed() >= within);
        if up || self.stop.interrupted.load(Ordering::Relaxed) {
            self.end();
        }
        self.records.told()
    }

    /// Asks for the end.
    pub(crate) fn end(&mut self) {
        if self.ending.is_none() {
            self.ending = Some(Instant::now());
            self.records.finish();
        }
    }

    /// The gateway was asked to end, and did not in time.
    pub(crate) fn is_over(&self) -> bool {
        self.ending.is_some_and(|since| since.elapsed() > LAST)
    }
}
