//! What is found out about NICs of every kind, good and bad.

use nix::errno::Errno;

use super::*;
use crate::dpdk::testing::Bench;
use crate::hardware::model::{Call, Counters, Latency, Stuck};
use crate::hardware::probe::{Capabilities, Injector, Probe, Seen, Unreachable};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn probe<'a>(rules: &'a FlowRules) -> Probe<'a> {
    Probe { rules, port: IN, mac: MAC, egress: OUT, queues: vec![0, 1], hairpins: Vec::new() }
}

fn find(knobs: Knobs) -> Capabilities {
    let goes = knobs.stuck == Stuck::No;
    let (nic, rules) = nic_with(knobs);
    let found = probe(&rules).run(&mut &*nic);
    if goes {
        assert_eq!(nic.rules(), 0, "canaries are left behind");
    }
    found
}

#[test]
fn a_good_nic_is_of_tier_full() {
    let found = find(Knobs::default());
    assert_eq!(found.tier, Tier::Full, "{found:?}");
    assert!(found.proved && found.ipv6 && found.tags && found.ages && found.lengths, "{found:?}");
    assert_eq!(found.findings, Vec::<String>::new());
    // The best form.
    let form = found.form.expect("a form");
    let best = Form { age_s: form.age_s, ..super::form(Domain::Transfer, 1, Fields::Modify) };
    assert_eq!(form, best);
}

#[test]
fn slow_nics_are_waited_for() {
    let latency = Latency { millis: 0, packets: 3 };
    assert_eq!(find(Knobs { latency, ..Knobs::default() }).tier, Tier::Full);
    // But not for ever.
    let latency = Latency { millis: 1, packets: 0 };
    let found = find(Knobs { latency, ..Knobs::default() });
    assert_eq!(found.tier, Tier::None);
    assert!(found.findings[0].ends_with("a rule is made and takes no packets"), "{found:?}");
}

#[test]
fn without_groups_rules_stand_alone() {
    let found = find(Knobs { groups: 1, ..Knobs::default() });
    assert_eq!(found.tier, Tier::Full, "{found:?}");
    assert!(found.form.as_ref().is_some_and(|form| !form.is_guarded()));
    assert!(found.why().contains("there are not so many groups"), "{}", found.why());
}

/// A NIC that carries the canary that is too long.
struct Careless<'a>(&'a Nic);

impl Injector for Careless<'_> {
    fn inject(&mut self, port: u16, frame: &[u8]) -> Option<Seen> {
        let mut nic = self.0;
        match frame.len() {
            69 => Some(Seen::Left(OUT, frame.to_vec())),
            _ => nic.inject(port, frame),
        }
    }
}

#[test]
fn a_nic_need_not_compare_lengths() {
    let found = find(Knobs { lengths: false, ..Knobs::default() });
    assert_eq!((found.tier, found.lengths), (Tier::Full, false));
    assert_eq!(
        found.findings,
        ["lengths: the NIC refuses: range of an item: ranges are not supported (EOPNOTSUPP)"]
    );
    // One that takes such a rule, and then carries what is longer, does not compare them either.
    let (nic, rules) = nic();
    let found = probe(&rules).run(&mut Careless(&nic));
    assert_eq!((found.tier, found.lengths), (Tier::Full, false), "{found:?}");
    let why = "lengths: a packet that is too long to leave does not go to software";
    assert_eq!(found.findings, [why]);
}

#[test]
fn wrong_bytes_and_lost_counts_lower_the_tier() {
    let found = find(Knobs { wrong_checksum: true, ..Knobs::default() });
    assert_eq!((found.tier, found.form.as_ref()), (Tier::Assist, None));
    assert!(found.why().ends_with("packets leave with a wrong checksum"), "{}", found.why());
    for counters in [Counters::Lost, Counters::Missing] {
        let found = find(Knobs { counters, ..Knobs::default() });
        assert_eq!(found.tier, Tier::Assist);
        assert!(found.why().contains("packets are not counted"), "{}", found.why());
    }
}

#[test]
fn a_nic_that_can_only_mark_is_of_tier_assist() {
    let found = find(Knobs { tier: Tier::Assist, ..Knobs::default() });
    assert_eq!((found.tier, found.form.as_ref(), found.proved), (Tier::Assist, None, true));
    assert!(found.findings.iter().any(|why| why.contains("there is no switch in this NIC")), "{found:?}");
}

#[test]
fn a_nic_without_rules_says_so_once() {
    let found = find(Knobs { tier: Tier::None, ..Knobs::default() });
    assert_eq!(found.tier, Tier::None);
    assert_eq!(found.findings, ["the NIC refuses: Function not implemented"]);
    let refusals = vec![(Call::Create, Errno::ENOMEM)];
    let found = find(Knobs { refusals, validates_anything: true, ..Knobs::default() });
    assert_eq!((found.tier, found.findings.len()), (Tier::None, 1), "validate is not asked: {found:?}");
}

#[test]
fn rules_that_do_not_go_end_all() {
    for (stuck, why) in [
        (Stuck::Refuses, "a rule can't be removed: rule: the NIC did not let the rule go"),
        (Stuck::Lies, "a rule that was removed still takes packets"),
    ] {
        let found = find(Knobs { stuck, ..Knobs::default() });
        assert_eq!((found.tier, found.form.as_ref()), (Tier::None, None));
        assert!(found.why().starts_with(why), "{}", found.why());
    }
}

#[test]
fn what_nobody_can_send_to_is_taken_at_its_word() {
    let (nic, rules) = nic_with(Knobs { wrong_checksum: true, ..Knobs::default() });
    let found = probe(&rules).run(&mut Unreachable);
    assert_eq!((found.tier, found.proved), (Tier::Full, false));
    assert!(found.why().starts_with("no packet could be sent into the port"), "{}", found.why());
    assert_eq!((nic.rules(), nic.stats().seen), (0, 0));
}

/// A NIC that takes some packets for others.
struct Blind<'a>(&'a Nic, Change);

type Change = fn(&mut [u8]);

impl Injector for Blind<'_> {
    fn inject(&mut self, port: u16, frame: &[u8]) -> Option<Seen> {
        let mut seen = frame.to_vec();
        (self.1)(&mut seen);
        let mut nic = self.0;
        nic.inject(port, &seen)
    }
}

#[test]
fn each_guard_is_tried() {
    let blind: [(&str, Change); 3] = [
        ("a packet whose TTL is 1 does not go to software", |frame| frame[22] = frame[22].max(64)),
        ("a FIN does not go to software", |frame| frame[47] = 0x10),
        ("the first fragment does not go to software", |frame| frame[20] = 0),
    ];
    for (why, change) in blind {
        let (nic, rules) = nic();
        let found = probe(&rules).run(&mut Blind(&nic, change));
        assert!(found.findings.iter().any(|finding| finding.ends_with(why)), "{why}: {found:?}");
        assert_ne!(found.tier, Tier::Full);
        assert_eq!(nic.rules(), 0);
    }
}

#[test]
fn a_driver_of_its_own_without_rules() {
    let bench = Bench::new();
    let port = bench.port(0);
    let rules = FlowRules::of(port);
    let (queues, hairpins) = (vec![0], Vec::new());
    let probe = Probe { rules: &rules, port: port.id(), mac: MAC, egress: OUT, queues, hairpins };
    let found = probe.run(&mut Unreachable);
    assert_eq!(found.tier, Tier::None);
    assert_eq!(found.findings, ["the NIC refuses: Function not implemented"]);
}
