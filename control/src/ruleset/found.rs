//! What the walk has found, rule by rule.

use std::collections::BTreeMap;

use super::concern::Concern;
use crate::config::Construct;

/// What is found in a rule or chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Packets must go on seeing it: their flows stay in the kernel.
    Keeps(Construct),
    /// It sees fewer packets, which an operator should know.
    Warns(Warning),
}

impl What {
    /// The name as `policy.accept_loss` takes it, or of what is only warned of.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keeps(construct) => construct.name(),
            Self::Warns(warning) => warning.name(),
        }
    }
}

/// What keeps no flow in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Warning {
    /// `log`.
    Log,
    /// `counter`, `last`.
    Counter,
    /// A chain at a device's ingress or egress.
    Netdev,
}

impl Warning {
    /// A stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Counter => "counter",
            Self::Netdev => "netdev chain",
        }
    }
}

/// A rule by its place: table, chain and rule by their position, the rule's missing for the chain itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Spot {
    pub(super) table: usize,
    pub(super) chain: usize,
    pub(super) rule: Option<usize>,
}

/// Findings while the walk goes on: a rule may be come to by several ways.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<(Spot, What), Vec<Concern>>);

impl Found {
    /// Ways to one rule beyond this number are not told apart.
    const WAYS: usize = 32;

    pub(super) fn add(&mut self, spot: Spot, what: What, concern: Concern) {
        let concerns = self.0.entry((spot, what)).or_default();
        if concerns.contains(&concern) || concerns.iter().any(Concern::is_everything) {
            return;
        }
        if concern.is_everything() || concerns.len() == Self::WAYS {
            *concerns = vec![Concern::everything()];
        } else {
            concerns.push(concern);
        }
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = ((Spot, What), Vec<Concern>)> {
        self.0.into_iter()
    }
}
