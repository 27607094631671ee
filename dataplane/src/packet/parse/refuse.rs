//! Why a packet must not fly: the tests of the lanes again, one by one, in the kernel's order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{FORWARDED4, GROUP_BIT, Refusal, Refused, is_forwarded6};
use crate::flow::{TCP, UDP};
use crate::packet::l2::Layer2;
use crate::packet::wire::{self, IPV4_LEN, IPV6_LEN, array, be16, ne64};
use crate::packet::{DropReason, Ingress, PuntReason, checksum};

/// IPv6 extension headers as the kernel knows them (`ipv6_ext_hdr`), but for the fragment header:
/// hop-by-hop, routing, authentication, none, destination options.
const EXTENSION_HEADERS: [u8; 5] = [0, 43, 51, 59, 60];
/// The IPv6 fragment header.
const FRAGMENT_HEADER: u8 = 44;

const BAD_IP_HEADER: Refused = Refused::Drop(DropReason::BadIpHeader);

const fn punt(reason: PuntReason) -> Refused {
    Refused::Punt(reason)
}

/// `ip_rcv_core`, the martians of `ip_route_input_slow` and `ip_forward`.
fn ipv4(packet: &[u8]) -> Refused {
    let Some(header) = packet.first_chunk::<IPV4_LEN>() else { return BAD_IP_HEADER };
    let header_len = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let (Some(whole_header), Some(_)) = (packet.get(..header_len), packet.get(..total)) else {
        return BAD_IP_HEADER;
    };
    if header[0] >> 4 != 4
        || header_len < IPV4_LEN
        || total < header_len
        || checksum::compute(whole_header) != 0
    {
        BAD_IP_HEADER
    } else if header_len != IPV4_LEN {
        punt(PuntReason::IpOptions)
    } else if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        punt(PuntReason::Fragment)
    } else if header[16] & 0xf0 == 0xe0 || header[16..20] == [0xff; 4] {
        punt(PuntReason::Multicast)
    } else if !FORWARDED4[usize::from(header[12])] || !FORWARDED4[usize::from(header[16])] {
        punt(PuntReason::Martian)
    } else {
        transport(header[9], header[8])
    }
}

/// `ip6_rcv_core` and `ip6_forward`.
fn ipv6(packet: &[u8]) -> Refused {
    let Some(header) = packet.first_chunk::<IPV6_LEN>() else { return punt(PuntReason::Malformed) };
    let half = |at| ne64(header, at).unwrap_or_default();
    if header[0] >> 4 != 6 {
        punt(PuntReason::Malformed)
    } else if header[24] == 0xff {
        punt(PuntReason::Multicast)
    } else if !is_forwarded6([half(8), half(16)]) || !is_forwarded6([half(24), half(32)]) {
        punt(PuntReason::Martian)
    } else if header[6] == FRAGMENT_HEADER {
        punt(PuntReason::Fragment)
    } else if EXTENSION_HEADERS.contains(&header[6]) {
        punt(PuntReason::ExtensionHeader)
    } else {
        transport(header[6], header[7])
    }
}

/// What is left when the IP header is right: another protocol, the TTL, or lengths and flags of the L4 header.
fn transport(proto: u8, ttl: u8) -> Refused {
    match proto {
        TCP | UDP if ttl <= 1 => punt(PuntReason::Ttl),
        TCP | UDP => punt(PuntReason::Malformed),
        _ => punt(PuntReason::Protocol),
    }
}

/// The refusal of a frame that ends before its L2 header does, or whose PPPoE header contradicts itself.
#[cold]
pub(super) fn cut_short(frame: &[u8], port: u16) -> Refusal {
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

/// Why a frame with a whole L2 header must not fly, and what is known of it. `packet` is what is behind it.
#[cold]
pub(super) fn packet(layer: &Layer2, packet: &[u8]) -> Refusal {
    let group = layer.ingress.mac_port & GROUP_BIT != 0;
    let version = layer.ip_version();
    let what = match (version, layer.ether_type) {
        (Some(_), _) if group => punt(PuntReason::Multicast),
        (Some(4), _) => ipv4(packet),
        (Some(_), _) => ipv6(packet),
        (None, wire::ETHER_ARP) => punt(PuntReason::Arp),
        (None, _) => punt(PuntReason::EtherType),
    };
    let (dst, proto_at) = match version {
        Some(4) => (array::<4>(packet, 16).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))), 9),
        Some(_) => (array::<16>(packet, 24).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))), 6),
        None => (None, 0),
    };
    let proto = dst.and(packet.get(proto_at).copied());
    let link_control = match layer.ether_type {
        wire::ETHER_ARP
        | wire::ETHER_SLOW
        | wire::ETHER_LLDP
        | wire::ETHER_EAPOL
        | wire::ETHER_PPPOE_DISCOVERY => true,
        // Protocol numbers from 0x8000 on are control protocols: LCP, IPCP, CHAP (RFC 1661, section 2).
        wire::ETHER_PPPOE_SESSION if layer.ppp >= 0x8000 => true,
        // Router and neighbour solicitations and advertisements, redirects (RFC 4861).
        _ => {
            let icmpv6 = version == Some(6) && proto == Some(wire::ICMPV6);
            icmpv6 && matches!(packet.get(IPV6_LEN), Some(133..=137))
        }
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
