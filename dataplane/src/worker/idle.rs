//! What a worker does when there is nothing to do.

use std::time::Duration;

use super::stages::StageCosts;
use crate::clock::Clock;
use crate::flow::Counter;

/// How a worker rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdlePolicy {
    /// The longest sleep: what the first packet after a pause may wait. Zero: never sleep, poll on.
    pub longest: Duration,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self { longest: Duration::from_millis(2) }
    }
}

/// What a worker does with its time; written by it alone.
#[derive(Debug, Default)]
pub struct Activity {
    /// Rounds over all ports.
    pub polls: Counter,
    /// Rounds that found nothing.
    pub empty_polls: Counter,
    /// Sleeps.
    pub sleeps: Counter,
    /// Nanoseconds slept, as asked for.
    pub slept_nanos: Counter,
    /// What its stages cost.
    pub stages: StageCosts,
}

impl Activity {
    pub(super) fn polled(&self, found: bool) {
        self.polls.add(1);
        self.empty_polls.add(u64::from(!found));
    }

    pub(super) fn slept(&self, nap: Duration) {
        self.sleeps.add(1);
        self.slept_nanos.add(u64::try_from(nap.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Without a packet for so long a worker begins to sleep.
const PATIENCE_NANOS: u64 = 200_000;
/// The first sleep; each that follows is twice as long, up to the policy's longest.
const FIRST: Duration = Duration::from_micros(20);

#[derive(Debug)]
pub(super) struct Idle {
    policy: IdlePolicy,
    since: Option<u64>,
    nap: Duration,
}

impl Idle {
    pub(super) const fn new(policy: IdlePolicy) -> Self {
        Self { policy, since: None, nap: FIRST }
    }

    pub(super) const fn worked(&mut self) {
        self.since = None;
        self.nap = FIRST;
    }

    /// A round without work: how long to sleep, if at all.
    pub(super) fn nothing_to_do(&mut self, clock: &Clock) -> Option<Duration> {
        if self.policy.longest.is_zero() {
            std::hint::spin_loop();
            return None;
        }
        let now = clock.nanos();
        let since = *self.since.get_or_insert(now);
        if now - since < PATIENCE_NANOS {
            std::hint::spin_loop();
            return None;
        }
        let nap = self.nap.min(self.policy.longest);
        self.nap = (self.nap * 2).min(self.policy.longest);
        Some(nap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_longer_and_longer_up_to_the_limit_and_starts_anew_after_work() {
        let clock = Clock::start();
        let mut idle = Idle::new(IdlePolicy { longest: Duration::from_micros(70) });
        idle.since = Some(0);
        while clock.nanos() < PATIENCE_NANOS {
            std::hint::spin_loop();
        }
        let naps: Vec<_> = (0..4).filter_map(|_| idle.nothing_to_do(&clock)).map(|d| d.as_micros()).collect();
        assert_eq!(naps, [20, 40, 70, 70]);
        idle.worked();
        assert_eq!(idle.nothing_to_do(&clock), None);
    }

    #[test]
    fn zero_means_never() {
        let mut idle = Idle::new(IdlePolicy { longest: Duration::ZERO });
        idle.since = Some(0);
        assert_eq!(idle.nothing_to_do(&Clock::start()), None);
    }
}
