//! The tracker's view of the real flow table.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrayvec::ArrayVec;
use dataplane::flow::{
    AdjacencyId, AdjacencyTable, AdjacencyWriter, ContextTable, ContextWriter, Egress, Entry, EntryState,
    EntryView, FlowRef, FlowTable, InsertError, Key, MAX_HEADER, TableWriter, flags,
};
use dataplane::punt::Proof;

use super::export::Export;
use super::offload::Offload;
use crate::tracker::{Account, Carried, DirectionCounters, Forwarding, Plane};

/// Writes the flow table and the tables that its entries refer to.
#[derive(Debug)]
pub(super) struct FlowPlane {
    pub(super) table: Arc<FlowTable>,
    pub(super) writer: TableWriter,
    pub(super) adjacencies: AdjacencyWriter,
    pub(super) contexts: ContextWriter,
    pub(super) adjacency_table: Arc<AdjacencyTable>,
    pub(super) context_table: Arc<ContextTable>,
    pub(super) epoch: Arc<AtomicU32>,
    pub(super) offload: Offload,
    /// Flow records for collectors, if there are any.
    pub(super) export: Option<Box<Export>>,
}

impl FlowPlane {
    /// Frees what readers can't hold any more.
    pub(super) fn reclaim(&mut self) {
        self.writer.reclaim();
        self.adjacencies.reclaim();
        self.contexts.reclaim();
    }

    /// The MAC addresses to which flows send.
    pub(super) fn next_hops(&self) -> HashSet<[u8; 6]> {
        self.adjacencies.iter().filter_map(|egress| egress.header.first_chunk().copied()).collect()
    }

    fn entry(&self, flow: FlowRef) -> Option<Entry<'_>> {
        self.table.resolve(flow).map(|slot| self.table.entry(slot))
    }

    /// The direction with this key.
    pub(super) fn flow(&self, key: &Key) -> Option<FlowRef> {
        self.table.lookup(key).map(|slot| self.table.reference(slot))
    }

    /// The entry, if it was ever set up to forward.
    fn forwarding(&self, flow: FlowRef) -> Option<Entry<'_>> {
        self.entry(flow).filter(|entry| entry.adjacency() != AdjacencyId::NONE)
    }

    /// Gives back what an entry refers to.
    fn release(&mut self, context: u16, adjacency: AdjacencyId) {
        if adjacency != AdjacencyId::NONE {
            self.adjacencies.release(adjacency);
        }
        if context != ContextTable::NONE {
            self.contexts.release(context);
        }
    }
}

impl Plane for FlowPlane {
    fn insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        if self.offload.is_haunted(orig) || self.offload.is_haunted(reply) {
            return Err(InsertError::Full);
        }
        self.writer.insert_pair(orig, reply, owner)
    }

    fn remove(&mut self, flows: [FlowRef; 2]) {
        for flow in flows {
            self.offload.remove(flow);
            if let Some(entry) = self.entry(flow) {
                let (context, adjacency) = (entry.context(), entry.adjacency());
                self.release(context, adjacency);
            }
        }
        self.writer.remove_pair(flows);
    }

    fn owner(&self, flow: FlowRef) -> Option<u32> {
        self.table.resolve(flow).and_then(|slot| self.writer.owner(slot))
    }

    fn owner_of_key(&self, key: &Key) -> Option<u32> {
        self.table.lookup(key).and_then(|slot| self.writer.owner(slot))
    }

    fn state(&self, flow: FlowRef) -> EntryState {
        self.entry(flow).map_or(EntryState::Closing, |entry| entry.state())
    }

    fn set_state(&mut self, flow: FlowRef, state: EntryState) {
        if state != EntryState::Software {
            self.offload.leave(flow);
        }
        if let Some(entry) = self.entry(flow) {
            entry.set_state(state);
        }
    }

    fn transition(&mut self, flow: FlowRef, from: EntryState, to: EntryState) -> bool {
        if to != EntryState::Software {
            self.offload.leave(flow);
        }
        self.entry(flow).is_some_and(|entry| entry.transition(from, to))
    }

    fn forward(&mut self, proof: &Proof) -> Forwarding {
        let Some(slot) = self.table.resolve(proof.flow) else { return Forwarding::NoRoom };
        let pppoe_length = proof.l2.pppoe_length_offset();
        let mut header: ArrayVec<u8, MAX_HEADER> = proof.l2.bytes().iter().copied().collect();
        // The packet's own: it must not tell one adjacency from another.
        if let Some(length) = pppoe_length.and_then(|at| header.get_mut(usize::from(at)..usize::from(at) + 2))
        {
            length.fill(0);
        }
        let egress = Egress { port: proof.egress_port, header, mtu: u16::MAX, pppoe_length, dscp: None };
        let Ok(context) = self.contexts.acquire(&proof.ingress) else { return Forwarding::NoRoom };
        let Ok(adjacency) = self.adjacencies.acquire(&egress) else {
            self.contexts.release(context);
            return Forwarding::NoRoom;
        };
        let bridged = if proof.decrements_ttl { 0 } else { flags::BRIDGED };
        let entry = self.table.entry(slot);
        let (old_context, old_adjacency) = (entry.context(), entry.adjacency());
        let same =
            (old_context, old_adjacency) == (context, adjacency) && entry.flags() & flags::BRIDGED == bridged;
        if !same {
            self.offload.leave(proof.flow);
            if old_context != context {
                self.offload.take_out(proof.flow);
            }
            self.writer.set_forwarding(slot, context, adjacency, bridged);
        }
        self.release(old_context, old_adjacency);
        if same { Forwarding::Unchanged } else { Forwarding::Changed }
    }

    fn set_length(&mut self, flow: FlowRef, length: u16, refuse_longer: bool) {
        let Some(slot) = self.table.resolve(flow) else { return };
        let entry = self.table.entry(slot);
        if refuse_longer {
            self.offload.leave(flow);
        }
        let refuse = if refuse_longer { flags::REFUSE_LONGER } else { 0 };
        let flags = entry.flags() & !flags::REFUSE_LONGER | refuse;
        if flags != entry.flags() {
            self.writer.set_forwarding(slot, entry.context(), entry.adjacency(), flags);
        }
        self.writer.set_proved_length(slot, length);
    }

    fn length(&self, flow: FlowRef) -> u16 {
        self.entry(flow).map_or(0, |entry| entry.proved_length())
    }

    fn counters(&self, flow: FlowRef) -> DirectionCounters {
        let Some(entry) = self.entry(flow) else { return DirectionCounters::default() };
        let software = DirectionCounters {
            packets: entry.packets(),
            bytes: entry.bytes(),
            last_seen: entry.last_seen(),
        };
        self.offload.counters(flow).map_or(software, |hardware| software.with(hardware))
    }

    fn key(&self, flow: FlowRef) -> Option<Key> {
        self.entry(flow).map(|entry| entry.key())
    }

    fn ports(&self, flow: FlowRef) -> Option<(u16, u16)> {
        let entry = self.forwarding(flow)?;
        let egress = self.adjacency_table.get(entry.adjacency()).fields().port();
        Some((self.context_table.get(entry.context()).port(), egress))
    }

    fn next_hop(&self, flow: FlowRef) -> Option<[u8; 6]> {
        let entry = self.forwarding(flow)?;
        self.adjacency_table.get(entry.adjacency()).header_bytes().first_chunk().copied()
    }

    fn set_epoch(&mut self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Release);
    }

    fn carried(&self, flow: FlowRef) -> [Carried; 2] {
        let Some(entry) = self.forwarding(flow) else { return [Carried::default(); 2] };
        // Workers count what leaves, NICs what comes in.
        let leaves = self.adjacency_table.get(entry.adjacency()).fields().header_len() as u16;
        let comes_in = self.context_table.get(entry.context()).header_len();
        let nics = self.offload.counters(flow).copied().unwrap_or_default();
        [
            Carried { packets: entry.packets(), bytes: entry.bytes(), header: leaves },
            Carried { packets: nics.packets, bytes: nics.bytes, header: comes_in },
        ]
    }

    fn keeps_accounts(&self) -> bool {
        self.export.is_some()
    }

    fn closed(&mut self, account: &Account) {
        if let Some(export) = &mut self.export {
            export.closed(account);
        }
    }
}
