//! Rules that mark packets for workers, on ports that can do no more.
//!
//! A marked packet comes to the worker to which it would have come without, and is judged as it would have been: only its
//! lookup is skipped. So these rules need not be out before a direction changes, count nothing, and do no harm if they are
//! old. They are made, and removed again, as those that carry.

use dataplane::dpdk::flow_rule::{FlowError, FlowRule};
use dataplane::flow::{ContextTable, EntryView, FlowRef, Mark};
use dataplane::hardware::HardwareFlow;

use super::{Offload, Placed, cannot};

impl Offload {
    /// Whether rules of a port mark packets, and do no more.
    pub(super) fn only_marks(&self, port: usize) -> bool {
        self.ports.get(port).is_some_and(super::PortRules::marks)
    }

    /// Whether nobody has seen the marks of some port yet.
    pub(in crate::gateway) fn has_trials(&self) -> bool {
        self.ports.iter().any(super::PortRules::is_on_trial)
    }

    /// Workers have found so many packets' flows by marks, by port.
    pub(in crate::gateway) fn marks_came(&mut self, found: impl IntoIterator<Item = u64>) {
        for (port, found) in self.ports.iter_mut().zip(found) {
            port.marks_came(found);
        }
    }

    /// The rule that marks a direction's packets, and which those are.
    pub(super) fn mark_rule(
        &self,
        port: usize,
        placed: &Placed,
    ) -> Result<(FlowRule, HardwareFlow), FlowError> {
        let (comes_in_by, flow, mark) = self.derive_mark(placed.flow)?;
        if comes_in_by != port {
            return Err(cannot("it comes in by another port now"));
        }
        let rules = self.ports.get(port).ok_or_else(|| cannot("there is no such port"))?;
        Ok((rules.mark_rule(flow.clone(), mark, placed.worker)?, flow))
    }

    /// What a NIC would be told, as testpmd takes it; none if the direction's port carries flows, or none.
    pub(super) fn mark_printed(&self, flow: FlowRef) -> Option<Result<(usize, Vec<String>), FlowError>> {
        let entry = self.table.entry(self.table.resolve(flow)?);
        if entry.context() == ContextTable::NONE {
            return None;
        }
        let port = usize::from(self.contexts.get(entry.context()).port());
        let rules = self.ports.get(port).filter(|port| port.marks())?;
        let worker = self.placed.get(&super::name(flow)).map_or(0, |placed| placed.worker);
        let printed =
            self.derive_mark(flow).and_then(|(_, flow, mark)| rules.mark_printed(flow, mark, worker));
        Some(printed.map(|printed| (port, vec![printed])))
    }

    /// The port that a direction comes in by, its packets, and their mark.
    fn derive_mark(&self, flow: FlowRef) -> Result<(usize, HardwareFlow, Mark), FlowError> {
        let slot = self.table.resolve(flow).ok_or_else(|| cannot("the direction is gone"))?;
        let entry = self.table.entry(slot);
        if entry.context() == ContextTable::NONE {
            return Err(cannot("where it comes in is not proved"));
        }
        let ingress = self.contexts.get(entry.context());
        let mark =
            Mark::of(slot).ok_or_else(|| cannot("its place in the flow table has too large a number"))?;
        let seen = HardwareFlow::seen(ingress, entry.key()).map_err(|unfit| cannot(unfit.to_string()))?;
        Ok((usize::from(ingress.port()), seen, mark))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dataplane::dpdk::flow_rule::{FlowEngine, FlowRules};
    use dataplane::flow::{EntryState, Key, Key4, Slot, UDP};
    use dataplane::hardware::Tier;
    use dataplane::hardware::model::{Call, Knobs, Nic, Outcome, Stuck};
    use dataplane::hardware::probe::Probe;
    use dataplane::hardware::scheduler::Policy;
    use dataplane::packet::Ingress;
    use nix::errno::Errno;

    use super::*;
    use crate::gateway::offload::PortRules;
    use crate::gateway::offload::tests::{Rig, WAYS, frame_of};
    use crate::tracker::Plane;

    fn rig(by_queue: bool) -> Rig {
        let assist = Knobs { tier: Tier::Assist, ..Knobs::default() };
        Rig::probed(by_queue, assist.clone(), assist)
    }

    /// What a packet of the original direction is marked with.
    fn marked(rig: &Rig, number: u8) -> Option<u32> {
        match rig.nic.process(0, &mut frame_of(number)) {
            Outcome::Software { mark, .. } => mark,
            other => panic!("{other:?}"),
        }
    }

    fn hot(number: u8) -> (Rig, FlowRef) {
        hot_by(false, number)
    }

    fn hot_by(by_queue: bool, number: u8) -> (Rig, FlowRef) {
        let mut rig = rig(by_queue);
        assert!(rig.insert(number));
        rig.prove(number, 0);
        rig.heat(number, 0);
        let flow = rig.flows[&number][0];
        (rig, flow)
    }

    #[test]
    fn packets_of_a_hot_direction_are_marked_with_its_place_and_come_to_workers() {
        for by_queue in WAYS {
            let (mut rig, flow) = hot_by(by_queue, 1);
            rig.pass(100);
            assert_eq!((rig.rules(), marked(&rig, 1)), (1, Mark::of(flow.slot).map(Mark::to_bits)));
            assert_eq!(marked(&rig, 2), None);
            let offload = &rig.plane.offload;
            assert!(!offload.has(flow) && offload.carried() == 0, "workers carry it");
            assert!(offload.why_not(flow).is_some_and(|why| why.contains("marks its packets")));
            let (port, rules) = offload.rules_of(flow).expect("rules");
            let is_mark = rules[0].contains(" mark id ") && rules[0].contains(" queue index 0");
            assert!(port == 0 && is_mark, "{rules:?}");
            rig.remove(1);
            rig.pass(100);
            assert_eq!((rig.rules(), rig.plane.offload.placed.len()), (0, 0));
        }
    }

    #[test]
    fn packets_stay_with_the_worker_that_has_them() {
        let nic = Nic::new(&[0, 1], 3, Knobs { tier: Tier::Assist, ..Knobs::default() });
        let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, 0);
        let queues = vec![0, 1, 2];
        let probe = Probe { rules: &rules, port: 0, mac: [2; 6], egress: 1, queues, hairpins: Vec::new() };
        let found = probe.run(&mut &*nic);
        let mut port = PortRules::new(0, rules, found, Policy::default());
        let key = Key4 { src: 1, dst: 2, ports: 3, proto: UDP.into() };
        let flow = HardwareFlow::seen(Ingress::untagged(0, [2; 6]), Key::V4(key)).expect("can be told");
        let mark = Mark::of(Slot::from_bits(7).expect("a slot")).expect("a mark");
        for worker in [0, 2] {
            let printed = port.mark_printed(flow.clone(), mark, worker).expect("a rule");
            assert!(
                printed.contains(&format!("mark id {} / queue index {worker} /", mark.to_bits())),
                "{printed}"
            );
        }
        // Where a rule can't send to one queue, it spreads as the port does.
        port.marks_by_hash();
        let printed = port.mark_printed(flow, mark, 2).expect("a rule");
        assert!(printed.contains(" / rss ") && printed.contains("queues 0 1 2"), "{printed}");
    }

    #[test]
    fn a_mark_stays_while_the_direction_does_whatever_its_state() {
        let (mut rig, flow) = hot(1);
        for state in [EntryState::Probing, EntryState::Holding, EntryState::Candidate, EntryState::Closing] {
            rig.plane.set_state(flow, state);
            assert_eq!(rig.rules(), 1, "{state:?}");
        }
        rig.remove(1);
        assert_eq!((rig.rules(), marked(&rig, 1)), (0, None));
    }

    #[test]
    fn a_direction_that_comes_in_elsewhere_gets_another_rule() {
        let (mut rig, flow) = hot(1);
        rig.prove_by(1, 0, 1);
        assert_eq!(rig.rules(), 0);
        rig.heat(1, 0);
        assert_eq!((rig.rules(), rig.plane.offload.placed[&super::super::name(flow)].port), (1, 1));
    }

    #[test]
    fn a_direction_that_cools_off_gives_its_rule_back() {
        let (mut rig, _) = hot(1);
        for _ in 0..10 {
            rig.pass(1_000);
        }
        assert_eq!(rig.rules(), 0);
    }

    #[test]
    fn a_rule_that_does_not_go_keeps_nobody_out() {
        let (mut rig, _) = hot(1);
        rig.nic.set(|knobs| knobs.stuck = Stuck::Refuses);
        rig.remove(1);
        assert_eq!(rig.rules(), 1);
        assert!(rig.insert(1), "its mark leads to nobody");
        rig.prove(1, 0);
        rig.nic.set(|knobs| knobs.stuck = Stuck::No);
        for _ in 0..5 {
            rig.pass(1_000);
            rig.heat(1, 0);
        }
        let flow = rig.flows[&1][0];
        assert_eq!((rig.rules(), marked(&rig, 1)), (1, Mark::of(flow.slot).map(Mark::to_bits)));
    }

    #[test]
    fn a_nic_without_counters_will_do() {
        let (mut rig, _) = hot(1);
        rig.nic.set(|knobs| knobs.refusals = vec![(Call::Query, Errno::ENOTSUP)]);
        for _ in 0..10 {
            rig.heat(1, 0);
        }
        assert_eq!(rig.rules(), 1);
    }

    #[test]
    fn one_flow_is_tried_where_nobody_has_seen_a_mark() {
        let mut rig = rig(false);
        rig.plane.offload.ports.iter_mut().for_each(PortRules::put_on_trial);
        for number in [1, 2] {
            assert!(rig.insert(number));
            rig.prove(number, 0);
        }
        let most = |rig: &mut Rig| {
            let heat = |rig: &mut Rig, number| {
                rig.heat(number, 0);
                rig.rules()
            };
            (0..10).map(|turn| heat(rig, 1 + turn % 2)).max()
        };
        assert_eq!((most(&mut rig), rig.plane.offload.has_trials()), (Some(1), true));
        rig.plane.offload.marks_came([0, 0]);
        assert_eq!((most(&mut rig), rig.plane.offload.has_trials()), (Some(1), true));
        rig.plane.offload.marks_came([1, 0]);
        assert_eq!((most(&mut rig), rig.plane.offload.has_trials()), (Some(2), true));
        rig.plane.offload.marks_came([1, 1]);
        assert!(!rig.plane.offload.has_trials());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 200, ..Default::default() })]

        #[test]
        fn whatever_happens_every_rule_is_known_and_goes_with_its_flow(
            events in proptest::collection::vec((0..12_u8, 0..4_u8, 0..2_usize), 1..60),
        ) {
            const STATES: [EntryState; 3] = [EntryState::Candidate, EntryState::Probing, EntryState::Closing];
            let mut rig = rig(false);
            for (event, number, dir) in events {
                let fault = |change: fn(&mut Knobs)| {
                    rig.nic.set(|knobs| {
                        *knobs = Knobs { tier: Tier::Assist, ..Knobs::default() };
                        change(knobs);
                    });
                };
                match event {
                    0 | 1 => drop(rig.insert(number)),
                    2 => rig.remove(number),
                    3 | 4 => rig.prove_by(number, dir, u16::from(number) % 2),
                    5..8 => rig.heat(number, dir),
                    8 => {
                        if let Some(flow) = rig.flows.get(&number).map(|flows| flows[dir]) {
                            rig.plane.set_state(flow, STATES[usize::from(number) % STATES.len()]);
                        }
                    }
                    9 => rig.pass(u64::from(number) * 1_000),
                    10 => fault(|knobs| knobs.stuck = Stuck::Refuses),
                    _ => fault(|knobs| knobs.capacity = 1),
                }
                let offload = &rig.plane.offload;
                let with_rule = offload.placed.values().filter(|placed| placed.rule.is_some()).count();
                proptest::prop_assert_eq!(with_rule, rig.rules());
                proptest::prop_assert!(offload.haunted.is_empty());
            }
            rig.nic.set(|knobs| *knobs = Knobs { tier: Tier::Assist, ..Knobs::default() });
            for number in 0..4 {
                rig.remove(number);
            }
            // Rules that would not go are tried again later and later.
            for _ in 0..30 {
                rig.pass(1_000);
            }
            proptest::prop_assert!(rig.rules() == 0 && rig.plane.offload.placed.is_empty());
        }
    }

    #[test]
    fn no_rule_stays_behind() {
        let (rig, _) = hot(1);
        let nic = Arc::clone(&rig.nic);
        drop(rig);
        assert_eq!(nic.rules(), 0);
    }
}
