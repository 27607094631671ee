//! ctnetlink's bytes: to the kernel.

use std::net::IpAddr;

use dataplane::flow::{FiveTuple, TCP, UDP};
use nix::libc;

use super::codec::{MSG_DELETE, MSG_GET, MSG_NEW, cta};
use super::entry::{Status, TcpFlags, Zones};
use crate::netlink::NetlinkError;
use crate::netlink::message::Writer;

/// Which entries a dump shows; filtered by the kernel, which is several times faster than reading all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpFilter {
    /// Value and mask of the mark.
    pub mark: Option<(u32, u32)>,
    /// Bits that must be set.
    pub status: Option<Status>,
}

/// A change of TCP flags, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlagsUpdate {
    value: u8,
    mask: u8,
}

impl TcpFlagsUpdate {
    /// What a connection needs whose packets conntrack no longer sees all of: its windows are stale, and
    /// so is its highest acknowledgement, against which an RST would be judged INVALID even so. A packet
    /// through the kernel sets the latter again: send this with every refresh.
    pub const LIBERAL: Self =
        Self { value: TcpFlags::BE_LIBERAL.0, mask: TcpFlags::BE_LIBERAL.0 | TcpFlags::MAXACK_SET.0 };
    /// Puts window checks back. Only for a connection that has not moved on meanwhile: against stale
    /// windows its packets are INVALID.
    pub const STRICT: Self = Self { value: 0, mask: TcpFlags::BE_LIBERAL.0 };
}

/// Changes to a living entry; what is `None` stays as it is.
///
/// The kernel finds the entry by its original tuple and zone alone: it ignores CTA_ID here (measured),
/// so an update can reach a successor with the same tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryUpdate {
    /// The original direction.
    pub orig: FiveTuple,
    /// The entry's zones.
    pub zones: Zones,
    /// Seconds from now until the entry ends.
    pub timeout_s: Option<u32>,
    /// Mark and mask: bits outside the mask are kept.
    pub mark: Option<(u32, u32)>,
    /// TCP flags.
    pub tcp_flags: Option<TcpFlagsUpdate>,
    /// Status bits to set. Bits cannot be cleared, so the present ones must be among them (else EBUSY).
    pub status: Option<Status>,
}

impl EntryUpdate {
    /// An update that changes nothing yet.
    pub const fn new(orig: FiveTuple, zones: Zones) -> Self {
        Self { orig, zones, timeout_s: None, mark: None, tcp_flags: None, status: None }
    }
}

/// A request about entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Show all entries that pass the filter: many [`DumpEntry`](super::ConntrackMessage::DumpEntry), then
    /// [`Done`](super::ConntrackMessage::Done).
    Dump(DumpFilter),
    /// Show the entry with this tuple, of either direction: one `DumpEntry`, or `Error` with ENOENT.
    Get {
        /// The tuple of a packet as it arrives.
        tuple: FiveTuple,
        /// The zone in which the tuple is looked up.
        zone: u16,
    },
    /// Change an entry: no answer, or `Error`.
    Update(EntryUpdate),
    /// End an entry: no answer, or `Error`.
    Delete {
        /// The original direction.
        orig: FiveTuple,
        /// The entry's zones.
        zones: Zones,
        /// Its id: a successor with the same tuple is spared.
        id: u32,
    },
}

impl Request {
    /// Appends the request to `bytes`, as [`RequestSocket`](super::RequestSocket) does to a batch.
    ///
    /// # Errors
    /// When it names what is no 5-tuple of TCP or UDP.
    pub fn encode(&self, sequence: u32, bytes: &mut Vec<u8>) -> Result<(), NetlinkError> {
        let mut writer = Writer::appending(std::mem::take(bytes));
        let written = self.write(&mut writer, sequence);
        *bytes = writer.into_bytes();
        written
    }

    /// Appends the request. Nothing asks for an acknowledgement: errors are always sent.
    pub(crate) fn write(&self, writer: &mut Writer, sequence: u32) -> Result<(), NetlinkError> {
        match self {
            Self::Dump(filter) => write_dump(writer, filter, sequence),
            Self::Get { tuple, zone } => {
                check(tuple)?;
                let message = start(writer, MSG_GET, 0, sequence, tuple);
                write_lookup(writer, tuple, Zones { orig: *zone, reply: *zone });
                writer.end_message(message);
            }
            Self::Update(update) => {
                check(&update.orig)?;
                write_update(writer, update, sequence);
            }
            Self::Delete { orig, zones, id } => {
                check(orig)?;
                let message = start(writer, MSG_DELETE, 0, sequence, orig);
                write_lookup(writer, orig, *zones);
                writer.attribute(cta::ID, &id.to_be_bytes());
                writer.end_message(message);
            }
        }
        Ok(())
    }
}

fn check(tuple: &FiveTuple) -> Result<(), NetlinkError> {
    let good = matches!(tuple.proto, TCP | UDP) && tuple.src.is_ipv4() == tuple.dst.is_ipv4();
    if good { Ok(()) } else { Err(NetlinkError::NotATuple(format!("{tuple:?}"))) }
}

fn start(
    writer: &mut Writer,
    kind: u16,
    flags: i32,
    sequence: u32,
    tuple: &FiveTuple,
) -> crate::netlink::message::Open {
    let family = if tuple.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    start_family(writer, kind, flags, sequence, family)
}

fn start_family(
    writer: &mut Writer,
    kind: u16,
    flags: i32,
    sequence: u32,
    family: i32,
) -> crate::netlink::message::Open {
    let message = writer.message(kind, libc::NLM_F_REQUEST | flags, sequence);
    writer.raw(&[family as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
    message
}

fn write_dump(writer: &mut Writer, filter: &DumpFilter, sequence: u32) {
    let message = start_family(writer, MSG_GET, libc::NLM_F_DUMP, sequence, libc::AF_UNSPEC);
    if let Some((value, mask)) = filter.mark {
        writer.attribute(cta::MARK, &value.to_be_bytes());
        writer.attribute(cta::MARK_MASK, &mask.to_be_bytes());
    }
    if let Some(status) = filter.status {
        writer.attribute(cta::STATUS, &status.0.to_be_bytes());
        writer.attribute(cta::STATUS_MASK, &status.0.to_be_bytes());
    }
    writer.end_message(message);
}

/// What the kernel looks an entry up by: the original tuple and its zone. The kernel hashes a zone of one
/// direction only if the tuple carries it, and one of both only if the message does.
fn write_lookup(writer: &mut Writer, tuple: &FiveTuple, zones: Zones) {
    let one_way = if zones.orig == zones.reply { 0 } else { zones.orig };
    write_tuple(writer, cta::TUPLE_ORIG, tuple, one_way);
    if zones.orig == zones.reply && zones.orig != 0 {
        writer.attribute(cta::ZONE, &zones.orig.to_be_bytes());
    }
}

pub(super) fn write_tuple(writer: &mut Writer, kind: u16, tuple: &FiveTuple, zone: u16) {
    let nest = writer.nest(kind);
    let ip = writer.nest(cta::TUPLE_IP);
    for (address, v4, v6) in
        [(tuple.src, cta::IP_V4_SRC, cta::IP_V6_SRC), (tuple.dst, cta::IP_V4_DST, cta::IP_V6_DST)]
    {
        match address {
            IpAddr::V4(address) => writer.attribute(v4, &address.octets()),
            IpAddr::V6(address) => writer.attribute(v6, &address.octets()),
        }
    }
    writer.end_nest(ip);
    let proto = writer.nest(cta::TUPLE_PROTO);
    writer.attribute(cta::PROTO_NUM, &[tuple.proto]);
    writer.attribute(cta::PROTO_SRC_PORT, &tuple.sport.to_be_bytes());
    writer.attribute(cta::PROTO_DST_PORT, &tuple.dport.to_be_bytes());
    writer.end_nest(proto);
    if zone != 0 {
        writer.attribute(cta::TUPLE_ZONE, &zone.to_be_bytes());
    }
    writer.end_nest(nest);
}

fn write_update(writer: &mut Writer, update: &EntryUpdate, sequence: u32) {
    // Without NLM_F_CREATE: an entry that has gone must not come back.
    let message = start(writer, MSG_NEW, 0, sequence, &update.orig);
    write_lookup(writer, &update.orig, update.zones);
    if let Some(status) = update.status {
        writer.attribute(cta::STATUS, &status.0.to_be_bytes());
    }
    if let Some(timeout) = update.timeout_s {
        writer.attribute(cta::TIMEOUT, &timeout.to_be_bytes());
    }
    if let (Some(flags), TCP) = (update.tcp_flags, update.orig.proto) {
        let info = writer.nest(cta::PROTOINFO);
        let tcp = writer.nest(cta::PROTOINFO_TCP);
        for kind in [cta::TCP_FLAGS_ORIGINAL, cta::TCP_FLAGS_REPLY] {
            writer.attribute(kind, &[flags.value, flags.mask]);
        }
        writer.end_nest(tcp);
        writer.end_nest(info);
    }
    if let Some((mark, mask)) = update.mark {
        // The kernel computes (old & !mask) ^ mark: a bit outside the mask would be toggled.
        writer.attribute(cta::MARK, &(mark & mask).to_be_bytes());
        writer.attribute(cta::MARK_MASK, &mask.to_be_bytes());
    }
    writer.end_message(message);
}
