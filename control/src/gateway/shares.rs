//! What a worker does with its time: shares of the last second.

use dataplane::worker::Activity;

/// How long a look lasts, in nanoseconds.
const LOOK: u64 = 1_000_000_000;

/// A worker's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Shares {
    /// At work on packets, in percent: rounds that found some, of the time awake.
    pub(super) busy: f64,
    /// Asleep, in percent.
    pub(super) sleeping: f64,
    /// As it was when the look began.
    before: Sample,
}

/// Counters, at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    nanos: u64,
    slept: u64,
    polls: u64,
    empty: u64,
}

impl Shares {
    /// Looks again, if it is time.
    pub(super) fn follow(&mut self, nanos: u64, activity: &Activity) {
        self.take(Sample {
            nanos,
            slept: activity.slept_nanos.get(),
            polls: activity.polls.get(),
            empty: activity.empty_polls.get(),
        });
    }

    fn take(&mut self, now: Sample) {
        let before = self.before;
        let passed = now.nanos.saturating_sub(before.nanos);
        if passed < LOOK {
            return;
        }
        // A long sleep is counted when it ends.
        let asleep = (now.slept.saturating_sub(before.slept) as f64 / passed as f64).min(1.0);
        let polls = now.polls.saturating_sub(before.polls).max(1) as f64;
        let found = 1.0 - (now.empty.saturating_sub(before.empty) as f64 / polls).min(1.0);
        *self = Self { busy: 100.0 * (1.0 - asleep) * found, sleeping: 100.0 * asleep, before: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_second_counts() {
        let mut shares = Shares::default();
        // A quarter of the time awake, in which half of the rounds found packets.
        shares.take(Sample { nanos: LOOK, slept: LOOK / 4 * 3, polls: 1000, empty: 500 });
        assert_eq!((shares.busy, shares.sleeping), (12.5, 75.0));
        // Too early for another look.
        shares.take(Sample { nanos: LOOK + LOOK / 2, slept: LOOK, polls: 1500, empty: 500 });
        assert_eq!(shares.busy, 12.5);
        // Never asleep since, and each round found some.
        shares.take(Sample { nanos: 2 * LOOK, slept: LOOK / 4 * 3, polls: 3000, empty: 500 });
        assert_eq!((shares.busy, shares.sleeping), (100.0, 0.0));
        // Asleep all the time: no round at all.
        shares.take(Sample { nanos: 3 * LOOK, slept: LOOK / 4 * 7, polls: 3000, empty: 500 });
        assert_eq!((shares.busy, shares.sleeping), (0.0, 100.0));
    }
}
