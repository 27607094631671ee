//! Connections by number: the keys of both directions, computed and not remembered, so that drawing one touches no
//! memory.

use dataplane::flow::{Key, Key4, Key6, UDP};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the gateway does to addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Source NAT of clients behind 256 public addresses.
    Snat,
    /// Destination NAT of one public address to servers.
    Dnat,
    /// Nothing but routing.
    Route,
}

/// A numbering of connections.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// Address family.
    pub family: Family,
    /// What happens to them.
    pub nat: Nat,
}

/// Added to a connection's number to name one that is in no table. Numbers are below 2^24.
pub const STRANGER: u32 = 1 << 24;

const SERVICE: u16 = 443;

const fn word(a: u8, rest: u32) -> u32 {
    u32::from_ne_bytes([a, (rest >> 16) as u8, (rest >> 8) as u8, rest as u8])
}

const fn pair(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Source, destination and ports of one direction, before the family is known.
struct Ends<A> {
    src: A,
    dst: A,
    ports: u32,
}

impl Flows {
    /// The ends of a connection's packets as they come in.
    #[inline(always)]
    fn ends<A: Copy>(
        self,
        number: u32,
        reply: bool,
        client: A,
        server: A,
        public: impl Fn(u32) -> A,
    ) -> Ends<A> {
        let port = 0x8000 | (number ^ number >> 9) as u16;
        match (self.nat, reply) {
            (Nat::Snat | Nat::Route, false) => Ends { src: client, dst: server, ports: pair(port, SERVICE) },
            (Nat::Dnat, false) => Ends { src: client, dst: public(0), ports: pair(port, 8443) },
            (Nat::Dnat | Nat::Route, true) => Ends { src: server, dst: client, ports: pair(SERVICE, port) },
            (Nat::Snat, true) => {
                let dst = public(number >> 16 & 0xff);
                Ends { src: server, dst, ports: pair(SERVICE, number as u16) }
            }
        }
    }

    /// The IPv4 key of a direction of a connection.
    #[inline(always)]
    pub fn key4(self, number: u32, reply: bool) -> Key4 {
        // A stranger's addresses differ in the first octet.
        let strange = (number / STRANGER) as u8;
        let client = word(10 + strange, number & 0x00ff_ffff);
        let server = word(93 + strange, 0xb8_d800 | number & 0xff);
        let Ends { src, dst, ports } = self.ends(number, reply, client, server, |n| word(198, 0x12_0000 | n));
        Key4 { src, dst, ports, proto: UDP.into() }
    }

    /// The IPv6 key of a direction of a connection.
    #[inline(always)]
    pub fn key6(self, number: u32, reply: bool) -> Key6 {
        let address = |net: u64, host: u32| {
            [(0x2001_0db8_0000_0000 | net).to_be(), u64::from(host).to_be() | 0x0100_u64.to_be()]
        };
        let client = address(1, number << 8);
        let server = address(u64::from(2 + number / STRANGER), number & 0xff);
        let Ends { src, dst, ports } = self.ends(number, reply, client, server, |n| address(9, n << 16));
        Key6 { src, dst, ports, proto: UDP.into() }
    }

    /// The key of a direction of a connection.
    pub fn key(self, number: u32, reply: bool) -> Key {
        match self.family {
            Family::V4 => Key::V4(self.key4(number, reply)),
            Family::V6 => Key::V6(self.key6(number, reply)),
        }
    }
}

/// SplitMix64: cheap, and each number is independent of the one before.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[inline(always)]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ z >> 31
    }

    /// A number below `range`, all alike.
    #[inline(always)]
    pub fn below(&mut self, range: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(range)) >> 32) as u32
    }
}
