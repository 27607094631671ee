//! What becomes of a packet whose flow is known.

use super::WorkerLink;
use super::hold::Held;
use crate::dpdk::Mbuf;
use crate::flow::{
    AdjacencyId, ContextTable, Contexts, Entry, EntryState, EntryView, FlowRef, Slot, TCP, flags,
};
use crate::packet::{DropReason, Headers, Outline, PuntReason, plausible_close, source_mac};
use crate::punt::PuntEvent;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Over the fast path.
    Fly,
    /// Wait: earlier packets of this direction are still on their way through the kernel.
    Hold,
    /// To the kernel.
    Punt(PuntReason, PuntEvent),
    /// Away.
    Drop(DropReason),
}

/// A held packet is given to the kernel after so many milliseconds: twice what a proof may take.
const HOLD_PATIENCE: u32 = 20;

/// A direction's last acknowledgement says nothing any more when the other direction has had packets for so many
/// milliseconds since: its packets go another way.
const ACK_MEMORY: i32 = 30_000;

/// Decides on a packet that has an entry.
pub(super) fn flow(link: &WorkerLink, mbuf: &Mbuf, headers: &Headers, slot: Slot, now: u32) -> Verdict {
    let entry = link.table.entry(slot);
    if flies(link.contexts.all(), mbuf, headers, entry).is_some() {
        saw_ack(&entry, headers, now);
        return Verdict::Fly;
    }
    unusual(link, mbuf, headers, slot, now)
}

/// The entry's adjacency, if nothing at all is unusual about a packet: then it flies, as [`unusual`] would say too.
#[inline(always)]
pub(super) fn flies(
    contexts: Contexts<'_>,
    mbuf: &Mbuf,
    outline: &Outline,
    entry: Entry<'_>,
) -> Option<AdjacencyId> {
    let (state, context) = entry.state_and_context();
    let (adjacency, flags) = entry.egress();
    let usual = state == EntryState::Software
        && flags & flags::BRIDGED == 0
        && contexts.get(context) == outline.ingress
        && !outline.is_tcp_control()
        && outline.l3_len <= entry.proved_length()
        && !mbuf.offload_flags().any_checksum_bad();
    usual.then_some(adjacency)
}

/// Decides on any packet that has an entry.
#[inline(never)]
pub(super) fn unusual(link: &WorkerLink, mbuf: &Mbuf, headers: &Headers, slot: Slot, now: u32) -> Verdict {
    let entry = link.table.entry(slot);
    // Before anything that changes the flow's state: a copy from elsewhere must not move it.
    let elsewhere =
        link.contexts.get(entry.context()) != headers.ingress || !is_from_its_sender(link, mbuf, &entry);
    if headers.is_tcp_control() && elsewhere && entry.context() != ContextTable::NONE {
        return close_from_elsewhere(link, mbuf, headers, slot);
    }
    match entry.state() {
        EntryState::Candidate => {
            let own = !elsewhere || entry.context() == ContextTable::NONE;
            if own && !headers.is_tcp_control() {
                saw_ack(&entry, headers, now);
                // So that control knows whether the connection lives; TCP's are noted with their acknowledgements.
                if headers.key.proto() != TCP {
                    entry.touch(now);
                }
            }
            return candidate(link, mbuf, headers, slot);
        }
        EntryState::Closing => return Verdict::Punt(PuntReason::Closing, PuntEvent::None),
        EntryState::Holding | EntryState::Software | EntryState::Probing => {}
    }
    if elsewhere {
        return Verdict::Punt(PuntReason::IngressContext, PuntEvent::None);
    }
    if headers.is_tcp_control() {
        return close(link, mbuf, headers, slot, now);
    }
    saw_ack(&entry, headers, now);
    if mbuf.offload_flags().any_checksum_bad() {
        return Verdict::Punt(PuntReason::BadChecksum, PuntEvent::None);
    }
    if headers.l3_len > entry.proved_length() {
        return longer(&entry);
    }
    state(link, &entry)
}

/// A bridge hands the sender's MAC address on, so the learned header is right for that sender's frames alone.
fn is_from_its_sender(link: &WorkerLink, mbuf: &Mbuf, entry: &Entry<'_>) -> bool {
    if entry.flags() & flags::BRIDGED == 0 {
        return true;
    }
    source_mac(mbuf.data()) == source_mac(&link.adjacencies.get(entry.adjacency()).header_bytes())
}

/// What a direction has acknowledged tells which FIN and RST of the other one can be genuine.
#[inline(always)]
pub(super) fn saw_ack(entry: &Entry<'_>, outline: &Outline, now: u32) {
    if outline.tcp_ack != 0 {
        entry.set_last_ack(outline.tcp_ack);
        entry.touch(now);
    }
}

/// A packet that nothing but its direction's state keeps from flying.
fn state(link: &WorkerLink, entry: &Entry<'_>) -> Verdict {
    match entry.state() {
        EntryState::Software => Verdict::Fly,
        EntryState::Holding => Verdict::Hold,
        EntryState::Probing => {
            // A crowded ring would lose the probe: fly on, there is time until the deadline.
            let probe = !link.rings.is_busy() && entry.transition(EntryState::Probing, EntryState::Holding);
            if probe { Verdict::Punt(PuntReason::Probe, PuntEvent::Probe) } else { again(entry) }
        }
        EntryState::Candidate => Verdict::Punt(PuntReason::Candidate, PuntEvent::Fingerprint),
        EntryState::Closing => Verdict::Punt(PuntReason::Closing, PuntEvent::None),
    }
}

/// Another thread has moved the state at the same moment, or the probe waits.
fn again(entry: &Entry<'_>) -> Verdict {
    match entry.state() {
        EntryState::Software | EntryState::Probing => Verdict::Fly,
        EntryState::Holding => Verdict::Hold,
        EntryState::Candidate => Verdict::Punt(PuntReason::Candidate, PuntEvent::Fingerprint),
        EntryState::Closing => Verdict::Punt(PuntReason::Closing, PuntEvent::None),
    }
}

/// A packet of a direction that does not fly.
fn candidate(link: &WorkerLink, mbuf: &Mbuf, headers: &Headers, slot: Slot) -> Verdict {
    if !headers.is_tcp_control() {
        return Verdict::Punt(PuntReason::Candidate, PuntEvent::Fingerprint);
    }
    // If either direction has ever flown, the kernel's entry is liberal: it gets no close that a strict one would not
    // believe. Else it judges by itself, and better.
    let placed = |slot: Slot| link.table.entry(slot).context() != ContextTable::NONE;
    let liberal = placed(slot) || link.table.peer(slot).is_some_and(placed);
    if liberal && !headers.is_syn() && !is_believed(link, mbuf, headers, slot) {
        return Verdict::Drop(DropReason::ImplausibleClose);
    }
    // Not fingerprinted: a direction is not to begin flying by its last segment.
    Verdict::Punt(PuntReason::TcpControl, PuntEvent::None)
}

/// A FIN, RST or SYN from another place than the direction's own. The kernel's entry is liberal, so it would
/// believe any FIN or RST before it finds the packet to be spoofed: it gets only those that even a strict one
/// would believe, which continue exactly where the peer has acknowledged.
fn close_from_elsewhere(link: &WorkerLink, mbuf: &Mbuf, headers: &Headers, slot: Slot) -> Verdict {
    let Some(segment) = headers.segment(mbuf.data()) else {
        return Verdict::Punt(PuntReason::Malformed, PuntEvent::None);
    };
    if headers.is_syn() || peer_ack(link, slot) == Some(segment.seq) {
        return Verdict::Punt(PuntReason::IngressContext, PuntEvent::None);
    }
    Verdict::Drop(DropReason::ImplausibleClose)
}

/// The last acknowledgement of the other direction, unless that direction's packets go another way by now.
fn peer_ack(link: &WorkerLink, slot: Slot) -> Option<u32> {
    let (entry, peer) = (link.table.entry(slot), link.table.entry(link.table.peer(slot)?));
    let behind = entry.last_seen().wrapping_sub(peer.last_seen()).cast_signed();
    Some(peer.last_ack()).filter(|ack| behind < ACK_MEMORY && *ack != 0)
}

/// Whether a FIN or RST fits what both ends have acknowledged.
fn is_believed(link: &WorkerLink, mbuf: &Mbuf, headers: &Headers, slot: Slot) -> bool {
    let (peer, own) = (peer_ack(link, slot).unwrap_or(0), link.table.entry(slot).last_ack());
    headers.segment(mbuf.data()).is_some_and(|segment| plausible_close(&segment, peer, own))
}

/// A FIN, RST or SYN. If it can be genuine, a FIN or RST takes both directions to the kernel from here on. A SYN does
/// not: conntrack ignores it, whoever sent it, until the other end agrees, and then tells control.
fn close(link: &WorkerLink, mbuf: &Mbuf, headers: &Headers, slot: Slot, now: u32) -> Verdict {
    let table = &link.table;
    if headers.is_syn() {
        return Verdict::Punt(PuntReason::TcpControl, PuntEvent::None);
    }
    if !is_believed(link, mbuf, headers, slot) {
        return Verdict::Drop(DropReason::ImplausibleClose);
    }
    // Not before: a forged one would say what the other end's have to look like.
    saw_ack(&table.entry(slot), headers, now);
    table.entry(slot).set_state(EntryState::Closing);
    if let Some(peer) = table.peer(slot) {
        table.entry(peer).set_state(EntryState::Closing);
    }
    Verdict::Punt(PuntReason::TcpControl, PuntEvent::Closing)
}

/// A packet longer than any that was seen to leave in one piece.
fn longer(entry: &Entry<'_>) -> Verdict {
    if entry.flags() & flags::REFUSE_LONGER != 0 {
        // Fingerprinted all the same: if it comes out whole after all, it may fly from then on.
        return Verdict::Punt(PuntReason::ProvedLength, PuntEvent::Fingerprint);
    }
    // The direction goes back whole, so that shorter packets do not overtake this one.
    let back = [EntryState::Software, EntryState::Probing, EntryState::Holding]
        .into_iter()
        .any(|from| entry.transition(from, EntryState::Candidate));
    let event = if back { PuntEvent::Longer } else { PuntEvent::Fingerprint };
    Verdict::Punt(PuntReason::ProvedLength, event)
}

/// Decides on a packet that was held.
pub(super) fn held(link: &WorkerLink, held: &Held, now: u32) -> (Verdict, Option<Slot>) {
    let Some(slot) = link.table.resolve(held.flow) else {
        return (Verdict::Punt(PuntReason::NoFlow, PuntEvent::None), None);
    };
    let entry = link.table.entry(slot);
    let verdict = match entry.state() {
        EntryState::Holding if now.wrapping_sub(held.since) < HOLD_PATIENCE => Verdict::Hold,
        EntryState::Holding => {
            entry.transition(EntryState::Holding, EntryState::Candidate);
            Verdict::Punt(PuntReason::HoldTimeout, PuntEvent::Lost)
        }
        // Its proof may have been for another length or place by now: decided anew.
        EntryState::Software | EntryState::Probing => flow(link, &held.mbuf, &held.headers, slot, now),
        EntryState::Candidate => Verdict::Punt(PuntReason::Candidate, PuntEvent::Fingerprint),
        EntryState::Closing => Verdict::Punt(PuntReason::Closing, PuntEvent::None),
    };
    (verdict, Some(slot))
}

/// There is no room to hold more packets: the direction goes back to the kernel. Says what control has to know.
pub(super) fn give_up(link: &WorkerLink, flow: FlowRef) -> PuntEvent {
    let Some(slot) = link.table.resolve(flow) else { return PuntEvent::None };
    let entry = link.table.entry(slot);
    let back = [EntryState::Holding, EntryState::Software, EntryState::Probing]
        .into_iter()
        .any(|from| entry.transition(from, EntryState::Candidate));
    if back { PuntEvent::Lost } else { PuntEvent::Fingerprint }
}

/// A packet that should have told control something found no room: whatever it moved moves back.
pub(super) fn undo(link: &WorkerLink, flow: Option<FlowRef>, event: PuntEvent) {
    let Some(slot) = flow.and_then(|flow| link.table.resolve(flow)) else { return };
    if event == PuntEvent::Probe {
        link.table.entry(slot).transition(EntryState::Holding, EntryState::Probing);
    }
}
