//! IPv6 packets piece by piece: headers that no socket of the laboratory would send.

use std::net::Ipv6Addr;

use etherparse::UdpHeader;

use crate::{LabError, Result};

/// Hop-by-Hop Options (RFC 8200, 4.3).
pub const HOP_BY_HOP: u8 = 0;
/// Fragment Header (RFC 8200, 4.5).
pub const FRAGMENT: u8 = 44;
/// Destination Options (RFC 8200, 4.6).
pub const DESTINATION_OPTIONS: u8 = 60;
/// UDP.
pub const UDP: u8 = 17;

/// An IPv6 packet in an Ethernet frame. `first` is the number of the first header in `payload`.
///
/// # Errors
/// When the payload is longer than a packet.
pub fn frame(
    macs: ([u8; 6], [u8; 6]),
    addresses: (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    first: u8,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let length = u16::try_from(payload.len())
        .map_err(|e| LabError::Shape { what: "build a frame".to_owned(), text: e.to_string() })?;
    let mut frame = Vec::with_capacity(54 + payload.len());
    frame.extend_from_slice(&macs.1);
    frame.extend_from_slice(&macs.0);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[first, hop_limit]);
    frame.extend_from_slice(&addresses.0.octets());
    frame.extend_from_slice(&addresses.1.octets());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// A UDP header with its checksum, and the payload.
///
/// # Errors
/// When the payload is longer than a datagram.
pub fn udp(source: (Ipv6Addr, u16), destination: (Ipv6Addr, u16), payload: &[u8]) -> Result<Vec<u8>> {
    let unbuildable = |e: &dyn std::fmt::Display| LabError::Shape {
        what: "build a datagram".to_owned(),
        text: e.to_string(),
    };
    let mut header = UdpHeader::without_ipv4_checksum(source.1, destination.1, payload.len())
        .map_err(|e| unbuildable(&e))?;
    header.checksum = header
        .calc_checksum_ipv6_raw(source.0.octets(), destination.0.octets(), payload)
        .map_err(|e| unbuildable(&e))?;
    let mut datagram = header.to_bytes().to_vec();
    datagram.extend_from_slice(payload);
    Ok(datagram)
}

/// A header of options, hop-by-hop or for the destination, with nothing but padding in it.
pub fn options(next: u8) -> [u8; 8] {
    // PadN (RFC 8200, 4.2) of four bytes.
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// A fragment header. `offset` is in bytes, a multiple of eight.
pub fn fragment(next: u8, offset: u16, more: bool, identification: u32) -> [u8; 8] {
    let [high, low] = (offset & !7 | u16::from(more)).to_be_bytes();
    let [a, b, c, d] = identification.to_be_bytes();
    [next, 0, high, low, a, b, c, d]
}
