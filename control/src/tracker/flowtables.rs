//! The kernel's flowtables: what they select, and what they do to entries and proofs of flows.
//!
//! A `flow add` rule sets the status bit OFFLOAD, which the kernel clears after some time without packets. Those that
//! fly are such a time; so the bit counts as an event, and what was selected stays it until the flowtables change.

use dataplane::flow::{TCP, UDP};
use dataplane::punt::Proof;

use super::{Policy, Refusal, Tracker, Why};
use crate::netlink::conntrack::{ConntrackEntry, Status, TcpState};
use crate::ruleset::ConnectionView;

/// What the kernel's flowtables mean for ports and timeouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flowtables {
    /// Ports whose twin is a device of a flowtable to which rules add, or lies below one; by index.
    pub devices: Vec<bool>,
    /// Ports whose packets a flowtable can't be kept from, so that nothing of them proves that the rules agree; by
    /// index.
    pub past_rules: Vec<bool>,
    /// The same of all packets in PPPoE sessions.
    pub past_rules_in_pppoe: bool,
    /// Seconds without packets after which the kernel takes a TCP connection out of its flowtable.
    pub tcp_timeout_s: u32,
    /// The same for UDP.
    pub udp_timeout_s: u32,
}

impl Flowtables {
    /// The kernel's own `nf_flowtable_tcp_timeout` and `nf_flowtable_udp_timeout`.
    pub const TIMEOUT_S: u32 = 30;
}

impl Default for Flowtables {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            past_rules: Vec::new(),
            past_rules_in_pppoe: false,
            tcp_timeout_s: Self::TIMEOUT_S,
            udp_timeout_s: Self::TIMEOUT_S,
        }
    }
}

/// The timeout of an entry in a flowtable is a day: the flowtable's, and no packet's.
pub(super) fn without_its_timeout(entry: ConntrackEntry) -> ConntrackEntry {
    let timeout_s = entry.timeout_s.filter(|_| !entry.status.contains(Status::OFFLOAD));
    ConntrackEntry { timeout_s, ..entry }
}

/// Of an entry in a flowtable neither dumps nor answers tell the state: what is there was ESTABLISHED.
pub(super) fn tcp_state(entry: &ConntrackEntry) -> Option<TcpState> {
    let offloaded = entry.status.contains(Status::OFFLOAD);
    entry.tcp_state().or_else(|| offloaded.then_some(TcpState::Established))
}

impl Tracker {
    /// Seconds that an entry needs to have left when the kernel takes it out of its flowtable, to be refreshed in time.
    const ENOUGH: u32 = 10;

    /// Replaces what is known of ports and timeouts. To be told of as a [change](Tracker::changed), too.
    pub fn set_flowtables(&mut self, flowtables: Flowtables) {
        self.flowtables = flowtables;
    }

    /// What is known of ports and timeouts.
    pub const fn flowtables(&self) -> &Flowtables {
        &self.flowtables
    }

    /// Flowtables select by other rules now: what is in them must show itself again.
    pub(super) fn deselect(&mut self) {
        for index in self.connections.indices() {
            self.connections[index].selected = false;
        }
    }

    pub(super) fn is_selected(&self, entry: &ConntrackEntry, has_been: bool) -> bool {
        (has_been || entry.status.contains(Status::OFFLOAD))
            && self.judgement.may_be_added(&ConnectionView::of(entry))
    }

    /// Seconds that an entry has left, at the most, when the kernel takes it out of its flowtable
    /// (`flow_offload_fixup_ct` in nf_flow_table_core.c); without one, as good as for ever.
    pub(super) fn flowtable_leaves(&self, proto: u8) -> u32 {
        if self.judgement.additions().is_empty() {
            return u32::MAX;
        }
        match proto {
            TCP => self.timing.tcp_established_s.saturating_sub(self.flowtables.tcp_timeout_s),
            _ => self.timing.udp_stream_s.saturating_sub(self.flowtables.udp_timeout_s),
        }
    }

    /// UDP without an answer has nothing left then, and ends although it flies.
    pub(super) fn ended_by_flowtable(&self, entry: &ConntrackEntry) -> Option<Refusal> {
        let one_way = entry.orig.proto == UDP && !entry.status.contains(Status::SEEN_REPLY);
        let ends = (one_way || self.flowtable_leaves(entry.orig.proto) < Self::ENOUGH)
            && self.judgement.may_be_added(&ConnectionView::of(entry));
        ends.then_some(Refusal::FlowtableEnds)
    }

    /// Why a flowtable, or what it selects, makes a proof count for nothing.
    pub(super) fn barred_by_flowtable(&self, proof: &Proof) -> Option<Why> {
        let of = |ports: &[bool]| ports.get(usize::from(proof.ingress.port())).copied().unwrap_or(false);
        if of(&self.flowtables.past_rules)
            || (self.flowtables.past_rules_in_pppoe && proof.ingress.pppoe().is_some())
        {
            Some(Why::PastRules)
        } else if self.policy == Policy::Flowtable && !of(&self.flowtables.devices) {
            Some(Why::OtherDevice)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane::flow::EntryState;
    use dataplane::packet::Ingress;
    use dataplane::punt::Observation;

    use super::super::testing::{Rig, masqueraded};
    use super::super::{Changed, Source};
    use super::*;
    use crate::ruleset::testing::with_flowtable;

    fn both() -> Flowtables {
        Flowtables { devices: vec![true, true], ..Flowtables::default() }
    }

    fn rig(policy: Policy) -> Rig {
        let mut rig = Rig::with(policy);
        rig.tracker.set_judgement(with_flowtable(&["lan0", "wan0"], true).into());
        rig.tracker.set_flowtables(both());
        rig
    }

    fn offloaded(entry: &ConntrackEntry) -> ConntrackEntry {
        let status = entry.status | Status::OFFLOAD;
        // As in an event: the flowtable has set a day.
        ConntrackEntry { status, timeout_s: Some(86_400), ..*entry }
    }

    fn dump(rig: &mut Rig, entries: &[ConntrackEntry]) {
        rig.tracker.dump_started();
        for entry in entries {
            rig.tracker.entry(rig.now, entry, Source::Dump, &mut rig.model);
        }
        rig.tracker.dump_finished(&mut rig.model);
        rig.act();
    }

    #[test]
    fn what_the_flowtable_had_flies_on_when_the_kernel_has_given_it_up() {
        for proto in [TCP, UDP] {
            let (mut rig, entry) = (rig(Policy::Flowtable), masqueraded(proto, 1));
            rig.event(&entry);
            assert!(rig.model.entries.is_empty(), "not selected yet");
            assert_eq!(rig.tracker.refusal(&entry), Some(Refusal::NotInFlowtable));
            rig.event(&offloaded(&entry));
            rig.take_off(&entry);
            rig.event(&entry);
            assert_eq!(rig.state(entry.orig), EntryState::Software);
            dump(&mut rig, &[entry]);
            assert_eq!(rig.state(entry.reply), EntryState::Software);
        }
    }

    #[test]
    fn flowtables_that_select_otherwise_must_show_what_they_have() {
        let (mut rig, entry) = (rig(Policy::Flowtable), masqueraded(UDP, 1));
        rig.event(&offloaded(&entry));
        rig.take_off(&entry);
        // The same again, as a reload of the ruleset makes it.
        rig.tracker.set_judgement(with_flowtable(&["lan0", "wan0"], true).into());
        dump(&mut rig, &[entry]);
        assert_eq!(rig.model.entries.len(), 2);
        rig.tracker.set_judgement(with_flowtable(&["lan0"], true).into());
        dump(&mut rig, &[entry]);
        assert!(rig.model.entries.is_empty());
        rig.event(&offloaded(&entry));
        assert_eq!(rig.model.entries.len(), 2);
        // No rule adds any more; what the kernel still has counts for nothing.
        rig.tracker.set_judgement(with_flowtable(&["lan0"], false).into());
        dump(&mut rig, &[offloaded(&entry)]);
        assert!(rig.model.entries.is_empty());
    }

    #[test]
    fn a_dump_does_not_tell_the_state_of_what_is_in_a_flowtable() {
        let (mut rig, entry) = (rig(Policy::Flowtable), masqueraded(TCP, 1));
        dump(&mut rig, &[ConntrackEntry { tcp: None, timeout_s: None, ..offloaded(&entry) }]);
        rig.take_off(&entry);
        assert_eq!(rig.state(entry.orig), EntryState::Software);
    }

    #[test]
    fn what_a_gateway_before_this_one_carried_was_selected() {
        let mut rig = rig(Policy::Flowtable);
        let entry = ConntrackEntry { timeout_s: Some(598), ..masqueraded(UDP, 1) };
        dump(&mut rig, &[entry]);
        assert_eq!(rig.model.entries.len(), 2);
    }

    #[test]
    fn a_day_is_no_timeout_of_a_packet() {
        let (mut rig, entry) = (rig(Policy::Established), masqueraded(UDP, 1));
        rig.event(&offloaded(&entry));
        rig.take_off(&entry);
        rig.timeouts.clear();
        rig.pass(31_000);
        assert_eq!(rig.asked.pop(), Some(entry.orig), "idle, and to be given back");
        // The answer says nothing of the timeout.
        let answer = ConntrackEntry { timeout_s: None, ..offloaded(&entry) };
        rig.tracker.entry(rig.now, &answer, Source::Answer, &mut rig.model);
        rig.act();
        let [left] = rig.timeouts[..] else { panic!("{:?}", rig.timeouts) };
        assert!((80..=120).contains(&left), "{left}");
    }

    #[test]
    fn the_flowtable_would_end_udp_without_an_answer() {
        for policy in [Policy::Established, Policy::Flowtable] {
            let (mut rig, entry) = (rig(policy), offloaded(&masqueraded(UDP, 1)));
            let one_way = ConntrackEntry { status: Status(Status::CONFIRMED.0 | Status::OFFLOAD.0), ..entry };
            rig.event(&one_way);
            assert!(rig.model.entries.is_empty());
            assert_eq!(rig.tracker.refusal(&one_way), Some(Refusal::FlowtableEnds));
            rig.event(&entry);
            assert_eq!(rig.model.entries.len(), 2);
            // Where no rule adds it, it may.
            let mut rig = Rig::with(Policy::Established);
            rig.event(&one_way);
            assert_eq!(rig.model.entries.len(), 2);
        }
    }

    #[test]
    fn an_entry_is_refreshed_before_what_the_flowtable_leaves_is_over() {
        let (mut rig, entry) = (rig(Policy::Established), masqueraded(UDP, 1));
        rig.tracker.set_flowtables(Flowtables { udp_timeout_s: 105, ..both() });
        rig.event(&offloaded(&entry));
        rig.take_off(&entry);
        rig.timeouts.clear();
        for _ in 0..30 {
            rig.pass(500);
            rig.model.fly(entry.orig, rig.now);
        }
        assert!(rig.timeouts.len() >= 2, "15 s are left each time: {:?}", rig.timeouts);
        // Nothing is left.
        rig.tracker.set_flowtables(Flowtables { udp_timeout_s: 300, ..both() });
        assert_eq!(rig.tracker.refusal(&entry), Some(Refusal::FlowtableEnds));
    }

    #[test]
    fn only_the_devices_of_the_flowtable_take_packets() {
        let (mut rig, entry) = (rig(Policy::Flowtable), masqueraded(UDP, 1));
        rig.event(&offloaded(&entry));
        rig.take_off(&entry);
        rig.tracker.set_flowtables(Flowtables { devices: vec![false, true], ..both() });
        rig.tracker.changed(rig.now, Changed::Ruleset, &mut rig.model);
        assert_eq!(rig.state(entry.orig), EntryState::Probing);
        rig.prove(entry.orig, 100);
        assert_eq!(rig.state(entry.orig), EntryState::Candidate);
        // Any port will do where flowtables do not select.
        rig.tracker.set_policy(Policy::Established);
        rig.prove(entry.orig, 100);
        assert_eq!(rig.state(entry.orig), EntryState::Holding);
    }

    #[test]
    fn what_the_rules_cannot_be_asked_for_stays_in_the_kernel() {
        let (mut rig, entry) = (rig(Policy::Established), masqueraded(UDP, 1));
        rig.event(&entry);
        rig.tracker.set_flowtables(Flowtables { past_rules: vec![true], ..both() });
        rig.prove(entry.orig, 100);
        assert_eq!(rig.state(entry.orig), EntryState::Candidate);
        rig.tracker.set_flowtables(Flowtables { past_rules_in_pppoe: true, ..both() });
        let mut proof = rig.proof(entry.orig, 100);
        proof.ingress = Ingress::untagged(0, [2, 0, 0, 0, 0, 1]).in_pppoe(7);
        rig.observe(Observation::Proof(Box::new(proof)));
        assert_eq!(rig.state(entry.orig), EntryState::Candidate);
        rig.prove(entry.orig, 100);
        assert_eq!(rig.state(entry.orig), EntryState::Holding, "without PPPoE");
    }
}
