//! Fingerprints of punted packets, and what the frames that leave the kernel prove by them.
//!
//! A frame on a twin says nothing of where its packet came in, or whether it was that packet at all. So it
//! proves a direction only if it equals the rewritten snapshot of a packet that was given to the kernel a
//! moment ago, if all packets of that 5-tuple came in at one place lately, and if it left once.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry as MapEntry;

use super::{Observation, Proof};
use crate::flow::{FlowRef, Slot};
use crate::packet::{Headers, Ingress, L2Header, Snapshot, Verdict};

/// How long the kernel may take to forward a packet, in microseconds. What comes later proves nothing.
pub(super) const PATIENCE: u64 = 10_000;
/// For so long after a packet of the same 5-tuple came in elsewhere nothing proves the direction: a frame that
/// the kernel kept back for a while could be mistaken for the copy.
const CONFLICT: u64 = 2_000_000;
/// Fingerprints kept at most; the oldest give way.
const MOST_PRINTS: usize = 8192;
/// Directions remembered at most; more stay in the kernel until others are forgotten.
const MOST_TRACKS: usize = 65_536;
/// Fingerprints of one direction that a frame is compared with, the newest.
const PER_TRACK: usize = 16;

#[derive(Debug)]
struct Print {
    flow: FlowRef,
    snapshot: Snapshot,
    epoch: u32,
    at: u64,
    probe: bool,
    matched: bool,
}

#[derive(Debug)]
struct Track {
    generation: u16,
    ingress: Ingress,
    /// Another context was seen at this time; 0: never.
    conflict: u64,
    /// Sequence numbers of its newest prints, a ring.
    prints: [u64; PER_TRACK],
    count: u64,
    seen: u64,
    /// L3 length of the longest packet that was waited for in vain since a longer one came out.
    missed: u16,
    /// When a print had to give way before its packet was seen to leave; 0: never.
    evicted: u64,
}

/// What a frame was found to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing that is waited for.
    Nothing,
    /// Tell control.
    Tell(Observation),
}

/// All outstanding fingerprints.
#[derive(Debug, Default)]
pub(super) struct Fingerprints {
    tracks: HashMap<Slot, Track>,
    prints: VecDeque<Print>,
    /// Sequence number of the front of `prints`; numbers start at 1.
    first: u64,
    settling: Vec<(FlowRef, u32, u64)>,
    /// When a print had to give way for lack of room; 0: never.
    crowded: u64,
}

impl Fingerprints {
    pub(super) fn new() -> Self {
        Self { first: 1, ..Self::default() }
    }

    /// A packet of a direction is about to be given to the kernel.
    pub(super) fn punted(
        &mut self,
        flow: FlowRef,
        ingress: Ingress,
        snapshot: Snapshot,
        epoch: u32,
        probe: bool,
        now: u64,
    ) {
        let room = self.tracks.len() < MOST_TRACKS;
        let track = match self.tracks.entry(flow.slot) {
            MapEntry::Occupied(entry) => entry.into_mut(),
            MapEntry::Vacant(_) if !room => return,
            MapEntry::Vacant(entry) => entry.insert(Track::new(flow, ingress)),
        };
        if track.generation != flow.generation {
            *track = Track::new(flow, ingress);
        }
        if track.ingress != ingress {
            track.conflict = now;
            track.ingress = ingress;
        }
        track.seen = now;
        let place = (track.count % PER_TRACK as u64) as usize;
        let gives_way = track.prints[place].checked_sub(self.first).and_then(|i| self.prints.get(i as usize));
        if gives_way.is_some_and(|print| !print.matched) {
            track.evicted = now;
        }
        if self.prints.len() >= MOST_PRINTS {
            self.prints.pop_front();
            self.first += 1;
            self.crowded = now;
        }
        let sequence = self.first + self.prints.len() as u64;
        track.prints[place] = sequence;
        track.count += 1;
        self.prints.push_back(Print { flow, snapshot, epoch, at: now, probe, matched: false });
    }

    /// A packet of a direction came in, in another place than the direction's own, and goes to the kernel.
    pub(super) fn intruded(&mut self, flow: FlowRef, now: u64) {
        if let Some(track) = self.tracks.get_mut(&flow.slot) {
            track.conflict = now;
        }
    }

    /// Frames are worth comparing.
    pub(super) fn are_outstanding(&self) -> bool {
        !self.prints.is_empty()
    }

    /// The kernel sent a frame which could be the forwarded form of `flow`'s packets.
    pub(super) fn left(
        &mut self,
        flow: FlowRef,
        port: u16,
        frame: &[u8],
        headers: &Headers,
        now: u64,
    ) -> Seen {
        let Some(track) = self.tracks.get_mut(&flow.slot) else { return Seen::Nothing };
        if track.generation != flow.generation {
            return Seen::Nothing;
        }
        let packet = headers.packet(frame);
        let kept = track.count.min(PER_TRACK as u64);
        let mut again = false;
        let mut overtook = track.missed;
        for nth in track.count - kept..track.count {
            let sequence = track.prints[(nth % PER_TRACK as u64) as usize];
            let Some(index) = sequence.checked_sub(self.first) else { continue };
            let Some(print) = self.prints.get_mut(index as usize) else { continue };
            let verdict = print.snapshot.matches(packet, &headers.key);
            let Verdict::Equal { ttl_decremented } = verdict else {
                if !print.matched {
                    overtook = overtook.max(print.snapshot.l3_len());
                }
                continue;
            };
            if !ttl_decremented && !print.snapshot.is_of_sender(frame) {
                continue;
            }
            if print.matched {
                again = true;
                continue;
            }
            print.matched = true;
            if now - print.at > PATIENCE || (track.conflict != 0 && now - track.conflict < CONFLICT) {
                return Seen::Nothing;
            }
            if headers.l3_len >= track.missed {
                track.missed = 0;
            }
            let Some(l2) = L2Header::learn(frame) else { return Seen::Nothing };
            return Seen::Tell(Observation::Proof(Box::new(Proof {
                flow,
                ingress: track.ingress,
                egress_port: port,
                l2,
                l3_len: headers.l3_len,
                overtook: if overtook > headers.l3_len { overtook } else { 0 },
                decrements_ttl: ttl_decremented,
                epoch: print.epoch,
            })));
        }
        // Where a print had to give way, a second packet can't be told from a second frame of one packet.
        let whole = |at: u64| at == 0 || now - at > PATIENCE;
        if again && whole(track.evicted) && whole(self.crowded) {
            return Seen::Tell(Observation::Duplicated(flow));
        }
        Seen::Nothing
    }

    /// Control wants to know when no packet of `flow` is on its way any more.
    pub(super) fn settle(&mut self, flow: FlowRef, number: u32, now: u64) {
        self.settling.push((flow, number, now + PATIENCE));
    }

    /// Answers [`Self::settle`], and forgets what has taken too long.
    ///
    /// Only a look at empty twins tells that something has: `drained` says that all frames were read.
    pub(super) fn expire(&mut self, now: u64, drained: bool, mut tell: impl FnMut(Observation)) {
        let mut settling = std::mem::take(&mut self.settling);
        settling.retain(|(flow, number, deadline)| {
            let settled = !self.is_out(*flow) || (drained && now >= *deadline);
            if settled {
                tell(Observation::Settled(*flow, *number));
            }
            !settled
        });
        self.settling = settling;
        while drained && self.prints.front().is_some_and(|print| now - print.at > PATIENCE) {
            let Some(print) = self.prints.pop_front() else { break };
            self.first += 1;
            if let Some(track) = self.tracks.get_mut(&print.flow.slot)
                && !print.matched
                && track.generation == print.flow.generation
            {
                track.missed = track.missed.max(print.snapshot.l3_len());
            }
            if print.probe && !print.matched {
                tell(Observation::Lost(print.flow));
            }
        }
    }

    /// The newest packet of the direction has not come back. (The kernel keeps a flow's packets in order, so
    /// all earlier ones have when it has.)
    fn is_out(&self, flow: FlowRef) -> bool {
        let Some(track) = self.tracks.get(&flow.slot).filter(|t| t.generation == flow.generation) else {
            return false;
        };
        let Some(nth) = track.count.checked_sub(1) else { return false };
        let sequence = track.prints[(nth % PER_TRACK as u64) as usize];
        let print = sequence.checked_sub(self.first).and_then(|index| self.prints.get(index as usize));
        print.is_some_and(|print| !print.matched)
    }

    /// Forgets directions that had no packet for a while. Touches every direction: not for every round.
    pub(super) fn forget_idle(&mut self, now: u64) {
        self.tracks.retain(|_, track| now - track.seen < CONFLICT || now - track.conflict < CONFLICT);
    }
}

impl Track {
    const fn new(flow: FlowRef, ingress: Ingress) -> Self {
        Self {
            generation: flow.generation,
            ingress,
            conflict: 0,
            prints: [0; PER_TRACK],
            count: 0,
            seen: 0,
            missed: 0,
            evicted: 0,
        }
    }
}

#[cfg(test)]
mod tests;
