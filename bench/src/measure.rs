//! Interleaved measurement: contenders take turns, and the machine is watched before and after each turn.

use dataplane::dpdk::tsc;

use crate::machine::dependent_add;

/// Something whose rounds are timed.
pub trait Contender {
    /// Does one round; says how many packets it was.
    fn round(&mut self) -> usize;

    /// Tidies up between turns; not timed.
    fn between(&mut self) {}
}

/// A turn during which an addition took no longer than this was not disturbed.
pub const CLEAN: f64 = 0.80;
/// As many undisturbed repetitions make a figure.
const ENOUGH: usize = 7;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Repetitions that are made at least.
    pub repetitions: usize,
    /// And at most, while too few have been clean.
    pub most: usize,
    /// Packets of a turn that are timed.
    pub packets: usize,
    /// Packets before them, which bring the caches to how they are in the long run.
    pub warm_up: usize,
}

/// Cycles a packet.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Median of the turns that count.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the order of the contenders.
    pub costs: Vec<Cost>,
    /// TSC cycles a dependent addition, median over the repetitions that count.
    pub clean: f64,
    /// Repetitions that count.
    pub kept: usize,
    /// Whether all of these were undisturbed.
    pub undisturbed: bool,
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Lets the contenders take turns.
pub fn interleave(contenders: &mut [&mut dyn Contender], effort: Effort) -> Outcome {
    let mut repetitions: Vec<(Vec<f64>, f64)> = Vec::new();
    while repetitions.len() < effort.most {
        let undisturbed = repetitions.iter().filter(|(_, add)| *add < CLEAN).count();
        if repetitions.len() >= effort.repetitions && undisturbed >= ENOUGH {
            break;
        }
        let mut worst = dependent_add();
        let mut costs = Vec::with_capacity(contenders.len());
        for contender in &mut *contenders {
            let mut done = 0;
            while done < effort.warm_up {
                done += contender.round().max(1);
            }
            contender.between();
            let (mut done, start) = (0, tsc());
            while done < effort.packets {
                done += contender.round().max(1);
            }
            costs.push((tsc() - start) as f64 / done as f64);
            contender.between();
            worst = worst.max(dependent_add());
        }
        repetitions.push((costs, worst));
    }
    let mut kept: Vec<_> = repetitions.iter().filter(|(_, add)| *add < CLEAN).collect();
    let undisturbed = kept.len() >= ENOUGH.min(effort.repetitions);
    if !undisturbed {
        kept = repetitions.iter().collect();
    }
    let cost = |contender: usize| {
        let mut costs: Vec<f64> =
            kept.iter().filter_map(|(costs, _)| costs.get(contender).copied()).collect();
        let median = median(&mut costs);
        Cost { median, min: costs.first().copied().unwrap_or(0.0), max: costs.last().copied().unwrap_or(0.0) }
    };
    let mut adds: Vec<f64> = kept.iter().map(|(_, add)| *add).collect();
    Outcome {
        costs: (0..contenders.len()).map(cost).collect(),
        clean: median(&mut adds),
        kept: kept.len(),
        undisturbed,
    }
}
