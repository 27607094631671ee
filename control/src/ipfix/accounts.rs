//! What of each connection was told already, and the records that tell the rest.
//!
//! Everything is told once: what workers and NICs carried with the record of the time in which they did, what the kernel
//! carried with the last, since it tells its own count at the end of the entry.

use std::ops::Range;

use super::Moment;
use super::record::{Count, EndReason, FlowRecord};
use crate::netlink::conntrack::{ConntrackEntry, TcpState};
use crate::tracker::{Account, Carried, DirectionAccount};

/// Connections looked at in one go.
const BATCH: u64 = 1024;

/// What of a connection was told: by direction, and by workers and NICs.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    bytes: [[u64; 2]; 2],
    /// Wrapping: 2^31 packets are more than fly between two records.
    packets: [[u32; 2]; 2],
    /// When the last record was made, in milliseconds since start, wrapping; 0: none was.
    at: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Accounts {
    /// By the tracker's index.
    told: Vec<Told>,
    /// How often a connection that goes on has a record, in milliseconds.
    active_timeout: u64,
    cursor: usize,
    swept_at: u64,
    /// Milliseconds, times connections, that were not enough for another turn.
    credit: u64,
}

impl Accounts {
    /// Nothing was told of anything.
    pub const fn new(active_timeout: u64) -> Self {
        let active_timeout = if active_timeout == 0 { 1 } else { active_timeout };
        Self { told: Vec::new(), active_timeout, cursor: 0, swept_at: 0, credit: 0 }
    }

    /// Which connections, by the tracker's index, are to be looked at now: each once in the active timeout, and never so
    /// many at a time that others wait for it: whoever is late does not hurry, and records come later then. `span` is one
    /// more than the highest index.
    pub fn due(&mut self, now: u64, span: usize) -> Range<usize> {
        if self.cursor >= span {
            self.cursor = 0;
        }
        let elapsed = now.saturating_sub(std::mem::replace(&mut self.swept_at, now));
        self.credit = self.credit.saturating_add(elapsed.saturating_mul(span as u64));
        let wanted = self.credit / self.active_timeout;
        self.credit -= wanted * self.active_timeout;
        let first = self.cursor;
        self.cursor = span.min(first + wanted.min(BATCH) as usize);
        first..self.cursor
    }

    /// The record of a connection that goes on; `None` if it has carried nothing since the last.
    pub fn interim(
        &mut self,
        moment: Moment,
        account: &Account,
        interfaces: impl Fn(u16) -> u32,
    ) -> Option<FlowRecord> {
        self.record(moment, account, None, EndReason::ActiveTimeout, interfaces)
    }

    /// The last record of a connection. `ended`: conntrack's word of its end, if that is why.
    pub fn last(
        &mut self,
        moment: Moment,
        account: &Account,
        ended: Option<&ConntrackEntry>,
        interfaces: impl Fn(u16) -> u32,
    ) -> Option<FlowRecord> {
        let reason = ended.map_or(EndReason::ForcedEnd, end_reason);
        let record = self.record(moment, account, ended, reason, interfaces);
        if let Some(told) = self.told.get_mut(account.index as usize) {
            *told = Told::default();
        }
        record
    }

    /// The record of a connection that Flyover did not carry, from what the kernel says at its end; `None` if that is
    /// nothing.
    pub fn foreign(moment: Moment, ended: &ConntrackEntry) -> Option<FlowRecord> {
        let [forward, reverse] = by_kernel(Some(ended));
        (forward.packets + reverse.packets > 0).then(|| FlowRecord {
            id: ended.id,
            before: ended.orig,
            after: ended.reply.inverted(),
            forward,
            reverse,
            start: started(ended).unwrap_or(moment.unix_ms).min(moment.unix_ms),
            end: moment.unix_ms,
            reason: end_reason(ended),
            ingress: 0,
            egress: 0,
        })
    }

    fn record(
        &mut self,
        moment: Moment,
        account: &Account,
        ended: Option<&ConntrackEntry>,
        reason: EndReason,
        interfaces: impl Fn(u16) -> u32,
    ) -> Option<FlowRecord> {
        let index = account.index as usize;
        if index >= self.told.len() {
            self.told.resize(index + 1, Told::default());
        }
        let told = &mut self.told[index];
        let directions = [&account.orig, &account.reply];
        let mut counts = by_kernel(ended);
        for (count, (way, direction)) in counts.iter_mut().zip(directions.iter().enumerate()) {
            for (path, carried) in direction.carried.iter().enumerate() {
                let part = since(carried, &mut told.packets[way][path], &mut told.bytes[way][path]);
                count.packets += part.packets;
                count.octets += part.octets;
            }
        }
        let [forward, reverse] = counts;
        if forward.packets + reverse.packets == 0 {
            return None;
        }
        let at = |then: u32| moment.unix_at(moment.now.saturating_sub(age(moment.now, then)));
        let first = told.at == 0;
        let start = match ended.and_then(started).filter(|_| first) {
            Some(started) => started,
            None => at(if first { account.born } else { told.at }),
        };
        told.at = (moment.now as u32).max(1);
        let flown = directions.iter().filter(|d| d.last_seen != 0).map(|d| at(d.last_seen)).max();
        let (ingress, egress) = ports(&account.orig, &account.reply)
            .map_or((0, 0), |(ingress, egress)| (interfaces(ingress), interfaces(egress)));
        let start = start.min(moment.unix_ms);
        Some(FlowRecord {
            id: account.id,
            before: account.orig.tuple,
            after: account.reply.tuple.inverted(),
            forward,
            reverse,
            start,
            end: flown.unwrap_or(moment.unix_ms).max(start),
            reason,
            ingress,
            egress,
        })
    }
}

/// What was carried since it was told last, which is now.
fn since(carried: &Carried, packets: &mut u32, bytes: &mut u64) -> Count {
    let before = std::mem::replace(packets, carried.packets as u32);
    let new = (carried.packets as u32).wrapping_sub(before).cast_signed().max(0).cast_unsigned();
    let octets = carried.bytes.saturating_sub(std::mem::replace(bytes, carried.bytes));
    let (new, headers) = (u64::from(new), u64::from(carried.header));
    Count { packets: new, octets: octets.saturating_sub(new * headers) }
}

fn by_kernel(ended: Option<&ConntrackEntry>) -> [Count; 2] {
    let counted = ended.and_then(|entry| entry.counted).unwrap_or_default();
    counted.map(|count| Count { packets: count.packets, octets: count.bytes })
}

/// When the kernel made the entry, if it says so.
fn started(entry: &ConntrackEntry) -> Option<u64> {
    entry.started_ns.filter(|nanos| *nanos > 0).map(|nanos| nanos / 1_000_000)
}

/// An entry that ends before its timeout was taken out by somebody.
fn end_reason(entry: &ConntrackEntry) -> EndReason {
    match entry.tcp_state() {
        _ if entry.timeout_s.is_some_and(|left| left > 0) => EndReason::ForcedEnd,
        None
        | Some(
            TcpState::None
            | TcpState::SynSent
            | TcpState::SynSent2
            | TcpState::SynRecv
            | TcpState::Established,
        ) => EndReason::IdleTimeout,
        Some(_) => EndReason::EndOfFlow,
    }
}

/// Ingress and egress port of the original direction, from whichever of the two was proved.
fn ports(orig: &DirectionAccount, reply: &DirectionAccount) -> Option<(u16, u16)> {
    orig.ports.or_else(|| reply.ports.map(|(ingress, egress)| (egress, ingress)))
}

/// Milliseconds since a time of the tracker's.
fn age(now: u64, then: u32) -> u64 {
    u64::from((now as u32).wrapping_sub(then).cast_signed().max(0).cast_unsigned())
}
