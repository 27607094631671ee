//! Packets of known directions that the kernel got for what they are themselves, not for the direction's state: so that
//! `flyover explain` can name the reason.
//!
//! Written by the punt thread alone, which has a system call to make for each of them anyway. Directions share the cells
//! by their slot's number: where two have such packets, the later one takes the cell over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::{Counter, FiveTuple, FlowRef, Key, TCP, UDP};
use crate::packet::PuntReason;
use crate::packet::wire::{IPV6_LEN, array, be16};

/// Cells, of 190 bytes each.
const CELLS: usize = 4096;
/// Extension headers that are walked over.
const MOST_HEADERS: usize = 8;

/// The same as [`PuntReason::ALL`] has: one counter a reason.
type Counts = [Counter; PuntReason::COUNT];

#[derive(Debug, Default)]
struct Cell {
    /// Slot and generation of the direction that is counted; 0: none.
    owner: AtomicU64,
    counts: Counts,
}

/// See the module.
#[derive(Debug)]
pub struct Exceptions(Box<[Cell]>);

impl Default for Exceptions {
    fn default() -> Self {
        Self(std::iter::repeat_with(Cell::default).take(CELLS).collect())
    }
}

impl Exceptions {
    /// Whether a reason lies in the packet, and not in the state of its direction or in there being none.
    pub const fn concerns(reason: PuntReason) -> bool {
        match reason {
            PuntReason::TcpControl
            | PuntReason::IngressContext
            | PuntReason::ProvedLength
            | PuntReason::Ttl
            | PuntReason::Fragment
            | PuntReason::IpOptions
            | PuntReason::ExtensionHeader
            | PuntReason::Malformed
            | PuntReason::BadChecksum
            | PuntReason::HoldFull
            | PuntReason::HoldTimeout
            | PuntReason::Segmented => true,
            PuntReason::NoFlow
            | PuntReason::Candidate
            | PuntReason::Probe
            | PuntReason::Closing
            | PuntReason::Protocol
            | PuntReason::Multicast
            | PuntReason::Martian
            | PuntReason::Arp
            | PuntReason::EtherType => false,
        }
    }

    /// A packet of this direction goes to the kernel.
    pub(super) fn count(&self, flow: FlowRef, reason: PuntReason) {
        let Some(cell) = self.cell(flow) else { return };
        if cell.owner.load(Ordering::Relaxed) != name(flow) {
            // Nobody's while the counts are of two: a reader finds one owner before and after, or nothing.
            cell.owner.store(0, Ordering::Release);
            cell.counts.iter().for_each(|count| count.add(count.get().wrapping_neg()));
            cell.owner.store(name(flow), Ordering::Release);
        }
        if let Some(count) = cell.counts.get(reason as usize) {
            count.add(1);
        }
    }

    /// Packets of this direction by reason, those without any left out. Counted since its cell was another's last.
    pub fn of(&self, flow: FlowRef) -> Vec<(PuntReason, u64)> {
        let Some(cell) = self.cell(flow) else { return Vec::new() };
        let is_own = || cell.owner.load(Ordering::Acquire) == name(flow);
        if !is_own() {
            return Vec::new();
        }
        let counted = PuntReason::ALL.iter().zip(&cell.counts);
        let found =
            counted.map(|(reason, count)| (*reason, count.get())).filter(|(_, count)| *count > 0).collect();
        if is_own() { found } else { Vec::new() }
    }

    fn cell(&self, flow: FlowRef) -> Option<&Cell> {
        self.0.get(flow.slot.to_bits() as usize % CELLS)
    }
}

/// Never 0.
fn name(flow: FlowRef) -> u64 {
    u64::from(flow.slot.to_bits()) << 16 | u64::from(flow.generation)
}

/// The key of a packet, however odd it is, as far as its ports can be found: not in a later fragment.
pub(super) fn key(packet: &[u8]) -> Option<Key> {
    let (src, dst, proto, l4) = match packet.first()? >> 4 {
        4 => ipv4(packet)?,
        6 => ipv6(packet)?,
        _ => return None,
    };
    let known = matches!(proto, TCP | UDP);
    let (sport, dport) = (be16(packet, l4)?, be16(packet, l4 + 2)?);
    Key::from_tuple(&FiveTuple { src, dst, sport, dport, proto }).filter(|_| known)
}

/// Addresses, protocol, and where what the IP header announces begins.
type Parts = (IpAddr, IpAddr, u8, usize);

fn ipv4(packet: &[u8]) -> Option<Parts> {
    let words = usize::from(packet.first()? & 15);
    let is_first = be16(packet, 6)? & 0x1fff == 0;
    let [src, dst] =
        [12, 16].map(|at| array::<4>(packet, at).map(|octets| IpAddr::V4(Ipv4Addr::from(octets))));
    is_first.then_some((src?, dst?, *packet.get(9)?, words.max(5) * 4))
}

fn ipv6(packet: &[u8]) -> Option<Parts> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let [src, dst] =
        [8, 24].map(|at| array::<16>(packet, at).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))));
    let (mut next, mut at) = (*packet.get(6)?, IPV6_LEN);
    for _ in 0..MOST_HEADERS {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(*packet.get(at + 1)?) + 1) * 8,
            AUTHENTICATION => (usize::from(*packet.get(at + 1)?) + 2) * 4,
            FRAGMENT if be16(packet, at + 2)? & 0xfff8 == 0 => 8,
            FRAGMENT => return None,
            _ => return Some((src?, dst?, next, at)),
        };
        next = *packet.get(at)?;
        at += length;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::Slot;
    use crate::packet::testing::{Frame, strategies};

    fn flow(number: u32, generation: u16) -> FlowRef {
        FlowRef { slot: Slot::v4(number), generation }
    }

    #[test]
    fn a_direction_is_told_its_own_packets_alone() {
        let all = Exceptions::default();
        assert_eq!(all.of(flow(1, 0)), []);
        for _ in 0..3 {
            all.count(flow(1, 0), PuntReason::Fragment);
        }
        all.count(flow(1, 0), PuntReason::Ttl);
        all.count(flow(2, 0), PuntReason::IpOptions);
        assert_eq!(all.of(flow(1, 0)), [(PuntReason::Ttl, 1), (PuntReason::Fragment, 3)]);
        assert_eq!(all.of(flow(2, 0)), [(PuntReason::IpOptions, 1)]);
        assert_eq!(all.of(flow(1, 1)), [], "another flow in the same slot");
        all.count(flow(1 + CELLS as u32, 7), PuntReason::Malformed);
        assert_eq!(all.of(flow(1, 0)), [], "its cell is another's");
        assert_eq!(all.of(flow(1 + CELLS as u32, 7)), [(PuntReason::Malformed, 1)]);
    }

    /// The key of a frame without any L2 encapsulation.
    fn key_of(frame: &Frame) -> Option<Key> {
        key(frame.ip().as_slice())
    }

    #[test]
    fn odd_packets_have_the_key_of_their_direction() {
        for (src, dst) in [("10.0.0.1:1", "10.0.0.2:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")] {
            let plain = Frame::udp(src, dst).payload(b"payload");
            let expected = Key::from_tuple(&plain.tuple);
            assert!(expected.is_some());
            let odd: [fn(&mut Frame); 6] = [
                |f| f.ttl = 1,
                |f| f.options = vec![7; 9],
                |f| f.extensions = vec![(0, vec![0; 8]), (60, [&[0, 1][..], &[0; 14]].concat())],
                |f| f.extensions = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])],
                |f| f.fragment = 0x2000,
                |f| f.faults.udp_length = Some(3),
            ];
            for change in odd {
                assert_eq!(key_of(&plain.clone().with(change)), expected);
            }
        }
        let later = Frame::udp("10.0.0.1:1", "10.0.0.2:2").payload(b"payload").with(|f| f.fragment = 0x0010);
        assert_eq!(key_of(&later), None);
        let later = Frame::udp("[2001:db8::1]:1", "[2001:db8::2]:2")
            .with(|f| f.extensions = vec![(44, vec![0, 0, 0, 8, 0, 0, 0, 9])]);
        assert_eq!(key_of(&later), None);
        assert_eq!(key_of(&Frame::new(1, "10.0.0.1:1", "10.0.0.2:2").payload(&[8; 8])), None, "ICMP");
    }

    proptest! {
        #[test]
        fn what_can_fly_has_its_key(frame in strategies::legal_frames()) {
            prop_assert_eq!(key_of(&frame), Key::from_tuple(&frame.tuple));
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = key(&bytes);
        }
    }
}
