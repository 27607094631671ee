//! Cases that were a mismatch once, or are easy to get wrong: replayed before everything else.

use dataplane::packet::{DropReason, PuntReason};

/// What must become of a case. That both gateways agree is asked of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It flies.
    Flies,
    /// It is punted.
    Punted(PuntReason),
    /// It is dropped.
    Dropped(DropReason),
}

/// A case with a name.
#[derive(Clone, Copy, Debug)]
pub struct Regression {
    /// What it shows.
    pub name: &'static str,
    /// What must become of it.
    pub expected: Expected,
    /// The case, as [`Case`](super::Case) prints it.
    pub line: &'static str,
}

/// All of them.
pub const REGRESSIONS: &[Regression] = &[];
