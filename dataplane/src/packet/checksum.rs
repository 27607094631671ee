//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! Words are taken as they lie in memory: a ones' complement sum is the same in either byte order.
//!
//! Zero has two representations in ones' complement, and what leaves must carry the one that the kernel
//! would have written. A sum of non-negative terms folds to 0 only if every term is 0, to 0xffff otherwise.
//! The kernel's `csum_replace4` and `ip_decrease_ttl` always have a term that is not 0, so they never
//! produce a checksum of 0xffff; and the order and grouping of updates does not matter. This allows one
//! update by one precomputed [`delta`] to replace the kernel's chain of updates, byte for byte.

use super::wire;

/// The [`delta`] of a TTL that goes down by one, for the IPv4 header checksum.
pub const TTL_DELTA: u16 = u16::from_ne_bytes([0xfe, 0xff]);

/// Ones' complement sum of two 16-bit words.
#[inline(always)]
#[must_use]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Folds a wide sum to 16 bits; 0 only if the sum is 0.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Sum of the 16-bit words of a byte string, an odd last byte padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, last) = bytes.as_chunks::<2>();
    let total: u64 = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
    total + last.first().map_or(0, |byte| u64::from(u16::from_ne_bytes([*byte, 0])))
}

/// What replacing words adds to a complemented checksum: `~m + m'` of equation 3, summed up.
///
/// 0 says "nothing is replaced" and leaves a checksum as it is, whichever zero it uses. Every real
/// replacement gives a value that is not 0, because the kernel's update writes one form of zero only.
#[must_use]
pub fn delta(old: &[u32], new: &[u32]) -> u16 {
    let mut total = 0;
    let mut touched = false;
    for (old, new) in old.iter().zip(new) {
        if old != new {
            touched = true;
            total += u64::from(!old) + u64::from(*new);
        }
    }
    match fold(total) {
        0 if touched => 0xffff,
        delta => delta,
    }
}

/// A TCP or IPv4 header checksum after an update: `~(~HC + delta)`.
#[inline(always)]
#[must_use]
pub const fn update(check: u16, delta: u16) -> u16 {
    !add(!check, delta)
}

/// A UDP checksum after an update: 0 means "none" and stays, a computed 0 is sent as 0xffff.
///
/// The kernel keeps a missing checksum over IPv6 too (`udp_manip_pkt`).
#[inline(always)]
#[must_use]
pub const fn update_udp(check: u16, delta: u16) -> u16 {
    let new = update(check, delta);
    if check == 0 {
        0
    } else if new == 0 {
        0xffff
    } else {
        new
    }
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline(always)]
#[must_use]
pub fn ipv4_header_is_valid(header: &[u8; wire::IPV4_LEN]) -> bool {
    let [a, b, c, d, e] = words(header);
    // Modulo 0xffff is what folding computes; the compiler makes one multiplication of it.
    (a + b + c + d + e).is_multiple_of(0xffff)
}

#[inline(always)]
fn words(header: &[u8; wire::IPV4_LEN]) -> [u64; 5] {
    let (words, _) = header.as_chunks::<4>();
    let mut wide = [0; 5];
    for (wide, word) in wide.iter_mut().zip(words) {
        *wide = u64::from(u32::from_ne_bytes(*word));
    }
    wide
}

/// The checksum to put over a header or message whose checksum field is zero.
#[must_use]
pub fn compute(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// TCP or UDP checksum over pseudo header and segment, with the checksum field inside taken as it is.
///
/// `addresses` is source and destination, 8 bytes for IPv4 and 32 for IPv6. Over a segment with a right
/// checksum the result is 0; over one whose field is zero it is the checksum to write there.
#[must_use]
pub fn compute_l4(addresses: &[u8], proto: u8, segment: &[u8]) -> u16 {
    let length = (segment.len() as u64).to_be_bytes();
    !fold(sum(addresses) + sum(&[0, proto]) + sum(&length) + sum(segment))
}
