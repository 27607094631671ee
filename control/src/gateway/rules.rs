//! The ruleset as the gateway knows it: read again after it has changed, and judged.

use std::sync::Arc;
use std::time::Instant;

use crate::config::Construct;
use crate::ruleset::{self, Finding, Judgement, What};

/// Milliseconds to wait after a change: one `nft -f` is many messages, and scripts run several.
const SETTLE: u64 = 100;
/// Milliseconds after which it is tried again if the ruleset could not be read.
const RETRY: u64 = 1000;
/// Reading takes at most one part in so many of the control thread's time, whatever changes the ruleset all the time.
const SHARE: u64 = 20;
/// Findings that status tells in words; `flyover check` has them all.
const TOLD: usize = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rules {
    judgement: Arc<Judgement>,
    due: Option<u64>,
    rested_at: u64,
    /// The last reading did not fail.
    read: bool,
}

impl Rules {
    pub(super) fn judgement(&self) -> &Arc<Judgement> {
        &self.judgement
    }

    /// The judgement, if it is of the ruleset that was there a moment ago.
    pub(super) fn fresh(&self) -> Option<&Judgement> {
        self.read.then_some(&*self.judgement)
    }

    /// It is to be read again by `at`, changed or not.
    pub(super) fn read_again(&mut self, at: u64) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Something in the ruleset has changed.
    pub(super) fn changed(&mut self, now: u64) {
        self.read_again((now + SETTLE).max(self.rested_at));
    }

    pub(super) fn is_due(&self, now: u64) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// Reads and judges it; `true`: other connections may fly than before.
    pub(super) fn read(&mut self, now: u64, accept_loss: &[Construct]) -> bool {
        let begun = Instant::now();
        self.due = None;
        let judgement = match ruleset::read() {
            Ok(ruleset) => Judgement::new(&ruleset, accept_loss),
            Err(error) => {
                tracing::warn!(%error, "the ruleset could not be read; what was known of it stands");
                self.read = false;
                self.due = Some(now + RETRY);
                return false;
            }
        };
        self.read = true;
        self.rested_at = now + SHARE * u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX / SHARE);
        let selects = judgement.flowtables().iter().map(|flowtable| flowtable.name.as_str());
        let other =
            judgement.findings() != self.judgement.findings() || !judgement.selects_as(&self.judgement);
        if other {
            let flowtables: Vec<&str> = selects.collect();
            tracing::info!(keeps = ?names(&judgement, true), ?flowtables, "the ruleset was read");
        }
        self.judgement = Arc::new(judgement);
        other
    }

    /// What it keeps in the kernel, in words.
    pub(super) fn notices(&self) -> Vec<String> {
        let keeping = || self.judgement.findings().iter().filter(|finding| finding.keeps());
        let told = keeping().take(TOLD).map(|finding| {
            let (which, what) = (if finding.concerns_everything() { "all" } else { "some" }, finding.what.name());
            format!(
                "{what} in {} keeps {which} connections in the kernel: {}; `flyover check` tells what changes that",
                finding.location,
                finding.differs()
            )
        });
        let more = keeping().count().saturating_sub(TOLD);
        let rest =
            (more > 0).then(|| format!("{more} more rules keep connections in the kernel: flyover check"));
        told.chain(rest).collect()
    }
}

/// Names of what keeps connections in the kernel, or of what only sees fewer packets; each once.
pub(super) fn names(judgement: &Judgement, keeping: bool) -> Vec<String> {
    let wanted =
        |found: &&Finding| if keeping { found.keeps() } else { !matches!(found.what, What::Keeps(_)) };
    let found = judgement.findings().iter().filter(wanted);
    let mut names: Vec<String> = found.map(|finding| finding.what.name().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_changes_are_one_reading() {
        let mut rules = Rules::default();
        assert!(!rules.is_due(0));
        rules.changed(1000);
        rules.changed(1090);
        assert!(!rules.is_due(1099) && rules.is_due(1100));
        rules.due = None;
        rules.rested_at = 5000;
        rules.changed(1200);
        assert!(!rules.is_due(4999) && rules.is_due(5000), "reading leaves time for the rest");
        rules.due = None;
        rules.read_again(40_000);
        rules.changed(10_000);
        assert!(rules.is_due(10_100), "what is to be read again anyway is not read late");
    }
}
