//! Packets as they are on the wire: where they came in, what they are, and why they did not fly.
//!
//! [`parse()`] takes a frame apart, or says why it must not fly. [`Rewrite4`] and [`Rewrite6`] change
//! addresses, ports, TTL and checksums in place, [`L2Header`] replaces what lies before the IP header,
//! [`Snapshot`] recognises a packet that went through the kernel, and [`plausible_close`] tells a
//! connection's end from a forgery.

pub mod checksum;
mod fingerprint;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod fuzz;
mod ingress;
#[cfg(any(test, feature = "testing"))]
mod kernel;
mod l2;
mod parse;
mod reason;
mod rewrite;
pub mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;

pub use fingerprint::{Snapshot, Verdict};
pub use ingress::Ingress;
pub use l2::{L2_MAX, L2Header, l2_shift, source_mac, write_l2};
pub use parse::{Headers, Outline, Refusal, Refused, parse, parse_other, parse_plain4, parse_plain6};
pub use reason::{DropReason, PuntReason};
pub use rewrite::{Rewrite, Rewrite4, Rewrite6};
pub use tcp::{MAX_WINDOW, Segment, plausible_close};
