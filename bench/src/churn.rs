//! What a worker feels of control's work: connections put in, demoted and taken out on another CPU while it carries
//! packets of others in the same table.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::dpdk::{register_thread, tsc, tsc_hz};
use dataplane::flow::{EntryState, EntryView, FlowRef, TableConfig};
use dataplane::worker::Worker;

use crate::error::Error;
use crate::gateway::{Gateway, Ports};
use crate::machine::{self, dependent_add};
use crate::measure::{CLEAN, Cost, median};
use crate::path::Scenario;
use crate::report::Row;

/// Connections that the worker carries packets of.
const RESIDENT: u32 = 65_536;
/// Connections of one sample.
const SLICE: u32 = 16_384;

/// The worker's longest gap between the ends of two rounds, in TSC cycles.
#[derive(Default)]
struct Longest(AtomicU64);

impl Longest {
    fn note(&self, gap: u64) {
        if gap > self.0.load(Ordering::Relaxed) {
            self.0.store(gap, Ordering::Relaxed);
        }
    }

    fn take(&self) -> f64 {
        self.0.swap(0, Ordering::Relaxed) as f64
    }
}

/// Rounds until told to stop.
fn poll(worker: &mut Worker, cpu: usize, longest: &Longest, stop: &AtomicBool) -> Result<(), Error> {
    machine::pin(cpu);
    machine::take_precedence();
    let _registration = register_thread()?;
    let mut last = tsc();
    while !stop.load(Ordering::Relaxed) {
        worker.round();
        worker.quiescent();
        let now = tsc();
        longest.note(now - last);
        last = now;
    }
    Ok(())
}

/// What control does to a slice of the connections, one call at a time.
#[derive(Clone, Copy)]
enum Work {
    Insert,
    Demote,
    Remove,
}

/// Samples of one kind of work, one a slice.
#[derive(Default)]
struct Samples {
    /// Cycles a connection.
    costs: Vec<f64>,
    /// The writer's longest call.
    calls: Vec<f64>,
    /// The worker's longest gap meanwhile.
    gaps: Vec<f64>,
}

struct Control<'a> {
    gateway: Gateway,
    flows: Vec<[FlowRef; 2]>,
    longest: &'a Longest,
}

impl Control<'_> {
    fn one(&mut self, work: Work, number: u32) -> Result<(), Error> {
        let at = (number - RESIDENT) as usize;
        match work {
            Work::Insert => self.flows.push(self.gateway.admit(number)?),
            Work::Demote => {
                for flow in self.flows.get(at).into_iter().flatten() {
                    self.gateway.table.entry(flow.slot).set_state(EntryState::Candidate);
                }
            }
            Work::Remove => {
                if let Some(flows) = self.flows.get(at) {
                    self.gateway.writer.remove_pair(*flows);
                }
                // As control does, now and then; at most a thousand a call.
                if number.is_multiple_of(256) {
                    self.gateway.writer.reclaim();
                }
            }
        }
        Ok(())
    }

    fn all(&mut self, work: Work, connections: u32, samples: &mut Samples) -> Result<(), Error> {
        let mut from = RESIDENT;
        while from < RESIDENT + connections {
            let (start, mut call) = (tsc(), 0);
            self.longest.take();
            for number in from..from + SLICE {
                let before = tsc();
                self.one(work, number)?;
                call = call.max(tsc() - before);
            }
            samples.costs.push((tsc() - start) as f64 / f64::from(SLICE));
            samples.calls.push(call as f64);
            samples.gaps.push(self.longest.take());
            from += SLICE;
        }
        Ok(())
    }
}

fn cost(values: &mut [f64]) -> Cost {
    let median = median(values);
    Cost { median, min: values.first().copied().unwrap_or(0.0), max: values.last().copied().unwrap_or(0.0) }
}

/// `control.insert`, `control.demote`, `control.remove`: cycles a connection, with the writer's longest call; and
/// `control.worker_gap`: the worker's longest gap meanwhile, in cycles, beside that with an idle control thread. Longest of
/// 16,384 connections each, or of as much time; medians of these.
pub fn run(connections: u32, ports: &mut Ports, cpu: usize) -> Result<Vec<Row>, Error> {
    let scenario = Scenario::plain(RESIDENT);
    let config = TableConfig::new((RESIDENT + connections) as usize);
    let gateway = Gateway::with_config(scenario.flows, RESIDENT, config)?;
    let (mut worker, counters) = gateway.worker(scenario.queues(ports, tsc())?)?;
    let (longest, stop) = (Longest::default(), AtomicBool::new(false));
    let mut control = Control { gateway, flows: Vec::with_capacity(connections as usize), longest: &longest };
    let mut samples: [Samples; 3] = Default::default();
    let (mut idle, mut adds) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| poll(&mut worker, cpu, &longest, &stop));
        machine::pin((cpu + 1) % machine::cpus());
        // The thread starts, and touches what it will touch.
        std::thread::sleep(Duration::from_millis(200));
        let mut work = || -> Result<(), Error> {
            for (work, samples) in [Work::Insert, Work::Demote, Work::Remove].into_iter().zip(&mut samples) {
                adds.push(dependent_add());
                let start = Instant::now();
                control.all(work, connections, samples)?;
                // As long without any work, in as many slices.
                let slices = samples.gaps.len() as u32;
                let slice = start.elapsed() / slices.max(1);
                for _ in 0..slices {
                    longest.take();
                    std::thread::sleep(slice);
                    idle.push(longest.take());
                }
            }
            Ok(())
        };
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let gone =
            |_| Error::Wrong("control.worker_gap".to_owned(), "the worker's thread has died".to_owned());
        polling.join().map_err(gone)??;
        worked
    })?;
    machine::pin(cpu);
    if counters.fast().packets.get() == 0 || !control.gateway.rings.is_empty() {
        let text = "packets of the resident connections were not carried".to_owned();
        return Err(Error::Wrong("control.worker_gap".to_owned(), text));
    }
    let microseconds = |cycles: f64| (cycles / tsc_hz() as f64 * 1e8).round() / 100.0;
    let clean = median(&mut adds);
    let finish = |mut row: Row| {
        (row.clean, row.undisturbed) = (clean, clean < CLEAN);
        row
    };
    let mut rows = Vec::new();
    let mut gaps = Vec::new();
    for (name, samples) in
        ["control.insert", "control.demote", "control.remove"].into_iter().zip(&mut samples)
    {
        let mut row = Row::new(name, connections.into(), &cost(&mut samples.costs));
        let calls = cost(&mut samples.calls);
        row.yardsticks.insert("longest_call_us".to_owned(), microseconds(calls.median));
        row.yardsticks.insert("longest_call_worst_us".to_owned(), microseconds(calls.max));
        gaps.append(&mut samples.gaps);
        rows.push(finish(row));
    }
    let (busy, idle) = (cost(&mut gaps), cost(&mut idle));
    let mut row = Row::new("control.worker_gap", connections.into(), &busy);
    row.set_peer("idle control thread", idle.median);
    row.yardsticks.insert("beyond_idle_us".to_owned(), microseconds(busy.median - idle.median));
    row.yardsticks.insert("median_us".to_owned(), microseconds(busy.median));
    row.yardsticks.insert("least_us".to_owned(), microseconds(busy.min));
    rows.push(finish(row));
    Ok(rows)
}
