//! Reading the configuration again while the gateway runs, by `flyover reload` or SIGHUP: all that can change at run time
//! changes, or nothing does.
//!
//! 1. On a thread of its own the file is read and compared with what runs. If something takes a restart, that is all. New
//!    ports are made ready, up to their queues: what fails until here has changed nothing.
//! 2. Ports to be taken away go: their flows are given back to the kernel, workers and the punt thread return what they
//!    hold of them, and a thread closes their devices.
//! 3. New ports for which those had to go first are made ready. If that fails, those that went are made again.
//! 4. New ports take their places, and settings their effect.
//!
//! Meanwhile the control loop goes on: it comes by with each of its rounds.

mod apply;
mod desk;
mod leave;
mod prepare;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{Builder, JoinHandle};

use crossbeam::queue::ArrayQueue;
use dataplane::dpdk::Mempool;
use dataplane::punt::{Bell, Twin};

pub(super) use desk::Desk;
use leave::Leaving;
use prepare::{Found, Reading, Ready, Workshop, in_full};

use super::error::GatewayError;
use super::service::Keepers;
use super::state::State;
use crate::api::{ReloadOutcome, ReloadReport};
use crate::config::{Config, Fixed, Overrides, PortConfig};
use crate::metrics;

/// What reloading needs besides the state.
pub(super) struct Links {
    /// What the command line says.
    pub(super) overrides: Overrides,
    /// What was settled at the start.
    pub(super) fixed: Fixed,
    /// Bytes that a packet buffer holds.
    pub(super) data_room: u16,
    /// To the punt thread.
    pub(super) new_twins: Arc<ArrayQueue<(usize, Twin)>>,
    /// From the punt thread.
    pub(super) old_twins: Arc<ArrayQueue<(usize, Twin)>>,
    /// The punt thread's longest sleep, in nanoseconds.
    pub(super) longest_nap: Arc<AtomicU64>,
    /// Rung for the punt thread.
    pub(super) bell: Arc<Bell>,
}

/// See the module.
pub(super) struct Reload {
    links: Links,
    stage: Stage,
    metrics: Option<metrics::Server>,
    /// Pools of packet buffers that no port uses, and those that ports which were added use, by their numbers.
    spare: Vec<Mempool>,
    lent: HashMap<usize, Mempool>,
    made: usize,
}

/// How far it has come.
#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// The file is read, and ports are made ready.
    Reading(JoinHandle<(Workshop, Outcome)>),
    /// Ports go.
    Leaving(Box<Found>, Vec<Leaving>),
    /// Their devices are closed.
    Closing(Box<Found>, Vec<PortConfig>, JoinHandle<()>),
    /// Further ports are made ready in their place.
    Making(Box<Found>, Vec<PortConfig>, JoinHandle<(Workshop, Made)>),
    /// That has failed: those that went are made again.
    Restoring(Box<Found>, JoinHandle<(Workshop, Made)>),
    /// Ports take their places as far as there are numbers for them.
    Placing(Box<Found>),
}

/// What came of reading; an error is a report too: of what goes no further.
type Outcome = Result<Box<Found>, Box<ReloadReport>>;
type Made = Result<Vec<Ready>, GatewayError>;

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing new.
    None,
    /// Conntrack is to be read again: what is selected now, and what is no longer, shows in a dump.
    Dump,
}

fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name("reload".to_owned()).spawn(body)
}

impl Reload {
    pub(super) fn new(links: Links) -> Self {
        Self { links, stage: Stage::Idle, metrics: None, spare: Vec::new(), lent: HashMap::new(), made: 0 }
    }

    /// Metrics are served by this.
    pub(super) fn set_metrics(&mut self, server: Option<metrics::Server>) {
        self.metrics = server;
    }

    /// Goes on, without waiting for anything.
    pub(super) fn advance(&mut self, now: u64, state: &mut State, keepers: &mut Keepers) -> Progress {
        match std::mem::take(&mut self.stage) {
            Stage::Idle => {
                // Twins that were made again.
                while self.links.old_twins.pop().is_some() {}
                if let Err(error) = self.begin(state, keepers) {
                    self.fail(
                        state,
                        ReloadReport::default(),
                        format!("a thread could not be started: {error}"),
                    );
                }
                Progress::None
            }
            Stage::Reading(thread) if thread.is_finished() => self.has_read(thread, now, state, keepers),
            Stage::Leaving(found, ports) => self.wait_for(found, ports, now, state, keepers),
            Stage::Closing(found, gone, thread) if thread.is_finished() => {
                self.has_closed(found, gone, thread, state, keepers)
            }
            Stage::Making(found, gone, thread) if thread.is_finished() => {
                self.has_made(found, gone, thread, state, keepers)
            }
            Stage::Restoring(found, thread) if thread.is_finished() => self.has_restored(found, thread),
            Stage::Placing(found) => self.place(found, now, state, keepers),
            other => {
                self.stage = other;
                Progress::None
            }
        }
    }

    fn begin(&mut self, state: &State, keepers: &Keepers) -> io::Result<()> {
        let Some(order) = state.desk.next() else { return Ok(()) };
        let reading = Reading {
            order,
            file: state.config_file.clone(),
            overrides: self.links.overrides.clone(),
            running: state.config.clone(),
            fixed: self.links.fixed,
            room: state.ports.free(),
        };
        let mut workshop = self.workshop(state, keepers);
        self.stage = Stage::Reading(spawn(move || {
            let outcome = reading.run(&mut workshop);
            (workshop, outcome)
        })?);
        Ok(())
    }

    fn has_read(
        &mut self,
        thread: JoinHandle<(Workshop, Outcome)>,
        now: u64,
        state: &mut State,
        keepers: &mut Keepers,
    ) -> Progress {
        let Ok((workshop, outcome)) = thread.join() else { return self.died(state, None) };
        self.take_back(workshop);
        let mut found = match outcome {
            Ok(found) => found,
            Err(report) => return self.end(state, *report),
        };
        if let Err(error) = self.serve_metrics(&mut found, state) {
            self.discard(&mut found);
            return self.fail(state, found.report, format!("{error}; nothing was changed"));
        }
        let names = std::mem::take(&mut found.difference.removed);
        let comes_back = |name: &String| found.config.ports.iter().any(|port| port.name == *name);
        let leaving: Vec<Leaving> =
            names.iter().filter_map(|name| self.leave(name, comes_back(name), now, state, keepers)).collect();
        self.stage = Stage::Leaving(found, leaving);
        Progress::None
    }

    /// Waits until nobody uses the ports that go; then their devices are closed.
    fn wait_for(
        &mut self,
        found: Box<Found>,
        mut ports: Vec<Leaving>,
        now: u64,
        state: &mut State,
        keepers: &Keepers,
    ) -> Progress {
        while let Some((number, twin)) = self.links.old_twins.pop() {
            if let Some(port) = ports.iter_mut().find(|port| port.number == number) {
                port.has_given_back(twin);
            }
        }
        if !ports.iter().all(|port| port.is_free(now, state)) {
            self.stage = Stage::Leaving(found, ports);
            return Progress::None;
        }
        for port in &ports {
            self.spare.extend(self.lent.remove(&port.number));
        }
        let gone = ports.iter().map(|port| port.port.config.clone()).collect();
        if ports.is_empty() {
            return self.go_on(found, gone, state, keepers);
        }
        match spawn(move || drop(ports)) {
            Ok(thread) => {
                self.stage = Stage::Closing(found, gone, thread);
                Progress::None
            }
            // Their devices were closed nevertheless, on this thread.
            Err(error) => self.fail(state, found.report, format!("a thread could not be started: {error}")),
        }
    }

    fn has_closed(
        &mut self,
        found: Box<Found>,
        gone: Vec<PortConfig>,
        thread: JoinHandle<()>,
        state: &mut State,
        keepers: &Keepers,
    ) -> Progress {
        if thread.join().is_err() {
            return self.died(state, Some(found));
        }
        self.go_on(found, gone, state, keepers)
    }

    /// What was to go is gone.
    fn go_on(
        &mut self,
        found: Box<Found>,
        gone: Vec<PortConfig>,
        state: &State,
        keepers: &Keepers,
    ) -> Progress {
        if found.late.is_empty() {
            self.stage = Stage::Placing(found);
            return Progress::None;
        }
        match self.make(found.late.clone(), found.config.clone(), state, keepers) {
            Ok(thread) => self.stage = Stage::Making(found, gone, thread),
            Err(error) => {
                return self.fail(state, found.report, format!("a thread could not be started: {error}"));
            }
        }
        Progress::None
    }

    fn has_made(
        &mut self,
        mut found: Box<Found>,
        gone: Vec<PortConfig>,
        thread: JoinHandle<(Workshop, Made)>,
        state: &mut State,
        keepers: &Keepers,
    ) -> Progress {
        let Ok((workshop, made)) = thread.join() else { return self.died(state, Some(found)) };
        self.take_back(workshop);
        let error = match made {
            Ok(made) => {
                found.ready.extend(made);
                self.stage = Stage::Placing(found);
                return Progress::None;
            }
            Err(error) => in_full(&error),
        };
        // As it was: what else was to change does not.
        self.discard(&mut found);
        found.report.outcome = ReloadOutcome::Failed;
        found.report.error = Some(error);
        found.config = state.config.clone();
        found.difference.mtus.clear();
        match self.make(gone, state.config.clone(), state, keepers) {
            Ok(thread) => self.stage = Stage::Restoring(found, thread),
            Err(error) => {
                return self.fail(state, found.report, format!("a thread could not be started: {error}"));
            }
        }
        Progress::None
    }

    fn has_restored(&mut self, mut found: Box<Found>, thread: JoinHandle<(Workshop, Made)>) -> Progress {
        let error = found.report.error.take().unwrap_or_default();
        let outcome = match thread.join() {
            Ok((workshop, made)) => {
                self.take_back(workshop);
                made.map_err(|error| in_full(&error))
            }
            Err(_) => Err("the thread that makes them has ended".to_owned()),
        };
        found.report.error = Some(match outcome {
            Ok(ready) => {
                found.ready = ready;
                format!(
                    "{error}; the ports that had been taken away for it are back, and nothing else was changed"
                )
            }
            Err(again) => {
                format!("{error}; the ports that had been taken away for it could not be made again: {again}")
            }
        });
        self.stage = Stage::Placing(found);
        Progress::None
    }

    fn make(
        &self,
        ports: Vec<PortConfig>,
        whole: Config,
        state: &State,
        keepers: &Keepers,
    ) -> io::Result<JoinHandle<(Workshop, Made)>> {
        let mut workshop = self.workshop(state, keepers);
        spawn(move || {
            let made = workshop.make(&ports, &whole);
            (workshop, made)
        })
    }

    fn workshop(&self, state: &State, keepers: &Keepers) -> Workshop {
        Workshop {
            workers: state.workers.len(),
            data_room: self.links.data_room,
            spare: self.spare.clone(),
            made: self.made,
            ids: state.ports.iter().filter_map(|(_, port)| Some(port.port.as_ref()?.id())).collect(),
            kept: keepers.names(),
        }
    }

    /// Pools that the workshop has not used, or has made.
    fn take_back(&mut self, workshop: Workshop) {
        (self.spare, self.made) = (workshop.spare, workshop.made);
    }

    /// Closes ports that were made ready for nothing.
    fn discard(&mut self, found: &mut Found) {
        for Ready { queues, way, rules, port, pool } in found.ready.drain(..) {
            drop((queues, way, rules, port));
            self.spare.push(pool);
        }
    }

    fn died(&mut self, state: &mut State, found: Option<Box<Found>>) -> Progress {
        let report = found.map_or_else(ReloadReport::default, |found| found.report);
        let what = "the thread that reads the configuration has ended unexpectedly; this is a fault of Flyover, please \
                    report it";
        self.fail(state, report, what.to_owned())
    }

    fn fail(&mut self, state: &State, report: ReloadReport, error: String) -> Progress {
        self.end(state, ReloadReport { outcome: ReloadOutcome::Failed, error: Some(error), ..report })
    }
}
