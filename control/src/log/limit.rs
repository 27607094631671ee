//! What is said in one place of the program, a few times in a few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// So many times
const TIMES: u32 = 20;
/// in so long.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts by place; there are only so many in a program. Clones share them.
///
/// This is no filter of tracing's: one that says no after others have been asked leaves their answers behind, and the next
/// event is taken for the one that was left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Limit(Arc<Mutex<HashMap<Identifier, Place>>>);

#[derive(Debug)]
struct Place {
    metadata: &'static Metadata<'static>,
    since: Instant,
    said: u32,
    left_out: u64,
}

impl Limit {
    fn places(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places in which something was left out since the last time that this was asked, and how often.
    pub(super) fn left_out(&self) -> Vec<(String, u64)> {
        let mut places = self.places();
        let silent = places.values_mut().filter(|place| place.left_out > 0);
        let told = silent.map(|place| {
            let (file, line) = (place.metadata.file().unwrap_or("?"), place.metadata.line().unwrap_or(0));
            (format!("{file}:{line}"), std::mem::take(&mut place.left_out))
        });
        let mut told: Vec<_> = told.collect();
        told.sort();
        told
    }

    /// Whether an event of this place is to be said now.
    fn admits(&self, metadata: &'static Metadata<'static>) -> bool {
        let now = Instant::now();
        let mut places = self.places();
        let place =
            places.entry(metadata.callsite()).or_insert(Place { metadata, since: now, said: 0, left_out: 0 });
        if now.duration_since(place.since) >= WINDOW {
            (place.since, place.said) = (now, 0);
        }
        if place.said == TIMES {
            place.left_out += 1;
            return false;
        }
        place.said += 1;
        true
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.places().clear();
    }
}

/// A layer that hears the events which the limit lets through; spans, of which nothing here has any, it does not hear of.
#[derive(Debug)]
pub(super) struct Limited<L> {
    pub(super) limit: Limit,
    pub(super) layer: L,
}

impl<S: Subscriber, L: Layer<S>> Layer<S> for Limited<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.limit.admits(event.metadata()) {
            self.layer.on_event(event, context);
        }
    }
}
