//! ICMP and ICMPv6 errors on the wire: what they say, of which packet, and forged ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

use crate::raw::Wire;
use crate::{LabError, Result, wait};

/// An error, and the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who says it.
    pub from: IpAddr,
    /// Who is told.
    pub to: IpAddr,
    /// Type and code.
    pub kind: (u8, u8),
    /// The MTU of a packet that was too big.
    pub mtu: u32,
    /// Where the packet came from.
    pub inner_source: SocketAddr,
    /// Where it was sent to.
    pub inner_destination: SocketAddr,
}

impl Error {
    /// Port unreachable (RFC 792; RFC 4443, 3.1).
    pub const fn port_unreachable(family: IpAddr) -> (u8, u8) {
        if family.is_ipv4() { (3, 3) } else { (1, 4) }
    }

    /// Fragmentation needed (RFC 1191), packet too big (RFC 4443, 3.2).
    pub const fn too_big(family: IpAddr) -> (u8, u8) {
        if family.is_ipv4() { (3, 4) } else { (2, 0) }
    }

    /// Time to live, or hop limit, exceeded in transit.
    pub const fn time_exceeded(family: IpAddr) -> (u8, u8) {
        if family.is_ipv4() { (11, 0) } else { (3, 0) }
    }

    /// Reads a frame. Nothing when it is anything else than an error about a packet with ports.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let outer = Packet::parse(frame.get(12..14)?, frame.get(14..)?)?;
        let error = match outer.protocol {
            1 => matches!(outer.payload.first()?, 3 | 11 | 12),
            58 => matches!(outer.payload.first()?, 1..=4),
            _ => false,
        };
        let [kind, code, _, _, mtu @ ..] = outer.payload.first_chunk::<8>()?;
        let inner = Packet::parse(frame.get(12..14)?, outer.payload.get(8..)?)?;
        let port = |at: usize| Some(u16::from_be_bytes(*inner.payload.get(at..)?.first_chunk::<2>()?));
        error.then_some(Self {
            from: outer.source,
            to: outer.destination,
            kind: (*kind, *code),
            mtu: u32::from_be_bytes(*mtu),
            inner_source: SocketAddr::new(inner.source, port(0)?),
            inner_destination: SocketAddr::new(inner.destination, port(2)?),
        })
    }

    /// Waits for an error of this kind to pass.
    ///
    /// # Errors
    /// When none does.
    pub fn wait(wire: &Wire, kind: (u8, u8)) -> Result<Self> {
        wait::until(wait::PATIENCE, &format!("an ICMP error {kind:?}"), || {
            let frame = wire.receive(Duration::from_millis(10)).ok().flatten()?;
            Self::parse(&frame).filter(|error| error.kind == kind)
        })
    }
}

/// What a router behind `frame`'s receiver would send when the frame's packet is longer than `mtu`.
///
/// # Errors
/// When the frame holds no packet.
pub fn too_big_of(frame: &[u8], mtu: u16) -> Result<Vec<u8>> {
    let shape = |text: String| LabError::Shape { what: "build an ICMP error".to_owned(), text };
    let (macs, packet) = frame
        .split_at_checked(14)
        .and_then(|(header, packet)| Some((header.first_chunk::<12>()?, packet)))
        .ok_or_else(|| shape("no frame".to_owned()))?;
    let parsed = Packet::parse(frame.get(12..14).unwrap_or_default(), packet)
        .ok_or_else(|| shape("no packet".to_owned()))?;
    let (mut to, mut from) = ([0; 6], [0; 6]);
    from.copy_from_slice(&macs[..6]);
    to.copy_from_slice(&macs[6..]);
    let builder = PacketBuilder::ethernet2(from, to);
    let quoted = packet.get(..packet.len().min(128)).unwrap_or_default();
    let mut error = Vec::new();
    match (parsed.destination, parsed.source) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => builder
            .ipv4(source.octets(), destination.octets(), 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: mtu,
            }))
            .write(&mut error, quoted),
        (IpAddr::V6(source), IpAddr::V6(destination)) => builder
            .ipv6(source.octets(), destination.octets(), 64)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: u32::from(mtu) })
            .write(&mut error, quoted),
        _ => return Err(shape("two families".to_owned())),
    }
    .map_err(|e| shape(e.to_string()))?;
    Ok(error)
}

/// What errors are about in a packet.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn parse(ethertype: &[u8], packet: &'a [u8]) -> Option<Self> {
        let four = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
        let six = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
        match ethertype {
            [8, 0] => Some(Self {
                source: four(12)?.into(),
                destination: four(16)?.into(),
                protocol: *packet.get(9)?,
                payload: packet.get(usize::from(packet.first()? & 15) * 4..)?,
            }),
            [0x86, 0xdd] => Some(Self {
                source: six(8)?.into(),
                destination: six(24)?.into(),
                protocol: *packet.get(6)?,
                payload: packet.get(40..)?,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::udp_frame;

    #[test]
    fn a_forged_error_is_read_as_what_it_is() {
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let frame = udp_frame(([1; 6], [2; 6]), (here, 7), (there, 9), b"payload").expect("a frame");
        assert_eq!(Error::parse(&frame), None);
        let error = Error::parse(&too_big_of(&frame, 1300).expect("an error")).expect("an ICMP error");
        assert_eq!((error.from, error.to), (there.into(), here.into()));
        assert_eq!((error.kind, error.mtu), (Error::too_big(here.into()), 1300));
        assert_eq!(error.inner_source, SocketAddr::from((here, 7)));
        assert_eq!(error.inner_destination, SocketAddr::from((there, 9)));
    }
}
