//! What ports' hardware can do, and does.

use serde::{Deserialize, Serialize};

/// `flyover hardware`: a port's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Whether its rules compare lengths, so that what is too long to leave goes to software.
    #[serde(default)]
    pub lengths: bool,
    /// The form of the rules that carry flows, in words: where they stand, how they write, how packets go on.
    #[serde(default)]
    pub form: Option<String>,
    /// Why it is no more, and what else was found, a sentence each.
    pub findings: Vec<String>,
    /// Directions that come in by this port.
    pub directions: HardwareDirections,
    /// Rules go through queues: nobody waits for the NIC.
    pub queues: bool,
    /// What the comparison of its rules with flow table and kernel found.
    pub audit: HardwareAudit,
    /// How long control waited for its NIC.
    pub waits: HardwareWaits,
    /// Packets that its rules have marked.
    #[serde(default)]
    pub marks: MarkCounts,
}

/// What the comparison of kernel, flow table and NIC found since the start, and put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HardwareAudit {
    /// Looks at a rule.
    pub looks: u64,
    /// Rules that a NIC had lost: made again.
    pub lost: u64,
    /// Rules that a NIC had and nobody had asked for: removed.
    pub extra: u64,
    /// Rules of directions that were over, did not fly, or whose connection was not known: removed.
    pub orphaned: u64,
    /// Rules that said something else than the flow table: removed, and made anew.
    pub outdated: u64,
    /// Rules that could not be read, or did nothing: removed for a while.
    pub failing: u64,
    /// Times that all rules of a port were made anew.
    pub remade: u64,
}

/// How long control waited for a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HardwareWaits {
    /// The longest time that control spent on the NIC in one go, in microseconds.
    pub longest_us: u64,
    /// Rules that were to go before something else happened, and had not gone when patience ended.
    pub overran: u64,
}

/// Packets that a NIC has marked with where their flow is, each counted by what workers made of it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MarkCounts {
    /// Their flow was found by the mark: no lookup.
    pub found: u64,
    /// The mark was old or wrong: they were looked up like those without.
    pub missed: u64,
}

/// Directions by where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DirectionRules {
    /// The port that it comes in by; none if that is not known.
    pub port: Option<String>,
    /// Commands for testpmd's prompt, in order.
    pub rules: Vec<String>,
    /// Why there is none.
    pub why: Option<String>,
}
