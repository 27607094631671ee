//! `flyover flows --sort`: the first of all, by some order. Only so many are kept while all are read.

use std::collections::HashMap;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Name, Pages, columns, name, row};
use crate::api::{Client, ClientError, FlowInfo, FlowPage};
use crate::cli::args::{FlowsArguments, Sort};
use crate::cli::error::ShowError;
use crate::cli::format::count;
use crate::cli::table::{Align, Table};

/// As many are shown where nothing else is asked for.
const SHOWN: usize = 100;
/// Between the two looks that make a rate.
const LOOK: Duration = Duration::from_secs(1);

/// A connection and its rate, if that was asked for.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Rated {
    #[serde(flatten)]
    flow: FlowInfo,
    /// Packets a second, over a second, both directions together; with `--sort rate` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets_per_s: Option<f64>,
    /// Bits a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_s: Option<f64>,
}

impl Rated {
    fn value(&self, order: Sort) -> f64 {
        match order {
            Sort::Rate => self.bits_per_s.unwrap_or(0.0),
            Sort::Packets => self.flow.packets.both() as f64,
            Sort::Bytes => self.flow.bytes.both() as f64,
            Sort::Age => self.flow.age_s,
            Sort::Idle => self.flow.idle_s,
        }
    }
}

/// The most so far.
struct Best {
    order: Sort,
    wanted: usize,
    flows: Vec<Rated>,
}

impl Best {
    fn add(&mut self, flow: Rated) {
        self.flows.push(flow);
        // Now and then, so that it costs little.
        if self.flows.len() >= 2 * self.wanted + 1024 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let order = self.order;
        self.flows.sort_by(|a, b| b.value(order).total_cmp(&a.value(order)));
        self.flows.truncate(self.wanted);
    }
}

/// Reads all, page by page.
fn each(
    client: &mut Client,
    arguments: &FlowsArguments,
    mut see: impl FnMut(FlowInfo, Instant),
) -> Result<(), ClientError> {
    let mut pages = Pages::all(arguments);
    while let Some(request) = pages.request() {
        let page: FlowPage = client.ask(&request)?;
        let at = Instant::now();
        pages.got(page.flows.len(), page.next);
        page.flows.into_iter().for_each(|flow| see(flow, at));
    }
    Ok(())
}

fn best(client: &mut Client, arguments: &FlowsArguments, order: Sort) -> Result<Vec<Rated>, ClientError> {
    let mut before: HashMap<Name, (u64, u64, Instant)> = HashMap::new();
    if order == Sort::Rate {
        each(client, arguments, |flow, at| {
            before.insert(name(&flow), (flow.packets.both(), flow.bytes.both(), at));
        })?;
        thread::sleep(LOOK);
    }
    let wanted = arguments.limit.map_or(SHOWN, |limit| usize::try_from(limit).unwrap_or(usize::MAX / 4));
    let mut best = Best { order, wanted: wanted.min(usize::MAX / 4), flows: Vec::new() };
    each(client, arguments, |flow, at| {
        let rates = before.get(&name(&flow)).map(|(packets, bytes, since)| {
            let seconds = at.saturating_duration_since(*since).as_secs_f64().max(0.001);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            // To a tenth: no more is known.
            [rate(flow.packets.both(), *packets), 8.0 * rate(flow.bytes.both(), *bytes)]
                .map(|rate| (rate * 10.0).round() / 10.0)
        });
        // One that was not there at the first look has no rate yet.
        let rates = rates.or_else(|| (order == Sort::Rate).then_some([0.0; 2]));
        let (packets_per_s, bits_per_s) = (rates.map(|[packets, _]| packets), rates.map(|[_, bits]| bits));
        best.add(Rated { flow, packets_per_s, bits_per_s });
    })?;
    best.settle();
    Ok(best.flows)
}

/// Prints the first of all.
pub(super) fn show(
    client: &mut Client,
    arguments: &FlowsArguments,
    order: Sort,
    out: &mut dyn Write,
) -> Result<(), ShowError> {
    let flows = best(client, arguments, order)?;
    if arguments.shown.output.json {
        let lines: Vec<String> = flows.iter().filter_map(|flow| serde_json::to_string(flow).ok()).collect();
        return Ok(writeln!(out, "[{}]", lines.join(",\n"))?);
    }
    let mut all = columns().to_vec();
    if order == Sort::Rate {
        all.splice(0..0, [("PKT/S", Align::Right), ("BIT/S", Align::Right)]);
    }
    let mut table = Table::new(&all);
    for Rated { flow, packets_per_s, bits_per_s } in &flows {
        let rates =
            [packets_per_s, bits_per_s].into_iter().flatten().map(|rate| count(rate.round() as u64).into());
        table.row(rates.chain(row(flow)).collect());
    }
    Ok(table.flush(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FlowState, PerDirection, TupleInfo};

    fn flow(number: u16) -> FlowInfo {
        let address = "192.0.2.1".parse().expect("an address");
        let tuple = TupleInfo { src: address, dst: address, sport: number, dport: 443 };
        FlowInfo {
            proto: "tcp".to_owned(),
            orig: tuple,
            reply: tuple,
            state: FlowState::Software,
            why: String::new(),
            // The order of packets is none of the others.
            packets: PerDirection { orig: u64::from(number * 7 % 5000), reply: 1 },
            bytes: PerDirection { orig: u64::from(number), reply: u64::from(number) },
            in_port: None,
            out_port: None,
            age_s: f64::from(5000 - number),
            idle_s: f64::from(number % 10),
        }
    }

    #[test]
    fn the_first_of_many_are_kept_whatever_comes_when() {
        for order in [Sort::Packets, Sort::Bytes, Sort::Age, Sort::Idle] {
            let mut best = Best { order, wanted: 10, flows: Vec::new() };
            let rated = |number| Rated { flow: flow(number), packets_per_s: None, bits_per_s: None };
            (0..5000).for_each(|number| best.add(rated(number)));
            assert!(best.flows.len() <= 2 * 10 + 1024);
            best.settle();
            let mut all: Vec<f64> = (0..5000).map(|number| rated(number).value(order)).collect();
            all.sort_by(|a, b| b.total_cmp(a));
            let kept: Vec<f64> = best.flows.iter().map(|flow| flow.value(order)).collect();
            assert_eq!(kept, all[..10], "{order:?}");
        }
    }
}
