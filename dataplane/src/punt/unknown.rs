//! 5-tuples without an entry that the punt path keeps seeing.
//!
//! One-way streams (video, syslog) cause no conntrack event that control follows, and events can be lost. What
//! is worth asking the kernel for is what has many packets: a table of fixed size finds the frequent ones among
//! any number of others.

use std::hash::{BuildHasher, RandomState};

use crate::flow::Key;

/// Places; each remembers one 5-tuple, the most frequent of late among those that fall there.
const PLACES: usize = 4096;
/// Packets within [`WINDOW`] that make a 5-tuple worth asking for.
const HOT: u16 = 8;
/// Microseconds.
const WINDOW: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Place {
    key: Key,
    /// Packets of `key`, less those of others that fell here; 0: free.
    weight: u16,
    since: u64,
    /// Told of already in this window.
    told: bool,
}

/// Finds the frequent 5-tuples, in memory of fixed size.
#[derive(Debug)]
pub(super) struct Unknown {
    places: Vec<Option<Place>>,
    hasher: RandomState,
}

impl Unknown {
    pub(super) fn new() -> Self {
        Self { places: vec![None; PLACES], hasher: RandomState::new() }
    }

    /// A packet of this 5-tuple went by; `true`: ask for it. At most once a second for each.
    pub(super) fn seen(&mut self, key: &Key, now: u64) -> bool {
        let index = self.hasher.hash_one(key) as usize % PLACES;
        let Some(place) = self.places.get_mut(index) else { return false };
        let held = place.as_mut().filter(|p| p.weight > 0 && now.saturating_sub(p.since) < WINDOW);
        match held {
            Some(held) if held.key == *key => {
                held.weight = held.weight.saturating_add(1);
                let ask = held.weight >= HOT && !held.told;
                held.told |= ask;
                ask
            }
            // Another one: whoever is frequent outweighs those that come and go.
            Some(held) => {
                held.weight -= 1;
                false
            }
            None => {
                *place = Some(Place { key: *key, weight: 1, since: now, told: false });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Key4, UDP};

    fn key(n: u32) -> Key {
        Key::V4(Key4 { src: n, dst: 1, ports: 2, proto: UDP.into() })
    }

    #[test]
    fn a_stream_is_asked_for_once_a_second() {
        let mut unknown = Unknown::new();
        let asked = (0..100).filter(|n| unknown.seen(&key(7), n * 1000)).count();
        assert_eq!(asked, 1);
        let again = (0..100).filter(|n| unknown.seen(&key(7), 2 * WINDOW + n * 1000)).count();
        assert_eq!(again, 1);
    }

    #[test]
    fn a_few_packets_are_not_worth_it() {
        let mut unknown = Unknown::new();
        assert!(!(0..7).any(|n| unknown.seen(&key(7), n)));
        // Nor many, if they come slowly.
        assert!(!(0..100).any(|n| unknown.seen(&key(8), n * WINDOW / 4)));
    }

    #[test]
    fn a_stream_stands_out_of_a_flood() {
        let mut unknown = Unknown::new();
        let mut asked = Vec::new();
        for n in 0..200_000_u32 {
            let now = u64::from(n) * 4;
            // Every fifth packet is of the stream, the others of as many different 5-tuples.
            let key = if n % 5 == 0 { key(0) } else { key(1_000_000 + n) };
            if unknown.seen(&key, now) {
                asked.push(key);
            }
        }
        assert!(asked.contains(&key(0)));
        assert!(asked.len() < 50, "{} asked for", asked.len());
    }
}
