//! The user's nftables ruleset: read from the kernel, and judged.
//!
//! Past the kernel packets do not meet the ruleset. Most of it loses nothing by that: whether a connection is
//! let through is proved by its packets, again and again. What must see each packet (a queue, a quota, a limit)
//! does lose its meaning. [`read`] reads the ruleset, [`Judgement`] tells which of its rules the packets of
//! running connections come to, and which connections they concern:
//!
//! ```no_run
//! # fn ask(entry: &control::netlink::conntrack::ConntrackEntry) -> Result<(), control::ruleset::ReadError> {
//! use control::ruleset::{ConnectionView, Judgement, read};
//!
//! let judgement = Judgement::new(&read()?, &[]);
//! if let Some(finding) = judgement.keeps(&ConnectionView::of(entry)) {
//!     println!("stays in the kernel because of {finding}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Everything but [`read`] is without I/O. What is not understood may match: a finding may concern more
//! connections than its rule does, never fewer.

mod codec;
mod concern;
mod evaluate;
pub mod expression;
mod field;
mod found;
mod judgement;
#[cfg(test)]
mod kernel_tests;
mod loads;
pub mod model;
mod own;
mod ranges;
mod reader;
mod registers;
mod rule;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod walk;
#[cfg(test)]
mod walk_tests;
mod words;
mod writes;
mod xtables;

pub use concern::{ConnectionView, Direction};
pub use found::{Warning, What};
pub use judgement::{Finding, FlowAddition, Judgement, Location, UserFlowtable};
pub use own::OwnTable;
pub(crate) use own::{CHAIN, COMMENT, PRIORITY, TABLE};
pub use reader::{MOST_ELEMENTS, ReadError, read};
