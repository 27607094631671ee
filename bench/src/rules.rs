//! Flow rules: what it takes to encode one, and to have it made and removed, one by one and through queues, by the model
//! NIC, and how soon a port without rules refuses.
//!
//! The model is a table in memory behind a lock: its own share is in the figures, what a NIC would take is not.

use std::hint::black_box;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dataplane::dpdk::flow_rule::{FlowEngine, FlowError, FlowId, FlowQueues, FlowRule, FlowRules, OpStatus};
use dataplane::dpdk::{Port, tsc, tsc_hz};
use dataplane::hardware::model::{Knobs, Nic};
use dataplane::hardware::{Domain, Egress, Fields, Form, HardwareFlow, Ttl, encode};

use crate::error::Error;
use crate::flows::{Family, Flows, Nat};
use crate::machine::dependent_add;
use crate::measure::{CLEAN, Cost, median};
use crate::report::Row;

const FLOWS: Flows = Flows { family: Family::V4, nat: Nat::Snat };
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Rules that are in while others come and go.
const RULES: u32 = 65_536;
/// Rules timed in one go, other ones each time.
const BATCH: u32 = 4096;
const REPETITIONS: u32 = 31;
/// Operations that wait in the queue.
const DEPTH: u32 = 512;

fn flow(number: u32) -> HardwareFlow {
    let reply = FLOWS.key(number, true);
    HardwareFlow {
        port: 0,
        to: MAC,
        tags: ArrayVec::new(),
        key: FLOWS.key(number, false),
        egress: 1,
        macs: [[2, 0, 0, 0, 0, 9], MAC],
        longest: None,
        new_tags: ArrayVec::new(),
        leaves_as: reply.inverted(),
    }
}

fn form(fields: Fields) -> Form {
    let egress = Egress::RepresentedPort;
    Form {
        domain: Domain::Transfer,
        group: 1,
        fields,
        egress,
        integrity: true,
        queues: vec![0],
        hairpins: Vec::new(),
        age_s: Some(60),
    }
}

fn wrong(what: &str) -> impl Fn(FlowError) -> Error + '_ {
    move |error| Error::Wrong(format!("rules.{what}"), error.to_string())
}

/// Costs of one kind of operation, in cycles each.
#[derive(Default)]
struct Samples {
    cycles: Vec<f64>,
    additions: Vec<f64>,
}

impl Samples {
    fn time(&mut self, work: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
        let start = tsc();
        work()?;
        self.cycles.push((tsc() - start) as f64 / f64::from(BATCH));
        self.additions.push(dependent_add());
        Ok(())
    }

    fn row(mut self, name: &str, rules: u32) -> Row {
        let middle = median(&mut self.cycles);
        let (min, max) = (self.cycles.first(), self.cycles.last());
        let cost =
            Cost { median: middle, min: min.copied().unwrap_or(0.0), max: max.copied().unwrap_or(0.0) };
        let mut row = Row::new(name, rules.into(), &cost);
        row.clean = median(&mut self.additions);
        row.undisturbed = row.clean < CLEAN;
        row.yardsticks.insert("a second".to_owned(), (tsc_hz() as f64 / middle.max(1.0)).round());
        row
    }
}

/// Does operations through a queue until all have ended.
fn through_queue<T>(
    rules: &FlowRules,
    all: impl Iterator<Item = T>,
    mut begin: impl FnMut(T, u64) -> Result<(), FlowError>,
) -> Result<(), FlowError> {
    let (mut all, mut waiting, mut token, mut ended) = (all.fuse(), 0, 0, Vec::new());
    let mut done = false;
    while !done || waiting > 0 {
        while waiting < DEPTH && !done {
            match all.next() {
                Some(one) => {
                    begin(one, token)?;
                    (token, waiting) = (token + 1, waiting + 1);
                }
                None => done = true,
            }
        }
        rules.push(0)?;
        ended.clear();
        rules.pull(0, DEPTH as usize, &mut ended)?;
        waiting -= ended.len() as u32;
        for completion in ended.drain(..) {
            if let OpStatus::Refused(error) = completion.status {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// One encoding: encoded alone, made and removed one by one, and through a queue.
fn encoding(fields: Fields, name: &str) -> Result<Vec<Row>, Error> {
    let form = form(fields);
    let nic = Nic::new(&[0, 1], 1, Knobs::default());
    let mut rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, 0);
    rules.configure(&FlowQueues { queues: 2, depth: DEPTH, rules: 1 << 20 }).map_err(wrong(name))?;
    let rule = |number| encode::carry(&flow(number), &form, Ttl::Decrement);
    for guard in encode::guards(&form, 0) {
        rules.create(&guard).map_err(wrong(name))?;
    }
    for number in 0..RULES {
        rules.create(&rule(number)).map_err(wrong(name))?;
    }
    let [mut encoded, mut made, mut removed, mut queued, mut unqueued]: [Samples; 5] = Default::default();
    for repetition in 0..REPETITIONS {
        let first = RULES + repetition * BATCH;
        let numbers = first..first + BATCH;
        encoded.time(&mut || {
            numbers.clone().for_each(|number| drop(black_box(rule(number))));
            Ok(())
        })?;
        let mut ids: Vec<FlowId> = Vec::with_capacity(BATCH as usize);
        made.time(&mut || {
            for number in numbers.clone() {
                ids.push(rules.create(&rule(number)).map_err(wrong(name))?);
            }
            Ok(())
        })?;
        removed.time(&mut || ids.drain(..).try_for_each(|id| rules.destroy(id)).map_err(wrong(name)))?;
        queued.time(&mut || {
            let begin = |number, token| {
                ids.push(rules.enqueue_create(0, &rule(number), token)?);
                Ok(())
            };
            through_queue(&rules, numbers.clone(), begin).map_err(wrong(name))
        })?;
        unqueued.time(&mut || {
            through_queue(&rules, ids.drain(..), |id, token| rules.enqueue_destroy(0, id, token))
                .map_err(wrong(name))
        })?;
        let left = nic.rules() as u32 - encode::guards(&form, 0).len() as u32;
        if left != RULES {
            return Err(Error::Wrong(format!("rules.{name}"), format!("{left} rules of {RULES} are left")));
        }
    }
    let alone = encoded.row(&format!("rules.{name}.encode"), RULES);
    let mut rows = vec![alone.clone()];
    for (samples, what) in
        [(made, "create"), (removed, "destroy"), (queued, "queued.create"), (unqueued, "queued.destroy")]
    {
        let mut row = samples.row(&format!("rules.{name}.{what}"), RULES);
        if what.ends_with("create") {
            row.set_peer("encoded alone", alone.cycles_per_packet.median);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// A port whose driver has no rules: each is refused.
fn refusals() -> Result<Row, Error> {
    let port = Port::attach("net_null2", None)?;
    let rules = FlowRules::of(&port);
    let rule: FlowRule = encode::carry(&flow(1), &form(Fields::Modify), Ttl::Decrement);
    let mut refused = Samples::default();
    for _ in 0..REPETITIONS {
        refused.time(&mut || match (0..BATCH).find(|_| rules.create(&rule).is_ok()) {
            None => Ok(()),
            Some(_) => Err(Error::Wrong("rules.refused".to_owned(), "net_null took a rule".to_owned())),
        })?;
    }
    Ok(refused.row("rules.refused", 0))
}

/// All rows.
pub fn run() -> Result<Vec<Row>, Error> {
    let mut rows = encoding(Fields::Set, "set")?;
    rows.extend(encoding(Fields::Modify, "modify")?);
    rows.push(refusals()?);
    Ok(rows)
}
