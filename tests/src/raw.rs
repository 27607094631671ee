//! Frames that no socket would send, and frames as they are on the wire.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::{LabError, Namespace, Result};

/// A packet socket bound to one interface: sends whole frames and sees all that pass, both ways.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// The interface's MAC address.
    pub mac: [u8; 6],
}

impl Wire {
    /// Opens a packet socket on an interface of a namespace.
    ///
    /// # Errors
    /// When there is no such interface, or without CAP_NET_RAW.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let (what, interface) = (format!("open a packet socket on {interface}"), interface.to_owned());
        namespace.inside(move || Self::open_here(&interface)).map_err(LabError::io(what))
    }

    fn open_here(interface: &str) -> io::Result<Self> {
        let address = link_address(interface)?;
        let mac = address.addr().ok_or_else(|| io::Error::other("no MAC address"))?;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        // The protocol in this address is 0: the kernel then keeps the socket's.
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket, mac })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the interface is down or gone.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())
            .map(drop)
            .map_err(io::Error::from)
            .map_err(LabError::io("send a frame"))
    }

    /// The next frame that passes, own ones included, or nothing when none does within `patience`.
    ///
    /// # Errors
    /// When the interface is down or gone.
    pub fn receive(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        use std::os::fd::AsFd;
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let mut interest = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let mut receive = || {
            if poll(&mut interest, timeout)? == 0 {
                return Ok(None);
            }
            let mut frame = vec![0; 65536];
            let length = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())?;
            frame.truncate(length);
            Ok(Some(frame))
        };
        receive().map_err(|errno: nix::Error| LabError::io("receive a frame")(errno.into()))
    }
}

/// The MAC address of an interface.
///
/// # Errors
/// When there is no such interface.
pub fn mac(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let (what, interface) = (format!("the MAC address of {interface}"), interface.to_owned());
    namespace
        .inside(move || link_address(&interface)?.addr().ok_or_else(|| io::Error::other("it has none")))
        .map_err(LabError::io(what))
}

fn link_address(interface: &str) -> io::Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}")))
}

/// A UDP datagram as a frame, with valid checksums.
///
/// # Errors
/// When the payload is too long for a packet.
pub fn udp_frame(
    macs: ([u8; 6], [u8; 6]),
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    payload: &[u8],
) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(source.0.octets(), destination.0.octets(), 64)
        .udp(source.1, destination.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).map_err(unbuildable)?;
    Ok(frame)
}

/// A TCP segment as a frame, with valid checksums.
///
/// # Errors
/// When the payload is too long for a packet.
pub fn tcp_frame(
    macs: ([u8; 6], [u8; 6]),
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    segment: &Segment<'_>,
) -> Result<Vec<u8>> {
    let mut builder = PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(source.0.octets(), destination.0.octets(), 64)
        .tcp(source.1, destination.1, segment.sequence, 65535);
    builder = if segment.synchronise { builder.syn() } else { builder.ack(segment.acknowledgement) };
    if segment.reset {
        builder = builder.rst();
    }
    if segment.finish {
        builder = builder.fin();
    }
    let mut frame = Vec::with_capacity(builder.size(segment.payload.len()));
    builder.write(&mut frame, segment.payload).map_err(unbuildable)?;
    Ok(frame)
}

/// What a forged TCP segment says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment<'a> {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// RST.
    pub reset: bool,
    /// FIN.
    pub finish: bool,
    /// SYN, without an acknowledgement.
    pub synchronise: bool,
    /// Data.
    pub payload: &'a [u8],
}

fn unbuildable(error: impl std::fmt::Display) -> LabError {
    LabError::Shape { what: "build a frame".to_owned(), text: error.to_string() }
}
