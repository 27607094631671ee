//! What is known of links, addresses and neighbours: a change is what differs from it.

use std::net::IpAddr;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use super::{Address, Change, InitialState, Link, Neighbour};

/// The MAC address of a neighbour, and whether it is somebody else's affair.
type Reached = (Option<[u8; 6]>, bool);

/// The last that was said. Bounded by what the kernel itself keeps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    links: HashMap<u32, Link>,
    addresses: HashSet<Address>,
    /// The usable ones.
    neighbours: HashMap<(u32, IpAddr), Reached>,
}

impl Known {
    pub(super) fn new(state: &InitialState) -> Self {
        Self {
            links: state.links.iter().map(|link| (link.ifindex, link.clone())).collect(),
            addresses: state.addresses.iter().copied().collect(),
            neighbours: state
                .neighbours
                .iter()
                .filter(|neighbour| neighbour.usable)
                .map(|n| ((n.ifindex, n.address), (n.mac, n.fixed)))
                .collect(),
        }
    }

    pub(super) fn link(&mut self, link: Link, deleted: bool) -> Option<Change> {
        if deleted {
            let link = self.links.remove(&link.ifindex)?;
            self.addresses.retain(|address| address.ifindex != link.ifindex);
            self.neighbours.retain(|(ifindex, _), _| *ifindex != link.ifindex);
            return Some(Change::Link { link, deleted });
        }
        match self.links.entry(link.ifindex) {
            Entry::Occupied(known) if *known.get() == link => None,
            Entry::Occupied(mut known) => {
                known.insert(link.clone());
                Some(Change::Link { link, deleted })
            }
            Entry::Vacant(new) => {
                new.insert(link.clone());
                Some(Change::Link { link, deleted })
            }
        }
    }

    pub(super) fn address(&mut self, address: Address, added: bool) -> Option<Change> {
        let changed = if added { self.addresses.insert(address) } else { self.addresses.remove(&address) };
        changed.then_some(Change::Address { address, added })
    }

    pub(super) fn neighbour(&mut self, neighbour: Neighbour, deleted: bool) -> Option<Change> {
        let key = (neighbour.ifindex, neighbour.address);
        let changed = if neighbour.usable && !deleted {
            let new = (neighbour.mac, neighbour.fixed);
            self.neighbours.insert(key, new) != Some(new)
        } else {
            self.neighbours.remove(&key).is_some()
        };
        changed.then_some(Change::Neighbour { neighbour, deleted })
    }

    /// Takes over a new state, and says in what it differs.
    pub(super) fn replace(&mut self, state: &InitialState) -> Vec<Change> {
        let new = Self::new(state);
        let mut changes = Vec::new();
        let gone: Vec<_> =
            self.neighbours.keys().filter(|key| !new.neighbours.contains_key(*key)).copied().collect();
        for (ifindex, address) in gone {
            let neighbour =
                Neighbour { ifindex, address, mac: None, usable: false, kept: false, fixed: false };
            changes.extend(self.neighbour(neighbour, true));
        }
        let gone: Vec<_> = self.addresses.difference(&new.addresses).copied().collect();
        changes.extend(gone.into_iter().filter_map(|address| self.address(address, false)));
        let gone: Vec<_> =
            self.links.values().filter(|link| !new.links.contains_key(&link.ifindex)).cloned().collect();
        changes.extend(gone.into_iter().filter_map(|link| self.link(link, true)));
        changes.extend(state.links.iter().filter_map(|link| self.link(link.clone(), false)));
        changes.extend(state.addresses.iter().filter_map(|address| self.address(*address, true)));
        changes.extend(state.neighbours.iter().filter_map(|neighbour| self.neighbour(*neighbour, false)));
        changes
    }
}
