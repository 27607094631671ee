//! What a worker tells of packets while somebody looks on.

use crate::capture::Reader;
use crate::capture::{Decision, Filter, Found, Instruction, Origin, Points, Record, Recorder, Wanted, What};
use crate::flow::{EntryState, TCP, UDP};
use crate::packet::testing::Frame;
use crate::packet::{DropReason, PuntReason};
use crate::punt::{PuntClass, PuntEvent};

use super::*;

const ALL: Points = Points { rx: true, tx: true, punt: true, drop: true, decisions: true };
const ROOM: usize = 1 << 20;

fn everything() -> Wanted {
    Wanted { filter: Filter::everything(), points: ALL, ports: u32::MAX, bytes: u16::MAX, packets: None }
}

/// Packets whose byte 23 (the protocol of IPv4) is this.
fn of_protocol(proto: u8) -> Filter {
    let step = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let program =
        [step(0x30, 0, 0, 23), step(0x15, 0, 1, proto.into()), step(0x06, 0, 0, 1), step(0x06, 0, 0, 0)];
    Filter::new(&program).expect("sound")
}

/// A rig whose worker is looked at.
struct Watched {
    rig: Rig,
    reader: Reader,
}

impl Watched {
    fn new(rig: Rig, wanted: Wanted) -> Self {
        Self::with_room(rig, wanted, ROOM)
    }

    fn with_room(rig: Rig, wanted: Wanted, room: usize) -> Self {
        let (recorder, reader) =
            Recorder::new(Arc::new(wanted), 0, Clock::start(), room).expect("room for notes");
        assert!(rig.link().door.send(Box::new(recorder)).is_ok());
        rig.link().errands.set_recording(true);
        Self { rig, reader }
    }

    /// Rounds under the eyes of the recorder.
    fn rounds(mut self) -> Self {
        let Rig { worker, .. } = &mut self.rig;
        let recorder = worker.carrier.link.door.enter().expect("a recorder");
        replace(worker, |worker| {
            let mut watched = worker.watched_by(recorder);
            while Onlooker::round(&mut watched) > 0 {}
            watched.unwatched()
        });
        // For the next rounds.
        self
    }

    /// What was told, each with its frame.
    fn told(&mut self) -> Vec<(What, u16, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        self.reader.read(&mut bytes);
        let (mut at, mut told) = (0, Vec::new());
        while let Some((record, len)) = Record::read(&bytes[at..]).expect("records") {
            told.push((record.what, record.port, record.packet, record.bytes.to_vec()));
            at += len;
        }
        assert_eq!(at, bytes.len(), "whole records");
        told
    }

    fn finish(self) {
        self.rig.link().errands.set_recording(false);
        assert!(self.rig.link().door.is_shut(), "the recorder is back");
        self.rig.finish();
    }
}

/// Moves a worker out and in again.
fn replace(worker: &mut Worker, change: impl FnOnce(Worker) -> Worker) {
    let (ports, link) = (Vec::new(), spare(&worker.carrier.link));
    let reader = link.table.qsbr().register().expect("a place");
    let spare = Worker::new(ports, link, reader, Clock::start(), IdlePolicy::default());
    let taken = std::mem::replace(worker, spare);
    *worker = change(taken);
}

fn spare(link: &WorkerLink) -> WorkerLink {
    WorkerLink {
        table: Arc::clone(&link.table),
        adjacencies: Arc::clone(&link.adjacencies),
        contexts: Arc::clone(&link.contexts),
        rings: PuntRings::new(1, 1),
        from_kernel: Arc::new(KernelFrames::new(1)),
        local: Arc::default(),
        errands: Arc::default(),
        flags: Arc::default(),
        hot: Hot::default(),
        counters: Arc::default(),
        activity: Arc::default(),
        door: Arc::default(),
        stop: Arc::default(),
    }
}

fn kinds(told: &[(What, u16, u32, Vec<u8>)]) -> Vec<(What, u16, u32)> {
    told.iter().map(|(what, port, packet, _)| (*what, *port, *packet)).collect()
}

#[test]
fn a_packet_that_flies_is_seen_as_it_came_and_as_it_leaves() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let frame = connection.frame(1);
    rig.arrive(0, std::slice::from_ref(&frame));
    let mut watched = Watched::new(rig, everything()).rounds();
    let told = watched.told();
    let [(received, 0, 1, came), (decided, 0, 1, _), (sent, 1, 1, left)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(*received, What::Received);
    assert_eq!(*came, frame.build());
    let What::Decided { found: Found::Lookup, looked: Some(looked), decision: Decision::Fly } = *decided
    else {
        panic!("{decided:?}")
    };
    assert_eq!((looked.state, looked.proved_length), (EntryState::Software, 1500));
    assert_eq!(looked.ingress, Some(Ingress::untagged(0, GATEWAY[0])));
    assert_eq!(*sent, What::Sent(Origin::Wire));
    assert_eq!(*left, forwarded(&frame, &connection).build());
    assert_eq!(watched.rig.sent(1), std::slice::from_ref(left));
    watched.finish();
}

#[test]
fn what_goes_to_the_kernel_and_what_is_dropped_says_why() {
    let mut rig = Rig::with_rings(CONTROL_RING, 3);
    let candidate = rig.connect(UDP, EntryState::Candidate);
    let closing = rig.connect(TCP, EntryState::Software);
    rig.link().table.entry(closing.flows[1].slot).set_last_ack(1000);
    rig.link().table.entry(closing.flows[1].slot).touch(rig.worker.clock.millis() as u32);
    let reset = closing.frame(3).with(|f| {
        f.tcp.flags = 0x04;
        f.tcp.seq = 1000_u32.wrapping_sub(1 << 30);
    });
    let stranger = candidate.frame(2).with(|f| f.tuple.sport = 9);
    let arp = Frame::of(candidate.orig).with(|f| f.dst_mac = GATEWAY[0]).build();
    let mut arp = arp;
    arp[12..14].copy_from_slice(&[8, 6]);
    rig.arrive(0, &[candidate.frame(1), stranger, reset]);
    send(&rig.bench, &mut rig.into[0], &[arp.clone(), arp]);
    let mut watched = Watched::new(rig, everything()).rounds();
    let told = kinds(&watched.told());
    let of = |packet: u32| -> Vec<What> {
        told.iter().filter(|(_, _, of)| *of == packet).map(|(what, ..)| *what).collect()
    };
    let punted = |reason, event| What::Punted { reason, event, class: PuntClass::Transit };
    assert_eq!(of(1)[2], punted(PuntReason::Candidate, PuntEvent::Fingerprint));
    assert!(matches!(
        of(2)[..],
        [
            What::Received,
            What::Decided { found: Found::Nowhere, looked: None, .. },
            What::Punted { reason: PuntReason::NoFlow, .. }
        ]
    ));
    assert_eq!(of(3)[2], What::Dropped(DropReason::ImplausibleClose));
    // Refused before it was looked up; control traffic has its own ring.
    assert!(matches!(of(4)[..], [What::Received, What::Punted { reason: PuntReason::Arp, .. }]), "{told:?}");
    assert!(told.iter().all(|(_, port, _)| *port == 0), "{told:?}");
    assert_eq!(watched.rig.dropped(DropReason::ImplausibleClose), 1);
    drop(watched.rig.punted());
    while watched.rig.link().rings.pop(PuntClass::Control).is_some() {}
    watched.finish();
}

#[test]
fn a_full_ring_to_the_kernel_is_told_as_a_drop_alone() {
    let mut rig = Rig::with_rings(CONTROL_RING, 1);
    let connection = rig.connect(UDP, EntryState::Candidate);
    rig.arrive(0, &[connection.frame(1), connection.frame(2)]);
    let mut watched = Watched::new(rig, everything()).rounds();
    let told = kinds(&watched.told());
    let ends: Vec<_> = told.iter().filter(|(what, ..)| what.kind() >= What::PUNTED).collect();
    assert!(
        matches!(ends[..], [(What::Punted { .. }, 0, 1), (What::Dropped(DropReason::PuntRingFull), 0, 2)]),
        "{told:?}"
    );
    drop(watched.rig.punted());
    watched.finish();
}

#[test]
fn a_packet_is_followed_that_only_passes_on_one_side() {
    let mut rig = Rig::new();
    let (udp, tcp) = (rig.connect(UDP, EntryState::Software), rig.connect(TCP, EntryState::Software));
    rig.arrive(0, &[udp.frame(1), tcp.frame(2)]);
    rig.kernel_sends(1, &udp.frame(3));
    rig.kernel_sends(1, &tcp.frame(4));
    let points = Points { decisions: false, ..ALL };
    let mut watched = Watched::new(rig, Wanted { filter: of_protocol(UDP), points, ..everything() }).rounds();
    let told = kinds(&watched.told());
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.contains(&(What::Received, 0, 1)), "{told:?}");
    assert_eq!(
        told.iter().filter(|(what, port, _)| *what == What::Sent(Origin::Wire) && *port == 1).count(),
        1
    );
    assert_eq!(told.iter().filter(|(what, ..)| *what == What::Sent(Origin::Kernel)).count(), 1);
    assert_eq!(watched.rig.sent(1).len(), 4);
    watched.finish();
}

#[test]
fn only_the_ports_and_the_bytes_and_the_packets_that_are_wanted() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    rig.arrive(0, &[connection.frame(1), connection.frame(2), connection.frame(3)]);
    let wanted = Wanted { ports: 1 << 1, bytes: 20, packets: Some(2), ..everything() };
    let mut watched = Watched::new(rig, wanted).rounds();
    let told = watched.told();
    assert_eq!(
        kinds(&told),
        [(What::Sent(Origin::Wire), 1, 1), (What::Sent(Origin::Wire), 1, 2)],
        "the third is one too many"
    );
    assert!(told.iter().all(|(.., bytes)| bytes.len() == 20));
    assert_eq!(watched.rig.sent(1).len(), 3);
    watched.finish();
}

#[test]
fn what_finds_no_room_is_lost_and_counted_and_the_packets_go_on() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let frames: Vec<_> = (0..40).map(|number| connection.frame(number)).collect();
    rig.arrive(0, &frames);
    let points = Points { rx: true, ..Points::default() };
    let mut watched = Watched::with_room(rig, Wanted { points, ..everything() }, 500).rounds();
    let told = watched.told();
    let received = told.iter().filter(|(what, ..)| *what == What::Received).count() as u32;
    let [.., (What::Lost { kind: What::RECEIVED, records }, 0, 0, _)] = told[..] else { panic!("{told:?}") };
    assert!(received > 0 && records > 0 && received + records == 40, "{received} and {records}");
    assert!(watched.told().is_empty(), "lost ones are told once");
    assert_eq!(watched.rig.sent(1).len(), 40);
    watched.finish();
}

#[test]
fn packets_that_waited_before_anybody_looked_are_not_taken_for_others() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    rig.arrive(0, &[connection.frame(0)]);
    let points = Points { tx: true, ..Points::default() };
    let none = Wanted { filter: of_protocol(TCP), points, ..everything() };
    // The buffer of this one is noted, and free again afterwards.
    let mut watched = Watched::new(rig, everything()).rounds();
    watched.told();
    watched.rig.sent(1);
    watched.rig.link().errands.set_recording(false);
    assert!(watched.rig.link().door.is_shut());
    let mut rig = watched.rig;
    rig.set_state(connection.flows[0], EntryState::Holding);
    rig.arrive(0, &(1..60).map(|number| connection.frame(number)).collect::<Vec<_>>());
    rig.rounds();
    let waiting = rig.worker.carrier.held.len();
    assert!(waiting > 0);
    rig.set_state(connection.flows[0], EntryState::Software);
    let mut watched = Watched::new(rig, none).rounds();
    assert_eq!(watched.told(), []);
    assert_eq!(watched.rig.sent(1).len(), waiting);
    watched.finish();
}

#[test]
fn a_worker_begins_to_record_and_stops_when_it_is_told_to() {
    let rig = Rig::new();
    let (door, errands, stop) =
        (Arc::clone(&rig.link().door), Arc::clone(&rig.link().errands), Arc::clone(&rig.link().stop));
    let Rig { worker, into, out, bench, .. } = rig;
    let thread = std::thread::spawn(move || worker.run());
    for _ in 0..3 {
        let (recorder, reader) =
            Recorder::new(Arc::new(everything()), 0, Clock::start(), ROOM).expect("room for notes");
        assert!(door.send(Box::new(recorder)).is_ok());
        errands.set_recording(true);
        let (second, _) = Recorder::new(Arc::new(everything()), 0, Clock::start(), ROOM).expect("room");
        assert!(door.send(Box::new(second)).is_err(), "one at a time");
        std::thread::sleep(std::time::Duration::from_millis(3));
        errands.set_recording(false);
        while !door.is_shut() {
            std::thread::yield_now();
        }
        drop(reader);
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("the worker ends");
    drop((into, out));
    assert_eq!(bench.in_use(), 0);
}
