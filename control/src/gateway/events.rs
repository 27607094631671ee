//! The control loop: netlink, observations, timers, the API and signals, on one thread.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use dataplane::dpdk::Eal;
use dataplane::flow::{FiveTuple, TCP};
use dataplane::punt::Observation;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::libc::ENOENT;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::captures::Captures;
use super::error::GatewayError;
use super::kept::{Kept, Wish};
use super::reload::{Progress, Reload};
use super::remake::Remake;
use super::service::{self, Keepers};
use super::settle::Settling;
use super::state::State;
use super::threads::Threads;
use super::{HASTE, REST, TICK};
use crate::api;
use crate::metrics::Server;
use crate::netlink::conntrack::{
    ConntrackMessage, DumpFilter, EntryUpdate, EventGroups, EventSocket, RECEIVE_BUFFER, Request,
    RequestSocket, TcpFlagsUpdate, Zones,
};
use crate::netlink::neighbour::Neighbours;
use crate::netlink::watch::{Change, InitialState, Watcher};
use crate::netlink::{NetlinkError, sysctl};
use crate::tracker::{Action, Source};

const CONNTRACK: Token = Token(0);
const ANSWERS: Token = Token(1);
const SIGNALS: Token = Token(2);
const WAKE: Token = Token(3);
const WATCH: Token = Token(4);
/// The API's tokens begin here.
const API: usize = 64;

/// Datagrams and observations handled in one go, so that no source starves the others.
const BUDGET: usize = 2048;
/// How often carriers are looked at, in milliseconds.
const CARRIER_EVERY: u64 = 200;

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> GatewayError {
    move |source| GatewayError::Loop { what, source }
}

/// Wakes the loop from the punt thread.
#[derive(Debug)]
pub(super) struct Waker {
    poll: Poll,
    waker: Arc<mio::Waker>,
}

impl Waker {
    pub(super) fn new() -> Result<Self, GatewayError> {
        let poll = Poll::new().map_err(failed("poll"))?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE).map_err(failed("waker"))?);
        Ok(Self { poll, waker })
    }

    /// What the punt thread calls.
    pub(super) fn notifier(&self) -> Box<dyn Fn() + Send + Sync> {
        let waker = Arc::clone(&self.waker);
        Box::new(move || {
            // An eventfd whose counter is full has woken the loop already.
            let _ = waker.wake();
        })
    }
}

/// The sockets to the kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    events: EventSocket,
    requests: RequestSocket,
    watcher: Watcher,
    initial: InitialState,
    neighbours: Neighbours,
    /// Questions that are not answered yet, by sequence number.
    asked: HashMap<u32, (FiveTuple, Zones)>,
    /// `nf_conntrack_events` as it was found.
    found: u64,
}

impl Kernel {
    /// Opens them, subscribed before anything is dumped. `new`: to entries when they are made, too.
    pub(super) fn open(new: bool) -> Result<Self, GatewayError> {
        // With the default of 2, entries older than the listener never tell of themselves.
        let found = sysctl::CONNTRACK_EVENTS.replace(1)?;
        let requests = RequestSocket::open()?;
        let groups = EventGroups { new, update: true, destroy: true };
        let events = EventSocket::open(groups, Some(requests.port()), RECEIVE_BUFFER)?;
        let (watcher, initial) = Watcher::open()?;
        let neighbours = Neighbours::open()?;
        Ok(Self { events, requests, watcher, initial, neighbours, asked: HashMap::new(), found })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.found != 1
            && let Err(error) = sysctl::CONNTRACK_EVENTS.write(self.found)
        {
            tracing::warn!(%error, "nf_conntrack_events stays at 1");
        }
    }
}

/// A running gateway. Dropping it stops the threads first, then closes ports and twins, then DPDK.
pub(super) struct Gateway {
    // First: metrics are served while the gateway is there to ask.
    reload: Reload,
    // Before threads, so that workers are there to give back what they record in.
    captures: Captures,
    threads: Threads,
    state: State,
    settling: Settling,
    observations: Arc<ArrayQueue<Observation>>,
    kernel: Kernel,
    api: api::Server,
    waker: Waker,
    signals: Signals,
    more: bool,
    /// Something was lost while a dump was under way: another one is to follow.
    dump_again: bool,
    carrier_due: u64,
    kept: Kept,
    remake: Remake,
    keepers: Keepers,
    _eal: Eal,
}

impl Gateway {
    #[expect(clippy::too_many_arguments, reason = "what start() made, put together once")]
    pub(super) fn new(
        threads: Threads,
        state: State,
        settling: Settling,
        reload: Reload,
        captures: Captures,
        remake: Remake,
        observations: Arc<ArrayQueue<Observation>>,
        mut kernel: Kernel,
        mut api: api::Server,
        waker: Waker,
        keepers: Keepers,
        eal: Eal,
    ) -> Result<Self, GatewayError> {
        let registry = waker.poll.registry();
        let sources: [(&mut dyn mio::event::Source, Token); 3] =
            [(&mut kernel.events, CONNTRACK), (&mut kernel.requests, ANSWERS), (&mut kernel.watcher, WATCH)];
        for (source, token) in sources {
            registry.register(source, token, Interest::READABLE).map_err(failed("poll"))?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed("signals"))?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE).map_err(failed("signals"))?;
        api.register(registry, API).map_err(failed("API socket"))?;
        Ok(Self {
            reload,
            captures,
            threads,
            state,
            settling,
            observations,
            kernel,
            api,
            waker,
            signals,
            more: false,
            dump_again: false,
            carrier_due: 0,
            kept: Kept::default(),
            remake,
            keepers,
            _eal: eal,
        })
    }

    /// Metrics are served by this, until a reload says otherwise.
    pub(super) fn serve_metrics(&mut self, server: Option<Server>) {
        self.reload.set_metrics(server);
    }

    /// Follows the kernel until told to stop.
    pub(super) fn follow(&mut self) -> Result<(), GatewayError> {
        self.begin()?;
        let mut events = Events::with_capacity(256);
        loop {
            match self.waker.poll.poll(&mut events, Some(self.patience())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => outcome.map_err(failed("poll"))?,
            }
            // The kernel's word first: what it has changed must be known before anything proves a flow.
            self.more = false;
            self.state.export_at(self.state.clock.millis());
            self.hear_changes()?;
            self.hear_conntrack()?;
            self.hear_answers()?;
            self.hear_observations();
            let now = self.state.clock.millis();
            self.state.tracker.tick(now, &mut self.state.plane);
            self.state.offload(now);
            self.state.shortfall.follow(self.state.tracker.stats().deadline_missed, now);
            self.state.follow_threads();
            if now >= self.carrier_due {
                self.carrier_due = now + CARRIER_EVERY;
                self.state.follow_carriers();
                self.state.follow_workers();
                self.state.log.tell_left_out();
            }
            self.more |= self.state.export();
            self.remake.advance(now, &mut self.state.ports, &mut self.keepers);
            if self.reload.advance(now, &mut self.state, &mut self.keepers) == Progress::Dump {
                self.dump()?;
            }
            if self.kept.is_due(now) {
                self.keep_neighbours(now);
            }
            if self.state.rules.is_due(now) && self.state.read_rules() {
                // What it keeps or selects now, and what it no longer does, shows in a dump.
                self.dump()?;
            }
            self.act()?;
            self.settling.advance();
            self.state.plane.reclaim();
            self.serve_captures();
            for event in &events {
                match event.token() {
                    SIGNALS if self.signalled() => {
                        service::tell(sd_notify::NotifyState::Stopping);
                        tracing::info!("stopping: connections go back to the kernel");
                        self.release_neighbours();
                        self.state.tracker.release(now, &mut self.state.plane);
                        self.act()?;
                        self.state.export_last();
                        return Ok(());
                    }
                    token if self.api.tokens().contains(&token.0) => {
                        self.api.handle(self.waker.poll.registry(), token, &self.state);
                        self.serve_captures();
                    }
                    _ => {}
                }
            }
            if let Some(thread) = self.threads.dead() {
                return Err(GatewayError::ThreadDied(thread));
            }
        }
    }

    /// Clients that want packets are served, and those that have had enough forgotten.
    fn serve_captures(&mut self) {
        let State { ports, plane, .. } = &mut self.state;
        let names = ports.names();
        self.captures.advance(&names, &mut plane.offload);
        for client in self.api.captures() {
            self.captures.add(client, &names, &mut plane.offload);
        }
        ports.keep_numbers(self.captures.are_under_way());
    }

    fn patience(&self) -> Duration {
        match (self.more, self.settling.is_empty()) {
            (true, _) => Duration::ZERO,
            (_, false) => HASTE,
            _ if self.state.tracker.is_empty() && !self.state.desk.is_busy() => REST,
            _ => TICK,
        }
    }

    /// Takes in what is there already.
    fn begin(&mut self) -> Result<(), GatewayError> {
        let initial = std::mem::take(&mut self.kernel.initial);
        let kept = initial.neighbours.iter().filter(|neighbour| neighbour.kept);
        self.kept.begin(self.state.clock.millis(), kept.map(|n| (n.ifindex, n.address)));
        self.state.begin(&initial);
        self.dump()
    }

    /// Compares with all that conntrack has; at once, or after the dump that is under way.
    fn dump(&mut self) -> Result<(), GatewayError> {
        if self.kernel.requests.dump_under_way().is_some() {
            self.dump_again = true;
            return Ok(());
        }
        self.dump_again = false;
        self.state.tracker.dump_started();
        self.state.conntrack.resyncs += 1;
        self.kernel.requests.send(&Request::Dump(DumpFilter::default()))?;
        Ok(())
    }

    /// The kernel is to watch over the neighbours behind which packets fly.
    fn keep_neighbours(&mut self, now: u64) {
        let flown_to = self.state.plane.next_hops();
        for wish in self.kept.review(now, &flown_to, &self.state.neighbours, &self.state.fixed) {
            let outcome = match wish {
                Wish::Keep((ifindex, address)) => self.kernel.neighbours.keep(ifindex, address),
                Wish::Release((ifindex, address)) => self.kernel.neighbours.release(ifindex, address),
            };
            if let Err(error) = outcome {
                let (Wish::Keep(place) | Wish::Release(place)) = wish;
                self.kept.refused(place);
                tracing::debug!(%error, "a neighbour is not watched over");
            }
        }
    }

    /// Leaves neighbours as they would be without a gateway.
    fn release_neighbours(&mut self) {
        for (ifindex, address) in self.kept.take(&self.state.fixed) {
            if let Err(error) = self.kernel.neighbours.release(ifindex, address) {
                tracing::warn!(%error, "a neighbour stays managed");
            }
        }
    }

    fn hear_changes(&mut self) -> Result<(), GatewayError> {
        let state = &mut self.state;
        let drained = self.kernel.watcher.drain(BUDGET, |change: Change| state.changed(&change))?;
        self.more |= drained.more;
        Ok(())
    }

    fn hear_conntrack(&mut self) -> Result<(), GatewayError> {
        let state = &mut self.state;
        let now = state.clock.millis();
        let mut lost = false;
        let drained = self.kernel.events.drain(BUDGET, |message| {
            state.conntrack.events += 1;
            match message {
                ConntrackMessage::New(entry) if state.is_only_new(&entry) => {}
                ConntrackMessage::New(entry) | ConntrackMessage::Update(entry) => {
                    state.tracker.entry(now, &entry, Source::Event, &mut state.plane);
                }
                ConntrackMessage::Destroy(entry) => state.destroyed(now, &entry),
                ConntrackMessage::Overrun => {
                    state.conntrack.overruns += 1;
                    lost = true;
                    tracing::warn!("events from conntrack were lost: all of it is read again");
                }
                _ => {}
            }
        })?;
        self.more |= drained.more;
        if lost {
            self.dump()?;
        }
        Ok(())
    }

    fn hear_answers(&mut self) -> Result<(), GatewayError> {
        let state = &mut self.state;
        let asked = &mut self.kernel.asked;
        let dumping = self.kernel.requests.dump_under_way();
        let now = state.clock.millis();
        let mut again = false;
        let drained = self.kernel.requests.drain(BUDGET, |message| {
            let (tracker, plane) = (&mut state.tracker, &mut state.plane);
            match message {
                ConntrackMessage::DumpEntry { sequence, entry } => {
                    let source = if dumping == Some(sequence) { Source::Dump } else { Source::Answer };
                    asked.remove(&sequence);
                    tracker.entry(now, &entry, source, plane);
                }
                ConntrackMessage::Done { errno: 0, .. } => {
                    tracker.dump_finished(plane);
                    if !state.ready {
                        state.ready = true;
                        tracing::info!(after_ms = now, version = env!("CARGO_PKG_VERSION"), "ready");
                        service::tell(sd_notify::NotifyState::Ready);
                    }
                }
                // The table changed under the dump in a way that may hide entries.
                ConntrackMessage::Done { .. } | ConntrackMessage::Overrun => again = true,
                ConntrackMessage::Error { sequence, errno } => {
                    if let (Some((tuple, zones)), true) = (asked.remove(&sequence), errno == ENOENT) {
                        tracker.not_found(&tuple, zones, plane);
                    }
                }
                _ => {}
            }
        })?;
        self.more |= drained.more;
        if again || (self.dump_again && self.kernel.requests.dump_under_way().is_none()) {
            self.dump()?;
        }
        Ok(())
    }

    fn hear_observations(&mut self) {
        let now = self.state.clock.millis();
        for _ in 0..BUDGET {
            let Some(observation) = self.observations.pop() else { break };
            if self.settling.is_current(&observation) {
                self.state.tracker.observe(now, observation, &mut self.state.plane);
            }
        }
        self.more |= !self.observations.is_empty();
    }

    /// Carries out what the tracker wants, timeouts before the flights that depend on them.
    fn act(&mut self) -> Result<(), GatewayError> {
        let mut settle = Vec::new();
        for action in self.state.tracker.actions() {
            let request = match action {
                Action::Settle(flow) => {
                    settle.push(flow);
                    continue;
                }
                Action::Timeout { orig, zones, timeout_s, liberal } => {
                    let liberal = (liberal && orig.proto == TCP).then_some(TcpFlagsUpdate::LIBERAL);
                    let update = EntryUpdate::new(orig, zones);
                    Request::Update(EntryUpdate { timeout_s: Some(timeout_s), tcp_flags: liberal, ..update })
                }
                Action::Ask { tuple, zones } => {
                    let sequence = self.kernel.requests.queue(&Request::Get { tuple, zone: zones.orig })?;
                    self.kernel.asked.insert(sequence, (tuple, zones));
                    continue;
                }
            };
            Self::sent(self.kernel.requests.queue(&request).map(drop))?;
        }
        Self::sent(self.kernel.requests.flush())?;
        self.settling.add(settle);
        Ok(())
    }

    /// A kernel that is short of memory for a moment is no reason to end: timeouts are sent again in time.
    fn sent(outcome: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
        match outcome {
            Err(error) if matches!(error.code(), Some(Errno::ENOBUFS | Errno::EAGAIN | Errno::ENOMEM)) => {
                tracing::warn!(%error, "conntrack could not be asked now");
                Ok(())
            }
            other => other,
        }
    }

    /// Handles signals; `true`: the gateway is to stop.
    fn signalled(&mut self) -> bool {
        let pending: Vec<_> = self.signals.pending().collect();
        for signal in pending {
            if signal != SIGHUP {
                return true;
            }
            self.state.desk.signal();
        }
        false
    }
}
