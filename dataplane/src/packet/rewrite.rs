//! NAT and TTL: what changes from the IP header on, applied in place.
//!
//! Only packets that [`parse`](super::parse()) has let through are rewritten: their L4 header follows an IP
//! header without options or extensions.

use super::checksum::{self, TTL_DELTA};
use super::wire::{self, IPV4_LEN, IPV6_LEN};
use crate::flow::{Key, Key4, Key6, TCP};

/// The rewrite of one direction over IPv4. Words lie as in the packet (network byte order in memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rewrite4 {
    /// New source address.
    pub src: u32,
    /// New destination address.
    pub dst: u32,
    /// New source and destination port.
    pub ports: u32,
    /// [`checksum::delta`] of the IP header checksum: addresses, and the TTL if it is decremented.
    pub ip_delta: u16,
    /// [`checksum::delta`] of the L4 checksum: addresses and ports.
    pub l4_delta: u16,
    /// Routed: the TTL goes down by one. Bridged: it stays.
    pub decrement_ttl: bool,
}

impl Rewrite4 {
    /// The rewrite that makes packets with the key `old` leave with the key `new`.
    #[must_use]
    pub fn between(old: &Key4, new: &Key4, decrement_ttl: bool) -> Self {
        let addresses = checksum::delta(&[old.src, old.dst], &[new.src, new.dst]);
        Self {
            src: new.src,
            dst: new.dst,
            ports: new.ports,
            ip_delta: if decrement_ttl { checksum::add(addresses, TTL_DELTA) } else { addresses },
            l4_delta: checksum::delta(&[old.src, old.dst, old.ports], &[new.src, new.dst, new.ports]),
            decrement_ttl,
        }
    }

    /// Applies the rewrite to a packet that begins with its IP header.
    ///
    /// `false`, and nothing is changed, if the packet is shorter than its headers.
    #[inline(always)]
    #[must_use = "a packet that was not rewritten must not leave"]
    pub fn apply(&self, l3: &mut [u8]) -> bool {
        let Some((ip, l4)) = l3.split_first_chunk_mut::<IPV4_LEN>() else { return false };
        if !apply_l4(l4, ip[9], self.ports, self.l4_delta) {
            return false;
        }
        ip[8] = ip[8].wrapping_sub(u8::from(self.decrement_ttl));
        let check = checksum::update(u16::from_ne_bytes([ip[10], ip[11]]), self.ip_delta);
        ip[10..12].copy_from_slice(&check.to_ne_bytes());
        ip[12..16].copy_from_slice(&self.src.to_ne_bytes());
        ip[16..20].copy_from_slice(&self.dst.to_ne_bytes());
        true
    }
}

/// The rewrite of one direction over IPv6. Words lie as in the packet (network byte order in memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rewrite6 {
    /// New source address.
    pub src: [u64; 2],
    /// New destination address.
    pub dst: [u64; 2],
    /// New source and destination port.
    pub ports: u32,
    /// [`checksum::delta`] of the L4 checksum: addresses and ports.
    pub l4_delta: u16,
    /// Routed: the hop limit goes down by one. Bridged: it stays.
    pub decrement_ttl: bool,
}

impl Rewrite6 {
    /// The rewrite that makes packets with the key `old` leave with the key `new`.
    #[must_use]
    pub fn between(old: &Key6, new: &Key6, decrement_ttl: bool) -> Self {
        Self {
            src: new.src,
            dst: new.dst,
            ports: new.ports,
            l4_delta: checksum::delta(&words(old), &words(new)),
            decrement_ttl,
        }
    }

    /// Applies the rewrite to a packet that begins with its IP header.
    ///
    /// `false`, and nothing is changed, if the packet is shorter than its headers.
    #[inline]
    #[must_use = "a packet that was not rewritten must not leave"]
    pub fn apply(&self, l3: &mut [u8]) -> bool {
        let Some((ip, l4)) = l3.split_first_chunk_mut::<IPV6_LEN>() else { return false };
        if !apply_l4(l4, ip[6], self.ports, self.l4_delta) {
            return false;
        }
        ip[7] = ip[7].wrapping_sub(u8::from(self.decrement_ttl));
        for (field, word) in ip[8..].chunks_exact_mut(8).zip(self.src.iter().chain(&self.dst)) {
            field.copy_from_slice(&word.to_ne_bytes());
        }
        true
    }
}

/// Ports and checksum of a TCP or UDP header.
#[inline(always)]
fn apply_l4(l4: &mut [u8], proto: u8, ports: u32, delta: u16) -> bool {
    if proto == TCP {
        let Some(tcp) = l4.first_chunk_mut::<{ wire::TCP_LEN }>() else { return false };
        let check = checksum::update(u16::from_ne_bytes([tcp[16], tcp[17]]), delta);
        tcp[..4].copy_from_slice(&ports.to_ne_bytes());
        tcp[16..18].copy_from_slice(&check.to_ne_bytes());
    } else {
        let Some(udp) = l4.first_chunk_mut::<{ wire::UDP_LEN }>() else { return false };
        let check = checksum::update_udp(u16::from_ne_bytes([udp[6], udp[7]]), delta);
        udp[..4].copy_from_slice(&ports.to_ne_bytes());
        udp[6..8].copy_from_slice(&check.to_ne_bytes());
    }
    true
}

/// The words of a key that the L4 checksum covers.
fn words(key: &Key6) -> [u32; 9] {
    let mut words = [key.ports; 9];
    for (pair, wide) in words.chunks_exact_mut(2).zip(key.src.iter().chain(&key.dst)) {
        // Which half comes first does not matter to a sum, only that it is the same in both keys.
        pair.copy_from_slice(&[*wide as u32, (*wide >> 32) as u32]);
    }
    words
}

/// The rewrite of one direction of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// IPv4.
    V4(Rewrite4),
    /// IPv6.
    V6(Rewrite6),
}

impl Rewrite {
    /// The rewrite that makes packets with the key `old` leave with the key `new`.
    ///
    /// `None` if the keys are of different families or protocols: no NAT of the kernel does that.
    #[must_use]
    pub fn between(old: &Key, new: &Key, decrement_ttl: bool) -> Option<Self> {
        match (old, new) {
            (Key::V4(old), Key::V4(new)) if old.proto == new.proto => {
                Some(Self::V4(Rewrite4::between(old, new, decrement_ttl)))
            }
            (Key::V6(old), Key::V6(new)) if old.proto == new.proto => {
                Some(Self::V6(Rewrite6::between(old, new, decrement_ttl)))
            }
            _ => None,
        }
    }

    /// Applies the rewrite to a packet that begins with its IP header.
    ///
    /// `false`, and nothing is changed, if the packet is shorter than its headers.
    #[inline]
    #[must_use = "a packet that was not rewritten must not leave"]
    pub fn apply(&self, l3: &mut [u8]) -> bool {
        match self {
            Self::V4(rewrite) => rewrite.apply(l3),
            Self::V6(rewrite) => rewrite.apply(l3),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::{FiveTuple, UDP};
    use crate::packet::kernel;
    use crate::packet::testing::{Frame, strategies};

    fn rewrite(from: &FiveTuple, to: &FiveTuple, decrement_ttl: bool) -> Rewrite {
        let key = |tuple| Key::from_tuple(tuple).expect("one family");
        Rewrite::between(&key(from), &key(to), decrement_ttl).expect("one family")
    }

    fn translated_frames() -> impl Strategy<Value = (Frame, FiveTuple)> {
        strategies::legal_frames().prop_flat_map(|frame| {
            let nat = strategies::nat(frame.tuple);
            (Just(frame), nat)
        })
    }

    fn check_at(frame: &Frame) -> usize {
        let ip = if frame.tuple.src.is_ipv4() { 20 } else { 40 };
        ip + if frame.tuple.proto == UDP { 6 } else { 16 }
    }

    #[test]
    fn short_packets_are_refused_and_left_alone() {
        for frame in [
            Frame::udp("10.0.0.1:1", "10.0.0.2:2"),
            Frame::tcp("10.0.0.1:1", "10.0.0.2:2"),
            Frame::udp("[2001:db8::1]:1", "[2001:db8::2]:2"),
            Frame::tcp("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ] {
            let rewrite = rewrite(&frame.tuple, &frame.tuple, true);
            let whole = frame.ip();
            for len in 0..whole.len() {
                let mut cut = whole[..len].to_vec();
                assert!(!rewrite.apply(&mut cut));
                assert_eq!(cut, whole[..len]);
            }
            assert!(rewrite.apply(&mut whole.clone()));
        }
    }

    #[test]
    fn families_and_protocols_do_not_mix() {
        let key = |proto, src, dst| Key::from_tuple(&Frame::new(proto, src, dst).tuple).expect("one family");
        let (udp4, tcp4) = (key(17, "10.0.0.1:1", "10.0.0.2:2"), key(6, "10.0.0.1:1", "10.0.0.2:2"));
        let udp6 = key(17, "[2001:db8::1]:1", "[2001:db8::2]:2");
        assert_eq!(Rewrite::between(&udp4, &tcp4, true), None);
        assert_eq!(Rewrite::between(&udp4, &udp6, true), None);
        assert_eq!(Rewrite::between(&udp6, &udp4, true), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn rewriting_is_what_the_kernel_does((frame, to) in translated_frames()) {
            let mut packet = frame.ip();
            let mut expected = packet.clone();
            kernel::forward(&mut expected, &frame.tuple, &to);
            prop_assert!(rewrite(&frame.tuple, &to, true).apply(&mut packet));
            prop_assert_eq!(packet, expected);
        }

        #[test]
        fn rewritten_checksums_are_right((frame, to) in translated_frames()) {
            let mut packet = frame.ip();
            prop_assert!(rewrite(&frame.tuple, &to, true).apply(&mut packet));
            let moved = Frame { tuple: to, ttl: frame.ttl - 1, ..frame };
            prop_assert_eq!(&packet, &moved.ip());
        }

        #[test]
        fn without_nat_only_the_ttl_changes(frame in strategies::legal_frames()) {
            let before = frame.ip();
            let mut bridged = before.clone();
            prop_assert!(rewrite(&frame.tuple, &frame.tuple, false).apply(&mut bridged));
            prop_assert_eq!(&bridged, &before);
            let mut routed = before.clone();
            prop_assert!(rewrite(&frame.tuple, &frame.tuple, true).apply(&mut routed));
            let changing = if frame.tuple.src.is_ipv4() { [8, 10, 11] } else { [7, 7, 7] };
            for (at, (old, new)) in before.iter().zip(&routed).enumerate() {
                prop_assert!(old == new || changing.contains(&at), "byte {} changed", at);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_received_checksum_is_treated_as_the_kernel_does((frame, to) in translated_frames()) {
            let rewrite = rewrite(&frame.tuple, &to, true);
            let packet = frame.clone().payload(&[]).ip();
            let at = check_at(&frame);
            for check in 0..=u16::MAX {
                let mut ours = packet.clone();
                ours[at..at + 2].copy_from_slice(&check.to_ne_bytes());
                if frame.tuple.src.is_ipv4() {
                    ours[10..12].copy_from_slice(&check.to_ne_bytes());
                }
                let mut theirs = ours.clone();
                kernel::forward(&mut theirs, &frame.tuple, &to);
                prop_assert!(rewrite.apply(&mut ours));
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
