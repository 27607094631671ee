//! A tap: the kernel's side of a port.

mod leaked;
mod query;
mod vhost;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, c_int, ifreq};
use nix::errno::Errno;

use super::keeper::Keeper;
use super::netdev::{self, Netdev};
use query::Kind;
pub use vhost::{VhostError, VhostQueues};

const CLONE_DEVICE: &str = "/dev/net/tun";

nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<c_int>()), ifreq);
nix::ioctl_write_int_bad!(tun_set_persist, nix::request_code_write!(b'T', 203, size_of::<c_int>()));
nix::ioctl_write_ptr_bad!(tun_set_carrier, nix::request_code_write!(b'T', 226, size_of::<c_int>()), c_int);

/// How to open a tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOptions {
    /// Allow further queues ([`Tap::open_queue`]). An existing tap must have been made with the same choice.
    pub multi_queue: bool,
    /// This process has its [`Keeper`](super::Keeper), which is no stranger's queue.
    pub kept: bool,
    /// Put a virtio-net header before each frame, as [`Tap::attach_vhost`] needs it. For [`Tap::read`] and
    /// [`Tap::write`] it must be off. Decided by the first descriptor that opens the tap.
    pub vnet_header: bool,
}

/// Why a tap can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Interface names have 1 to 15 bytes, none of them a space, `/`, `:` or `%`, and aren't `.` or `..`.
    #[error("{0:?} is not an interface name: 1 to 15 characters without spaces, '/', ':' and '%'")]
    Name(String),
    /// The kernel has no tun driver, or the container does not show it.
    #[error(
        "{CLONE_DEVICE} is missing ({0}): load the kernel module tun, or pass the device into the container"
    )]
    NoTunDevice(io::Error),
    /// Making a tap takes CAP_NET_ADMIN in the network namespace.
    #[error("the tap {0} is not permitted: CAP_NET_ADMIN is needed")]
    NotPermitted(String),
    /// Another process has the tap open.
    #[error("the tap {0} is in use by another process")]
    Busy(String),
    /// An interface of that name exists and isn't a tap.
    #[error("the interface {0} exists and is not a tap")]
    NotATap(String),
    /// The tap was made with another choice of [`TapOptions::multi_queue`].
    #[error("the tap {name} was made {} multi-queue: remove it with `ip link del {name}`", if *.multi_queue { "with" } else { "without" })]
    QueueMode {
        /// The tap.
        name: String,
        /// Whether the existing one is multi-queue.
        multi_queue: bool,
    },
    /// More queues than the kernel allows a tap (256).
    #[error("the tap {0} has as many queues as the kernel allows")]
    TooManyQueues(String),
    /// The kernel refused for another reason.
    #[error("the tap {name}: {source}")]
    Kernel {
        /// The tap.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A queue of a tap. Frames that the kernel sends out of the interface are read, frames for it are written, each
/// whole and without any header of the driver's. Neither waits.
///
/// The interface disappears with its last descriptor, unless it is [persistent](Tap::set_persistent).
#[derive(Debug)]
pub struct Tap {
    file: File,
    device: Netdev,
    options: TapOptions,
    created: bool,
}

impl Tap {
    /// Opens the tap of this name in the thread's network namespace, making it if it does not exist.
    pub fn open(name: &str, options: TapOptions) -> Result<Self, TapError> {
        check_name(name)?;
        let kernel = |source| TapError::Kernel { name: name.to_owned(), source };
        let existing = query::interface(name).map_err(kernel)?;
        match existing {
            Some(Kind::Other) => return Err(TapError::NotATap(name.to_owned())),
            Some(Kind::Tap { multi_queue, .. }) if multi_queue != options.multi_queue => {
                return Err(TapError::QueueMode { name: name.to_owned(), multi_queue });
            }
            // The kernel would let us in beside a stranger, and each of us would get a part of the frames.
            Some(Kind::Tap { queues, .. }) if queues > u32::from(options.kept) => {
                return Err(TapError::Busy(name.to_owned()));
            }
            Some(Kind::Tap { .. }) | None => {}
        }
        let file = attach(name, options)?;
        let device = Netdev::by_name(name).map_err(kernel)?;
        Ok(Self { file, device, options, created: existing.is_none() })
    }

    /// Another queue of the same tap. Frames of one flow stay on one queue.
    pub fn open_queue(&self) -> Result<Self, TapError> {
        if !self.options.multi_queue {
            return Err(TapError::TooManyQueues(self.name().to_owned()));
        }
        let file = attach(self.name(), self.options)?;
        let kernel = |source| TapError::Kernel { name: self.name().to_owned(), source };
        let device = Netdev::by_name(self.name()).map_err(kernel)?;
        Ok(Self { file, device, options: self.options, created: false })
    }

    /// What lets the interface outlive this process's descriptors with its neighbours. The tap must be multi-queue.
    pub fn keeper(&self) -> Result<Keeper, TapError> {
        let Self { file, .. } = self.open_queue()?;
        let kernel = |source| TapError::Kernel { name: self.name().to_owned(), source };
        Keeper::new(self.name(), file.into()).map_err(kernel)
    }

    /// How it was opened.
    pub const fn options(&self) -> TapOptions {
        self.options
    }

    /// Whether opening it made the interface. `false` if it existed, with the addresses and routes that it has.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// The interface's index.
    pub fn index(&self) -> io::Result<u32> {
        self.device.index()
    }

    /// Whether the interface outlives its descriptors.
    pub fn set_persistent(&self, on: bool) -> io::Result<()> {
        // SAFETY: the file is a tap's, and the argument a number.
        unsafe { tun_set_persist(self.file.as_raw_fd(), c_int::from(on)) }?;
        Ok(())
    }

    /// Gives the interface carrier, or takes it away.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        let on = c_int::from(on);
        // SAFETY: the file is a tap's, and the kernel reads an int.
        unsafe { tun_set_carrier(self.file.as_raw_fd(), &raw const on) }?;
        Ok(())
    }

    /// Whether the interface is administratively up.
    pub fn is_up(&self) -> io::Result<bool> {
        self.device.is_up()
    }

    /// Whether the interface is up and has carrier.
    pub fn is_running(&self) -> io::Result<bool> {
        self.device.is_running()
    }

    /// The interface's MAC address.
    pub fn mac(&self) -> io::Result<[u8; 6]> {
        self.device.mac()
    }

    /// Changes the interface's MAC address. The kernel forgets the interface's neighbours, permanent ones included.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        self.device.set_mac(mac)
    }

    /// The interface's MTU.
    pub fn mtu(&self) -> io::Result<u32> {
        self.device.mtu()
    }

    /// Changes the interface's MTU.
    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        self.device.set_mtu(mtu)
    }

    /// Reads a frame that the kernel sent: its length, or [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none.
    /// What does not fit into `frame` is lost.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(frame)
    }

    /// Hands a frame to the kernel. An interface that is down refuses it with `EIO`.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        (&self.file).write(frame)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The kernel's own rules, and no `%`, by which it would pick a name itself.
fn check_name(name: &str) -> Result<(), TapError> {
    let allowed = |byte: u8| !byte.is_ascii_whitespace() && !matches!(byte, 0 | 0x0b | b'/' | b':' | b'%');
    let valid =
        (1..libc::IFNAMSIZ).contains(&name.len()) && !matches!(name, "." | "..") && name.bytes().all(allowed);
    if valid { Ok(()) } else { Err(TapError::Name(name.to_owned())) }
}

fn attach(name: &str, options: TapOptions) -> Result<File, TapError> {
    let kernel = |source| TapError::Kernel { name: name.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(CLONE_DEVICE)
        .map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => TapError::NotPermitted(name.to_owned()),
            _ => TapError::NoTunDevice(e),
        })?;
    let mut request = netdev::request_for(name).map_err(kernel)?;
    let flags = IFF_TAP
        | IFF_NO_PI
        | if options.multi_queue { IFF_MULTI_QUEUE } else { 0 }
        | if options.vnet_header { IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the file is the tun clone device, and `request` a valid ifreq.
    match unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) } {
        Ok(_) => Ok(file),
        Err(Errno::EPERM) => Err(TapError::NotPermitted(name.to_owned())),
        Err(Errno::EBUSY) => Err(TapError::Busy(name.to_owned())),
        Err(Errno::E2BIG) => Err(TapError::TooManyQueues(name.to_owned())),
        Err(errno) => Err(kernel(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        for good in ["wan0", "a", "eth0.100", "exactly-15-char"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "exactly-16-chars", "a b", "a/b", "a:b", "tap%d", ".", "..", "a\0b", "a\nb"] {
            assert!(matches!(check_name(bad), Err(TapError::Name(_))), "{bad:?}");
        }
    }
}
