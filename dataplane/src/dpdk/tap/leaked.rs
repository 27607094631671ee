//! Descriptors that virtio_user leaves open when it fails.
//!
//! `virtio_user_dev_init` (DPDK 22.11) forgets the tap's queue and vhost-net's descriptor on its way out. The queue would
//! go on taking a part of the interface's frames, and keep the tap from being opened again.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::CLONE_DEVICE;
use super::vhost::VHOST_DEVICE;
use crate::dpdk::tun;

/// This process's descriptors of taps and of vhost-net.
pub(super) fn descriptors() -> Vec<RawFd> {
    let all = tun::descriptors().into_iter().flatten();
    all.filter(|(_, to)| to == Path::new(CLONE_DEVICE) || to == Path::new(VHOST_DEVICE))
        .map(|(descriptor, _)| descriptor)
        .collect()
}

/// Closes those that are there now and were not before. To be called when the driver that has opened them in between
/// has failed, on the thread that started it, while no other thread opens taps.
pub(super) fn close_new(before: &[RawFd]) {
    for descriptor in descriptors() {
        if !before.contains(&descriptor) {
            // SAFETY: opened since `before` was taken, by virtio_user alone, which has failed and forgotten it: nobody
            // else will use or close it.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn what_was_left_open_is_closed_and_nothing_else() {
        let Ok(kept) = File::open(CLONE_DEVICE) else { return };
        let before = descriptors();
        assert!(before.contains(&kept.as_raw_fd()));
        let left = File::open(CLONE_DEVICE).expect("opens again").into_raw_fd();
        assert!(descriptors().contains(&left));
        close_new(&before);
        let now = descriptors();
        assert!(!now.contains(&left) && now.contains(&kept.as_raw_fd()));
    }
}
