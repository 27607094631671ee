//! Rates between two answers of the gateway.

use std::collections::{HashMap, VecDeque};

use super::sample::Sample;
use crate::api::{FlowInfo, PortCounters, WorkerStatus};
use crate::cli::flows::name;

/// Samples that graphs show.
pub(super) const HISTORY: usize = 120;

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) packets: f64,
    pub(super) bits: f64,
}

/// A port, in both directions.
#[derive(Clone, Debug, Default)]
pub(super) struct PortRates {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) rx: Rate,
    pub(super) tx: Rate,
    /// Bits a second, both directions together, the latest last.
    pub(super) history: VecDeque<u64>,
}

/// Packets a second by path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Paths {
    pub(super) hardware: f64,
    pub(super) software: f64,
    pub(super) kernel: f64,
    pub(super) dropped: f64,
}

/// A worker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WorkerRates {
    pub(super) core: u16,
    pub(super) busy: f64,
    pub(super) sleeping: f64,
    pub(super) packets: f64,
    /// Since the start.
    pub(super) cycles: f64,
}

/// A connection, both directions together.
#[derive(Clone, Debug)]
pub(super) struct FlowRates {
    pub(super) flow: FlowInfo,
    pub(super) rate: Rate,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) ports: Vec<PortRates>,
    pub(super) paths: Paths,
    pub(super) workers: Vec<WorkerRates>,
    pub(super) flows: Vec<FlowRates>,
    /// Packets a second by reason, the most first, none that are 0.
    pub(super) reasons: Vec<(String, f64)>,
}

impl Rates {
    /// What happened between two answers; `former` has the graphs so far.
    pub(super) fn between(before: &Sample, now: &Sample, former: &Self) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
        // A gateway that was restarted counts from zero.
        let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let rate = |before: &PortCounters, now: &PortCounters| Rate {
            packets: per_second(before.packets, now.packets),
            bits: 8.0 * per_second(before.bytes, now.bytes),
        };
        let ports = now.status.ports.iter().map(|port| {
            let Some(then) = before.status.ports.iter().find(|then| then.name == port.name) else {
                return PortRates { name: port.name.clone(), up: port.link_up, ..PortRates::default() };
            };
            let (rx, tx) = (rate(&then.rx, &port.rx), rate(&then.tx, &port.tx));
            let old = former.ports.iter().find(|old| old.name == port.name);
            let mut history = old.map(|old| old.history.clone()).unwrap_or_default();
            history.push_back((rx.bits + tx.bits) as u64);
            while history.len() > HISTORY {
                history.pop_front();
            }
            PortRates { name: port.name.clone(), up: port.link_up, rx, tx, history }
        });
        let (a, b) = (&before.status.packets, &now.status.packets);
        let paths = Paths {
            hardware: per_second(a.hardware, b.hardware),
            software: per_second(a.fast, b.fast),
            kernel: per_second(a.punted, b.punted),
            dropped: per_second(a.dropped, b.dropped),
        };
        Self {
            ports: ports.collect(),
            paths,
            workers: workers(before, now, per_second),
            flows: flows(before, now, per_second),
            reasons: reasons(before, now, per_second),
        }
    }
}

fn workers(before: &Sample, now: &Sample, per_second: impl Fn(u64, u64) -> f64) -> Vec<WorkerRates> {
    let worker = |(at, worker): (usize, &WorkerStatus)| {
        let then = before.status.workers.get(at).map_or(worker.packets, |then| then.packets);
        let stages = now.stats.workers.get(at).map(|stats| stats.cycles_per_packet).unwrap_or_default();
        WorkerRates {
            core: worker.core,
            busy: worker.busy_percent,
            sleeping: worker.sleeping_percent,
            packets: per_second(then, worker.packets),
            cycles: stages.receive + stages.parse + stages.decide + stages.send,
        }
    };
    now.status.workers.iter().enumerate().map(worker).collect()
}

fn flows(before: &Sample, now: &Sample, per_second: impl Fn(u64, u64) -> f64) -> Vec<FlowRates> {
    let sum = |flow: &FlowInfo| (flow.packets.both(), flow.bytes.both());
    let then: HashMap<_, _> = before.flows.iter().map(|flow| (name(flow), sum(flow))).collect();
    let rated = |flow: &FlowInfo| {
        let (packets, bytes) = sum(flow);
        // One that was not there has had all of its packets since.
        let was = then.get(&name(flow)).copied().or_else(|| before.all_flows.then_some((0, 0)));
        let (packets_then, bytes_then) = was.unwrap_or((packets, bytes));
        let rate =
            Rate { packets: per_second(packets_then, packets), bits: 8.0 * per_second(bytes_then, bytes) };
        FlowRates { flow: flow.clone(), rate }
    };
    now.flows.iter().map(rated).collect()
}

fn reasons(before: &Sample, now: &Sample, per_second: impl Fn(u64, u64) -> f64) -> Vec<(String, f64)> {
    let (then, status) = (&before.status, &now.status);
    let punted = status
        .punted_by_reason
        .iter()
        .map(|(reason, count)| (reason.name(), per_second(then.punted_by_reason.get(reason), count)));
    let dropped = status.dropped_by_reason.iter().map(|(reason, count)| {
        (format!("drop {}", reason.name()), per_second(then.dropped_by_reason.get(reason), count))
    });
    let all = punted.map(|(name, rate)| (name.to_owned(), rate)).chain(dropped);
    let mut all: Vec<_> = all.filter(|(_, rate)| *rate > 0.0).collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all
}
