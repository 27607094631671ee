//! What happens with time: proofs are renewed and their deadlines kept, and [`keeping`](super::keeping) gets its turn.

use dataplane::flow::{EntryState, FlowRef, UDP};

use super::{Action, Class, Dir, Millis, Plane, TICK, Tracker, Why};

pub(super) const fn flying(state: EntryState) -> bool {
    matches!(state, EntryState::Software | EntryState::Probing)
}

/// Milliseconds from `then` to `now`; 0 if `then` is ahead.
pub(super) fn elapsed(now: Millis, then: u32) -> u32 {
    let difference = (now as u32).wrapping_sub(then);
    if difference.cast_signed() < 0 { 0 } else { difference }
}

impl Tracker {
    /// Time has passed. To be called every [`TICK`] or so while there are connections.
    pub fn tick(&mut self, now: Millis, plane: &mut impl Plane) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance((now / TICK) as u32, &mut fired);
        for (due, index) in fired.drain(..) {
            if self.connections.get(index).is_some_and(|c| c.due == due && c.flows.is_some()) {
                self.serve(now, index, plane);
            }
        }
        self.fired = fired;
        self.sweep(now, plane);
    }

    /// The connection's timer has fired.
    fn serve(&mut self, now: Millis, index: u32, plane: &mut impl Plane) {
        let Some(flows) = self.connections[index].flows else { return };
        for dir in Dir::BOTH {
            self.serve_direction(now, index, dir, flows[dir as usize], plane);
        }
        let connection = &self.connections[index];
        if connection.class() == Class::Closing {
            if let (true, Some(key)) = (connection.established, plane.key(flows[0])) {
                let zones = connection.zones;
                self.actions.push(Action::Ask { tuple: key.tuple(), zones });
                self.arm(index, now + 10 * u64::from(self.timing.closing_check));
            }
            return;
        }
        let flies = connection.directions.iter().any(|d| flying(d.state));
        if connection.returning && !flies {
            return self.recall(now, index, plane);
        }
        if !flies && !connection.held {
            return self.arm_next(now, index, plane);
        }
        let idle = self.idle(now, index, plane);
        if idle >= self.idle_after(index) {
            return self.give_back(now, index, plane);
        }
        let due = elapsed(now, self.connections[index].refreshed) >= self.refresh_every(index);
        // Right behind a packet that flew: one that went through the kernel since has set the kernel's own timeout, which
        // is not to be lost.
        if flies && due && idle < Self::RECENT {
            self.hold_entry(now, index, plane);
        }
        self.arm_next(now, index, plane);
    }

    fn serve_direction(&mut self, now: Millis, index: u32, dir: Dir, flow: FlowRef, plane: &mut impl Plane) {
        self.adopt(now, index, dir, flow, plane);
        let direction = self.connections[index].directions[dir as usize];
        let age = elapsed(now, direction.since);
        match direction.state {
            EntryState::Holding if Millis::from(age) >= Self::SETTLE => self.lost(now, flow, plane),
            EntryState::Software
                if age >= self.reprove_after(index, dir)
                    && plane.transition(flow, EntryState::Software, EntryState::Probing) =>
            {
                self.note(now, index, dir, EntryState::Probing, Why::Reproving);
            }
            EntryState::Probing if age >= self.probe_for() => {
                self.not_proved_in_time(now, index, dir, flow, plane);
            }
            _ => {}
        }
    }

    /// A direction has not proved itself by its deadline. Were it left probing, its next packet might find no room as
    /// probe, and fly.
    fn not_proved_in_time(
        &mut self,
        now: Millis,
        index: u32,
        dir: Dir,
        flow: FlowRef,
        plane: &mut impl Plane,
    ) {
        let direction = self.connections[index].directions[dir as usize];
        let flew = elapsed(now, plane.counters(flow).last_seen) < elapsed(now, direction.since);
        // Holding: its probe is under way, or came out too late.
        let back = [EntryState::Probing, EntryState::Holding]
            .into_iter()
            .any(|from| plane.transition(flow, from, EntryState::Candidate));
        if !back {
            return self.adopt(now, index, dir, flow, plane);
        }
        self.stats.deadline_missed += u64::from(flew);
        let why = if flew { direction.why } else { Why::Idle };
        self.note(now, index, dir, EntryState::Candidate, why);
    }

    /// How long a direction may fly on while it proves itself again. A change's sweep takes half of the time there is,
    /// and leaves this half.
    fn probe_for(&self) -> u32 {
        (self.timing.revalidate_within.min(self.timing.reprove_every) / 2).max(TICK as u32)
    }

    /// How long after it took off a direction has to prove itself again. It was proved up to [`Self::SETTLE`] before.
    fn reprove_after(&self, index: u32, dir: Dir) -> u32 {
        let usual = self.timing.reprove_every.saturating_sub(self.probe_for() + Self::SETTLE as u32);
        let connection = &self.connections[index];
        let direction = &connection.directions[dir as usize];
        let took_off = direction.since.wrapping_sub(connection.born);
        // Only a packet that the kernel sees makes UDP a stream: assured, and with a timeout that a rule may have set.
        let unseen = connection.proto == UDP && !connection.assured && self.is_answered(index);
        if unseen && took_off < Self::STREAM_SEEN { usual.min(Self::STREAM_SEEN - took_off) } else { usual }
    }

    fn idle_after(&self, index: u32) -> u32 {
        // Early enough to hand the rest of a short timeout over to the kernel.
        self.timing.idle_after.min(self.protocol_timeout(index).saturating_mul(500)).max(500)
    }

    fn refresh_every(&self, index: u32) -> u32 {
        // A packet that goes through the kernel sets the protocol's own timeout, which may be shorter.
        let kernels = self.protocol_timeout(index).saturating_mul(300);
        let flowtables = self.flowtable_leaves(self.connections[index].proto).saturating_mul(500);
        self.timing.refresh_every.min(kernels).min(flowtables).max(300)
    }

    /// Arms the connection's timer for what comes next.
    pub(super) fn arm_next(&mut self, now: Millis, index: u32, plane: &impl Plane) {
        let connection = &self.connections[index];
        let mut wait = u32::MAX;
        for dir in Dir::BOTH {
            let direction = &connection.directions[dir as usize];
            let age = elapsed(now, direction.since);
            match direction.state {
                EntryState::Holding => wait = wait.min((Self::SETTLE as u32).saturating_sub(age)),
                EntryState::Software => wait = wait.min(self.reprove_after(index, dir).saturating_sub(age)),
                EntryState::Probing => wait = wait.min(self.probe_for().saturating_sub(age)),
                _ => {}
            }
        }
        let flies = connection.directions.iter().any(|d| flying(d.state));
        if flies || connection.held {
            let idle = self.idle(now, index, plane);
            wait = wait.min(self.idle_after(index).saturating_sub(idle));
        }
        if flies {
            let left = self.refresh_every(index).saturating_sub(elapsed(now, connection.refreshed));
            wait = wait.min(if left == 0 { Self::RECENT } else { left });
        }
        if wait < u32::MAX {
            self.arm(index, now + Millis::from(wait).max(TICK));
        }
    }

    /// Arms the connection's timer, unless it fires sooner.
    pub(super) fn arm_within(&mut self, index: u32, now: Millis, wait: Millis) {
        let tick = ((now + wait) / TICK) as u32;
        let armed = self.connections[index].due;
        let pending = armed.wrapping_sub((now / TICK) as u32).cast_signed() > 0;
        if !pending || tick.wrapping_sub(armed).cast_signed() < 0 {
            self.arm(index, now + wait);
        }
    }
}
