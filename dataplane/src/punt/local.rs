//! The gateway's own addresses, for the class of punted packets.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

const BITS: usize = 4096;

/// A set of addresses that workers read without locks: a bitmap by keyed hash.
///
/// It may take a foreign address for a local one (at 16 addresses one in 256). That only costs such packets
/// a place in the control class, which is budgeted; what is delivered where is the kernel's decision.
#[derive(Debug)]
pub struct LocalAddresses {
    bits: Vec<AtomicU64>,
    hasher: RandomState,
}

impl Default for LocalAddresses {
    fn default() -> Self {
        Self { bits: (0..BITS / 64).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }
}

impl LocalAddresses {
    fn position(&self, address: IpAddr) -> (usize, u64) {
        let bit = self.hasher.hash_one(address) as usize % BITS;
        (bit / 64, 1 << (bit % 64))
    }

    /// Replaces the set.
    pub fn set(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut words = vec![0_u64; BITS / 64];
        for address in addresses {
            let (word, bit) = self.position(address);
            words[word] |= bit;
        }
        for (cell, word) in self.bits.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
    }

    /// The address may be local.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (word, bit) = self.position(address);
        self.bits[word].load(Ordering::Relaxed) & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_set_and_little_else() {
        let local = LocalAddresses::default();
        let own: Vec<IpAddr> = (1..=4).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        local.set(own.clone());
        assert!(own.iter().all(|a| local.contains(*a)));
        let foreign = (0..=255).filter(|n| local.contains(IpAddr::from([10, 0, 0, *n]))).count();
        assert!(foreign < 16, "{foreign} of 256 foreign addresses taken for local ones");
        local.set([]);
        assert!(!own.iter().any(|a| local.contains(*a)));
    }
}
