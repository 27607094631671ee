//! Whether the dataplane's threads go on; and as long as all do, the service manager's watchdog is fed.
//!
//! Each thread counts its rounds, and no sleep lasts longer than a second: a thread that counts none for a while is
//! stuck, and so is its part of the traffic. The control loop, which does the feeding, is watched by being the feeder.

use std::time::Duration;

use super::state::State;

/// How often it is looked at where no service manager says how often it wants to hear, in milliseconds.
const EVERY: u64 = 2_500;
/// Looks within the time after which the service manager loses its patience.
const LOOKS: u64 = 4;
/// What a thread may be late beyond its longest sleep, in milliseconds.
const SLACK: u64 = 100;

/// A thread of the dataplane, as it was seen last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    rounds: u64,
    /// When they were fewer.
    moved: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Whether anybody wants to be told.
    wanted: bool,
    every: u64,
    /// How long a thread may count no round, in milliseconds.
    grace: u64,
    due: u64,
    seen: Vec<Seen>,
    stuck: Option<Stuck>,
}

/// A thread that does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stuck {
    thread: String,
    since: u64,
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Feed,
    /// Stuck from now on.
    Stuck,
    /// Still.
    Starve,
    /// No longer.
    Goes,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Watchdog {
    /// One that is told as often as the service manager wants to hear, if there is one. `longest_sleep` is that of a thread
    /// without work.
    pub(super) fn new(longest_sleep: Duration) -> Self {
        Self::after(sd_notify::watchdog_enabled(), longest_sleep)
    }

    fn after(patience: Option<Duration>, longest_sleep: Duration) -> Self {
        let every = patience.map_or(EVERY, |patience| (millis(patience) / LOOKS).max(1));
        let wanted = patience.is_some();
        let mut watchdog = Self { wanted, every, grace: every, due: 0, seen: Vec::new(), stuck: None };
        watchdog.expect_sleeps(longest_sleep);
        watchdog
    }

    /// A thread without work sleeps so long from now on. Whoever is asleep wakes up to hear of it.
    pub(super) fn expect_sleeps(&mut self, longest: Duration) {
        self.grace = self.every.max(millis(longest) * 2 + SLACK);
    }

    /// Takes in the rounds of all threads, always in the same order.
    fn look(&mut self, now: u64, threads: &[(String, u64)]) -> Verdict {
        self.due = now + self.every;
        self.seen.resize(threads.len(), Seen { rounds: u64::MAX, moved: now });
        for (seen, (_, rounds)) in self.seen.iter_mut().zip(threads) {
            if seen.rounds != *rounds {
                *seen = Seen { rounds: *rounds, moved: now };
            }
        }
        let late = |(_, seen): &(&(String, u64), &Seen)| now - seen.moved >= self.grace;
        let stuck = threads.iter().zip(&self.seen).find(late);
        let stuck = stuck.map(|((thread, _), seen)| Stuck { thread: thread.clone(), since: seen.moved });
        let verdict = match (&self.stuck, &stuck) {
            (None, None) => Verdict::Feed,
            (Some(_), None) => Verdict::Goes,
            (before, Some(_)) if *before == stuck => Verdict::Starve,
            (_, Some(_)) => Verdict::Stuck,
        };
        self.stuck = stuck;
        verdict
    }

    /// What an operator should know of it.
    pub(super) fn notice(&self, now: u64) -> Option<String> {
        let Stuck { thread, since } = self.stuck.as_ref()?;
        let then = if self.wanted { ", and systemd is left to start the gateway anew" } else { "" };
        Some(format!(
            "{thread} has done no round for {} s: what it carries stands still{then}. If its core is taken by something else, give \
             it one of its own (workers.cores); else report it, with `events` and the stack of that thread",
            now.saturating_sub(*since) / 1000
        ))
    }
}

impl State {
    /// Looks whether all threads go on, when it is time to.
    pub(super) fn follow_threads(&mut self) {
        let now = self.clock.millis();
        if now < self.watchdog.due {
            return;
        }
        let workers = self.workers.iter().map(|worker| {
            let name = format!("the worker on core {}", worker.core);
            (name, worker.activity.polls.get())
        });
        let punt = ("the punt thread".to_owned(), self.punt.rounds.get());
        let threads: Vec<_> = workers.chain([punt]).collect();
        let verdict = self.watchdog.look(now, &threads);
        match (verdict, self.watchdog.notice(now)) {
            (Verdict::Stuck, Some(notice)) => {
                tracing::error!("{notice}");
                self.watchdog.tell(sd_notify::NotifyState::Status(&notice));
            }
            (Verdict::Goes, _) => {
                tracing::warn!("all threads of the dataplane go on again");
                self.watchdog.tell(sd_notify::NotifyState::Status(""));
            }
            _ => {}
        }
        if matches!(verdict, Verdict::Feed | Verdict::Goes) {
            self.watchdog.tell(sd_notify::NotifyState::Watchdog);
        }
    }
}

impl Watchdog {
    fn tell(&self, state: sd_notify::NotifyState<'_>) {
        if self.wanted {
            super::service::tell(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(rounds: [u64; 2]) -> [(String, u64); 2] {
        [("worker".to_owned(), rounds[0]), ("punt".to_owned(), rounds[1])]
    }

    #[test]
    fn is_fed_while_every_thread_counts_rounds_and_names_the_one_that_does_not() {
        let mut dog = Watchdog::after(Some(Duration::from_secs(10)), Duration::from_millis(2));
        assert_eq!((dog.every, dog.grace), (2_500, 2_500));
        assert_eq!(dog.look(0, &threads([1, 1])), Verdict::Feed);
        assert_eq!(dog.look(2_500, &threads([2, 9])), Verdict::Feed);
        assert_eq!(dog.look(5_000, &threads([3, 9])), Verdict::Stuck);
        assert_eq!(dog.look(7_500, &threads([4, 9])), Verdict::Starve);
        let notice = dog.notice(7_500).expect("stuck");
        assert!(
            notice.starts_with("punt has done no round for 5 s") && notice.contains("systemd"),
            "{notice}"
        );
        assert_eq!(dog.look(10_000, &threads([4, 10])), Verdict::Stuck, "another one");
        assert!(dog.notice(10_000).is_some_and(|notice| notice.starts_with("worker")));
        assert_eq!(dog.look(12_500, &threads([5, 11])), Verdict::Goes);
        assert_eq!(dog.notice(12_500), None);
        assert_eq!(dog.look(15_000, &threads([6, 12])), Verdict::Feed);
    }

    #[test]
    fn a_long_sleep_is_no_standstill() {
        let mut dog = Watchdog::after(Some(Duration::from_secs(2)), Duration::from_secs(1));
        assert_eq!((dog.every, dog.grace), (500, 2_100));
        let verdicts = [0, 500, 1_000, 1_500, 2_000, 2_100].map(|now| dog.look(now, &threads([1, now])));
        assert_eq!(
            verdicts,
            [Verdict::Feed, Verdict::Feed, Verdict::Feed, Verdict::Feed, Verdict::Feed, Verdict::Stuck]
        );
    }

    #[test]
    fn without_a_service_manager_it_is_looked_at_all_the_same() {
        let dog = Watchdog::after(None, Duration::ZERO);
        assert_eq!((dog.wanted, dog.every, dog.grace), (false, EVERY, EVERY));
    }
}
