//! What a packet of one direction becomes: new addresses and ports, and what that does to its checksums.

use super::{Key, Key4, Key6};

/// New addresses and ports of an IPv4 direction, words as they lie in the packet, and the checksum differences.
///
/// A difference of 0 says that the checksum stays. See [`adjust`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite4 {
    /// New source address.
    pub src: u32,
    /// New destination address.
    pub dst: u32,
    /// New source and destination port.
    pub ports: u32,
    /// Difference for the IPv4 header checksum: addresses, not the TTL.
    pub ip_delta: u16,
    /// Difference for the TCP or UDP checksum: addresses and ports.
    pub l4_delta: u16,
}

/// New addresses and ports of an IPv6 direction, words as they lie in the packet, and the checksum difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite6 {
    /// New source address.
    pub src: [u64; 2],
    /// New destination address.
    pub dst: [u64; 2],
    /// New source and destination port.
    pub ports: u32,
    /// Difference for the TCP or UDP checksum: addresses and ports.
    pub l4_delta: u16,
}

/// What a packet of one direction becomes, of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewrite {
    /// IPv4.
    V4(Rewrite4),
    /// IPv6.
    V6(Rewrite6),
}

impl Rewrite {
    /// The rewrite that turns packets with `key` into packets with `leaves_as`; `None` if the families differ.
    pub fn between(key: &Key, leaves_as: &Key) -> Option<Self> {
        match (key, leaves_as) {
            (Key::V4(from), Key::V4(to)) => Some(Self::V4(Rewrite4::between(from, to))),
            (Key::V6(from), Key::V6(to)) => Some(Self::V6(Rewrite6::between(from, to))),
            _ => None,
        }
    }

    /// The rewrite that changes nothing: routed, not translated.
    pub fn identity(key: &Key) -> Self {
        match key {
            Key::V4(key) => Self::V4(Rewrite4::between(key, key)),
            Key::V6(key) => Self::V6(Rewrite6::between(key, key)),
        }
    }
}

impl Rewrite4 {
    /// The rewrite that turns packets with key `from` into packets with key `to`.
    pub fn between(from: &Key4, to: &Key4) -> Self {
        let addresses = word(from.src, to.src) + word(from.dst, to.dst);
        Self {
            src: to.src,
            dst: to.dst,
            ports: to.ports,
            ip_delta: fold(addresses),
            l4_delta: fold(addresses + word(from.ports, to.ports)),
        }
    }
}

impl Rewrite6 {
    /// The rewrite that turns packets with key `from` into packets with key `to`.
    pub fn between(from: &Key6, to: &Key6) -> Self {
        let halves = |v: u64| [v as u32, (v >> 32) as u32];
        let old = from.src.into_iter().chain(from.dst).flat_map(halves);
        let new = to.src.into_iter().chain(to.dst).flat_map(halves);
        let addresses: u64 = old.zip(new).map(|(old, new)| word(old, new)).sum();
        Self {
            src: to.src,
            dst: to.dst,
            ports: to.ports,
            l4_delta: fold(addresses + word(from.ports, to.ports)),
        }
    }
}

/// ~m + m' of RFC 1624 equation 3 for the two halves of a word; nothing at all if the word stays.
fn word(old: u32, new: u32) -> u64 {
    if old == new {
        return 0;
    }
    let sum = |v: u32| u64::from(v & 0xffff) + u64::from(v >> 16);
    sum(!old) + sum(new)
}

/// Ones-complement fold: 0 only for 0, so a change whose words cancel out is 0xffff and still tells from none.
fn fold(sum: u64) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum field after a change: RFC 1624 equation 3, `~(~check + delta)`.
///
/// `check` is the field as it lies in the packet (native load); the sum does not care for byte order. As in
/// the kernel's `csum_replace`, a changed packet never ends with 0xffff. For UDP a field of 0 (no checksum) must be
/// left alone, and a result of 0 be sent as 0xffff (RFC 768).
#[inline]
#[must_use]
pub const fn adjust(check: u16, delta: u16) -> u16 {
    let sum = !check as u32 + delta as u32;
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The Internet checksum (RFC 1071) of the words, in the packet's byte order.
    fn checksum(bytes: &[u8]) -> u16 {
        let pairs = bytes.chunks_exact(2).map(|p| u64::from(u16::from_ne_bytes([p[0], p[1]])));
        !fold(pairs.sum())
    }

    fn address_bytes(words: [[u64; 2]; 2]) -> impl Iterator<Item = u8> {
        words.into_iter().flatten().flat_map(u64::to_ne_bytes)
    }

    fn key4() -> impl Strategy<Value = Key4> {
        (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(src, dst, ports)| Key4 {
            src,
            dst,
            ports,
            proto: 6,
        })
    }

    fn key6() -> impl Strategy<Value = Key6> {
        (any::<[u64; 2]>(), any::<[u64; 2]>(), any::<u32>()).prop_map(|(src, dst, ports)| Key6 {
            src,
            dst,
            ports,
            proto: 17,
        })
    }

    proptest! {
        #[test]
        fn ipv4_deltas_equal_recomputed_checksums(from in key4(), to in key4(), rest in any::<[u8; 32]>()) {
            let packet = |key: &Key4, ports: bool| {
                let mut bytes = rest.to_vec();
                bytes[0] |= 1; // a real header is never all zero
                bytes.extend(key.src.to_ne_bytes());
                bytes.extend(key.dst.to_ne_bytes());
                if ports {
                    bytes.extend(key.ports.to_ne_bytes());
                }
                bytes
            };
            let rewrite = Rewrite4::between(&from, &to);
            let [ip, ip_new] = [&from, &to].map(|k| checksum(&packet(k, false)));
            prop_assert_eq!(adjust(ip, rewrite.ip_delta), ip_new);
            let [l4, l4_new] = [&from, &to].map(|k| checksum(&packet(k, true)));
            prop_assert_eq!(adjust(l4, rewrite.l4_delta), l4_new);
        }

        #[test]
        fn ipv6_delta_equals_recomputed_checksum(from in key6(), to in key6(), rest in any::<[u8; 32]>()) {
            let packet = |key: &Key6| {
                let mut bytes = rest.to_vec();
                bytes[0] |= 1;
                bytes.extend(address_bytes([key.src, key.dst]));
                bytes.extend(key.ports.to_ne_bytes());
                bytes
            };
            let rewrite = Rewrite6::between(&from, &to);
            prop_assert_eq!(adjust(checksum(&packet(&from)), rewrite.l4_delta), checksum(&packet(&to)));
        }

        #[test]
        fn identity_changes_nothing(key in key4(), check in any::<u16>()) {
            let Rewrite::V4(rewrite) = Rewrite::identity(&Key::V4(key)) else { panic!("IPv4") };
            prop_assert_eq!((rewrite.ip_delta, rewrite.l4_delta), (0, 0));
            prop_assert_eq!(adjust(check, 0), check);
        }
    }

    #[test]
    fn a_change_that_cancels_out_is_told_from_none() {
        let from = Key4 { src: 1, dst: 2, ports: 0, proto: 6 };
        let swapped = Key4 { src: 2, dst: 1, ..from };
        assert_eq!(Rewrite4::between(&from, &swapped).ip_delta, 0xffff);
        assert_eq!(adjust(0xffff, 0xffff), 0, "as the kernel's csum_replace4 normalises it");
    }

    #[test]
    fn families_do_not_mix() {
        assert_eq!(Rewrite::between(&Key::V4(Key4::default()), &Key::V6(Key6::default())), None);
    }
}
