//! Recognising a packet that went through the kernel.

use super::wire::{IPV4_LEN, IPV6_LEN, TCP_LEN, UDP_LEN};
use super::{Headers, Rewrite, checksum, source_mac};
use crate::flow::{Key, TCP};

/// The longest headers of a packet that can fly: IPv6 and TCP without options.
const HEADERS_MAX: usize = IPV6_LEN + TCP_LEN;

/// The headers of a punted packet, from the IP header on, and its length.
///
/// TCP options and payload are not kept: the L4 checksum stands for them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    key: Key,
    bytes: [u8; HEADERS_MAX],
    len: u8,
    l3_len: u16,
    sender: Option<[u8; 6]>,
}

/// How a frame that the kernel sent compares with a punted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this packet, rewritten.
    Equal {
        /// Routed, the TTL one less; or bridged, the TTL the same.
        ttl_decremented: bool,
    },
    /// It would be, but for its DSCP.
    DiffersInDscp {
        /// DSCP of the punted packet.
        from: u8,
        /// DSCP of the frame.
        to: u8,
    },
    /// It would be, but for its ECN bits, and maybe its DSCP: something on the way signals congestion.
    DiffersInEcn,
    /// It is another packet.
    Differs,
}

impl Snapshot {
    /// Takes the snapshot of a packet that begins with its IP header, before it is punted.
    ///
    /// `None` if the packet is shorter than its headers, so not the one that they were parsed from.
    pub fn take(l3: &[u8], headers: &Headers) -> Option<Self> {
        let ip_len = match headers.key {
            Key::V4(_) => IPV4_LEN,
            Key::V6(_) => IPV6_LEN,
        };
        let len = ip_len + if headers.key.proto() == TCP { TCP_LEN } else { UDP_LEN };
        let mut bytes = [0; HEADERS_MAX];
        bytes.get_mut(..len)?.copy_from_slice(l3.get(..len)?);
        Some(Self { key: headers.key, bytes, len: len as u8, l3_len: headers.l3_len, sender: None })
    }

    /// The same with the source MAC address of the frame.
    #[must_use]
    pub const fn from_sender(self, sender: Option<[u8; 6]>) -> Self {
        Self { sender, ..self }
    }

    /// Whether a frame can be this packet, bridged: a bridge hands the sender's MAC address on. A program on this host
    /// that sends what it has received, in the name of others, has its own.
    pub fn is_of_sender(&self, frame: &[u8]) -> bool {
        self.sender.is_some() && self.sender == source_mac(frame)
    }

    /// The key that the packet came in with.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Length of the packet from its IP header on.
    pub const fn l3_len(&self) -> u16 {
        self.l3_len
    }

    /// The headers as they are after a rewrite; `None` if it is one of the other family.
    pub fn expected(&self, rewrite: &Rewrite) -> Option<([u8; HEADERS_MAX], usize)> {
        let mut bytes = self.bytes;
        let len = usize::from(self.len);
        let fits =
            matches!((&self.key, rewrite), (Key::V4(_), Rewrite::V4(_)) | (Key::V6(_), Rewrite::V6(_)));
        (fits && rewrite.apply(bytes.get_mut(..len)?)).then_some((bytes, len))
    }

    /// Compares a packet that the kernel sent, from its IP header on, with this one leaving as `to`.
    ///
    /// The packet must end where its IP header says: the kernel trims padding.
    pub fn matches(&self, emitted: &[u8], to: &Key) -> Verdict {
        if emitted.len() != usize::from(self.l3_len) {
            return Verdict::Differs;
        }
        for ttl_decremented in [true, false] {
            let Some(rewrite) = Rewrite::between(&self.key, to, ttl_decremented) else { break };
            let Some((expected, len)) = self.expected(&rewrite) else { break };
            let (Some(expected), Some(found)) = (expected.get(..len), emitted.get(..len)) else { break };
            if expected == found {
                return Verdict::Equal { ttl_decremented };
            }
            if let Some(verdict) = differs_in_tos(expected, found) {
                return verdict;
            }
        }
        Verdict::Differs
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({:?}, {} bytes)", self.key.tuple(), self.l3_len)
    }
}

/// The verdict on headers that differ in DSCP or ECN and, over IPv4, rightly in the checksum; else `None`.
fn differs_in_tos(expected: &[u8], found: &[u8]) -> Option<Verdict> {
    let version = expected.first()? >> 4;
    let (from, to) = (traffic_class(version, expected)?, traffic_class(version, found)?);
    let mut buffer = [0; HEADERS_MAX];
    let patched = buffer.get_mut(..expected.len())?;
    patched.copy_from_slice(expected);
    let [first, second, ..] = patched else { return None };
    if version == 4 {
        *second = to;
        let header: &[u8; IPV4_LEN] = found.first_chunk()?;
        if !checksum::ipv4_header_is_valid(header) {
            return None;
        }
        patched.get_mut(10..12)?.copy_from_slice(header.get(10..12)?);
    } else {
        *first = *first & 0xf0 | to >> 4;
        *second = *second & 0x0f | to << 4;
    }
    if from == to || patched != found {
        None
    } else if (from ^ to) & 3 != 0 {
        Some(Verdict::DiffersInEcn)
    } else {
        Some(Verdict::DiffersInDscp { from: from >> 2, to: to >> 2 })
    }
}

/// TOS of IPv4 or traffic class of IPv6.
fn traffic_class(version: u8, header: &[u8]) -> Option<u8> {
    let [first, second, ..] = header else { return None };
    Some(if version == 4 { *second } else { first << 4 | second >> 4 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::FiveTuple;
    use crate::packet::kernel;
    use crate::packet::parse;
    use crate::packet::testing::{Frame, strategies};

    fn key(tuple: &FiveTuple) -> Key {
        Key::from_tuple(tuple).expect("one family")
    }

    fn snapshot(frame: &Frame) -> Snapshot {
        let bytes = frame.build();
        let headers = parse(&bytes, 0).expect("a frame that flies");
        Snapshot::take(headers.packet(&bytes), &headers).expect("whole headers")
    }

    fn forwarded(frame: &Frame, to: &FiveTuple) -> Vec<u8> {
        let mut packet = frame.ip();
        kernel::forward(&mut packet, &frame.tuple, to);
        packet
    }

    fn translated_frames() -> impl Strategy<Value = (Frame, FiveTuple)> {
        strategies::legal_frames().prop_flat_map(|frame| {
            let nat = strategies::nat(frame.tuple);
            (Just(frame), nat)
        })
    }

    fn frames() -> [Frame; 4] {
        [
            Frame::udp("10.0.0.1:1", "10.0.0.2:2"),
            Frame::tcp("10.0.0.1:1", "10.0.0.2:2"),
            Frame::udp("[2001:db8::1]:1", "[2001:db8::2]:2"),
            Frame::tcp("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ]
        .map(|frame| frame.payload(b"payload").with(|f| f.tos = 0x28))
    }

    #[test]
    fn changes_of_tos_are_named() {
        for frame in frames() {
            let (snapshot, to) = (snapshot(&frame), key(&frame.tuple));
            let with_tos = |tos| Frame { tos, ttl: 63, ..frame.clone() }.ip();
            let dscp = Verdict::DiffersInDscp { from: 10, to: 46 };
            assert_eq!(snapshot.matches(&with_tos(46 << 2), &to), dscp);
            assert_eq!(snapshot.matches(&with_tos(0x28 | 3), &to), Verdict::DiffersInEcn);
            assert_eq!(snapshot.matches(&with_tos(46 << 2 | 1), &to), Verdict::DiffersInEcn);
            let bridged = Frame { tos: 0, ..frame.clone() }.ip();
            assert_eq!(snapshot.matches(&bridged, &to), Verdict::DiffersInDscp { from: 10, to: 0 });
            // A changed TOS excuses nothing else.
            let mut other = with_tos(46 << 2);
            other[4] ^= 1;
            assert_eq!(snapshot.matches(&other, &to), Verdict::Differs);
        }
    }

    #[test]
    fn a_changed_tos_under_a_bad_checksum_is_another_packet() {
        let [frame, ..] = frames();
        let mut packet = Frame { tos: 0, ttl: 63, ..frame.clone() }.ip();
        packet[10] ^= 1;
        assert_eq!(snapshot(&frame).matches(&packet, &key(&frame.tuple)), Verdict::Differs);
    }

    #[test]
    fn lengths_and_families_must_be_equal() {
        for frame in frames() {
            let snapshot = snapshot(&frame);
            let mut packet = forwarded(&frame, &frame.tuple);
            packet.push(0);
            assert_eq!(snapshot.matches(&packet, &key(&frame.tuple)), Verdict::Differs);
            packet.truncate(packet.len() - 2);
            assert_eq!(snapshot.matches(&packet, &key(&frame.tuple)), Verdict::Differs);
            assert_eq!(snapshot.matches(&[], &key(&frame.tuple)), Verdict::Differs);
        }
        let [udp4, _, udp6, _] = frames();
        let packet = forwarded(&udp4, &udp4.tuple);
        assert_eq!(snapshot(&udp4).matches(&packet, &key(&udp6.tuple)), Verdict::Differs);
    }

    #[test]
    fn a_ttl_may_not_change_otherwise() {
        for frame in frames() {
            for ttl in [0, 1, 62, 65, 255] {
                let packet = Frame { ttl, ..frame.clone() }.ip();
                assert_eq!(snapshot(&frame).matches(&packet, &key(&frame.tuple)), Verdict::Differs);
            }
        }
    }

    #[test]
    fn headers_of_another_packet_give_no_snapshot() {
        let [frame, ..] = frames();
        let bytes = frame.build();
        let headers = parse(&bytes, 0).expect("a frame that flies");
        assert_eq!(Snapshot::take(&bytes[14..41], &headers), None);
        assert_eq!(Snapshot::take(&[], &headers), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_the_kernel_sends_is_recognised((frame, to) in translated_frames()) {
            let snapshot = snapshot(&frame);
            let routed = forwarded(&frame, &to);
            prop_assert_eq!(snapshot.matches(&routed, &key(&to)), Verdict::Equal { ttl_decremented: true });
            let bridged = snapshot.matches(&frame.ip(), &key(&frame.tuple));
            prop_assert_eq!(bridged, Verdict::Equal { ttl_decremented: false });
        }

        #[test]
        fn no_other_byte_may_differ(
            (frame, to) in translated_frames(),
            at: prop::sample::Index,
            change in 1u8..,
        ) {
            let snapshot = snapshot(&frame);
            let mut packet = forwarded(&frame, &to);
            let (place, before) = (at.index(usize::from(snapshot.len)), packet.clone());
            packet[place] ^= change;
            // A hop limit that nobody lowered is a bridge's, and IPv6 has no header checksum that would then be wrong.
            let bridged = to.src.is_ipv6() && place == 7 && packet[place] == before[place].wrapping_add(1);
            prop_assume!(!bridged);
            let verdict = snapshot.matches(&packet, &key(&to));
            prop_assert!(!matches!(verdict, Verdict::Equal { .. }), "{:?}", verdict);
        }

        #[test]
        fn another_tuple_is_another_packet((frame, to) in translated_frames(), (other, _) in translated_frames()) {
            prop_assume!(other.tuple != to);
            let verdict = snapshot(&frame).matches(&forwarded(&frame, &to), &key(&other.tuple));
            prop_assert_eq!(verdict, Verdict::Differs);
        }
    }
}
