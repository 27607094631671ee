//! What ports' hardware can do, and does.

use serde::{Deserialize, Serialize};

/// `flyover hardware`: a port's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortHardware {
    /// The port.
    pub name: String,
    /// Its DPDK driver; `model` behind the model NIC.
    pub driver: String,
    /// `full` (carries flows alone), `assist` (marks packets for software) or `none`.
    pub tier: String,
    /// Whether flows are put into it.
    pub used: bool,
    /// Whether packets were sent through canary rules; without that rules were made and removed, and no more.
    pub proved: bool,
    /// Whether it carries IPv6.
    pub ipv6: bool,
    /// Whether it takes VLAN tags off, puts them on and changes them.
    pub vlan: bool,
    /// Whether its rules tell how long they have had no packet.
    pub ages: bool,
    /// Why it is no more, and what else was found, a sentence each.
    pub findings: Vec<String>,
    /// Directions that come in by this port.
    pub directions: HardwareDirections,
}

/// Directions by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareDirections {
    /// With a rule.
    pub hardware: u64,
    /// Hot, and waiting for their turn or for room.
    pub waiting: u64,
    /// Refused by the NIC, and tried again later.
    pub put_off: u64,
    /// Whose rules are being removed.
    pub leaving: u64,
    /// The most rules, as far as is known by now.
    pub capacity: u64,
}

/// `flyover hardware --rules`: one direction's rules, as testpmd takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionRules {
    /// The port that it comes in by; none if that is not known.
    pub port: Option<String>,
    /// Commands for testpmd's prompt, in order.
    pub rules: Vec<String>,
    /// Why there is none.
    pub why: Option<String>,
}
