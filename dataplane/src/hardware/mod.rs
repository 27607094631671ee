//! The hardware path: rules that have a NIC carry flows alone.
//!
//! [`HardwareFlow`] says what a NIC is to do with one direction, derived from what the flow table has. [`encode`] makes
//! rules of it, in the [`Form`] that a port can, and [`mod@print`] shows them as testpmd takes them. [`probe`] finds out what
//! a port can, by rules that are made, hit, counted and removed. The [`scheduler`] chooses whose rules are in. The
//! [`model`] is a NIC in software.
//!
//! Nothing here touches the flow table or the kernel: that is control's.

pub mod encode;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod fuzz;
pub mod model;
pub mod print;
pub mod probe;
pub mod rule;
pub mod scheduler;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

/// What a port can do for flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Nothing: it has no rules, or none that can be relied on.
    None,
    /// Mark packets for software, and choose their queue.
    Assist,
    /// Carry flows alone: rewrite packets and send them to another port.
    #[default]
    Full,
}

impl Tier {
    /// Its name, as users see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Assist => "assist",
            Self::Full => "full",
        }
    }
}

pub use encode::{Domain, Egress, Fields, Form, Ttl};
pub use rule::{HardwareFlow, Lengths, Unfit};
