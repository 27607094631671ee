//! Priority tags: how a packet meets the ruleset where the kernel's flowtable would carry it past.
//!
//! The flowtable takes packets at the ingress of its devices, before any chain, so that what it lets through proves
//! nothing of the rules. It looks at VLAN tags, though: a frame with a tag of VLAN 0, which only gives a priority
//! (IEEE 802.1Q, 9.6), is of none of its flows, and to everything else of the kernel the same as one without
//! (`nf_flow_tuple_encap` in nf_flow_table_ip.c, `__netif_receive_skb_core` in net/core/dev.c).

use crate::dpdk::Mbuf;
use crate::packet::Ingress;
use crate::packet::wire::{ETHER_VLAN, PPPOE_LEN, VLAN_LEN};

/// Which packets get a priority tag on their way to the kernel; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityTags {
    macs: Vec<[u8; 6]>,
}

impl PriorityTags {
    /// Those that are sent to one of the host's own MAC addresses: what a bridge hands on would keep its tag.
    pub fn for_host(macs: impl IntoIterator<Item = [u8; 6]>) -> Self {
        let mut macs: Vec<_> = macs.into_iter().collect();
        macs.sort_unstable();
        macs.dedup();
        Self { macs }
    }

    /// Whether packets with this context get one.
    pub(super) fn want(&self, ingress: Ingress) -> bool {
        self.macs.binary_search(&ingress.dst_mac()).is_ok()
    }
}

/// Puts the tag below all others, so that a flowtable on a VLAN device finds it too. `l3` is the offset of the IP
/// header. `false`, and no change, if there is no room.
pub(super) fn tag(mbuf: &mut Mbuf, ingress: Ingress, l3: usize) -> bool {
    let behind_type = if ingress.pppoe().is_some() { l3.checked_sub(PPPOE_LEN) } else { Some(l3) };
    let Some(ether_type) = behind_type.and_then(|at| at.checked_sub(2)) else { return false };
    if ether_type > mbuf.len() || mbuf.prepend(VLAN_LEN).is_none() {
        return false;
    }
    let frame = mbuf.data_mut();
    frame.copy_within(VLAN_LEN..VLAN_LEN + ether_type, 0);
    let [high, low] = ETHER_VLAN.to_be_bytes();
    if let Some(tag) = frame.get_mut(ether_type..ether_type + VLAN_LEN) {
        tag.copy_from_slice(&[high, low, 0, 0]);
    }
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::dpdk::testing::Bench;

    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// `types` stands between the addresses and the packet.
    fn tagged(ingress: Ingress, types: &[u8]) -> Vec<u8> {
        let frame = [&HOST[..], &[2, 0, 0, 0, 0, 2], types, &[0x45, 1, 2, 3]].concat();
        let bench = Bench::new();
        let mut mbuf = bench.packet(&frame);
        assert!(tag(&mut mbuf, ingress, 12 + types.len()));
        let data = mbuf.data();
        assert_eq!((&data[..12], &data[data.len() - 4..]), (&frame[..12], &frame[frame.len() - 4..]));
        data[12..data.len() - 4].to_vec()
    }

    #[test]
    fn it_stands_right_before_the_packet() {
        let plain = Ingress::untagged(0, HOST);
        assert_eq!(tagged(plain, &[8, 0]), [0x81, 0, 0, 0, 8, 0]);
        let vlan = plain.in_vlan(10, false);
        assert_eq!(tagged(vlan, &[0x81, 0, 0, 10, 8, 0]), [0x81, 0, 0, 10, 0x81, 0, 0, 0, 8, 0]);
        let session = [0x88, 0x64, 0x11, 0, 0, 1, 0, 6, 0, 0x21];
        assert_eq!(tagged(plain.in_pppoe(1), &session), [&[0x81, 0, 0, 0][..], &session].concat());
    }

    #[test]
    fn without_room_the_frame_stays_as_it_is() {
        let bench = Bench::new();
        let mut mbuf = bench.packet(&[0; 20]);
        while mbuf.prepend(VLAN_LEN).is_some() {}
        let before = mbuf.data().to_vec();
        assert!(!tag(&mut mbuf, Ingress::untagged(0, HOST), 14));
        assert!(!tag(&mut mbuf, Ingress::untagged(0, HOST), 1));
        assert_eq!(mbuf.data(), before);
    }

    #[test]
    fn only_what_is_sent_to_the_host_gets_one() {
        let tags = PriorityTags::for_host([HOST, [2, 0, 0, 0, 0, 9]]);
        assert!(tags.want(Ingress::untagged(3, HOST)));
        assert!(!tags.want(Ingress::untagged(3, [2, 0, 0, 0, 0, 2])));
        assert!(!PriorityTags::default().want(Ingress::untagged(3, HOST)));
    }
}
