//! Taking a received frame apart.
//!
//! What is let through is what the kernel would forward without looking at more than the headers read here;
//! the rest is refused with a reason. A packet is first tested as a whole, in few steps; only one that fails is
//! looked at again to find out why. The rules follow the kernel's: `ip_rcv_core`, `ip6_rcv_core`,
//! `pppoe_rcv`, `tcp_error` and `udp_error` of conntrack, `nf_flow_tuple_ip`. Where the kernel would decide by
//! something that is not in the headers, the packet is punted.

mod general;
mod refuse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::Deref;

use super::tcp::{ACK, FIN, RST, SYN, Segment, flags_are_valid};
use super::wire::{self, ETHER_IPV4, ETHER_IPV6, ETHER_LEN, IPV4_LEN, IPV6_LEN, be16, ne16, ne32, ne64};
use super::{DropReason, Ingress, PuntReason, checksum};
use crate::flow::{Key, Key4, Key6, TCP, UDP};

/// What is known of a packet that can fly, TCP or UDP directly behind an IP header without options, besides its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Where the frame came in.
    pub ingress: Ingress,
    /// Acknowledgement number in host byte order; 0 without the ACK flag, and for UDP.
    pub tcp_ack: u32,
    /// Length of the packet from its IP header on, as the IP header gives it. What follows is padding.
    pub l3_len: u16,
    /// Offset of the IP header in the frame.
    pub l3: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
}

/// The headers of a packet that can fly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, ports and protocol.
    pub key: Key,
    /// All else; its fields can be read as if they were here.
    pub outline: Outline,
}

impl Deref for Headers {
    type Target = Outline;

    #[inline(always)]
    fn deref(&self) -> &Outline {
        &self.outline
    }
}

impl Outline {
    /// Whether the segment begins or ends a connection: FIN, RST or SYN.
    #[inline(always)]
    pub const fn is_tcp_control(&self) -> bool {
        self.tcp_flags & (FIN | SYN | RST) != 0
    }

    /// Whether the segment asks for a connection, or answers such a request.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.tcp_flags & SYN != 0
    }

    /// Whether the segment resets the connection.
    #[inline(always)]
    pub const fn is_rst(&self) -> bool {
        self.tcp_flags & RST != 0
    }

    /// Length of the frame without padding.
    #[inline(always)]
    pub const fn frame_len(&self) -> usize {
        self.l3 as usize + self.l3_len as usize
    }

    /// The packet from its IP header on, without padding; empty if the frame is not the one parsed.
    pub fn packet<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(usize::from(self.l3)..self.frame_len()).unwrap_or_default()
    }
}

impl Headers {
    /// Offset of the TCP or UDP header in the frame.
    pub const fn l4(&self) -> usize {
        let ip = match self.key {
            Key::V4(_) => IPV4_LEN,
            Key::V6(_) => IPV6_LEN,
        };
        self.outline.l3 as usize + ip
    }

    /// The TCP segment's numbers; `None` for UDP.
    pub fn segment(&self, frame: &[u8]) -> Option<Segment> {
        if self.key.proto() != TCP {
            return None;
        }
        Segment::read(frame.get(self.l4()..self.frame_len())?)
    }
}

/// What is to be done with a packet that must not fly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It goes to the kernel.
    Punt(PuntReason),
    /// A kernel that routes would drop it unseen.
    ///
    /// One that bridges would not: where the port's twin is in a bridge, give it to the kernel nevertheless.
    Drop(DropReason),
}

/// Why a packet must not fly, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to do, and why.
    pub what: Refused,
    /// Where the frame came in, as far as it could be parsed.
    pub ingress: Ingress,
    /// Destination address, if the frame has a whole IP header.
    pub dst: Option<IpAddr>,
    /// The innermost EtherType, 0 if the frame ends before it.
    pub ether_type: u16,
    /// Offset of what follows the L2 header; 0 if the frame ends before it.
    pub l3: u8,
    /// IP protocol or IPv6 next header, if the frame has a whole IP header.
    pub proto: Option<u8>,
    /// It keeps the link itself alive: ARP, neighbour and router discovery, LACP, LLDP, 802.1X, PPP control,
    /// PPPoE discovery. These share the control traffic's budget with what goes to local addresses.
    pub link_control: bool,
}

/// Takes a frame apart.
///
/// Any bytes are safe. `port` becomes part of the ingress context. L4 checksums are not verified.
///
/// # Errors
///
/// A [`Refusal`] for everything that must not fly.
#[inline]
pub fn parse(frame: &[u8], port: u16) -> Result<Headers, Refusal> {
    match parse_plain4(frame, port) {
        Some((key, outline)) => Ok(Headers { key: Key::V4(key), outline }),
        None => parse_other(frame, port),
    }
}

/// Takes apart what most frames are: IPv4 without any encapsulation. `None` says that the frame is something else, or
/// must not fly: [`parse_other`] tells.
#[inline(always)]
pub fn parse_plain4(frame: &[u8], port: u16) -> Option<(Key4, Outline)> {
    // Once for all: what follows needs no further look at the length.
    frame.first_chunk::<{ ETHER_LEN + IPV4_LEN + wire::UDP_LEN }>()?;
    let (ethernet, packet) = frame.split_first_chunk::<ETHER_LEN>()?;
    if ne16(ethernet, 12)? != ETHER_IPV4.to_be() {
        return None;
    }
    let Inner { key, tcp_ack, l3_len, tcp_flags } = ipv4(packet)?;
    let ingress = untagged(ethernet, port)?;
    Some((key, Outline { ingress, tcp_ack, l3_len, l3: ETHER_LEN as u8, tcp_flags }))
}

/// The same for IPv6.
#[inline(always)]
pub fn parse_plain6(frame: &[u8], port: u16) -> Option<(Key6, Outline)> {
    frame.first_chunk::<{ ETHER_LEN + IPV6_LEN + wire::UDP_LEN }>()?;
    let (ethernet, packet) = frame.split_first_chunk::<ETHER_LEN>()?;
    if ne16(ethernet, 12)? != ETHER_IPV6.to_be() {
        return None;
    }
    let Inner { key, tcp_ack, l3_len, tcp_flags } = ipv6(packet)?;
    let ingress = untagged(ethernet, port)?;
    Some((key, Outline { ingress, tcp_ack, l3_len, l3: ETHER_LEN as u8, tcp_flags }))
}

/// Takes a frame apart that [`parse_plain4`] does not know.
///
/// # Errors
///
/// A [`Refusal`] for everything that must not fly.
#[inline(never)]
pub fn parse_other(frame: &[u8], port: u16) -> Result<Headers, Refusal> {
    match parse_plain6(frame, port) {
        Some((key, outline)) => Ok(Headers { key: Key::V6(key), outline }),
        None => general::parse(frame, port),
    }
}

/// The ingress context of a frame without tags that is addressed to one host.
#[inline(always)]
fn untagged(ethernet: &[u8; ETHER_LEN], port: u16) -> Option<Ingress> {
    let mac_and_more = u64::from_be(ne64(ethernet, 0)?);
    let ingress = Ingress { mac_port: mac_and_more & !0xffff | u64::from(port), encap: 0 };
    (mac_and_more & GROUP_BIT == 0).then_some(ingress)
}

/// Set in the destination MAC, as [`Ingress::mac_port`] has it, if it is that of a group.
const GROUP_BIT: u64 = 1 << 56;

/// What is behind the L2 header.
struct Inner<K> {
    key: K,
    tcp_ack: u32,
    l3_len: u16,
    tcp_flags: u8,
}

impl<K> Inner<K> {
    fn headers(self, ingress: Ingress, l3: usize, any: impl FnOnce(K) -> Key) -> Headers {
        let Self { key, tcp_ack, l3_len, tcp_flags } = self;
        Headers { key: any(key), outline: Outline { ingress, tcp_ack, l3_len, l3: l3 as u8, tcp_flags } }
    }
}

/// An IPv4 packet that can fly; whatever fails a test is left to [`refuse`] to explain.
#[inline(always)]
fn ipv4(packet: &[u8]) -> Option<Inner<Key4>> {
    let head: &[u8; IPV4_LEN + wire::UDP_LEN] = packet.first_chunk()?;
    // Flags and fragment offset, TTL, protocol. Neither DF nor the reserved bit makes a fragment.
    let middle = ne32(head, 6)?;
    if head[0] != 0x45 || middle & u32::from_ne_bytes([0x3f, 0xff, 0, 0]) != 0 || head[8] <= 1 {
        return None;
    }
    let l3_len = be16(head, 2)?;
    if usize::from(l3_len) > packet.len() || !checksum::ipv4_header_is_valid(head.first_chunk()?) {
        return None;
    }
    if !(FORWARDED4[usize::from(head[12])] & FORWARDED4[usize::from(head[16])]) {
        return None;
    }
    // Read as one word, so that they are written as one.
    let addresses = ne64(head, 12)?.to_ne_bytes();
    let (src, dst) = (ne32(&addresses, 0)?, ne32(&addresses, 4)?);
    let proto = head[9];
    let (tcp_flags, tcp_ack) = transport(packet, IPV4_LEN, proto, l3_len)?;
    let key = Key4 { src, dst, ports: ne32(head, IPV4_LEN)?, proto: proto.into() };
    Some(Inner { key, tcp_ack, l3_len, tcp_flags })
}

/// An IPv6 packet that can fly; whatever fails a test is left to [`refuse`] to explain.
#[inline(always)]
fn ipv6(packet: &[u8]) -> Option<Inner<Key6>> {
    let head: &[u8; IPV6_LEN + wire::UDP_LEN] = packet.first_chunk()?;
    // Above 65495 bytes of payload the length of the packet does not fit into 16 bits.
    let l3_len = be16(head, 4)?.checked_add(IPV6_LEN as u16)?;
    if head[0] >> 4 != 6 || head[7] <= 1 || usize::from(l3_len) > packet.len() {
        return None;
    }
    let (src, dst) = ([ne64(head, 8)?, ne64(head, 16)?], [ne64(head, 24)?, ne64(head, 32)?]);
    let plain = FORWARDED6[usize::from(head[8])] & FORWARDED6[usize::from(head[24])];
    if !(plain || is_forwarded6(src) && is_forwarded6(dst)) {
        return None;
    }
    let proto = head[6];
    let (tcp_flags, tcp_ack) = transport(packet, IPV6_LEN, proto, l3_len)?;
    let key = Key6 { src, dst, ports: ne32(head, IPV6_LEN)?, proto: proto.into() };
    Some(Inner { key, tcp_ack, l3_len, tcp_flags })
}

/// By first octet, whether routers forward from and to an IPv4 address: not this-network, loopback, multicast
/// and class E.
const FORWARDED4: [bool; 256] = {
    let mut forwarded = [true; 256];
    let mut first = 0;
    while first < forwarded.len() {
        forwarded[first] = !matches!(first, 0 | 127 | 224..);
        first += 1;
    }
    forwarded
};

/// By first octet, whether that alone says that an IPv6 address is one that routers forward from and to.
const FORWARDED6: [bool; 256] = {
    let mut forwarded = [true; 256];
    forwarded[0x00] = false;
    forwarded[0xfe] = false;
    forwarded[0xff] = false;
    forwarded
};

/// Whether routers forward from and to an IPv6 address: not unspecified, loopback, multicast and link-local,
/// from which the kernel answers with an ICMPv6 error.
#[inline(always)]
const fn is_forwarded6(words: [u64; 2]) -> bool {
    let (high, low) = (u64::from_be(words[0]), u64::from_be(words[1]));
    high < 0xff << 56 && high >> 54 != 0xfe80 >> 6 && (high != 0 || low > 1)
}

/// TCP flags and acknowledgement; both 0 for UDP.
#[inline(always)]
fn transport(packet: &[u8], ip_len: usize, proto: u8, l3_len: u16) -> Option<(u8, u32)> {
    let (l3_len, ip_len32) = (u32::from(l3_len), ip_len as u32);
    match proto {
        UDP => {
            // Shorter than the IP payload is legal and accepted by conntrack, which however sums the checksum
            // over the whole IP payload: what becomes of it is the kernel's to say.
            let length = u32::from(be16(packet, ip_len + 4)?);
            (length + ip_len32 == l3_len && length >= wire::UDP_LEN as u32).then_some((0, 0))
        }
        TCP => {
            let header: &[u8; wire::TCP_LEN] = packet.get(ip_len..)?.first_chunk()?;
            let (header_len, flags) = (u32::from(header[12] >> 4) * 4, header[13]);
            if header_len < wire::TCP_LEN as u32 || header_len + ip_len32 > l3_len || !flags_are_valid(flags)
            {
                return None;
            }
            let ack = if flags & ACK != 0 { wire::be32(header, 8)? } else { 0 };
            Some((flags, ack))
        }
        _ => None,
    }
}
