//! What a worker records in: a ring that it alone fills, and that never makes it wait.

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use rtrb::{Consumer, Producer, RingBuffer};

use super::filter::Filter;
use super::record::{Decision, Found, HEAD, Looked, Origin, Record, What};
use crate::clock::Clock;
use crate::dpdk::{Mbuf, Note};
use crate::flow::{Counter, MAX_PORTS};
use crate::packet::{DropReason, PuntReason};
use crate::punt::{PuntClass, PuntEvent};

/// The longest packet: what an mbuf can say.
const LONGEST: usize = 1 << 16;

/// Notes are a packet's number, 0 if it did not pass when it came; above it whether the kernel has sent it, and the port
/// that it came in by, or is to leave by.
const NUMBERS: u32 = KERNEL - 1;
const KERNEL: u32 = 1 << (PORT - 1);
const PORT: u32 = 27;
const _: () = assert!(MAX_PORTS <= 1 << (32 - PORT));

const fn number(note: u32) -> u32 {
    note & NUMBERS
}

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Points {
    /// When they come in.
    pub rx: bool,
    /// When they are given to a port's queue.
    pub tx: bool,
    /// When they are given to the kernel.
    pub punt: bool,
    /// When they are dropped.
    pub drop: bool,
    /// When the kernel's frames are fetched, and packets are looked up and decided on.
    pub decisions: bool,
}

/// Which packets are wanted, and what of them.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Those that pass, as they come in or as they leave.
    pub filter: Filter,
    /// Where they are looked at.
    pub points: Points,
    /// A bit for each port by which packets are recorded.
    pub ports: u32,
    /// So many bytes of each, at the most.
    pub bytes: u16,
    /// So many packets of each worker; none for all of them.
    pub packets: Option<u32>,
}

/// The EAL has no room for a note in packets' buffers.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("DPDK has no room left in packet buffers to note which packets are looked at")]
pub struct NoRoom;

/// A worker's end.
#[derive(Debug)]
pub struct Recorder {
    wanted: Arc<Wanted>,
    worker: u16,
    note: Note,
    clock: Clock,
    ring: Producer<u8>,
    lost: Arc<Lost>,
    /// Packets that were noted.
    noted: u32,
    /// A record before it goes into the ring; long enough for any.
    record: Vec<u8>,
    /// The bytes of a packet, where they lie in several buffers or its fate is not known yet.
    kept: Vec<u8>,
    kept_length: u32,
}

/// The other end.
#[derive(Debug)]
pub struct Reader {
    ring: Consumer<u8>,
    lost: Arc<Lost>,
    /// Of the lost, those that were told.
    told: [[u64; What::KINDS]; MAX_PORTS],
    worker: u16,
}

/// Records that found no room, by port and by kind.
#[derive(Debug, Default)]
struct Lost(CachePadded<[[Counter; What::KINDS]; MAX_PORTS]>);

impl Lost {
    fn add(&self, port: u16, kind: u8) {
        if let Some(counter) = self.0.get(usize::from(port)).and_then(|port| port.get(usize::from(kind))) {
            counter.add(1);
        }
    }
}

impl Recorder {
    /// A recorder for a worker, with so many bytes of room, and its reader.
    ///
    /// # Errors
    /// When packets can't be noted.
    pub fn new(
        wanted: Arc<Wanted>,
        worker: u16,
        clock: Clock,
        room: usize,
    ) -> Result<(Self, Reader), NoRoom> {
        let note = Note::register().ok_or(NoRoom)?;
        let (ring, end) = RingBuffer::new(room);
        let lost = Arc::new(Lost::default());
        let recorder = Self {
            wanted,
            worker,
            note,
            clock,
            ring,
            lost: Arc::clone(&lost),
            noted: 0,
            record: Vec::with_capacity(HEAD + LONGEST),
            kept: vec![0; LONGEST],
            kept_length: 0,
        };
        let told = [[0; What::KINDS]; MAX_PORTS];
        Ok((recorder, Reader { ring: end, lost, told, worker }))
    }

    /// A packet came in by this port.
    pub(crate) fn received(&mut self, port: u16, mbuf: &mut Mbuf) {
        self.note(u32::from(port) << PORT, mbuf);
        if self.wanted.points.rx {
            self.record(What::Received, port, mbuf);
        }
    }

    /// The kernel has sent a frame, to leave by this port.
    pub(crate) fn fetched(&mut self, port: u16, mbuf: &mut Mbuf) {
        self.note(u32::from(port) << PORT | KERNEL, mbuf);
        if self.wanted.points.decisions {
            self.record(What::Fetched, port, mbuf);
        }
    }

    /// Forgets a packet that came before anybody looked.
    pub(crate) fn forget(&self, mbuf: &mut Mbuf) {
        mbuf.set_note(self.note, 0);
    }

    /// Whether decisions on a packet are wanted.
    pub(crate) fn follows(&self, mbuf: &Mbuf) -> bool {
        self.wanted.points.decisions && number(mbuf.note(self.note)) != 0
    }

    /// A packet was looked up and decided on.
    pub(crate) fn decided(&mut self, mbuf: &Mbuf, found: Found, looked: Option<Looked>, decision: Decision) {
        let note = mbuf.note(self.note);
        let what = What::Decided { found, looked, decision };
        if self.follows(mbuf) && self.is_of(note_port(note)) {
            self.put(what, note_port(note), note, mbuf.packet_len() as u32, 0);
        }
    }

    /// A packet is about to be given to the queue of this port.
    pub(crate) fn sends(&mut self, port: u16, mbuf: &Mbuf) {
        if self.wanted.points.tx && self.is_wanted(mbuf) {
            let origin = if mbuf.note(self.note) & KERNEL == 0 { Origin::Wire } else { Origin::Kernel };
            self.record_as(What::Sent(origin), port, mbuf);
        }
    }

    /// A packet may be given to the kernel: what it looks like is kept for [`punted`](Self::punted).
    pub(crate) fn may_be_punted(&mut self, mbuf: &Mbuf) {
        self.kept_length = 0;
        if self.wanted.points.punt && number(mbuf.note(self.note)) != 0 {
            self.keep(mbuf);
            self.kept_length = mbuf.packet_len() as u32;
        }
    }

    /// The packet that was just kept was given to the kernel; its note, as it was.
    pub(crate) fn punted(&mut self, note: u32, reason: PuntReason, event: PuntEvent, class: PuntClass) {
        let port = note_port(note);
        if self.kept_length > 0 && self.is_of(port) {
            let what = What::Punted { reason, event, class };
            self.put(what, port, note, self.kept_length, self.wanted.bytes.into());
        }
    }

    /// A packet's note.
    pub(crate) fn note_of(&self, mbuf: &Mbuf) -> u32 {
        mbuf.note(self.note)
    }

    /// A packet is dropped.
    pub(crate) fn dropped(&mut self, mbuf: &Mbuf, reason: DropReason) {
        if self.wanted.points.drop && self.is_wanted(mbuf) {
            self.record_as(What::Dropped(reason), note_port(mbuf.note(self.note)), mbuf);
        }
    }

    /// Notes a packet; with its number, if it passes.
    fn note(&mut self, note: u32, mbuf: &mut Mbuf) {
        let has_room = self.wanted.packets.is_none_or(|most| self.noted < most);
        let note = if has_room && self.passes(mbuf) {
            self.noted = self.noted.wrapping_add(1);
            // 0 says that there is none.
            note | (self.noted.wrapping_sub(1) % NUMBERS + 1)
        } else {
            note
        };
        mbuf.set_note(self.note, note);
    }

    fn passes(&mut self, mbuf: &Mbuf) -> bool {
        let length = mbuf.packet_len();
        if mbuf.segments() == 1 {
            return self.wanted.filter.passes(mbuf.data(), length as u32);
        }
        let copied = mbuf.copy_to(&mut self.kept);
        self.wanted.filter.passes(self.kept.get(..copied).unwrap_or_default(), length as u32)
    }

    /// It passed when it came, or passes now.
    fn is_wanted(&mut self, mbuf: &Mbuf) -> bool {
        number(mbuf.note(self.note)) != 0 || (self.wanted.packets.is_none() && self.passes(mbuf))
    }

    fn is_of(&self, port: u16) -> bool {
        self.wanted.ports >> (port % 32) & 1 == 1
    }

    /// As many bytes of a packet as are wanted.
    fn keep(&mut self, mbuf: &Mbuf) {
        mbuf.copy_to(self.kept.get_mut(..self.wanted.bytes.into()).unwrap_or_default());
    }

    /// Of a packet that was noted.
    fn record(&mut self, what: What, port: u16, mbuf: &Mbuf) {
        if number(mbuf.note(self.note)) != 0 {
            self.record_as(what, port, mbuf);
        }
    }

    fn record_as(&mut self, what: What, port: u16, mbuf: &Mbuf) {
        if !self.is_of(port) {
            return;
        }
        self.keep(mbuf);
        self.put(what, port, mbuf.note(self.note), mbuf.packet_len() as u32, self.wanted.bytes.into());
    }

    /// With so many of the kept bytes at the most.
    fn put(&mut self, what: What, port: u16, note: u32, length: u32, bytes: usize) {
        let bytes = self.kept.get(..bytes.min(length as usize)).unwrap_or(&self.kept);
        let (worker, nanos, packet) = (self.worker, self.clock.nanos(), number(note));
        Record { what, port, worker, packet, nanos, length, bytes }.write(&mut self.record);
        if self.ring.push_entire_slice(&self.record).is_err() {
            self.lost.add(port, what.kind());
        }
    }
}

const fn note_port(note: u32) -> u16 {
    (note >> PORT) as u16
}

impl Reader {
    /// Adds what there is, whole records, to `to`; and if any were lost since the last time, how many.
    pub fn read(&mut self, to: &mut Vec<u8>) {
        if let Ok(chunk) = self.ring.read_chunk(self.ring.slots()) {
            let (first, second) = chunk.as_slices();
            to.extend_from_slice(first);
            to.extend_from_slice(second);
            chunk.commit_all();
        }
        let mut record = Vec::new();
        for (port, (lost, told)) in (0_u16..).zip(self.lost.0.iter().zip(&mut self.told)) {
            for (kind, (lost, told)) in (0_u8..).zip(lost.iter().zip(told)) {
                let records = u32::try_from(lost.get() - *told).unwrap_or(u32::MAX);
                if records > 0 {
                    *told += u64::from(records);
                    let what = What::Lost { kind, records };
                    let (worker, packet, nanos, length) = (self.worker, 0, 0, 0);
                    Record { what, port, worker, packet, nanos, length, bytes: &[] }.write(&mut record);
                    to.extend_from_slice(&record);
                }
            }
        }
    }
}
