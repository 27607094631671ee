//! Where connections are kept: a slab, found by conntrack's id and the tuple's hash.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::ops::{Index, IndexMut};

use dataplane::flow::FiveTuple;
use hashbrown::{HashMap, HashTable};

use super::Millis;
use super::connection::Connection;
use crate::netlink::conntrack::Zones;

/// All connections, by a small index that is stable while the connection is known.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slab: Vec<Option<Connection>>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    hasher: hashbrown::DefaultHashBuilder,
}

const fn upper(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Connections {
    /// The hash by which an entry is found.
    pub(super) fn hash(&self, id: u32, orig: &FiveTuple, zones: Zones) -> u64 {
        self.hasher.hash_one((id, orig, zones.orig, zones.reply))
    }

    pub(super) fn find(&self, hash: u64, id: u32) -> Option<u32> {
        let is = |index: &u32| self.get(*index).is_some_and(|c| c.id == id && c.tag == upper(hash));
        self.by_id.find(slot_hash(id, upper(hash)), is).copied()
    }

    pub(super) fn add(&mut self, hash: u64, mut connection: Connection) -> u32 {
        connection.tag = upper(hash);
        let key = slot_hash(connection.id, connection.tag);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            (self.slab.len() - 1) as u32
        });
        self.slab[index as usize] = Some(connection);
        let slab = &self.slab;
        let rehash = |index: &u32| slab[*index as usize].as_ref().map_or(0, |c| slot_hash(c.id, c.tag));
        self.by_id.insert_unique(key, index, rehash);
        index
    }

    pub(super) fn remove(&mut self, index: u32) {
        let Some(connection) = self.slab.get_mut(index as usize).and_then(Option::take) else { return };
        let key = slot_hash(connection.id, connection.tag);
        if let Ok(entry) = self.by_id.find_entry(key, |other| *other == index) {
            entry.remove();
        }
        self.free.push(index);
    }

    pub(super) fn get(&self, index: u32) -> Option<&Connection> {
        self.slab.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slab.get_mut(index as usize)?.as_mut()
    }

    /// All indices in use at the time of the call.
    pub(super) fn indices(&self) -> Vec<u32> {
        (0..self.slab.len() as u32).filter(|index| self.get(*index).is_some()).collect()
    }

    /// One more than the highest index that was ever used.
    pub(super) const fn span(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// The table's own hash: ids are hashes already, so mixing is enough.
const fn slot_hash(id: u32, tag: u32) -> u64 {
    ((id as u64) << 32 | tag as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Indexing an unused index is a bug of the tracker itself, never of its input: indices come from
/// [`Connections::find`] and [`Connections::add`] within the same call.
impl Index<u32> for Connections {
    type Output = Connection;

    fn index(&self, index: u32) -> &Connection {
        self.slab[index as usize].as_ref().expect("a connection that was just found")
    }
}

impl IndexMut<u32> for Connections {
    fn index_mut(&mut self, index: u32) -> &mut Connection {
        self.slab[index as usize].as_mut().expect("a connection that was just found")
    }
}

/// Hashes of entries destroyed within the last moment, bounded in number.
#[derive(Debug, Default)]
pub(super) struct Graveyard {
    order: VecDeque<(Millis, u64)>,
    count: HashMap<u64, u32>,
}

impl Graveyard {
    /// How long an event may be overtaken by its entry's DESTROY.
    const MEMORY: Millis = 500;
    const MOST: usize = 1 << 17;

    pub(super) fn add(&mut self, hash: u64, now: Millis) {
        self.order.push_back((now, hash));
        *self.count.entry(hash).or_default() += 1;
        while self
            .order
            .front()
            .is_some_and(|(at, _)| now - at > Self::MEMORY || self.order.len() > Self::MOST)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((_, hash)) = self.order.pop_front() else { return };
        if let hashbrown::hash_map::Entry::Occupied(mut entry) = self.count.entry(hash) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    pub(super) fn contains(&mut self, hash: u64, now: Millis) -> bool {
        while self.order.front().is_some_and(|(at, _)| now - at > Self::MEMORY) {
            self.drop_oldest();
        }
        self.count.contains_key(&hash)
    }
}
