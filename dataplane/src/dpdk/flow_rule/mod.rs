//! Flow rules: what a NIC is asked to do with packets on its own (`rte_flow.h`).
//!
//! A [`FlowRule`] is the very C structures, kept in one place; [`FlowRules`] is the one place that hands them on: to the
//! port's driver, or to a [`FlowEngine`] that stands in for one, such as the model NIC. An engine sees a rule as
//! [`RuleView`], which reads the C structures as a driver would. Whoever makes rules can't tell the two apart.
//!
//! Contents of items and actions are bytes: those of the C structure, which for items begin as the header does on the
//! wire. [`layout`] has what is not plain.

mod engine;
mod error;
mod kinds;
pub mod layout;
mod rule;
mod rules;
#[cfg(all(test, not(loom)))]
mod tests;
mod view;

pub use engine::{Completion, Count, FlowEngine, FlowQueues, OpStatus, QueueLimits, RuleAge};
pub use error::{ErrorKind, FlowError};
pub use kinds::{ActionKind, ItemKind};
pub use rule::{FlowAttr, FlowRule, Parts};
pub use rules::{FlowId, FlowRules};
pub use view::{RawAction, RawItem, RuleView};
