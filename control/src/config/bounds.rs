//! What values may be, and what they are where the file says nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{MAX_CAPACITY, MAX_QUEUES};

/// Receive queues of a port.
pub(super) const QUEUES: RangeInclusive<i64> = 1..=MAX_QUEUES as i64;
/// Least and most MTU of a twin: what IPv4 needs at least, and what NICs with jumbo frames take.
pub(super) const MTU: RangeInclusive<i64> = 68..=9600;
/// Descriptors of a queue: below this a burst does not fit, above it no driver goes.
pub(super) const DESCRIPTORS: RangeInclusive<i64> = 64..=32768;

/// How long a worker without packets sleeps at most.
pub(super) const IDLE_SLEEP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);
pub(super) const DEFAULT_IDLE_SLEEP: Duration = Duration::from_millis(2);

/// Connections of the flow table.
pub(super) const CAPACITY: RangeInclusive<i64> = 1..=MAX_CAPACITY as i64;
/// How soon flows prove themselves, after a change and without.
pub(super) const PROVE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
pub(super) const DEFAULT_REVALIDATE_WITHIN: Duration = Duration::from_secs(5);
pub(super) const DEFAULT_REPROVE_EVERY: Duration = Duration::from_secs(30);

/// Packets a second of a direction that may go into the NIC.
pub(super) const HOT: RangeInclusive<i64> = 1..=1_000_000_000;
pub(super) const DEFAULT_HOT: u32 = 1000;
/// Bytes by which packets that come in may be longer than the MTU.
pub(super) const OVERSIZE: RangeInclusive<i64> = 0..=65_535;
/// Rules of the model NIC.
pub(super) const MODEL_CAPACITY: RangeInclusive<i64> = 1..=1 << 24;
pub(super) const DEFAULT_MODEL_CAPACITY: u32 = 1 << 20;

/// A range of durations in words.
pub(super) fn words(range: &RangeInclusive<Duration>) -> String {
    let text = |time: Duration| match time {
        Duration::ZERO => "0".to_owned(),
        time => humantime::format_duration(time).to_string(),
    };
    format!("{} to {}", text(*range.start()), text(*range.end()))
}
