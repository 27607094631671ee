//! `flyover events`: what has happened, and what happens.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use super::args::EventsArguments;
use super::error::ShowError;
use super::style::{Tone, paint};
use crate::api::{Client, ClientError, EventInfo, EventPage, MAX_PAGE, Request};

/// How often a gateway that is followed is asked.
const PACE: Duration = Duration::from_millis(500);

/// Prints the last events, and with `--follow` those that come.
pub(super) fn show(
    client: &mut Client,
    arguments: &EventsArguments,
    out: &mut dyn Write,
) -> Result<(), ShowError> {
    let mut page = Pages { client, after: 0, lost: 0 };
    let mut past = page.all()?;
    past.retain(|event| arguments.level.includes(&event.level));
    let last = arguments.lines.map_or(past.len(), |lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let past = past.split_off(past.len().saturating_sub(last));
    if !arguments.follow {
        return Ok(whole(&past, arguments.output.json, out)?);
    }
    let mut lines = |events: &[EventInfo]| -> io::Result<()> {
        for event in events.iter().filter(|event| arguments.level.includes(&event.level)) {
            line(event, arguments.output.json, out)?;
        }
        out.flush()
    };
    lines(&past)?;
    loop {
        thread::sleep(PACE);
        let new = page.all()?;
        if page.lost > 0 {
            // They are not of the JSON; nothing is lost silently.
            writeln!(io::stderr(), "flyover: {} events came faster than they are kept", page.lost)?;
        }
        lines(&new)?;
    }
}

/// Asks for page after page.
struct Pages<'a> {
    client: &'a mut Client,
    after: u64,
    /// Of the last question.
    lost: u64,
}

impl Pages<'_> {
    /// All that there are after the last ones.
    fn all(&mut self) -> Result<Vec<EventInfo>, ClientError> {
        let first = self.after == 0;
        let mut all = Vec::new();
        self.lost = 0;
        loop {
            let page: EventPage = self.client.ask(&Request::Events { after: self.after, limit: MAX_PAGE })?;
            // What was before the first question was not asked for.
            self.lost += if first { 0 } else { page.lost };
            self.after = page.next;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
        }
    }
}

fn whole(events: &[EventInfo], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(events)?)?);
    }
    events.iter().try_for_each(|event| line(event, false, out))
}

/// One event a line; as JSON one object a line.
fn line(event: &EventInfo, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(event)?)?);
    }
    let level = format!("{:5}", event.level);
    let level = match event.level.as_str() {
        "error" => paint(Tone::Bad, &level),
        "warn" => paint(Tone::Warn, &level),
        _ => level,
    };
    write!(out, "{}  {level}  {}", paint(Tone::Faint, &event.time), event.message)?;
    for (name, value) in &event.fields {
        write!(out, "  {}{value}", paint(Tone::Faint, &format!("{name}=")))?;
    }
    writeln!(out)
}
