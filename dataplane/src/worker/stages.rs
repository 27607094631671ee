//! What a worker's stages cost, measured in some of its rounds.

use crate::dpdk::tsc;
use crate::flow::Counter;

/// Of so many rounds one is measured: reading the clock takes as long as half a packet.
const ONE_OF: u32 = 16;

/// The stages of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Packets are received from the driver.
    Receive,
    /// They are parsed and sorted, and their tags asked for.
    Parse,
    /// They are looked up, decided on and rewritten.
    Decide,
    /// The kernel's frames, what was held and what flies are given to the driver, the rest to the kernel.
    Send,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// In the order of a round.
    pub const ALL: [Self; Self::COUNT] = [Self::Receive, Self::Parse, Self::Decide, Self::Send];
}

/// Sums over the measured rounds that found packets.
#[derive(Debug, Default)]
pub struct StageCosts {
    /// Packets of these rounds.
    pub packets: Counter,
    cycles: [Counter; Stage::COUNT],
}

impl StageCosts {
    /// Cycles a packet of a stage, as the time-stamp counter counts them; 0 before anything was measured.
    pub fn cycles_per_packet(&self, stage: Stage) -> f64 {
        self.cycles[stage as usize].get() as f64 / self.packets.get().max(1) as f64
    }
}

/// Watches the worker's rounds.
#[derive(Debug, Default)]
pub(super) struct Watch {
    round: u32,
    watching: bool,
    last: u64,
    cycles: [u64; Stage::COUNT],
}

impl Watch {
    /// A round begins.
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.watching = self.round.is_multiple_of(ONE_OF);
        if self.watching {
            (self.cycles, self.last) = ([0; Stage::COUNT], tsc());
        }
    }

    /// A stage ends, and the next one begins.
    #[inline(always)]
    pub(super) fn passed(&mut self, stage: Stage) {
        if self.watching {
            self.note(stage);
        }
    }

    #[cold]
    fn note(&mut self, stage: Stage) {
        let now = tsc();
        self.cycles[stage as usize] += now.wrapping_sub(self.last);
        self.last = now;
    }

    /// A round ends that found so many packets.
    #[inline(always)]
    pub(super) fn end(&mut self, packets: usize, costs: &StageCosts) {
        if self.watching && packets > 0 {
            costs.packets.add(packets as u64);
            for (sum, cycles) in costs.cycles.iter().zip(self.cycles) {
                sum.add(cycles);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_with_packets_count_and_others_do_not() {
        let (mut watch, costs) = (Watch::default(), StageCosts::default());
        for round in 0..10 * ONE_OF {
            watch.begin();
            watch.passed(Stage::Receive);
            let start = tsc();
            while watch.watching && tsc().wrapping_sub(start) < 10_000 {
                std::hint::spin_loop();
            }
            watch.passed(Stage::Decide);
            watch.end(if round < 5 * ONE_OF { 4 } else { 0 }, &costs);
        }
        let watched = costs.packets.get() / 4;
        assert!((4..=5).contains(&watched), "{watched} rounds");
        assert!(costs.cycles_per_packet(Stage::Decide) >= 2500.0);
        assert_eq!(costs.cycles_per_packet(Stage::Send), 0.0);
    }
}
