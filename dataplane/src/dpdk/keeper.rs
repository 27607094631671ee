//! A tap's descriptor that carries no frames.
//!
//! When the last descriptor of a persistent tap closes, the interface loses its carrier and the kernel forgets the
//! neighbours behind it. A queue that is detached (TUNSETQUEUE with IFF_DETACH_QUEUE, linux/if_tun.h) counts as a
//! descriptor but takes no frames, so that none is stale when a process comes back to it. systemd's descriptor store
//! (sd_pid_notify_with_fds(3)) can hold it over a restart.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE, c_int, c_uint, ifreq};

use super::netdev;

/// What names of stored descriptors begin with; the interface's name follows.
const PREFIX: &str = "twin-";

nix::ioctl_write_ptr_bad!(tun_set_queue, nix::request_code_write!(b'T', 217, size_of::<c_int>()), ifreq);
nix::ioctl_read_bad!(tun_get_iff, nix::request_code_read!(b'T', 210, size_of::<c_uint>()), ifreq);

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
        keeper.set_queue(IFF_DETACH_QUEUE)?;
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
        let is_device = self.file.metadata().is_ok_and(|m| m.file_type().is_char_device() && m.rdev() != 0);
        if !is_device || self.set_queue(IFF_ATTACH_QUEUE).is_err() {
            return false;
        }
        let name = self.attached_to();
        self.set_queue(IFF_DETACH_QUEUE).is_ok() && name.is_ok_and(|name| name == self.interface)
    }

    fn attached_to(&self) -> io::Result<String> {
        let mut request = netdev::request_for("")?;
        // SAFETY: the file is open, and the kernel writes an ifreq or fails.
        unsafe { tun_get_iff(self.file.as_raw_fd(), &raw mut request) }?;
        Ok(netdev::name_of(&request))
    }

    fn set_queue(&self, flag: c_int) -> io::Result<()> {
        let mut request = netdev::request_for("")?;
        request.ifr_ifru.ifru_flags = flag as i16;
        // SAFETY: the file is open, and the kernel reads an ifreq or fails.
        unsafe { tun_set_queue(self.file.as_raw_fd(), &raw const request) }?;
        Ok(())
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
