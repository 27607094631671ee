//! The last events, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::api::{EventInfo, EventPage};

/// So many are kept: hours of a quiet gateway.
const KEPT: usize = 1024;
/// Bytes of a message, and of the value of a field.
const LONGEST: usize = 1024;

/// The last events. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Events>>);

#[derive(Debug, Default)]
struct Events {
    last: VecDeque<EventInfo>,
    /// Number of the latest.
    count: u64,
}

impl Journal {
    fn events(&self) -> MutexGuard<'_, Events> {
        // Whoever panicked has left whole events.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At most `limit` events after the one with this number, the oldest first.
    pub fn after(&self, seq: u64, limit: usize) -> EventPage {
        let events = self.events();
        let first = events.last.front().map_or(events.count + 1, |event| event.seq);
        // A number from before a restart says nothing.
        let seq = if seq > events.count { 0 } else { seq };
        let lost = first.saturating_sub(seq + 1);
        let wanted = events.last.iter().skip_while(|event| event.seq <= seq).take(limit);
        let page: Vec<EventInfo> = wanted.cloned().collect();
        let next = page.last().map_or(seq.max(first.saturating_sub(1)), |event| event.seq);
        EventPage { events: page, next, lost }
    }

    /// Number of the latest event.
    pub fn latest(&self) -> u64 {
        self.events().count
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let mut events = self.events();
        events.count += 1;
        let event = EventInfo {
            seq: events.count,
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            level: event.metadata().level().as_str().to_ascii_lowercase(),
            message: words.message,
            fields: words.fields,
        };
        if events.last.len() == KEPT {
            events.last.pop_front();
        }
        events.last.push_back(event);
    }
}

/// An event's message and fields.
#[derive(Default)]
struct Words {
    message: String,
    fields: BTreeMap<String, String>,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }
}

impl Words {
    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut short = Short(String::new());
        // What is too long ends early.
        let _ = short.write_fmt(value);
        if field.name() == "message" {
            self.message = short.0;
        } else {
            self.fields.insert(field.name().to_owned(), short.0);
        }
    }
}

/// Text that is cut where it gets too long.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST - self.0.len();
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.0.push_str(text.get(..end).unwrap_or_default());
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
