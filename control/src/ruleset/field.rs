//! What rules look at: fields of a packet and of its connection.

use super::expression::Base;
use super::ranges::Ranges;
use crate::config::Construct;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(super) const IPV4: u128 = 2;
pub(super) const IPV6: u128 = 10;
/// IP protocol numbers.
pub(super) const TCP: u128 = 6;
pub(super) const UDP: u128 = 17;
/// `NF_CT_STATE_BIT` and its like: what `ct state` may be.
pub(super) const STATE_INVALID: u128 = 1;
pub(super) const STATE_ESTABLISHED: u128 = 2;
pub(super) const STATE_RELATED: u128 = 4;
pub(super) const STATE_NEW: u128 = 8;

/// A field. What is a number has its value in the packet's byte order; a name is its 16 bytes as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Field {
    /// `ct state`.
    CtState,
    /// `ct direction`.
    CtDirection,
    /// `ct mark`.
    CtMark,
    /// `ct status`.
    CtStatus,
    /// A part of conntrack's tuple, of the reply direction or the original one.
    Tuple {
        reply: bool,
        part: Part,
    },
    /// `meta nfproto`.
    Nfproto,
    /// `meta protocol`, `ether type`.
    Protocol,
    /// `meta l4proto`, `ip protocol`, `ip6 nexthdr`.
    L4Proto,
    /// A part of the packet's own tuple.
    Packet(Part),
    /// `iifname`, `oifname`.
    Iif,
    Oif,
    /// `iif`, `oif`.
    IifIndex,
    OifIndex,
    /// TTL or hop limit.
    Ttl,
    /// TCP's flags.
    TcpFlags,
    /// IPv4's flags and fragment offset.
    FragOff,
    /// Not told apart further: it may differ from packet to packet, and the rule's construct is this.
    PerPacket(Construct),
    /// Not told apart further: the same for all packets of a direction.
    PerConnection,
    /// Always this value.
    Constant(u128),
}

/// A part of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    Src4,
    Dst4,
    Src6,
    Dst6,
    Sport,
    Dport,
}

impl Part {
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Src4 | Self::Dst4 => 4,
            Self::Src6 | Self::Dst6 => 16,
            Self::Sport | Self::Dport => 2,
        }
    }
}

impl Field {
    /// What it may be in a packet that Flyover would carry, whatever the rules before it. Fragments, options,
    /// extension headers, SYN, FIN and RST go to the kernel in any case.
    pub(super) fn domain(self) -> Ranges {
        const ACK: u128 = 0x10;
        match self {
            Self::Nfproto => Ranges::of([(IPV4, IPV4), (IPV6, IPV6)]),
            // IPv4, IPv6, and those before them where frames have tags or PPPoE.
            Self::Protocol => Ranges::of([0x0800, 0x86dd, 0x8100, 0x88a8, 0x8864].map(|n| (n, n))),
            Self::L4Proto => Ranges::of([(TCP, TCP), (UDP, UDP)]),
            Self::CtDirection => Ranges::between(0, 1),
            // PSH, URG, ECE and CWR may be set with ACK.
            Self::TcpFlags => Ranges::of(
                (0..16)
                    .map(|n| ACK | (n & 1) << 3 | (n & 2) << 4 | (n & 4) << 4 | (n & 8) << 4)
                    .map(|n| (n, n)),
            ),
            // DF, and a bit that means nothing.
            Self::FragOff => Ranges::of([0, 0x4000, 0x8000, 0xc000].map(|n| (n, n))),
            Self::Ttl => Ranges::between(1, 255),
            Self::Constant(value) => Ranges::one(value),
            Self::PerPacket(_)
            | Self::PerConnection
            | Self::CtState
            | Self::CtMark
            | Self::CtStatus
            | Self::Tuple { .. }
            | Self::Packet(_)
            | Self::Iif
            | Self::Oif
            | Self::IifIndex
            | Self::OifIndex => Ranges::all(),
        }
    }

    /// The construct of a rule whose outcome depends on this field, if that can differ within a connection.
    pub(super) const fn construct(self) -> Option<Construct> {
        match self {
            Self::Ttl => Some(Construct::Ttl),
            Self::TcpFlags => Some(Construct::TcpFlags),
            Self::FragOff => Some(Construct::Payload),
            Self::PerPacket(construct) => Some(construct),
            _ => None,
        }
    }

    /// Whether ranges of it say something.
    pub(super) const fn is_told_apart(self) -> bool {
        !matches!(self, Self::PerPacket(_) | Self::PerConnection)
    }
}

/// Where a field lies in a header.
#[derive(Clone, Copy)]
struct Place {
    at: u32,
    len: u32,
    field: Field,
}

const fn place(at: u32, len: u32, field: Field) -> Place {
    Place { at, len, field }
}

const PAYLOAD: Field = Field::PerPacket(Construct::Payload);

/// ether_header, VLAN tags included: all but the source is part of the ingress context.
const LINK: &[Place] = &[
    place(0, 6, Field::PerConnection),
    place(6, 6, Field::PerPacket(Construct::EtherAddress)),
    place(12, 2, Field::Protocol),
    place(14, 18, Field::PerConnection),
];

const V4: &[Place] = &[
    place(0, 1, Field::Constant(0x45)),
    place(1, 1, Field::PerPacket(Construct::Dscp)),
    place(2, 2, Field::PerPacket(Construct::Length)),
    place(4, 2, PAYLOAD),
    place(6, 2, Field::FragOff),
    place(8, 1, Field::Ttl),
    place(9, 1, Field::L4Proto),
    place(10, 2, PAYLOAD),
    place(12, 4, Field::Packet(Part::Src4)),
    place(16, 4, Field::Packet(Part::Dst4)),
];

const V6: &[Place] = &[
    // Version and the upper half of the flow label are in these bytes, too.
    place(0, 2, Field::PerPacket(Construct::Dscp)),
    place(2, 2, PAYLOAD),
    place(4, 2, Field::PerPacket(Construct::Length)),
    place(6, 1, Field::L4Proto),
    place(7, 1, Field::Ttl),
    place(8, 16, Field::Packet(Part::Src6)),
    place(24, 16, Field::Packet(Part::Dst6)),
];

const PORTS: &[Place] = &[place(0, 2, Field::Packet(Part::Sport)), place(2, 2, Field::Packet(Part::Dport))];

const UDP_REST: &[Place] = &[place(4, 2, Field::PerPacket(Construct::Length))];

const TCP_REST: &[Place] = &[place(13, 1, Field::TcpFlags)];

/// A run of bytes of one field: `len` bytes from byte `from` of its `width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) field: Field,
    pub(super) from: usize,
    pub(super) len: usize,
    pub(super) width: usize,
}

impl Run {
    /// A field as a whole.
    pub(super) const fn whole(field: Field, width: usize) -> Self {
        Self { field, from: 0, len: width, width }
    }
}

/// The fields in `len` bytes of a header. `nfproto` and `l4proto` are what the packet may be.
pub(super) fn in_header(base: Base, offset: u32, len: u32, nfproto: &Ranges, l4proto: &Ranges) -> Vec<Run> {
    let network = || match () {
        () if *nfproto == Ranges::one(IPV4) => Some(V4),
        () if *nfproto == Ranges::one(IPV6) => Some(V6),
        () => None,
    };
    // IPv6's flow label begins within a byte.
    const FLOW_LABEL: (u32, u32) = (1, 3);
    let places: Vec<Place> = match base {
        Base::Link => LINK.to_vec(),
        Base::Network if (offset, len) == FLOW_LABEL && *nfproto == Ranges::one(IPV6) => Vec::new(),
        Base::Network => network().unwrap_or_default().to_vec(),
        Base::Transport if *l4proto == Ranges::one(TCP) => [PORTS, TCP_REST].concat(),
        Base::Transport if *l4proto == Ranges::one(UDP) => [PORTS, UDP_REST].concat(),
        Base::Transport => PORTS.to_vec(),
        Base::Inner => Vec::new(),
    };
    let mut runs = Vec::new();
    let (mut at, end) = (offset, offset.saturating_add(len));
    while at < end {
        let covering = places.iter().find(|place| (place.at..place.at + place.len).contains(&at));
        let next = places.iter().map(|place| place.at).filter(|start| *start > at).min().unwrap_or(end);
        let (field, from, until, width) = match covering {
            Some(place) => (place.field, at - place.at, end.min(place.at + place.len), place.len),
            None => (PAYLOAD, 0, end.min(next), end.min(next) - at),
        };
        let len = (until - at) as usize;
        runs.push(Run { field, from: from as usize, len, width: width as usize });
        at = until;
    }
    runs
}

/// Bytes of an interface's name as nft compares them.
pub(super) const NAME: usize = 16;

/// The name of an interface as a number.
pub(super) fn name(text: &str) -> u128 {
    let mut bytes = [0; NAME];
    for (to, from) in bytes.iter_mut().take(NAME - 1).zip(text.bytes()) {
        *to = from;
    }
    u128::from_be_bytes(bytes)
}

/// Names by what nft's `devices` lists: whole, or the beginning followed by `*`.
pub(super) fn names<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Ranges {
    Ranges::of(patterns.into_iter().map(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => {
            let rest = 8 * NAME.saturating_sub(prefix.len()) as u32;
            (name(prefix), name(prefix) | 1_u128.checked_shl(rest).map_or(u128::MAX, |bit| bit - 1))
        }
        None => (name(pattern), name(pattern)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(base: Base, offset: u32, len: u32, nfproto: u128, l4proto: u128) -> Vec<(Field, usize, usize)> {
        let runs = in_header(base, offset, len, &Ranges::one(nfproto), &Ranges::one(l4proto));
        assert_eq!(runs.iter().map(|run| run.len).sum::<usize>(), len as usize);
        runs.into_iter().map(|run| (run.field, run.from, run.len)).collect()
    }

    #[test]
    fn bytes_of_headers_are_told_apart() {
        let (src, dst) = (Field::Packet(Part::Src4), Field::Packet(Part::Dst4));
        assert_eq!(fields(Base::Network, 12, 8, IPV4, TCP), [(src, 0, 4), (dst, 0, 4)]);
        assert_eq!(fields(Base::Network, 13, 2, IPV4, TCP), [(src, 1, 2)]);
        assert_eq!(fields(Base::Transport, 13, 1, IPV4, TCP), [(Field::TcpFlags, 0, 1)]);
        assert_eq!(fields(Base::Transport, 13, 1, IPV4, UDP), [(PAYLOAD, 0, 1)]);
        assert_eq!(
            fields(Base::Transport, 2, 4, IPV6, UDP),
            [(Field::Packet(Part::Dport), 0, 2), (Field::PerPacket(Construct::Length), 0, 2)]
        );
        assert_eq!(fields(Base::Network, 1, 3, IPV6, TCP), [(PAYLOAD, 0, 3)]);
        assert_eq!(fields(Base::Inner, 0, 4, IPV6, TCP), [(PAYLOAD, 0, 4)]);
        let unknown = in_header(Base::Network, 12, 4, &Ranges::all(), &Ranges::all());
        assert_eq!(unknown.first().map(|run| run.field), Some(PAYLOAD));
    }

    #[test]
    fn offsets_at_their_limit_end() {
        let runs = in_header(Base::Transport, u32::MAX, u32::MAX, &Ranges::all(), &Ranges::all());
        assert!(runs.is_empty());
        let runs = in_header(Base::Transport, 0, u32::MAX, &Ranges::all(), &Ranges::all());
        assert_eq!(runs.len(), 3);
    }

    #[test]
    fn names_are_whole_or_begin_with() {
        let names = names(["lan0", "ppp*"]);
        for inside in ["lan0", "ppp", "ppp0", "ppp-wan"] {
            assert!(names.contains(name(inside)), "{inside}");
        }
        for outside in ["lan", "lan00", "pp", "wan0"] {
            assert!(!names.contains(name(outside)), "{outside}");
        }
        assert!(super::names(["*"]).is_all());
    }

    #[test]
    fn data_packets_have_ack_and_nothing_that_ends() {
        let flags = Field::TcpFlags.domain().values(256).expect("few");
        assert_eq!(flags.len(), 16);
        assert!(flags.iter().all(|flags| flags & 0x10 != 0 && flags & 0x07 == 0), "{flags:x?}");
    }
}
