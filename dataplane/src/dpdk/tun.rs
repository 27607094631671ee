//! What a descriptor of a tap tells and is told (linux/if_tun.h). Any other descriptor refuses.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use libc::{IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE, c_int, c_uint, ifreq};

use super::netdev;

nix::ioctl_read_bad!(tun_get_iff, nix::request_code_read!(b'T', 210, size_of::<c_uint>()), ifreq);
nix::ioctl_write_ptr_bad!(tun_set_queue, nix::request_code_write!(b'T', 217, size_of::<c_int>()), ifreq);

/// The interface of an attached queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// `IFF_*` of linux/if_tun.h.
    pub(super) flags: c_int,
}

/// The interface that a descriptor is attached to.
pub(super) fn interface(fd: RawFd) -> io::Result<Interface> {
    let mut request = netdev::request_for("")?;
    // SAFETY: `request` is a valid ifreq, which the kernel fills or leaves alone.
    unsafe { tun_get_iff(fd, &raw mut request) }?;
    // SAFETY: the kernel has set the flags.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok(Interface { name: netdev::name_of(&request), flags })
}

/// Takes a descriptor's queue out of use, or into use again. The descriptor stays the interface's either way.
pub(super) fn set_attached(fd: RawFd, attached: bool) -> io::Result<()> {
    let mut request = netdev::request_for("")?;
    request.ifr_ifru.ifru_flags = (if attached { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE }) as i16;
    // SAFETY: `request` is a valid ifreq, which the kernel reads.
    unsafe { tun_set_queue(fd, &raw const request) }?;
    Ok(())
}

/// The descriptors of this process, by what they lead to.
pub(super) fn descriptors() -> io::Result<impl Iterator<Item = (RawFd, std::path::PathBuf)>> {
    Ok(fs::read_dir("/proc/self/fd")?.flatten().filter_map(|entry| {
        let descriptor = entry.file_name().to_str()?.parse().ok()?;
        // One that is closed by now leads nowhere: that of this listing, above all.
        Some((descriptor, fs::read_link(entry.path()).ok()?))
    }))
}
