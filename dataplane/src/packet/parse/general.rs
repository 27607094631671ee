//! The general lane: every encapsulation, both families, and a reason for each refusal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Headers, Refusal, Refused, is_unicast4, tcp_header, udp_length_is_right};
use crate::flow::{Key, Key4, Key6, TCP, UDP};
use crate::packet::l2::Layer2;
use crate::packet::wire::{self, IPV4_LEN, IPV6_LEN, array, be16, ne32, ne64};
use crate::packet::{DropReason, Ingress, PuntReason, checksum};

/// IPv6 extension headers as the kernel knows them (`ipv6_ext_hdr`), but for the fragment header:
/// hop-by-hop, routing, authentication, none, destination options.
const EXTENSION_HEADERS: [u8; 5] = [0, 43, 51, 59, 60];
/// The IPv6 fragment header.
const FRAGMENT_HEADER: u8 = 44;

/// Takes any frame apart.
#[inline(never)]
pub(super) fn parse(frame: &[u8], port: u16) -> Result<Headers, Refusal> {
    let Some(layer) = Layer2::walk(frame, port) else { return Err(cut_short(frame, port)) };
    let group = frame.first().is_some_and(|byte| byte & 1 != 0);
    let packet = frame.get(layer.l3..layer.end).unwrap_or_default();
    let result = match (layer.ether_type, layer.ppp) {
        (wire::ETHER_IPV4, _) | (wire::ETHER_PPPOE_SESSION, wire::PPP_IPV4) => ipv4(packet, group),
        (wire::ETHER_IPV6, _) | (wire::ETHER_PPPOE_SESSION, wire::PPP_IPV6) => ipv6(packet, group),
        (wire::ETHER_ARP, _) => Err(punt(PuntReason::Arp)),
        _ => Err(punt(PuntReason::EtherType)),
    };
    match result {
        Ok(found) => Ok(Headers {
            ingress: layer.ingress,
            key: found.key,
            tcp_ack: found.tcp_ack,
            l3_len: found.l3_len,
            l3: layer.l3 as u8,
            l4: (layer.l3 + found.ip_len) as u8,
            tcp_flags: found.tcp_flags,
        }),
        Err(what) => Err(refusal(what, &layer, packet)),
    }
}

/// What a packet's IP and L4 headers say.
struct Found {
    key: Key,
    tcp_ack: u32,
    l3_len: u16,
    ip_len: usize,
    tcp_flags: u8,
}

const fn punt(reason: PuntReason) -> Refused {
    Refused::Punt(reason)
}

/// `ip_rcv_core`, `ip_route_input_slow`'s martians and `ip_forward`, in this order.
fn ipv4(packet: &[u8], group: bool) -> Result<Found, Refused> {
    const BAD: Refused = Refused::Drop(DropReason::BadIpHeader);
    if group {
        return Err(punt(PuntReason::Multicast));
    }
    let header: &[u8; IPV4_LEN] = packet.first_chunk().ok_or(BAD)?;
    let header_len = usize::from(header[0] & 15) * 4;
    let l3_len = u16::from_be_bytes([header[2], header[3]]);
    let total = usize::from(l3_len);
    if header[0] >> 4 != 4 || header_len < IPV4_LEN || total < header_len {
        return Err(BAD);
    }
    let with_options = packet.get(..header_len).ok_or(BAD)?;
    let packet = packet.get(..total).ok_or(BAD)?;
    if checksum::compute(with_options) != 0 {
        return Err(BAD);
    }
    if header_len != IPV4_LEN {
        return Err(punt(PuntReason::IpOptions));
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(punt(PuntReason::Fragment));
    }
    let (src, dst) = (word(header, 12), word(header, 16));
    if header[16] & 0xf0 == 0xe0 || dst == u32::MAX {
        return Err(punt(PuntReason::Multicast));
    }
    if !is_unicast4(src) || !is_unicast4(dst) {
        return Err(punt(PuntReason::Martian));
    }
    let proto = header[9];
    let l4 = packet.get(IPV4_LEN..).unwrap_or_default();
    let (ports, tcp_flags, tcp_ack) = transport(l4, proto, header[8])?;
    let key = Key::V4(Key4 { src, dst, ports, proto });
    Ok(Found { key, tcp_ack, l3_len, ip_len: IPV4_LEN, tcp_flags })
}

/// `ip6_rcv_core` and `ip6_forward`.
fn ipv6(packet: &[u8], group: bool) -> Result<Found, Refused> {
    if group {
        return Err(punt(PuntReason::Multicast));
    }
    let malformed = punt(PuntReason::Malformed);
    let header: &[u8; IPV6_LEN] = packet.first_chunk().ok_or(malformed)?;
    if header[0] >> 4 != 6 {
        return Err(malformed);
    }
    let (src, dst) = (address(header, 8), address(header, 24));
    if dst.is_multicast() {
        return Err(punt(PuntReason::Multicast));
    }
    if !is_forwarded6(src) || !is_forwarded6(dst) {
        return Err(punt(PuntReason::Martian));
    }
    let proto = header[6];
    if proto == FRAGMENT_HEADER {
        return Err(punt(PuntReason::Fragment));
    }
    if EXTENSION_HEADERS.contains(&proto) {
        return Err(punt(PuntReason::ExtensionHeader));
    }
    let total = IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    // Above 65495 bytes of payload the length of the packet does not fit into 16 bits.
    let l3_len = u16::try_from(total).map_err(|_| malformed)?;
    let l4 = packet.get(IPV6_LEN..total).ok_or(malformed)?;
    let (ports, tcp_flags, tcp_ack) = transport(l4, proto, header[7])?;
    let half = |at| ne64(header, at).unwrap_or_default();
    let key = Key::V6(Key6 { src: [half(8), half(16)], dst: [half(24), half(32)], ports, proto });
    Ok(Found { key, tcp_ack, l3_len, ip_len: IPV6_LEN, tcp_flags })
}

/// Ports, TCP flags and acknowledgement; the slice ends where the packet does.
fn transport(l4: &[u8], proto: u8, ttl: u8) -> Result<(u32, u8, u32), Refused> {
    if proto != TCP && proto != UDP {
        return Err(punt(PuntReason::Protocol));
    }
    if ttl <= 1 {
        return Err(punt(PuntReason::Ttl));
    }
    if proto == TCP { tcp(l4) } else { udp(l4) }.ok_or(punt(PuntReason::Malformed))
}

fn tcp(l4: &[u8]) -> Option<(u32, u8, u32)> {
    let (flags, ack) = tcp_header(l4.first_chunk()?, l4.len() as u32)?;
    Some((ne32(l4, 0)?, flags, ack))
}

fn udp(l4: &[u8]) -> Option<(u32, u8, u32)> {
    udp_length_is_right(be16(l4, 4)?, l4.len() as u32, 0).then_some((ne32(l4, 0)?, 0, 0))
}

/// Whether routers forward from and to an IPv6 address. One from a link-local address is answered by an
/// ICMPv6 error.
fn is_forwarded6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local())
}

fn word(header: &[u8], at: usize) -> u32 {
    ne32(header, at).unwrap_or_default()
}

fn address(header: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(array::<16>(header, at).unwrap_or_default())
}

/// The refusal of a frame that ends before its L2 header does, or whose PPPoE header contradicts itself.
#[cold]
fn cut_short(frame: &[u8], port: u16) -> Refusal {
    let ether_type = be16(frame, 12).unwrap_or(0);
    Refusal {
        what: punt(PuntReason::Malformed),
        ingress: Ingress::untagged(port, array(frame, 0).unwrap_or_default()),
        dst: None,
        ether_type,
        l3: 0,
        proto: None,
        link_control: false,
    }
}

/// Adds what is known of a packet to the reason for its refusal.
#[cold]
fn refusal(what: Refused, layer: &Layer2, packet: &[u8]) -> Refusal {
    let version = match (layer.ether_type, layer.ppp) {
        (wire::ETHER_IPV4, _) | (wire::ETHER_PPPOE_SESSION, wire::PPP_IPV4) => 4,
        (wire::ETHER_IPV6, _) | (wire::ETHER_PPPOE_SESSION, wire::PPP_IPV6) => 6,
        _ => 0,
    };
    let (dst, proto) = match version {
        4 => {
            let dst = array::<4>(packet, 16).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
            (dst, dst.and(packet.get(9).copied()))
        }
        6 => {
            let dst = array::<16>(packet, 24).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
            (dst, dst.and(packet.get(6).copied()))
        }
        _ => (None, None),
    };
    let link_control = match layer.ether_type {
        wire::ETHER_ARP
        | wire::ETHER_SLOW
        | wire::ETHER_LLDP
        | wire::ETHER_EAPOL
        | wire::ETHER_PPPOE_DISCOVERY => true,
        // Protocol numbers from 0x8000 on are control protocols: LCP, IPCP, CHAP (RFC 1661, section 2).
        wire::ETHER_PPPOE_SESSION if layer.ppp >= 0x8000 => true,
        // Router and neighbour solicitations and advertisements, redirects (RFC 4861).
        _ => proto == Some(wire::ICMPV6) && version == 6 && matches!(packet.get(40), Some(133..=137)),
    };
    Refusal {
        what,
        ingress: layer.ingress,
        dst,
        ether_type: layer.ether_type,
        l3: layer.l3 as u8,
        proto,
        link_control,
    }
}
