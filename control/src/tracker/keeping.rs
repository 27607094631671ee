//! The kernel's entries: kept alive while packets pass them by, and given back as they would have been without.

use dataplane::flow::{EntryState, Key, TCP};

use super::timers::{elapsed, flying};
use super::{Action, Dir, Millis, Plane, Source, Tracker, Why};
use crate::netlink::conntrack::{ConntrackEntry, Status, TcpFlags, TcpState};

impl Tracker {
    /// How long ago a packet is just now, in milliseconds: timeouts are as exact as that.
    pub(super) const RECENT: u32 = 1_000;
    /// How long an answer may take before the question is put again.
    const PATIENCE: Millis = 2_000;
    /// Seconds; see [`Self::was_held`].
    const MOMENT: u32 = 10;
    /// UDP that is answered is a stream from its third second on (nf_conntrack_proto_udp.c).
    const STREAM_AFTER: u32 = 2_000;
    /// By then a packet through the kernel makes it one, in milliseconds since it was first seen.
    pub(super) const STREAM_SEEN: u32 = 2_500;

    /// How long there has been no packet of the connection, in milliseconds. One that had to be punted for its own sake
    /// (a fragment, say) does not count: it makes the kernel's entry young by itself.
    pub(super) fn idle(&self, now: Millis, index: u32, plane: &impl Plane) -> u32 {
        let connection = &self.connections[index];
        let Some(flows) = connection.flows else { return 0 };
        let idle = |dir: Dir| {
            let (direction, counters) =
                (&connection.directions[dir as usize], plane.counters(flows[dir as usize]));
            let ago = |is: bool, then: u32| if is { elapsed(now, then) } else { u32::MAX };
            ago(counters.last_seen != 0, counters.last_seen)
                .min(ago(direction.ever_proved, direction.proved_at))
        };
        idle(Dir::Orig).min(idle(Dir::Reply)).min(elapsed(now, connection.born))
    }

    /// The timeout that the kernel gives a packet of an open connection, in seconds.
    pub(super) fn protocol_timeout(&self, index: u32) -> u32 {
        let connection = &self.connections[index];
        match (connection.timeout_s, connection.proto, connection.assured) {
            (0, TCP, _) => self.timing.tcp_established_s,
            (0, _, true) => self.timing.udp_stream_s,
            (0, _, false) => self.timing.udp_s,
            (told, ..) => told,
        }
    }

    /// The same in the state that TCP has now.
    fn timeout_in(&self, index: u32, state: Option<TcpState>) -> u32 {
        let closing = state.and_then(|state| (state as usize).checked_sub(TcpState::FinWait as usize));
        let closing = closing.and_then(|nth| self.timing.tcp_closing_s.get(nth));
        closing.copied().unwrap_or_else(|| self.protocol_timeout(index))
    }

    /// The timeout that the kernel would have given the last packet, had it seen it: it does not see that UDP has become a
    /// stream in the air.
    fn timeout_of_last(&self, index: u32, state: Option<TcpState>, age: u32, idle: u32) -> u32 {
        let (connection, usual) = (&self.connections[index], self.timeout_in(index, state));
        let answered = self.is_answered(index);
        let lasted = age.saturating_sub(idle) > Self::STREAM_AFTER;
        let young = connection.proto != TCP && !connection.assured && usual == self.timing.udp_s;
        if young && answered && lasted { usual.max(self.timing.udp_stream_s) } else { usual }
    }

    /// The kernel has seen a packet of either direction.
    pub(super) fn is_answered(&self, index: u32) -> bool {
        let connection = &self.connections[index];
        connection.replied || connection.directions[Dir::Reply as usize].ever_proved
    }

    /// The timeout that an event tells of, if it is what a packet has set, and not the protocol's (0). `held`: it may be
    /// Flyover's.
    pub(super) fn told(&self, entry: &ConntrackEntry, held: bool) -> u32 {
        let usual = match (entry.orig.proto, entry.status.contains(Status::ASSURED)) {
            (TCP, _) => self.timing.tcp_established_s,
            (_, true) => self.timing.udp_stream_s,
            (_, false) => self.timing.udp_s,
        };
        let hold = self.timing.hold;
        match entry.timeout_s {
            // Whole seconds: the first of them may have begun.
            Some(told) if told == usual || told + 1 == usual => 0,
            // Ours.
            Some(told) if held && told <= hold && told + Self::MOMENT > hold => 0,
            told => told.unwrap_or(0),
        }
    }

    /// Keeps the kernel's entry alive while packets pass it by.
    pub(super) fn hold_entry(&mut self, now: Millis, index: u32, plane: &impl Plane) {
        self.set_timeout(index, self.timing.hold, true, plane);
        let connection = &mut self.connections[index];
        (connection.held, connection.returning) = (true, false);
        connection.refreshed = now as u32;
    }

    /// `liberal`: with TCP's liberal flags, which an entry gets when it is kept alive. It has them still when it is given
    /// back (its windows are stale), but is not sent them again: the kernel would forget the last acknowledgement, by which
    /// it judges an RST.
    fn set_timeout(&mut self, index: u32, timeout_s: u32, liberal: bool, plane: &impl Plane) {
        let connection = &self.connections[index];
        let Some(orig) = connection.flows.and_then(|flows| plane.key(flows[0])).map(|key: Key| key.tuple())
        else {
            return;
        };
        self.actions.push(Action::Timeout { orig, zones: connection.zones, timeout_s, liberal });
        self.stats.refreshes += 1;
    }

    /// An idle flow goes back to the kernel, with the timeout that it would have had.
    pub(super) fn give_back(&mut self, now: Millis, index: u32, plane: &mut impl Plane) {
        let Some(flows) = self.connections[index].flows else { return };
        for dir in Dir::BOTH {
            let flow = flows[dir as usize];
            if flying(self.connections[index].directions[dir as usize].state) {
                plane.set_state(flow, EntryState::Candidate);
                self.note(now, index, dir, EntryState::Candidate, Why::Idle);
            }
        }
        self.recall(now, index, plane);
    }

    /// Asks for the kernel's entry before its timeout is set back: a packet that went through the kernel meanwhile has set
    /// the right one by itself.
    pub(super) fn recall(&mut self, now: Millis, index: u32, plane: &impl Plane) {
        self.connections[index].returning = true;
        let connection = &self.connections[index];
        if let Some(key) = connection.flows.and_then(|flows| plane.key(flows[0])) {
            self.actions.push(Action::Ask { tuple: key.tuple(), zones: connection.zones });
            self.arm(index, now + Self::PATIENCE);
        }
    }

    /// The kernel has told how long an entry lives on that is to be given back.
    pub(super) fn returned(
        &mut self,
        now: Millis,
        index: u32,
        entry: &ConntrackEntry,
        plane: &mut impl Plane,
    ) {
        let state = entry.tcp_state();
        // Longer than the kernel's: set here. Shorter than the last packet makes it: that one flew. Not told of what the
        // flowtable has, which is set to a day there.
        let left = self.left_alone(now, index, state, plane);
        if self.is_ours(entry, self.timeout_in(index, state)) || entry.timeout_s.is_none_or(|is| is < left) {
            self.set_timeout(index, left, false, plane);
        }
        let connection = &mut self.connections[index];
        (connection.held, connection.returning) = (false, false);
    }

    /// Seconds that the kernel's entry would live on without Flyover.
    fn left_alone(&self, now: Millis, index: u32, state: Option<TcpState>, plane: &impl Plane) -> u32 {
        let idle = self.idle(now, index, plane);
        let age = elapsed(now, self.connections[index].born);
        // To the nearest second, which is what a timeout is counted in.
        let timeout = u64::from(self.timeout_of_last(index, state, age, idle)) * 1000;
        let left = (timeout.saturating_sub(u64::from(idle)) + 500) / 1000;
        u32::try_from(left).unwrap_or(u32::MAX).max(1)
    }

    /// The kernel is closing a connection, and sets the timeouts of closing states by itself, packet by packet. Was one
    /// set here in the same moment, the order is not known: it is asked.
    pub(super) fn let_close(&mut self, now: Millis, index: u32, source: Source, plane: &impl Plane) {
        let connection = &self.connections[index];
        let recently = source != Source::Event || elapsed(now, connection.refreshed) < Self::RECENT;
        let unsure = connection.returning || (connection.held && recently);
        self.connections[index].held = false;
        if unsure {
            self.recall(now, index, plane);
        }
    }

    /// A connection that lives on in the kernel is to be forgotten here.
    pub(super) fn let_go(&mut self, now: Millis, index: u32, plane: &mut impl Plane) {
        if self.connections[index].held {
            self.set_timeout(index, self.left_alone(now, index, None, plane), false, plane);
        }
    }

    /// Gives all connections back, each with the timeout that it would have had: the process is about to end.
    pub fn release(&mut self, now: Millis, plane: &mut impl Plane) {
        for index in self.connections.indices() {
            let Some(flows) = self.connections[index].flows else { continue };
            for flow in flows {
                if plane.state(flow) != EntryState::Closing {
                    plane.set_state(flow, EntryState::Candidate);
                }
            }
            self.let_go(now, index, plane);
        }
    }

    /// An entry has its timeout of a Flyover that does not know it: of one that died, or because a timeout that was meant
    /// for the entry before it came late. TCP's liberal flag tells, or that it was set a moment ago; other UDP lives out
    /// what it was given.
    pub(super) fn was_held(&self, entry: &ConntrackEntry) -> bool {
        let hold = self.timing.hold;
        let just_now = entry.timeout_s.is_some_and(|left| left <= hold && left + Self::MOMENT > hold);
        let tcp = entry.tcp.is_some() && self.timing.tcp_established_s > hold;
        just_now || (tcp && self.is_ours(entry, self.timing.tcp_established_s))
    }

    /// No packet of a connection can have set an entry's timeout: longer than the kernel's, or, where that is longer than
    /// ours, no longer than ours although the entry is liberal.
    fn is_ours(&self, entry: &ConntrackEntry, kernels: u32) -> bool {
        let Some(timeout) = entry.timeout_s else { return false };
        if kernels < self.timing.hold {
            return timeout > kernels;
        }
        let liberal = |flags: Option<TcpFlags>| flags.is_some_and(|f| f.contains(TcpFlags::BE_LIBERAL));
        let tcp = entry.tcp.is_some_and(|tcp| liberal(tcp.orig_flags) && liberal(tcp.reply_flags));
        tcp && timeout <= self.timing.hold
    }
}
