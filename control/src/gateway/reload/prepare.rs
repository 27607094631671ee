//! What takes its time, on a thread of its own: the file is read, and devices are attached, before anything changes.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use dataplane::dpdk::Mempool;
use dataplane::punt::Twin;
use dataplane::worker::WorkerPort;

use super::Outcome;
use super::desk::Order;
use crate::api::{ReloadChange, ReloadOutcome, ReloadReport};
use crate::config::{Change, Config, Difference, Fixed, Overrides, PortConfig};
use crate::gateway::error::GatewayError;
use crate::gateway::offload::{self, PortRules};
use crate::gateway::ports::GatewayPort;
use crate::gateway::{bring_up, start};
use crate::metrics::{BindError, Listener};
use crate::tracker::Timing;

/// A port that may take its place.
pub(super) struct Ready {
    // Queues go before the device.
    pub(super) queues: Vec<WorkerPort>,
    pub(super) way: Twin,
    pub(super) rules: PortRules,
    pub(super) port: GatewayPort,
    pub(super) pool: Mempool,
}

/// What ports are made with.
pub(super) struct Workshop {
    pub(super) workers: usize,
    /// Bytes that a buffer holds.
    pub(super) data_room: u16,
    /// Pools that no port uses any more.
    pub(super) spare: Vec<Mempool>,
    /// Ports made so far: names of DPDK's are not given twice.
    pub(super) made: usize,
    /// DPDK's numbers of the ports that are there.
    pub(super) ids: Vec<u16>,
    /// Twins that somebody keeps over a restart.
    pub(super) kept: Vec<String>,
}

/// What the file was found to say.
pub(super) struct Found {
    pub(super) config: Config,
    pub(super) difference: Difference,
    pub(super) timing: Timing,
    /// Ports that could be made while the others are there.
    pub(super) ready: Vec<Ready>,
    /// Those for which others have to go first.
    pub(super) late: Vec<PortConfig>,
    /// Where metrics are to be served; an error if somebody listens there, as may be the gateway itself.
    pub(super) listener: Option<Result<Listener, BindError>>,
    pub(super) report: ReloadReport,
}

/// What is to be read, and what it is compared with.
pub(super) struct Reading {
    pub(super) order: Order,
    pub(super) file: Option<PathBuf>,
    pub(super) overrides: Overrides,
    pub(super) running: Config,
    pub(super) fixed: Fixed,
    /// Numbers that further ports can have before others go.
    pub(super) room: usize,
}

/// An error and what it is because of.
pub(super) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some say their cause themselves.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

fn told(change: &Change) -> ReloadChange {
    let Change { key, old, new, restart } = change.clone();
    ReloadChange { key, old, new, why: restart }
}

impl Reading {
    /// Reads, compares, and makes ready what can be. An error is a report too: of what goes no further.
    pub(super) fn run(self, workshop: &mut Workshop) -> Outcome {
        let mut report = ReloadReport {
            file: self.file.as_ref().map(|file| file.display().to_string()),
            ..ReloadReport::default()
        };
        match self.follow(workshop, &mut report) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Box::new(report)),
            Err(error) => {
                (report.outcome, report.error) = (ReloadOutcome::Failed, Some(error));
                Err(Box::new(report))
            }
        }
    }

    fn follow(
        self,
        workshop: &mut Workshop,
        report: &mut ReloadReport,
    ) -> Result<Option<Box<Found>>, String> {
        let file = self.file.as_ref().ok_or(
            "there is no file to read again: the gateway was started with --port. Restart it with -c FILE",
        )?;
        let mut new = Config::load(file).map_err(|error| format!("{error}; nothing was changed"))?;
        self.overrides.apply(&mut new);
        let whole = Difference::between(&self.running, &new, self.fixed);
        report.notices.clone_from(&new.notices);
        let (restart, changed): (Vec<_>, Vec<_>) =
            whole.changes.iter().map(told).partition(|change| change.why.is_some());
        (report.changed, report.restart) = (changed, restart);
        if self.order.check {
            report.outcome = if whole.is_empty() { ReloadOutcome::Unchanged } else { ReloadOutcome::Checked };
            if !report.restart.is_empty() && !self.order.partial {
                report.outcome = ReloadOutcome::Refused;
            }
            return Ok(None);
        }
        if !report.restart.is_empty() && !self.order.partial {
            report.outcome = ReloadOutcome::Refused;
            return Ok(None);
        }
        let config = Difference::partial(&self.running, &new, self.fixed);
        let difference = Difference::between(&self.running, &config, self.fixed);
        if !difference.is_empty() {
            report.outcome = ReloadOutcome::Applied;
        }
        let undone = |error: &dyn Error| format!("{}; nothing was changed", in_full(error));
        let timing = start::timing(&config).map_err(|error| undone(&error))?;
        let listener = self.listener(config.metrics.listen).map_err(|error| undone(&error))?;
        let early = difference.added.len() <= self.room;
        let (late, early): (Vec<_>, Vec<_>) = difference
            .added
            .iter()
            .cloned()
            .partition(|port| !early || self.is_in_the_way(&difference, port));
        let ready = workshop.make(&early, &config).map_err(|error| undone(&error))?;
        Ok(Some(Box::new(Found {
            config,
            difference,
            timing,
            ready,
            late,
            listener,
            report: report.clone(),
        })))
    }

    /// A port that is to go has the device, or the name.
    fn is_in_the_way(&self, difference: &Difference, port: &PortConfig) -> bool {
        let goes = |other: &&PortConfig| difference.removed.contains(&other.name);
        self.running.ports.iter().filter(goes).any(|other| {
            other.name == port.name
                || other.device.name() == port.device.name()
                || other.device.arg("iface").is_some_and(|iface| port.device.arg("iface") == Some(iface))
        })
    }

    /// Listens where metrics are to be served from now on. `Some(Err)`: where only the gateway itself may be in the way.
    fn listener(&self, listen: Option<SocketAddr>) -> Result<Option<Result<Listener, BindError>>, BindError> {
        let before = self.running.metrics.listen;
        let Some(listen) = listen.filter(|_| listen != before) else { return Ok(None) };
        match Listener::bind(listen) {
            Ok(listener) => Ok(Some(Ok(listener))),
            Err(error) if before.is_some_and(|before| before.port() == listen.port()) => Ok(Some(Err(error))),
            Err(error) => Err(error),
        }
    }
}

impl Workshop {
    /// Makes all of these ports, or none.
    pub(super) fn make(&mut self, ports: &[PortConfig], whole: &Config) -> Result<Vec<Ready>, GatewayError> {
        let mut made: Vec<Ready> = Vec::new();
        for port in ports {
            match self.make_one(port, whole) {
                Ok(ready) => made.push(ready),
                Err(error) => {
                    made.into_iter().for_each(|ready| self.unmake(ready));
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// Closes a port that was made.
    pub(super) fn unmake(&mut self, ready: Ready) {
        let Ready { queues, way, rules, port, pool } = ready;
        drop((queues, way, rules, port));
        self.spare.push(pool);
    }

    fn make_one(&mut self, config: &PortConfig, whole: &Config) -> Result<Ready, GatewayError> {
        self.made += 1;
        let pool = self.pool(config, whole)?;
        let kept = self.kept.contains(&config.name);
        // No port of the start has such a number.
        let number = crate::config::MAX_PORTS + self.made;
        let (port, way, mut queues) = match bring_up::one(number, whole, config, self.workers, &pool, kept) {
            Ok(made) => made,
            Err(error) => {
                self.spare.push(pool);
                return Err(error);
            }
        };
        let Some(rules) = offload::prepare_one(whole, &port, &self.ids) else {
            self.spare.push(pool);
            return Err(GatewayError::Unplugged { name: config.name.clone() });
        };
        queues.iter_mut().for_each(|queue| queue.marks = rules.marks());
        Ok(Ready { queues, way, rules, port, pool })
    }

    /// Packet buffers for one port: a pool that another has left behind, or a new one.
    fn pool(&mut self, port: &PortConfig, whole: &Config) -> Result<Mempool, GatewayError> {
        let count = start::packet_count(&Config { ports: vec![port.clone()], ..whole.clone() }, self.workers);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(found) = self.spare.iter().position(|pool| pool.size() >= count) {
            return Ok(self.spare.swap_remove(found));
        }
        let name = format!("flyover-{}", self.made);
        Ok(Mempool::packets(&name, count, self.data_room, start::CACHE, None)?)
    }
}
