//! Requests and replies.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::capture::CaptureRequest;
use super::prefix::Prefix;
use super::types::{FlowInfo, FlowState};

/// Most flows in one page, whatever the client asks for.
pub const MAX_PAGE: usize = 256;
/// Longest request in bytes, its newline included.
pub const MAX_REQUEST: usize = 16 << 10;
/// Longest reply that a client reads, in bytes: a page of flows is a tenth of it.
pub(super) const MAX_REPLY: u64 = 4 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The gateway at a glance: [`super::Status`].
    Status {},
    /// Ports: a list of [`super::PortStatus`].
    Ports {},
    /// Counters: [`super::Stats`].
    Stats {},
    /// A page of flows: [`FlowPage`].
    Flows {
        /// 0, or the `next` of the page before.
        #[serde(default)]
        cursor: u64,
        /// Most flows in the page; at most [`MAX_PAGE`] are given.
        #[serde(default = "page")]
        limit: usize,
        /// Which flows.
        #[serde(default)]
        filter: FlowFilter,
    },
    /// One connection: [`super::Explanation`].
    Explain {
        /// `tcp` or `udp`.
        proto: String,
        /// Source of a packet of it, before NAT in either direction.
        src: SocketAddr,
        /// Destination of that packet.
        dst: SocketAddr,
    },
    /// What has happened: [`super::EventPage`].
    Events {
        /// 0, or the `next` of the page before.
        #[serde(default)]
        after: u64,
        /// Most events in the page; at most [`MAX_PAGE`] are given.
        #[serde(default = "page")]
        limit: usize,
    },
    /// What ports' hardware can do and does: a list of [`super::PortHardware`].
    Hardware {},
    /// The rules of one connection: a list of [`super::DirectionRules`], one a direction.
    Rules {
        /// As in `explain`.
        proto: String,
        /// As in `explain`.
        src: SocketAddr,
        /// As in `explain`.
        dst: SocketAddr,
    },
    /// The configuration is to be read again: [`super::ReloadState`], without a report yet.
    Reload {
        /// Nothing is to be changed.
        #[serde(default)]
        check: bool,
        /// Where something takes a restart, the rest is to be taken over nevertheless.
        #[serde(default)]
        partial: bool,
    },
    /// What has become of that: [`super::ReloadState`].
    Reloaded {
        /// The `number` that `reload` was answered with.
        number: u64,
    },
    /// Packets as workers see them: [`super::CaptureHead`], and then records.
    Capture(CaptureRequest),
}

fn page() -> usize {
    MAX_PAGE
}

/// Which flows are asked for; what is not given matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// `tcp` or `udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// An address of either end, before or after NAT, or the network that it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Prefix>,
    /// A port of either end, before or after NAT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
}

impl FlowFilter {
    /// Whether a flow is asked for.
    pub fn matches(&self, flow: &FlowInfo) -> bool {
        let tuples = [&flow.orig, &flow.reply];
        self.proto.as_ref().is_none_or(|proto| *proto == flow.proto)
            && self.state.is_none_or(|state| state == flow.state)
            && self.address.is_none_or(|a| tuples.iter().any(|t| a.contains(&t.src) || a.contains(&t.dst)))
            && self.port.is_none_or(|p| tuples.iter().any(|t| t.sport == p || t.dport == p))
    }
}

/// Some flows, and where the next ones are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowPage {
    /// The flows; may be empty although more follow, where a filter leaves few.
    pub flows: Vec<FlowInfo>,
    /// The cursor of the next page; null after the last one.
    pub next: Option<u64>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reply<T> {
    Ok(T),
    Error(String),
}

/// A reply as a line.
pub(super) fn line<T: Serialize>(reply: &Reply<T>) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap_or_else(|error| {
        // Only a float that isn't a number could fail, and serde_json writes that as null.
        format!("{{\"error\":{}}}", serde_json::Value::from(error.to_string())).into_bytes()
    });
    line.push(b'\n');
    line
}

/// A request from a line without its newline.
pub(super) fn request(line: &[u8]) -> Result<Request, String> {
    parse(line).map_err(|error| format!("bad request: {error}"))
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}
