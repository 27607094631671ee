//! How much the kernel is given at a time, and how much may wait for it.
//!
//! A direction takes off when the packets of it that were punted before have come out of the kernel, for which new ones
//! wait some 20 ms at most. So if packets stood in the ring for longer than that, no flow would take off any more, and
//! the packets of those that can't would keep the ring full. What more waits would be late anyway: it is dropped.

use super::fingerprints::PATIENCE;

/// How long packets may have to wait as a rule, in microseconds.
const STANDING: u64 = 8_000;
/// How often that is looked at, in microseconds. Bursts that are worked off within that may be as long as the ring.
const INTERVAL: u64 = 100_000;
/// What the kernel is given at a time is to take it no longer than that, so that its frames are read in time.
const STINT: u64 = PATIENCE / 8;
/// Packets that may wait in any case.
const LEAST: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    /// The most packets to be given to the kernel before its frames are read.
    batch: usize,
    most: usize,
    capacity: usize,
    /// Packets that may wait.
    limit: usize,
    since: u64,
    /// The fewest that waited at any time since then, and how many were taken.
    fewest: usize,
    taken: u64,
}

impl Pace {
    /// For batches of `most` packets, and a ring of `capacity`.
    pub(super) const fn new(most: usize, capacity: usize) -> Self {
        Self { batch: most, most, capacity, limit: capacity, since: 0, fewest: usize::MAX, taken: 0 }
    }

    pub(super) const fn batch(&self) -> usize {
        self.batch
    }

    /// So many packets were given to the kernel, which took so many microseconds.
    pub(super) fn took(&mut self, packets: usize, micros: u64) {
        self.taken += packets as u64;
        if micros > STINT {
            self.batch = (self.batch / 2).max(1);
        } else if packets == self.batch {
            self.batch = (self.batch * 2).min(self.most);
        }
    }

    /// So many packets wait. Says how many may, if that has changed.
    pub(super) fn waiting(&mut self, packets: usize, now: u64) -> Option<usize> {
        self.fewest = self.fewest.min(packets);
        let passed = now.saturating_sub(self.since);
        if passed < INTERVAL {
            return None;
        }
        // What is taken while some of them wait.
        let in_time = usize::try_from(self.taken * STANDING / passed).unwrap_or(usize::MAX).max(LEAST);
        let limit = if self.fewest > in_time {
            in_time.min(self.capacity)
        } else if self.fewest < self.limit / 4 {
            self.limit.saturating_mul(2).min(self.capacity)
        } else {
            self.limit
        };
        (self.since, self.fewest, self.taken) = (now, packets, 0);
        let changed = limit != self.limit;
        self.limit = limit;
        changed.then_some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring that is never empty, of which so many packets a millisecond are taken: the limits that follow.
    fn limits(pace: &mut Pace, waiting: usize, rate: usize, millis: std::ops::Range<u64>) -> Vec<usize> {
        millis
            .filter_map(|milli| {
                pace.took(rate, 10);
                pace.waiting(waiting, milli * 1000)
            })
            .collect()
    }

    #[test]
    fn what_stands_for_too_long_is_limited_and_the_limit_goes_with_it() {
        let mut pace = Pace::new(64, 4096);
        // 400 packets wait for 200 us each: 80 ms.
        assert_eq!(limits(&mut pace, 400, 5, 1..250), [40]);
        assert_eq!(limits(&mut pace, 39, 5, 250..500), [], "as many as may");
        assert_eq!(limits(&mut pace, 0, 5, 500..2000), [80, 160, 320, 640, 1280, 2560, 4096]);
    }

    #[test]
    fn a_full_ring_that_is_emptied_fast_enough_is_not_limited() {
        let mut pace = Pace::new(64, 4096);
        assert_eq!(limits(&mut pace, 4096, 600, 1..1000), []);
    }

    #[test]
    fn a_burst_is_not_limited() {
        let mut pace = Pace::new(64, 4096);
        for milli in 1..1000_u64 {
            let waiting = if milli % 90 == 0 { 0 } else { 4000 };
            assert_eq!(pace.waiting(waiting, milli * 1000), None);
        }
    }

    #[test]
    fn a_slow_kernel_gets_little_at_a_time_and_a_fast_one_much() {
        let mut pace = Pace::new(64, 4096);
        let mut batches = Vec::new();
        for _ in 0..8 {
            batches.push(pace.batch());
            pace.took(pace.batch(), pace.batch() as u64 * 1700);
        }
        assert_eq!(batches, [64, 32, 16, 8, 4, 2, 1, 1]);
        for _ in 0..8 {
            pace.took(pace.batch(), pace.batch() as u64);
        }
        assert_eq!(pace.batch(), 64);
        pace.took(3, 3);
        assert_eq!(pace.batch(), 64, "there were no more");
    }
}
