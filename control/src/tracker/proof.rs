//! How a direction comes to fly: proof, settling, and what undoes them.

use dataplane::flow::{EntryState, FlowRef};
use dataplane::punt::Proof;

use super::{Action, Dir, Forwarding, Millis, Plane, Tracker, Why};

impl Tracker {
    /// The kernel has just forwarded a packet of a direction.
    pub(super) fn proved(&mut self, now: Millis, proof: &Proof, plane: &mut impl Plane) {
        let Some((index, dir)) = self.locate(proof.flow, plane) else { return };
        if proof.epoch != self.epoch {
            self.stats.stale_proofs += 1;
            return;
        }
        let connection = &self.connections[index];
        let direction = &connection.directions[dir as usize];
        let shunned = direction.shunned_until != 0
            && (now as u32).wrapping_sub(direction.shunned_until).cast_signed() < 0;
        let state = plane.state(proof.flow);
        if shunned || !connection.established || state == EntryState::Closing {
            return;
        }
        let kept = || self.is_kept_on_its_way(index, dir, proof, plane).then_some(Why::Ruleset);
        if let Some(why) = self.barred_by_flowtable(proof).or_else(kept) {
            let before = (direction.state, direction.why);
            plane.set_state(proof.flow, EntryState::Candidate);
            if before != (EntryState::Candidate, why) {
                self.note(now, index, dir, EntryState::Candidate, why);
            }
            return;
        }
        self.stats.proofs += 1;
        let current = direction.epoch.wrapping_sub(self.lengths_at).cast_signed() >= 0;
        let known = if current { plane.length(proof.flow) } else { 0 };
        let length = match plane.forward(proof) {
            Forwarding::NoRoom => {
                plane.set_state(proof.flow, EntryState::Candidate);
                return self.note(now, index, dir, EntryState::Candidate, Why::NoRoom);
            }
            Forwarding::Unchanged => known.max(proof.l3_len),
            Forwarding::Changed => proof.l3_len,
        };
        self.alter(index, |connection| {
            let direction = &mut connection.directions[dir as usize];
            direction.ever_proved = true;
            direction.proved_at = now as u32;
            direction.epoch = proof.epoch;
        });
        let direction = &self.connections[index].directions[dir as usize];
        plane.set_length(proof.flow, length, proof.overtook > length);
        let probe_is_out = direction.state == EntryState::Probing;
        match state {
            EntryState::Candidate => {
                self.hold_entry(now, index, plane);
                plane.set_state(proof.flow, EntryState::Holding);
                self.note(now, index, dir, EntryState::Holding, Why::Settling);
                self.actions.push(Action::Settle(proof.flow));
                self.arm_within(index, now, Self::SETTLE);
            }
            // The probe was alone on its way: nothing is left that could be overtaken.
            EntryState::Holding if probe_is_out => self.fly(now, index, dir, proof.flow, plane),
            EntryState::Probing => {
                if plane.transition(proof.flow, EntryState::Probing, EntryState::Software) {
                    self.note(now, index, dir, EntryState::Software, Why::Proved);
                    self.hold_entry(now, index, plane);
                }
            }
            EntryState::Holding | EntryState::Software | EntryState::Closing => {}
        }
    }

    /// Longest time that a direction may stay in [`EntryState::Holding`] for all that control knows.
    pub(super) const SETTLE: Millis = 200;

    /// From [`EntryState::Holding`] into the air.
    fn fly(&mut self, now: Millis, index: u32, dir: Dir, flow: FlowRef, plane: &mut impl Plane) {
        if plane.transition(flow, EntryState::Holding, EntryState::Software) {
            self.note(now, index, dir, EntryState::Software, Why::Proved);
            // Also after a probe: as any packet through the kernel it has set timeout and flags again.
            self.hold_entry(now, index, plane);
            self.arm_next(now, index, plane);
        } else {
            self.adopt(now, index, dir, flow, plane);
        }
    }

    /// A worker was faster: take its state over.
    pub(super) fn adopt(&mut self, now: Millis, index: u32, dir: Dir, flow: FlowRef, plane: &impl Plane) {
        let direction = self.connections[index].directions[dir as usize];
        let state = plane.state(flow);
        // Between Probing and Holding the probe is on its way: nothing to tell the user.
        if state == direction.state
            || (direction.state == EntryState::Probing && state == EntryState::Holding)
        {
            return;
        }
        let why = match state {
            EntryState::Closing => Why::Closing,
            EntryState::Candidate if direction.state == EntryState::Software => Why::Longer,
            EntryState::Candidate => Why::NotForwarded,
            _ => direction.why,
        };
        self.note(now, index, dir, state, why);
    }

    /// No packet of a held direction is on its way any more.
    pub(super) fn settled(&mut self, now: Millis, flow: FlowRef, plane: &mut impl Plane) {
        let Some((index, dir)) = self.locate(flow, plane) else { return };
        let direction = &self.connections[index].directions[dir as usize];
        if direction.state != EntryState::Holding {
            return;
        }
        if direction.epoch == self.epoch {
            self.fly(now, index, dir, flow, plane);
        } else {
            self.stats.stale_proofs += 1;
            plane.transition(flow, EntryState::Holding, EntryState::Candidate);
            self.note(now, index, dir, EntryState::Candidate, Why::Changed);
        }
    }

    /// One packet went in, two came out (tee, dup, a bridge that floods): one copy can't stand for it.
    pub(super) fn duplicated(&mut self, now: Millis, flow: FlowRef, plane: &mut impl Plane) {
        let Some((index, dir)) = self.locate(flow, plane) else { return };
        if plane.state(flow) != EntryState::Closing {
            plane.set_state(flow, EntryState::Candidate);
            self.note(now, index, dir, EntryState::Candidate, Why::Duplicated);
            let until = (now as u32).wrapping_add(self.timing.shun).max(1);
            self.connections[index].directions[dir as usize].shunned_until = until;
        }
    }

    /// The kernel did not forward the packet that should have proved the direction.
    pub(super) fn lost(&mut self, now: Millis, flow: FlowRef, plane: &mut impl Plane) {
        let Some((index, dir)) = self.locate(flow, plane) else { return };
        let direction = &self.connections[index].directions[dir as usize];
        let up = matches!(direction.state, EntryState::Probing | EntryState::Holding)
            || (direction.state == EntryState::Software && plane.state(flow) == EntryState::Candidate);
        if up && plane.state(flow) != EntryState::Closing {
            self.stats.not_forwarded += 1;
            plane.set_state(flow, EntryState::Candidate);
            self.note(now, index, dir, EntryState::Candidate, Why::NotForwarded);
        }
    }

    /// A worker gave a direction back because of a packet longer than proved.
    pub(super) fn longer(&mut self, now: Millis, flow: FlowRef, plane: &mut impl Plane) {
        let Some((index, dir)) = self.locate(flow, plane) else { return };
        if plane.state(flow) == EntryState::Candidate {
            self.note(now, index, dir, EntryState::Candidate, Why::Longer);
        }
    }
}
