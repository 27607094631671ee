//! Wakes the punt thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Rung by control after a command; the punt thread sleeps by it and its twins. Workers never ring it: it is a
/// system call.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// A bell.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }

    /// Wakes the punt thread, or keeps it from falling asleep.
    pub fn ring(&self) {
        // A counter that is full has rung already.
        let _ = self.0.write(1);
    }

    /// Makes it silent again.
    pub(super) fn silence(&self) {
        // It may not have rung.
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
