//! Who looks on while a worker works: nobody, or a recorder. Each makes a worker with code of its own.

use std::fmt::Debug;

use super::Worker;
use super::decide::Verdict;
use crate::capture::{Decision, Found, Looked, Recorder};
use crate::dpdk::{Burst, Mbuf};
use crate::flow::{ContextTable, Contexts, EntryView};
use crate::packet::{DropReason, PuntReason};
use crate::punt::{PuntClass, PuntEvent};

/// What a worker tells of packets as it goes. By default nothing: what is not told leaves no instruction behind.
pub(super) trait Onlooker: Debug + Sized {
    /// Whether anybody looks.
    const LOOKS: bool;

    /// A round of a worker that this one looks at.
    fn round(worker: &mut Worker<Self>) -> usize;

    /// These came in.
    #[inline(always)]
    fn received(&mut self, _port: u16, _packets: &mut Burst) {}

    /// The kernel has sent it, to leave by this port.
    #[inline(always)]
    fn fetched(&mut self, _port: u16, _mbuf: &mut Mbuf) {}

    /// What the entry is like that a packet is about to be decided by.
    #[inline(always)]
    fn look(&self, _mbuf: &Mbuf, _entry: impl EntryView, _contexts: Contexts<'_>) -> Option<Looked> {
        None
    }

    /// It was decided on.
    #[inline(always)]
    fn decided(&mut self, _mbuf: &Mbuf, _found: Found, _looked: Option<Looked>, _verdict: Verdict) {}

    /// These are about to be given to a port's queue.
    #[inline(always)]
    fn sends(&mut self, _port: u16, _packets: &Burst) {}

    /// It goes no further.
    #[inline(always)]
    fn dropped(&mut self, _mbuf: &Mbuf, _reason: DropReason) {}

    /// It may be given to the kernel, and is gone then; gives its note.
    #[inline(always)]
    fn may_be_punted(&mut self, _mbuf: &Mbuf) -> u32 {
        0
    }

    /// It was.
    #[inline(always)]
    fn punted(&mut self, _note: u32, _reason: PuntReason, _event: PuntEvent, _class: PuntClass) {}
}

/// Nobody looks on.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Onlooker for Nobody {
    const LOOKS: bool = false;

    #[inline(always)]
    fn round(worker: &mut Worker) -> usize {
        worker.round()
    }
}

impl Onlooker for Box<Recorder> {
    const LOOKS: bool = true;

    #[inline(never)]
    fn round(worker: &mut Worker<Self>) -> usize {
        worker.one_round()
    }

    fn received(&mut self, port: u16, packets: &mut Burst) {
        packets.iter_mut().for_each(|mbuf| Recorder::received(self, port, mbuf));
    }

    fn fetched(&mut self, port: u16, mbuf: &mut Mbuf) {
        Recorder::fetched(self, port, mbuf);
    }

    fn look(&self, mbuf: &Mbuf, entry: impl EntryView, contexts: Contexts<'_>) -> Option<Looked> {
        self.follows(mbuf).then(|| {
            let (state, context) = entry.state_and_context();
            let ingress = (context != ContextTable::NONE).then(|| contexts.get(context));
            Looked { state, ingress, proved_length: entry.proved_length() }
        })
    }

    fn decided(&mut self, mbuf: &Mbuf, found: Found, looked: Option<Looked>, verdict: Verdict) {
        if self.follows(mbuf) {
            let decision = match verdict {
                Verdict::Fly => Decision::Fly,
                Verdict::Hold => Decision::Hold,
                Verdict::Punt(reason, event) => Decision::Punt(reason, event),
                Verdict::Drop(reason) => Decision::Drop(reason),
            };
            Recorder::decided(self, mbuf, found, looked, decision);
        }
    }

    fn sends(&mut self, port: u16, packets: &Burst) {
        packets.iter().for_each(|mbuf| Recorder::sends(self, port, mbuf));
    }

    fn dropped(&mut self, mbuf: &Mbuf, reason: DropReason) {
        Recorder::dropped(self, mbuf, reason);
    }

    fn may_be_punted(&mut self, mbuf: &Mbuf) -> u32 {
        Recorder::may_be_punted(self, mbuf);
        self.note_of(mbuf)
    }

    fn punted(&mut self, note: u32, reason: PuntReason, event: PuntEvent, class: PuntClass) {
        Recorder::punted(self, note, reason, event, class);
    }
}
