//! Making packets what leaves: as the kernel would have sent them.

use super::Hot;
use crate::dpdk::Mbuf;
use crate::flow::{Adjacencies, Adjacency, AdjacencyId, EntryView, Line};
use crate::packet::wire::ETHER_LEN;
use crate::packet::{Outline, write_l2};

/// Rewrites a packet from its IP header on, without padding, which the kernel trims too, puts the L2 header of its next
/// hop before it, and counts it; gives the port that it leaves through, and its length. `None` happens to no packet that
/// was parsed, with an adjacency that was learned. `tell` is called when the count is one to be told of, with what leaves
/// and where its IP header is.
#[inline(always)]
pub(super) fn make_ready<L: Line>(
    adjacencies: Adjacencies<'_>,
    (entry, (adjacency, flags)): (&L, (AdjacencyId, u8)),
    mbuf: &mut Mbuf,
    outline: &Outline,
    now: u32,
    (hot, tell): (&Hot, impl FnOnce(&Mbuf, usize)),
) -> Option<(u16, u32)> {
    let adjacency = adjacencies.get(adjacency);
    let fields = adjacency.fields();
    let length = outline.frame_len();
    let bytes = if fields.is_ethernet() && usize::from(outline.l3) == ETHER_LEN {
        if mbuf.len() != length && !mbuf.set_len(length) {
            return None;
        }
        let frame = mbuf.data_mut();
        // Once for all: what follows needs no further look at the length.
        if frame.len() < ETHER_LEN + L::HEADERS {
            return None;
        }
        let (ethernet, packet) = frame.split_first_chunk_mut::<ETHER_LEN>()?;
        if !entry.apply(packet, flags) {
            return None;
        }
        adjacency.write_ethernet(ethernet);
        length as u32
    } else {
        encapsulate(mbuf, outline, (entry, flags), adjacency)?
    };
    if hot.is_due(entry.view().count(bytes, now)) {
        tell(mbuf, fields.header_len());
    }
    Some((fields.port(), bytes))
}

/// The same where something is unusual: not inlined into what is done with most packets.
#[inline(never)]
pub(super) fn make_unusual_ready<L: Line>(
    adjacencies: Adjacencies<'_>,
    entry: &L,
    mbuf: &mut Mbuf,
    outline: &Outline,
    now: u32,
    hot: (&Hot, impl FnOnce(&Mbuf, usize)),
) -> Option<(u16, u32)> {
    make_ready(adjacencies, (entry, entry.view().egress()), mbuf, outline, now, hot)
}

/// Rewrites a packet where one of the two L2 headers is not Ethernet's alone; gives the length of the frame.
#[inline(never)]
fn encapsulate<L: Line>(
    mbuf: &mut Mbuf,
    outline: &Outline,
    (entry, flags): (&L, u8),
    adjacency: &Adjacency,
) -> Option<u32> {
    let (l3, fields) = (usize::from(outline.l3), adjacency.fields());
    let header = adjacency.header_bytes();
    let header = header.get(..fields.header_len())?;
    let ready =
        mbuf.data_mut().get_mut(l3..outline.frame_len()).is_some_and(|packet| entry.apply(packet, flags))
            && mbuf.set_len(outline.frame_len())
            && reframe(mbuf, l3, header.len())
            && write_l2(mbuf.data_mut(), header, fields.pppoe_length(), outline.l3_len);
    ready.then(|| mbuf.len() as u32)
}

/// Makes room for an L2 header of `new` bytes in place of one of `old` bytes.
fn reframe(mbuf: &mut Mbuf, old: usize, new: usize) -> bool {
    if new >= old { mbuf.prepend(new - old).is_some() } else { mbuf.trim_front(old - new) }
}
