//! The lane: the packets of a burst that could fly, looked up together.

use arrayvec::ArrayVec;

use super::decide::{self, Verdict};
use super::hold::HoldQueue;
use super::{BURST, WorkerLink};
use crate::dpdk::Mbuf;
use crate::flow::{FlowTable, Key, Key4, Lookup, Slot};
use crate::packet::{Headers, PuntReason};
use crate::punt::PuntEvent;

/// One burst's packets with what is known of them, in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Lane {
    mbufs: ArrayVec<Mbuf, BURST>,
    headers: ArrayVec<Headers, BURST>,
    slots: ArrayVec<Option<Slot>, BURST>,
    verdicts: ArrayVec<Verdict, BURST>,
    lookup: Lookup,
}

impl Lane {
    pub(super) fn push(&mut self, mbuf: Mbuf, headers: Headers) {
        self.mbufs.push(mbuf);
        self.headers.push(headers);
    }

    /// Looks all IPv4 keys up in one go, so that their cache misses overlap; IPv6 keys one by one.
    pub(super) fn look_up(&mut self, table: &FlowTable) {
        let mut keys = [Key4::default(); BURST];
        let mut found = [None; BURST];
        let mut count = 0;
        for headers in &self.headers {
            if let Key::V4(key) = headers.key {
                keys[count] = key;
                count += 1;
            }
        }
        table.lookup4(&keys[..count], &mut self.lookup, &mut found[..count]);
        let mut found = found.into_iter();
        self.slots.clear();
        for headers in &self.headers {
            self.slots.push(match &headers.key {
                Key::V4(_) => found.next().flatten(),
                key @ Key::V6(_) => table.lookup(key),
            });
        }
    }

    /// Decides on each packet, reading every entry's state before anything is sent.
    pub(super) fn decide(&mut self, link: &WorkerLink, held: &HoldQueue, now: u32) {
        self.verdicts.clear();
        for ((mbuf, headers), slot) in self.mbufs.iter().zip(&self.headers).zip(&self.slots) {
            self.verdicts.push(match slot {
                // An earlier one waits: not before it.
                Some(slot) if held.concerns(*slot) => Verdict::Hold,
                Some(slot) => decide::flow(link, mbuf, headers, *slot, now),
                None => Verdict::Punt(PuntReason::NoFlow, PuntEvent::None),
            });
        }
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Mbuf, Headers, Option<Slot>, Verdict)> {
        let Self { mbufs, headers, slots, verdicts, .. } = self;
        mbufs
            .drain(..)
            .zip(headers.drain(..))
            .zip(slots.drain(..).zip(verdicts.drain(..)))
            .map(|((mbuf, headers), (slot, verdict))| (mbuf, headers, slot, verdict))
    }
}
