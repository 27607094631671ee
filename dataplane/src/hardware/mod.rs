//! The hardware path: rules that have a NIC carry flows alone.
//!
//! [`HardwareFlow`] says what a NIC is to do with one direction, derived from what the flow table has. [`encode`] makes
//! rules of it, in the [`Form`] that a port can, and [`print`] shows them as testpmd takes them. [`probe`] finds out what
//! a port can, by rules that are made, hit, counted and removed. The [`model`] is a NIC in software.
//!
//! Nothing here touches the flow table or the kernel: whose flows go to hardware, and when, control decides.

pub mod encode;
pub mod model;
pub mod print;
pub mod rule;
#[cfg(all(test, not(loom)))]
mod tests;

pub use encode::{Domain, Egress, Fields, Form, Ttl};
pub use rule::{HardwareFlow, Lengths, Unfit};
