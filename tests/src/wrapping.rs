//! What frames are wrapped in: VLAN tags, a PPPoE session.

use dataplane::packet::wire::{
    ETHER_IPV4, ETHER_IPV6, ETHER_PPPOE_SESSION, ETHER_SERVICE_VLAN, ETHER_VLAN, PPP_IPV4, PPP_IPV6, be16,
};

/// VLAN tags, outer first, with a PPPoE session in them or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrapping {
    /// TPID and VLAN id of each.
    pub tags: &'static [(u16, u16)],
    /// Session.
    pub pppoe: Option<u16>,
}

impl Wrapping {
    /// Takes it off a frame; `None` if the frame is wrapped in anything else. Priorities don't matter, as to the
    /// kernel, nor does what follows a PPPoE session's packet.
    pub fn unwrap(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut inner = frame.get(..12)?.to_vec();
        let mut at = 12;
        for (tpid, id) in self.tags {
            if be16(frame, at)? != *tpid || be16(frame, at + 2)? & 0xfff != *id {
                return None;
            }
            at += 4;
        }
        let Some(session) = self.pppoe else {
            inner.extend_from_slice(frame.get(at..)?);
            return Some(inner);
        };
        let is_session = be16(frame, at)? == ETHER_PPPOE_SESSION
            && be16(frame, at + 2)? == 0x1100
            && be16(frame, at + 4)? == session;
        let ether_type = match be16(frame, at + 8)? {
            PPP_IPV4 => ETHER_IPV4,
            PPP_IPV6 => ETHER_IPV6,
            _ => return None,
        };
        let end = at + 8 + usize::from(be16(frame, at + 6)?);
        inner.extend_from_slice(&ether_type.to_be_bytes());
        inner.extend_from_slice(frame.get(at + 10..end).filter(|_| is_session)?);
        Some(inner)
    }

    /// Puts it around a frame; `None` for what PPPoE doesn't carry.
    pub fn wrap(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut outer = frame.get(..12)?.to_vec();
        for (tpid, id) in self.tags {
            outer.extend_from_slice(&tpid.to_be_bytes());
            outer.extend_from_slice(&id.to_be_bytes());
        }
        let Some(session) = self.pppoe else {
            outer.extend_from_slice(frame.get(12..)?);
            return Some(outer);
        };
        let protocol = match be16(frame, 12)? {
            ETHER_IPV4 => PPP_IPV4,
            ETHER_IPV6 => PPP_IPV6,
            _ => return None,
        };
        let length = u16::try_from(frame.len() - 14 + 2).ok()?;
        for word in [ETHER_PPPOE_SESSION, 0x1100, session, length, protocol] {
            outer.extend_from_slice(&word.to_be_bytes());
        }
        outer.extend_from_slice(frame.get(14..)?);
        Some(outer)
    }

    /// The EtherType of what is wrapped so, as `tc` calls it; `None` if there is no wrapping.
    pub fn protocol(&self) -> Option<&'static str> {
        match (self.tags.first(), self.pppoe) {
            (Some((ETHER_SERVICE_VLAN, _)), _) => Some("802.1ad"),
            (Some((ETHER_VLAN, _)), _) => Some("802.1Q"),
            (None, Some(_)) => Some("ppp_ses"),
            _ => None,
        }
    }
}
