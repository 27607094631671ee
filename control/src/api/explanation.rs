//! `flyover explain`: where one connection is, and why.

use serde::{Deserialize, Serialize};

use super::types::{FlowInfo, TupleInfo};

/// Where a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Whereabouts {
    /// Known to Flyover: `connection` says more.
    Flyover,
    /// Known to conntrack alone.
    Kernel,
    /// Known to nobody.
    #[default]
    Nowhere,
}

/// What is known of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Explanation {
    /// Who knows it.
    pub known: Whereabouts,
    /// Why its packets go where they go, in a sentence.
    pub why: String,
    /// What can be done to have it fly; empty if nothing need be.
    pub advice: Vec<String>,
    /// As in `flows`, if Flyover knows it.
    pub connection: Option<FlowInfo>,
    /// Original and reply direction, if Flyover knows it.
    pub directions: Vec<DirectionInfo>,
    /// What conntrack has.
    pub conntrack: Option<ConntrackInfo>,
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DirectionInfo {
    /// As the gateway receives it.
    pub tuple: TupleInfo,
    /// Where its packets go.
    pub state: String,
    /// Why.
    pub why: String,
    /// Seconds since it came into this state.
    pub since_s: f64,
    /// Packets over the fast path.
    pub packets: u64,
    /// Bytes over the fast path.
    pub bytes: u64,
    /// Port where it comes in, once proved.
    pub in_port: Option<String>,
    /// Port where it goes out, once proved.
    pub out_port: Option<String>,
    /// MAC address that it is sent to, once proved.
    pub next_hop: Option<String>,
    /// The longest packet, from the IP header on, that was seen to leave in one piece: longer ones go to the kernel.
    pub proved_length: u16,
    /// Packets that went to the kernel for what they are themselves, whatever the state.
    pub punted: Vec<PuntedInfo>,
    /// What else can be seen of it, a sentence each: where its packets lead, and what they go past.
    pub notes: Vec<String>,
}

/// Packets of one direction that the kernel got for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PuntedInfo {
    /// The reason, as in `punted_by_reason`.
    pub reason: String,
    /// How many, as far back as is remembered.
    pub packets: u64,
    /// The reason in words.
    pub why: String,
}

/// The entry in conntrack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConntrackInfo {
    /// Its id (`conntrack -L -o id`).
    pub id: u32,
    /// The direction that opened it.
    pub orig: TupleInfo,
    /// The direction that answers.
    pub reply: TupleInfo,
    /// TCP's state.
    pub tcp_state: Option<String>,
    /// Seconds until it ends if no packet comes.
    pub timeout_s: Option<u32>,
    /// Its mark.
    pub mark: u32,
    /// Its zone.
    pub zone: u16,
}
