//! What the gateway says at a time.

use std::time::Instant;

use crate::api::{
    Client, ClientError, EventInfo, EventPage, FlowFilter, FlowInfo, FlowPage, MAX_PAGE, Request, Stats,
    Status,
};

/// So many connections are looked at for the busiest ones: each look is a second apart, and the gateway has other things
/// to do.
const LOOK_AT: usize = 20_000;

/// Answers to all questions.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) stats: Stats,
    /// The first of them.
    pub(super) flows: Vec<FlowInfo>,
    /// Whether those are all.
    pub(super) all_flows: bool,
    /// New ones.
    pub(super) events: Vec<EventInfo>,
    /// Number of the latest event.
    pub(super) seen: u64,
}

/// Asks; of events for those after the one of this number.
pub(super) fn take(client: &mut Client, seen: u64) -> Result<Sample, ClientError> {
    let (mut flows, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor.filter(|_| flows.len() < LOOK_AT) {
        let request = Request::Flows { cursor: from, limit: MAX_PAGE, filter: FlowFilter::default() };
        let page: FlowPage = client.ask(&request)?;
        flows.extend(page.flows);
        cursor = page.next;
    }
    let (mut events, mut seen) = (Vec::new(), seen);
    loop {
        let page: EventPage = client.ask(&Request::Events { after: seen, limit: MAX_PAGE })?;
        seen = page.next;
        if page.events.is_empty() {
            break;
        }
        events.extend(page.events);
    }
    let at = Instant::now();
    let (status, stats) = (client.ask(&Request::Status {})?, client.ask(&Request::Stats {})?);
    Ok(Sample { at, status, stats, flows, all_flows: cursor.is_none(), events, seen })
}
