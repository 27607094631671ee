//! Waiting for something to come true, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use crate::{LabError, Result};

/// How long to wait for what should take milliseconds: generous, because two cores may be shared by many tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLL_EVERY: Duration = Duration::from_millis(10);

/// Asks `probe` every 10 ms until it gives something.
///
/// # Errors
/// [`LabError::Timeout`] with `what` when `deadline` has passed.
pub fn until<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if started.elapsed() >= deadline {
            return Err(LabError::Timeout { what: what.to_owned(), seconds: deadline.as_secs() });
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Asks `probe` every 10 ms until it says true.
///
/// # Errors
/// [`LabError::Timeout`] with `what` when `deadline` has passed.
pub fn until_true(deadline: Duration, what: &str, mut probe: impl FnMut() -> bool) -> Result<()> {
    until(deadline, what, || probe().then_some(()))
}
