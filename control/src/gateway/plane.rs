//! The tracker's view of the real flow table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dataplane::flow::{
    AdjacencyWriter, ContextWriter, EntryState, FlowRef, FlowTable, InsertError, Key, Slot, TableWriter,
};
use dataplane::punt::Proof;

use crate::tracker::{DirectionCounters, Forwarding, Plane};

/// Writes the flow table and the tables that its entries refer to.
#[derive(Debug)]
pub(super) struct FlowPlane {
    pub(super) table: Arc<FlowTable>,
    pub(super) writer: TableWriter,
    pub(super) adjacencies: AdjacencyWriter,
    pub(super) contexts: ContextWriter,
    pub(super) epoch: Arc<AtomicU32>,
}

impl FlowPlane {
    /// Frees what readers can't hold any more.
    pub(super) fn reclaim(&mut self) {
        self.writer.reclaim();
        self.adjacencies.reclaim();
        self.contexts.reclaim();
    }

    fn slot(&self, flow: FlowRef) -> Option<Slot> {
        self.table.resolve(flow)
    }

    fn release(&mut self, slot: Slot) {
        if self.table.is_forwarding(slot) {
            self.adjacencies.release(self.table.adjacency(slot));
            self.contexts.release(self.table.context(slot));
        }
    }
}

impl Plane for FlowPlane {
    fn insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        self.writer.insert_pair(orig, reply, owner)
    }

    fn remove(&mut self, flows: [FlowRef; 2]) {
        for flow in flows {
            if let Some(slot) = self.slot(flow) {
                self.release(slot);
            }
        }
        self.writer.remove_pair(flows);
    }

    fn owner(&self, flow: FlowRef) -> Option<u32> {
        self.slot(flow).map(|slot| self.writer.owner(slot))
    }

    fn owner_of_key(&self, key: &Key) -> Option<u32> {
        self.table.lookup(key).map(|slot| self.writer.owner(slot))
    }

    fn state(&self, flow: FlowRef) -> EntryState {
        self.slot(flow).map_or(EntryState::Closing, |slot| self.table.state(slot))
    }

    fn set_state(&mut self, flow: FlowRef, state: EntryState) {
        if let Some(slot) = self.slot(flow) {
            self.table.set_state(slot, state);
        }
    }

    fn transition(&mut self, flow: FlowRef, from: EntryState, to: EntryState) -> bool {
        self.slot(flow).is_some_and(|slot| self.table.transition(slot, from, to))
    }

    fn forward(&mut self, proof: &Proof) -> Forwarding {
        let Some(slot) = self.slot(proof.flow) else { return Forwarding::NoRoom };
        let Some(context) = self.contexts.intern(&proof.ingress) else { return Forwarding::NoRoom };
        let Some(adjacency) = self.adjacencies.intern(proof.egress_port, &proof.l2) else {
            self.contexts.release(context);
            return Forwarding::NoRoom;
        };
        let same = self.table.is_forwarding(slot)
            && self.table.context(slot) == context
            && self.table.adjacency(slot) == adjacency
            && self.table.decrements_ttl(slot) == proof.decrements_ttl;
        self.release(slot);
        if same {
            return Forwarding::Unchanged;
        }
        self.writer.set_forwarding(slot, context, adjacency, proof.decrements_ttl);
        Forwarding::Changed
    }

    fn set_length(&mut self, flow: FlowRef, length: u16, refuse_longer: bool) {
        if let Some(slot) = self.slot(flow) {
            self.writer.set_proved_length(slot, length, refuse_longer);
        }
    }

    fn length(&self, flow: FlowRef) -> u16 {
        self.slot(flow).map_or(0, |slot| self.table.proved_length(slot))
    }

    fn counters(&self, flow: FlowRef) -> DirectionCounters {
        self.slot(flow).map_or_else(DirectionCounters::default, |slot| DirectionCounters {
            packets: self.table.packets(slot),
            bytes: self.table.bytes(slot),
            last_seen: self.table.last_seen(slot),
        })
    }

    fn key(&self, flow: FlowRef) -> Option<Key> {
        self.slot(flow).map(|slot| self.table.key(slot))
    }

    fn ports(&self, flow: FlowRef) -> Option<(u16, u16)> {
        let slot = self.slot(flow).filter(|slot| self.table.is_forwarding(*slot))?;
        let ingress = self.contexts.table().get(self.table.context(slot)).port();
        Some((ingress, self.adjacencies.table().get(self.table.adjacency(slot)).port()))
    }

    fn next_hop(&self, flow: FlowRef) -> Option<[u8; 6]> {
        let slot = self.slot(flow).filter(|slot| self.table.is_forwarding(*slot))?;
        self.adjacencies.table().get(self.table.adjacency(slot)).l2().destination()
    }

    fn set_epoch(&mut self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Release);
    }
}
