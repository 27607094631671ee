//! A kernel network device, by the ioctls that are as old as the kernel.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{IFF_RUNNING, IFF_UP, ifreq};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_readwrite_bad!(get_hwaddr, libc::SIOCGIFHWADDR, ifreq);
nix::ioctl_write_ptr_bad!(set_hwaddr, libc::SIOCSIFHWADDR, ifreq);
nix::ioctl_readwrite_bad!(get_mtu, libc::SIOCGIFMTU, ifreq);
nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, ifreq);
nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, ifreq);
nix::ioctl_readwrite_bad!(get_index, libc::SIOCGIFINDEX, ifreq);
nix::ioctl_readwrite_bad!(get_name, libc::SIOCGIFNAME, ifreq);
nix::ioctl_readwrite_bad!(ethtool, SIOCETHTOOL, ifreq);

/// linux/sockios.h, linux/ethtool.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// A device of the network namespace in which this was opened, by name.
#[derive(Debug)]
pub(super) struct Netdev {
    socket: OwnedFd,
    name: String,
}

impl Netdev {
    /// A device by name. It need not exist yet.
    pub(super) fn by_name(name: &str) -> io::Result<Self> {
        Ok(Self { socket: control_socket()?, name: name.to_owned() })
    }

    /// The device with this index.
    pub(super) fn by_index(index: u32) -> io::Result<Self> {
        let socket = control_socket()?;
        let mut request = empty();
        request.ifr_ifru.ifru_ifindex = i32::try_from(index).map_err(|_| Errno::ENODEV)?;
        // SAFETY: the kernel fills in the name of a valid ifreq.
        unsafe { get_name(socket.as_raw_fd(), &raw mut request) }?;
        Ok(Self { socket, name: name_of(&request) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn index(&self) -> io::Result<u32> {
        let mut request = self.request()?;
        // SAFETY: `request` is a valid ifreq.
        unsafe { get_index(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the kernel has set the index.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        Ok(u32::try_from(index).map_err(|_| Errno::ENODEV)?)
    }

    pub(super) fn mac(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request()?;
        // SAFETY: `request` is a valid ifreq.
        unsafe { get_hwaddr(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the kernel has set the hardware address.
        let [a, b, c, d, e, f, ..] = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok([a, b, c, d, e, f].map(libc::c_char::cast_unsigned))
    }

    pub(super) fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = self.request()?;
        // SAFETY: zero is a valid sockaddr.
        let mut address: libc::sockaddr = unsafe { mem::zeroed() };
        address.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_hwaddr = address;
        // SAFETY: `request` is a valid ifreq.
        unsafe { set_hwaddr(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    pub(super) fn mtu(&self) -> io::Result<u32> {
        let mut request = self.request()?;
        // SAFETY: `request` is a valid ifreq.
        unsafe { get_mtu(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the kernel has set the MTU.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).map_err(|_| Errno::EINVAL)?)
    }

    pub(super) fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let mut request = self.request()?;
        request.ifr_ifru.ifru_mtu = i32::try_from(mtu).map_err(|_| Errno::EINVAL)?;
        // SAFETY: `request` is a valid ifreq.
        unsafe { set_mtu(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Whether the device is administratively up.
    pub(super) fn is_up(&self) -> io::Result<bool> {
        Ok(self.flags()? & IFF_UP != 0)
    }

    /// Whether the device is up and has carrier.
    pub(super) fn is_running(&self) -> io::Result<bool> {
        Ok(self.flags()? & IFF_RUNNING != 0)
    }

    pub(super) fn set_up(&self, up: bool) -> io::Result<()> {
        let flags = self.flags()?;
        let mut request = self.request()?;
        let flags = if up { flags | IFF_UP } else { flags & !IFF_UP };
        // The kernel's flags are 16 bits wide here.
        request.ifr_ifru.ifru_flags = (flags & 0xffff) as i16;
        // SAFETY: `request` is a valid ifreq.
        unsafe { set_flags(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Whether received packets may be merged before the kernel sees them.
    pub(super) fn set_gro(&self, on: bool) -> io::Result<()> {
        let mut value = EthtoolValue { cmd: ETHTOOL_SGRO, data: u32::from(on) };
        let mut request = self.request()?;
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: `request` is a valid ifreq that points to what this command reads, which lives through the call.
        unsafe { ethtool(self.socket.as_raw_fd(), &raw mut request) }?;
        Ok(())
    }

    fn flags(&self) -> io::Result<i32> {
        let mut request = self.request()?;
        // SAFETY: `request` is a valid ifreq.
        unsafe { get_flags(self.socket.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the kernel has set the flags.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }))
    }

    fn request(&self) -> io::Result<ifreq> {
        request_for(&self.name)
    }
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

fn empty() -> ifreq {
    // SAFETY: zero is a valid ifreq.
    unsafe { mem::zeroed() }
}

/// A request about the device of this name.
pub(super) fn request_for(name: &str) -> io::Result<ifreq> {
    let mut request = empty();
    // The last byte stays NUL.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// The name that the kernel has put into a request.
pub(super) fn name_of(request: &ifreq) -> String {
    let name = request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|byte| *byte != 0);
    String::from_utf8_lossy(&name.collect::<Vec<_>>()).into_owned()
}
