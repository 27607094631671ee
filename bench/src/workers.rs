//! Two workers on one table, each on a CPU of its own, beside one.

use std::sync::Barrier;

use dataplane::dpdk::{register_thread, tsc};
use dataplane::flow::Placement;
use dataplane::worker::Worker;

use crate::error::Error;
use crate::gateway::{Gateway, Ports};
use crate::machine::{self, dependent_add};
use crate::measure::{CLEAN, Cost, median};
use crate::path::Scenario;
use crate::report::Row;

const PACKETS: usize = 1 << 19;
const REPETITIONS: usize = 15;

/// Has each worker carry as many packets on a thread of its own; cycles from the first start to the last end, and the
/// workers back.
fn together(workers: Vec<Worker>) -> Result<(f64, Vec<Worker>), Error> {
    let barrier = Barrier::new(workers.len());
    let ended = std::thread::scope(|scope| {
        let threads = workers.into_iter().enumerate().map(|(cpu, mut worker)| {
            let barrier = &barrier;
            scope.spawn(move || {
                machine::pin(cpu);
                machine::take_precedence();
                let _registration = register_thread()?;
                let mut done = 0;
                while done < PACKETS / 4 {
                    done += worker.round().max(1);
                }
                barrier.wait();
                let (start, mut done) = (tsc(), 0);
                while done < PACKETS {
                    done += worker.round().max(1);
                }
                Ok::<_, Error>((start, tsc(), worker))
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let (mut first, mut last, mut workers) = (u64::MAX, 0_u64, Vec::new());
    for joined in ended {
        let gone = |_| Error::Wrong("workers".to_owned(), "a worker's thread has died".to_owned());
        let (start, end, worker) = joined.map_err(gone)??;
        (first, last) = (first.min(start), last.max(end));
        workers.push(worker);
    }
    Ok((last.saturating_sub(first) as f64, workers))
}

/// Cycles a packet of both together, beside those of one alone. Twice as fast is a ratio of 0.5; it means something
/// where two CPUs are really free.
pub fn two(scenario: &Scenario, ports: &mut Ports) -> Result<Row, Error> {
    let gateway = Gateway::with_flows(scenario.flows, scenario.connections, Placement::default())?;
    let mut workers = Vec::new();
    for seed in 1..=2 {
        let queues = scenario.queues(ports, tsc() ^ seed)?;
        workers.push(gateway.worker(queues)?.0);
    }
    let (mut alone, mut both, mut adds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let (cycles, back) = together(workers)?;
        workers = back;
        both.push(cycles / (2 * PACKETS) as f64);
        let one: Vec<_> = workers.pop().into_iter().collect();
        let (cycles, back) = together(one)?;
        workers.extend(back);
        alone.push(cycles / PACKETS as f64);
        adds.push(dependent_add());
    }
    let middle = median(&mut both);
    let (min, max) = (both.first().copied().unwrap_or(0.0), both.last().copied().unwrap_or(0.0));
    let cost = Cost { median: middle, min, max };
    let mut row =
        Row::new(&format!("path.{}.two_workers", scenario.name), scenario.connections.into(), &cost);
    row.set_peer("one worker", median(&mut alone));
    row.clean = median(&mut adds);
    row.undisturbed = row.clean < CLEAN;
    Ok(row)
}
