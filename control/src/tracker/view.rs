//! Connections as the user sees them.

use dataplane::flow::{FiveTuple, FlowRef, Key, TCP};

use super::connection::{Class, Connection};
use super::{Dir, DirectionCounters, Millis, Plane, Refusal, Tracker, Why, flowtables};
use crate::netlink::conntrack::ConntrackEntry;

/// How many connections are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the kernel.
    pub candidate: u32,
    /// On workers.
    pub software: u32,
    /// On workers, proving themselves again.
    pub probing: u32,
    /// In the kernel for their last segments.
    pub closing: u32,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
pub struct DirectionView {
    /// conntrack's tuple.
    pub tuple: FiveTuple,
    /// What flew.
    pub counters: DirectionCounters,
    /// Ingress and egress port, if it was ever proved.
    pub ports: Option<(u16, u16)>,
    /// The state's name.
    pub state: &'static str,
    /// Why it is in this state.
    pub why: Why,
    /// Milliseconds since it came into this state.
    pub since: u64,
    /// The MAC address that it is sent to, if it was ever proved.
    pub next_hop: Option<[u8; 6]>,
    /// The longest packet that was seen to leave in one piece.
    pub proved_length: u16,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView {
    /// conntrack's id.
    pub id: u32,
    /// conntrack's zone.
    pub zone: u16,
    /// conntrack's mark.
    pub mark: u32,
    /// The original direction.
    pub orig: DirectionView,
    /// The reply direction.
    pub reply: DirectionView,
    /// The state's name: that of its slower direction.
    pub state: &'static str,
    /// Why it is in this state.
    pub why: Why,
    /// Milliseconds since Flyover knows it.
    pub age: u64,
    /// Milliseconds since its last packet flew; `None` if none did.
    pub idle: Option<u64>,
}

impl ConnectionView {
    /// `tcp` or `udp`.
    pub const fn proto(&self) -> &'static str {
        if self.orig.tuple.proto == TCP { "tcp" } else { "udp" }
    }
}

const fn name(class: Class) -> &'static str {
    match class {
        Class::Candidate => "candidate",
        Class::Software => "software",
        Class::Probing => "probing",
        Class::Closing => "closing",
    }
}

impl Tracker {
    /// How many connections are in which state.
    pub const fn counts(&self) -> Counts {
        let [candidate, software, probing, closing] = self.counts;
        Counts { candidate, software, probing, closing }
    }

    /// The conntrack mark of a flow's connection.
    pub fn mark(&self, flow: FlowRef, plane: &impl Plane) -> Option<u32> {
        let (index, _) = self.locate(flow, plane)?;
        self.connections.get(index).map(|connection| connection.mark)
    }

    /// The connection that has this tuple in either direction.
    pub fn find(&self, now: Millis, tuple: &FiveTuple, plane: &impl Plane) -> Option<ConnectionView> {
        let index = plane.owner_of_key(&Key::from_tuple(tuple)?)?;
        self.view(now, self.connections.get(index)?, plane)
    }

    /// Why an entry of conntrack is not carried; `None`: it may be.
    pub fn refusal(&self, entry: &ConntrackEntry) -> Option<Refusal> {
        if self.ends_here(&entry.orig, &entry.reply) {
            return Some(Refusal::Local);
        }
        let shared = |tuple| {
            Key::from_tuple(tuple)
                .and_then(|key| self.clashes.get(&key))
                .is_some_and(|owners| owners.len() > 1)
        };
        let two_zones = || (shared(&entry.orig) || shared(&entry.reply)).then_some(Refusal::TwoZones);
        self.refused(entry, flowtables::tcp_state(entry), false).or_else(two_zones)
    }

    /// Up to `limit` connections from `cursor` on, and the cursor for those that follow; 0 begins,
    /// `None` ends.
    pub fn page(
        &self,
        now: Millis,
        cursor: usize,
        limit: usize,
        plane: &impl Plane,
        mut wanted: impl FnMut(&ConnectionView) -> bool,
    ) -> (Vec<ConnectionView>, Option<usize>) {
        let mut page = Vec::new();
        // Bounded work a call, whatever the filter lets through.
        let end = self.connections.span().min(cursor.saturating_add(limit.saturating_mul(16).max(1024)));
        for index in cursor..end {
            if page.len() >= limit {
                return (page, Some(index));
            }
            let view = self.connections.get(index as u32).and_then(|c| self.view(now, c, plane));
            page.extend(view.filter(&mut wanted));
        }
        (page, (end < self.connections.span()).then_some(end))
    }

    fn view(&self, now: Millis, connection: &Connection, plane: &impl Plane) -> Option<ConnectionView> {
        let flows = connection.flows?;
        let age = |then: u32| u64::from((now as u32).wrapping_sub(then).cast_signed().max(0).cast_unsigned());
        let direction = |dir: Dir| {
            let (flow, direction) = (flows[dir as usize], &connection.directions[dir as usize]);
            Some(DirectionView {
                tuple: plane.key(flow)?.tuple(),
                counters: plane.counters(flow),
                ports: if direction.ever_proved { plane.ports(flow) } else { None },
                state: direction.state.name(),
                why: direction.why,
                since: age(direction.since),
                next_hop: if direction.ever_proved { plane.next_hop(flow) } else { None },
                proved_length: plane.length(flow),
            })
        };
        let (orig, reply) = (direction(Dir::Orig)?, direction(Dir::Reply)?);
        let idle =
            [orig.counters, reply.counters].iter().filter(|c| c.packets > 0).map(|c| age(c.last_seen)).min();
        Some(ConnectionView {
            id: connection.id,
            zone: connection.zones.orig,
            mark: connection.mark,
            orig,
            reply,
            state: name(connection.class()),
            why: connection.slower().why,
            age: age(connection.born),
            idle,
        })
    }
}
