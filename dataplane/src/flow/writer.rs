//! The flow table as control sees it: the only one that puts entries in and takes them out.

use std::sync::Arc;

use thiserror::Error;

use super::arena::{Arena, Probe};
use super::entry::{EntryView, Line};
use super::limbo::Limbo;
use super::tags::{GROUP, Mask};
use super::{AdjacencyId, FlowRef, FlowTable, Key, Slot};

/// A home with so many slots taken sends new keys to its sibling; if that has so many too, the emptiest of
/// all three groups is taken. Lower finds room at higher loads, higher leaves more keys at home.
const ENOUGH: u32 = GROUP as u32 - 2;

/// The most slots that one call of [`TableWriter::reclaim`] frees: some microseconds.
const RECLAIM_MOST: usize = 1024;

/// Why a connection was not put in. It stays with the kernel.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InsertError {
    /// No room.
    #[error("the flow table is full")]
    Full,
    /// One of the keys is there already.
    #[error("the tuple is in the table already, at {0:?}")]
    Exists(Slot),
    /// One tuple is IPv4, the other IPv6.
    #[error("the two tuples are of different families")]
    Family,
    /// Both directions have the same key, so that packets could not be told apart.
    #[error("both directions have the same tuple")]
    SameKey,
}

/// Which slots of one arena are taken: visible, or waiting for the end of a grace period.
#[derive(Debug)]
struct Places {
    /// A bit a slot, by group.
    taken: Box<[Mask]>,
    connections: usize,
    most: usize,
}

impl Places {
    fn new(groups: u32, most: usize) -> Self {
        Self { taken: vec![0; groups as usize].into_boxed_slice(), connections: 0, most }
    }

    /// The slot that a key would get.
    fn choose(&self, probe: Probe) -> Option<usize> {
        let fill = |group: usize| self.taken[group].count_ones();
        let (home, sibling) = (probe.home(), probe.sibling());
        let group = if fill(home) < ENOUGH {
            home
        } else if fill(sibling) < ENOUGH {
            sibling
        } else {
            // The first of equals: nearest to home.
            [home, sibling, probe.away()].into_iter().min_by_key(|group| fill(*group))?
        };
        let free = !self.taken[group];
        (free != 0).then(|| probe.first(group, free))
    }

    fn take(&mut self, probe: Probe) -> Option<usize> {
        let index = self.choose(probe)?;
        self.taken[index / GROUP] |= 1 << (index % GROUP);
        Some(index)
    }

    fn free(&mut self, index: usize) {
        self.taken[index / GROUP] &= !(1 << (index % GROUP));
    }
}

/// The only writer of a [`FlowTable`].
#[derive(Debug)]
pub struct TableWriter {
    table: Arc<FlowTable>,
    v4: Places,
    v6: Places,
    limbo: Limbo<Slot>,
    capacity: usize,
}

impl TableWriter {
    pub(crate) fn new(table: Arc<FlowTable>, capacity: usize, capacity6: usize) -> Self {
        Self {
            v4: Places::new(table.v4.groups(), capacity),
            v6: Places::new(table.v6.groups(), capacity6),
            limbo: Limbo::new(Arc::clone(table.qsbr())),
            table,
            capacity,
        }
    }

    /// Asks for the memory that inserting a connection will touch, some connections ahead of
    /// [`insert_pair`](Self::insert_pair): a hint that makes insertions into a large table some three times faster.
    pub fn prefetch_pair(&self, orig: &Key, reply: &Key) {
        for key in [orig, reply] {
            match key {
                Key::V4(key) => prefetch_key(&self.table.v4, &self.v4, key),
                Key::V6(key) => prefetch_key(&self.table.v6, &self.v6, key),
            }
        }
    }

    /// Puts a connection in, given conntrack's two tuples: packets of the original direction have the key `orig` and leave
    /// as `reply.inverted()`, those of the reply direction have the key `reply` and leave as `orig.inverted()`.
    ///
    /// Both entries are candidates without an adjacency. The references are in the order of the arguments.
    ///
    /// # Errors
    /// The table is then as it was.
    pub fn insert_pair(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        if self.len() >= self.capacity {
            return Err(InsertError::Full);
        }
        match self.try_insert(orig, reply, owner) {
            Err(InsertError::Full) if self.reclaim() > 0 => self.try_insert(orig, reply, owner),
            result => result,
        }
    }

    fn try_insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        let (table, v4, v6) = (&*self.table, &mut self.v4, &mut self.v6);
        match (orig, reply, reply.inverted(), orig.inverted()) {
            (Key::V4(orig), Key::V4(reply), Key::V4(to), Key::V4(back)) => {
                insert(&table.v4, v4, [orig, reply], [&to, &back], owner)
            }
            (Key::V6(orig), Key::V6(reply), Key::V6(to), Key::V6(back)) => {
                insert(&table.v6, v6, [orig, reply], [&to, &back], owner)
            }
            _ => Err(InsertError::Family),
        }
    }

    /// Takes a connection out. Workers may see it until they are quiescent. What is gone already is left alone.
    pub fn remove_pair(&mut self, refs: [FlowRef; 2]) {
        let mut removed = None;
        for slot in refs.into_iter().filter_map(|flow| self.table.resolve(flow)) {
            if slot.is_ipv6() {
                self.table.v6.withdraw(slot.index6());
            } else {
                self.table.v4.withdraw(slot.index4());
            }
            self.limbo.push(slot);
            removed = Some(slot);
        }
        if let Some(slot) = removed {
            let places = if slot.is_ipv6() { &mut self.v6 } else { &mut self.v4 };
            places.connections = places.connections.saturating_sub(1);
        }
    }

    /// Gives an entry the ingress context that its packets must have, and where they leave.
    ///
    /// # Panics
    /// As for every slot here: when it is not of this table.
    pub fn set_forwarding(&mut self, slot: Slot, context: u16, adjacency: AdjacencyId, flags: u8) {
        self.table.entry(slot).status().set_forwarding(context, adjacency, flags);
    }

    /// Gives an entry the longest L3 packet that the kernel was seen to send on unfragmented.
    pub fn set_proved_length(&mut self, slot: Slot, length: u16) {
        self.table.entry(slot).status().set_proved_length(length);
    }

    /// What [`insert_pair`](Self::insert_pair) was given for the connection; `None` if the slot is not of this table.
    pub fn owner(&self, slot: Slot) -> Option<u32> {
        if slot.is_ipv6() { self.table.v6.owner(slot.index6()) } else { self.table.v4.owner(slot.index4()) }
    }

    /// Frees slots whose grace period is over, at most some thousand a call; says how many.
    pub fn reclaim(&mut self) -> usize {
        let Self { limbo, v4, v6, .. } = self;
        limbo.collect(RECLAIM_MOST, |slot| {
            if slot.is_ipv6() {
                v6.free(slot.index6());
            } else {
                v4.free(slot.index4());
            }
        })
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.v4.connections + self.v6.connections
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most connections.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Entries that were removed and wait for their grace period.
    pub fn limbo(&self) -> usize {
        self.limbo.len()
    }

    /// The table.
    pub fn table(&self) -> &Arc<FlowTable> {
        &self.table
    }
}

fn prefetch_key<L: Line>(arena: &Arena<L>, places: &Places, key: &L::Key) {
    if let Some(index) = places.choose(arena.probe(key)) {
        arena.prefetch_slot(index);
    }
}

fn insert<L: Line>(
    arena: &Arena<L>,
    places: &mut Places,
    keys: [&L::Key; 2],
    leave_as: [&L::Key; 2],
    owner: u32,
) -> Result<[FlowRef; 2], InsertError> {
    if keys[0] == keys[1] {
        return Err(InsertError::SameKey);
    }
    let probes = keys.map(|key| arena.probe(key));
    if let Some(index) = keys.into_iter().zip(probes).find_map(|(key, probe)| arena.find(key, probe)) {
        return Err(InsertError::Exists(L::slot(index as u32)));
    }
    if places.connections >= places.most {
        return Err(InsertError::Full);
    }
    let first = places.take(probes[0]).ok_or(InsertError::Full)?;
    let Some(second) = places.take(probes[1]) else {
        places.free(first);
        return Err(InsertError::Full);
    };
    let indices = [first, second];
    for (position, index) in indices.into_iter().enumerate() {
        arena.entries[index].write(keys[position], leave_as[position]);
    }
    let slots = indices.map(|index| L::slot(index as u32));
    arena.publish(probes[0], first, slots[1], owner);
    arena.publish(probes[1], second, slots[0], owner);
    places.connections += 1;
    Ok(indices
        .map(|index| FlowRef { slot: L::slot(index as u32), generation: arena.entries[index].generation() }))
}
