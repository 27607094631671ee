//! Taking a received frame apart.
//!
//! What is let through is what the kernel would forward without looking at more than the headers read here;
//! the rest is refused with a reason. The rules follow the kernel's: `ip_rcv_core`, `ip6_rcv_core`,
//! `pppoe_rcv`, `tcp_error` and `udp_error` of conntrack, `nf_flow_tuple_ip`. Where the kernel would decide by
//! something that is not in the headers, the packet is punted.

mod general;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use super::tcp::{ACK, FIN, RST, SYN, Segment, flags_are_valid};
use super::wire::{self, ETHER_IPV4, ETHER_LEN, IPV4_LEN, array, be16, ne32, ne64};
use super::{DropReason, Ingress, PuntReason, checksum};
use crate::flow::{Key, Key4, TCP, UDP};

/// The headers of a packet that can fly: TCP or UDP directly behind an IP header without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Where the frame came in.
    pub ingress: Ingress,
    /// Addresses, ports and protocol.
    pub key: Key,
    /// Acknowledgement number in host byte order; 0 without the ACK flag, and for UDP.
    pub tcp_ack: u32,
    /// Length of the packet from its IP header on, as the IP header gives it. What follows is padding.
    pub l3_len: u16,
    /// Offset of the IP header in the frame.
    pub l3: u8,
    /// Offset of the TCP or UDP header in the frame.
    pub l4: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
}

impl Headers {
    /// Whether the segment begins or ends a connection: FIN, RST or SYN.
    #[inline(always)]
    pub const fn is_tcp_control(&self) -> bool {
        self.tcp_flags & (FIN | SYN | RST) != 0
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

    /// The TCP segment's numbers; `None` for UDP.
    pub fn segment(&self, frame: &[u8]) -> Option<Segment> {
        if self.key.proto() != TCP {
            return None;
        }
        Segment::read(frame.get(usize::from(self.l4)..self.frame_len())?)
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
    match untagged_ipv4(frame, port) {
        Some(headers) => Ok(headers),
        None => general::parse(frame, port),
    }
}

/// The hot lane: everything that most packets have in common is read in few loads, and whatever fails a
/// test is left to the general lane, which finds out why.
#[inline(always)]
fn untagged_ipv4(frame: &[u8], port: u16) -> Option<Headers> {
    const L4: usize = ETHER_LEN + IPV4_LEN;
    let head: &[u8; L4 + wire::UDP_LEN] = frame.first_chunk()?;

    let first = ne64(head, 0)?;
    let ether_type_and_version = ne32(head, 12)? & u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
    let [e0, e1] = ETHER_IPV4.to_be_bytes();
    if ether_type_and_version != u32::from_ne_bytes([e0, e1, 0x45, 0]) {
        return None;
    }
    // Flags and fragment offset, TTL, protocol. Neither DF nor the reserved bit makes a fragment.
    let middle = ne32(head, 20)?;
    if middle & u32::from_ne_bytes([0x3f, 0xff, 0, 0]) != 0 || head[22] <= 1 {
        return None;
    }
    let l3_len = be16(head, 16)?;
    if usize::from(l3_len) > frame.len() - ETHER_LEN {
        return None;
    }
    let ip: [u8; IPV4_LEN] = array(head, ETHER_LEN)?;
    if !checksum::ipv4_header_is_valid(&ip) {
        return None;
    }
    let (src, dst) = (ne32(head, 26)?, ne32(head, 30)?);
    if head[0] & 1 != 0 || !is_unicast4(src) || !is_unicast4(dst) {
        return None;
    }

    let ports = ne32(head, L4)?;
    let proto = head[23];
    let (mut tcp_flags, mut tcp_ack) = (0, 0);
    if proto == UDP {
        if !udp_length_is_right(be16(head, L4 + 4)?, u32::from(l3_len), IPV4_LEN as u32) {
            return None;
        }
    } else if proto == TCP {
        if usize::from(l3_len) < IPV4_LEN + wire::TCP_LEN {
            return None;
        }
        let tcp: [u8; wire::TCP_LEN] = array(frame, L4)?;
        (tcp_flags, tcp_ack) = tcp_header(&tcp, u32::from(l3_len) - IPV4_LEN as u32)?;
    } else {
        return None;
    }

    let mac_port = u64::from_be(first) & !0xffff | u64::from(port);
    Some(Headers {
        ingress: Ingress { mac_port, encap: 0 },
        key: Key::V4(Key4 { src, dst, ports, proto }),
        tcp_ack,
        l3_len,
        l3: ETHER_LEN as u8,
        l4: L4 as u8,
        tcp_flags,
    })
}

/// Whether routers forward from and to an IPv4 address: not this-network, loopback, multicast or class E.
#[inline(always)]
const fn is_unicast4(word: u32) -> bool {
    let [first, ..] = word.to_ne_bytes();
    first != 0 && first != 127 && first < 224
}

/// Whether a UDP length covers exactly the IP payload.
///
/// Shorter is legal and accepted by conntrack, which however sums the checksum over the whole IP payload:
/// what becomes of it is the kernel's to say.
#[inline(always)]
const fn udp_length_is_right(length: u16, l3_len: u32, header: u32) -> bool {
    length as u32 + header == l3_len && length as usize >= wire::UDP_LEN
}

/// Flags and acknowledgement of a TCP header; `None` if conntrack's `tcp_error` would refuse it.
#[inline(always)]
fn tcp_header(tcp: &[u8; wire::TCP_LEN], segment_len: u32) -> Option<(u8, u32)> {
    let (header_len, flags) = (u32::from(tcp[12] >> 4) * 4, tcp[13]);
    if header_len < wire::TCP_LEN as u32 || header_len > segment_len || !flags_are_valid(flags) {
        return None;
    }
    let ack = if flags & ACK != 0 { wire::be32(tcp, 8)? } else { 0 };
    Some((flags, ack))
}
