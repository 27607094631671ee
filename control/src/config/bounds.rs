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

/// How often collectors of flow records are told what they should know by then.
pub(super) const EXPORT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
pub(super) const DEFAULT_EXPORT: Duration = Duration::from_secs(60);
/// observationDomainId.
pub(super) const DOMAIN: RangeInclusive<i64> = 0..=u32::MAX as i64;
pub(super) const DEFAULT_DOMAIN: u32 = 1;
/// Bytes of a message: 512 is what RFC 7011 allows where nothing is known of the path, and 1400 fits into what is left of
/// 1500 by a tunnel or two.
pub(super) const MESSAGE_SIZE: RangeInclusive<i64> = 512..=8900;
pub(super) const DEFAULT_MESSAGE_SIZE: u16 = 1400;

/// A range of durations in words.
pub(super) fn words(range: &RangeInclusive<Duration>) -> String {
    let text = |time: Duration| match time {
        Duration::ZERO => "0".to_owned(),
        time => humantime::format_duration(time).to_string(),
    };
    format!("{} to {}", text(*range.start()), text(*range.end()))
}
