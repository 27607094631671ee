//! What a NIC is to do with one direction of a flow.

use arrayvec::ArrayVec;

use crate::flow::{AdjacencyTable, ContextTable, Entry, EntryView, Key, MAX_HEADER, TCP, UDP, flags};
use crate::packet::Ingress;
use crate::packet::wire::{ETHER_IPV4, ETHER_IPV6, ETHER_SERVICE_VLAN, ETHER_VLAN, array, be16};

/// A VLAN tag: TPID, and tag control information (priority, DEI, VLAN id).
pub type Tag = (u16, u16);

/// VLAN tags, outer first.
pub type Tags = ArrayVec<Tag, 2>;

/// One direction of a flow: which packets, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareFlow {
    /// Port that packets come in by.
    pub port: u16,
    /// Destination MAC that packets come in with.
    pub to: [u8; 6],
    /// Tags that packets come in with.
    pub tags: Tags,
    /// 5-tuple that packets come in with.
    pub key: Key,
    /// The longest packet, from the IP header on, that the rule takes; none if nothing longer than what can leave comes in.
    pub longest: Option<u16>,
    /// Port that packets leave by.
    pub egress: u16,
    /// Destination and source MAC that packets leave with.
    pub macs: [[u8; 6]; 2],
    /// Tags that packets leave with.
    pub new_tags: Tags,
    /// 5-tuple that packets leave with; same family and protocol.
    pub leaves_as: Key,
}

/// How long packets are, from the IP header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lengths {
    /// The longest that can come in.
    pub may_come: u16,
    /// The longest that is known to leave in one piece: the direction's proved length, or more where control knows the
    /// route's MTU.
    pub may_leave: u16,
    /// Whether the NIC compares lengths, so that software gets what is longer.
    pub compared: bool,
}

/// Why no NIC may carry a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// Ingress context or adjacency are not known.
    #[error("where it comes in and how it leaves is not proved")]
    Unproved,
    /// Bridged packets have to keep their source MAC, which rules do not compare.
    #[error("it is bridged, not routed")]
    Bridged,
    /// PPPoE on either side: no rule writes its length field.
    #[error("it is in a PPPoE session")]
    Pppoe,
    /// The kernel changes the DSCP.
    #[error("its DSCP is changed")]
    Dscp,
    /// The L2 header that it leaves with is no Ethernet header with at most two tags.
    #[error("the L2 header that it leaves with is not plain Ethernet with at most two VLAN tags")]
    Header,
    /// Neither TCP nor UDP, or the two tuples differ in family or protocol.
    #[error("it is neither TCP nor UDP")]
    Protocol,
    /// No rule writes the DEI bit of a tag that is put on.
    #[error("it leaves with a VLAN tag whose DEI bit is set")]
    Dei,
    /// A packet that comes in could be too long to leave.
    #[error(
        "packets of up to {} bytes can come in, and only {} are known to leave in one piece",
        .0.may_come, .0.may_leave
    )]
    TooLong(Lengths),
}

impl HardwareFlow {
    /// Takes a direction from the flow table.
    ///
    /// # Errors
    /// Why no NIC may carry it.
    pub fn derive(
        entry: Entry<'_>,
        contexts: &ContextTable,
        adjacencies: &AdjacencyTable,
        lengths: Lengths,
    ) -> Result<Self, Unfit> {
        let (adjacency, flags) = entry.egress();
        let adjacency = adjacencies.get(adjacency);
        let fields = adjacency.fields();
        if entry.context() == ContextTable::NONE || !fields.is_some() {
            return Err(Unfit::Unproved);
        }
        if flags & flags::BRIDGED != 0 {
            return Err(Unfit::Bridged);
        }
        if fields.pppoe_length().is_some() {
            return Err(Unfit::Pppoe);
        }
        if fields.dscp().is_some() {
            return Err(Unfit::Dscp);
        }
        let may_leave = lengths.may_leave.min(fields.mtu());
        let longest = (lengths.may_come > may_leave).then_some(may_leave);
        if longest.is_some_and(|longest| !lengths.compared || longest < LEAST_MTU) {
            return Err(Unfit::TooLong(Lengths { may_leave, ..lengths }));
        }
        let bytes: [u8; MAX_HEADER] = adjacency.header_bytes();
        let header = bytes.get(..fields.header_len()).ok_or(Unfit::Header)?;
        let flow =
            Self::new(contexts.get(entry.context()), entry.key(), entry.leaves_as(), fields.port(), header)?;
        Ok(Self { longest, ..flow })
    }

    /// A direction as it comes in: for [`encode::mark`](super::encode::mark), to which nothing else matters.
    ///
    /// # Errors
    /// Why no NIC can tell its packets.
    pub fn seen(ingress: Ingress, key: Key) -> Result<Self, Unfit> {
        if ingress.pppoe().is_some() {
            return Err(Unfit::Pppoe);
        }
        if !matches!(key.proto(), TCP | UDP) {
            return Err(Unfit::Protocol);
        }
        let (port, tags): (_, Tags) = (ingress.port(), ingress.tags().into_iter().flatten().collect());
        let (to, macs, new_tags) = (ingress.dst_mac(), [[0; 6]; 2], tags.clone());
        Ok(Self { port, to, tags, key, longest: None, egress: port, macs, new_tags, leaves_as: key })
    }

    /// Puts a direction together: packets with this context and key leave by `egress` as `leaves_as`, with this L2
    /// header.
    ///
    /// # Errors
    /// Why no NIC may carry it.
    pub fn new(
        ingress: Ingress,
        key: Key,
        leaves_as: Key,
        egress: u16,
        header: &[u8],
    ) -> Result<Self, Unfit> {
        if ingress.pppoe().is_some() {
            return Err(Unfit::Pppoe);
        }
        let same_family = matches!((key, leaves_as), (Key::V4(_), Key::V4(_)) | (Key::V6(_), Key::V6(_)));
        if !same_family || key.proto() != leaves_as.proto() || !matches!(key.proto(), TCP | UDP) {
            return Err(Unfit::Protocol);
        }
        let (macs, new_tags) = read_header(header, ether_type(&key)).ok_or(Unfit::Header)?;
        let flow = Self {
            port: ingress.port(),
            to: ingress.dst_mac(),
            tags: ingress.tags().into_iter().flatten().collect(),
            key,
            longest: None,
            egress,
            macs,
            new_tags,
            leaves_as,
        };
        let writes_dei = match flow.tag_changes() {
            TagChanges::Pushes { push, .. } => push.iter().any(|(_, tci)| tci & DEI != 0),
            TagChanges::None | TagChanges::Rewrite { .. } => false,
        };
        if writes_dei { Err(Unfit::Dei) } else { Ok(flow) }
    }

    /// The EtherType in front of the IP header.
    pub fn ether_type(&self) -> u16 {
        ether_type(&self.key)
    }

    /// What has to be done to the tags.
    pub fn tag_changes(&self) -> TagChanges {
        let mut old = self.tags.clone();
        let mut new = self.new_tags.clone();
        // The innermost ones that stay as they are.
        while let (Some(a), Some(b)) = (old.last(), new.last())
            && a == b
        {
            old.pop();
            new.pop();
        }
        match (&old[..], &new[..]) {
            ([], []) => TagChanges::None,
            ([(tpid, tci)], [(new_tpid, new_tci)]) if tpid == new_tpid && (tci ^ new_tci) & DEI == 0 => {
                TagChanges::Rewrite { from: *tci, to: *new_tci }
            }
            _ => TagChanges::Pushes { pop: old.len(), push: new.into_iter().rev().collect() },
        }
    }
}

/// The shortest that a link's longest packet may be (RFC 791).
const LEAST_MTU: u16 = 68;

/// Drop eligible indicator (IEEE 802.1Q), which no action writes.
const DEI: u16 = 0x1000;

/// What has to be done to the tags of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagChanges {
    /// Nothing.
    None,
    /// The outermost one gets another VLAN id or priority.
    Rewrite {
        /// Its tag control information.
        from: u16,
        /// What it becomes.
        to: u16,
    },
    /// So many are taken off, then others are put on.
    Pushes {
        /// Tags to take off.
        pop: usize,
        /// Tags to put on, the innermost first.
        push: Tags,
    },
}

fn ether_type(key: &Key) -> u16 {
    match key {
        Key::V4(_) => ETHER_IPV4,
        Key::V6(_) => ETHER_IPV6,
    }
}

/// The MAC addresses and tags of an L2 header that ends with this EtherType.
fn read_header(header: &[u8], last: u16) -> Option<([[u8; 6]; 2], Tags)> {
    let macs = [array(header, 0)?, array(header, 6)?];
    let mut tags = Tags::new();
    let mut at = 12;
    loop {
        let ether_type = be16(header, at)?;
        at += 2;
        if ether_type == last {
            return (at == header.len()).then_some((macs, tags));
        }
        if !matches!((ether_type, tags.len()), (ETHER_VLAN, 0 | 1) | (ETHER_SERVICE_VLAN, 0)) {
            return None;
        }
        tags.push((ether_type, be16(header, at)?));
        at += 2;
    }
}
