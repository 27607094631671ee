//! Proptest strategies: frames that can fly, frames that must not, and NAT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use super::{Faults, Frame, TcpFields};
use crate::flow::{FiveTuple, TCP, UDP};
use crate::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};

/// An IPv4 address that routers forward to.
pub fn unicast4() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..=223, any::<[u8; 3]>()).prop_filter_map("loopback", |(first, [b, c, d])| {
        (first != 127).then(|| Ipv4Addr::new(first, b, c, d))
    })
}

/// An IPv6 address that routers forward to.
pub fn unicast6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from).prop_filter("forwarded", |address| {
        !(address.is_multicast()
            || address.is_unspecified()
            || address.is_loopback()
            || address.is_unicast_link_local())
    })
}

/// A TCP or UDP tuple of either family that can fly; every port, 0 included.
pub fn tuples() -> impl Strategy<Value = FiveTuple> {
    let addresses = prop_oneof![
        (unicast4(), unicast4()).prop_map(|(src, dst)| (IpAddr::V4(src), IpAddr::V4(dst))),
        (unicast6(), unicast6()).prop_map(|(src, dst)| (IpAddr::V6(src), IpAddr::V6(dst))),
    ];
    (prop_oneof![Just(TCP), Just(UDP)], addresses, any::<u16>(), any::<u16>())
        .prop_map(|(proto, (src, dst), sport, dport)| FiveTuple { proto, src, dst, sport, dport })
}

/// What NAT makes of a tuple: source, destination, both or neither replaced.
pub fn nat(tuple: FiveTuple) -> impl Strategy<Value = FiveTuple> {
    (any::<[bool; 4]>(), unicast4(), unicast4(), unicast6(), unicast6(), 1u16.., 1u16..).prop_map(
        move |([src, dst, sport, dport], src4, dst4, src6, dst6, new_sport, new_dport)| {
            let mut new = tuple;
            let v4 = tuple.src.is_ipv4();
            if src {
                new.src = if v4 { src4.into() } else { src6.into() };
            }
            if dst {
                new.dst = if v4 { dst4.into() } else { dst6.into() };
            }
            if sport {
                new.sport = new_sport;
            }
            if dport {
                new.dport = new_dport;
            }
            new
        },
    )
}

/// MAC addresses of two hosts, not of groups.
fn macs() -> impl Strategy<Value = ([u8; 6], [u8; 6])> {
    any::<([u8; 6], [u8; 6])>().prop_map(|(mut dst, mut src)| {
        dst[0] &= 0xfe;
        src[0] &= 0xfe;
        (dst, src)
    })
}

/// VLAN tags that are taken apart: none, a customer tag, a service tag, or either with a customer tag inside.
pub fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => any::<u16>().prop_map(|tci| vec![(ETHER_VLAN, tci)]),
        1 => any::<u16>().prop_map(|tci| vec![(ETHER_SERVICE_VLAN, tci)]),
        1 => (prop_oneof![Just(ETHER_VLAN), Just(ETHER_SERVICE_VLAN)], any::<[u16; 2]>())
            .prop_map(|(tpid, [outer, inner])| vec![(tpid, outer), (ETHER_VLAN, inner)]),
    ]
}

/// TCP fields that conntrack takes as valid; `control` allows FIN, SYN and RST.
pub fn tcp_fields(control: bool) -> impl Strategy<Value = TcpFields> {
    let base: Vec<u8> =
        if control { vec![0x10, 0x30, 0x02, 0x22, 0x12, 0x04, 0x14, 0x11, 0x31] } else { vec![0x10, 0x30] };
    let flags = (proptest::sample::select(base), any::<u8>()).prop_map(|(base, extra)| base | extra & 0xc8);
    (any::<(u32, u32, u16, u16)>(), flags, 0u8..16, vec(any::<u8>(), 0..=40)).prop_map(
        |((seq, ack, window, urgent), flags, reserved, options)| TcpFields {
            seq,
            ack,
            flags,
            reserved,
            window,
            urgent,
            options,
        },
    )
}

/// Every frame that can fly: any tuple, encapsulation, TTL, TOS, IP flags, TCP segment, payload and padding.
pub fn legal_frames() -> impl Strategy<Value = Frame> {
    let l2 = (macs(), tags(), weighted(0.2, any::<u16>()), vec(any::<u8>(), 0..=46));
    let ip = (2u8.., any::<u8>(), any::<u16>(), any::<[bool; 2]>(), 0u32..1 << 20);
    let payload = prop_oneof![
        4 => vec(any::<u8>(), 0..=64),
        1 => vec(any::<u8>(), 1300..=1500),
    ];
    (l2, tuples(), ip, tcp_fields(true), any::<bool>(), payload).prop_map(
        |((macs, tags, pppoe, padding), tuple, ip, tcp, udp_without_checksum, payload)| {
            let (ttl, tos, id, [reserved, dont], flow_label) = ip;
            Frame {
                dst_mac: macs.0,
                src_mac: macs.1,
                tags,
                pppoe,
                ttl,
                tos,
                id,
                fragment: u16::from(reserved) << 15 | u16::from(dont) << 14,
                flow_label,
                tcp,
                udp_without_checksum,
                payload,
                padding,
                ..Frame::of(tuple)
            }
        },
    )
}

/// One to three things that are wrong with a frame. Some leave it as it was, if they happen to be right.
pub fn faults() -> impl Strategy<Value = Faults> {
    let one = prop_oneof![
        any::<u16>().prop_map(|v| Faults { ether_type: Some(v), ..Faults::default() }),
        (0u8..16).prop_map(|v| Faults { version: Some(v), ..Faults::default() }),
        (0u8..16).prop_map(|v| Faults { ihl: Some(v), ..Faults::default() }),
        prop_oneof![0u16..80, any::<u16>()].prop_map(|v| Faults { ip_length: Some(v), ..Faults::default() }),
        any::<u16>().prop_map(|v| Faults { ip_checksum_error: v, ..Faults::default() }),
        any::<u16>().prop_map(|v| Faults { l4_checksum_error: v, ..Faults::default() }),
        prop_oneof![0u16..80, any::<u16>()].prop_map(|v| Faults { udp_length: Some(v), ..Faults::default() }),
        (0u8..16).prop_map(|v| Faults { data_offset: Some(v), ..Faults::default() }),
        prop_oneof![0u16..80, any::<u16>()]
            .prop_map(|v| Faults { pppoe_length: Some(v), ..Faults::default() }),
        any::<u16>().prop_map(|v| Faults { pppoe_code: Some(v), ..Faults::default() }),
        any::<u16>().prop_map(|v| Faults { ppp: Some(v), ..Faults::default() }),
        (0usize..100).prop_map(|v| Faults { truncate: Some(v), ..Faults::default() }),
    ];
    vec(one, 1..=3).prop_map(|many| many.into_iter().fold(Faults::default(), merge))
}

fn merge(a: Faults, b: Faults) -> Faults {
    Faults {
        ether_type: b.ether_type.or(a.ether_type),
        version: b.version.or(a.version),
        ihl: b.ihl.or(a.ihl),
        ip_length: b.ip_length.or(a.ip_length),
        ip_checksum_error: a.ip_checksum_error.wrapping_add(b.ip_checksum_error),
        l4_checksum_error: a.l4_checksum_error.wrapping_add(b.l4_checksum_error),
        udp_length: b.udp_length.or(a.udp_length),
        data_offset: b.data_offset.or(a.data_offset),
        pppoe_length: b.pppoe_length.or(a.pppoe_length),
        pppoe_code: b.pppoe_code.or(a.pppoe_code),
        ppp: b.ppp.or(a.ppp),
        truncate: b.truncate.or(a.truncate),
    }
}

/// Any frame: legal ones, with fields out of the range that flies, and with faults.
pub fn any_frames() -> impl Strategy<Value = Frame> {
    let fields = (
        weighted(0.1, any::<[u8; 6]>()),
        weighted(0.1, 0u8..=2),
        weighted(0.1, any::<u16>()),
        weighted(0.1, vec(any::<u8>(), 1..=40)),
        weighted(0.1, any::<u8>()),
        weighted(0.1, any::<u8>()),
        weighted(0.1, special_addresses()),
        weighted(0.1, special_addresses()),
        weighted(0.1, vec((proptest::sample::select(vec![0, 43, 44, 51, 60, 135]), extension()), 1..=2)),
        weighted(0.1, vec((any::<u16>(), any::<u16>()), 1..=3)),
    );
    (legal_frames(), fields, weighted(0.4, faults())).prop_map(|(mut frame, fields, faults)| {
        let (mac, ttl, fragment, options, flags, proto, src, dst, extensions, tags) = fields;
        let v4 = frame.tuple.src.is_ipv4();
        frame.dst_mac = mac.unwrap_or(frame.dst_mac);
        frame.ttl = ttl.unwrap_or(frame.ttl);
        frame.fragment = fragment.unwrap_or(frame.fragment);
        frame.options = options.unwrap_or_default();
        frame.tcp.flags = flags.unwrap_or(frame.tcp.flags);
        frame.tuple.proto = proto.unwrap_or(frame.tuple.proto);
        for (place, special) in [(&mut frame.tuple.src, src), (&mut frame.tuple.dst, dst)] {
            if let Some((special4, special6)) = special {
                *place = if v4 { special4.into() } else { special6.into() };
            }
        }
        frame.extensions = extensions.unwrap_or_default();
        frame.tags = tags.unwrap_or(frame.tags);
        frame.faults = faults.unwrap_or_default();
        frame
    })
}

/// Addresses that are not forwarded, or are at the edge of those.
fn special_addresses() -> impl Strategy<Value = (Ipv4Addr, Ipv6Addr)> {
    let v4 = [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [1, 0, 0, 0],
        [126, 255, 255, 255],
        [127, 0, 0, 1],
        [128, 0, 0, 0],
        [169, 254, 0, 1],
        [223, 255, 255, 255],
        [224, 0, 0, 1],
        [239, 255, 255, 255],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
    ];
    let v6 = ["::", "::1", "::2", "fe80::1", "fec0::1", "febf::1", "ff02::1", "ff0e::1", "::ffff:1.2.3.4"];
    let v6 = v6.map(|text| text.parse().expect("an IPv6 address"));
    (proptest::sample::select(v4.map(Ipv4Addr::from).to_vec()), proptest::sample::select(v6.to_vec()))
}

/// An extension header of 8 or 16 bytes, its length field right or not.
fn extension() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![Just(8usize), Just(16)], any::<[u8; 16]>(), any::<bool>()).prop_map(
        |(len, mut content, right)| {
            if right {
                content[1] = (len / 8 - 1) as u8;
            }
            content[..len].to_vec()
        },
    )
}
