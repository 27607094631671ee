//! What is known of one direction.

use crate::dpdk::flow_rule::FlowError;

/// Where a direction is. Times are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In software, and not hot.
    Watched,
    /// In software, hot.
    Waiting,
    /// In software, refused by the NIC; until then.
    PutOff(u64),
    /// Its rule is being made.
    GoingIn,
    /// It has a rule since then.
    Installed(u64),
    /// Its rule is to be removed, from then on.
    Doomed(u64),
    /// Its rule is being removed.
    ComingOut,
}

#[derive(Clone, Debug)]
pub(super) struct Direction {
    pub(super) stage: Stage,
    /// Packets a second.
    pub(super) rate: u64,
    /// When it was heard of last.
    pub(super) heard: u64,
    /// It is to be free as soon as it has no rule.
    pub(super) leaving: bool,
    /// Orders that failed, in a row.
    pub(super) tries: u32,
    /// Why the last one did.
    pub(super) error: Option<FlowError>,
    /// It is on its way out since its rule did not do what it should.
    pub(super) withdrawn: bool,
    /// How often that was so.
    faults: u32,
    packets: u64,
    counted_at: u64,
    is_rated: bool,
}

/// Shorter spans give no rate.
const SPAN: u64 = 50;

impl Direction {
    pub(super) fn new(packets: u64, now: u64) -> Self {
        Self {
            stage: Stage::Watched,
            rate: 0,
            heard: now,
            leaving: false,
            tries: 0,
            error: None,
            withdrawn: false,
            faults: 0,
            packets,
            counted_at: now,
            is_rated: false,
        }
    }

    /// So many packets by now. The rate is the mean of the last one and the one before.
    pub(super) fn counted(&mut self, packets: u64, now: u64) {
        self.heard = self.heard.max(now);
        let span = now.saturating_sub(self.counted_at);
        if span < SPAN {
            return;
        }
        let rate = packets.saturating_sub(self.packets).saturating_mul(1000) / span;
        self.rate = if self.is_rated { u64::midpoint(self.rate, rate) } else { rate };
        (self.packets, self.counted_at, self.is_rated) = (packets, now, true);
    }

    pub(super) fn installed_since(&self) -> Option<u64> {
        match self.stage {
            Stage::Installed(since) => Some(since),
            _ => None,
        }
    }

    pub(super) fn has_rule(&self) -> bool {
        !matches!(self.stage, Stage::Watched | Stage::Waiting | Stage::PutOff(_))
    }

    /// One more rule that did not do what it should: how long to wait now. Rules that are made do not make up for it.
    pub(super) fn sulk(&mut self, first: u64, most: u64) -> u64 {
        let wait = first.saturating_mul(1 << self.faults.min(20)).min(most);
        self.faults += 1;
        wait
    }

    /// One more failure: how long to wait now.
    pub(super) fn put_off(&mut self, first: u64, most: u64) -> u64 {
        let wait = first.saturating_mul(1 << self.tries.min(20)).min(most);
        self.tries += 1;
        wait
    }
}
