//! What has happened at the gateway.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `flyover events`: one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventInfo {
    /// Its number, from 1 on since the gateway started.
    pub seq: u64,
    /// When it happened, as RFC 3339 in UTC.
    pub time: String,
    /// `error`, `warn` or `info`.
    pub level: String,
    /// What happened.
    pub message: String,
    /// More of it.
    pub fields: BTreeMap<String, String>,
}

/// Some events, and where the next ones are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventPage {
    /// The oldest first.
    pub events: Vec<EventInfo>,
    /// The number to ask with for what comes after these.
    pub next: u64,
    /// Events between the one that was asked with and the first of these that are not kept any more.
    pub lost: u64,
}
