//! Records become messages for one collector, which wait here until they are sent.

use std::collections::VecDeque;

use super::Moment;
use super::message::Message;
use super::record::{FlowRecord, NatSession, Statistics};
use super::template::Template;

/// Messages that may wait. What comes on top of them is lost, and counted.
pub const QUEUE: usize = 8192;
/// How long the word that nobody listens may take, in milliseconds.
const WORD: u64 = 1000;
/// A message waits so long for more records, in milliseconds.
const LINGER: u64 = 1000;

/// How an exporter sends.
#[derive(Clone, Copy, Debug)]
pub struct ExporterConfig {
    /// observationDomainId.
    pub domain: u32,
    /// exportingProcessId of the statistics.
    pub process: u32,
    /// The most bytes of a message: at least 512.
    pub message_size: u16,
    /// How often templates are sent again, in milliseconds.
    pub template_interval: u64,
    /// Whether NAT events are sent.
    pub nat_events: bool,
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that were sent.
    pub messages: u64,
    /// Flow records and events in them.
    pub records: u64,
    /// Their bytes.
    pub octets: u64,
    /// Records that were not sent.
    pub lost: u64,
}

#[derive(Debug)]
struct Ready {
    bytes: Vec<u8>,
    /// Flow records and events in it.
    records: u32,
}

/// The exporting process of one collector. See the module.
#[derive(Debug)]
pub struct Exporter {
    config: ExporterConfig,
    /// Data records in messages so far: what the next message's header says.
    sequence: u32,
    /// The message that is being filled, since when, and how many of its records are flows or events.
    open: Option<(Message, u64, u32)>,
    queue: VecDeque<Ready>,
    waiting: u64,
    /// When templates are to be sent.
    templates_due: u64,
    totals: Totals,
    /// Records that were sent within the last moment, and since when that lasts: word of their fate may be on its way.
    recent: (u64, u64),
}

impl Exporter {
    /// One that has sent nothing.
    pub const fn new(config: ExporterConfig) -> Self {
        Self {
            config,
            sequence: 0,
            open: None,
            queue: VecDeque::new(),
            waiting: 0,
            templates_due: 0,
            totals: Totals { messages: 0, records: 0, octets: 0, lost: 0 },
            recent: (0, 0),
        }
    }

    /// What became of records so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Records that wait to be sent.
    pub const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Takes a flow record.
    pub fn flow(&mut self, moment: Moment, record: &FlowRecord) {
        self.add(moment, &record.template(), |out| record.write(out));
    }

    /// Takes a NAT event, if such are sent.
    pub fn nat(&mut self, moment: Moment, session: &NatSession) {
        if self.config.nat_events {
            self.add(moment, &NatSession::TEMPLATE, |out| session.write(out));
        }
    }

    /// Time has passed: what has waited long enough for more is closed, and templates are sent when it is time.
    pub fn advance(&mut self, moment: Moment) {
        if moment.now >= self.templates_due && self.queue.len() < QUEUE {
            self.templates_due = moment.now + self.config.template_interval;
            self.templates(moment);
        }
        if self.open.as_ref().is_some_and(|(_, since, _)| moment.now >= since + LINGER) {
            self.close(moment);
        }
    }

    /// Closes the message that is being filled.
    pub fn close(&mut self, moment: Moment) {
        let Some((message, _, records)) = self.open.take() else { return };
        self.enqueue(moment, message, records);
    }

    /// The message to send next, until [`sent`](Self::sent) or [`failed`](Self::failed) is called.
    pub fn next(&self) -> Option<&[u8]> {
        self.queue.front().map(|ready| ready.bytes.as_slice())
    }

    /// It was sent, so many milliseconds since the process started.
    pub fn sent(&mut self, now: u64) {
        let Some(ready) = self.queue.pop_front() else { return };
        self.waiting -= u64::from(ready.records);
        self.totals.messages += 1;
        self.totals.records += u64::from(ready.records);
        self.totals.octets += ready.bytes.len() as u64;
        if now >= self.recent.1 + WORD {
            self.recent = (0, now);
        }
        self.recent.0 += u64::from(ready.records);
    }

    /// What was sent within the last moment came to nothing.
    pub fn refused(&mut self) {
        let refused = std::mem::take(&mut self.recent.0);
        self.totals.records -= refused;
        self.totals.lost += refused;
    }

    /// It can't be sent, ever.
    pub fn failed(&mut self) {
        let Some(ready) = self.queue.pop_front() else { return };
        self.waiting -= u64::from(ready.records);
        self.totals.lost += u64::from(ready.records);
    }

    /// The collector may have forgotten them, or never had them: with the next [`advance`](Self::advance) come templates.
    pub const fn send_templates(&mut self) {
        self.templates_due = 0;
    }

    /// Nothing that waits will be sent any more.
    pub fn give_up(&mut self, moment: Moment) {
        self.close(moment);
        while self.next().is_some() {
            self.failed();
        }
    }

    fn add(&mut self, moment: Moment, template: &Template, write: impl FnOnce(&mut Vec<u8>)) {
        // Nothing comes before its template.
        self.advance(moment);
        let full =
            |(message, ..): &(Message, u64, u32)| !message.has_room(template.id, template.record_length());
        if self.open.as_ref().is_some_and(full) {
            self.close(moment);
        }
        // With the one that would be filled the queue would be too long.
        if self.open.is_none() && self.queue.len() >= QUEUE {
            self.totals.lost += 1;
            return;
        }
        let limit = usize::from(self.config.message_size);
        let (message, _, records) = self.open.get_or_insert_with(|| (Message::new(limit), moment.now, 0));
        message.add(template.id, write);
        *records += 1;
        self.waiting += 1;
    }

    /// Templates go in a message of their own, with what there is to tell of the exporter itself. It goes before the one that
    /// is being filled: a collector that has just begun to listen understands that one too.
    fn templates(&mut self, moment: Moment) {
        let mut message = Message::new(usize::from(self.config.message_size));
        let wanted = |template: &&Template| self.config.nat_events || template.id != NatSession::TEMPLATE.id;
        for template in Template::ALL.iter().filter(wanted) {
            message.add_template(template.set(), |out| template.write(out));
        }
        let statistics = Statistics {
            process: self.config.process,
            records: self.totals.records,
            messages: self.totals.messages,
            octets: self.totals.octets,
            not_sent: self.totals.lost,
        };
        message.add(Statistics::TEMPLATE.id, |out| statistics.write(out));
        self.enqueue(moment, message, 0);
    }

    fn enqueue(&mut self, moment: Moment, message: Message, records: u32) {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(message.records());
        // Seconds in 32 bits, without a sign: until 2106.
        let bytes = message.finish((moment.unix_ms / 1000) as u32, sequence, self.config.domain);
        self.queue.push_back(Ready { bytes, records });
    }
}
