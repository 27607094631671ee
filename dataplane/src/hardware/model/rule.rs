//! Rules as the model NIC keeps them: which bytes they compare, and what they do.

use std::sync::atomic::AtomicU64;

use super::packet::Layers;
use crate::dpdk::flow_rule::layout;

/// A header, or what else can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Layer {
    Port,
    Eth,
    Tag(u8),
    Ipv4,
    Ipv6,
    Tcp,
    Udp,
    Integrity,
}

/// The longest content of a layer: IPv6's header and a byte of flags.
const CONTENT: usize = 44;

/// A layer's bytes: the header as it is on the wire, then a byte of flags.
pub(super) type Content = [u8; CONTENT];

impl Layer {
    /// Bytes of the header.
    fn header_len(self) -> usize {
        match self {
            Self::Port => 2,
            Self::Eth => 14,
            Self::Tag(_) => 4,
            Self::Ipv4 | Self::Tcp => 20,
            Self::Ipv6 => 40,
            Self::Udp => 8,
            Self::Integrity => 0,
        }
    }

    /// The content of an item's C structure.
    pub(super) fn of_item(self, bytes: &[u8]) -> Content {
        let mut content = [0; CONTENT];
        let len = self.header_len();
        for (place, byte) in content.iter_mut().zip(bytes.iter().take(len)) {
            *place = *byte;
        }
        let flags: &[(usize, u32)] = match self {
            Self::Eth => &[layout::ETH_HAS_VLAN],
            Self::Tag(_) => &[layout::VLAN_HAS_MORE],
            Self::Ipv6 => &[layout::IPV6_HAS_FRAGMENT],
            Self::Integrity => &INTEGRITY,
            _ => &[],
        };
        for (bit, flag) in flags.iter().enumerate() {
            content[len] |= u8::from(layout::flag(bytes, *flag)) << bit;
        }
        content
    }

    /// The content that a packet has; none if it has no such layer.
    pub(super) fn of_packet(self, port: u16, frame: &[u8], layers: &Layers) -> Option<Content> {
        let mut content = [0; CONTENT];
        let len = self.header_len();
        let (at, flag) = match self {
            Self::Port => {
                content[..2].copy_from_slice(&port.to_ne_bytes());
                return Some(content);
            }
            Self::Integrity => {
                content[0] = u8::from(layers.l3_is_ok(frame))
                    | u8::from(layers.l4_is_ok(frame)) << 1
                    | u8::from(layers.ip_checksum_is_ok(frame)) << 2
                    | u8::from(layers.l4_checksum_is_ok(frame)) << 3;
                return Some(content);
            }
            Self::Eth => (0, layers.tags > 0),
            Self::Tag(n) if usize::from(n) < layers.tags => {
                (14 + 4 * usize::from(n), layers.tags > usize::from(n) + 1)
            }
            Self::Ipv4 => (layers.ip.filter(|(version, _)| *version == 4)?.1, false),
            Self::Ipv6 => (layers.ip.filter(|(version, _)| *version == 6)?.1, layers.fragment),
            Self::Tcp => (layers.l4.filter(|(proto, _)| *proto == 6)?.1, false),
            Self::Udp => (layers.l4.filter(|(proto, _)| *proto == 17)?.1, false),
            Self::Tag(_) => return None,
        };
        content[..len].copy_from_slice(frame.get(at..at + len)?);
        content[len] = flag.into();
        Some(content)
    }
}

const INTEGRITY: [(usize, u32); 4] = [
    layout::INTEGRITY_L3_OK,
    layout::INTEGRITY_L4_OK,
    layout::INTEGRITY_IPV4_CHECKSUM_OK,
    layout::INTEGRITY_L4_CHECKSUM_OK,
];

/// The layers that a rule compares, and which bits of them.
pub(super) type Shape = Vec<(Layer, Content)>;

/// What a shape's bits of a packet are.
pub(super) fn key_of(shape: &Shape, contents: impl Fn(Layer) -> Option<Content>) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(CONTENT * shape.len());
    for (layer, mask) in shape {
        let content = contents(*layer)?;
        key.extend(content.iter().zip(mask).map(|(byte, mask)| byte & mask));
    }
    Some(key)
}

/// A change of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Pop,
    Push(u16),
    VlanId(u16),
    Priority(u8),
    Mac { source: bool, mac: [u8; 6] },
    Address4 { source: bool, address: [u8; 4] },
    Address6 { source: bool, address: [u8; 16] },
    Port { source: bool, port: [u8; 2] },
    TtlLess(u8),
    Ttl(u8),
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Jump(u32),
    Port(u16),
    Drop,
    /// To software, perhaps through a certain queue.
    Software(Option<u16>),
}

/// The rules that packets meet together: of one domain (none is the switch, else a port), in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) port: Option<u16>,
    pub(super) group: u32,
}

/// A rule that was found to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) place: Place,
    pub(super) priority: u32,
    pub(super) shape: Shape,
    pub(super) key: Vec<u8>,
    /// The range that the length in the IP header has to be in.
    pub(super) lengths: Option<(u16, u16)>,
    pub(super) steps: Vec<Step>,
    pub(super) mark: Option<u32>,
    pub(super) counts: bool,
    pub(super) age_s: Option<u32>,
    pub(super) fate: Fate,
}

/// A rule in the NIC. Times are of the model: milliseconds, and packets seen.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: u64,
    /// The port whose driver was asked for it.
    pub(super) owner: u16,
    /// Whether it was made through a queue.
    pub(super) queued: bool,
    pub(super) checked: Checked,
    /// From when on it matches.
    pub(super) from: Moment,
    /// Until when it matches; [`Moment::NEVER`] as long as nobody removes it.
    pub(super) until: Moment,
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Milliseconds at the last packet.
    pub(super) last_hit: AtomicU64,
}

/// A moment of the model: it has come when both have.
#[derive(Debug, Default)]
pub(super) struct Moment {
    pub(super) millis: AtomicU64,
    pub(super) packets: AtomicU64,
}
