//! What the kernel says, and what it is asked: conntrack, links, addresses, neighbours, routes, rulesets.
//!
//! Everything here is non-blocking and made for a mio loop, but for the few requests whose answer is
//! awaited ([`link`], and the dumps of [`watch`]); the kernel answers those within the system call.

pub mod conntrack;
pub mod egress;
mod error;
pub mod link;
pub(crate) mod message;
pub mod neighbour;
pub mod qdisc;
pub(crate) mod receive;
pub(crate) mod route;
pub mod sysctl;
pub mod watch;

#[cfg(test)]
pub(crate) mod testing;

pub use error::NetlinkError;
pub use receive::Drained;
use receive::kernel_drops;
