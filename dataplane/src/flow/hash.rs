//! The keyed hash of a 5-tuple: AES rounds where the processor has them, SipHash-1-3 elsewhere.
//!
//! The key is drawn at random for each table, so that nobody outside can choose connections that share a bucket.
//! Between the whitening of a block and the use of its output lie three rounds: a difference in the input passes
//! nine active S-boxes or more. IPv6 keys are three blocks, each through its own rounds, summed and mixed again.
#![allow(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

use super::{Key4, Key6};

/// The random key of one table's hash: whitening of three blocks, then round keys.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct HashKey([[u64; 2]; 8]);

impl HashKey {
    /// A key from the operating system's randomness, which is what seeds [`RandomState`].
    pub(crate) fn random() -> Self {
        if cfg!(loom) {
            // loom runs the same program again and again.
            return Self([[1, 2]; 8]);
        }
        let state = RandomState::new();
        let mut number = 0u64;
        Self(std::array::from_fn(|_| {
            std::array::from_fn(|_| {
                number += 1;
                state.hash_one(number)
            })
        }))
    }
}

/// A way to hash.
///
/// # Safety
/// None by itself; an implementation says which processor features its callers must have.
pub(crate) trait HashMethod {
    /// Hashes an IPv4 key.
    ///
    /// # Safety
    /// The processor has what the implementation needs.
    unsafe fn hash4(secret: &HashKey, key: &Key4) -> u64;
    /// Hashes an IPv6 key.
    ///
    /// # Safety
    /// The processor has what the implementation needs.
    unsafe fn hash6(secret: &HashKey, key: &Key6) -> u64;
}

/// SipHash-1-3, for processors without AES instructions.
pub(crate) struct Sip;

impl HashMethod for Sip {
    unsafe fn hash4(secret: &HashKey, key: &Key4) -> u64 {
        let addresses = u64::from(key.src) | u64::from(key.dst) << 32;
        sip(secret, [addresses, u64::from(key.ports) | u64::from(key.proto) << 32])
    }

    unsafe fn hash6(secret: &HashKey, key: &Key6) -> u64 {
        let rest = u64::from(key.ports) | u64::from(key.proto) << 32;
        sip(secret, [key.src[0], key.src[1], key.dst[0], key.dst[1], rest])
    }
}

fn sip<const N: usize>(secret: &HashKey, words: [u64; N]) -> u64 {
    let [k0, k1] = secret.0[0];
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        v[3] ^= word;
        sip_round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for _ in 0..3 {
        sip_round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *c = c.wrapping_add(*d);
    *b = b.rotate_left(13) ^ *a;
    *d = d.rotate_left(16) ^ *c;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*b);
    *a = a.wrapping_add(*d);
    *b = b.rotate_left(17) ^ *c;
    *d = d.rotate_left(21) ^ *a;
    *c = c.rotate_left(32);
}

#[cfg(all(target_arch = "x86_64", not(loom)))]
pub(crate) use aes::Aes;

#[cfg(all(target_arch = "x86_64", not(loom)))]
mod aes {
    use super::*;
    use core::arch::x86_64::*;

    /// AES-NI. Needs `aes`.
    pub(crate) struct Aes;

    #[inline(always)]
    unsafe fn secret(secret: &HashKey, index: usize) -> __m128i {
        // SAFETY: a HashKey word pair is 16 aligned bytes.
        unsafe { _mm_load_si128((&raw const secret.0[index]).cast()) }
    }

    /// Three rounds. Needs `aes`.
    #[inline(always)]
    unsafe fn rounds(key: &HashKey, block: __m128i) -> __m128i {
        // SAFETY: the caller has `aes`.
        unsafe {
            let block = _mm_aesenc_si128(block, secret(key, 3));
            let block = _mm_aesenc_si128(block, secret(key, 4));
            _mm_aesenc_si128(block, secret(key, 5))
        }
    }

    impl HashMethod for Aes {
        #[inline(always)]
        unsafe fn hash4(key: &HashKey, tuple: &Key4) -> u64 {
            let addresses = u64::from(tuple.src) | u64::from(tuple.dst) << 32;
            let rest = u64::from(tuple.ports) | u64::from(tuple.proto) << 32;
            // SAFETY: the caller has `aes`.
            unsafe {
                let block = _mm_set_epi64x(rest as i64, addresses as i64);
                _mm_cvtsi128_si64(rounds(key, _mm_xor_si128(block, secret(key, 0)))) as u64
            }
        }

        #[inline(always)]
        unsafe fn hash6(key: &HashKey, tuple: &Key6) -> u64 {
            // SAFETY: the caller has `aes`; addresses are 16 bytes each.
            unsafe {
                let src = _mm_loadu_si128((&raw const tuple.src).cast());
                let dst = _mm_loadu_si128((&raw const tuple.dst).cast());
                let rest = _mm_set_epi64x(i64::from(tuple.proto), i64::from(tuple.ports));
                let src = rounds(key, _mm_xor_si128(src, secret(key, 0)));
                let dst = rounds(key, _mm_xor_si128(dst, secret(key, 1)));
                let rest = rounds(key, _mm_xor_si128(rest, secret(key, 2)));
                let sum = _mm_xor_si128(_mm_xor_si128(src, dst), rest);
                let sum = _mm_aesenc_si128(sum, secret(key, 6));
                _mm_cvtsi128_si64(_mm_aesenc_si128(sum, secret(key, 7))) as u64
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sip_differs_by_key_and_input() {
        let (a, b) = (HashKey::random(), HashKey::random());
        let key = Key4 { src: 1, dst: 2, ports: 3, proto: 6 };
        // SAFETY: Sip needs nothing.
        let hash = |secret: &HashKey, key: &Key4| unsafe { Sip::hash4(secret, key) };
        assert_eq!(hash(&a, &key), hash(&a, &key));
        assert_ne!(hash(&a, &key), hash(&b, &key));
        assert_ne!(hash(&a, &key), hash(&a, &Key4 { proto: 17, ..key }));
    }
}
