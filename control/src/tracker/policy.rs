//! Which connections may be carried at all.

use dataplane::flow::{TCP, UDP};

use crate::netlink::conntrack::{ConntrackEntry, Status, TcpState};

/// What the user selects for acceleration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any connection that the ruleset let through.
    Established,
    /// Those whose conntrack mark has these bits.
    Marked {
        /// Wanted value of the masked bits.
        value: u32,
        /// Which bits count.
        mask: u32,
    },
    /// Those that a `flow add` rule has taken into a flowtable, and of them the packets that come in by its devices.
    Flowtable,
}

/// Why an entry is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Neither TCP nor UDP.
    Protocol,
    /// Not (or not any longer) a confirmed, living entry.
    Unconfirmed,
    /// TCP that is not established and assured.
    NotEstablished,
    /// A conntrack helper reads its packets.
    Helper,
    /// Its sequence numbers are adjusted by the kernel.
    SequenceAdjusted,
    /// Its NAT clashes with another entry's.
    NatClash,
    /// A rule must see each of its packets.
    Ruleset,
    /// Its mark does not select it.
    NotMarked,
    /// No flowtable has it.
    NotInFlowtable,
    /// The kernel's flowtable would end its entry while it flies.
    FlowtableEnds,
    /// Original and reply direction lie in different zones.
    Zones,
    /// Its tuple stands in another entry too, of another zone.
    TwoZones,
    /// A SYN proxy stands between its ends.
    Synproxy,
    /// It begins or ends on this host.
    Local,
}

impl Policy {
    /// Why `entry` is not carried; `None`: it may be. `tcp_state` is the state to assume for TCP; `selected` is asked
    /// whether a flowtable selects it.
    pub(super) fn refusal(
        &self,
        entry: &ConntrackEntry,
        tcp_state: Option<TcpState>,
        selected: impl FnOnce() -> bool,
    ) -> Option<Refusal> {
        let status = entry.status;
        let refusal = match entry.orig.proto {
            TCP if tcp_state != Some(TcpState::Established) || !status.contains(Status::ASSURED) => {
                Refusal::NotEstablished
            }
            TCP | UDP if !status.contains(Status::CONFIRMED) || status.contains(Status::DYING) => {
                Refusal::Unconfirmed
            }
            TCP | UDP if entry.has_helper || status.contains(Status::HELPER) => Refusal::Helper,
            TCP if entry.synproxy => Refusal::Synproxy,
            TCP | UDP if entry.seq_adjust || status.contains(Status::SEQ_ADJUST) => Refusal::SequenceAdjusted,
            TCP | UDP if status.contains(Status::NAT_CLASH) => Refusal::NatClash,
            TCP | UDP if entry.zones.orig != entry.zones.reply => Refusal::Zones,
            TCP | UDP => match *self {
                Self::Marked { value, mask } if entry.mark.unwrap_or(0) & mask != value => Refusal::NotMarked,
                Self::Flowtable if !selected() => Refusal::NotInFlowtable,
                _ => return None,
            },
            _ => Refusal::Protocol,
        };
        Some(refusal)
    }
}
