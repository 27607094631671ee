//! Builds ctnetlink messages with the crate netlink-packet-netfilter: an encoder that is not ours.

use dataplane::flow::{FiveTuple, TCP, UDP};
use netlink_packet_core::{DefaultNla, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol,
    Status as OracleStatus, TCPFlags, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use nix::libc;

use super::{ConntrackEntry, Status, Zones};

/// Which message to wrap an entry into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    New,
    Delete,
}

fn protocol(number: u8) -> Protocol {
    match number {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        other => Protocol::Other(other),
    }
}

pub(super) fn tuple(tuple: &FiveTuple, zone: u16) -> Vec<Tuple> {
    let mut attributes = vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(tuple.src), IPTuple::DestinationAddress(tuple.dst)]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(protocol(tuple.proto)),
            ProtoTuple::SourcePort(tuple.sport),
            ProtoTuple::DestinationPort(tuple.dport),
        ]),
    ];
    if zone != 0 {
        attributes.push(Tuple::Other(DefaultNla::new(3, zone.to_be_bytes().to_vec())));
    }
    attributes
}

fn other(kind: u16, value: &[u8]) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(kind, value.to_vec()))
}

fn tcp_flags(flags: u8) -> TCPFlags {
    TCPFlags::parse(&[flags, 0]).expect("two bytes")
}

/// The attributes of an entry in the kernel's order.
pub(super) fn attributes(entry: &ConntrackEntry) -> Vec<ConntrackAttribute> {
    let Zones { orig, reply } = entry.zones;
    let both = orig == reply;
    let one_way = |zone| if both { 0 } else { zone };
    let mut list = vec![
        ConntrackAttribute::CtaTupleOrig(tuple(&entry.orig, one_way(orig))),
        ConntrackAttribute::CtaTupleReply(tuple(&entry.reply, one_way(reply))),
    ];
    if both && orig != 0 {
        list.push(other(18, &orig.to_be_bytes()));
    }
    list.push(ConntrackAttribute::CtaStatus(OracleStatus::from_bits_retain(entry.status.0)));
    list.extend(entry.timeout_s.map(ConntrackAttribute::CtaTimeout));
    if let Some(tcp) = entry.tcp {
        let mut info = vec![ProtoInfoTCP::State(tcp.state as u8)];
        info.extend(tcp.orig_flags.map(|flags| ProtoInfoTCP::OriginalFlags(tcp_flags(flags.0))));
        info.extend(tcp.reply_flags.map(|flags| ProtoInfoTCP::ReplyFlags(tcp_flags(flags.0))));
        list.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(info)]));
    }
    if entry.has_helper && !entry.status.contains(Status::HELPER) {
        list.push(other(5 | 0x8000, &[8, 0, 1, 0, b'f', b't', b'p', 0]));
    }
    list.extend(entry.mark.map(ConntrackAttribute::CtaMark));
    if entry.seq_adjust && !entry.status.contains(Status::SEQ_ADJUST) {
        list.push(other(15 | 0x8000, &[]));
    }
    if entry.synproxy {
        list.push(other(24 | 0x8000, &[]));
    }
    for (count, kind) in entry.counted.iter().flatten().zip([9, 10]) {
        let number = |kind: u16, value: u64| {
            [&12_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_be_bytes()].concat()
        };
        list.push(other(kind | 0x8000, &[number(1, count.packets), number(2, count.bytes)].concat()));
    }
    if let Some(started) = entry.started_ns {
        let start = [&12_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &started.to_be_bytes()].concat();
        list.push(other(20 | 0x8000, &start));
    }
    list.push(other(11, &[0, 0, 0, 1]));
    list.push(other(12, &entry.id.to_be_bytes()));
    list
}

/// A whole message.
pub(super) fn message(
    wrap: Wrap,
    flags: i32,
    sequence: u32,
    entry: &ConntrackEntry,
    attributes: Vec<ConntrackAttribute>,
) -> Vec<u8> {
    let family =
        if entry.orig.src.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    let body = match wrap {
        Wrap::New => ConntrackMessage::New(attributes),
        Wrap::Delete => ConntrackMessage::Delete(attributes),
    };
    let mut header = NetlinkHeader::default();
    header.flags = flags as u16;
    header.sequence_number = sequence;
    let payload = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), body);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// A request that makes the kernel create the entry.
pub(super) fn create(entry: &ConntrackEntry, sequence: u32) -> Vec<u8> {
    let wanted = attributes(entry)
        .into_iter()
        .filter(|attribute| !matches!(attribute, ConntrackAttribute::Other(nla) if matches!(netlink_packet_core::Nla::kind(nla), 11 | 12)));
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    message(Wrap::New, flags, sequence, entry, wanted.collect())
}
