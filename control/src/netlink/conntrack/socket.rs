//! ctnetlink's sockets: one for events, one for requests and their answers.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::libc;
use socket2::{SockFilter, SockRef};

use super::codec::{ConntrackMessage, MSG_NEW, parse_datagram};
use super::request::Request;
use crate::netlink::message::Writer;
use crate::netlink::receive::{Drained, Received, Receiver, set_receive_buffer};
use crate::netlink::{NetlinkError, kernel_drops};

const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_UPDATE: u32 = 2;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// Receive buffer asked for, in bytes: an event is accounted with about 1.3 KB.
pub const RECEIVE_BUFFER: usize = 64 << 20;

/// Longest event: two IPv6 tuples, a helper's name, labels and a security context fit well.
const EVENT_DATAGRAM: usize = 4096;
/// The kernel fills a dump's datagrams up to the reader's buffer, but for no more than 32 KB.
const DUMP_DATAGRAM: usize = 32 << 10;
/// Requests in one datagram: beyond some dozens a system call's cost no longer shows.
const BATCH: usize = 64;

/// Which events an [`EventSocket`] gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventGroups {
    /// New connections; costs the kernel 3.5 us each (measured on Linux 6.18), and is not needed to fly.
    pub new: bool,
    /// Changes: reply seen, assured, TCP state, mark.
    pub update: bool,
    /// Ends.
    pub destroy: bool,
}

impl EventGroups {
    /// Changes and ends: enough, and next to free for new connections.
    pub const LIFE: Self = Self { new: false, update: true, destroy: true };
    /// Everything.
    pub const ALL: Self = Self { new: true, update: true, destroy: true };
}

/// What a socket has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketCounts {
    /// Messages handed on.
    pub messages: u64,
    /// Messages about other protocols, or of no interest.
    pub skipped: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Times that messages were lost.
    pub overruns: u64,
}

impl SocketCounts {
    fn take(&mut self, received: &Received<'_>, handle: &mut impl FnMut(ConntrackMessage)) {
        match received {
            Received::Datagram(bytes) => {
                let parsed = parse_datagram(bytes, handle);
                self.messages += parsed.messages as u64;
                self.skipped += parsed.skipped as u64;
                self.malformed += parsed.malformed as u64;
            }
            Received::Lost => {
                self.overruns += 1;
                handle(ConntrackMessage::Overrun);
            }
        }
    }
}

/// Conntrack's events, reliably: with NETLINK_BROADCAST_ERROR the kernel knows what it could not deliver
/// and says it again, DESTROY by itself, the rest with the connection's next packet. For the stream to heal
/// without a gap it must not be cut off at an overrun either, hence NETLINK_NO_ENOBUFS.
#[derive(Debug)]
pub struct EventSocket {
    receiver: Receiver,
    buffer: usize,
    counts: SocketCounts,
}

impl EventSocket {
    /// Subscribes. Updates that the socket with the port id `own` causes are left out, by a filter in the
    /// kernel; its deletions are shown. An event that the kernel could not deliver at first and merges into
    /// such an update later is left out with it.
    ///
    /// Events of entries older than any listener need `net.netfilter.nf_conntrack_events` to be 1 (see
    /// [`sysctl`](crate::netlink::sysctl)).
    pub fn open(groups: EventGroups, own: Option<u32>, receive_buffer: usize) -> Result<Self, NetlinkError> {
        let socket = open_socket()?;
        let buffer = set_receive_buffer(&socket, receive_buffer)?;
        socket
            .set_broadcast_error(true)
            .and_then(|()| socket.set_no_enobufs(true))
            .map_err(NetlinkError::system("make conntrack's events reliable"))?;
        if let Some(own) = own {
            SockRef::from(&socket)
                .attach_filter(&own_update_filter(own))
                .map_err(NetlinkError::system("filter a conntrack event socket"))?;
        }
        let receiver = Receiver::bind(socket, EVENT_DATAGRAM)?;
        for (wanted, group) in [
            (groups.new, NFNLGRP_CONNTRACK_NEW),
            (groups.update, NFNLGRP_CONNTRACK_UPDATE),
            (groups.destroy, NFNLGRP_CONNTRACK_DESTROY),
        ] {
            if wanted {
                receiver
                    .socket()
                    .add_membership(group)
                    .map_err(NetlinkError::system("subscribe to conntrack's events"))?;
            }
        }
        Ok(Self { receiver, buffer, counts: SocketCounts::default() })
    }

    /// Size of the receive buffer that was obtained, in bytes as the kernel accounts them.
    pub const fn receive_buffer(&self) -> usize {
        self.buffer
    }

    /// What was seen so far.
    pub const fn counts(&self) -> SocketCounts {
        self.counts
    }

    /// Events that found the receive buffer full; the kernel sends them again. A number that grows says
    /// that the reader is slow, and that events come late. Reads `/proc`, so not for every event.
    pub fn delayed(&self) -> Result<u64, NetlinkError> {
        kernel_drops(NETLINK_NETFILTER, self.receiver.port())
    }

    /// Hands on the events that are there, of at most about `max` datagrams.
    pub fn drain(
        &mut self,
        max: usize,
        mut handle: impl FnMut(ConntrackMessage),
    ) -> Result<Drained, NetlinkError> {
        let counts = &mut self.counts;
        self.receiver.drain(max, |received| counts.take(&received, &mut handle))
    }
}

/// Requests about entries, batched, and their answers by sequence number.
#[derive(Debug)]
pub struct RequestSocket {
    receiver: Receiver,
    writer: Writer,
    queued: usize,
    sequence: u32,
    dump: Option<u32>,
    counts: SocketCounts,
}

impl RequestSocket {
    /// Opens the socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = open_socket()?;
        // A batch of failures must fit: each answer holds its request. Without CAP_ACK, whole.
        set_receive_buffer(&socket, 4 << 20)?;
        socket.set_cap_ack(true).map_err(NetlinkError::system("shorten netlink's acknowledgements"))?;
        Ok(Self {
            receiver: Receiver::bind(socket, DUMP_DATAGRAM)?,
            writer: Writer::with_capacity(BATCH * 256),
            queued: 0,
            sequence: 0,
            dump: None,
            counts: SocketCounts::default(),
        })
    }

    /// The port id that marks the events which this socket's requests cause.
    pub const fn port(&self) -> u32 {
        self.receiver.port()
    }

    /// What was seen so far.
    pub const fn counts(&self) -> SocketCounts {
        self.counts
    }

    /// Requests that wait for [`flush`](Self::flush).
    pub const fn queued(&self) -> usize {
        self.queued
    }

    /// Sequence number of the dump under way.
    pub const fn dump_under_way(&self) -> Option<u32> {
        self.dump
    }

    /// Adds a request to the batch, which is sent when it is full, and returns the sequence number by which
    /// an answer names it. Call [`flush`](Self::flush) when there is nothing more to add.
    pub fn queue(&mut self, request: &Request) -> Result<u32, NetlinkError> {
        let is_dump = matches!(request, Request::Dump(_));
        if is_dump && self.dump.is_some() {
            return Err(NetlinkError::DumpUnderWay);
        }
        // 0 marks what nobody asked for.
        let sequence = self.sequence.checked_add(1).unwrap_or(1);
        request.write(&mut self.writer, sequence)?;
        self.sequence = sequence;
        self.queued += 1;
        if is_dump {
            self.dump = Some(sequence);
        }
        if self.queued == BATCH {
            self.flush()?;
        }
        Ok(sequence)
    }

    /// Sends what is queued. On an error none of it can be counted on, and none is sent again.
    pub fn flush(&mut self) -> Result<(), NetlinkError> {
        if self.writer.is_empty() {
            return Ok(());
        }
        let sent = self.receiver.send(self.writer.bytes(), "send a request to conntrack");
        if sent.is_err() {
            self.dump = None;
        }
        self.writer.clear();
        self.queued = 0;
        sent
    }

    /// Queues a request and sends the batch.
    pub fn send(&mut self, request: &Request) -> Result<u32, NetlinkError> {
        let sequence = self.queue(request)?;
        self.flush()?;
        Ok(sequence)
    }

    /// Hands on the answers that are there, of at most about `max` datagrams. The kernel goes on with a dump
    /// as it is read, so `max` also bounds how much of the table is walked.
    pub fn drain(
        &mut self,
        max: usize,
        mut handle: impl FnMut(ConntrackMessage),
    ) -> Result<Drained, NetlinkError> {
        let (counts, dump) = (&mut self.counts, &mut self.dump);
        self.receiver.drain(max, |received| {
            counts.take(&received, &mut |message| {
                if let ConntrackMessage::Done { sequence, .. } | ConntrackMessage::Error { sequence, .. } =
                    message
                    && *dump == Some(sequence)
                {
                    *dump = None;
                }
                handle(message);
            });
        })
    }
}

fn open_socket() -> Result<Socket, NetlinkError> {
    Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::system("open a netfilter netlink socket"))
}

/// Keeps everything but NEW messages (updates are such) whose `nlmsg_pid` is `own`.
///
/// Classic BPF loads words in network byte order while netlink's header is in the host's. The first
/// message decides about the datagram; each event is one of its own.
fn own_update_filter(own: u32) -> [SockFilter; 6] {
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const TYPE_AT: u32 = 4;
    const PID_AT: u32 = 12;
    [
        SockFilter::new(LOAD_WORD, 0, 0, PID_AT),
        SockFilter::new(EQUAL, 0, 3, own.to_be()),
        SockFilter::new(LOAD_HALF, 0, 0, TYPE_AT),
        SockFilter::new(EQUAL, 0, 1, u32::from(MSG_NEW.to_be())),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

macro_rules! event_source {
    ($socket:ty) => {
        impl AsRawFd for $socket {
            fn as_raw_fd(&self) -> RawFd {
                self.receiver.as_raw_fd()
            }
        }

        impl event::Source for $socket {
            fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
                SourceFd(&self.as_raw_fd()).register(registry, token, interest)
            }

            fn reregister(
                &mut self,
                registry: &Registry,
                token: Token,
                interest: Interest,
            ) -> io::Result<()> {
                SourceFd(&self.as_raw_fd()).reregister(registry, token, interest)
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                SourceFd(&self.as_raw_fd()).deregister(registry)
            }
        }
    };
}

event_source!(EventSocket);
event_source!(RequestSocket);
