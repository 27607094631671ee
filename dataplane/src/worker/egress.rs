//! Making packets what leaves: as the kernel would have sent them.

use super::WorkerLink;
use crate::dpdk::Mbuf;
use crate::flow::{Adjacency, EntryView, Line};
use crate::packet::wire::ETHER_LEN;
use crate::packet::{Outline, write_l2};

/// Packets and bytes, to be counted together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flown {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// Rewrites a packet from its IP header on, without padding, which the kernel trims too, puts the L2 header of its next
/// hop before it, and counts it; gives the port that it leaves through. `None` happens to no packet that was parsed,
/// with an adjacency that was learned.
#[inline(always)]
pub(super) fn make_ready<L: Line>(
    link: &WorkerLink,
    entry: &L,
    mbuf: &mut Mbuf,
    outline: &Outline,
    now: u32,
    flown: &mut Flown,
) -> Option<u16> {
    let view = entry.view();
    let adjacency = link.adjacencies.get(view.adjacency());
    let fields = adjacency.fields();
    let length = outline.frame_len();
    let bytes = if fields.is_ethernet() && usize::from(outline.l3) == ETHER_LEN {
        if mbuf.len() != length && !mbuf.set_len(length) {
            return None;
        }
        let (ethernet, packet) = mbuf.data_mut().split_first_chunk_mut::<ETHER_LEN>()?;
        if !entry.apply(packet) {
            return None;
        }
        adjacency.write_ethernet(ethernet);
        length as u32
    } else {
        encapsulate(mbuf, outline, entry, adjacency)?
    };
    view.count(bytes, now);
    flown.packets += 1;
    flown.bytes += u64::from(bytes);
    Some(fields.port())
}

/// Rewrites a packet where one of the two L2 headers is not Ethernet's alone; gives the length of the frame.
#[inline(never)]
fn encapsulate<L: Line>(mbuf: &mut Mbuf, outline: &Outline, entry: &L, adjacency: &Adjacency) -> Option<u32> {
    let (l3, fields) = (usize::from(outline.l3), adjacency.fields());
    let header = adjacency.header_bytes();
    let header = header.get(..fields.header_len())?;
    let ready = mbuf.data_mut().get_mut(l3..outline.frame_len()).is_some_and(|packet| entry.apply(packet))
        && mbuf.set_len(outline.frame_len())
        && reframe(mbuf, l3, header.len())
        && write_l2(mbuf.data_mut(), header, fields.pppoe_length(), outline.l3_len);
    ready.then(|| mbuf.len() as u32)
}

/// Makes room for an L2 header of `new` bytes in place of one of `old` bytes.
fn reframe(mbuf: &mut Mbuf, old: usize, new: usize) -> bool {
    if new >= old { mbuf.prepend(new - old).is_some() } else { mbuf.trim_front(old - new) }
}
