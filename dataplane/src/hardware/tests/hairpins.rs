//! To another port by hairpin queues, where there is no other way.

use nix::errno::Errno;

use super::*;
use crate::dpdk::Direction;
use crate::dpdk::flow_rule::ErrorKind;
use crate::dpdk::hairpin::{HairpinConf, HairpinLimits};
use crate::hardware::probe::Probe;

/// Behind the two of software.
const TO_OUT: Hairpin = Hairpin { queue: 3, to: OUT };

fn tcp() -> Frame {
    Frame::tcp("10.0.0.2:4000", "192.0.2.9:80").payload(b"hello")
}

fn unbound() -> (Arc<Nic>, FlowRules) {
    nic_with(Knobs { hairpin: true, ..Knobs::default() })
}

fn by_hairpin(group: u32, fields: Fields) -> Form {
    hairpin_form(form(Domain::Ingress, group, fields))
}

#[test]
fn a_rule_sends_packets_to_the_port_that_its_queue_leads_to() {
    let (frame, leaves) = (tcp(), tcp().with(|f| f.tuple.sport = 50_000));
    let (flow, header) = flow(&frame, &leaves).expect("it can be carried");
    for (group, fields) in [(1, Fields::Set), (1, Fields::Modify), (0, Fields::Set), (0, Fields::Modify)] {
        let form = by_hairpin(group, fields);
        assert!(form.reaches(OUT) && form.reaches(IN) && !form.reaches(9));
        let (nic, rules) = nic_for(&form);
        install(&rules, &flow, &form, 64);
        let mut packet = frame.build();
        assert_eq!(nic.process(IN, &mut packet), Outcome::Sent(OUT));
        assert_eq!(Some(packet), worker(&frame.build(), &flow, &header));
        // Back by the port that it came in by.
        let back = HardwareFlow { egress: IN, key: flow.leaves_as, ..flow.clone() };
        rules.create(&encode::carry(&back, &form, ttl_for(&form, 64))).expect("the model takes the rule");
        assert_eq!(nic.process(IN, &mut leaves.build()), Outcome::Sent(IN));
    }
}

#[test]
fn it_is_printed_as_testpmd_takes_it() {
    let (flow, _) = flow(&tcp(), &tcp()).expect("it can be carried");
    let told = print::testpmd(IN, &encode::carry(&flow, &by_hairpin(1, Fields::Set), Ttl::Decrement));
    assert!(told.starts_with("flow create 3 group 1 ingress pattern "), "{told}");
    assert!(told.ends_with(" / dec_ttl / count / age timeout 30 / queue index 3 / end"), "{told}");
}

#[test]
fn such_a_nic_is_of_tier_full() {
    let (nic, rules) = nic_for(&by_hairpin(1, Fields::Modify));
    let hairpins = hairpin_form(plain_form()).hairpins;
    let probe =
        Probe { rules: &rules, port: IN, mac: [2, 0, 0, 0, 0, 1], egress: OUT, queues: vec![0, 1], hairpins };
    let found = probe.run(&mut &*nic);
    assert!(found.tier == Tier::Full && found.proved && found.ipv6 && found.tags, "{found:?}");
    let form = found.form.expect("a form");
    assert_eq!(
        form.to_string(),
        "rules of the port (ingress), groups, integrity, modify_field, hairpin queues"
    );
    assert_eq!(nic.rules(), 0, "canaries are left behind");
    // Without the queues there is no way to another port.
    let found = Probe { hairpins: Vec::new(), ..probe }.run(&mut &*nic);
    assert_eq!(found.tier, Tier::Assist);
    let why = "rules of the port (ingress): the NIC refuses: action: packets go to another port by hairpin queues alone (EOPNOTSUPP)";
    assert!(found.findings.iter().any(|finding| finding == why), "{found:?}");
    assert!(found.findings.iter().any(|finding| finding.contains("there is no switch in this NIC")));
}

#[test]
fn a_queue_has_to_be_bound() {
    let (flow, _) = flow(&tcp(), &tcp()).expect("it can be carried");
    let form = by_hairpin(0, Fields::Set);
    let rule = encode::carry(&flow, &form, Ttl::Exact(64));
    let (nic, rules) = unbound();
    let refused = |rules: &FlowRules| {
        let error = rules.create(&rule).expect_err("it is refused");
        (error.kind, error.message)
    };
    let no_queue = (ErrorKind::ActionConf, "there is no such receive queue".to_owned());
    assert_eq!(refused(&rules), no_queue);
    nic.set_up_hairpin(IN, Direction::Receive, 3, &HairpinConf::with(OUT, 2)).expect("a queue");
    assert_eq!(refused(&rules), (ErrorKind::State, "the hairpin queue is not bound".to_owned()));
    // Its peer has to be there, and to have it as its own.
    let unbound = |message: &str| {
        let error = nic.bind_hairpin(OUT, IN).expect_err("it is refused");
        assert_eq!((error.errno, &*error.message), (Errno::EINVAL, message));
    };
    unbound("there are no hairpin queues between these ports");
    nic.set_up_hairpin(OUT, Direction::Transmit, 2, &HairpinConf::with(IN, 2)).expect("a queue");
    unbound("a hairpin queue's peer has another peer");
    nic.set_up_hairpin(OUT, Direction::Transmit, 3, &HairpinConf::with(IN, 3)).expect("a queue");
    unbound("a hairpin queue's peer has another peer");
    assert_eq!(refused(&rules).1, "the hairpin queue is not bound");

    let (nic, rules) = nic_for(&form);
    rules.create(&rule).expect("it is bound");
    let error = nic.bind_hairpin(OUT, IN).expect_err("once is enough");
    assert_eq!(error.message, "these ports are bound already");
    // None of another port's, and none on a NIC without.
    let other = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, OUT);
    let far = Form { hairpins: vec![Hairpin { queue: 9, to: OUT }], ..form };
    let error = other.create(&encode::carry(&flow, &far, Ttl::Exact(64))).expect_err("it is refused");
    assert_eq!((error.kind, error.message), no_queue);
    assert_eq!(refused(&super::nic().1), no_queue);
}

#[test]
fn queues_are_set_up_as_mlx5_wants_them() {
    let (nic, _) = unbound();
    assert_eq!(nic.hairpin_limits(IN), Ok(HairpinLimits { queues: u16::MAX, descriptors: 8192 }));
    let conf = HairpinConf::with(OUT, 2);
    let refused = |port, queue, conf: HairpinConf| {
        nic.set_up_hairpin(port, Direction::Receive, queue, &conf).expect_err("it is refused").message
    };
    assert_eq!(refused(IN, 1, conf), "the queue is one of software's");
    for (conf, message) in [
        (conf.but(0, true, true), "a hairpin queue has one peer"),
        (conf.but(2, true, true), "a hairpin queue has one peer"),
        (
            conf.but(1, false, true),
            "hairpin queues are bound by hand, and rules for what they send are explicit",
        ),
        (
            conf.but(1, true, false),
            "hairpin queues are bound by hand, and rules for what they send are explicit",
        ),
        (HairpinConf::with(9, 2), "a hairpin queue's peer is no port of this NIC"),
    ] {
        assert_eq!(refused(IN, 2, conf), message);
    }
    assert_eq!(refused(9, 2, conf), "there are no hairpin queues");
    nic.set_up_hairpin(IN, Direction::Receive, 2, &conf).expect("a queue");
    assert_eq!(refused(IN, 2, conf), "the hairpin queue is set up already");
    let (without, _) = super::nic();
    assert_eq!(without.hairpin_limits(IN).map_err(|error| error.errno), Err(Errno::ENOTSUP));
    assert_eq!(hairpin_form(plain_form()).hairpins[1], TO_OUT);
}
