use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::flow::{FiveTuple, TCP, UDP};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage as OracleMessage, ProtoInfo, ProtoInfoTCP, TCPFlags,
};
use nix::libc;
use proptest::prelude::*;

use super::oracle::{self, Wrap};
use super::*;
use crate::netlink::message::Writer;

fn parse_all(datagram: &[u8]) -> (Vec<ConntrackMessage>, Parsed) {
    let mut messages = Vec::new();
    let parsed = parse_datagram(datagram, |message| messages.push(message));
    (messages, parsed)
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(u32, u32)>().prop_map(|(a, b)| (Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into())),
        any::<(u128, u128)>().prop_map(|(a, b)| (Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into())),
    ]
}

fn tuples() -> impl Strategy<Value = FiveTuple> {
    (prop_oneof![Just(TCP), Just(UDP)], addresses(), any::<(u16, u16)>())
        .prop_map(|(proto, (src, dst), (sport, dport))| FiveTuple { proto, src, dst, sport, dport })
}

fn infos() -> impl Strategy<Value = TcpInfo> {
    (0..=9u8, any::<Option<(u8, u8)>>()).prop_map(|(state, flags)| TcpInfo {
        state: TcpState::from_number(state).expect("a state"),
        orig_flags: flags.map(|(flags, _)| TcpFlags(flags)),
        reply_flags: flags.map(|(_, flags)| TcpFlags(flags)),
    })
}

fn zones() -> impl Strategy<Value = Zones> {
    prop_oneof![
        Just(Zones::DEFAULT),
        any::<u16>().prop_map(|zone| Zones { orig: zone, reply: zone }),
        any::<u16>().prop_map(|zone| Zones { orig: zone, reply: 0 }),
        any::<u16>().prop_map(|zone| Zones { orig: 0, reply: zone }),
    ]
}

prop_compose! {
    fn entries()(
        id in any::<u32>(), orig in tuples(), reply in tuples(), zones in zones(), status in any::<u16>(),
        timeout_s in any::<Option<u32>>(), mark in any::<Option<u32>>(), tcp in proptest::option::of(infos()),
        attached in any::<(bool, bool, bool)>(), counted in any::<Option<[(u64, u64); 2]>>(),
        started_ns in any::<Option<u64>>(),
    ) -> ConntrackEntry {
        let status = Status(u32::from(status));
        ConntrackEntry {
            id, orig, reply, zones, status, timeout_s, mark, tcp,
            has_helper: attached.0 || status.contains(Status::HELPER),
            seq_adjust: attached.1 || status.contains(Status::SEQ_ADJUST),
            synproxy: attached.2,
            counted: counted.map(|both| both.map(|(packets, bytes)| Count { packets, bytes })),
            started_ns,
        }
    }
}

fn decode(bytes: &[u8]) -> (u16, Vec<ConntrackAttribute>) {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(bytes).expect("well formed");
    let NetlinkPayload::InnerMessage(inner) = message.payload else { panic!("no ctnetlink message") };
    let netlink_packet_netfilter::NetfilterMessageInner::Conntrack(inner) = inner.inner else {
        panic!("no ctnetlink message")
    };
    let attributes = match inner {
        OracleMessage::New(attributes)
        | OracleMessage::Get(attributes)
        | OracleMessage::Delete(attributes) => attributes,
        other => panic!("{other:?}"),
    };
    (message.header.flags, attributes)
}

proptest! {
    #[test]
    fn what_another_encoder_writes_is_read(entry in entries(), sequence in any::<u32>()) {
        let cases = [
            (Wrap::New, libc::NLM_F_CREATE | libc::NLM_F_EXCL, ConntrackMessage::New(entry)),
            (Wrap::New, 0, ConntrackMessage::Update(entry)),
            (Wrap::New, libc::NLM_F_MULTI, ConntrackMessage::DumpEntry { sequence, entry }),
            (Wrap::Delete, 0, ConntrackMessage::Destroy(entry)),
        ];
        let mut datagram = Vec::new();
        for (wrap, flags, _) in cases {
            datagram.extend(oracle::message(wrap, flags, sequence, &entry, oracle::attributes(&entry)));
        }
        let (messages, parsed) = parse_all(&datagram);
        prop_assert_eq!(messages, cases.map(|(.., message)| message));
        prop_assert_eq!(parsed, Parsed { messages: 4, skipped: 0, malformed: 0 });
    }

    #[test]
    fn what_is_written_another_decoder_reads(
        orig in tuples(), zone in any::<u16>(), timeout in any::<u32>(), mark in any::<(u32, u32)>(),
    ) {
        let update = EntryUpdate {
            timeout_s: Some(timeout),
            mark: Some(mark),
            tcp_flags: Some(TcpFlagsUpdate::LIBERAL),
            ..EntryUpdate::new(orig, Zones { orig: zone, reply: 0 })
        };
        let mut writer = Writer::default();
        Request::Update(update).write(&mut writer, 7).expect("a tuple");
        let (flags, attributes) = decode(writer.bytes());
        prop_assert_eq!(i32::from(flags), libc::NLM_F_REQUEST);
        prop_assert!(attributes.contains(&ConntrackAttribute::CtaTupleOrig(oracle::tuple(&orig, zone))));
        prop_assert!(attributes.contains(&ConntrackAttribute::CtaTimeout(timeout)));
        prop_assert!(attributes.contains(&ConntrackAttribute::CtaMark(mark.0 & mark.1)));
        let liberal = || TCPFlags::parse(&[0x08, 0x28]).expect("two bytes");
        let info = ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(vec![
            ProtoInfoTCP::OriginalFlags(liberal()),
            ProtoInfoTCP::ReplyFlags(liberal()),
        ])]);
        prop_assert_eq!(attributes.contains(&info), orig.proto == TCP);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        parse_all(&bytes);
    }

    #[test]
    fn damaged_messages_are_survived_and_counted(
        entry in entries(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = oracle::message(Wrap::New, 0, 1, &entry, oracle::attributes(&entry));
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        parse_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let (messages, parsed) = parse_all(&bytes);
        prop_assert!(messages.len() == parsed.messages);
        prop_assert!(bytes.is_empty() || parsed.messages + parsed.skipped + parsed.malformed > 0);
    }
}

fn entry() -> ConntrackEntry {
    let orig = FiveTuple {
        proto: UDP,
        src: Ipv4Addr::new(10, 0, 0, 1).into(),
        dst: Ipv4Addr::new(192, 0, 2, 7).into(),
        sport: 1000,
        dport: 53,
    };
    ConntrackEntry {
        id: 5,
        orig,
        reply: orig.inverted(),
        zones: Zones::DEFAULT,
        status: Status::CONFIRMED,
        timeout_s: Some(30),
        mark: None,
        tcp: None,
        has_helper: false,
        seq_adjust: false,
        synproxy: false,
        counted: None,
        started_ns: None,
    }
}

#[test]
fn other_protocols_are_skipped() {
    let mut icmp = entry();
    icmp.orig.proto = 1;
    let bytes = oracle::message(Wrap::New, 0, 1, &icmp, oracle::attributes(&icmp));
    assert_eq!(parse_all(&bytes), (vec![], Parsed { messages: 0, skipped: 1, malformed: 0 }));
}

#[test]
fn an_entry_needs_id_and_both_tuples() {
    for missing in 0..3 {
        let mut attributes = oracle::attributes(&entry());
        match missing {
            0 => drop(attributes.remove(0)),
            1 => drop(attributes.remove(1)),
            _ => drop(attributes.pop()),
        }
        let bytes = oracle::message(Wrap::New, 0, 1, &entry(), attributes);
        assert_eq!(parse_all(&bytes), (vec![], Parsed { messages: 0, skipped: 0, malformed: 1 }));
    }
}

#[test]
fn ends_and_errors_name_their_request() {
    let mut writer = Writer::default();
    let mut add = |kind: i32, flags, sequence, errno: i32| {
        let message = writer.message(kind as u16, flags, sequence);
        writer.raw(&(-errno).to_ne_bytes());
        writer.end_message(message);
    };
    add(libc::NLMSG_DONE, libc::NLM_F_MULTI, 1, 0);
    add(libc::NLMSG_DONE, libc::NLM_F_MULTI | libc::NLM_F_DUMP_INTR, 2, 0);
    add(libc::NLMSG_ERROR, 0, 3, libc::ENOENT);
    add(libc::NLMSG_ERROR, 0, 4, 0);
    add(libc::NLMSG_OVERRUN, 0, 0, 0);
    let expected = [
        ConntrackMessage::Done { sequence: 1, errno: 0 },
        ConntrackMessage::Done { sequence: 2, errno: libc::EINTR },
        ConntrackMessage::Error { sequence: 3, errno: libc::ENOENT },
        ConntrackMessage::Ack { sequence: 4 },
        ConntrackMessage::Overrun,
    ];
    assert_eq!(parse_all(writer.bytes()).0, expected);
}

#[test]
fn what_is_no_tuple_is_refused() {
    let mut writer = Writer::default();
    let mut icmp = entry().orig;
    icmp.proto = 1;
    let mut mixed = entry().orig;
    mixed.dst = Ipv6Addr::LOCALHOST.into();
    for tuple in [icmp, mixed] {
        let refused = Request::Get { tuple, zone: 0 }.write(&mut writer, 1);
        assert!(matches!(refused, Err(crate::netlink::NetlinkError::NotATuple(_))), "{refused:?}");
    }
    assert!(writer.is_empty());
}

/// Linux 6.18, little-endian: TCP from 127.0.0.1 to port 7, redirected to port 7777, becomes ESTABLISHED.
const TCP_UPDATE: &str = concat!(
    "cc000000000100000000000000000000020000003400018014000180080001007f000001080002007f0000011c000280",
    "050001000600000006000200e070000006000300000700003400028014000180080001007f000001080002007f000001",
    "1c0002800500010006000000060002001e61000006000300e070000008000c00e72728f208000300000001ae08000700",
    "00069780300004802c0001800500010003000000050002000a000000050003000a000000060004002300000006000500",
    "230000000800080000010005",
);

/// The same kernel: UDP over IPv6 from ::1 to itself is deleted by another process.
const UDP6_DESTROY: &str = concat!(
    "cc0000000201000000000000e2ff9bec0a0000004c0001802c0001801400030000000000000000000000000000000001",
    "14000400000000000000000000000000000000011c000280050001001100000006000200ed93000006000300d11f0000",
    "4c0002802c00018014000300000000000000000000000000000000011400040000000000000000000000000000000001",
    "1c000280050001001100000006000200d11f000006000300ed93000008000c00e0b2976b080003000000038808000700",
    "0000001d0800080000010005",
);

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16).expect("hex") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn what_a_kernel_said_is_understood() {
    let local: IpAddr = Ipv4Addr::LOCALHOST.into();
    let orig = FiveTuple { proto: TCP, src: local, dst: local, sport: 57456, dport: 7 };
    let flags = Some(TcpFlags(0x23));
    let update = ConntrackEntry {
        id: 0xe727_28f2,
        orig,
        reply: FiveTuple { sport: 7777, ..orig.inverted() },
        zones: Zones::DEFAULT,
        status: Status::SEEN_REPLY
            | Status::ASSURED
            | Status::CONFIRMED
            | Status::DST_NAT
            | Status::SRC_NAT_DONE
            | Status::DST_NAT_DONE,
        timeout_s: Some(432_000),
        mark: Some(0x1_0005),
        tcp: Some(TcpInfo { state: TcpState::Established, orig_flags: flags, reply_flags: flags }),
        has_helper: false,
        seq_adjust: false,
        synproxy: false,
        counted: None,
        started_ns: None,
    };
    assert_eq!(parse_all(&bytes(TCP_UPDATE)).0, [ConntrackMessage::Update(update)]);

    let local: IpAddr = Ipv6Addr::LOCALHOST.into();
    let orig = FiveTuple { proto: UDP, src: local, dst: local, sport: 60819, dport: 53535 };
    let destroy = ConntrackEntry {
        id: 0xe0b2_976b,
        orig,
        reply: orig.inverted(),
        status: Status::CONFIRMED | Status::SRC_NAT_DONE | Status::DST_NAT_DONE | Status::DYING,
        timeout_s: Some(29),
        tcp: None,
        ..update
    };
    assert_eq!(parse_all(&bytes(UDP6_DESTROY)).0, [ConntrackMessage::Destroy(destroy)]);
}
