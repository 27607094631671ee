//! Numbers and offsets of the formats on the wire, and loads that cannot go out of bounds.

/// EtherType of IPv4.
pub const ETHER_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHER_ARP: u16 = 0x0806;
/// TPID of a customer VLAN tag (802.1Q).
pub const ETHER_VLAN: u16 = 0x8100;
/// EtherType of IPv6.
pub const ETHER_IPV6: u16 = 0x86dd;
/// EtherType of slow protocols: LACP, marker, OAM.
pub const ETHER_SLOW: u16 = 0x8809;
/// EtherType of PPPoE discovery.
pub const ETHER_PPPOE_DISCOVERY: u16 = 0x8863;
/// EtherType of a PPPoE session.
pub const ETHER_PPPOE_SESSION: u16 = 0x8864;
/// EtherType of 802.1X.
pub const ETHER_EAPOL: u16 = 0x888e;
/// TPID of a service VLAN tag (802.1ad).
pub const ETHER_SERVICE_VLAN: u16 = 0x88a8;
/// EtherType of LLDP.
pub const ETHER_LLDP: u16 = 0x88cc;

/// PPP protocol number of IPv4.
pub const PPP_IPV4: u16 = 0x0021;
/// PPP protocol number of IPv6.
pub const PPP_IPV6: u16 = 0x0057;

/// Length of an untagged Ethernet header.
pub const ETHER_LEN: usize = 14;
/// Length of one VLAN tag.
pub const VLAN_LEN: usize = 4;
/// Length of the PPPoE header with the PPP protocol number.
pub const PPPOE_LEN: usize = 8;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Length of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;

/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// `N` bytes at an offset; `None` if the slice is too short.
#[inline(always)]
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// A big-endian 16-bit number at an offset.
#[inline(always)]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// A big-endian 32-bit number at an offset.
#[inline(always)]
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Two bytes as they lie in memory.
#[inline(always)]
pub fn ne16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

/// Four bytes as they lie in memory.
#[inline(always)]
pub fn ne32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

/// Eight bytes as they lie in memory.
#[inline(always)]
pub fn ne64(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}
