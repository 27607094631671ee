//! Any bytes as frames: what parsing says of them is true, and rewriting changes what NAT changes and nothing else.

use super::wire::{IPV4_LEN, IPV6_LEN};
use super::{
    Headers, L2Header, Refused, Rewrite, Snapshot, Verdict, checksum, kernel, parse, parse_other,
    parse_plain4,
};
use crate::flow::{FiveTuple, Key, TCP, UDP};

/// The frame's checksum is mended before it is parsed, which no fuzzer would hit upon.
pub(crate) const MEND: u8 = 1;

/// A byte of flags, then a frame: what [`parse`] finds is what the bytes say.
pub fn parsed(data: &[u8]) {
    let Some((flags, frame)) = data.split_first() else { return };
    let frame = prepared(*flags, frame);
    let port = u16::from(*flags >> 1);
    let found = parse(&frame, port);
    assert_eq!(parse_other(&frame, port), found, "the lanes agree");
    let plain = parse_plain4(&frame, port).map(|(key, outline)| Headers { key: Key::V4(key), outline });
    let is_plain4 = |headers: &Headers| headers.l3 == 14 && matches!(headers.key, Key::V4(_));
    assert_eq!(plain, found.ok().filter(is_plain4));
    let refusal = match found {
        Ok(headers) => return is_as_told(&headers, &frame, port),
        Err(refusal) => refusal,
    };
    let l3 = usize::from(refusal.l3);
    assert!(l3 <= frame.len());
    if let Refused::Drop(_) = refusal.what {
        let header = frame.get(l3..l3 + IPV4_LEN).expect("the kernel would drop it for its header");
        assert_ne!(checksum::compute(header), 0, "a header that is right is not dropped");
    }
}

fn is_as_told(headers: &Headers, frame: &[u8], port: u16) {
    let packet = headers.packet(frame);
    assert_eq!(packet.len(), usize::from(headers.l3_len));
    let tuple = headers.key.tuple();
    let (proto, ttl, addresses, l4) = match tuple.src.is_ipv4() {
        true => {
            assert_eq!((packet[0], checksum::compute(&packet[..IPV4_LEN])), (0x45, 0));
            assert_eq!((packet[6] & 0x3f, packet[7]), (0, 0), "no fragment");
            (packet[9], packet[8], &packet[12..20], &packet[IPV4_LEN..])
        }
        false => (packet[6], packet[7], &packet[8..40], &packet[IPV6_LEN..]),
    };
    assert!(ttl > 1 && matches!(proto, TCP | UDP));
    assert_eq!((proto, addresses, &l4[..4]), (tuple.proto, &*addresses_of(&tuple), &*ports_of(&tuple)));
    assert_eq!(l4.len(), frame.get(headers.l4()..headers.frame_len()).map_or(0, <[u8]>::len));
    assert_eq!(headers.segment(frame).is_some(), proto == TCP);
    if proto == TCP {
        assert_eq!(headers.tcp_flags, l4[13]);
        assert!((20..=l4.len()).contains(&(usize::from(l4[12] >> 4) * 4)));
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([l4[4], l4[5]])), l4.len());
    }
    assert_eq!((headers.ingress.port(), &headers.ingress.dst_mac()[..]), (port, &frame[..6]));
    assert_eq!(frame[0] & 1, 0, "nothing that is sent to a group flies");
    let header = L2Header::learn(frame).expect("IP behind a header");
    assert_eq!(header.bytes(), &frame[..usize::from(headers.l3)]);
    let snapshot = Snapshot::take(packet, headers).expect("whole headers");
    let bridged = Verdict::Equal { ttl_decremented: false };
    assert_eq!(snapshot.matches(packet, &headers.key), bridged);
}

/// Flags, two addresses and two ports to leave with, then a frame.
pub(crate) const REWRITE_HEAD: usize = 1 + 32 + 4;

/// A frame is rewritten: checksums are right if and only if they were, what NAT does not change stays, lengths stay, and
/// it is byte for byte what the kernel's own steps make.
pub fn rewritten(data: &[u8]) {
    let Some((head, frame)) = data.split_first_chunk::<REWRITE_HEAD>() else { return };
    let frame = prepared(head[0], frame);
    let Ok(headers) = parse(&frame, 0) else { return };
    let (from, to) = (headers.key.tuple(), leaves_as(&headers.key.tuple(), head));
    let routed = head[0] & 2 == 0;
    let new = Key::from_tuple(&to).expect("one family");
    let rewrite = Rewrite::between(&headers.key, &new, routed).expect("one family and protocol");
    let before = headers.packet(&frame);
    let mut after = before.to_vec();
    assert!(rewrite.apply(&mut after));

    let (mut theirs, v4) = (before.to_vec(), from.src.is_ipv4());
    let l4 = if v4 { IPV4_LEN } else { IPV6_LEN };
    let check = l4 + if from.proto == TCP { 16 } else { 6 };
    if routed {
        kernel::forward(&mut theirs, &from, &to);
        assert_eq!(after, theirs);
    }
    assert_eq!(before.len(), after.len());
    let changes = |at: usize| match v4 {
        true => matches!(at, 8 | 10..24) || (check..check + 2).contains(&at),
        false => matches!(at, 7..44) || (check..check + 2).contains(&at),
    };
    for (at, (old, new)) in before.iter().zip(&after).enumerate() {
        assert!(old == new || changes(at), "byte {at}");
    }
    let ttl = if v4 { 8 } else { 7 };
    assert_eq!(after[ttl], before[ttl] - u8::from(routed));
    let addresses = if v4 { 12..20 } else { 8..40 };
    assert_eq!(&after[addresses], &*addresses_of(&to));
    assert_eq!(&after[l4..l4 + 4], &*ports_of(&to));
    assert!(!v4 || checksum::compute(&after[..IPV4_LEN]) == 0);
    assert_eq!(l4_check(before, l4, from.proto), l4_check(&after, l4, to.proto));
    let snapshot = Snapshot::take(before, &headers).expect("whole headers");
    assert_eq!(snapshot.matches(&after, &new), Verdict::Equal { ttl_decremented: routed });
}

/// What a packet's L4 checksum is worth: none, right or wrong.
fn l4_check(packet: &[u8], l4: usize, proto: u8) -> Option<bool> {
    let addresses = if l4 == IPV4_LEN { &packet[12..20] } else { &packet[8..40] };
    let none = proto == UDP && packet[l4 + 6..l4 + 8] == [0, 0];
    (!none).then(|| checksum::compute_l4(addresses, proto, &packet[l4..]) == 0)
}

/// The tuple with what the flags say from elsewhere.
pub(crate) fn leaves_as(from: &FiveTuple, head: &[u8; REWRITE_HEAD]) -> FiveTuple {
    let address = |old: std::net::IpAddr, at: usize| match old {
        std::net::IpAddr::V4(_) => head[at..].first_chunk::<4>().map_or(old, |octets| (*octets).into()),
        std::net::IpAddr::V6(_) => head[at..].first_chunk::<16>().map_or(old, |octets| (*octets).into()),
    };
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let changes = |bit: u8| head[0] & bit != 0;
    FiveTuple {
        proto: from.proto,
        src: if changes(0x10) { address(from.src, 1) } else { from.src },
        dst: if changes(0x20) { address(from.dst, 17) } else { from.dst },
        sport: if changes(0x40) { port(33) } else { from.sport },
        dport: if changes(0x80) { port(35) } else { from.dport },
    }
}

/// The frame, with its IPv4 header's checksum made right if the flags say so.
pub(crate) fn prepared(flags: u8, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if flags & MEND == 0 {
        return frame;
    }
    // Where the first header begins that looks like one without options.
    let at = [14, 18, 22, 26, 30].into_iter().find(|at| frame.get(*at) == Some(&0x45));
    if let Some(header) = at.and_then(|at| frame.get_mut(at..at + IPV4_LEN)) {
        header[10..12].fill(0);
        let check = checksum::compute(header);
        header[10..12].copy_from_slice(&check.to_ne_bytes());
    }
    frame
}

fn addresses_of(tuple: &FiveTuple) -> Vec<u8> {
    [tuple.src, tuple.dst]
        .iter()
        .flat_map(|address| match address {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        })
        .collect()
}

fn ports_of(tuple: &FiveTuple) -> Vec<u8> {
    [tuple.sport.to_be_bytes(), tuple.dport.to_be_bytes()].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fuzz::replay;
    use crate::packet::testing::Frame;

    /// A frame of every kind that the parser knows.
    pub(crate) fn frames() -> Vec<Frame> {
        let (tcp, udp) =
            (Frame::tcp("10.0.0.2:4000", "192.0.2.9:80"), Frame::udp("10.0.0.2:4000", "192.0.2.9:53"));
        let (tcp6, udp6) = (
            Frame::tcp("[fd00::2]:4000", "[2001:db8::9]:80"),
            Frame::udp("[fd00::2]:4000", "[2001:db8::9]:53"),
        );
        vec![
            tcp.clone().payload(b"hello"),
            udp.clone().payload(b"odd"),
            tcp6.clone().with(|f| f.tcp.options = vec![1, 1, 8, 10]),
            udp6.clone().payload(b"hello").with(|f| f.padding = vec![0; 6]),
            udp.clone().with(|f| f.udp_without_checksum = true),
            tcp.clone().vlan(7),
            udp6.clone().service_vlan(7).vlan(9),
            udp.clone().pppoe(5).payload(b"hello"),
            tcp6.vlan(3).pppoe(5),
            tcp.clone().flags(0x11),
            tcp.clone().with(|f| f.fragment = 0x2000),
            tcp.clone().with(|f| f.options = vec![1; 4]),
            udp6.with(|f| f.extensions = vec![(0, vec![0; 8])]),
            udp.clone().with(|f| f.faults.udp_length = Some(9)),
            tcp.clone().with(|f| f.faults.data_offset = Some(4)),
            udp.clone().with(|f| f.faults.ip_checksum_error = 1),
            udp.clone().with(|f| f.ttl = 1),
            udp.with(|f| f.faults.ether_type = Some(0x0806)),
            Frame::new(1, "10.0.0.2:0", "192.0.2.9:0").payload(&[8, 0, 0, 0]),
            Frame::udp("10.0.0.2:1", "224.0.0.1:2"),
            tcp.with(|f| f.faults.data_offset = Some(15)),
        ]
    }

    #[test]
    fn corpus_of_parsed() {
        let seeds: Vec<_> = frames().iter().map(|frame| [&[0][..], &frame.build()].concat()).collect();
        replay(env!("CARGO_MANIFEST_DIR"), "parsed", parsed, &seeds);
    }

    #[test]
    fn corpus_of_rewritten() {
        let seed = |(at, frame): (usize, &Frame)| {
            let mut head = vec![0xab; REWRITE_HEAD];
            head[0] = MEND | [0xf0, 0x50, 0xa0, 0x02, 0xf2][at % 5];
            head.extend(frame.build());
            head
        };
        let seeds: Vec<_> = frames().iter().take(10).enumerate().map(seed).collect();
        replay(env!("CARGO_MANIFEST_DIR"), "rewritten", rewritten, &seeds);
    }
}
