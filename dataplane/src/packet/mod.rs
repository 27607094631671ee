//! Packets as they are on the wire: where they came in, what they are, and why they did not fly.

mod ingress;
mod reason;

pub use ingress::Ingress;
pub use reason::{DropReason, PuntReason};
