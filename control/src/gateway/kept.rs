//! Which neighbours the kernel is to keep: those behind which packets fly.
//!
//! The kernel sends nothing to them itself, so it would neither probe them nor notice that they are gone. A next hop is
//! known by its MAC address alone (it was learned from a frame); every neighbour of that address is kept.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// A neighbour: the interface that it is on, and its address.
pub(super) type Place = (u32, IpAddr);

/// How often neighbours are looked at, in milliseconds.
const EVERY: u64 = 2_000;
/// How long one is kept after the last flow, in milliseconds: flows come and go.
const LINGER: u64 = 60_000;
/// The most to keep. A router that answers for a whole network has a neighbour for each of its addresses.
const MOST: usize = 8_192;
/// Requests at a time, so that the loop goes on: each takes some 10 us.
const BATCH: usize = 256;

/// What the kernel is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To keep a neighbour.
    Keep(Place),
    /// To treat it as any other again.
    Release(Place),
}

/// The neighbours that are kept, with the time when they were needed last.
#[derive(Debug, Default)]
pub(super) struct Kept {
    needed: HashMap<Place, u64>,
    due: u64,
}

impl Kept {
    /// Takes over what an earlier process kept.
    pub(super) fn begin(&mut self, now: u64, kept: impl Iterator<Item = Place>) {
        self.needed.extend(kept.map(|place| (place, now)));
    }

    /// Whether it is time to [look](Self::review).
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.due
    }

    /// Compares what is kept with what is needed: the MAC addresses to which packets fly, and the neighbours that have
    /// one of them. Those that are `fixed` are left alone: the kernel would make an entry that it is to manage anew.
    pub(super) fn review(
        &mut self,
        now: u64,
        flown_to: &HashSet<[u8; 6]>,
        neighbours: &HashMap<Place, [u8; 6]>,
        fixed: &HashSet<Place>,
    ) -> Vec<Wish> {
        self.due = now + EVERY;
        let mut wishes = Vec::new();
        // To release one that was made permanent meanwhile would undo that.
        self.needed.retain(|place, _| !fixed.contains(place));
        let needed =
            neighbours.iter().filter(|(place, mac)| flown_to.contains(*mac) && !fixed.contains(*place));
        for (place, _) in needed {
            if let Some(last) = self.needed.get_mut(place) {
                *last = now;
            } else if wishes.len() < BATCH && self.needed.len() < MOST {
                self.needed.insert(*place, now);
                wishes.push(Wish::Keep(*place));
            }
        }
        let over: Vec<Place> = self
            .needed
            .iter()
            .filter(|(_, last)| now.saturating_sub(**last) >= LINGER)
            .map(|(place, _)| *place)
            .take(BATCH)
            .collect();
        for place in over {
            self.needed.remove(&place);
            wishes.push(Wish::Release(place));
        }
        wishes
    }

    /// The kernel could not: it is asked again when next it is looked at.
    pub(super) fn refused(&mut self, place: Place) {
        self.needed.remove(&place);
    }

    /// Everything that is still to be released, at the end.
    pub(super) fn take(&mut self, fixed: &HashSet<Place>) -> Vec<Place> {
        std::mem::take(&mut self.needed).into_keys().filter(|place| !fixed.contains(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn place(last: u8) -> Place {
        (3, IpAddr::from([192, 0, 2, last]))
    }

    fn neighbours() -> HashMap<Place, [u8; 6]> {
        HashMap::from([(place(1), MAC), (place(2), MAC), (place(3), OTHER)])
    }

    #[test]
    fn every_neighbour_of_a_mac_that_is_flown_to_is_kept_once() {
        let mut kept = Kept::default();
        let mut wishes = kept.review(0, &HashSet::from([MAC]), &neighbours(), &HashSet::new());
        wishes.sort_by_key(|wish| format!("{wish:?}"));
        assert_eq!(wishes, [Wish::Keep(place(1)), Wish::Keep(place(2))]);
        assert!(!kept.is_due(EVERY - 1) && kept.is_due(EVERY));
        assert_eq!(kept.review(EVERY, &HashSet::from([MAC]), &neighbours(), &HashSet::new()), []);
    }

    #[test]
    fn it_is_released_a_while_after_the_last_flow() {
        let mut kept = Kept::default();
        kept.review(0, &HashSet::from([OTHER]), &neighbours(), &HashSet::new());
        assert_eq!(kept.review(10, &HashSet::from([OTHER]), &neighbours(), &HashSet::new()), []);
        assert_eq!(kept.review(LINGER + 9, &HashSet::new(), &neighbours(), &HashSet::new()), []);
        assert_eq!(
            kept.review(LINGER + 10, &HashSet::new(), &neighbours(), &HashSet::new()),
            [Wish::Release(place(3))]
        );
        assert_eq!(kept.review(LINGER + 11, &HashSet::new(), &neighbours(), &HashSet::new()), []);
    }

    #[test]
    fn what_an_earlier_process_kept_is_released_when_nothing_needs_it() {
        let mut kept = Kept::default();
        kept.begin(5, [place(1), place(3)].into_iter());
        assert_eq!(kept.review(6, &HashSet::from([OTHER]), &neighbours(), &HashSet::new()), []);
        assert_eq!(
            kept.review(LINGER + 5, &HashSet::from([OTHER]), &neighbours(), &HashSet::new()),
            [Wish::Release(place(1))]
        );
        assert_eq!(kept.take(&HashSet::new()), [place(3)]);
    }

    #[test]
    fn a_refusal_is_tried_again_and_a_batch_is_bounded() {
        let mut kept = Kept::default();
        let many: HashMap<Place, [u8; 6]> =
            (0..1000_u32).map(|n| ((3, IpAddr::from((0x0a00_0000 + n).to_be_bytes())), MAC)).collect();
        let wishes = kept.review(0, &HashSet::from([MAC]), &many, &HashSet::new());
        assert_eq!(wishes.len(), BATCH);
        let Some(Wish::Keep(first)) = wishes.first().copied() else { panic!("{wishes:?}") };
        kept.refused(first);
        let mut asked = HashSet::new();
        for round in 1..10 {
            asked.extend(kept.review(round, &HashSet::from([MAC]), &many, &HashSet::new()).into_iter().map(
                |wish| match wish {
                    Wish::Keep(place) | Wish::Release(place) => place,
                },
            ));
        }
        assert!(asked.contains(&first));
        assert_eq!(asked.len(), 1000 - BATCH + 1);
    }

    #[test]
    fn what_is_somebody_elses_is_neither_kept_nor_released() {
        let mut kept = Kept::default();
        let (flown_to, fixed) = (HashSet::from([MAC]), HashSet::from([place(1)]));
        assert_eq!(kept.review(0, &flown_to, &neighbours(), &fixed), [Wish::Keep(place(2))]);
        // The other one becomes so while it is kept.
        let fixed = HashSet::from([place(1), place(2)]);
        assert_eq!(kept.review(1, &flown_to, &neighbours(), &fixed), []);
        assert_eq!(kept.review(2 * LINGER, &HashSet::new(), &neighbours(), &fixed), []);
        kept.begin(2 * LINGER, [place(2), place(3)].into_iter());
        assert_eq!(kept.take(&fixed), [place(3)]);
    }
}
