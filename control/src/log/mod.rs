//! What the gateway says of itself: quiet on standard error or in the journal, and kept for `flyover events`.
//!
//! Only the control side logs; workers count. What is said in the same place many times within a few seconds is said a few
//! times, and then how often it was left out.

mod journal;
mod limit;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use nix::sys::stat::fstat;
use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

pub use journal::Journal;
use limit::{Limit, Limited};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// What was said lately, and what was left out.
#[derive(Clone, Debug, Default)]
pub struct Log {
    journal: Journal,
    /// Of the journal, and of what is written: they hear from different levels on.
    limits: [Limit; 2],
    /// From which level on something is written.
    level: Arc<OnceLock<Handle<LevelFilter, Registry>>>,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl Log {
    /// Begins to log. Of several in one process the first stays.
    pub fn start(config: LogConfig) -> Self {
        let log = Self::default();
        let subscriber = log.subscriber(output(config.format), config.level.into());
        // A second subscriber in the same process is refused.
        let _ = subscriber.try_init();
        log
    }

    fn subscriber(
        &self,
        output: Box<dyn Layer<Registry> + Send + Sync>,
        level: LevelFilter,
    ) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync {
        let [kept, written] = self.limits.clone();
        let written = Limited { limit: written, layer: output };
        let kept = Limited { limit: kept, layer: self.journal.clone() };
        let (level, handle) = reload::Layer::new(level);
        // A log has one subscriber.
        let _ = self.level.set(handle);
        tracing_subscriber::registry()
            .with(written.with_filter(level))
            .with(kept.with_filter(LevelFilter::INFO))
    }

    /// Writes from another level on.
    pub fn set_level(&self, level: LogLevel) {
        if let Some(Err(error)) = self.level.get().map(|handle| handle.reload(LevelFilter::from(level))) {
            tracing::warn!(%error, "the log's level stays as it is");
        }
    }

    /// What is kept of it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Says what was left out since the last time.
    pub fn tell_left_out(&self) {
        let mut places = BTreeMap::<String, u64>::new();
        for (place, times) in self.limits.iter().flat_map(Limit::left_out) {
            // What both have left out was said once.
            let most = places.entry(place).or_default();
            *most = times.max(*most);
        }
        for (place, times) in places {
            tracing::info!(times, place, "left out, since it was said too often");
        }
    }
}

/// To the journal with its fields, or to standard error.
fn output(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    if format == LogFormat::Text
        && stderr_is_the_journal()
        && let Ok(journald) = tracing_journald::layer()
    {
        let prefix = Some("FLYOVER".to_owned());
        return journald.with_syslog_identifier("flyover".to_owned()).with_field_prefix(prefix).boxed();
    }
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` is device and inode of the stream that leads to the journal. Whoever inherits the
/// variable need not write there.
fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    fstat(io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::api::EventPage;

    fn said(log: &Log) -> Vec<String> {
        let EventPage { events, .. } = log.journal().after(0, 1000);
        events.into_iter().map(|event| event.message).collect()
    }

    fn with_log(act: impl FnOnce(&Log)) {
        let log = Log::default();
        let nothing = tracing_subscriber::fmt::layer().with_writer(io::sink).boxed();
        tracing::subscriber::with_default(log.subscriber(nothing, LevelFilter::WARN), || act(&log));
    }

    /// What is written, for tests.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_left_out_takes_nothing_else_along() {
        let (log, lines) = (Log::default(), Lines::default());
        let writer = lines.clone();
        let output = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.subscriber(output.boxed(), LevelFilter::WARN), || {
            for number in 0..100 {
                tracing::debug!(number, "below every level");
                tracing::info!(number, "kept alone");
                // Never so often that it would be left out.
                if number % 10 == 5 {
                    tracing::error!(number, "it has to be said");
                }
            }
        });
        let written = String::from_utf8(lines.0.lock().expect("whole").clone()).expect("text");
        assert_eq!(written.matches("it has to be said").count(), 10, "{written}");
        assert!(!written.contains("kept alone") && !written.contains("below"), "{written}");
        let kept = said(&log);
        assert_eq!(kept.iter().filter(|message| *message == "it has to be said").count(), 10, "{kept:?}");
        assert_eq!(kept.iter().filter(|message| *message == "kept alone").count(), 20, "{kept:?}");
    }

    #[test]
    fn the_level_changes_while_it_logs() {
        let (log, lines) = (Log::default(), Lines::default());
        let writer = lines.clone();
        let output = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.subscriber(output.boxed(), LevelFilter::WARN), || {
            for (level, word) in
                [(LogLevel::Warn, "first"), (LogLevel::Debug, "second"), (LogLevel::Error, "third")]
            {
                log.set_level(level);
                tracing::debug!("{word}");
            }
        });
        let written = String::from_utf8(lines.0.lock().expect("whole").clone()).expect("text");
        assert_eq!(written.lines().count(), 1, "{written}");
        assert!(written.contains("second"), "{written}");
    }

    #[test]
    fn what_is_worth_knowing_is_kept_with_its_fields() {
        with_log(|log| {
            tracing::info!(port = "wan0", up = true, "carrier");
            tracing::debug!("nobody asked");
            tracing::error!(error = %io::Error::other("no"), "it failed");
            let EventPage { events, next, lost } = log.journal().after(0, 10);
            assert_eq!((events.len(), next, lost), (2, 2, 0));
            let [first, second] = &events[..] else { panic!("{events:?}") };
            assert_eq!((first.seq, first.level.as_str(), first.message.as_str()), (1, "info", "carrier"));
            assert_eq!(first.fields["port"], "wan0");
            assert_eq!(first.fields["up"], "true");
            assert_eq!((second.level.as_str(), second.fields["error"].as_str()), ("error", "no"));
            assert!(log.journal().after(2, 10).events.is_empty());
        });
    }

    #[test]
    fn the_oldest_make_room_and_are_missed() {
        with_log(|log| {
            for number in 0..1500 {
                // Each in a place of its own as far as the limit is concerned.
                log.limits[0].forget();
                tracing::info!(number, "something");
            }
            let page = log.journal().after(0, 10);
            assert_eq!((page.events.len(), page.events[0].seq, page.lost), (10, 477, 476));
            assert_eq!(page.next, 486);
            let rest = log.journal().after(page.next, 10_000);
            assert_eq!((rest.events.len(), rest.next, rest.lost), (1014, 1500, 0));
        });
    }

    #[test]
    fn what_is_said_too_often_is_left_out_and_counted() {
        with_log(|log| {
            for number in 0..100 {
                tracing::warn!(number, "again");
                tracing::info!("once a round, elsewhere");
            }
            let before = said(log);
            assert_eq!(before.iter().filter(|message| *message == "again").count(), 20);
            log.tell_left_out();
            let after = log.journal().after(before.len() as u64, 10).events;
            let times: Vec<&str> = after.iter().map(|event| event.fields["times"].as_str()).collect();
            assert_eq!(times, ["80", "80"], "{after:?}");
            assert!(after[0].fields["place"].contains("log/mod.rs:"), "{after:?}");
            log.tell_left_out();
            assert_eq!(said(log).len(), before.len() + 2);
        });
    }

    #[test]
    fn a_long_message_is_cut() {
        with_log(|log| {
            tracing::info!(text = "é".repeat(10_000), "{}", "é".repeat(10_000));
            let event = log.journal().after(0, 1).events.remove(0);
            assert!(event.message.len() <= 1024 && event.fields["text"].len() <= 1024);
        });
    }
}
