//! The punt thread: the only one that talks to the twins.
//!
//! Round after round: take what workers punted, fingerprint and write it to the twin of its port; read what the
//! kernel sends out of the twins, see what it proves, and hand it to a worker.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::exceptions::{self, Exceptions};
use super::fingerprints::{Fingerprints, PATIENCE, Seen};
use super::outbox::Outbox;
use super::outgoing::Outgoing;
use super::pace::Pace;
use super::priority::{self, PriorityTags};
use super::unknown::Unknown;
use super::{
    Bell, FromKernel, KernelFrames, Observation, PuntClass, PuntCommand, PuntEvent, PuntRings, Punted, Twin,
};
use crate::clock::Clock;
use crate::dpdk::{BURST_MAX, Burst, Mbuf, Mempool};
use crate::flow::{Counter, FlowRef, FlowTable, MAX_PORTS, PacketCounter, QsbrReader};
use crate::packet::wire::ETHER_LEN;
use crate::packet::{self, DropReason, Ingress, PuntReason, Snapshot, source_mac};

/// Packets taken from a ring, or frames read from a twin, before the other side gets its turn.
const BATCH: usize = BURST_MAX;
/// Rounds without work before the thread begins to sleep.
const SPIN: u32 = 64;
/// The first sleep; each that follows is twice as long, up to the longest allowed. Workers can't wake the thread
/// without a system call, so the longest is what the first packet after a pause waits.
const NAP: Duration = Duration::from_micros(50);
/// How often idle directions are forgotten, in microseconds.
const HOUSEKEEPING: u64 = 1_000_000;

/// What went over one twin.
#[derive(Debug, Default)]
pub struct TwinCounters {
    /// Packets given to the kernel: what the twin received.
    pub to_kernel: PacketCounter,
    /// Frames taken from the kernel: what the twin sent.
    pub from_kernel: PacketCounter,
}

/// What the punt thread counts; written by it alone.
#[derive(Debug, Default)]
pub struct PuntCounters {
    /// By port, as many as there can be.
    pub twins: Vec<TwinCounters>,
    /// Packets given to the kernel, by [`PuntReason`].
    pub punted: [Counter; PuntReason::COUNT],
    /// Packets of the control class given to the kernel.
    pub control: Counter,
    /// Rounds, of which there is one after each sleep too.
    pub rounds: Counter,
    /// Frames that proved a direction.
    pub proofs: Counter,
    /// Observations that control had no room for: costs speed, nothing else.
    pub observations_lost: Counter,
    /// Packets that the twin did not take.
    pub twin_full: Counter,
    /// Frames for which a worker had no room.
    pub from_kernel_ring_full: Counter,
    /// Frames for which no buffer was free.
    pub no_mbuf: Counter,
    /// What was given to the kernel for its own sake, by direction.
    pub exceptions: Exceptions,
}

impl PuntCounters {
    /// With room for ports that come later.
    fn new() -> Self {
        Self {
            twins: std::iter::repeat_with(TwinCounters::default).take(MAX_PORTS).collect(),
            ..Self::default()
        }
    }

    /// What was dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        match reason {
            DropReason::TwinFull => self.twin_full.get(),
            DropReason::FromKernelRingFull => self.from_kernel_ring_full.get(),
            DropReason::NoMbuf => self.no_mbuf.get(),
            _ => 0,
        }
    }
}

/// What the punt thread shares with workers and control.
pub struct PuntLink {
    /// From workers.
    pub rings: Arc<PuntRings>,
    /// To workers: port `i` is served by ring `i % len`.
    pub to_workers: Vec<Arc<KernelFrames>>,
    /// To control.
    pub observations: Arc<ArrayQueue<Observation>>,
    /// From control.
    pub commands: Arc<ArrayQueue<PuntCommand>>,
    /// From control: what takes the place of a port's twin that was deleted, that of a new port, or none for a port that
    /// is taken away.
    pub new_twins: Arc<ArrayQueue<(usize, Twin)>>,
    /// To control: twins whose place was taken. It is control's affair to close them, which takes its time.
    pub old_twins: Arc<ArrayQueue<(usize, Twin)>>,
    /// From control, in nanoseconds: the longest sleep.
    pub longest_nap: Arc<AtomicU64>,
    /// From control: which packets get a priority tag from the next epoch on.
    pub tags: Arc<ArrayQueue<PriorityTags>>,
    /// Rung after a command.
    pub bell: Arc<Bell>,
    /// Wakes control after an observation.
    pub wake: Box<dyn Fn() + Send>,
    /// The epoch to stamp on packets given to the kernel; raised by control.
    pub epoch: Arc<AtomicU32>,
    /// Set when the thread is to end.
    pub stop: Arc<AtomicBool>,
}

/// See the module.
pub struct PuntThread {
    twins: Vec<Twin>,
    /// What each twin is to be given next.
    outgoing: Vec<Outgoing>,
    link: PuntLink,
    table: Arc<FlowTable>,
    quiescence: QsbrReader,
    pool: Mempool,
    clock: Clock,
    counters: Arc<PuntCounters>,
    prints: Fingerprints,
    unknown: Unknown,
    tags: PriorityTags,
    epoch: u32,
    outbox: Outbox,
    pace: Pace,
    /// The last sleep ended without a frame on any twin.
    quiet: bool,
    /// Packets taken from the transit ring so far, and commands with the count after which they are due.
    taken: u64,
    due: Vec<(u64, PuntCommand)>,
    housekeeping: u64,
}

impl std::fmt::Debug for PuntThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PuntThread").field("twins", &self.twins.len()).finish_non_exhaustive()
    }
}

impl PuntThread {
    /// A punt thread for these twins, one a port, in the order of the ports.
    pub fn new(
        twins: Vec<Twin>,
        link: PuntLink,
        table: Arc<FlowTable>,
        quiescence: QsbrReader,
        pool: Mempool,
        clock: Clock,
    ) -> Self {
        let counters = Arc::new(PuntCounters::new());
        let pace = Pace::new(BATCH, link.rings.capacity());
        let outbox = Outbox::new(link.to_workers.clone(), Arc::clone(&link.observations));
        let outgoing = std::iter::repeat_with(Outgoing::default).take(twins.len()).collect();
        Self {
            twins,
            outgoing,
            link,
            table,
            quiescence,
            pool,
            clock,
            counters,
            prints: Fingerprints::new(),
            unknown: Unknown::new(),
            tags: PriorityTags::default(),
            epoch: 0,
            outbox,
            pace,
            quiet: false,
            taken: 0,
            due: Vec::new(),
            housekeeping: 0,
        }
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<PuntCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        let (mut idle, mut nap) = (0_u32, NAP);
        while !self.link.stop.load(Ordering::Relaxed) {
            let worked = self.round();
            self.counters.rounds.add(1);
            self.quiescence.quiescent();
            if worked {
                (idle, nap) = (0, NAP);
                continue;
            }
            idle = idle.saturating_add(1);
            if idle < SPIN {
                std::hint::spin_loop();
            } else {
                self.quiescence.offline();
                self.sleep(nap);
                self.quiescence.online();
                let longest = Duration::from_nanos(self.link.longest_nap.load(Ordering::Relaxed));
                nap = (nap * 2).min(longest.max(NAP));
            }
        }
    }

    /// One round; `false` if there was nothing to do.
    fn round(&mut self) -> bool {
        while let Some((port, twin)) = self.link.new_twins.pop() {
            self.replace_twin(port, twin);
        }
        while let Some(command) = self.link.commands.pop() {
            // What waits in the ring was punted before the command: it goes first.
            self.due.push((self.taken + self.link.rings.len(PuntClass::Transit) as u64, command));
        }
        let mut work = 0;
        for class in [PuntClass::Control, PuntClass::Transit] {
            let (now, before) = (self.clock.micros(), work);
            for _ in 0..self.pace.batch() {
                let Some(packet) = self.link.rings.pop(class) else { break };
                match class {
                    PuntClass::Control => self.counters.control.add(1),
                    PuntClass::Transit => {
                        self.taken += 1;
                        self.note_unknown(&packet, now);
                    }
                }
                self.deliver(packet, now);
                work += 1;
            }
            for port in 0..self.outgoing.len() {
                self.flush(port);
            }
            if work > before {
                self.pace.took(work - before, self.clock.micros() - now);
            }
        }
        let waiting = self.link.rings.len(PuntClass::Transit);
        if let Some(limit) = self.pace.waiting(waiting, self.clock.micros()) {
            self.link.rings.set_limit(limit);
        }
        let mut drained = true;
        // After a sleep that no twin ended there is nothing to read.
        let twins = if std::mem::take(&mut self.quiet) && work == 0 { 0 } else { self.twins.len() };
        for port in 0..twins {
            let frames = self.drain_twin(port);
            drained &= frames < BATCH;
            work += frames;
        }
        self.obey();
        let now = self.clock.micros();
        let mut expired = Vec::new();
        self.prints.expire(now, drained, |observation| expired.push(observation));
        for observation in expired {
            self.tell(observation);
        }
        if now >= self.housekeeping {
            self.prints.forget_idle(now);
            self.housekeeping = now + HOUSEKEEPING;
        }
        let (told, lost) = self.outbox.deliver();
        self.counters.observations_lost.add(lost);
        if told > 0 {
            (self.link.wake)();
        }
        work > 0
    }

    /// Puts a twin into a port's place; what waits for the one that was there goes with it.
    fn replace_twin(&mut self, port: usize, twin: Twin) {
        self.flush(port);
        while self.twins.len() <= port.min(MAX_PORTS - 1) {
            self.twins.push(Twin::absent());
            self.outgoing.push(Outgoing::default());
        }
        let Some(place) = self.twins.get_mut(port) else { return };
        let old = std::mem::replace(place, twin);
        if old.is_absent()
            && let Some(counters) = self.counters.twins.get(port)
        {
            // Who had the number before is not who has it now.
            counters.to_kernel.reset();
            counters.from_kernel.reset();
        }
        // Without room it is closed here.
        let _ = self.link.old_twins.push((port, old));
        (self.link.wake)();
    }

    /// Carries out the commands before which all earlier packets have been given to the kernel.
    fn obey(&mut self) {
        let (taken, now) = (self.taken, self.clock.micros());
        let prints = &mut self.prints;
        self.due.retain(|(after, command)| {
            let PuntCommand::Settle(flow, number) = command;
            if taken >= *after {
                prints.settle(*flow, *number, now);
            }
            taken < *after
        });
    }

    fn tell(&mut self, observation: Observation) {
        if !self.outbox.tell(observation) {
            self.counters.observations_lost.add(1);
        }
    }

    /// Queues a packet for its twin, as it came.
    fn deliver(&mut self, packet: Punted, now: u64) {
        let Punted { mut mbuf, ingress, event, flow, reason, l3 } = packet;
        if Exceptions::concerns(reason)
            && let Some(flow) = flow.or_else(|| self.direction(&mbuf, l3))
        {
            self.counters.exceptions.count(flow, reason);
        }
        if let Some(flow) = flow {
            if reason == PuntReason::IngressContext {
                self.prints.intruded(flow, now);
            }
            match event {
                PuntEvent::None => {}
                PuntEvent::Fingerprint | PuntEvent::Probe | PuntEvent::Longer => {
                    self.fingerprint(&mut mbuf, ingress, flow, event, now);
                }
                PuntEvent::Closing => self.tell(Observation::Closing(flow)),
                PuntEvent::Lost => self.tell(Observation::Lost(flow)),
            }
        }
        let port = usize::from(ingress.port());
        match self.outgoing.get_mut(port) {
            Some(outgoing) => {
                if outgoing.push(mbuf, reason) {
                    self.flush(port);
                }
            }
            None => self.counters.twin_full.add(1),
        }
    }

    /// The direction that a packet belongs to which workers could not take apart.
    fn direction(&self, mbuf: &Mbuf, l3: u8) -> Option<FlowRef> {
        // 0: not even looked at, since it lies in several buffers.
        let l3 = if l3 == 0 { ETHER_LEN } else { usize::from(l3) };
        let slot = self.table.lookup(&exceptions::key(mbuf.data().get(l3..)?)?)?;
        Some(self.table.reference(slot))
    }

    /// Gives a twin what is queued for it.
    fn flush(&mut self, port: usize) {
        let (Some(outgoing), Some(twin)) = (self.outgoing.get_mut(port), self.twins.get_mut(port)) else {
            return;
        };
        let counters = &self.counters;
        outgoing.flush(twin, |reason, length, taken| match counters.twins.get(port).filter(|_| taken) {
            Some(twin) => {
                twin.to_kernel.add(1, length);
                counters.punted[reason as usize].add(1);
            }
            None => counters.twin_full.add(1),
        });
    }

    /// What has no entry, and many packets, is worth asking the kernel for.
    fn note_unknown(&mut self, packet: &Punted, now: u64) {
        if packet.reason != PuntReason::NoFlow {
            return;
        }
        let Ok(headers) = packet::parse(packet.mbuf.data(), packet.ingress.port()) else { return };
        if !headers.is_tcp_control() && self.unknown.seen(&headers.key, now) {
            self.tell(Observation::Unknown(headers.key));
        }
    }

    /// Remembers what the packet looks like, so that it is recognised when the kernel forwards it, and sees to it that
    /// it meets the rules.
    fn fingerprint(&mut self, mbuf: &mut Mbuf, ingress: Ingress, flow: FlowRef, event: PuntEvent, now: u64) {
        let probe = event == PuntEvent::Probe;
        let headers = packet::parse(mbuf.data(), ingress.port()).ok();
        let snapshot = headers.and_then(|h| Snapshot::take(h.packet(mbuf.data()), &h));
        let snapshot = snapshot.map(|snapshot| snapshot.from_sender(source_mac(mbuf.data())));
        if let (PuntEvent::Longer, Some(headers)) = (event, headers) {
            self.tell(Observation::Longer { flow, length: headers.l3_len });
        }
        let epoch = self.epoch();
        // Without the tag the kernel's flowtable may forward it, which would prove nothing.
        let l3 = headers.map_or(0, |headers| usize::from(headers.l3));
        let meets_rules = !self.tags.want(ingress) || priority::tag(mbuf, ingress, l3);
        match snapshot.filter(|_| meets_rules) {
            Some(snapshot) => self.prints.punted(flow, ingress, snapshot, epoch, probe, now),
            None if probe => self.tell(Observation::Lost(flow)),
            None => {}
        }
    }

    /// The epoch to stamp on a packet, which is treated as is right for it.
    fn epoch(&mut self) -> u32 {
        let epoch = self.link.epoch.load(Ordering::Acquire);
        if epoch != self.epoch {
            self.epoch = epoch;
            while let Some(tags) = self.link.tags.pop() {
                self.tags = tags;
            }
        }
        epoch
    }

    /// Takes what the kernel has sent out of a twin; says how many frames there were.
    fn drain_twin(&mut self, port: usize) -> usize {
        let Some(twin) = self.twins.get_mut(port) else { return 0 };
        let mut frames = Burst::new();
        let read = twin.read(&self.pool, &mut frames);
        if let Some(counters) = self.counters.twins.get(port) {
            counters.from_kernel.add(read.frames as u64, read.bytes);
        }
        self.counters.no_mbuf.add(read.no_mbuf);
        self.counters.from_kernel_ring_full.add(read.too_long);
        for frame in frames {
            self.forward(port, frame);
        }
        read.frames
    }

    /// Hands one frame to the worker of its port, then tells control what it proves: the worker of that port finds the
    /// frame in its ring when it sees the direction's new state, and any other sees the state after the frame was sent.
    fn forward(&mut self, port: usize, mbuf: Mbuf) {
        let seen = self.recognise(port, mbuf.data());
        if !self.outbox.send(FromKernel { mbuf, port: port as u16 }) {
            self.counters.from_kernel_ring_full.add(1);
        }
        if let Seen::Tell(observation) = seen {
            if matches!(observation, Observation::Proof(_)) {
                self.counters.proofs.add(1);
            }
            self.tell(observation);
        }
    }

    fn recognise(&mut self, port: usize, frame: &[u8]) -> Seen {
        if !self.prints.are_outstanding() {
            return Seen::Nothing;
        }
        let port = port as u16;
        let Ok(headers) = packet::parse(frame, port) else { return Seen::Nothing };
        // Inverted, what leaves is what comes back: the key of the other direction.
        let Some(back) = self.table.lookup(&headers.key.inverted()) else { return Seen::Nothing };
        let Some(slot) = self.table.peer(back) else { return Seen::Nothing };
        let flow = self.table.reference(slot);
        self.prints.left(flow, port, frame, &headers, self.clock.micros())
    }

    /// Sleeps until a twin has a frame, at the longest for `nap`.
    fn sleep(&mut self, nap: Duration) {
        let longest = match (self.outbox.is_waiting(), self.prints.are_outstanding()) {
            // Packets are being held until workers, who wake nobody, have sent what they have.
            (true, _) => NAP,
            (false, true) => Duration::from_micros(PATIENCE / 20),
            (false, false) => Duration::MAX,
        };
        let nap = nap.min(longest);
        // A twin with a frame already keeps the thread awake.
        let idle = self.twins.iter_mut().all(Twin::arm);
        if idle {
            let twins = self.twins.iter().filter_map(|twin| twin.wake_fd().ok());
            let mut polled: Vec<PollFd<'_>> = twins.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            polled.push(PollFd::new(self.link.bell.as_fd(), PollFlags::POLLIN));
            // Interrupted or not, the next round looks for itself.
            let woken = ppoll(&mut polled, Some(TimeSpec::from_duration(nap)), None);
            if polled.last().is_some_and(|bell| bell.any() == Some(true)) {
                self.link.bell.silence();
            }
            // A twin that was deleted is always ready, to fail.
            let gone =
                |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
            if polled.iter().any(gone) {
                std::thread::sleep(nap);
            }
            self.quiet = woken == Ok(0);
        }
        for twin in &mut self.twins {
            twin.disarm();
        }
    }
}
