//! One connection as control remembers it. Tuples live in the flow table; this is what is left: 104 bytes.

use dataplane::flow::{EntryState, FlowRef};
use serde::Serialize;

use crate::netlink::conntrack::Zones;

/// Which way: the direction of the connection's first packet, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dir {
    /// As the first packet.
    Orig = 0,
    /// The answers.
    Reply = 1,
}

impl Dir {
    pub(super) const BOTH: [Self; 2] = [Self::Orig, Self::Reply];
}

/// Why a direction is in its state, for `flyover flows` and `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Why {
    /// No packet of this direction was seen to be forwarded by the kernel yet.
    Unproved,
    /// The kernel forwarded a packet of this direction just so.
    Proved,
    /// Proved, and waiting for earlier packets to come out of the kernel.
    Settling,
    /// Something changed (ruleset, route, neighbour, link), and the direction proves itself again.
    Changed,
    /// The time between proofs has passed.
    Reproving,
    /// The kernel did not forward a packet that should have proved the direction.
    NotForwarded,
    /// A packet left the kernel more than once.
    Duplicated,
    /// A packet was longer than any that was seen to leave.
    Longer,
    /// No packet for a while: the kernel has it back, with the timeout that it would have had.
    Idle,
    /// A FIN, RST or SYN was seen.
    Closing,
    /// The table of adjacencies or contexts is full.
    NoRoom,
    /// Its port is down or gone, or has another MTU or address.
    PortChanged,
    /// The port that it comes in by is no device of a flowtable.
    OtherDevice,
    /// A rule that names an interface on its way must see each of its packets.
    Ruleset,
    /// The kernel's flowtable takes its packets where the rules can't be asked first.
    PastRules,
}

impl Why {
    /// In words for an operator.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unproved => "waiting for the kernel to forward a packet of this direction",
            Self::Proved => "the kernel forwarded a packet of this direction just so",
            Self::Settling => "waiting for earlier packets to come out of the kernel",
            Self::Changed => "ruleset, route, neighbour or link changed: proving itself again",
            Self::Reproving => "proving itself again, as it does from time to time",
            Self::NotForwarded => "the kernel did not forward its last probe",
            Self::Duplicated => "the kernel sends its packets more than once",
            Self::Longer => "a packet was longer than any that was seen to leave unfragmented",
            Self::Idle => "idle",
            Self::Closing => "a FIN, RST or SYN was seen",
            Self::NoRoom => "too many different next hops or ingress contexts",
            Self::PortChanged => "its port went down, or has another MTU or address",
            Self::OtherDevice => "it comes in by a port that is no device of the flowtable",
            Self::Ruleset => "a rule for an interface on its way must see each of its packets",
            Self::PastRules => {
                "the kernel's flowtable takes its packets before the rules see them, on a PPP interface or a bridge with \
                 VLAN filtering"
            }
        }
    }
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direction {
    /// The state as control knows it; workers may be a step ahead.
    pub(super) state: EntryState,
    pub(super) why: Why,
    /// When it was last proved or given back, in milliseconds since start, wrapping.
    pub(super) since: u32,
    /// Until then no proof is taken, after a duplicate: milliseconds since start, wrapping; 0: none.
    pub(super) shunned_until: u32,
    pub(super) ever_proved: bool,
    /// When its last proof came, if it was ever proved: milliseconds since start, wrapping.
    pub(super) proved_at: u32,
    /// The epoch of its last proof.
    pub(super) epoch: u32,
}

impl Direction {
    pub(super) const NEW: Self = Self {
        state: EntryState::Candidate,
        why: Why::Unproved,
        since: 0,
        shunned_until: 0,
        ever_proved: false,
        proved_at: 0,
        epoch: 0,
    };
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    /// conntrack's CTA_ID: 32 bits, so not unique among a million; `tag` adds as many of the tuple's hash.
    pub(super) id: u32,
    pub(super) tag: u32,
    pub(super) zones: Zones,
    pub(super) proto: u8,
    /// conntrack has seen answers.
    pub(super) replied: bool,
    /// conntrack calls it assured: an event that does not is older.
    pub(super) assured: bool,
    /// conntrack's TCP state is ESTABLISHED (always true for UDP).
    pub(super) established: bool,
    /// The kernel's entry has Flyover's timeout and, if TCP, its liberal flags.
    pub(super) held: bool,
    /// The kernel was asked for its entry, to be given back.
    pub(super) returning: bool,
    /// A flowtable of the kernel has, or has had it.
    pub(super) selected: bool,
    pub(super) flows: Option<[FlowRef; 2]>,
    pub(super) directions: [Direction; 2],
    pub(super) mark: u32,
    /// The timeout that the kernel gives a packet of this connection, in seconds; 0: the protocol's.
    pub(super) timeout_s: u32,
    /// The wheel's tick for which its timer is armed.
    pub(super) due: u32,
    /// When it was first seen, and when its timeout was last refreshed: milliseconds since start, wrapping.
    pub(super) born: u32,
    pub(super) refreshed: u32,
    /// The last dump in which it was seen, or during which an event told of it.
    pub(super) dump: u32,
}

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Candidate = 0,
    Software = 1,
    Probing = 2,
    Closing = 3,
}

impl Connection {
    /// The connection's state: that of its slower direction; one that has no packets doesn't count.
    pub(super) fn class(&self) -> Class {
        let [orig, reply] = self.directions.map(|d| match d.state {
            EntryState::Closing => Class::Closing,
            EntryState::Candidate | EntryState::Holding => Class::Candidate,
            EntryState::Probing => Class::Probing,
            EntryState::Software => Class::Software,
        });
        if !self.replied && !self.directions[1].ever_proved {
            return orig;
        }
        // One that has fallen silent says nothing of the other.
        match self.directions.map(|d| d.state == EntryState::Candidate && d.why == Why::Idle) {
            [true, false] => return reply,
            [false, true] => return orig,
            _ => {}
        }
        let slower = |class| orig == class || reply == class;
        [Class::Closing, Class::Candidate, Class::Probing]
            .into_iter()
            .find(|c| slower(*c))
            .unwrap_or(Class::Software)
    }

    /// The direction which explains [`Self::class`].
    pub(super) fn slower(&self) -> &Direction {
        let class = self.class();
        let is = |d: &&Direction| match class {
            Class::Closing => d.state == EntryState::Closing,
            Class::Candidate => matches!(d.state, EntryState::Candidate | EntryState::Holding),
            Class::Probing => d.state == EntryState::Probing,
            Class::Software => d.state == EntryState::Software,
        };
        self.directions.iter().find(is).unwrap_or(&self.directions[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_small() {
        assert!(size_of::<Connection>() <= 104, "{}", size_of::<Connection>());
    }
}
