//! What a conntrack entry says of a connection.

use std::fmt;

use dataplane::flow::FiveTuple;

/// `enum ip_conntrack_status` (linux/netfilter/nf_conntrack_common.h): the bits of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u32);

impl Status {
    /// Expected by a helper (an FTP data connection).
    pub const EXPECTED: Self = Self(1 << 0);
    /// Packets were seen in both directions.
    pub const SEEN_REPLY: Self = Self(1 << 1);
    /// Not to be dropped early under pressure: TCP's handshake is complete, UDP is a stream.
    pub const ASSURED: Self = Self(1 << 2);
    /// The first packet has left the box, and the entry is in the table.
    pub const CONFIRMED: Self = Self(1 << 3);
    /// The source is translated.
    pub const SRC_NAT: Self = Self(1 << 4);
    /// The destination is translated.
    pub const DST_NAT: Self = Self(1 << 5);
    /// TCP sequence numbers are adjusted, packet by packet.
    pub const SEQ_ADJUST: Self = Self(1 << 6);
    /// Source translation is settled (to nothing, perhaps).
    pub const SRC_NAT_DONE: Self = Self(1 << 7);
    /// Destination translation is settled.
    pub const DST_NAT_DONE: Self = Self(1 << 8);
    /// Removed from the table.
    pub const DYING: Self = Self(1 << 9);
    /// The timeout cannot be changed, ever again.
    pub const FIXED_TIMEOUT: Self = Self(1 << 10);
    /// A template of the ruleset, no connection.
    pub const TEMPLATE: Self = Self(1 << 11);
    /// Lost a race against another entry with the same tuple: its packets must stay with the kernel.
    /// (Bit 12, `IPS_UNTRACKED` of old kernels, which never showed it.)
    pub const NAT_CLASH: Self = Self(1 << 12);
    /// A helper was attached by the ruleset.
    pub const HELPER: Self = Self(1 << 13);
    /// In the kernel's flowtable.
    pub const OFFLOAD: Self = Self(1 << 14);
    /// In the NIC, by the kernel's flowtable.
    pub const HW_OFFLOAD: Self = Self(1 << 15);

    const NAMES: [(Self, &'static str); 16] = [
        (Self::EXPECTED, "EXPECTED"),
        (Self::SEEN_REPLY, "SEEN_REPLY"),
        (Self::ASSURED, "ASSURED"),
        (Self::CONFIRMED, "CONFIRMED"),
        (Self::SRC_NAT, "SRC_NAT"),
        (Self::DST_NAT, "DST_NAT"),
        (Self::SEQ_ADJUST, "SEQ_ADJUST"),
        (Self::SRC_NAT_DONE, "SRC_NAT_DONE"),
        (Self::DST_NAT_DONE, "DST_NAT_DONE"),
        (Self::DYING, "DYING"),
        (Self::FIXED_TIMEOUT, "FIXED_TIMEOUT"),
        (Self::TEMPLATE, "TEMPLATE"),
        (Self::NAT_CLASH, "NAT_CLASH"),
        (Self::HELPER, "HELPER"),
        (Self::OFFLOAD, "OFFLOAD"),
        (Self::HW_OFFLOAD, "HW_OFFLOAD"),
    ];

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Status {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#x}", self.0)?;
        for (_, name) in Self::NAMES.iter().filter(|(bit, _)| self.contains(*bit)) {
            write!(f, " {name}")?;
        }
        write!(f, ")")
    }
}

/// `enum tcp_conntrack`: where conntrack thinks that a TCP connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// No state yet.
    None = 0,
    /// A SYN was seen.
    SynSent = 1,
    /// SYN and SYN+ACK were seen.
    SynRecv = 2,
    /// The handshake is complete.
    Established = 3,
    /// A FIN was seen.
    FinWait = 4,
    /// A FIN was acknowledged.
    CloseWait = 5,
    /// A FIN was seen from both sides.
    LastAck = 6,
    /// The last FIN was acknowledged.
    TimeWait = 7,
    /// An RST was seen.
    Close = 8,
    /// SYNs from both sides: a simultaneous open.
    SynSent2 = 9,
}

impl TcpState {
    /// As `conntrack -L` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
        }
    }

    /// The state of a number on the wire; `None` for a number that no kernel known to us sends.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            _ => return None,
        })
    }
}

/// `IP_CT_TCP_FLAG_*` (linux/netfilter/nf_conntrack_tcp.h): what conntrack knows of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Packets outside the window are not INVALID.
    pub const BE_LIBERAL: Self = Self(0x08);
    /// The highest acknowledgement is known; an RST is then checked against it, liberal or not.
    pub const MAXACK_SET: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// CTA_PROTOINFO_TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpInfo {
    /// The state.
    pub state: TcpState,
    /// Flags of the original direction; absent in DESTROY.
    pub orig_flags: Option<TcpFlags>,
    /// Flags of the reply direction; absent in DESTROY.
    pub reply_flags: Option<TcpFlags>,
}

/// The conntrack zones in which the two directions are looked up; 0 is the default zone.
///
/// `ct zone set` gives both directions one zone, `ct original zone set` and `ct reply zone set` only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Zones {
    /// Zone of the original direction.
    pub orig: u16,
    /// Zone of the reply direction.
    pub reply: u16,
}

impl Zones {
    /// Both directions in the default zone.
    pub const DEFAULT: Self = Self { orig: 0, reply: 0 };
}

/// What the kernel counts of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes from the IP header on.
    pub bytes: u64,
}

/// A TCP or UDP entry, as an event or a dump shows it. What is absent was not said: events name only
/// what changed, and dumps leave out timeout and TCP state of entries in the kernel's flowtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// CTA_ID: names this entry, and no other that had or will have its tuple.
    pub id: u32,
    /// The original direction, as the initiator sends.
    pub orig: FiveTuple,
    /// The reply direction, as the responder sends: NAT is its difference from `orig` inverted.
    pub reply: FiveTuple,
    /// Zones of the two directions.
    pub zones: Zones,
    /// Status bits.
    pub status: Status,
    /// Seconds until the entry ends if no packet comes.
    pub timeout_s: Option<u32>,
    /// The connection's mark; an event leaves it out if it is 0 and has not changed.
    pub mark: Option<u32>,
    /// TCP's state and flags.
    pub tcp: Option<TcpInfo>,
    /// A helper is attached (CTA_HELP).
    pub has_helper: bool,
    /// Sequence numbers are adjusted (CTA_SEQ_ADJ_*).
    pub seq_adjust: bool,
    /// SYNPROXY stands between the two ends (CTA_SYNPROXY).
    pub synproxy: bool,
    /// What the kernel itself has carried, original direction first: with `nf_conntrack_acct`, in dumps, answers and
    /// DESTROY.
    pub counted: Option<[Count; 2]>,
    /// When it was made, in nanoseconds since 1970: with `nf_conntrack_timestamp`, in dumps, answers and DESTROY.
    pub started_ns: Option<u64>,
}

impl ConntrackEntry {
    /// TCP's state, if the message had one.
    pub fn tcp_state(&self) -> Option<TcpState> {
        self.tcp.map(|tcp| tcp.state)
    }
}
