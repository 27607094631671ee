//! Reading a netlink socket: many datagrams a system call, into buffers that are kept.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, NetlinkAddr, recvmmsg, setsockopt, sockopt};

use super::NetlinkError;

/// Datagrams read by one system call.
const BURST: usize = 32;

/// What a call of `drain` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Datagrams read.
    pub datagrams: usize,
    /// The limit was reached before the socket was empty. With edge-triggered polling (mio) the caller
    /// must come back by itself: no further readiness event is promised.
    pub more: bool,
}

/// What one read brought.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// A whole datagram.
    Datagram(&'a [u8]),
    /// Something was lost: the socket's buffer overran (ENOBUFS), or a datagram was longer than ours.
    Lost,
}

/// A bound, non-blocking netlink socket and its receive buffers.
pub(crate) struct Receiver {
    socket: Socket,
    port: u32,
    headers: MultiHeaders<NetlinkAddr>,
    buffers: Vec<u8>,
    datagram: usize,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("socket", &self.socket)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Binds the socket. `datagram` is the longest datagram expected, in bytes.
    pub(crate) fn bind(mut socket: Socket, datagram: usize) -> Result<Self, NetlinkError> {
        socket.set_non_blocking(true).map_err(NetlinkError::system("make a netlink socket non-blocking"))?;
        let port = socket.bind_auto().map_err(NetlinkError::system("bind a netlink socket"))?.port_number();
        Ok(Self {
            socket,
            port,
            headers: MultiHeaders::preallocate(BURST, None),
            buffers: vec![0; BURST * datagram],
            datagram,
        })
    }

    /// The port id that the kernel gave this socket.
    pub(crate) const fn port(&self) -> u32 {
        self.port
    }

    pub(crate) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends to the kernel, which works the messages off before the call returns.
    pub(crate) fn send(&self, bytes: &[u8], doing: &'static str) -> Result<(), NetlinkError> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(NetlinkError::system(doing))?;
        Ok(())
    }

    /// Reads at most about `max` datagrams (a whole burst is always worked off).
    ///
    /// Only a process with CAP_NET_ADMIN could have sent something that the kernel did not: netlink's
    /// families in use here do not let others send to anyone but the kernel.
    pub(crate) fn drain(
        &mut self,
        max: usize,
        mut handle: impl FnMut(Received<'_>),
    ) -> Result<Drained, NetlinkError> {
        let mut drained = Drained::default();
        while drained.datagrams < max {
            let mut chunks = self.buffers.chunks_exact_mut(self.datagram);
            let mut slices: [[IoSliceMut<'_>; 1]; BURST] =
                std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
            let descriptor = self.socket.as_raw_fd();
            match recvmmsg(descriptor, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None) {
                Ok(datagrams) => {
                    let mut count = 0;
                    for datagram in datagrams {
                        count += 1;
                        match datagram.iovs().next() {
                            Some(bytes) if !datagram.flags.contains(MsgFlags::MSG_TRUNC) => {
                                handle(Received::Datagram(bytes));
                            }
                            _ => handle(Received::Lost),
                        }
                    }
                    drained.datagrams += count;
                }
                Err(Errno::EAGAIN) => return Ok(drained),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => handle(Received::Lost),
                Err(error) => return Err(NetlinkError::errno("read a netlink socket")(error)),
            }
        }
        drained.more = true;
        Ok(drained)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Asks for a receive buffer of `bytes` and returns what was obtained, as the kernel accounts it.
///
/// SO_RCVBUFFORCE may exceed `net.core.rmem_max` but needs CAP_NET_ADMIN in the initial user namespace;
/// elsewhere SO_RCVBUF takes what `rmem_max` allows.
pub(crate) fn set_receive_buffer(socket: &Socket, bytes: usize) -> Result<usize, NetlinkError> {
    match setsockopt(socket, sockopt::RcvBufForce, &bytes) {
        Err(Errno::EPERM) => setsockopt(socket, sockopt::RcvBuf, &bytes),
        other => other,
    }
    .map_err(NetlinkError::errno("set the receive buffer of a netlink socket"))?;
    nix::sys::socket::getsockopt(socket, sockopt::RcvBuf)
        .map_err(NetlinkError::errno("read the receive buffer size of a netlink socket"))
}

/// Messages that the kernel could not deliver to a socket of this network namespace, by
/// `/proc/thread-self/net/netlink` (fields: address, protocol, port id, ..., the ninth is drops).
pub(crate) fn kernel_drops(protocol: isize, port: u32) -> Result<u64, NetlinkError> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink")
        .map_err(NetlinkError::system("read /proc/thread-self/net/netlink"))?;
    let row = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let (protocol, port) = (protocol.to_string(), port.to_string());
    row.into_iter()
        .find(|fields| fields.get(1) == Some(&protocol.as_str()) && fields.get(2) == Some(&port.as_str()))
        .and_then(|fields| fields.get(8)?.parse().ok())
        .ok_or(NetlinkError::Malformed("/proc/thread-self/net/netlink"))
}
