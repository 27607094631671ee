//! The kernel's way of forwarding a packet, step by step, for tests to compare with.
//!
//! Sums are 32 bits wide with an end-around carry, as `__wsum` is; each step of NAT updates a checksum on its
//! own. What this says about the kernel is checked against a kernel by the oracle.

use std::net::IpAddr;

use crate::flow::{FiveTuple, UDP};

fn add32(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

fn fold_and_complement(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    !(twice as u16)
}

/// `csum_replace4`, which `inet_proto_csum_replace4` and `..2` come down to.
pub(super) fn replace4(check: u16, from: u32, to: u32) -> u16 {
    let unfolded = !u32::from(check);
    fold_and_complement(add32(add32(unfolded, !from), to))
}

/// `inet_proto_csum_replace16`.
fn replace16(check: u16, from: &[u8], to: &[u8]) -> u16 {
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    let removed = from.chunks(4).fold(!u32::from(check), |sum, old| add32(sum, !word(old)));
    fold_and_complement(to.chunks(4).fold(removed, |sum, new| add32(sum, word(new))))
}

/// `ip_decrease_ttl`.
pub(super) fn decrease_ttl(check: u16) -> u16 {
    let sum = u32::from(check) + u32::from(0x0100u16.to_be());
    (sum + u32::from(sum >= 0xffff)) as u16
}

fn load(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// Forwards a packet that begins with its IP header: destination NAT, TTL, source NAT.
///
/// As in `nf_nat_setup_info` a side is translated if its address or port changes, and then both are updated.
pub(super) fn forward(packet: &mut [u8], from: &FiveTuple, to: &FiveTuple) {
    if (from.dst, from.dport) != (to.dst, to.dport) {
        translate(packet, Side::Destination, to.dst, to.dport, from.proto);
    }
    if from.src.is_ipv4() {
        let check = decrease_ttl(load(packet, 10));
        packet[10..12].copy_from_slice(&check.to_ne_bytes());
        packet[8] -= 1;
    } else {
        packet[7] -= 1;
    }
    if (from.src, from.sport) != (to.src, to.sport) {
        translate(packet, Side::Source, to.src, to.sport, from.proto);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Source,
    Destination,
}

/// `nf_nat_ipv4_manip_pkt`, `nf_nat_ipv6_manip_pkt`, `tcp_manip_pkt`, `udp_manip_pkt`.
fn translate(packet: &mut [u8], side: Side, address: IpAddr, port: u16, proto: u8) {
    let second = usize::from(side == Side::Destination);
    let (address, place, l4) = match address {
        IpAddr::V4(address) => (address.octets().to_vec(), 12 + 4 * second, 20),
        IpAddr::V6(address) => (address.octets().to_vec(), 8 + 16 * second, 40),
    };
    let check_at = l4 + if proto == UDP { 6 } else { 16 };
    let port_at = l4 + 2 * second;
    let old = packet[place..place + address.len()].to_vec();
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));

    let mut check = load(packet, check_at);
    if proto != UDP || check != 0 {
        check = match old.len() {
            4 => replace4(check, word(&old), word(&address)),
            _ => replace16(check, &old, &address),
        };
        check = replace4(check, u32::from(load(packet, port_at)), u32::from(port.to_be()));
        if proto == UDP && check == 0 {
            check = 0xffff;
        }
        packet[check_at..check_at + 2].copy_from_slice(&check.to_ne_bytes());
    }
    packet[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    if old.len() == 4 {
        let check = replace4(load(packet, 10), word(&old), word(&address));
        packet[10..12].copy_from_slice(&check.to_ne_bytes());
    }
    packet[place..place + address.len()].copy_from_slice(&address);
}
