//! `flyover trace`: what becomes of the next packets, step by step.

mod frame;
mod packet;
mod text;

use std::collections::HashMap;
use std::io::{self, Write};

use dataplane::capture::{Record, What};

use super::args::TraceArguments;
use super::capture::{CaptureError, Session, Stop, compile};
use crate::api::{CaptureRequest, Client, Told};
use packet::Traced;

/// As many bytes of a packet are looked at: all headers that are taken apart, and more.
const BYTES: u16 = 256;

/// Prints packets as their ways end, until there were enough, the time is up, or the user has had enough.
pub(super) fn run(client: Client, arguments: &TraceArguments) -> Result<(), CaptureError> {
    let program = compile(&arguments.filter.join(" "))?;
    let stop = Stop::new(arguments.timeout).map_err(CaptureError::Signals)?;
    let request = CaptureRequest {
        program,
        points: ["rx", "tx", "punt", "drop", "decisions"].map(str::to_owned).into(),
        ports: Vec::new(),
        bytes: BYTES,
        packets: Some(arguments.packets),
    };
    let (head, records) = client.capture(request)?;
    writeln!(io::stderr(), "flyover: tracing; Ctrl-C ends it")?;
    let mut session = Session::new(records, stop);
    let mut ways = Ways { ports: head.ports, epoch_ns: head.epoch_ns, under_way: HashMap::new(), printed: 0 };
    let outcome = follow(&mut session, &mut ways, arguments);
    // What was seen of those whose ways did not end meanwhile.
    let rest = outcome.and_then(|()| ways.rest(arguments));
    if ways.printed < u64::from(arguments.packets) && !arguments.output.json {
        let plural = if ways.printed == 1 { "packet" } else { "packets" };
        writeln!(io::stderr(), "flyover: {} {plural} of {}", ways.printed, arguments.packets)?;
    }
    rest
}

fn follow(session: &mut Session, ways: &mut Ways, arguments: &TraceArguments) -> Result<(), CaptureError> {
    while !session.is_over() {
        if ways.printed >= u64::from(arguments.packets) {
            // What is left concerns no packet that is wanted.
            ways.under_way.clear();
            session.end();
            return Ok(());
        }
        match session.next()? {
            Told::Record(record) => ways.note(&record, arguments)?,
            Told::Nothing => io::stdout().flush()?,
            Told::End => break,
        }
    }
    Ok(())
}

/// Packets whose ways have not ended.
struct Ways {
    ports: Vec<String>,
    epoch_ns: u64,
    under_way: HashMap<(u16, u32), Traced>,
    printed: u64,
}

impl Ways {
    fn note(&mut self, record: &Record<'_>, arguments: &TraceArguments) -> Result<(), CaptureError> {
        let key = (record.worker, record.packet);
        if matches!(record.what, What::Received | What::Fetched) {
            self.under_way.insert(key, Traced::begin(record, &self.ports, self.epoch_ns));
            return Ok(());
        }
        let Some(packet) = self.under_way.get_mut(&key) else { return Ok(()) };
        if packet.note(record, &self.ports)
            && let Some(packet) = self.under_way.remove(&key)
        {
            self.print(packet, arguments)?;
        }
        Ok(())
    }

    fn rest(&mut self, arguments: &TraceArguments) -> Result<(), CaptureError> {
        let mut rest: Vec<Traced> = self.under_way.drain().map(|(_, packet)| packet).collect();
        rest.sort_by_key(|packet| packet.nanos);
        rest.into_iter().try_for_each(|packet| self.print(packet, arguments))
    }

    fn print(&mut self, mut packet: Traced, arguments: &TraceArguments) -> Result<(), CaptureError> {
        if self.printed >= u64::from(arguments.packets) {
            return Ok(());
        }
        self.printed += 1;
        packet.packet = self.printed;
        let mut out = io::stdout().lock();
        if arguments.output.json {
            writeln!(out, "{}", serde_json::to_string(&packet).map_err(io::Error::from)?)?;
        } else {
            if self.printed > 1 {
                writeln!(out)?;
            }
            text::write(&mut out, &packet)?;
        }
        out.flush()?;
        Ok(())
    }
}
