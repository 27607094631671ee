//! Directions whose packets somebody wants to see: a NIC would carry them past all eyes, so they stay with workers.

use std::sync::Arc;

use dataplane::capture::{Template, Wanted};
use dataplane::flow::{AdjacencyId, ContextTable, EntryView, FlowRef};

use super::Offload;

impl Offload {
    /// From here on NICs carry no direction of which a packet may be wanted; `None`: they may again, once they are hot.
    pub(in crate::gateway) fn set_captured(&mut self, wanted: Option<Arc<Wanted>>) {
        self.captured = wanted;
        let placed: Vec<FlowRef> = self.placed.values().map(|placed| placed.flow).collect();
        for flow in placed {
            if self.is_captured(flow) {
                self.leave_soon(flow);
            }
        }
        for port in 0..self.ports.len() {
            self.serve(port, self.now);
        }
    }

    /// A direction has no rule as soon as the NIC has let go of it: nobody waits.
    fn leave_soon(&mut self, flow: FlowRef) {
        let name = super::name(flow);
        let Some(port) = self.placed.get(&name).map(|placed| placed.port) else { return };
        if !self.only_marks(port)
            && let Some(rules) = self.ports.get_mut(port)
        {
            rules.scheduler.leave(name);
        }
    }

    /// Whether a packet of a direction may be wanted, as it comes in or as it leaves. What a NIC only marks comes to
    /// workers anyway.
    pub(super) fn is_captured(&self, flow: FlowRef) -> bool {
        let Some(wanted) = &self.captured else { return false };
        let Some(entry) = self.table.resolve(flow).map(|slot| self.table.entry(slot)) else { return false };
        if entry.context() == ContextTable::NONE || entry.adjacency() == AdjacencyId::NONE {
            return false;
        }
        let ingress = self.contexts.get(entry.context());
        if self.only_marks(ingress.port().into()) {
            return false;
        }
        let adjacency = self.adjacencies.get(entry.adjacency());
        let fields = adjacency.fields();
        let of_port = |port: u16| wanted.ports >> (port % 32) & 1 == 1;
        if !of_port(ingress.port()) && !of_port(fields.port()) {
            return false;
        }
        let header = adjacency.header_bytes();
        let header = header.get(..fields.header_len()).unwrap_or_default();
        let leaving = Template::leaving(header, fields.pppoe_length(), &entry.leaves_as());
        wanted.filter.may_pass(&Template::received(&ingress, &entry.key()))
            || wanted.filter.may_pass(&leaving)
    }
}
