//! A port that goes: what has to be given back before its device may be closed.

use dataplane::punt::Twin;
use dataplane::worker::Errand;

use super::Reload;
use crate::gateway::ports::GatewayPort;
use crate::gateway::service::Keepers;
use crate::gateway::state::State;
use crate::tracker::Changed;

/// How long NICs may take to remove rules by which they send packets out of the port, in milliseconds. The device is closed
/// nevertheless, and those packets are lost.
const PATIENCE: u64 = 5_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Leaving {
    // The punt thread's hold on the twin goes before the twin.
    way: Option<Twin>,
    pub(super) number: usize,
    pub(super) port: GatewayPort,
    since: u64,
}

impl Leaving {
    /// The punt thread does not use the twin any more.
    pub(super) fn has_given_back(&mut self, way: Twin) {
        self.way = Some(way);
    }

    /// Whether nobody uses the port any more.
    pub(super) fn is_free(&self, now: u64, state: &State) -> bool {
        let polled = self.port.port.as_ref().is_some_and(|port| port.has_queues_out());
        let by_nics = state.plane.offload.leads_to(self.number) && now < self.since + PATIENCE;
        self.way.is_some() && !polled && !by_nics
    }
}

impl Reload {
    /// Takes a port away: its flows go back to the kernel at once, and whoever has something of it is told to return it.
    /// One that comes back, by another device, finds its twin as it was.
    pub(super) fn leave(
        &mut self,
        name: &str,
        comes_back: bool,
        now: u64,
        state: &mut State,
        keepers: &mut Keepers,
    ) -> Option<Leaving> {
        let number = state.ports.named(name)?;
        state.tracker.changed(now, Changed::Port { port: number as u16 }, &mut state.plane);
        state.plane.offload.lost_all(number);
        let port = state.ports.take(number, now)?;
        if let Some(device) = &port.port {
            state.plane.offload.close(device.id());
        }
        state.workers.iter().for_each(|worker| worker.send(Errand::LetGo(number)));
        if self.links.new_twins.push((number, Twin::absent())).is_err() {
            tracing::error!(port = name, "the punt thread does not do what it is told");
        }
        self.links.bell.ring();
        if !comes_back {
            keepers.lose(name);
        }
        state.flags.set_bridged(number, false);
        state.follow_interfaces(now);
        Some(Leaving { way: None, number, port, since: now })
    }
}
