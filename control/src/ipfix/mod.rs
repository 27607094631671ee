//! Flow records for a collector: IPFIX (RFC 7011) over UDP, with NAT (RFC 8158) and both directions in one (RFC 5103).
//!
//! Nothing here does I/O or looks at a clock. [`Accounts`] knows what of a connection was told already, and makes
//! [`FlowRecord`]s of the rest. [`Exporter`] puts records and templates into messages, which wait in it until they are
//! sent. What they mean is documented in docs/ipfix.md.

mod accounts;
mod element;
mod exporter;
mod message;
mod record;
mod template;

#[cfg(test)]
mod accounts_tests;
#[cfg(test)]
mod tests;

pub use accounts::Accounts;
pub use element::Element;
pub use exporter::{Exporter, ExporterConfig, QUEUE, Totals};
pub use record::{Count, EndReason, FlowRecord, NatEvent, NatSession};
pub use template::{FLOW4, FLOW6, NAT44, STATISTICS, Template};

/// A moment, on both of the clocks that are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the process started, as the tracker has them.
    pub now: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

impl Moment {
    /// The Unix time of an earlier moment of the process.
    pub const fn unix_at(&self, then: u64) -> u64 {
        self.unix_ms.saturating_sub(self.now.saturating_sub(then))
    }
}
