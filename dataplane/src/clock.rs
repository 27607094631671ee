//! One clock for workers, punt thread and control: the TSC, from the start of the process.

use crate::dpdk;

/// Time since the process started, read without a system call. Copies run alike.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    /// Ticks to nanoseconds, in 32.32 fixed point.
    scale: u64,
}

impl Clock {
    /// A clock that starts now. The EAL must have been initialised: it measures the TSC's rate.
    pub fn start() -> Self {
        Self::with_rate(dpdk::tsc_hz().max(1))
    }

    fn with_rate(hz: u64) -> Self {
        let scale = ((1_000_000_000_u128 << 32) / u128::from(hz)) as u64;
        Self { start: dpdk::tsc(), scale }
    }

    /// Nanoseconds since the start.
    #[inline]
    pub fn nanos(&self) -> u64 {
        let ticks = dpdk::tsc().wrapping_sub(self.start);
        ((u128::from(ticks) * u128::from(self.scale)) >> 32) as u64
    }

    /// Microseconds since the start.
    #[inline]
    pub fn micros(&self) -> u64 {
        self.nanos() / 1_000
    }

    /// Milliseconds since the start.
    #[inline]
    pub fn millis(&self) -> u64 {
        self.nanos() / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_turns_ticks_into_nanoseconds() {
        let clock = Clock::with_rate(2_500_000_000);
        assert_eq!((2_500_000_000_u128 * u128::from(clock.scale)) >> 32, 999_999_999);
        assert!(clock.nanos() < 1_000_000_000_000);
    }
}
