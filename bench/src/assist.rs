//! What a NIC's help costs and saves: marks in place of lookups, and the notice that is taken of hot directions.

use std::sync::Arc;

use dataplane::flow::{Mark, TableConfig, WorkerCounters};
use dataplane::worker::{Hot, Worker};

use crate::error::Error;
use crate::gateway::{Gateway, Ports};
use crate::measure::{Contender, Effort, interleave};
use crate::path::Scenario;
use crate::report::Row;
use crate::source::Marking;

/// A worker that may be helped.
struct Helped {
    worker: Worker,
    counters: Arc<WorkerCounters>,
    gateway: Gateway,
    hot: Hot,
    told: usize,
    packets: u64,
}

impl Contender for Helped {
    fn round(&mut self) -> usize {
        let packets = self.worker.round();
        self.packets += packets as u64;
        packets
    }

    fn between(&mut self) {
        self.gateway.drain();
        self.told += std::iter::from_fn(|| self.hot.pop()).count();
    }
}

impl Helped {
    fn new(
        gateway: Gateway,
        (scenario, marks): (&Scenario, [Marking; 2]),
        (ports, seed): (&mut Ports, u64),
        hot: Hot,
    ) -> Result<Self, Error> {
        let queues = scenario.marked_queues(ports, seed, marks)?;
        let marked = matches!(marks, [Marking::Told(_), _]);
        let (worker, counters) = gateway.worker_with(queues, hot.clone(), marked)?;
        Ok(Self { worker, counters, gateway, hot, told: 0, packets: 0 })
    }

    /// Every packet was carried; gives those that were found by their mark, and those that were not.
    fn check(&self, scenario: &Scenario) -> Result<[u64; 2], Error> {
        let carried = self.counters.fast().packets.get();
        if carried != self.packets {
            let text = format!("{carried} of {} packets carried", self.packets);
            return Err(Error::Wrong(scenario.name.to_owned(), text));
        }
        let marked = [0, 1].iter().filter_map(|port| self.counters.marked(*port));
        Ok(marked.fold([0; 2], |[found, missed], marked| {
            [found + marked.found.get(), missed + marked.missed.get()]
        }))
    }
}

fn gateway(scenario: &Scenario) -> Result<Gateway, Error> {
    let config = TableConfig::new(scenario.connections as usize);
    Gateway::with_config(scenario.flows, scenario.connections, config)
}

/// The marks of all connections, by direction. Leaked, as the source is.
fn marks(scenario: &Scenario, gateway: &Gateway) -> [&'static [u32]; 2] {
    [false, true].map(|reply| {
        let mark = |number| {
            let slot = gateway.table.lookup(&scenario.flows.key(number, reply));
            slot.and_then(Mark::of).map_or(0, Mark::to_bits)
        };
        &*(0..scenario.connections).map(mark).collect::<Vec<_>>().leak()
    })
}

fn row(name: &str, peer: &str, scenario: &Scenario, [ours, theirs]: [&mut Helped; 2], effort: Effort) -> Row {
    let outcome = interleave(&mut [&mut *ours, &mut *theirs], effort);
    let cost = |at: usize| outcome.costs.get(at).cloned().unwrap_or_default();
    let mut row = Row::new(name, scenario.connections.into(), &cost(0));
    row.set_peer(peer, cost(1).median);
    (row.clean, row.undisturbed) = (outcome.clean, outcome.undisturbed);
    row.pages = format!("{:?}", ours.gateway.table.page_kind()).to_lowercase();
    row
}

/// The worker whose packets are marked beside one that looks each of them up, the same packets, in turns. `stale`: each mark
/// is another connection's.
pub fn marked(scenario: &Scenario, stale: bool, ports: &mut Ports, effort: Effort) -> Result<Row, Error> {
    let seed = dataplane::dpdk::tsc();
    let (own, other) = (gateway(scenario)?, gateway(scenario)?);
    let mut told = marks(scenario, &own);
    if stale {
        told.reverse();
    }
    let (with, without) = ((scenario, told.map(Marking::Told)), (scenario, told.map(Marking::Kept)));
    let mut ours = Helped::new(own, with, (ports, seed), Hot::default())?;
    let mut theirs = Helped::new(other, without, (ports, seed ^ 1), Hot::default())?;
    let name = format!("assist.{}{}", scenario.name, if stale { ".stale" } else { "" });
    let row = row(&name, "full lookup", scenario, [&mut ours, &mut theirs], effort);
    let ([found, missed], others) = (ours.check(scenario)?, theirs.check(scenario)?);
    if (if stale { found } else { missed }) > 0 || others != [0; 2] {
        return Err(Error::Wrong(name, format!("{found} marks found their entry, {missed} did not")));
    }
    Ok(row)
}

/// The worker that tells of hot directions, as often as with `hardware.hot` of 1000, beside one that tells of none.
pub fn detection(scenario: &Scenario, ports: &mut Ports, effort: Effort) -> Result<Row, Error> {
    let seed = dataplane::dpdk::tsc();
    let plain = (scenario, [Marking::None; 2]);
    let mut ours = Helped::new(gateway(scenario)?, plain, (ports, seed), Hot::every(256))?;
    let mut theirs = Helped::new(gateway(scenario)?, plain, (ports, seed ^ 1), Hot::default())?;
    let mut row = row("hot.detection", "none told of", scenario, [&mut ours, &mut theirs], effort);
    ours.check(scenario)?;
    theirs.check(scenario)?;
    let told = ours.told as f64 * 1000.0 / ours.packets.max(1) as f64;
    row.yardsticks.insert("told of in 1000 packets".to_owned(), told);
    Ok(row)
}
