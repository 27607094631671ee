use proptest::prelude::*;

use super::*;
use crate::packet::testing::{Faults, Frame, strategies};
use crate::packet::wire::{ETHER_ARP, ETHER_LLDP, ETHER_VLAN};

const PORT: u16 = 7;

fn udp4() -> Frame {
    Frame::udp("10.0.0.1:1000", "192.0.2.2:53").payload(b"hello")
}

fn tcp4() -> Frame {
    Frame::tcp("10.0.0.1:1000", "192.0.2.2:80").payload(b"hello")
}

fn udp6() -> Frame {
    Frame::udp("[2001:db8::1]:1000", "[2001:db8:1::2]:53").payload(b"hello")
}

fn tcp6() -> Frame {
    Frame::tcp("[2001:db8::1]:1000", "[2001:db8:1::2]:80").payload(b"hello")
}

/// The ingress context that a frame must be given.
fn ingress(frame: &Frame) -> Ingress {
    let plain = Ingress::untagged(PORT, frame.dst_mac);
    let tagged =
        frame.tags.iter().fold(plain, |context, (tpid, tci)| context.in_tag(*tci, *tpid != ETHER_VLAN));
    frame.pppoe.map_or(tagged, |session| tagged.in_pppoe(session))
}

#[track_caller]
fn check_flies(frame: &Frame) {
    let bytes = frame.build();
    let headers = parse(&bytes, PORT).expect("a frame that flies");
    let ip = frame.ip();
    let ip_len = if frame.tuple.src.is_ipv4() { 20 } else { 40 };
    assert_eq!(headers.ingress, ingress(frame));
    assert_eq!(headers.key.tuple(), frame.tuple);
    assert_eq!(usize::from(headers.l3), frame.l2_len());
    assert_eq!(headers.l4(), frame.l2_len() + ip_len);
    assert_eq!(usize::from(headers.l3_len), ip.len());
    assert_eq!(headers.packet(&bytes), ip);
    assert_eq!(headers.frame_len() + frame.padding.len(), bytes.len());
    if frame.tuple.proto == TCP {
        let flags = frame.tcp.flags;
        assert_eq!(headers.tcp_flags, flags);
        assert_eq!(headers.tcp_ack, if flags & ACK != 0 { frame.tcp.ack } else { 0 });
        assert_eq!(headers.is_tcp_control(), flags & (FIN | SYN | RST) != 0);
        let expected = Segment {
            flags,
            seq: frame.tcp.seq,
            ack: frame.tcp.ack,
            window: frame.tcp.window,
            payload: frame.payload.len() as u16,
        };
        assert_eq!(headers.segment(&bytes), Some(expected));
    } else {
        assert_eq!((headers.tcp_flags, headers.tcp_ack, headers.segment(&bytes)), (0, 0, None));
    }
}

#[track_caller]
fn refuse(frame: &Frame) -> Refusal {
    parse(&frame.build(), PORT).expect_err("a frame that must not fly")
}

#[track_caller]
fn check_punts(frame: &Frame, reason: PuntReason) {
    let refusal = refuse(frame);
    assert_eq!(refusal.what, Refused::Punt(reason), "{frame:?}");
    assert_eq!(refusal.ingress, ingress(frame));
}

#[track_caller]
fn check_drops(frame: &Frame) {
    assert_eq!(refuse(frame).what, Refused::Drop(DropReason::BadIpHeader), "{frame:?}");
}

fn faulty(frame: Frame, change: impl FnOnce(&mut Faults)) -> Frame {
    frame.with(|frame| change(&mut frame.faults))
}

#[test]
fn plain_and_encapsulated_packets_fly() {
    for frame in [udp4(), tcp4(), udp6(), tcp6()] {
        check_flies(&frame);
        check_flies(&frame.clone().vlan(0x6064));
        check_flies(&frame.clone().service_vlan(5).vlan(6));
        check_flies(&frame.clone().vlan(5).vlan(6).pppoe(0xffff));
        check_flies(&frame.clone().pppoe(1));
        check_flies(&frame.clone().with(|f| f.padding = vec![0xaa; 18]));
        check_flies(&frame.clone().with(|f| f.payload.clear()));
        check_flies(&frame.clone().with(|f| f.ttl = 2));
    }
    check_flies(&udp4().with(|f| f.udp_without_checksum = true));
    // The reserved bit and DF do not make a fragment.
    check_flies(&udp4().with(|f| f.fragment = 0xc000));
}

#[test]
fn the_longest_packets_fly() {
    check_flies(&udp4().payload(&vec![1; 65_535 - 28]));
    check_flies(&tcp4().payload(&vec![1; 65_535 - 40]));
    check_flies(&udp6().payload(&vec![1; 65_535 - 48]));
    // IPv6 could carry 40 bytes more, but the length would not fit into 16 bits.
    check_punts(&udp6().payload(&vec![1; 65_535 - 47]), PuntReason::Malformed);
}

#[test]
fn ethertypes() {
    let with_type = |value| faulty(udp4(), |f| f.ether_type = Some(value));
    check_punts(&with_type(ETHER_ARP), PuntReason::Arp);
    check_punts(&with_type(ETHER_ARP).with(|f| f.dst_mac = [0xff; 6]), PuntReason::Arp);
    check_punts(&with_type(0x0100), PuntReason::EtherType);
    check_punts(&with_type(0x8847), PuntReason::EtherType);
    check_punts(&with_type(wire::ETHER_PPPOE_DISCOVERY), PuntReason::EtherType);
    check_punts(&faulty(udp4().pppoe(1), |f| f.ppp = Some(0xc021)), PuntReason::EtherType);
    // The kernel drops compressed protocol numbers.
    check_punts(&faulty(udp4().pppoe(1), |f| f.ppp = Some(0x2145)), PuntReason::EtherType);
    let refusal = refuse(&udp4().vlan(1).vlan(2).vlan(3));
    assert_eq!((refusal.what, refusal.l3), (Refused::Punt(PuntReason::EtherType), 22));
    assert_eq!(refuse(&udp4().vlan(1).service_vlan(2)).what, Refused::Punt(PuntReason::EtherType));
    // IPv6 behind the EtherType of IPv4 and the other way round.
    check_drops(&faulty(udp6(), |f| f.ether_type = Some(ETHER_IPV4)));
    check_punts(&faulty(udp4().payload(&[0; 40]), |f| f.ether_type = Some(0x86dd)), PuntReason::Malformed);
}

#[test]
fn pppoe_headers_that_contradict_themselves() {
    for frame in [udp4().pppoe(9), tcp6().pppoe(9)] {
        for (length, reason) in
            [(0, PuntReason::Malformed), (1, PuntReason::Malformed), (0xffff, PuntReason::Malformed)]
        {
            let refusal = refuse(&faulty(frame.clone(), |f| f.pppoe_length = Some(length)));
            assert_eq!(refusal.what, Refused::Punt(reason));
        }
        let refusal = refuse(&faulty(frame.clone(), |f| f.pppoe_code = Some(0x11a7)));
        assert_eq!(refusal.what, Refused::Punt(PuntReason::Malformed));
        // Padding inside of the session is padding as well.
        let longer = frame.ip().len() as u16 + 2 + 5;
        check_flies(&faulty(frame.with(|f| f.padding = vec![0; 9]), |f| f.pppoe_length = Some(longer)));
    }
    // The packet ends behind the session's payload, but within the frame.
    let shorter = udp4().ip().len() as u16 + 1;
    check_drops(&faulty(udp4().pppoe(9), |f| f.pppoe_length = Some(shorter)));
    let shorter = udp6().ip().len() as u16 + 1;
    check_punts(&faulty(udp6().pppoe(9), |f| f.pppoe_length = Some(shorter)), PuntReason::Malformed);
}

#[test]
fn bad_ipv4_headers_are_dropped() {
    for frame in [udp4(), tcp4(), udp4().vlan(3), udp4().pppoe(3)] {
        check_drops(&faulty(frame.clone(), |f| f.ip_checksum_error = 1));
        check_drops(&faulty(frame.clone(), |f| f.version = Some(6)));
        check_drops(&faulty(frame.clone(), |f| f.ihl = Some(4)));
        check_drops(&faulty(frame.clone(), |f| f.ihl = Some(0)));
        check_drops(&faulty(frame.clone(), |f| f.ip_length = Some(0)));
        check_drops(&faulty(frame.clone(), |f| f.ip_length = Some(19)));
        let longer = frame.ip().len() as u16 + 1;
        check_drops(&faulty(frame.clone(), |f| f.ip_length = Some(longer)));
        let header = frame.l2_len();
        check_drops(&faulty(frame, |f| (f.truncate, f.pppoe_length) = (Some(header + 19), Some(21))));
    }
    // More header than packet, and options under a bad checksum.
    check_drops(&faulty(udp4().payload(&[]), |f| f.ihl = Some(15)));
    check_drops(&faulty(udp4().with(|f| f.options = vec![1; 4]), |f| f.ip_checksum_error = 1));
}

#[test]
fn a_header_checksum_of_0xffff_is_as_good_as_0() {
    let mut bytes = udp4().build();
    // With this identification the sum of the other words is 0xffff.
    bytes[18..20].copy_from_slice(&[0, 0]);
    bytes[24..26].copy_from_slice(&[0, 0]);
    let rest = checksum::compute(&bytes[14..34]);
    bytes[18..20].copy_from_slice(&rest.to_ne_bytes());
    for check in [[0, 0], [0xff, 0xff]] {
        bytes[24..26].copy_from_slice(&check);
        assert!(parse(&bytes, PORT).is_ok());
    }
}

#[test]
fn ipv4_packets_that_the_kernel_decides_on() {
    check_punts(&udp4().with(|f| f.options = vec![1, 1, 1, 0]), PuntReason::IpOptions);
    for fragment in [0x2000, 0x0001, 0x1fff, 0x3000] {
        check_punts(&udp4().with(|f| f.fragment = fragment), PuntReason::Fragment);
    }
    for ttl in [0, 1] {
        for frame in [udp4(), tcp4(), udp6(), tcp6()] {
            check_punts(&frame.with(|f| f.ttl = ttl), PuntReason::Ttl);
        }
    }
    for proto in [1, 2, 47, 50, 132, 136] {
        check_punts(&Frame::new(proto, "10.0.0.1:1", "10.0.0.2:2").payload(&[0; 32]), PuntReason::Protocol);
    }
}

#[test]
fn groups_and_martians() {
    for frame in [udp4(), udp6(), tcp4().vlan(4)] {
        check_punts(&frame.clone().with(|f| f.dst_mac = [0xff; 6]), PuntReason::Multicast);
        check_punts(&frame.with(|f| f.dst_mac = [0x01, 0, 0x5e, 0, 0, 1]), PuntReason::Multicast);
    }
    let to = |dst: &str| udp4().with(|f| f.tuple.dst = dst.parse().expect("address"));
    let from = |src: &str| udp4().with(|f| f.tuple.src = src.parse().expect("address"));
    for group in ["224.0.0.1", "239.255.255.255", "255.255.255.255"] {
        check_punts(&to(group), PuntReason::Multicast);
    }
    for martian in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.1", "240.0.0.1", "255.255.255.254"] {
        check_punts(&to(martian), PuntReason::Martian);
        check_punts(&from(martian), PuntReason::Martian);
    }
    check_punts(&from("224.0.0.1"), PuntReason::Martian);
    check_punts(&from("255.255.255.255"), PuntReason::Martian);
    for forwarded in ["1.0.0.0", "126.255.255.255", "128.0.0.1", "223.255.255.255"] {
        check_flies(&to(forwarded));
        check_flies(&from(forwarded));
    }

    let to = |dst: &str| tcp6().with(|f| f.tuple.dst = dst.parse().expect("address"));
    let from = |src: &str| tcp6().with(|f| f.tuple.src = src.parse().expect("address"));
    for group in ["ff02::1", "ff0e::1"] {
        check_punts(&to(group), PuntReason::Multicast);
        check_punts(&from(group), PuntReason::Martian);
    }
    for martian in ["::", "::1", "fe80::1", "febf::1"] {
        check_punts(&to(martian), PuntReason::Martian);
        check_punts(&from(martian), PuntReason::Martian);
    }
    for forwarded in ["::2", "fec0::1", "fd00::1", "::ffff:1.2.3.4"] {
        check_flies(&to(forwarded));
        check_flies(&from(forwarded));
    }
}

#[test]
fn ipv6_packets_that_the_kernel_decides_on() {
    for number in EXTENSION_NUMBERS {
        let frame = udp6().with(|f| f.extensions = vec![(number, vec![0; 8])]);
        check_punts(&frame, PuntReason::ExtensionHeader);
    }
    check_punts(&udp6().with(|f| f.extensions = vec![(44, vec![0; 8])]), PuntReason::Fragment);
    for proto in [1, 47, 50, 58, 132, 135] {
        let frame = Frame::new(proto, "[2001:db8::1]:1", "[2001:db8::2]:2").payload(&[0; 32]);
        check_punts(&frame, PuntReason::Protocol);
    }
    for frame in [udp6(), tcp6()] {
        check_punts(&faulty(frame.clone(), |f| f.version = Some(4)), PuntReason::Malformed);
        check_punts(&faulty(frame.clone(), |f| f.ip_length = Some(0)), PuntReason::Malformed);
        let longer = frame.ip().len() as u16 - 39;
        check_punts(&faulty(frame.clone(), |f| f.ip_length = Some(longer)), PuntReason::Malformed);
        check_punts(&faulty(frame.clone(), |f| f.ip_length = Some(65_500)), PuntReason::Malformed);
        check_punts(&faulty(frame, |f| f.truncate = Some(14 + 39)), PuntReason::Malformed);
    }
}

const EXTENSION_NUMBERS: [u8; 5] = [0, 43, 51, 59, 60];

#[test]
fn malformed_l4_headers() {
    for frame in [udp4(), udp6(), udp4().vlan(2)] {
        for length in [0, 7, 12, 14, 0xffff] {
            check_punts(&faulty(frame.clone(), |f| f.udp_length = Some(length)), PuntReason::Malformed);
        }
        check_flies(&faulty(frame, |f| f.udp_length = Some(13)));
    }
    for frame in [tcp4().payload(&[]), tcp6().payload(&[]), tcp4().payload(&[]).pppoe(2)] {
        for offset in [0, 4, 6, 15] {
            check_punts(&faulty(frame.clone(), |f| f.data_offset = Some(offset)), PuntReason::Malformed);
        }
        check_flies(&frame.with(|f| f.tcp.options = vec![1; 40]));
    }
    // The packet is shorter than the L4 header, the frame is not.
    for (frame, shortest) in [(udp4(), 28), (tcp4(), 40)] {
        for total in 20..shortest {
            let frame = faulty(frame.clone(), |f| {
                f.ip_length = Some(total);
                f.udp_length = Some(total - 20);
            });
            check_punts(&frame, PuntReason::Malformed);
        }
    }
    // A packet shorter than its header must not wrap around to the UDP length.
    check_drops(&faulty(udp4(), |f| (f.ip_length, f.udp_length) = (Some(10), Some(65_526))));
}

#[test]
fn tcp_flags_as_conntrack_judges_them() {
    let valid = [SYN, SYN | 0x20, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | 0x20, ACK, ACK | 0x20];
    for frame in [tcp4(), tcp6()] {
        for flags in 0..=255u8 {
            let frame = frame.clone().flags(flags);
            if valid.contains(&(flags & !0xc8)) {
                check_flies(&frame);
            } else {
                check_punts(&frame, PuntReason::Malformed);
            }
        }
    }
}

#[test]
fn a_refusal_says_what_is_known() {
    let refusal = refuse(&udp4().vlan(5).with(|f| f.ttl = 1));
    assert_eq!(refusal.dst, Some("192.0.2.2".parse().expect("address")));
    assert_eq!((refusal.proto, refusal.ether_type, refusal.l3), (Some(UDP), ETHER_IPV4, 18));
    let refusal = refuse(&tcp6().pppoe(5).with(|f| f.ttl = 1));
    assert_eq!(refusal.dst, Some("2001:db8:1::2".parse().expect("address")));
    assert_eq!((refusal.proto, refusal.ether_type, refusal.l3), (Some(TCP), 0x8864, 22));
    let refusal = parse(&[2, 0, 0, 0, 0, 1, 9], PORT).expect_err("cut short");
    assert_eq!(refusal.ingress, Ingress::untagged(PORT, [2, 0, 0, 0, 0, 1]));
    assert_eq!((refusal.dst, refusal.proto, refusal.ether_type, refusal.l3), (None, None, 0, 0));
    assert_eq!(parse(&[], PORT).expect_err("empty").ingress, Ingress::untagged(PORT, [0; 6]));
}

#[test]
fn link_control_is_recognised() {
    let icmp6 = |kind: u8| Frame::new(58, "[fe80::1]:1", "[ff02::1]:2").payload(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    let neighbour = |kind: u8| icmp6(kind).with(|f| f.tuple.src = "2001:db8::1".parse().expect("address"));
    for kind in 133..=137 {
        assert!(refuse(&icmp6(kind)).link_control && refuse(&neighbour(kind)).link_control);
    }
    assert!(!refuse(&icmp6(128)).link_control);
    let with_type = |value| faulty(udp4(), |f| f.ether_type = Some(value));
    for ether_type in [ETHER_ARP, ETHER_LLDP, 0x8809, 0x888e, 0x8863] {
        assert!(refuse(&with_type(ether_type)).link_control);
    }
    assert!(!refuse(&with_type(0x8847)).link_control);
    assert!(refuse(&faulty(udp4().pppoe(1), |f| f.ppp = Some(0xc021))).link_control);
    assert!(!refuse(&faulty(udp4().pppoe(1), |f| f.ppp = Some(0x0031))).link_control);
    assert!(!refuse(&udp4().with(|f| f.ttl = 1)).link_control);
}

/// The general lane alone.
fn general(bytes: &[u8]) -> Result<Headers, Refusal> {
    general::parse(bytes, PORT)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn legal_frames_fly(frame in strategies::legal_frames()) {
        check_flies(&frame);
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..120), port: u16) {
        let _ = parse(&bytes, port);
    }

    #[test]
    fn no_prefix_of_a_legal_frame_flies(frame in strategies::legal_frames(), cut: prop::sample::Index) {
        let bytes = frame.with(|f| f.padding.clear()).build();
        let cut = cut.index(bytes.len());
        prop_assert!(parse(&bytes[..cut], PORT).is_err());
    }

    #[test]
    fn both_lanes_agree(frame in strategies::any_frames()) {
        let bytes = frame.build();
        prop_assert_eq!(parse(&bytes, PORT), general(&bytes));
    }

    #[test]
    fn both_lanes_agree_on_changed_bytes(
        frame in strategies::legal_frames(),
        changes in proptest::collection::vec((0usize..60, any::<u8>()), 1..4),
        fix_checksum: bool,
    ) {
        let mut bytes = frame.with(|f| { f.tags.clear(); f.pppoe = None; }).build();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if fix_checksum {
            bytes[24..26].copy_from_slice(&[0, 0]);
            let check = checksum::compute(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&check.to_ne_bytes());
        }
        let result = parse(&bytes, PORT);
        prop_assert_eq!(result, general(&bytes));
        if let Ok(headers) = result {
            prop_assert!(headers.frame_len() <= bytes.len());
            prop_assert!(headers.l4() > usize::from(headers.l3) && headers.l4() + 8 <= headers.frame_len());
        }
    }
}
