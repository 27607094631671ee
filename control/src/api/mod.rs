//! The API: JSON over a Unix socket, a line a request and a line a reply.
//!
//! A request is `{"cmd":"status"}`, `{"cmd":"ports"}`, `{"cmd":"stats"}` or
//! `{"cmd":"flows","cursor":0,"limit":256,"filter":{…}}` or
//! `{"cmd":"events","after":0}` or `{"cmd":"reload"}` and then `{"cmd":"reloaded","number":1}` or
//! `{"cmd":"explain","proto":"tcp","src":"192.0.2.1:1","dst":"192.0.2.2:2"}`; a reply is `{"ok":…}` or `{"error":"…"}`.
//! Flows come in pages: the client asks again with the page's `next` as the cursor until that is null, so that
//! neither side ever holds more than a page.
//! After the reply to `{"cmd":"capture",…}` the connection carries records of packets until either side ends it.

mod capture;
mod client;
mod connection;
mod counters;
mod events;
mod explanation;
mod hardware;
mod prefix;
mod protocol;
mod reload;
mod server;
mod types;

pub use capture::{CaptureHead, CaptureRequest};
pub use client::{Client, ClientError, RecordStream, Told};
pub use counters::{ByReason, Reason};
pub use events::{EventInfo, EventPage};
pub use explanation::{ConntrackInfo, DirectionInfo, Explanation, PuntedInfo, Whereabouts};
pub use hardware::{
    DirectionRules, HardwareAudit, HardwareDirections, HardwareWaits, MarkCounts, PortHardware,
};
pub use prefix::{NoPrefix, Prefix};
pub use protocol::{FlowFilter, FlowPage, MAX_PAGE, MAX_REQUEST, Request};
pub use reload::{ReloadChange, ReloadOutcome, ReloadReport, ReloadState};
pub use server::{BindError, CaptureClient, Handler, MAX_CLIENTS, Server};
pub use types::{
    BufferCounts, CollectorStatus, ConntrackCounts, FlowCounts, FlowInfo, FlowState, FlowtableInfo,
    PacketCounts, PerDirection, PortCounters, PortStatus, PuntStats, RevalidationCounts, RulesetInfo,
    StageCycles, Stats, Status, TrackerCounts, TupleInfo, TwinCounters, WorkerStats, WorkerStatus,
    proto_name,
};

#[cfg(test)]
mod tests;
