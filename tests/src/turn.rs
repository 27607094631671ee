//! Heavy tests take turns: two of them at once on two cores would measure each other.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the other heavy tests of this binary. Cargo runs the binaries themselves one after another.
pub fn take() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed has no state that could be broken.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
