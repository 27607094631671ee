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

/// A TCP or IPv4 header checksum after an update: `~(~HC + delta)`, which is `HC - delta` with the borrow taken off.
#[inline(always)]
#[must_use]
pub const fn update(check: u16, delta: u16) -> u16 {
    let (difference, borrow) = check.overflowing_sub(delta);
    difference.wrapping_sub(borrow as u16)
}

/// A UDP checksum after an update: 0 means "none" and stays, a computed 0 is sent as 0xffff.
///
/// The kernel keeps a missing checksum over IPv6 too (`udp_manip_pkt`).
#[inline(always)]
#[must_use]
pub const fn update_udp(check: u16, delta: u16) -> u16 {
    // The same remainder as [`update`] leaves; but a sum of which a term is not 0 folds to 0xffff instead of 0.
    if check == 0 { 0 } else { add(check, !delta) }
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline(always)]
#[must_use]
pub fn ipv4_header_is_valid(header: &[u8; wire::IPV4_LEN]) -> bool {
    // Folding computes the remainder by 0xffff. That there is none shows in a product with the inverse of
    // 0xffff modulo 2^64: multiples, and only they, stay small.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    // In words of 64 bits, whose carries are worth 1 too.
    let (wide, last) = header.as_chunks::<8>();
    let mut sum = last.first_chunk().map_or(0, |word| u128::from(u32::from_ne_bytes(*word)));
    for word in wide {
        sum += u128::from(u64::from_ne_bytes(*word));
    }
    let (sum, carry) = (sum as u64).overflowing_add((sum >> 64) as u64);
    (sum + u64::from(carry)).wrapping_mul(INVERSE) <= u64::MAX / 0xffff
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::kernel;

    #[test]
    fn a_known_header_and_segment() {
        // RFC 1071, section 3: these words sum to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(compute(&bytes), !u16::from_ne_bytes([0xdd, 0xf2]));
        // An odd last byte is the high half of its word.
        assert_eq!(compute(&[0x12, 0x34, 0x56]), !u16::from_ne_bytes([0x68, 0x34]));
        let pseudo = [10, 0, 0, 1, 10, 0, 0, 2];
        let mut udp = [0x10, 0x00, 0x00, 0x35, 0x00, 0x0a, 0, 0, b'h', b'i'];
        let check = compute_l4(&pseudo, 17, &udp);
        assert_eq!(check.to_ne_bytes(), [0x73, 0x39]);
        udp[6..8].copy_from_slice(&check.to_ne_bytes());
        assert_eq!(compute_l4(&pseudo, 17, &udp), 0);
    }

    #[test]
    fn ttl_delta_is_the_kernels_decrement_for_every_checksum() {
        for check in 0..=u16::MAX {
            assert_eq!(update(check, TTL_DELTA), kernel::decrease_ttl(check));
        }
    }

    #[test]
    fn nothing_replaced_leaves_either_zero_as_it_is() {
        assert_eq!(delta(&[1, 2], &[1, 2]), 0);
        for check in 0..=u16::MAX {
            assert_eq!(update(check, 0), check);
            assert_eq!(update_udp(check, 0), check);
        }
    }

    #[test]
    fn a_real_replacement_is_never_zero() {
        // 0xffff and 0 are the same to the sum, and so is an exchange of words.
        for (old, new) in [(u32::MAX, 0), (0, u32::MAX), (0x0001_0002, 0x0002_0001)] {
            assert_eq!(delta(&[old], &[new]), 0xffff);
            for check in [0, 0xffff] {
                assert_eq!(update(check, delta(&[old], &[new])), kernel::replace4(check, old, new));
            }
        }
    }

    #[test]
    fn udp_keeps_none_and_never_sends_zero() {
        assert_eq!(update_udp(0, 0x1234), 0);
        for check in 1..=u16::MAX {
            assert_ne!(update_udp(check, 0x1234), 0);
        }
    }

    proptest! {
        #[test]
        fn update_is_the_kernels_for_every_checksum(old: u32, new: u32) {
            prop_assume!(old != new);
            let delta = delta(&[old], &[new]);
            for check in 0..=u16::MAX {
                prop_assert_eq!(update(check, delta), kernel::replace4(check, old, new));
            }
        }

        #[test]
        fn validity_is_what_recomputing_says(mut header: [u8; 20], right: bool) {
            if right {
                header[10..12].copy_from_slice(&[0, 0]);
                let check = compute(&header);
                header[10..12].copy_from_slice(&check.to_ne_bytes());
            }
            prop_assert_eq!(ipv4_header_is_valid(&header), compute(&header) == 0 && header != [0; 20]);
        }
    }
}
