//! A tap's descriptor that carries no frames.
//!
//! When the last descriptor of a persistent tap closes, the interface loses its carrier and the kernel forgets the
//! neighbours behind it. A queue that is detached (TUNSETQUEUE with IFF_DETACH_QUEUE, linux/if_tun.h) counts as a
//! descriptor but takes no frames, so that none is stale when a process comes back to it. systemd's descriptor store
//! (sd_pid_notify_with_fds(3)) can hold it over a restart.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::tun;

/// What names of stored descriptors begin with; the interface's name follows.
const PREFIX: &str = "twin-";

/// Holds a tap's interface while nobody has it open.
#[derive(Debug)]
pub struct Keeper {
    interface: String,
    file: File,
}

impl Keeper {
    /// Makes a queue of the tap its keeper.
    pub(super) fn new(interface: &str, queue: OwnedFd) -> io::Result<Self> {
        let keeper = Self { interface: interface.to_owned(), file: queue.into() };
        tun::set_attached(keeper.file.as_raw_fd(), false)?;
        Ok(keeper)
    }

    /// The keepers among the descriptors that this process was started with (`LISTEN_FDS`, sd_listen_fds(3)). Others are
    /// closed. The second call finds none.
    pub fn inherited() -> Vec<Self> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Vec::new();
        }
        // A malformed variable is of no service manager.
        let Ok(stored) = sd_notify::listen_fds_with_names() else { return Vec::new() };
        stored.filter_map(|(descriptor, name)| Self::from_stored(descriptor, &name)).collect()
    }

    fn from_stored(descriptor: RawFd, name: &str) -> Option<Self> {
        // SAFETY: LISTEN_PID names this process: by sd_listen_fds(3) the descriptors are its own and open, and nobody
        // else here asks for them; `inherited` comes by once.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let keeper = Self { interface: name.strip_prefix(PREFIX)?.to_owned(), file };
        keeper.is_of_its_interface().then_some(keeper)
    }

    /// A detached queue does not tell whose it is: it is attached for a moment.
    fn is_of_its_interface(&self) -> bool {
        let fd = self.file.as_raw_fd();
        if tun::set_attached(fd, true).is_err() {
            return false;
        }
        let found = tun::interface(fd);
        tun::set_attached(fd, false).is_ok() && found.is_ok_and(|found| found.name == self.interface)
    }

    /// The interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The name to store it under.
    pub fn stored_name(&self) -> String {
        format!("{PREFIX}{}", self.interface)
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
