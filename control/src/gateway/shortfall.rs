//! Flows that could not prove themselves again in time: policy wins over throughput, and the operator is told.

use std::time::Duration;

/// For so long `status` has a notice of it, in milliseconds.
const NEWS: u64 = 600_000;

/// What is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortfall {
    /// Directions, since the start.
    pub(super) missed: u64,
    /// When the last of them was counted.
    at: Option<u64>,
}

impl Shortfall {
    /// Takes over the tracker's count.
    pub(super) fn follow(&mut self, missed: u64, now: u64) {
        if missed != self.missed {
            let directions = missed - self.missed;
            tracing::warn!(directions, "not proved in time after a change: back to the kernel for now");
            *self = Self { missed, at: Some(now) };
        }
    }

    /// Milliseconds since the last one.
    pub(super) fn age(&self, now: u64) -> Option<u64> {
        self.at.map(|at| now.saturating_sub(at))
    }

    /// What an operator should know of it.
    pub(super) fn notice(&self, now: u64, within: Duration) -> Option<String> {
        let age = self.age(now).filter(|age| *age < NEWS)?;
        Some(format!(
            "{} directions had no room on the way to the kernel to prove themselves within {within:?} of a change, the last \
             {} s ago: their packets go through the kernel, and fly again once it has forwarded some. If they stay \
             there, see what crowds that way: punted_by_reason",
            self.missed,
            age / 1000
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_news_for_ten_minutes() {
        let mut shortfall = Shortfall::default();
        let within = Duration::from_secs(5);
        shortfall.follow(0, 1_000);
        assert_eq!((shortfall.age(2_000), shortfall.notice(2_000, within)), (None, None));
        shortfall.follow(7, 3_000);
        shortfall.follow(7, 9_000);
        assert_eq!((shortfall.missed, shortfall.age(5_000)), (7, Some(2_000)));
        let notice = shortfall.notice(5_000, within).unwrap_or_default();
        assert!(notice.starts_with("7 directions") && notice.contains("within 5s"), "{notice}");
        assert_eq!(shortfall.notice(3_000 + NEWS, within), None);
    }
}
