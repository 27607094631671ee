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
    #[inline]
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
