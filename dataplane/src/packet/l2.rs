//! What lies before the IP header: MAC addresses, VLAN tags, PPPoE.

use super::Ingress;
use super::wire::{
    self, ETHER_LEN, ETHER_PPPOE_SESSION, ETHER_SERVICE_VLAN, ETHER_VLAN, PPPOE_LEN, VLAN_LEN, array, be16,
};

/// The longest L2 header that is taken apart: Ethernet, two VLAN tags, PPPoE.
pub const L2_MAX: usize = ETHER_LEN + 2 * VLAN_LEN + PPPOE_LEN;

/// A frame with its L2 header taken off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer2 {
    /// The ingress context, tags and session included.
    pub(super) ingress: Ingress,
    /// The innermost EtherType.
    pub(super) ether_type: u16,
    /// The PPP protocol; 0 outside of a PPPoE session.
    pub(super) ppp: u16,
    /// Where what the header announces begins.
    pub(super) l3: usize,
    /// Where it ends: at the end of the frame, or earlier if PPPoE says so.
    pub(super) end: usize,
}

impl Layer2 {
    /// Walks over up to two VLAN tags and one PPPoE header; `None` if the frame ends before they do.
    ///
    /// A third tag, or an inner one with the TPID of a service tag, is left as the EtherType.
    #[inline(always)]
    pub(super) fn walk(frame: &[u8], port: u16) -> Option<Self> {
        let mut ingress = Ingress::untagged(port, array(frame, 0)?);
        let mut ether_type = be16(frame, 12)?;
        let mut l3 = ETHER_LEN;
        while matches!((ether_type, ingress.vlan_tags()), (ETHER_VLAN, 0 | 1) | (ETHER_SERVICE_VLAN, 0)) {
            ingress = ingress.in_tag(be16(frame, l3)?, ether_type == ETHER_SERVICE_VLAN);
            ether_type = be16(frame, l3 + 2)?;
            l3 += VLAN_LEN;
        }
        let mut layer = Self { ingress, ether_type, ppp: 0, l3, end: frame.len() };
        if ether_type == ETHER_PPPOE_SESSION {
            // Version and type 1, code 0 (RFC 2516, section 4), session, length of what follows, protocol.
            let [0x11, 0, s0, s1, n0, n1, p0, p1] = array(frame, l3)? else { return None };
            layer.ingress = ingress.in_pppoe(u16::from_be_bytes([s0, s1]));
            layer.ppp = u16::from_be_bytes([p0, p1]);
            layer.l3 += PPPOE_LEN;
            layer.end = l3 + PPPOE_LEN - 2 + usize::from(u16::from_be_bytes([n0, n1]));
            if layer.end > frame.len() || layer.end < layer.l3 {
                return None;
            }
        }
        Some(layer)
    }

    /// Which IP the header announces, 4 or 6, if any.
    #[inline(always)]
    pub(super) const fn ip_version(&self) -> Option<u8> {
        match (self.ether_type, self.ppp) {
            (wire::ETHER_IPV4, _) | (ETHER_PPPOE_SESSION, wire::PPP_IPV4) => Some(4),
            (wire::ETHER_IPV6, _) | (ETHER_PPPOE_SESSION, wire::PPP_IPV6) => Some(6),
            _ => None,
        }
    }
}

/// The L2 header of frames that leave: a copy of one that the kernel wrote.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct L2Header {
    bytes: [u8; L2_MAX],
    len: u8,
    pppoe: bool,
}

impl L2Header {
    /// Copies the header of a frame; `None` if it carries anything but IPv4 or IPv6, or is cut short.
    pub fn learn(frame: &[u8]) -> Option<Self> {
        let layer = Layer2::walk(frame, 0)?;
        layer.ip_version()?;
        let mut bytes = [0; L2_MAX];
        bytes.get_mut(..layer.l3)?.copy_from_slice(frame.get(..layer.l3)?);
        Some(Self { bytes, len: layer.l3 as u8, pppoe: layer.ppp != 0 })
    }

    /// The header, up to the IP header.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Length of the header.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: there is no header shorter than Ethernet's.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Where the PPPoE length field is; it differs from packet to packet.
    pub const fn pppoe_length_offset(&self) -> Option<u8> {
        if self.pppoe { Some(self.len - 4) } else { None }
    }
}

impl std::fmt::Debug for L2Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "L2Header({:02x?})", self.bytes())
    }
}

/// How far the start of a frame moves when its L2 header is replaced: forward if positive.
pub const fn l2_shift(old_len: usize, new_len: usize) -> isize {
    old_len as isize - new_len as isize
}

/// Writes an L2 header to the start of a frame, which has been moved by [`l2_shift`] already.
///
/// `l3_len` is the length of the packet from its IP header on. `false`, and nothing is changed, if the
/// frame is shorter than the header, or the packet too long for PPPoE's length field.
#[inline]
#[must_use = "a frame without its header must not leave"]
pub fn write_l2(frame: &mut [u8], header: &[u8], pppoe_length_offset: Option<u8>, l3_len: u16) -> bool {
    let Some(place) = frame.get_mut(..header.len()) else { return false };
    if let Some(offset) = pppoe_length_offset {
        let at = usize::from(offset);
        let Some(length) = l3_len.checked_add(2) else { return false };
        if at + 2 > place.len() {
            return false;
        }
        copy(place, header);
        place[at..at + 2].copy_from_slice(&length.to_be_bytes());
    } else {
        copy(place, header);
    }
    true
}

/// Copies between slices of equal length, without a call for the lengths that occur most.
#[inline(always)]
fn copy(place: &mut [u8], header: &[u8]) {
    fn fixed<const N: usize>(place: &mut [u8], header: &[u8]) {
        if let (Some(place), Some(header)) = (place.first_chunk_mut::<N>(), header.first_chunk()) {
            *place = *header;
        }
    }
    match header.len() {
        14 => fixed::<14>(place, header),
        18 => fixed::<18>(place, header),
        _ => place.copy_from_slice(header),
    }
}

/// The source MAC of a frame.
///
/// A routed packet leaves with the gateway's, a bridged one with that of its sender: whoever carries bridged
/// packets must see that it is still the one that was learned.
#[inline]
pub fn source_mac(frame: &[u8]) -> Option<[u8; 6]> {
    array(frame, 6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::testing::{Frame, strategies};

    /// Replaces the L2 header as a worker does, with the headroom that an mbuf has.
    fn replace(frame: &[u8], old_len: usize, header: &L2Header, l3_len: u16) -> Vec<u8> {
        let mut buffer = vec![0xee; 64];
        buffer.extend(frame);
        let start = 64usize.checked_add_signed(l2_shift(old_len, header.len())).expect("headroom");
        assert!(write_l2(&mut buffer[start..], header.bytes(), header.pppoe_length_offset(), l3_len));
        buffer.split_off(start)
    }

    #[test]
    fn what_is_not_ip_is_not_learned() {
        let frame = Frame::udp("10.0.0.1:1", "10.0.0.2:2");
        assert!(L2Header::learn(&frame.build()).is_some());
        for change in [
            |f: &mut Frame| f.faults.ether_type = Some(wire::ETHER_ARP),
            |f: &mut Frame| f.faults.truncate = Some(13),
            |f: &mut Frame| f.tags = vec![(ETHER_VLAN, 1); 3],
            |f: &mut Frame| (f.pppoe, f.faults.ppp) = (Some(1), Some(0xc021)),
        ] {
            assert_eq!(L2Header::learn(&frame.clone().with(change).build()), None);
        }
    }

    #[test]
    fn headers_that_do_not_fit_are_refused() {
        let header = L2Header::learn(&Frame::udp("10.0.0.1:1", "10.0.0.2:2").pppoe(1).build()).expect("IP");
        let (bytes, offset) = (header.bytes(), header.pppoe_length_offset());
        let mut frame = [0; 60];
        assert!(!write_l2(&mut frame[..21], bytes, offset, 20));
        assert!(!write_l2(&mut frame, bytes, offset, 65_534));
        assert!(!write_l2(&mut frame, bytes, Some(21), 20));
        assert_eq!(frame, [0; 60]);
        assert!(write_l2(&mut frame[..22], bytes, offset, 65_533));
        assert_eq!(frame[18..20], [0xff, 0xff]);
    }

    #[test]
    fn source_macs() {
        let frame = Frame::udp("10.0.0.1:1", "10.0.0.2:2");
        assert_eq!(source_mac(&frame.build()), Some(frame.src_mac));
        assert_eq!(source_mac(&[0; 11]), None);
    }

    proptest! {
        #[test]
        fn any_header_replaces_any_other(
            old in strategies::legal_frames(),
            new in strategies::legal_frames(),
        ) {
            let packet = old.ip();
            let new = Frame { tuple: old.tuple, ..new };
            // Learned from a frame of another length than the one that it is written to.
            let header = L2Header::learn(&new.build()).expect("IP");
            let frame = old.build();
            let mut replaced = replace(&frame, old.l2_len(), &header, packet.len() as u16);
            replaced.truncate(header.len() + packet.len());
            let expected = Frame {
                dst_mac: new.dst_mac,
                src_mac: new.src_mac,
                tags: new.tags,
                pppoe: new.pppoe,
                padding: Vec::new(),
                ..old
            };
            prop_assert_eq!(replaced, expected.build());
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = L2Header::learn(&bytes);
        }
    }
}
