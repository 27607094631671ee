//! Announced changes: what they undo, and how soon.

use dataplane::flow::EntryState;

use super::{Dir, Millis, Plane, TICK, Tracker, Why};

/// Something changed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The ruleset: what is let through may be different, the way it takes is not.
    Ruleset,
    /// Routes, rules, addresses, links, or events that were lost: the way may be different, and with it the
    /// longest packet that leaves in one piece.
    Anything,
    /// A neighbour has left this MAC address, or can't be reached any more.
    NextHop {
        /// The MAC address that frames must not be sent to on its behalf.
        mac: [u8; 6],
    },
    /// A port or its twin is down or gone, or has another MTU or address.
    Port {
        /// The port's index.
        port: u16,
    },
}

impl Tracker {
    /// Something changed in the kernel.
    ///
    /// All flows prove themselves again; those that use a neighbour or port that went away stop at once.
    pub fn changed(&mut self, now: Millis, change: Changed, plane: &mut impl Plane) {
        self.stats.changes += 1;
        self.epoch = self.epoch.wrapping_add(1);
        plane.set_epoch(self.epoch);
        if self.sweep_left == 0 {
            self.swept_at = now;
        }
        self.sweep_left = self.connections.span();
        match change {
            Changed::Ruleset => {}
            Changed::Anything => self.lengths_at = self.epoch,
            Changed::NextHop { mac } => {
                self.demote(now, Why::Changed, plane, |plane, flow| plane.next_hop(flow) == Some(mac));
            }
            Changed::Port { port } => {
                self.lengths_at = self.epoch;
                self.demote(now, Why::PortChanged, plane, |plane, flow| {
                    plane.ports(flow).is_some_and(|(ingress, egress)| ingress == port || egress == port)
                });
            }
        }
        self.sweep(now, plane);
    }

    /// One connection's mark has changed, by which routes and rules may choose: it proves itself again.
    pub(super) fn doubt(&mut self, now: Millis, index: u32, plane: &mut impl Plane) {
        let Some(flows) = self.connections[index].flows else { return };
        for dir in Dir::BOTH {
            if plane.transition(flows[dir as usize], EntryState::Software, EntryState::Probing) {
                self.note(now, index, dir, EntryState::Probing, Why::Changed);
            }
        }
        self.arm_next(now, index, plane);
    }

    fn demote<P: Plane>(
        &mut self,
        now: Millis,
        why: Why,
        plane: &mut P,
        concerns: impl Fn(&P, dataplane::flow::FlowRef) -> bool,
    ) {
        for index in self.connections.indices() {
            let Some(flows) = self.connections[index].flows else { continue };
            for dir in Dir::BOTH {
                let flow = flows[dir as usize];
                let state = plane.state(flow);
                let up = matches!(state, EntryState::Software | EntryState::Probing | EntryState::Holding);
                if up && concerns(plane, flow) && plane.transition(flow, state, EntryState::Candidate) {
                    plane.set_length(flow, 0, false);
                    self.note(now, index, dir, EntryState::Candidate, why);
                }
            }
        }
    }

    /// Goes on setting flows probing: all of them within half of the time allowed, but not faster than
    /// needed, so that their probes do not crowd the way to the kernel.
    pub(super) fn sweep(&mut self, now: Millis, plane: &mut impl Plane) {
        if self.sweep_left == 0 {
            return;
        }
        let span = self.connections.span();
        // By time and not by call: a loop that is late has the more to do.
        let half = (Millis::from(self.timing.revalidate_within) / 2).max(TICK);
        let share = (now - self.swept_at).max(TICK);
        let mut budget = (span as u64 * share).div_ceil(half).max(256) as usize;
        self.swept_at = now;
        while self.sweep_left > 0 && budget > 0 {
            budget -= 1;
            self.sweep_left -= 1;
            self.sweep_at = if self.sweep_at + 1 >= span { 0 } else { self.sweep_at + 1 };
            let index = self.sweep_at as u32;
            let Some(flows) = self.connections.get(index).and_then(|c| c.flows) else { continue };
            for dir in Dir::BOTH {
                let flow = flows[dir as usize];
                let direction = self.connections[index].directions[dir as usize];
                let fresh = direction.epoch == self.epoch;
                if direction.epoch.wrapping_sub(self.lengths_at).cast_signed() < 0 {
                    plane.set_length(flow, 0, false);
                }
                // One that is probing already keeps the deadline that it has: changes don't put it off.
                if !fresh
                    && direction.state == EntryState::Software
                    && plane.transition(flow, EntryState::Software, EntryState::Probing)
                {
                    self.note(now, index, dir, EntryState::Probing, Why::Changed);
                }
            }
            self.arm_next(now, index, plane);
        }
    }
}
