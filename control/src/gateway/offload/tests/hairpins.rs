//! Directions that hairpin queues carry.

use dataplane::dpdk::flow_rule::{FlowEngine, FlowRules};
use dataplane::dpdk::hairpin::{self, HairpinPort};
use dataplane::hardware::probe::Probe;
use dataplane::hardware::scheduler::Policy;
use dataplane::packet::Ingress;

use super::*;

fn knobs() -> Knobs {
    Knobs { hairpin: true, ..Knobs::default() }
}

#[test]
fn they_carry_where_there_is_no_other_way() {
    for by_queue in WAYS {
        for groups in [4, 1] {
            let mut rig = Rig::with(by_queue, Knobs { groups, ..knobs() });
            rig.insert(1);
            for (dir, other) in [(0, 1), (1, 0)] {
                rig.prove(1, dir);
                rig.heat(1, dir);
                let flow = rig.flows[&1][dir];
                let why = rig.plane.offload.why_not(flow);
                assert!(rig.plane.offload.has(flow), "{why:?}");
                let (port, rules) = rig.plane.offload.rules_of(flow).expect("rules");
                // Behind the one of software's, by port.
                let ends = format!(" / queue index {} / end", 1 + other);
                assert!(port == dir && rules.last().is_some_and(|rule| rule.ends_with(&ends)), "{rules:?}");
            }
            assert_eq!(rig.nic.process(0, &mut frame_of(1)), Outcome::Sent(1));
            rig.check();
            rig.remove(1);
            rig.pass(100);
            assert_eq!(rig.rules(), 0);
        }
    }
}

#[test]
fn what_leaves_by_a_port_that_none_leads_to_stays_with_workers() {
    let nic = Nic::new(&PORTS, 1, knobs());
    let between = PORTS.map(|id| HairpinPort { id, rx_queues: 1, tx_queues: 1 });
    let hairpins = hairpin::set_up(&*nic, &between).expect("the model has them").swap_remove(0);
    let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, 0);
    let probe = Probe { rules: &rules, port: 0, mac: GATEWAY, egress: 1, queues: vec![0], hairpins };
    let mut found = probe.run(&mut &*nic);
    found.form.as_mut().expect("it carries flows").hairpins.retain(|hairpin| hairpin.to == 1);
    let port = PortRules::new(0, rules, found, Policy::default());
    let [orig, reply] = tuples(1);
    let header = [&[2; 12][..], &[8, 0]].concat();
    let leaves_by = |egress| {
        let flow = HardwareFlow::new(Ingress::untagged(0, GATEWAY), orig, reply.inverted(), egress, &header);
        port.rule(flow.expect("it can be carried"), &PORTS, 64).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(leaves_by(1), Ok(()));
    let why = leaves_by(0).expect_err("none leads there");
    assert!(why.contains("no hairpin queue leads to the port by which it leaves"), "{why}");
}

#[test]
fn none_leads_to_a_port_that_is_closed_not_even_after_the_nic_was_reset() {
    let mut rig = Rig::with(false, knobs());
    rig.plane.offload.close(1);
    for number in [1, 2] {
        rig.insert(number);
        rig.prove(number, 0);
        rig.heat(number, 0);
        let flow = rig.flows[&number][0];
        let why = rig.plane.offload.why_not(flow).unwrap_or_default();
        assert!(!rig.plane.offload.has(flow) && why.contains("no hairpin queue leads"), "{why}");
        let nic = Arc::clone(&rig.nic);
        rig.plane.offload.ports[0].remake(Some(&nic)).expect("the model forgets its rules");
        assert!(rig.plane.offload.ports[0].carries(), "there is a way to itself");
    }
}
