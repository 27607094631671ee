//! What conntrack says of entries: which of them come into the table, and which leave it.

use dataplane::flow::{FiveTuple, InsertError, Key};

use super::connection::{Class, Connection, Direction};
use super::{Action, Millis, Plane, Source, Tracker, flowtables, timers};
use crate::netlink::conntrack::{ConntrackEntry, Status, TcpState, Zones};

impl Tracker {
    /// conntrack says that an entry is, or has become, so.
    pub fn entry(&mut self, now: Millis, entry: &ConntrackEntry, source: Source, plane: &mut impl Plane) {
        self.stats.entries += 1;
        let entry = &flowtables::without_its_timeout(*entry);
        self.zones.note(entry.zones);
        let hash = self.connections.hash(entry.id, &entry.orig, entry.zones);
        if let Some(index) = self.connections.find(hash, entry.id) {
            self.update(now, index, entry, source, plane);
        } else if !self.buried.contains(hash, now) {
            self.admit(now, hash, entry, source, plane);
        }
    }

    fn update(
        &mut self,
        now: Millis,
        index: u32,
        entry: &ConntrackEntry,
        source: Source,
        plane: &mut impl Plane,
    ) {
        let dump = self.dump;
        let connection = &mut self.connections[index];
        connection.dump = dump;
        let opening = matches!(
            entry.tcp_state(),
            Some(TcpState::None | TcpState::SynSent | TcpState::SynSent2 | TcpState::SynRecv)
        );
        let assured = entry.status.contains(Status::ASSURED);
        // Events of several CPUs overtake each other, and an entry never goes back to where it was.
        if source == Source::Event && (opening || (connection.assured && !assured)) {
            return;
        }
        let marked = entry.mark.unwrap_or(0);
        let remarked = std::mem::replace(&mut connection.mark, marked) != marked;
        let replied = entry.status.contains(Status::SEEN_REPLY);
        let grown = assured && !std::mem::replace(&mut connection.assured, assured);
        if grown {
            // What a packet has just made of it has the timeout that packets get.
            let held = self.connections[index].held;
            let told = if source == Source::Event { self.told(entry, held) } else { 0 };
            self.connections[index].timeout_s = told;
        }
        self.alter(index, |connection| connection.replied |= replied);
        let selected = self.connections[index].selected || entry.status.contains(Status::OFFLOAD);
        self.connections[index].selected = selected;
        if self.refused(entry, Some(TcpState::Established), selected).is_some() {
            self.let_go(now, index, plane);
            return self.forget(index, plane);
        }
        if remarked {
            self.doubt(now, index, plane);
        }
        if source == Source::Answer && self.connections[index].returning {
            self.returned(now, index, entry, plane);
        } else if source == Source::Answer && self.was_held(entry) {
            self.connections[index].held = true;
            self.arm_next(now, index, plane);
        }
        match entry.tcp_state() {
            Some(TcpState::Established) => {
                self.connections[index].established = true;
                let closing = self.connections[index].class() == Class::Closing;
                // An event may be older than the FIN that a worker saw: only an answer to a question counts.
                if closing && source == Source::Answer {
                    self.reopen(now, index, plane);
                }
            }
            Some(_) => {
                self.let_close(now, index, source, plane);
                self.close(now, index, false, plane);
            }
            None => {}
        }
        if self.connections[index].flows.is_none() {
            self.insert(now, index, entry, plane);
        }
    }

    fn admit(
        &mut self,
        now: Millis,
        hash: u64,
        entry: &ConntrackEntry,
        source: Source,
        plane: &mut impl Plane,
    ) {
        let held = source != Source::Event && self.was_held(entry);
        // What flew for the gateway before this one was selected then.
        let selected = held || entry.status.contains(Status::OFFLOAD);
        if self.refused(entry, flowtables::tcp_state(entry), selected).is_some()
            || self.ends_here(&entry.orig, &entry.reply)
        {
            if self.dumping && source == Source::Event {
                // The dump may have read it before, and be behind.
                self.buried.add(hash, now);
            }
            return;
        }
        let answered = entry.status.contains(Status::SEEN_REPLY);
        let timeout_s = match source {
            Source::Event => self.told(entry, false),
            // It flew, so the kernel may not have seen that it is a stream.
            Source::Dump if held && answered && entry.tcp.is_none() => self.timing.udp_stream_s,
            _ => 0,
        };
        let index = self.connections.add(
            hash,
            Connection {
                id: entry.id,
                tag: 0,
                zones: entry.zones,
                proto: entry.orig.proto,
                replied: answered,
                assured: entry.status.contains(Status::ASSURED),
                established: true,
                held,
                returning: false,
                selected,
                flows: None,
                directions: [Direction::NEW; 2],
                mark: entry.mark.unwrap_or(0),
                timeout_s,
                due: 0,
                born: now as u32,
                refreshed: now as u32,
                dump: self.dump,
            },
        );
        self.insert(now, index, entry, plane);
        if self.connections[index].flows.is_none() && !self.clashes_has(index) {
            self.connections.remove(index);
        }
    }

    pub(super) fn clashes_has(&self, index: u32) -> bool {
        self.clashes.values().any(|owners| owners.contains(&index))
    }

    /// Puts a connection into the flow table, unless its tuple stands in another conntrack entry too.
    fn insert(&mut self, now: Millis, index: u32, entry: &ConntrackEntry, plane: &mut impl Plane) {
        let (Some(orig), Some(reply)) = (Key::from_tuple(&entry.orig), Key::from_tuple(&entry.reply)) else {
            return;
        };
        let others = |key| self.clashes.get(key).is_some_and(|owners| owners.iter().any(|o| *o != index));
        if others(&orig) || others(&reply) {
            return self.clash(index, &orig, &reply);
        }
        self.clashes.remove(&orig);
        self.clashes.remove(&reply);
        for _ in 0..3 {
            match plane.insert(&orig, &reply, index) {
                Ok(flows) => {
                    let connection = &mut self.connections[index];
                    connection.flows = Some(flows);
                    connection.directions = [Direction { since: now as u32, ..Direction::NEW }; 2];
                    self.counts[connection.class() as usize] += 1;
                    if connection.held {
                        self.arm_next(now, index, plane);
                    }
                    return;
                }
                Err(InsertError::Exists(_)) => {
                    let other = plane.owner_of_key(&orig).or_else(|| plane.owner_of_key(&reply));
                    let Some(other) = other.filter(|other| *other != index) else { return };
                    let same_zone = self.connections.get(other).is_some_and(|o| o.zones == entry.zones);
                    if same_zone {
                        // The kernel has made it anew: the DESTROY of the former entry is late or lost, and the last
                        // timeouts that were meant for that one may be the new one's.
                        self.connections[index].held |= self.connections[other].held;
                        self.forget(other, plane);
                    } else {
                        self.let_go(now, other, plane);
                        self.withhold(other, plane);
                        self.clash(other, &orig, &reply);
                        return self.clash(index, &orig, &reply);
                    }
                }
                Err(InsertError::Full) => {
                    self.stats.table_full += 1;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn clash(&mut self, index: u32, orig: &Key, reply: &Key) {
        for key in [orig, reply] {
            let owners = self.clashes.entry(*key).or_default();
            if !owners.contains(&index) {
                owners.push(index);
            }
        }
    }

    /// The kernel has destroyed an entry.
    pub fn destroyed(&mut self, now: Millis, entry: &ConntrackEntry, plane: &mut impl Plane) {
        let hash = self.connections.hash(entry.id, &entry.orig, entry.zones);
        self.buried.add(hash, now);
        if let Some(index) = self.connections.find(hash, entry.id) {
            let connection = &self.connections[index];
            if connection.held && timers::elapsed(now, connection.refreshed) < 2 * Self::RECENT {
                // Its last timeout may have become that of another entry, which has its tuple now.
                self.actions.push(Action::Ask { tuple: entry.orig, zones: entry.zones });
            }
            self.forget(index, plane);
        }
    }

    /// The kernel has no entry with a tuple that was asked for.
    pub fn not_found(&mut self, tuple: &FiveTuple, zones: Zones, plane: &mut impl Plane) {
        let owner = Key::from_tuple(tuple).and_then(|key| plane.owner_of_key(&key));
        if let Some(index) =
            owner.filter(|index| self.connections.get(*index).is_some_and(|c| c.zones == zones))
        {
            self.forget(index, plane);
        }
    }

    /// A dump begins. Entries told by events meanwhile count as seen.
    pub const fn dump_started(&mut self) {
        self.dump = self.dump.wrapping_add(1);
        self.dumping = true;
    }

    /// The dump is complete: what neither it nor an event told of is gone.
    pub fn dump_finished(&mut self, plane: &mut impl Plane) {
        self.dumping = false;
        for index in self.connections.indices() {
            if self.connections[index].dump != self.dump {
                self.forget(index, plane);
            }
        }
    }

    /// Takes a connection out of the table and out of memory.
    pub(super) fn forget(&mut self, index: u32, plane: &mut impl Plane) {
        self.withhold(index, plane);
        if !self.clashes.is_empty() {
            self.clashes.retain(|key, owners| {
                let before = owners.len();
                owners.retain(|owner| *owner != index);
                // Nobody else has the tuple any more: the kernel's answer puts the one that is left into the table.
                if let [left] = owners.as_slice()
                    && owners.len() < before
                    && let Some(connection) = self.connections.get(*left)
                {
                    self.actions.push(Action::Ask { tuple: key.tuple(), zones: connection.zones });
                }
                !owners.is_empty()
            });
        }
        self.connections.remove(index);
    }

    /// Takes a connection out of the table.
    fn withhold(&mut self, index: u32, plane: &mut impl Plane) {
        if plane.keeps_accounts()
            && let Some(account) = self.account(index, plane)
        {
            plane.closed(&account);
        }
        let Some(connection) = self.connections.get_mut(index) else { return };
        if let Some(flows) = connection.flows.take() {
            self.counts[connection.class() as usize] -= 1;
            plane.remove(flows);
        }
    }
}
