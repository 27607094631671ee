//! Connection tracking: the kernel's entries and events (ctnetlink), and changes to them.
//!
//! The bytes: [`parse_datagram`] and [`Request`]. The sockets: [`EventSocket`] and [`RequestSocket`].
//! At start: subscribe, then dump, then reconcile by [`ConntrackEntry::id`]; the events of two CPUs are
//! not ordered against each other, so an id and not a tuple says which connection is meant.

mod codec;
mod entry;
mod request;
mod socket;

#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod oracle;

pub use codec::{ConntrackMessage, Parsed, parse_datagram};
pub use entry::{ConntrackEntry, Count, Status, TcpFlags, TcpInfo, TcpState, Zones};
pub use request::{DumpFilter, EntryUpdate, Request, TcpFlagsUpdate};
pub use socket::{EventGroups, EventSocket, RECEIVE_BUFFER, RequestSocket, SocketCounts};
