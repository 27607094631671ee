//! What is broken by hand, and found, and mended.

use super::super::audit::{AGAIN, BOOKS_EVERY, Difference, EVERY, Facts, Looked, compare};
use super::*;
use crate::api::HardwareAudit as Differences;

/// A direction of connection 1 that is in.
fn rig(by_queue: bool) -> (Rig, FlowRef) {
    let mut rig = Rig::new(by_queue);
    rig.insert(1);
    rig.prove(1, 0);
    rig.heat(1, 0);
    let flow = rig.flows[&1][0];
    assert!(rig.plane.offload.has(flow));
    (rig, flow)
}

/// Does something behind control's back.
type Break = fn(&mut Rig, FlowRef);

impl Rig {
    /// Time passes, and whoever is due is looked at.
    pub(super) fn audit(&mut self, millis: u64, known: bool) {
        self.pass(millis);
        for flow in self.plane.offload.due_for_audit(self.now) {
            if !self.plane.offload.look(flow, known, self.now) {
                self.plane.set_state(flow, EntryState::Candidate);
            }
        }
        self.pass(0);
    }

    /// A first look, and a second one.
    fn audit_twice(&mut self) {
        self.audit(EVERY, true);
        self.audit(AGAIN, true);
    }

    fn differences(&self) -> Differences {
        Differences { looks: 0, ..self.plane.offload.ports[0].differences }
    }

    /// The NIC forgets a rule of a direction.
    pub(super) fn lose(&mut self, flow: FlowRef) {
        let placed = self.plane.offload.placed.get(&name(flow));
        if let Some((port, rule)) = placed.and_then(|placed| Some((placed.port, placed.rule?.number()))) {
            self.nic.lose(rule);
            self.lost.insert((port, rule));
        }
    }
}

const CLEAN: Differences =
    Differences { looks: 0, lost: 0, extra: 0, orphaned: 0, outdated: 0, failing: 0, remade: 0 };

#[test]
fn what_agrees_is_left_alone() {
    for by_queue in WAYS {
        let (mut rig, flow) = rig(by_queue);
        for _ in 0..5 {
            rig.count(1, 0);
            rig.nic.process(0, &mut frame_of(1));
            rig.audit(EVERY, true);
        }
        assert!(rig.plane.offload.has(flow));
        assert_eq!(rig.differences(), CLEAN);
        assert!(rig.plane.offload.ports[0].differences.looks >= 4);
    }
}

#[test]
fn a_rule_that_the_nic_has_lost_is_made_again() {
    for by_queue in WAYS {
        let (mut rig, flow) = rig(by_queue);
        rig.nic.process(0, &mut frame_of(1));
        rig.lose(flow);
        assert_eq!(rig.nic.process(0, &mut frame_of(1)), TO_SOFTWARE);
        rig.audit(EVERY, true);
        assert_eq!(rig.differences(), CLEAN, "it may be on its way");
        rig.count(1, 0);
        rig.audit(AGAIN, true);
        assert_eq!(rig.differences(), Differences { lost: 1, ..CLEAN });
        assert!(rig.plane.offload.has(flow));
        assert_eq!(rig.nic.process(0, &mut frame_of(1)), Outcome::Sent(1));
        rig.check();
    }
}

#[test]
fn a_rule_that_is_lost_can_leave() {
    for by_queue in WAYS {
        let (mut rig, flow) = rig(by_queue);
        rig.lose(flow);
        assert!(rig.plane.offload.leave(flow));
        rig.check();
    }
}

#[test]
fn a_rule_that_is_nobodys_is_removed() {
    for by_queue in WAYS {
        let (mut rig, flow) = rig(by_queue);
        let other = rig.plane.offload.derive(flow).map(|(_, other)| other).expect("it flies");
        let [key, _] = tuples(77);
        let port = &rig.plane.offload.ports[0];
        let extra = port.rule(HardwareFlow { key, ..other }, &PORTS, 64).expect("a rule");
        port.rules().expect("it carries").create(&extra).expect("the model takes it");
        assert_eq!(rig.rules(), 2);
        rig.audit(BOOKS_EVERY, true);
        assert_eq!(rig.rules(), 2);
        rig.audit(BOOKS_EVERY, true);
        assert_eq!(rig.rules(), 1);
        assert!(rig.plane.offload.has(flow));
        assert_eq!(rig.differences(), Differences { extra: 1, ..CLEAN });
        rig.check();
    }
}

#[test]
fn a_direction_that_went_unheard_has_no_rule() {
    let breaks: [(Break, Differences); 3] = [
        (
            |rig, flow| {
                let slot = rig.plane.table.resolve(flow).expect("it is there");
                rig.plane.table.entry(slot).set_state(EntryState::Closing);
            },
            Differences { orphaned: 1, ..CLEAN },
        ),
        (
            |rig, _| {
                let flows = rig.flows.remove(&1).expect("it is there");
                rig.plane.writer.remove_pair(flows);
            },
            Differences { orphaned: 1, ..CLEAN },
        ),
        (
            |rig, flow| {
                let placed = rig.plane.offload.placed.get_mut(&name(flow)).expect("it is in");
                placed.told.as_mut().expect("a rule").macs[0][5] ^= 1;
            },
            Differences { outdated: 1, ..CLEAN },
        ),
    ];
    for ((break_it, expected), by_queue) in breaks.into_iter().flat_map(|one| WAYS.map(|way| (one, way))) {
        let (mut rig, flow) = rig(by_queue);
        break_it(&mut rig, flow);
        rig.audit_twice();
        assert_eq!((rig.differences(), rig.rules()), (expected, 0));
        rig.check();
    }
}

#[test]
fn what_would_be_done_otherwise_now_is_done_otherwise() {
    let (mut rig, flow) = rig(true);
    // A link that takes shorter packets, of which no event told.
    let shorter = PortLengths { may_come: 1501, may_leave_by: HashMap::new() };
    rig.plane.offload.set_lengths(vec![shorter.clone(), shorter]);
    rig.audit_twice();
    assert_eq!((rig.differences(), rig.rules()), (Differences { outdated: 1, ..CLEAN }, 0));
    assert!(!rig.plane.offload.has(flow));
}

#[test]
fn a_connection_that_the_tracker_does_not_know_does_not_fly() {
    let (mut rig, flow) = rig(true);
    rig.audit(EVERY, false);
    assert!(rig.plane.offload.has(flow));
    rig.audit(AGAIN, false);
    assert_eq!((rig.differences(), rig.rules()), (Differences { orphaned: 1, ..CLEAN }, 0));
    assert_eq!(rig.plane.state(flow), EntryState::Candidate);
}

#[test]
fn a_rule_that_cannot_be_read_or_does_nothing_comes_out_and_stays_out_for_longer_each_time() {
    for idle in [false, true] {
        let (mut rig, flow) = rig(true);
        let mut waits = Vec::new();
        for round in 1..=2 {
            if !idle {
                rig.nic.set(|knobs| knobs.refusals = vec![(Call::Query, Errno::EIO)]);
            }
            rig.count(1, 0);
            rig.audit_twice();
            rig.nic.set(|knobs| knobs.refusals.clear());
            assert_eq!((rig.differences(), rig.rules()), (Differences { failing: round, ..CLEAN }, 0));
            let why = rig.plane.offload.why_not(flow).expect("it is put off");
            assert!(why.contains(if idle { "to software all the same" } else { "the NIC refuses" }), "{why}");
            let out_since = rig.now;
            while !rig.plane.offload.has(flow) {
                rig.count(1, 0);
                rig.pass(50);
            }
            waits.push(rig.now - out_since);
        }
        assert!(waits[1] > waits[0], "{waits:?}");
    }
}

#[test]
fn a_nic_that_has_lost_everything_is_probed_guarded_and_filled_again() {
    for by_queue in WAYS {
        let mut rig = Rig::new(by_queue);
        for number in 0..6 {
            rig.insert(number);
            rig.prove(number, 0);
            rig.heat(number, 0);
        }
        assert_eq!(rig.rules(), 6);
        // As by a reset behind the driver's back: guards, too.
        for rule in rig.plane.offload.ports[0].rules().expect("it carries").held() {
            rig.nic.lose(rule);
        }
        assert_eq!(rig.nic.rules(), rig.guards / 2);
        for number in 0..6 {
            rig.count(number, 0);
        }
        rig.audit(EVERY, true);
        for number in 0..6 {
            rig.count(number, 0);
        }
        rig.audit(AGAIN, true);
        assert_eq!(rig.differences().remade, 1);
        for _ in 0..2 {
            for number in 0..6 {
                rig.count(number, 0);
            }
            rig.pass(200);
        }
        assert_eq!(rig.rules(), 6, "and the guards");
        assert_eq!(rig.nic.process(0, &mut frame_of(3)), Outcome::Sent(1));
        rig.check();
    }
}

#[test]
fn a_nic_that_keeps_its_rules_is_not_made_anew() {
    let (mut rig, flow) = rig(true);
    rig.nic.set(|knobs| knobs.refusals = vec![(Call::Flush, Errno::EIO)]);
    rig.plane.offload.remake(0, rig.now);
    assert!(rig.plane.offload.has(flow));
    assert_eq!(rig.differences(), CLEAN);
    rig.nic.set(|knobs| knobs.refusals.clear());
    // Nor while it is not done with an order.
    rig.nic.set(|knobs| knobs.latency = Latency { millis: 300, packets: 0 });
    rig.insert(2);
    rig.prove(2, 0);
    rig.heat(2, 0);
    rig.plane.offload.remake(0, rig.now);
    assert_eq!(rig.differences(), CLEAN);
    rig.pass(300);
    rig.nic.set(|knobs| knobs.latency = Latency::default());
    rig.plane.offload.remake(0, rig.now);
    assert_eq!(rig.differences(), Differences { remade: 1, ..CLEAN });
    assert_eq!(rig.rules(), 2);
    rig.check();
}

#[test]
fn a_nic_that_can_no_longer_do_it_gets_nothing() {
    let (mut rig, flow) = rig(true);
    rig.nic.set(|knobs| knobs.wrong_checksum = true);
    rig.plane.offload.remake(0, rig.now);
    rig.pass(1_000);
    let port = &rig.plane.offload.ports[0];
    assert!(!port.carries() && !rig.plane.offload.has(flow));
    assert!(port.capabilities.why().contains("lost its rules"), "{}", port.capabilities.why());
    assert_eq!(rig.nic.rules(), rig.guards / 2, "those of the other port");
}

#[test]
fn each_relation_is_compared() {
    let (rig, flow) = rig(false);
    let (port, told) = rig.plane.offload.derive(flow).expect("it flies");
    let before = Looked::after(0);
    let facts = || Facts {
        state: Some(EntryState::Software),
        known: true,
        told: (port, &told),
        would_be_told: Ok((port, told.clone())),
        counted: Ok(0),
        by_workers: 0,
        before: &before,
    };
    let error = |errno| Err(FlowError::new(ErrorKind::Handle, errno, "no"));
    let other = HardwareFlow { egress: 9, ..told.clone() };
    assert_eq!(compare(&facts()), None);
    assert_eq!(compare(&Facts { state: None, ..facts() }), Some(Difference::Gone));
    let grounded = Facts { state: Some(EntryState::Probing), ..facts() };
    assert_eq!(compare(&grounded), Some(Difference::Grounded(EntryState::Probing)));
    assert_eq!(compare(&Facts { known: false, ..facts() }), Some(Difference::Unknown));
    for would_be_told in [Ok((port, other)), Ok((1 - port, told.clone())), Err(cannot("no way"))] {
        let facts = Facts { would_be_told, ..facts() };
        assert!(matches!(compare(&facts), Some(Difference::Otherwise(_))), "{facts:?}");
    }
    assert_eq!(
        compare(&Facts { counted: error(Errno::ENOENT).map(|()| 0), ..facts() }),
        Some(Difference::Lost)
    );
    let unreadable = Facts { counted: error(Errno::EIO).map(|()| 0), ..facts() };
    assert!(matches!(compare(&unreadable), Some(Difference::Unreadable(_))));
    assert_eq!(compare(&Facts { by_workers: 200, ..facts() }), Some(Difference::Idle));
    assert_eq!(compare(&Facts { by_workers: 200, counted: Ok(1), ..facts() }), None);
    assert_eq!(compare(&Facts { by_workers: 199, ..facts() }), None);
}
