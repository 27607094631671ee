//! What a worker feels of control's work: connections put in, demoted, taken out and kept alive on another CPU while it
//! carries packets of others in the same table.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use dataplane::dpdk::{register_thread, tsc, tsc_hz};
use dataplane::flow::{EntryState, EntryView, FlowRef, TableConfig};
use dataplane::worker::Worker;

use crate::error::Error;
use crate::gateway::{Gateway, Ports};
use crate::machine::{self, dependent_add};
use crate::measure::{CLEAN, Cost, median};
use crate::path::Scenario;
use crate::refresh::Refresher;
use crate::report::Row;

/// Connections that the worker carries packets of.
const RESIDENT: u32 = 65_536;
/// Connections of one sample: about a millisecond.
const SLICE: u32 = 1024;

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

/// Where the kernel counts how often a thread had to give its CPU to another one.
#[derive(Default)]
struct Thread(PathBuf);

impl Thread {
    fn this() -> Self {
        let task = fs::read_link("/proc/thread-self").unwrap_or_default();
        Self(PathBuf::from("/proc").join(task).join("status"))
    }

    fn preemptions(&self) -> Option<u64> {
        let status = fs::read_to_string(&self.0).ok()?;
        status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:")?.trim().parse().ok())
    }
}

/// Rounds until told to stop.
fn poll(
    worker: &mut Worker,
    cpu: usize,
    longest: &Longest,
    stop: &AtomicBool,
    told: &Sender<Thread>,
) -> Result<(), Error> {
    machine::pin(cpu);
    machine::take_precedence();
    // Somebody waits for it.
    let _ = told.send(Thread::this());
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

impl Work {
    const COUNT: usize = 3;
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

/// What is watched while control works.
struct Watch<'a> {
    longest: &'a Longest,
    /// Control's and the worker's.
    threads: [Thread; 2],
}

impl Watch<'_> {
    /// Does something, and gives the worker's longest gap meanwhile; `None` if the kernel took either's CPU away, which
    /// would be measured instead.
    fn watched<R>(&self, what: impl FnOnce() -> R) -> (R, Option<f64>) {
        let preemptions = || self.threads.each_ref().map(Thread::preemptions);
        let before = preemptions();
        self.longest.take();
        let done = what();
        let gap = self.longest.take();
        (done, Some(gap).filter(|gap| *gap > 0.0 && before == preemptions()))
    }
}

/// Does one connection's work.
fn one(gateway: &mut Gateway, flows: &mut Vec<[FlowRef; 2]>, work: Work, number: u32) -> Result<(), Error> {
    let known = flows.get((number - RESIDENT) as usize).copied();
    match work {
        Work::Insert => flows.push(gateway.admit(number)?),
        Work::Demote => {
            for flow in known.into_iter().flatten() {
                gateway.table.entry(flow.slot).set_state(EntryState::Candidate);
            }
        }
        Work::Remove => {
            if let Some(flows) = known {
                gateway.writer.remove_pair(flows);
            }
            // As control does, now and then; at most a thousand a call.
            if number.is_multiple_of(256) {
                gateway.writer.reclaim();
            }
        }
    }
    Ok(())
}

/// Does all connections' work, a slice a sample.
fn all(
    (gateway, flows): (&mut Gateway, &mut Vec<[FlowRef; 2]>),
    work: Work,
    connections: u32,
    watch: &Watch<'_>,
    samples: &mut Samples,
) -> Result<(), Error> {
    for slice in 0..connections / SLICE {
        let from = RESIDENT + slice * SLICE;
        let (worked, gap) = watch.watched(|| {
            let (start, mut call) = (tsc(), 0);
            for number in from..from + SLICE {
                let before = tsc();
                one(gateway, flows, work, number)?;
                call = call.max(tsc() - before);
            }
            Ok::<_, Error>((tsc() - start, call))
        });
        let (cycles, call) = worked?;
        if let Some(gap) = gap {
            samples.costs.push(cycles as f64 / f64::from(SLICE));
            samples.calls.push(call as f64);
            samples.gaps.push(gap);
        }
    }
    Ok(())
}

/// Keeps all connections' entries in the kernel alive, once; about a slice a sample.
fn refresh(
    gateway: &mut Gateway,
    connections: u32,
    watch: &Watch<'_>,
    samples: &mut Samples,
) -> Result<(), Error> {
    let mut refresher = Refresher::new(gateway, RESIDENT, connections)?;
    let first = refresher.refreshes();
    while refresher.refreshes() < first + u64::from(connections) {
        let before = refresher.refreshes();
        let (worked, gap) = watch.watched(|| {
            let (start, mut call) = (tsc(), 0);
            while refresher.refreshes() < before + u64::from(SLICE) {
                let before = tsc();
                refresher.tick(gateway)?;
                call = call.max(tsc() - before);
            }
            Ok::<_, Error>((tsc() - start, call))
        });
        let (cycles, call) = worked?;
        if let Some(gap) = gap {
            samples.costs.push(cycles as f64 / (refresher.refreshes() - before) as f64);
            samples.calls.push(call as f64);
            samples.gaps.push(gap);
        }
    }
    Ok(())
}

fn cost(values: &mut [f64]) -> Cost {
    let median = median(values);
    Cost { median, min: values.first().copied().unwrap_or(0.0), max: values.last().copied().unwrap_or(0.0) }
}

/// `control.insert`, `control.demote`, `control.remove`, `control.refresh`: cycles a connection, with the longest call (of
/// a refresh: a tick of the timers, which sees to some 50 connections); and `control.worker_gap`: the worker's longest gap
/// meanwhile, in cycles, beside that with an idle control thread. A sample is 1,024 connections, or a millisecond; those in
/// which the kernel preempted either thread do not count.
pub fn run(connections: u32, ports: &mut Ports, cpu: usize) -> Result<Vec<Row>, Error> {
    let scenario = Scenario::plain(RESIDENT);
    let config = TableConfig::new((RESIDENT + connections) as usize);
    let mut gateway = Gateway::with_config(scenario.flows, RESIDENT, config)?;
    let (mut worker, counters) = gateway.worker(scenario.queues(ports, tsc())?)?;
    let (longest, stop) = (Longest::default(), AtomicBool::new(false));
    let mut flows = Vec::with_capacity(connections as usize);
    let mut samples: [Samples; 4] = Default::default();
    let (mut idle, mut adds) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        let (longest, stop, worker) = (&longest, &stop, &mut worker);
        let polling = scope.spawn(move || poll(worker, cpu, longest, stop, &tell));
        machine::pin((cpu + 1) % machine::cpus());
        let threads = [Thread::this(), told.recv().unwrap_or_default()];
        let watch = Watch { longest, threads };
        // It touches what it will touch.
        std::thread::sleep(Duration::from_millis(200));
        let mut work = || -> Result<(), Error> {
            for (work, samples) in [Work::Insert, Work::Demote, Work::Remove].into_iter().zip(&mut samples) {
                adds.push(dependent_add());
                all((&mut gateway, &mut flows), work, connections, &watch, samples)?;
                let gaps = (0..connections / SLICE)
                    .filter_map(|_| watch.watched(|| std::thread::sleep(Duration::from_millis(1))).1);
                idle.extend(gaps);
            }
            // The places of what was taken out are free again.
            while gateway.writer.reclaim() > 0 {}
            adds.push(dependent_add());
            refresh(&mut gateway, connections, &watch, &mut samples[Work::COUNT])
        };
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let gone = |_| wrong("the worker's thread has died");
        polling.join().map_err(gone)??;
        worked
    })?;
    machine::pin(cpu);
    if counters.fast().packets.get() == 0 || !gateway.rings.is_empty() {
        return Err(wrong("packets of the resident connections were not carried"));
    }
    let clean = median(&mut adds);
    let finish = |mut row: Row, samples: usize| {
        row.yardsticks.insert("samples".to_owned(), samples as f64);
        (row.clean, row.undisturbed) = (clean, clean < CLEAN);
        row
    };
    let mut rows = Vec::new();
    let mut gaps = Vec::new();
    let names = ["control.insert", "control.demote", "control.remove", "control.refresh"];
    for (name, samples) in names.into_iter().zip(&mut samples) {
        let mut row = Row::new(name, connections.into(), &cost(&mut samples.costs));
        longest_of(&mut row, "call", &mut samples.calls);
        gaps.append(&mut samples.gaps);
        rows.push(finish(row, samples.calls.len()));
    }
    let (busy, quiet) = (cost(&mut gaps), cost(&mut idle));
    let mut row = Row::new("control.worker_gap", connections.into(), &busy);
    row.set_peer("idle control thread", quiet.median);
    longest_of(&mut row, "gap", &mut gaps);
    longest_of(&mut row, "idle_gap", &mut idle);
    rows.push(finish(row, gaps.len()));
    Ok(rows)
}

/// What the longest of a sample took, in microseconds: in half of the samples at most, in 99 of 100, in all.
fn longest_of(row: &mut Row, what: &str, samples: &mut [f64]) {
    samples.sort_by(f64::total_cmp);
    for (share, name) in [(50, "median"), (99, "p99"), (100, "max")] {
        let at = (samples.len() * share / 100).min(samples.len().saturating_sub(1));
        let cycles = samples.get(at).copied().unwrap_or(0.0);
        let microseconds = (cycles / tsc_hz() as f64 * 1e8).round() / 100.0;
        row.yardsticks.insert(format!("{what}_{name}_us"), microseconds);
    }
}

fn wrong(text: &str) -> Error {
    Error::Wrong("control.worker_gap".to_owned(), text.to_owned())
}
