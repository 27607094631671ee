//! `flyover reload`: has the gateway read its configuration again, and tells what came of it.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::args::ReloadArguments;
use crate::api::{Client, ClientError, ReloadChange, ReloadOutcome, ReloadReport, ReloadState, Request};

/// Between two looks whether it is done.
const PACE: Duration = Duration::from_millis(20);

/// A [`ReloadState`] whose report is not read yet.
#[derive(Deserialize)]
struct Told {
    report: Option<Box<RawValue>>,
}

/// Asks, and waits for what comes of it: as the gateway wrote it, and read.
pub(super) fn ask(
    client: &mut Client,
    arguments: &ReloadArguments,
) -> Result<(Box<RawValue>, ReloadReport), ClientError> {
    let ReloadArguments { check, partial, .. } = *arguments;
    let ReloadState { number, .. } = client.ask(&Request::Reload { check, partial })?;
    loop {
        let raw = client.ask_raw(&Request::Reloaded { number })?;
        if let Some(found) = client.read::<Told>(&raw)?.report {
            let report = client.read(&found)?;
            return Ok((found, report));
        }
        thread::sleep(PACE);
    }
}

/// What failed, for standard error and the exit code.
pub(super) fn fault(report: &ReloadReport) -> Option<String> {
    match (report.outcome, &report.error) {
        (ReloadOutcome::Failed, Some(error)) => Some(error.clone()),
        (ReloadOutcome::Failed, None) => Some("it failed".to_owned()),
        (ReloadOutcome::Refused, _) => Some(
            "nothing was changed: restart, or take over what can change at run time with --partial"
                .to_owned(),
        ),
        _ => None,
    }
}

/// For people.
pub(super) fn show(out: &mut dyn Write, report: &ReloadReport) -> io::Result<()> {
    let file = report.file.as_deref().unwrap_or("the configuration");
    let heading = match report.outcome {
        ReloadOutcome::Applied => "changed",
        ReloadOutcome::Unchanged if report.restart.is_empty() => {
            writeln!(out, "{file}: read again, nothing differs")?;
            return notices(out, report);
        }
        ReloadOutcome::Failed => return notices(out, report),
        ReloadOutcome::Checked | ReloadOutcome::Unchanged => "would change",
        ReloadOutcome::Refused => "could change at run time, but was not changed",
    };
    if !report.changed.is_empty() {
        writeln!(out, "{file}: {heading}")?;
        changes(out, &report.changed)?;
    }
    if !report.restart.is_empty() {
        writeln!(out, "{file}: needs a restart: systemctl restart flyover (connections go on)")?;
        changes(out, &report.restart)?;
    }
    notices(out, report)
}

fn notices(out: &mut dyn Write, report: &ReloadReport) -> io::Result<()> {
    report.notices.iter().try_for_each(|notice| writeln!(out, "note: {notice}"))
}

fn changes(out: &mut dyn Write, changes: &[ReloadChange]) -> io::Result<()> {
    let width = changes.iter().map(|change| change.key.chars().count()).max().unwrap_or(0);
    for change in changes {
        write!(out, "  {:width$}  {}", change.key, words(change))?;
        match &change.why {
            Some(why) => writeln!(out, "  ({why})")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

fn words(change: &ReloadChange) -> String {
    let is_port = change.key.matches('.').count() == 1 && change.key.starts_with("port.");
    match (&change.old, &change.new) {
        (None, Some(device)) if is_port => format!("added: {device}"),
        (Some(device), None) if is_port => format!("taken away: {device}; its twin stays"),
        (old, new) => {
            let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
            format!("{} -> {}", word(old), word(new))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, old: Option<&str>, new: Option<&str>, why: Option<&str>) -> ReloadChange {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        ReloadChange { key: key.to_owned(), old: owned(old), new: owned(new), why: owned(why) }
    }

    fn shown(report: &ReloadReport) -> String {
        let mut out = Vec::new();
        show(&mut out, report).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_was_changed_and_what_was_not_is_told_apart() {
        let report = ReloadReport {
            outcome: ReloadOutcome::Applied,
            file: Some("/etc/x".to_owned()),
            changed: vec![
                change("log.level", Some("\"warn\""), Some("\"info\""), None),
                change("hardware.mark", None, Some("\"0x1/0x1\""), None),
                change("port.opt0", None, Some("net_tap2"), None),
                change("port.lan0", Some("net_tap1"), None, None),
            ],
            restart: vec![change("flows.capacity", Some("1"), Some("2"), Some("made at the start"))],
            ..ReloadReport::default()
        };
        assert_eq!(
            shown(&report),
            "/etc/x: changed\n  \
             log.level      \"warn\" -> \"info\"\n  \
             hardware.mark  not set -> \"0x1/0x1\"\n  \
             port.opt0      added: net_tap2\n  \
             port.lan0      taken away: net_tap1; its twin stays\n\
             /etc/x: needs a restart: systemctl restart flyover (connections go on)\n  \
             flows.capacity  1 -> 2  (made at the start)\n"
        );
        assert_eq!(fault(&report), None);
        let refused = ReloadReport { outcome: ReloadOutcome::Refused, ..report };
        assert!(shown(&refused).starts_with("/etc/x: could change at run time, but was not changed\n"));
        assert!(fault(&refused).is_some_and(|fault| fault.contains("--partial")));
    }

    #[test]
    fn nothing_but_what_takes_a_restart() {
        let restart = vec![change("flows.capacity", Some("1"), Some("2"), Some("made at the start"))];
        let told = shown(&ReloadReport { restart, ..ReloadReport::default() });
        assert!(told.contains("needs a restart") && !told.contains("nothing differs"), "{told}");
    }

    #[test]
    fn nothing_and_a_fault() {
        let nothing = ReloadReport { notices: vec!["a word".to_owned()], ..ReloadReport::default() };
        assert_eq!(shown(&nothing), "the configuration: read again, nothing differs\nnote: a word\n");
        let failed = ReloadReport {
            outcome: ReloadOutcome::Failed,
            error: Some("x.toml:3:1: no".to_owned()),
            ..nothing
        };
        assert_eq!(
            (shown(&failed).as_str(), fault(&failed).as_deref()),
            ("note: a word\n", Some("x.toml:3:1: no"))
        );
    }
}
