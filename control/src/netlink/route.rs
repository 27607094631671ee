//! rtnetlink, asked and answered at once: the kernel answers within the system call.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::NetlinkError;
use super::message::{Attributes, HEADER, Message, Messages, error_number};

/// The kernel fills a dump's datagrams up to the reader's buffer, but for no more than 32 KB.
const DATAGRAM: usize = 32 << 10;
/// Times that a dump is begun again because what it walks changed meanwhile.
const ATTEMPTS: usize = 8;
/// Against a kernel that says nothing; never needed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket for requests whose answer is awaited.
#[derive(Debug)]
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl RouteSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let mut socket =
            Socket::new(NETLINK_ROUTE).map_err(NetlinkError::system("open a routing netlink socket"))?;
        socket
            .bind_auto()
            .and_then(|_| socket.set_ext_ack(true))
            .and_then(|()| socket.set_cap_ack(true))
            .map_err(NetlinkError::system("set up a routing netlink socket"))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0))
            .map_err(NetlinkError::errno("bound the wait of a routing netlink socket"))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Asks for a change and waits until it is made. `doing` completes "the kernel refused to ...".
    pub(crate) fn change(
        &mut self,
        doing: impl FnOnce() -> String,
        message: RouteNetlinkMessage,
        flags: i32,
    ) -> Result<(), NetlinkError> {
        let sequence = self.send(message, flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK)?;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(|message| {
                if message.sequence == sequence && i32::from(message.kind) == libc::NLMSG_ERROR {
                    outcome = Some((error_number(message.payload), explanation(message)));
                }
            })?;
        }
        match outcome {
            Some((Some(0), _)) => Ok(()),
            Some((Some(error), message)) => {
                Err(NetlinkError::Refused { doing: doing(), source: Errno::from_raw(error), message })
            }
            _ => Err(NetlinkError::Malformed("change")),
        }
    }

    /// What `read` makes of the one message that answers.
    pub(crate) fn ask<T>(
        &mut self,
        doing: impl FnOnce() -> String,
        request: RouteNetlinkMessage,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<T, NetlinkError> {
        let sequence = self.send(request, libc::NLM_F_REQUEST)?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|message| {
                if message.sequence == sequence {
                    answer = Some(match error_number(message.payload) {
                        Some(error) if i32::from(message.kind) == libc::NLMSG_ERROR => {
                            Err((Errno::from_raw(error), explanation(message)))
                        }
                        _ => Ok(read(message)),
                    });
                }
            })?;
        }
        match answer {
            Some(Ok(Some(found))) => Ok(found),
            Some(Err((source, message))) => Err(NetlinkError::Refused { doing: doing(), source, message }),
            _ => Err(NetlinkError::Malformed("answer")),
        }
    }

    /// What `read` makes of every message of a dump, which begins again if the kernel says that the state
    /// changed under it.
    pub(crate) fn dump<T>(
        &mut self,
        doing: &'static str,
        request: &RouteNetlinkMessage,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut found = Vec::new();
        for _ in 0..ATTEMPTS {
            found.clear();
            let sequence = self.send(request.clone(), libc::NLM_F_REQUEST | libc::NLM_F_DUMP)?;
            let (mut end, mut consistent) = (None, true);
            while end.is_none() {
                self.receive(|message| {
                    if message.sequence != sequence {
                        return;
                    }
                    consistent &= !message.has(libc::NLM_F_DUMP_INTR);
                    match i32::from(message.kind) {
                        libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                            end = error_number(message.payload).or(Some(0));
                        }
                        _ => found.extend(read(message)),
                    }
                })?;
            }
            match end {
                Some(0) if consistent => return Ok(found),
                Some(0) | None => {}
                Some(error) => {
                    return Err(NetlinkError::Refused {
                        doing: doing.into(),
                        source: Errno::from_raw(error),
                        message: String::new(),
                    });
                }
            }
        }
        // Something changes without pause; its messages are in the event socket and will be read next.
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: i32) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags as u16;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket
            .send_to(&bytes, &SocketAddr::new(0, 0), 0)
            .map_err(NetlinkError::system("send a routing netlink request"))?;
        Ok(self.sequence)
    }

    fn receive(&mut self, mut handle: impl FnMut(&Message<'_>)) -> Result<(), NetlinkError> {
        self.buffer.clear();
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::system("read a routing netlink answer")(error)),
            }
        }
        Messages::new(&self.buffer).for_each(|message| handle(&message));
        Ok(())
    }
}

/// The text of an extended acknowledgement, which follows the header of the request.
fn explanation(message: &Message<'_>) -> String {
    const TEXT: u16 = 1;
    let attributes = message.payload.get(4 + HEADER..).unwrap_or_default();
    Attributes(attributes)
        .find(|(kind, _)| *kind == TEXT && message.has(libc::NLM_F_ACK_TLVS))
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .unwrap_or_default()
}

/// The family of an address as rtnetlink's headers have it.
pub(crate) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
