//! A worker: a pinned thread that polls its queue of every port.
//!
//! A round reads like what happens to a packet: received, parsed, looked up, decided; then either rewritten
//! and sent, or held for a moment, or given to the punt thread. No system call, lock, allocation or log line
//! is on this way; only a worker without work sleeps.

mod carrier;
mod decide;
mod egress;
mod errands;
mod hold;
mod hot;
mod idle;
mod lane;
mod onlooker;
mod stages;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capture::{Door, Recorder};
use crate::clock::Clock;
use crate::dpdk::{Burst, RxQueue, TxQueue};
use crate::flow::{AdjacencyTable, ContextTable, FlowTable, MAX_PORTS, QsbrReader, WorkerCounters};
use crate::punt::{KernelFrames, LocalAddresses, PuntRings};
use carrier::Carrier;
pub use errands::{Errand, Errands};
pub use hold::CAPACITY as HOLD_CAPACITY;
use hold::HoldQueue;
pub use hot::{Hot, Told};
use idle::Idle;
pub use idle::{Activity, IdlePolicy};
use lane::Lanes;
pub use onlooker::Nobody;
use onlooker::Onlooker;
use stages::Watch;
pub use stages::{Stage, StageCosts};

/// Packets received at once.
pub const BURST: usize = 64;

/// A worker's queues of one port.
#[derive(Debug)]
pub struct WorkerPort {
    /// Where it receives; a port may have fewer queues than there are workers.
    pub rx: Option<RxQueue>,
    /// Where it sends.
    pub tx: TxQueue,
    /// Whether the port's rules may mark packets, by [`Mark`](crate::flow::Mark).
    pub marks: bool,
}

/// What workers need to know beyond their queues; written by control.
#[derive(Debug, Default)]
pub struct PortFlags {
    bridged: [AtomicBool; MAX_PORTS],
}

impl PortFlags {
    /// The port's twin is part of a bridge, which also forwards what a router would drop.
    pub fn set_bridged(&self, port: usize, bridged: bool) {
        if let Some(flag) = self.bridged.get(port) {
            flag.store(bridged, Ordering::Relaxed);
        }
    }

    pub(in crate::worker) fn is_bridged(&self, port: usize) -> bool {
        self.bridged.get(port).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// What a worker shares with the rest.
#[derive(Debug)]
pub struct WorkerLink {
    /// Flows.
    pub table: Arc<FlowTable>,
    /// Egress ports and L2 headers.
    pub adjacencies: Arc<AdjacencyTable>,
    /// Ingress contexts.
    pub contexts: Arc<ContextTable>,
    /// To the punt thread.
    pub rings: Arc<PuntRings>,
    /// Frames that the kernel sends out of the twins of this worker's ports.
    pub from_kernel: Arc<KernelFrames>,
    /// The gateway's own addresses.
    pub local: Arc<LocalAddresses>,
    /// What ports are.
    pub flags: Arc<PortFlags>,
    /// What control wants done.
    pub errands: Arc<Errands>,
    /// Whom to tell of directions with many packets.
    pub hot: Hot,
    /// Packets counted.
    pub counters: Arc<WorkerCounters>,
    /// Rounds and sleeps counted.
    pub activity: Arc<Activity>,
    /// Where it gets what it records in, while somebody looks on.
    pub door: Arc<Door>,
    /// Set when the worker is to end.
    pub stop: Arc<AtomicBool>,
}

/// Control packets a millisecond and port that have the control class for themselves.
const CONTROL_BUDGET: u32 = 8;
/// As many may come at once after a pause.
const CONTROL_BURST: u32 = 256;

#[derive(Debug)]
struct PortState {
    rx: Option<RxQueue>,
    tx: Option<TxQueue>,
    marks: bool,
    out: Burst,
    control_tokens: u32,
    control_refilled: u32,
}

impl Default for PortState {
    /// A place without a port.
    fn default() -> Self {
        Self {
            rx: None,
            tx: None,
            marks: false,
            out: Burst::new(),
            control_tokens: CONTROL_BURST,
            control_refilled: 0,
        }
    }
}

impl From<WorkerPort> for PortState {
    fn from(WorkerPort { rx, tx, marks }: WorkerPort) -> Self {
        Self { rx, tx: Some(tx), marks, ..Self::default() }
    }
}

/// See the module. `O` looks on: nobody, unless packets are captured or traced. Each has code of its own, so that what
/// nobody looks at costs nothing.
#[derive(Debug)]
#[expect(private_bounds, reason = "who can look on is the worker's own affair")]
pub struct Worker<O: Onlooker = Nobody> {
    carrier: Carrier<O>,
    quiescence: QsbrReader,
    clock: Clock,
    lanes: Lanes,
    idle: Idle,
    watch: Watch,
}

impl Worker {
    /// A worker with one queue pair of every port, in the order of the ports.
    pub fn new(
        ports: Vec<WorkerPort>,
        link: WorkerLink,
        quiescence: QsbrReader,
        clock: Clock,
        idle: IdlePolicy,
    ) -> Self {
        // Room for those that come later, so that nothing is allocated then.
        let mut places = Vec::with_capacity(MAX_PORTS);
        places.extend(ports.into_iter().map(PortState::from));
        Self {
            carrier: Carrier {
                ports: places,
                link,
                now: 0,
                held: HoldQueue::default(),
                fetched: 0,
                sent: 0,
                onlooker: Nobody,
            },
            quiescence,
            clock,
            lanes: Lanes::default(),
            watch: Watch::default(),
            idle: Idle::new(idle),
        }
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        while self.work() {
            if let Some(recorder) = self.carrier.link.door.enter() {
                let mut watched = self.watched_by(recorder);
                watched.work();
                self = watched.unwatched();
            }
        }
    }

    /// One round over all ports; says how many packets there were.
    // By name: bench/instructions counts what happens inside.
    #[inline(never)]
    pub fn round(&mut self) -> usize {
        self.one_round()
    }

    fn watched_by(mut self, recorder: Box<Recorder>) -> Worker<Box<Recorder>> {
        // They came before anybody looked.
        self.carrier.held.iter_mut().for_each(|held| recorder.forget(&mut held.mbuf));
        self.with(recorder).0
    }
}

impl Worker<Box<Recorder>> {
    fn unwatched(self) -> Worker {
        let (worker, recorder) = self.with(Nobody);
        worker.carrier.link.door.leave(recorder);
        worker
    }
}

#[expect(private_bounds, reason = "as above")]
impl<O: Onlooker> Worker<O> {
    /// The same worker with somebody else looking on; and who did before.
    fn with<Other: Onlooker>(self, other: Other) -> (Worker<Other>, O) {
        let Self { carrier, quiescence, clock, lanes, idle, watch } = self;
        let Carrier { ports, link, now, held, fetched, sent, onlooker } = carrier;
        let carrier = Carrier { ports, link, now, held, fetched, sent, onlooker: other };
        (Worker { carrier, quiescence, clock, lanes, idle, watch }, onlooker)
    }

    /// Works for a round, and on until told to stop (`false`), or until somebody begins to look on or ceases to.
    fn work(&mut self) -> bool {
        while !self.carrier.link.stop.load(Ordering::Relaxed) {
            let packets = O::round(self);
            let calls = self.carrier.link.errands.calls();
            if calls.errands {
                self.run_errands();
            }
            self.quiescent();
            if packets == 0 && self.carrier.held.is_empty() {
                if let Some(nap) = self.idle.nothing_to_do(&self.clock) {
                    self.quiescence.offline();
                    self.carrier.link.from_kernel.sleep(nap);
                    self.quiescence.online();
                    self.carrier.link.activity.slept(nap);
                }
            } else {
                self.idle.worked();
            }
            self.carrier.link.activity.polled(packets > 0);
            if calls.record != O::LOOKS {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn one_round(&mut self) -> usize {
        self.carrier.now = self.clock.millis() as u32;
        self.watch.begin();
        let mut packets = 0;
        for port in 0..self.carrier.ports.len() {
            packets += self.receive(port);
        }
        let carrier = &mut self.carrier;
        // Also without a burst the kernel's frames and held packets go on.
        carrier.decide_held();
        packets += carrier.send_from_kernel();
        carrier.release_held();
        carrier.flush();
        self.watch.passed(Stage::Send);
        self.watch.end(packets, &carrier.link.activity.stages);
        packets
    }

    /// Says that the worker holds no reference into a shared table: between rounds.
    pub fn quiescent(&self) {
        self.quiescence.quiescent();
    }

    /// Does what control wants done: between two rounds, where no packet is on its way but those that are held.
    #[cold]
    fn run_errands(&mut self) {
        while let Some(errand) = self.carrier.link.errands.pop() {
            match errand {
                Errand::Take(number, port) => self.take(number, port),
                Errand::LetGo(number) => {
                    if let Some(port) = self.carrier.ports.get_mut(number) {
                        *port = PortState::default();
                    }
                }
                Errand::Rest(policy) => self.idle = Idle::new(policy),
                Errand::Tell(hot) => self.carrier.link.hot = hot,
            }
        }
    }

    fn take(&mut self, number: usize, port: WorkerPort) {
        if number >= MAX_PORTS {
            return;
        }
        let ports = &mut self.carrier.ports;
        while ports.len() <= number {
            ports.push(PortState::default());
        }
        if let Some(place) = ports.get_mut(number) {
            *place = PortState::from(port);
        }
        // Who had the number before is not who has it now.
        self.carrier.link.counters.forget_port(number);
    }

    fn receive(&mut self, port: usize) -> usize {
        let Self { carrier, lanes, watch, .. } = self;
        let Some(rx) = carrier.ports.get_mut(port).and_then(|state| state.rx.as_mut()) else { return 0 };
        let received = rx.burst(&mut lanes.v4.packets);
        watch.passed(Stage::Receive);
        if received == 0 {
            return 0;
        }
        carrier.onlooker.received(port as u16, &mut lanes.v4.packets);
        if carrier.ports.get(port).is_some_and(|state| state.marks) {
            lanes.sort_marked(port as u16, carrier);
        } else {
            lanes.sort::<false, O>(port as u16, carrier);
        }
        watch.passed(Stage::Parse);
        // All states are read before the kernel's frames are fetched: whoever sees that a direction flies finds
        // the last frame that the kernel sent for it. Then, in this order, none overtakes: what the kernel has
        // sent, what was held, what came in just now, which has been made ready to leave meanwhile.
        carrier.decide_held();
        lanes.v4.prepare(&carrier.link, &mut carrier.held, &mut carrier.onlooker, carrier.now);
        lanes.v6.prepare(&carrier.link, &mut carrier.held, &mut carrier.onlooker, carrier.now);
        watch.passed(Stage::Decide);
        carrier.send_from_kernel();
        carrier.release_held();
        carrier.carry_out(lanes);
        watch.passed(Stage::Send);
        received
    }
}
