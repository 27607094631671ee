//! ctnetlink's bytes: from the kernel. No allocation, no panic, whatever the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::flow::{FiveTuple, TCP, UDP};
use nix::libc;

use super::entry::{ConntrackEntry, Count, Status, TcpFlags, TcpInfo, TcpState, Zones};
use crate::netlink::message::{Attributes, Message, Messages, NFGEN, be16, be32, be64, error_number};

pub(super) const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
pub(super) const MSG_NEW: u16 = SUBSYSTEM;
pub(super) const MSG_GET: u16 = SUBSYSTEM | 1;
pub(super) const MSG_DELETE: u16 = SUBSYSTEM | 2;

const NLMSG_NOOP: u16 = libc::NLMSG_NOOP as u16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
const NLMSG_OVERRUN: u16 = libc::NLMSG_OVERRUN as u16;

/// Attribute numbers of linux/netfilter/nfnetlink_conntrack.h.
pub(super) mod cta {
    pub(crate) const TUPLE_ORIG: u16 = 1;
    pub(crate) const TUPLE_REPLY: u16 = 2;
    pub(crate) const STATUS: u16 = 3;
    pub(crate) const PROTOINFO: u16 = 4;
    pub(crate) const HELP: u16 = 5;
    pub(crate) const TIMEOUT: u16 = 7;
    pub(crate) const MARK: u16 = 8;
    pub(crate) const COUNTERS_ORIG: u16 = 9;
    pub(crate) const COUNTERS_REPLY: u16 = 10;
    pub(crate) const ID: u16 = 12;
    pub(crate) const SEQ_ADJ_ORIG: u16 = 15;
    pub(crate) const SEQ_ADJ_REPLY: u16 = 16;
    pub(crate) const ZONE: u16 = 18;
    pub(crate) const TIMESTAMP: u16 = 20;
    pub(crate) const MARK_MASK: u16 = 21;
    pub(crate) const SYNPROXY: u16 = 24;
    pub(crate) const STATUS_MASK: u16 = 26;

    pub(crate) const TUPLE_IP: u16 = 1;
    pub(crate) const TUPLE_PROTO: u16 = 2;
    pub(crate) const TUPLE_ZONE: u16 = 3;

    pub(crate) const IP_V4_SRC: u16 = 1;
    pub(crate) const IP_V4_DST: u16 = 2;
    pub(crate) const IP_V6_SRC: u16 = 3;
    pub(crate) const IP_V6_DST: u16 = 4;

    pub(crate) const COUNTERS_PACKETS: u16 = 1;
    pub(crate) const COUNTERS_BYTES: u16 = 2;

    pub(crate) const TIMESTAMP_START: u16 = 1;

    pub(crate) const PROTO_NUM: u16 = 1;
    pub(crate) const PROTO_SRC_PORT: u16 = 2;
    pub(crate) const PROTO_DST_PORT: u16 = 3;

    pub(crate) const PROTOINFO_TCP: u16 = 1;
    pub(crate) const TCP_STATE: u16 = 1;
    pub(crate) const TCP_FLAGS_ORIGINAL: u16 = 4;
    pub(crate) const TCP_FLAGS_REPLY: u16 = 5;
}

/// A message of the kernel about TCP and UDP entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConntrackMessage {
    /// A connection began.
    New(ConntrackEntry),
    /// An entry changed: reply seen, assured, TCP state, mark, helper.
    Update(ConntrackEntry),
    /// An entry is gone.
    Destroy(ConntrackEntry),
    /// The answer to a GET, or an entry of a dump.
    DumpEntry {
        /// Sequence number of the request.
        sequence: u32,
        /// The entry.
        entry: ConntrackEntry,
    },
    /// A dump is at its end.
    Done {
        /// Sequence number of the request.
        sequence: u32,
        /// 0, or why the dump is incomplete: EINTR if the table changed in a way that may hide entries.
        errno: i32,
    },
    /// A request that asked for it was carried out.
    Ack {
        /// Sequence number of the request.
        sequence: u32,
    },
    /// A request failed: ENOENT if no entry has the tuple.
    Error {
        /// Sequence number of the request.
        sequence: u32,
        /// The error, positive.
        errno: i32,
    },
    /// Messages were lost; what is known of every connection may be out of date.
    Overrun,
}

/// What [`parse_datagram`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Messages handed on.
    pub messages: usize,
    /// Messages about something else: other protocols, expectations.
    pub skipped: usize,
    /// Messages, or a rest of bytes, that have not the kernel's form.
    pub malformed: usize,
}

/// Why there is no entry.
enum Unread {
    /// A protocol that never flies.
    OtherProtocol,
    Malformed,
}

/// Reads every message of a datagram, as a socket or a recording delivers it.
///
/// Anything may be in the bytes: what has not the kernel's form is counted and left out.
#[inline]
pub fn parse_datagram(datagram: &[u8], mut handle: impl FnMut(ConntrackMessage)) -> Parsed {
    let mut parsed = Parsed::default();
    let mut messages = Messages::new(datagram);
    for message in messages.by_ref() {
        match parse_message(&message) {
            Ok(message) => {
                parsed.messages += 1;
                handle(message);
            }
            Err(Unread::OtherProtocol) => parsed.skipped += 1,
            Err(Unread::Malformed) => parsed.malformed += 1,
        }
    }
    parsed.malformed += usize::from(!messages.rest().is_empty());
    parsed
}

#[inline]
fn parse_message(message: &Message<'_>) -> Result<ConntrackMessage, Unread> {
    let sequence = message.sequence;
    match message.kind {
        MSG_NEW => {
            let entry = parse_entry(message.payload)?;
            // A dump's entries and the answer to a GET are marked MULTI, events are not.
            Ok(if message.has(libc::NLM_F_MULTI) {
                ConntrackMessage::DumpEntry { sequence, entry }
            } else if message.has(libc::NLM_F_CREATE) {
                ConntrackMessage::New(entry)
            } else {
                ConntrackMessage::Update(entry)
            })
        }
        MSG_DELETE => Ok(ConntrackMessage::Destroy(parse_entry(message.payload)?)),
        NLMSG_DONE => {
            let errno = if message.has(libc::NLM_F_DUMP_INTR) {
                libc::EINTR
            } else {
                error_number(message.payload).unwrap_or(0)
            };
            Ok(ConntrackMessage::Done { sequence, errno })
        }
        NLMSG_ERROR => match error_number(message.payload) {
            Some(0) => Ok(ConntrackMessage::Ack { sequence }),
            Some(errno) => Ok(ConntrackMessage::Error { sequence, errno }),
            None => Err(Unread::Malformed),
        },
        NLMSG_OVERRUN => Ok(ConntrackMessage::Overrun),
        NLMSG_NOOP => Err(Unread::OtherProtocol),
        kind if kind >= 0x10 => Err(Unread::OtherProtocol),
        _ => Err(Unread::Malformed),
    }
}

#[inline]
fn parse_entry(payload: &[u8]) -> Result<ConntrackEntry, Unread> {
    let attributes = payload.get(NFGEN..).ok_or(Unread::Malformed)?;
    let (mut orig, mut reply, mut id) = (None, None, None);
    let mut zones = Zones::DEFAULT;
    let mut status = Status::default();
    let (mut timeout_s, mut mark, mut tcp) = (None, None, None);
    let (mut has_helper, mut seq_adjust, mut synproxy) = (false, false, false);
    let (mut orig_count, mut reply_count, mut started_ns) = (None, None, None);
    for (kind, value) in Attributes(attributes) {
        match kind {
            cta::TUPLE_ORIG => orig = Some(parse_tuple(value, &mut zones.orig)?),
            cta::TUPLE_REPLY => reply = Some(parse_tuple(value, &mut zones.reply)?),
            cta::STATUS => status = Status(be32(value).ok_or(Unread::Malformed)?),
            cta::PROTOINFO => tcp = parse_tcp(value),
            cta::HELP => has_helper = true,
            cta::TIMEOUT => timeout_s = be32(value),
            cta::MARK => mark = be32(value),
            cta::ID => id = be32(value),
            cta::SEQ_ADJ_ORIG | cta::SEQ_ADJ_REPLY => seq_adjust = true,
            cta::SYNPROXY => synproxy = true,
            cta::COUNTERS_ORIG => orig_count = parse_count(value),
            cta::COUNTERS_REPLY => reply_count = parse_count(value),
            cta::TIMESTAMP => started_ns = find(value, cta::TIMESTAMP_START).and_then(be64),
            cta::ZONE => {
                let zone = be16(value).ok_or(Unread::Malformed)?;
                zones = Zones { orig: zone, reply: zone };
            }
            _ => {}
        }
    }
    let (Some(orig), Some(reply), Some(id)) = (orig, reply, id) else { return Err(Unread::Malformed) };
    seq_adjust |= status.contains(Status::SEQ_ADJUST);
    has_helper |= status.contains(Status::HELPER);
    let entry = ConntrackEntry {
        id,
        orig,
        reply,
        zones,
        status,
        timeout_s,
        mark,
        tcp,
        has_helper,
        seq_adjust,
        synproxy,
        counted: orig_count.zip(reply_count).map(<[Count; 2]>::from),
        started_ns,
    };
    Ok(entry)
}

#[inline]
fn parse_count(value: &[u8]) -> Option<Count> {
    let number = |kind| find(value, kind).and_then(be64);
    Some(Count { packets: number(cta::COUNTERS_PACKETS)?, bytes: number(cta::COUNTERS_BYTES)? })
}

#[inline]
fn find(nested: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(nested).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

#[inline]
fn parse_tuple(value: &[u8], zone: &mut u16) -> Result<FiveTuple, Unread> {
    let (mut src, mut dst) = (None, None);
    let (mut proto, mut sport, mut dport) = (None, None, None);
    for (kind, value) in Attributes(value) {
        match kind {
            cta::TUPLE_IP => {
                for (kind, value) in Attributes(value) {
                    match kind {
                        cta::IP_V4_SRC => src = v4(value),
                        cta::IP_V4_DST => dst = v4(value),
                        cta::IP_V6_SRC => src = v6(value),
                        cta::IP_V6_DST => dst = v6(value),
                        _ => {}
                    }
                }
            }
            cta::TUPLE_PROTO => {
                for (kind, value) in Attributes(value) {
                    match kind {
                        cta::PROTO_NUM => proto = value.first().copied(),
                        cta::PROTO_SRC_PORT => sport = be16(value),
                        cta::PROTO_DST_PORT => dport = be16(value),
                        _ => {}
                    }
                }
            }
            cta::TUPLE_ZONE => *zone = be16(value).ok_or(Unread::Malformed)?,
            _ => {}
        }
    }
    match (proto, src, dst, sport, dport) {
        (Some(proto @ (TCP | UDP)), Some(src), Some(dst), Some(sport), Some(dport))
            if src.is_ipv4() == dst.is_ipv4() =>
        {
            Ok(FiveTuple { proto, src, dst, sport, dport })
        }
        (Some(proto), ..) if proto != TCP && proto != UDP => Err(Unread::OtherProtocol),
        _ => Err(Unread::Malformed),
    }
}

#[inline]
fn v4(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into())
}

#[inline]
fn v6(value: &[u8]) -> Option<IpAddr> {
    value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into())
}

#[inline]
fn parse_tcp(value: &[u8]) -> Option<TcpInfo> {
    let (_, tcp) = Attributes(value).find(|(kind, _)| *kind == cta::PROTOINFO_TCP)?;
    let (mut state, mut orig_flags, mut reply_flags) = (None, None, None);
    for (kind, value) in Attributes(tcp) {
        match kind {
            cta::TCP_STATE => state = value.first().copied().and_then(TcpState::from_number),
            // Flags, then a mask that means nothing in this direction.
            cta::TCP_FLAGS_ORIGINAL => orig_flags = value.first().copied().map(TcpFlags),
            cta::TCP_FLAGS_REPLY => reply_flags = value.first().copied().map(TcpFlags),
            _ => {}
        }
    }
    Some(TcpInfo { state: state?, orig_flags, reply_flags })
}
