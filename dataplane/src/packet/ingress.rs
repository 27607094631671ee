//! The ingress context: where a frame came in, and in what it was wrapped.

use super::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};

/// Port, destination MAC, VLAN stack and PPPoE session of a received frame, in two words that compare fast.
///
/// Two frames with the same 5-tuple belong to one direction only if their contexts are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ingress {
    /// Destination MAC in the upper 48 bits (first byte highest), port in the lower 16.
    pub mac_port: u64,
    /// From the top: PPPoE present (1 bit), 802.1ad outer tag (1), number of tags (2), outer priority and
    /// DEI (4), outer VLAN id (12), inner VLAN id (12), PPPoE session (16), spare (12), inner priority and
    /// DEI (4).
    pub encap: u64,
}

impl Ingress {
    /// The context of an untagged frame.
    pub const fn untagged(port: u16, dst_mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = dst_mac;
        let mac = u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
        Self { mac_port: mac | port as u64, encap: 0 }
    }

    /// The same context inside a VLAN tag, below any tag that it has already.
    ///
    /// `service` says that the tag's TPID was 0x88a8. At most two tags are told apart.
    #[must_use]
    pub const fn in_vlan(self, id: u16, service: bool) -> Self {
        let tags = (self.encap >> 60) & 3;
        let shift = if tags == 0 { 44 } else { 32 };
        let mut encap = self.encap & !(3 << 60);
        encap |= (tags + 1) << 60 | ((id & 0xfff) as u64) << shift;
        if service && tags == 0 {
            encap |= 1 << 62;
        }
        Self { mac_port: self.mac_port, encap }
    }

    /// The same context inside a VLAN tag as it is on the wire, priority and DEI included.
    ///
    /// They are part of the context because a bridge hands them on, and the priority of what a learned
    /// header is written over must be the one that it was learned from.
    #[must_use]
    pub const fn in_tag(self, tci: u16, service: bool) -> Self {
        let shift = if self.vlan_tags() == 0 { 56 } else { 0 };
        let tagged = self.in_vlan(tci, service);
        Self { mac_port: tagged.mac_port, encap: tagged.encap | ((tci >> 12) as u64) << shift }
    }

    /// The same context inside a PPPoE session.
    #[must_use]
    pub const fn in_pppoe(self, session: u16) -> Self {
        Self { mac_port: self.mac_port, encap: self.encap | 1 << 63 | (session as u64) << 16 }
    }

    /// The port.
    pub const fn port(self) -> u16 {
        (self.mac_port & 0xffff) as u16
    }

    /// The frame's destination MAC.
    pub const fn dst_mac(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.mac_port.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Number of VLAN tags.
    pub const fn vlan_tags(self) -> u8 {
        ((self.encap >> 60) & 3) as u8
    }

    /// VLAN ids, outer first; those beyond [`Self::vlan_tags`] are 0.
    pub const fn vlans(self) -> [u16; 2] {
        [((self.encap >> 44) & 0xfff) as u16, ((self.encap >> 32) & 0xfff) as u16]
    }

    /// VLAN tags as they are on the wire, outer first: TPID and tag control information.
    pub const fn tags(self) -> [Option<(u16, u16)>; 2] {
        let [outer, inner] = self.vlans();
        let tpid = if self.encap >> 62 & 1 == 1 { ETHER_SERVICE_VLAN } else { ETHER_VLAN };
        let outer = (tpid, ((self.encap >> 56) as u16) << 12 | outer);
        let inner = (ETHER_VLAN, (self.encap as u16) << 12 | inner);
        match self.vlan_tags() {
            0 => [None, None],
            1 => [Some(outer), None],
            _ => [Some(outer), Some(inner)],
        }
    }

    /// Bytes before the IP header: Ethernet, tags, and PPPoE with PPP's protocol.
    pub const fn header_len(self) -> u16 {
        14 + 4 * self.vlan_tags() as u16 + if self.pppoe().is_some() { 8 } else { 0 }
    }

    /// PPPoE session, if the frame was in one.
    pub const fn pppoe(self) -> Option<u16> {
        if self.encap >> 63 == 1 { Some((self.encap >> 16) as u16) } else { None }
    }
}

impl std::fmt::Debug for Ingress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.dst_mac();
        write!(f, "port {} to {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}", self.port())?;
        for id in &self.vlans()[..usize::from(self.vlan_tags()).min(2)] {
            write!(f, " vlan {id}")?;
        }
        self.pppoe().map_or(Ok(()), |session| write!(f, " pppoe {session}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_can_be_read_back() {
        let mac = [2, 0, 0, 0xaa, 0xbb, 0xcc];
        let ingress = Ingress::untagged(513, mac).in_vlan(100, true).in_vlan(4095, false).in_pppoe(0xbeef);
        assert_eq!(ingress.port(), 513);
        assert_eq!(ingress.dst_mac(), mac);
        assert_eq!((ingress.vlan_tags(), ingress.vlans()), (2, [100, 4095]));
        assert_eq!((ingress.pppoe(), ingress.header_len()), (Some(0xbeef), 30));
        assert_eq!(Ingress::untagged(513, mac).header_len(), 14);
        assert_eq!(Ingress::untagged(1, mac).in_pppoe(0).pppoe(), Some(0));
        assert_eq!(Ingress::untagged(1, mac).pppoe(), None);
    }

    #[test]
    fn tag_type_and_order_matter() {
        let plain = Ingress::untagged(0, [2; 6]);
        assert_ne!(plain.in_vlan(1, false), plain.in_vlan(1, true));
        assert_ne!(plain.in_vlan(1, false).in_vlan(2, false), plain.in_vlan(2, false).in_vlan(1, false));
        assert_ne!(plain.in_vlan(0, false), plain);
        assert_ne!(plain.in_tag(0x2001, false), plain.in_tag(0x0001, false));
        assert_eq!(plain.in_tag(0x0001, false), plain.in_vlan(1, false));
        let twice = plain.in_tag(0xf001, true).in_tag(0x7002, false);
        assert_eq!((twice.vlans(), twice.vlan_tags(), twice.pppoe()), ([1, 2], 2, None));
        assert_eq!(twice.tags(), [Some((0x88a8, 0xf001)), Some((0x8100, 0x7002))]);
        assert_eq!(plain.in_pppoe(0xbeef).in_tag(0x2001, false).tags(), [Some((0x8100, 0x2001)), None]);
        assert_ne!(twice, plain.in_tag(0xf001, true).in_tag(0x6002, false));
    }
}
