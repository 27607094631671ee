//! The 5-tuple, as people see it and as the packet path compares it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Protocol, addresses and ports of one direction, as people see them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// IP protocol number; only TCP (6) and UDP (17) fly.
    pub proto: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address; of the same family as the source.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl FiveTuple {
    /// The tuple of an answer: source and destination exchanged.
    #[must_use]
    pub const fn inverted(self) -> Self {
        Self { proto: self.proto, src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

impl fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.proto {
            TCP => "tcp",
            UDP => "udp",
            _ => "ip",
        };
        let (src, dst) = (
            std::net::SocketAddr::new(self.src, self.sport),
            std::net::SocketAddr::new(self.dst, self.dport),
        );
        write!(f, "{name} {src} > {dst}")
    }
}

/// IPv4 key: words as they lie in the packet (network byte order in memory).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C, align(8))]
pub struct Key4 {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source and destination port, the four bytes at the start of the L4 header.
    pub ports: u32,
    /// IP protocol; as wide as the rest of the second word, so that there is no gap and two loads read the key.
    pub proto: u32,
}

/// IPv6 key: words as they lie in the packet (network byte order in memory).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Key6 {
    /// Source address.
    pub src: [u64; 2],
    /// Destination address.
    pub dst: [u64; 2],
    /// Source and destination port, the four bytes at the start of the L4 header.
    pub ports: u32,
    /// Upper-layer protocol; as wide as the rest of the last word.
    pub proto: u32,
}

/// A key of either family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    /// IPv4.
    V4(Key4),
    /// IPv6.
    V6(Key6),
}

fn ports(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

fn split_ports(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

fn words(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.octets();
    let (high, low) = bits.split_at(8);
    let word = |bytes: &[u8]| {
        let mut array = [0; 8];
        array.copy_from_slice(bytes);
        u64::from_ne_bytes(array)
    };
    [word(high), word(low)]
}

fn address(words: [u64; 2]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&words[0].to_ne_bytes());
    octets[8..].copy_from_slice(&words[1].to_ne_bytes());
    Ipv6Addr::from(octets)
}

impl Key {
    /// The key of a tuple; `None` if its addresses are of different families.
    pub fn from_tuple(tuple: &FiveTuple) -> Option<Self> {
        let ports = ports(tuple.sport, tuple.dport);
        match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4(Key4 {
                src: u32::from_ne_bytes(src.octets()),
                dst: u32::from_ne_bytes(dst.octets()),
                ports,
                proto: tuple.proto.into(),
            })),
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                Some(Self::V6(Key6 { src: words(src), dst: words(dst), ports, proto: tuple.proto.into() }))
            }
            _ => None,
        }
    }

    /// The tuple of this key.
    pub fn tuple(&self) -> FiveTuple {
        let (proto, src, dst, ports) = match *self {
            Self::V4(key) => (
                key.proto as u8,
                IpAddr::V4(Ipv4Addr::from(key.src.to_ne_bytes())),
                IpAddr::V4(Ipv4Addr::from(key.dst.to_ne_bytes())),
                key.ports,
            ),
            Self::V6(key) => (key.proto as u8, address(key.src).into(), address(key.dst).into(), key.ports),
        };
        let (sport, dport) = split_ports(ports);
        FiveTuple { proto, src, dst, sport, dport }
    }

    /// The key of an answer.
    #[must_use]
    pub const fn inverted(&self) -> Self {
        match *self {
            Self::V4(k) => {
                Self::V4(Key4 { src: k.dst, dst: k.src, ports: k.ports.rotate_left(16), proto: k.proto })
            }
            Self::V6(k) => {
                Self::V6(Key6 { src: k.dst, dst: k.src, ports: k.ports.rotate_left(16), proto: k.proto })
            }
        }
    }

    /// IP protocol.
    pub const fn proto(&self) -> u8 {
        match self {
            Self::V4(key) => key.proto as u8,
            Self::V6(key) => key.proto as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(src: &str, dst: &str) -> FiveTuple {
        FiveTuple {
            proto: TCP,
            src: src.parse().expect("address"),
            dst: dst.parse().expect("address"),
            sport: 0x1234,
            dport: 443,
        }
    }

    #[test]
    fn keys_and_tuples_convert_both_ways() {
        for t in [tuple("10.0.0.1", "192.0.2.7"), tuple("2001:db8::1", "fe80::42")] {
            let key = Key::from_tuple(&t).expect("one family");
            assert_eq!(key.tuple(), t);
            assert_eq!(key.inverted().tuple(), t.inverted());
        }
    }

    #[test]
    fn words_lie_as_in_the_packet() {
        let Some(Key::V4(key)) = Key::from_tuple(&tuple("10.0.0.1", "192.0.2.7")) else { panic!("IPv4") };
        assert_eq!(key.src.to_ne_bytes(), [10, 0, 0, 1]);
        assert_eq!(key.ports.to_ne_bytes(), [0x12, 0x34, 0x01, 0xbb]);
    }

    #[test]
    fn mixed_families_have_no_key() {
        assert_eq!(Key::from_tuple(&tuple("10.0.0.1", "::1")), None);
    }
}
