//! Orders to read the configuration again, from the API and by SIGHUP, and what came of them.

use std::cell::RefCell;

use crate::api::{ReloadReport, ReloadState};

/// How one is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Order {
    /// Nothing is to be changed.
    pub(in crate::gateway) check: bool,
    /// Where something takes a restart, the rest is to be taken over.
    pub(in crate::gateway) partial: bool,
    /// By SIGHUP: nobody waits for the report.
    pub(in crate::gateway) by_signal: bool,
}

const BY_SIGNAL: Order = Order { check: false, partial: false, by_signal: true };

/// See the module. The API writes on it while the rest of the state stays as it is.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Desk(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of the last order from the API.
    number: u64,
    waiting: Option<Order>,
    under_way: Option<Order>,
    /// SIGHUP came while an order was under way.
    signalled: bool,
    /// What came of that.
    report: Option<ReloadReport>,
}

impl Desk {
    /// Takes an order from the API.
    pub(in crate::gateway) fn order(&self, check: bool, partial: bool) -> Result<ReloadState, String> {
        let mut inner = self.0.borrow_mut();
        if inner.is_busy() {
            return Err("a reload is under way already: try again when it is done".to_owned());
        }
        inner.number += 1;
        (inner.waiting, inner.report) = (Some(Order { check, partial, by_signal: false }), None);
        Ok(ReloadState { number: inner.number, report: None })
    }

    /// SIGHUP. One that comes while an order is under way is seen to after it: the file may be another by now.
    pub(in crate::gateway) fn signal(&self) {
        let mut inner = self.0.borrow_mut();
        if inner.is_busy() {
            inner.signalled = true;
        } else {
            inner.waiting = Some(BY_SIGNAL);
        }
    }

    /// What has become of an order.
    pub(in crate::gateway) fn told(&self, number: u64) -> Result<ReloadState, String> {
        let inner = self.0.borrow();
        if number == 0 || number != inner.number {
            return Err(format!("nothing is known of reload {number}, or not any more"));
        }
        Ok(ReloadState { number, report: inner.report.clone() })
    }

    /// The next order, which is under way from here on.
    pub(super) fn next(&self) -> Option<Order> {
        let mut inner = self.0.borrow_mut();
        let order = inner.waiting.take()?;
        inner.under_way = Some(order);
        Some(order)
    }

    /// An order waits or is under way.
    pub(in crate::gateway) fn is_busy(&self) -> bool {
        self.0.borrow().is_busy()
    }

    /// The order that was under way is done.
    pub(super) fn done(&self, report: ReloadReport) {
        let mut inner = self.0.borrow_mut();
        if inner.under_way.take().is_some_and(|order| !order.by_signal) {
            inner.report = Some(report);
        }
        if std::mem::take(&mut inner.signalled) {
            inner.waiting = Some(BY_SIGNAL);
        }
    }
}

impl Inner {
    const fn is_busy(&self) -> bool {
        self.under_way.is_some() || self.waiting.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ReloadOutcome;

    fn report(outcome: ReloadOutcome) -> ReloadReport {
        ReloadReport { outcome, ..ReloadReport::default() }
    }

    #[test]
    fn one_at_a_time_and_each_is_told_of() {
        let desk = Desk::default();
        assert!(desk.told(0).is_err() && desk.next().is_none());
        let first = desk.order(true, false).expect("taken").number;
        assert!(desk.order(false, false).is_err(), "one waits");
        assert_eq!(desk.next(), Some(Order { check: true, ..Order::default() }));
        assert!(desk.order(false, false).is_err() && desk.is_busy(), "one is under way");
        assert_eq!(desk.told(first).expect("known").report, None);
        desk.done(report(ReloadOutcome::Checked));
        assert!(!desk.is_busy());
        assert_eq!(desk.told(first).expect("known").report, Some(report(ReloadOutcome::Checked)));
        let second = desk.order(false, true).expect("taken").number;
        assert!(desk.told(first).is_err() && second != first);
    }

    #[test]
    fn a_signal_meanwhile_is_seen_to_afterwards_once() {
        let desk = Desk::default();
        let number = desk.order(false, false).expect("taken").number;
        assert!(desk.next().is_some_and(|order| !order.by_signal));
        desk.signal();
        desk.signal();
        assert_eq!(desk.next(), None);
        desk.done(report(ReloadOutcome::Applied));
        assert!(desk.next().is_some_and(|order| order.by_signal));
        // Who waits for the first can still read what came of it.
        desk.done(report(ReloadOutcome::Unchanged));
        assert_eq!(desk.told(number).expect("known").report, Some(report(ReloadOutcome::Applied)));
        assert_eq!(desk.next(), None);
    }
}
