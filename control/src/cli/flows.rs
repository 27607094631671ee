//! `flyover flows`: pages are printed as they come, so that a million connections need no memory.

mod sorted;

#[cfg(test)]
pub(super) use sorted::Rated;

use std::io::Write;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::args::FlowsArguments;
use super::error::ShowError;
use super::format::{bytes, count, seconds, tuple};
use super::style::Tone;
use super::table::{Align, Cell, Table};
use crate::api::{Client, FlowInfo, FlowPage, FlowState, MAX_PAGE, Request};

/// A page whose flows are printed as the gateway wrote them.
#[derive(Deserialize)]
struct RawPage {
    flows: Vec<Box<RawValue>>,
    next: Option<u64>,
}

/// Prints what the arguments ask for.
pub(super) fn show(
    client: &mut Client,
    arguments: &FlowsArguments,
    out: &mut dyn Write,
) -> Result<(), ShowError> {
    match (arguments.sort, arguments.shown.output.json) {
        (Some(order), _) => sorted::show(client, arguments, order, out),
        (None, true) => json(client, arguments, out),
        (None, false) => text(client, arguments, out),
    }
}

/// The requests for one page after the other, as many flows as are wanted.
struct Pages<'a> {
    arguments: &'a FlowsArguments,
    cursor: Option<u64>,
    left: u64,
}

impl<'a> Pages<'a> {
    fn new(arguments: &'a FlowsArguments) -> Self {
        Self { left: arguments.limit.unwrap_or(u64::MAX), ..Self::all(arguments) }
    }

    /// Whatever the limit.
    fn all(arguments: &'a FlowsArguments) -> Self {
        Self { arguments, cursor: Some(0), left: u64::MAX }
    }

    fn request(&self) -> Option<Request> {
        let cursor = self.cursor.filter(|_| self.left > 0)?;
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(MAX_PAGE);
        Some(Request::Flows { cursor, limit, filter: self.arguments.filter() })
    }

    fn got(&mut self, flows: usize, next: Option<u64>) {
        self.left = self.left.saturating_sub(flows as u64);
        self.cursor = next;
    }
}

fn json(client: &mut Client, arguments: &FlowsArguments, out: &mut dyn Write) -> Result<(), ShowError> {
    let mut pages = Pages::new(arguments);
    let mut separator = "[";
    while let Some(request) = pages.request() {
        let page: RawPage = match client.ask(&request) {
            Ok(page) => page,
            // Standard output stays unfinished: half a list must not look like a whole one.
            Err(error) => {
                out.flush()?;
                return Err(error.into());
            }
        };
        for flow in &page.flows {
            write!(out, "{separator}{flow}")?;
            separator = ",\n";
        }
        pages.got(page.flows.len(), page.next);
    }
    if separator == "[" {
        write!(out, "[")?;
    }
    Ok(writeln!(out, "]")?)
}

fn text(client: &mut Client, arguments: &FlowsArguments, out: &mut dyn Write) -> Result<(), ShowError> {
    let mut table = Table::new(&columns());
    let mut pages = Pages::new(arguments);
    while let Some(request) = pages.request() {
        let page: FlowPage = client.ask(&request)?;
        for flow in &page.flows {
            table.row(row(flow));
        }
        table.flush(out)?;
        pages.got(page.flows.len(), page.next);
    }
    table.flush(out)?;
    Ok(())
}

/// Names a connection, from one look at it to the next.
pub(super) type Name = (String, SocketAddr, SocketAddr);

/// A connection's name.
pub(super) fn name(flow: &FlowInfo) -> Name {
    let tuple = &flow.orig;
    let (src, dst) = (SocketAddr::new(tuple.src, tuple.sport), SocketAddr::new(tuple.dst, tuple.dport));
    (flow.proto.clone(), src, dst)
}

const fn columns() -> [(&'static str, Align); 11] {
    [
        ("PROTO", Align::Left),
        ("STATE", Align::Left),
        ("ORIGINAL", Align::Left),
        ("REPLY", Align::Left),
        ("IN", Align::Left),
        ("OUT", Align::Left),
        ("PACKETS", Align::Right),
        ("BYTES", Align::Right),
        ("AGE", Align::Right),
        ("IDLE", Align::Right),
        ("WHY", Align::Left),
    ]
}

/// A state's colour.
pub(super) const fn tone(state: FlowState) -> Tone {
    match state {
        FlowState::Hardware => Tone::Hardware,
        FlowState::Software => Tone::Good,
        FlowState::Probing => Tone::Passing,
        FlowState::Candidate => Tone::Warn,
        FlowState::Closing => Tone::Faint,
    }
}

fn row(flow: &FlowInfo) -> Vec<Cell> {
    let port = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned()).into();
    vec![
        flow.proto.clone().into(),
        Cell::toned(tone(flow.state), flow.state.name()),
        tuple(&flow.orig).into(),
        tuple(&flow.reply).into(),
        port(&flow.in_port),
        port(&flow.out_port),
        count(flow.packets.both()).into(),
        bytes(flow.bytes.both()).into(),
        seconds(flow.age_s).into(),
        seconds(flow.idle_s).into(),
        flow.why.clone().into(),
    ]
}
