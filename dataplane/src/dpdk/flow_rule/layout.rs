//! Contents of C structures that are not what is on the wire: flags behind headers, and MODIFY_FIELD.

use std::mem::offset_of;

use dpdk_sys as sys;

// Items begin with the header as it is on the wire, without a gap.
const _: () = {
    assert!(
        size_of::<sys::rte_ether_hdr>() == 14 && offset_of!(sys::rte_flow_item_eth, __bindgen_anon_1) == 0
    );
    assert!(
        size_of::<sys::rte_vlan_hdr>() == 4 && offset_of!(sys::rte_flow_item_vlan, __bindgen_anon_1) == 0
    );
    assert!(size_of::<sys::rte_flow_item_ipv4>() == 20);
    assert!(size_of::<sys::rte_ipv6_hdr>() == 40 && offset_of!(sys::rte_flow_item_ipv6, hdr) == 0);
    assert!(size_of::<sys::rte_flow_item_tcp>() == 20);
    assert!(size_of::<sys::rte_flow_item_udp>() == 8);
};

/// Ethernet item: the packet has a VLAN tag.
pub const ETH_HAS_VLAN: (usize, u32) = (16, 1);
/// VLAN item: another tag follows.
pub const VLAN_HAS_MORE: (usize, u32) = (4, 1);
/// IPv6 item: there is a fragment header.
pub const IPV6_HAS_FRAGMENT: (usize, u32) = (40, 1 << 2);

/// Integrity item: the lengths and the version of the IP header.
pub const INTEGRITY_L3_OK: (usize, u32) = (INTEGRITY, 1 << 2);
/// Integrity item: the lengths of the TCP or UDP header.
pub const INTEGRITY_L4_OK: (usize, u32) = (INTEGRITY, 1 << 3);
/// Integrity item: the checksum of the IPv4 header.
pub const INTEGRITY_IPV4_CHECKSUM_OK: (usize, u32) = (INTEGRITY, 1 << 5);
/// Integrity item: the TCP or UDP checksum.
pub const INTEGRITY_L4_CHECKSUM_OK: (usize, u32) = (INTEGRITY, 1 << 6);

/// The flags' 64-bit word, of which the lower half is used.
const INTEGRITY: usize = offset_of!(sys::rte_flow_item_integrity, __bindgen_anon_1)
    + if cfg!(target_endian = "big") { 4 } else { 0 };

/// Whether a flag of an item is set. Flags are bits of a word in the machine's byte order.
pub fn flag(content: &[u8], (at, bit): (usize, u32)) -> bool {
    word(content, at) & bit != 0
}

/// Sets a flag of an item.
pub fn set_flag(content: &mut [u8], (at, bit): (usize, u32)) {
    let word = word(content, at) | bit;
    if let Some(place) = content.get_mut(at..at + 4) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
}

fn word(content: &[u8], at: usize) -> u32 {
    content.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// A field that MODIFY_FIELD can change (`enum rte_flow_field_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Destination MAC.
    MacDst,
    /// Source MAC.
    MacSrc,
    /// TTL.
    Ipv4Ttl,
    /// IPv4 source.
    Ipv4Src,
    /// IPv4 destination.
    Ipv4Dst,
    /// Hop limit.
    Ipv6HopLimit,
    /// IPv6 source.
    Ipv6Src,
    /// IPv6 destination.
    Ipv6Dst,
    /// TCP source port.
    TcpSrc,
    /// TCP destination port.
    TcpDst,
    /// UDP source port.
    UdpSrc,
    /// UDP destination port.
    UdpDst,
}

impl Field {
    const ALL: [(Self, u32, u32, &'static str); 12] = [
        (Self::MacDst, sys::RTE_FLOW_FIELD_MAC_DST, 48, "mac_dst"),
        (Self::MacSrc, sys::RTE_FLOW_FIELD_MAC_SRC, 48, "mac_src"),
        (Self::Ipv4Ttl, sys::RTE_FLOW_FIELD_IPV4_TTL, 8, "ipv4_ttl"),
        (Self::Ipv4Src, sys::RTE_FLOW_FIELD_IPV4_SRC, 32, "ipv4_src"),
        (Self::Ipv4Dst, sys::RTE_FLOW_FIELD_IPV4_DST, 32, "ipv4_dst"),
        (Self::Ipv6HopLimit, sys::RTE_FLOW_FIELD_IPV6_HOPLIMIT, 8, "ipv6_hoplimit"),
        (Self::Ipv6Src, sys::RTE_FLOW_FIELD_IPV6_SRC, 128, "ipv6_src"),
        (Self::Ipv6Dst, sys::RTE_FLOW_FIELD_IPV6_DST, 128, "ipv6_dst"),
        (Self::TcpSrc, sys::RTE_FLOW_FIELD_TCP_PORT_SRC, 16, "tcp_port_src"),
        (Self::TcpDst, sys::RTE_FLOW_FIELD_TCP_PORT_DST, 16, "tcp_port_dst"),
        (Self::UdpSrc, sys::RTE_FLOW_FIELD_UDP_PORT_SRC, 16, "udp_port_src"),
        (Self::UdpDst, sys::RTE_FLOW_FIELD_UDP_PORT_DST, 16, "udp_port_dst"),
    ];

    fn entry(self) -> (Self, u32, u32, &'static str) {
        // Every field is in the list.
        Self::ALL.into_iter().find(|(field, ..)| *field == self).unwrap_or(Self::ALL[0])
    }

    /// Its width in bits.
    pub fn width(self) -> u32 {
        self.entry().2
    }

    /// What testpmd calls it.
    pub fn word(self) -> &'static str {
        self.entry().3
    }
}

/// What MODIFY_FIELD does with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write the value.
    Set,
    /// Add the value.
    Add,
    /// Subtract the value.
    Subtract,
}

/// `struct rte_flow_action_modify_field` with an immediate value as its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModifyField {
    /// What is done.
    pub operation: Operation,
    /// What is changed.
    pub field: Field,
    /// Encapsulation level of the field; 0 is the driver's default.
    pub level: u32,
    /// Bits of the field that are left alone.
    pub offset: u32,
    /// Bits that are changed.
    pub width: u32,
    /// The value, in the byte order of the wire, from the first byte on.
    pub value: [u8; 16],
}

/// Bytes of a MODIFY_FIELD's C structure.
pub const MODIFY_FIELD_LEN: usize = size_of::<sys::rte_flow_action_modify_field>();

const DST: usize = offset_of!(sys::rte_flow_action_modify_field, dst);
const SRC: usize = offset_of!(sys::rte_flow_action_modify_field, src);
const FIELD: usize = offset_of!(sys::shim_flow_field_data, field);
const UNION: usize = offset_of!(sys::shim_flow_field_data, __bindgen_anon_1);
const WIDTH: usize = offset_of!(sys::rte_flow_action_modify_field, width);
const OPERATION: usize = offset_of!(sys::rte_flow_action_modify_field, operation);

impl ModifyField {
    /// Writes a whole field.
    pub fn set(field: Field, value: &[u8]) -> Self {
        Self::new(Operation::Set, field, value)
    }

    /// Does this with a whole field.
    pub fn new(operation: Operation, field: Field, value: &[u8]) -> Self {
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().zip(value) {
            *place = *byte;
        }
        Self { operation, field, level: 0, offset: 0, width: field.width(), value: bytes }
    }

    /// The C structure's bytes.
    pub fn bytes(&self) -> [u8; MODIFY_FIELD_LEN] {
        let mut bytes = [0; MODIFY_FIELD_LEN];
        let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        put(
            OPERATION,
            match self.operation {
                Operation::Set => sys::RTE_FLOW_MODIFY_SET,
                Operation::Add => sys::RTE_FLOW_MODIFY_ADD,
                Operation::Subtract => sys::RTE_FLOW_MODIFY_SUB,
            },
        );
        put(DST + FIELD, self.field.entry().1);
        put(DST + UNION, self.level);
        put(DST + UNION + 4, self.offset);
        put(SRC + FIELD, sys::RTE_FLOW_FIELD_VALUE);
        put(WIDTH, self.width);
        bytes[SRC + UNION..SRC + UNION + 16].copy_from_slice(&self.value);
        bytes
    }

    /// Of a C structure of so many bytes those that are the same in all rules of a template: all but the value.
    pub fn constant_part(len: usize) -> Vec<u8> {
        (0..len).map(|at| if (SRC + UNION..SRC + UNION + 16).contains(&at) { 0 } else { 0xff }).collect()
    }

    /// Reads a C structure; `None` if the operation or a field is not known here, or the source is not a value.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let operation = match word(bytes, OPERATION) {
            sys::RTE_FLOW_MODIFY_SET => Operation::Set,
            sys::RTE_FLOW_MODIFY_ADD => Operation::Add,
            sys::RTE_FLOW_MODIFY_SUB => Operation::Subtract,
            _ => return None,
        };
        if word(bytes, SRC + FIELD) != sys::RTE_FLOW_FIELD_VALUE {
            return None;
        }
        let number = word(bytes, DST + FIELD);
        let (field, ..) = Field::ALL.into_iter().find(|(_, known, ..)| *known == number)?;
        Some(Self {
            operation,
            field,
            level: word(bytes, DST + UNION),
            offset: word(bytes, DST + UNION + 4),
            width: word(bytes, WIDTH),
            value: *bytes.get(SRC + UNION..)?.first_chunk()?,
        })
    }
}
