//! The tracker against a plane made of plain maps.

use dataplane::flow::{EntryState, Key, TCP, UDP};
use dataplane::punt::{Observation, Proof};

use super::testing::{Rig, flying, in_state, ip, masqueraded};
use super::*;
use crate::netlink::conntrack::{Status, Zones};

#[test]
fn a_connection_flies_once_both_directions_are_proved_and_settled() {
    let (mut rig, entry) = (Rig::new(), masqueraded(TCP, 7));
    rig.event(&entry);
    assert_eq!(rig.tracker.counts(), Counts { candidate: 1, ..Counts::default() });
    rig.prove(entry.orig, 1500);
    assert_eq!(rig.state(entry.orig), EntryState::Holding);
    // The kernel's entry is kept alive before the first packet passes it by.
    assert_eq!(rig.timeouts, [600]);
    let flow = rig.settle.pop().expect("to be settled");
    rig.observe(Observation::Settled(flow, 0));
    assert_eq!(rig.state(entry.orig), EntryState::Software);
    assert_eq!(rig.tracker.counts().candidate, 1, "the slower direction counts");
    rig.prove(entry.reply, 60);
    let flow = rig.settle.pop().expect("to be settled");
    rig.observe(Observation::Settled(flow, 0));
    assert_eq!(rig.tracker.counts(), Counts { software: 1, ..Counts::default() });
    assert_eq!(rig.model.length(rig.model.flow(entry.orig)), 1500);
}

#[test]
fn what_may_not_fly_never_enters_the_table() {
    let base = masqueraded(TCP, 1);
    let mut refused = vec![
        in_state(base, TcpState::SynRecv),
        in_state(base, TcpState::TimeWait),
        ConntrackEntry { tcp: None, ..base },
        ConntrackEntry { has_helper: true, ..base },
        ConntrackEntry { seq_adjust: true, ..base },
        ConntrackEntry { synproxy: true, ..base },
        ConntrackEntry { status: Status::SEEN_REPLY | Status::CONFIRMED, ..base },
        ConntrackEntry { status: base.status | Status::DYING, ..base },
        ConntrackEntry { status: base.status | Status::NAT_CLASH, ..base },
        ConntrackEntry { zones: Zones { orig: 1, reply: 0 }, ..base },
    ];
    let mut icmp = base;
    (icmp.orig.proto, icmp.reply.proto) = (1, 1);
    refused.push(icmp);
    for entry in refused {
        let mut rig = Rig::new();
        rig.event(&entry);
        assert!(rig.model.entries.is_empty(), "{entry:?}");
        assert_eq!(rig.tracker.connections.len(), 0);
    }
}

#[test]
fn connections_of_the_gateway_itself_are_never_carried() {
    for local in ["10.0.0.2", "192.0.2.9"] {
        let mut rig = Rig::new();
        rig.tracker.set_local_addresses(rig.now, [ip(local)], &mut rig.model);
        rig.event(&masqueraded(TCP, 1));
        assert!(rig.model.entries.is_empty(), "{local}");
    }
    // The address that masquerading puts in front is local too, and no end.
    let mut rig = Rig::new();
    rig.tracker.set_local_addresses(rig.now, [ip("192.0.2.1")], &mut rig.model);
    rig.event(&masqueraded(TCP, 1));
    assert_eq!(rig.model.entries.len(), 2);
    // An address that becomes local later ends what began before.
    rig.tracker.set_local_addresses(rig.now, [ip("192.0.2.9")], &mut rig.model);
    assert!(rig.model.entries.is_empty());
}

#[test]
fn the_mark_selects_and_deselects() {
    let mut rig = Rig::with(Policy::Marked { value: 0x10, mask: 0xf0 });
    let entry = masqueraded(UDP, 1);
    rig.event(&entry);
    assert!(rig.model.entries.is_empty());
    let marked = ConntrackEntry { mark: Some(0x13), ..entry };
    rig.event(&marked);
    assert_eq!(rig.model.entries.len(), 2);
    rig.event(&ConntrackEntry { mark: Some(0x23), ..entry });
    assert!(rig.model.entries.is_empty());
}

#[test]
fn another_mark_makes_it_prove_itself_again() {
    let (mut rig, entry) = flying(UDP);
    rig.event(&entry);
    assert_eq!(rig.state(entry.orig), EntryState::Software);
    rig.event(&ConntrackEntry { mark: Some(7), ..entry });
    assert_eq!((rig.state(entry.orig), rig.state(entry.reply)), (EntryState::Probing, EntryState::Probing));
    rig.prove(entry.orig, 100);
    rig.event(&ConntrackEntry { mark: Some(7), ..entry });
    assert_eq!(rig.state(entry.orig), EntryState::Software);
}

#[test]
fn a_proof_from_before_a_change_admits_nothing() {
    let (mut rig, entry) = (Rig::new(), masqueraded(UDP, 7));
    rig.event(&entry);
    let old = rig.proof(entry.orig, 100);
    rig.tracker.changed(rig.now, Changed::Anything, &mut rig.model);
    rig.observe(Observation::Proof(Box::new(old)));
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    assert_eq!(rig.tracker.stats().stale_proofs, 1);
    // Nor one that was taken, but had not settled.
    rig.prove(entry.orig, 100);
    let flow = rig.settle.pop().expect("to be settled");
    rig.tracker.changed(rig.now, Changed::Anything, &mut rig.model);
    rig.observe(Observation::Settled(flow, 0));
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
}

#[test]
fn a_change_makes_flows_probe_and_a_lost_probe_ends_the_flight() {
    let (mut rig, entry) = flying(TCP);
    rig.tracker.changed(rig.now, Changed::Ruleset, &mut rig.model);
    assert_eq!(rig.state(entry.orig), EntryState::Probing);
    assert_eq!(rig.tracker.counts().probing, 1);
    // The worker sends the probe, the kernel forwards it.
    let flow = rig.model.flow(entry.orig);
    rig.model.set_state(flow, EntryState::Holding);
    rig.prove(entry.orig, 60);
    assert_eq!(rig.state(entry.orig), EntryState::Software);
    assert_eq!(rig.model.length(flow), 1500, "the proved length stays: nothing about the path changed");
    // The other probe is not forwarded.
    let flow = rig.model.flow(entry.reply);
    rig.model.set_state(flow, EntryState::Holding);
    rig.observe(Observation::Lost(flow));
    assert_eq!(rig.state(entry.reply), EntryState::Candidate);
    assert_eq!(rig.tracker.counts().candidate, 1);
    assert_eq!(rig.tracker.stats().not_forwarded, 1);
}

#[test]
fn a_flow_that_flies_on_without_probe_is_given_back_at_the_deadline() {
    let (mut rig, entry) = flying(UDP);
    rig.tracker.changed(rig.now, Changed::Anything, &mut rig.model);
    for _ in 0..60 {
        rig.pass(100);
        rig.model.fly(entry.orig, rig.now);
    }
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    // The other direction had no packet: its next one may prove it, but not fly before.
    assert_eq!(rig.state(entry.reply), EntryState::Candidate);
    assert_eq!(rig.tracker.stats().deadline_missed, 1);
}

#[test]
fn changes_that_follow_each_other_do_not_put_the_deadline_off() {
    let (mut rig, entry) = flying(UDP);
    for _ in 0..6 {
        rig.tracker.changed(rig.now, Changed::Ruleset, &mut rig.model);
        rig.pass(1_000);
        rig.model.fly(entry.orig, rig.now);
    }
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
}

#[test]
fn a_late_loop_catches_up_with_its_sweep() {
    let mut rig = Rig::new();
    let entries: Vec<_> = (0..4_000).map(|id| masqueraded(UDP, id + 1)).collect();
    for (number, entry) in entries.iter().enumerate() {
        let mut entry = *entry;
        entry.orig.sport = 10_000 + number as u16;
        entry.reply.dport = 10_000 + number as u16;
        rig.event(&entry);
        rig.take_off(&entry);
    }
    rig.tracker.changed(rig.now, Changed::Ruleset, &mut rig.model);
    assert!(rig.tracker.counts().software > 3_000, "not all at once");
    rig.now += Millis::from(rig.tracker.timing.revalidate_within) / 2;
    rig.tracker.tick(rig.now, &mut rig.model);
    assert_eq!(rig.tracker.counts().software, 0);
}

#[test]
fn a_direction_that_fell_silent_says_nothing_of_the_other() {
    let (mut rig, entry) = flying(UDP);
    for _ in 0..400 {
        rig.pass(100);
        rig.model.fly(entry.orig, rig.now);
        if rig.state(entry.orig) == EntryState::Probing {
            rig.prove(entry.orig, 100);
        }
    }
    assert_eq!(
        (rig.state(entry.orig), rig.state(entry.reply)),
        (EntryState::Software, EntryState::Candidate)
    );
    assert_eq!(rig.tracker.counts(), Counts { software: 1, ..Counts::default() });
}

#[test]
fn a_dead_neighbour_or_port_stops_exactly_its_flows_at_once() {
    let (mut rig, entry) = flying(UDP);
    rig.tracker.changed(rig.now, Changed::NextHop { mac: [2, 0, 0, 0, 0, 8] }, &mut rig.model);
    assert_eq!(rig.state(entry.orig), EntryState::Probing, "somebody else's neighbour");
    rig.tracker.changed(rig.now, Changed::NextHop { mac: [2, 0, 0, 0, 0, 9] }, &mut rig.model);
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    let (mut rig, entry) = flying(UDP);
    rig.tracker.changed(rig.now, Changed::Port { port: 1 }, &mut rig.model);
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    assert_eq!(rig.tracker.counts().candidate, 1);
}

#[test]
fn closing_goes_to_the_kernel_and_comes_back_only_if_it_says_established() {
    let (mut rig, entry) = flying(TCP);
    let flow = rig.model.flow(entry.orig);
    rig.model.set_state(flow, EntryState::Closing);
    rig.observe(Observation::Closing(flow));
    assert_eq!(rig.state(entry.reply), EntryState::Closing);
    assert_eq!(rig.tracker.counts(), Counts { closing: 1, ..Counts::default() });
    // An event from before the FIN changes nothing.
    rig.event(&entry);
    assert_eq!(rig.state(entry.orig), EntryState::Closing);
    rig.pass(900);
    assert!(rig.asked.is_empty());
    rig.pass(200);
    assert_eq!(rig.asked, [entry.orig]);
    rig.tracker.entry(rig.now, &entry, Source::Answer, &mut rig.model);
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    assert_eq!(rig.tracker.counts().candidate, 1);
    rig.take_off(&entry);
    assert_eq!(rig.tracker.counts().software, 1);
}

#[test]
fn a_real_close_stays_with_the_kernel_until_it_ends() {
    let (mut rig, entry) = flying(TCP);
    rig.observe(Observation::Closing(rig.model.flow(entry.orig)));
    rig.event(&in_state(entry, TcpState::FinWait));
    rig.pass(3_000);
    assert!(rig.asked.is_empty(), "the event has said it");
    let proof = rig.proof(entry.orig, 60);
    rig.observe(Observation::Proof(Box::new(proof)));
    assert_eq!(rig.state(entry.orig), EntryState::Closing);
    rig.tracker.destroyed(rig.now, &entry, &mut rig.model);
    assert!(rig.model.entries.is_empty());
    assert_eq!(rig.tracker.counts(), Counts::default());
}

#[test]
fn an_event_that_its_destroy_has_overtaken_revives_nothing() {
    let (mut rig, entry) = (Rig::new(), masqueraded(TCP, 7));
    rig.tracker.destroyed(rig.now, &entry, &mut rig.model);
    rig.event(&entry);
    assert!(rig.model.entries.is_empty());
    rig.pass(1_000);
    rig.event(&entry);
    assert_eq!(rig.model.entries.len(), 2);
}

#[test]
fn an_entry_made_anew_replaces_its_predecessor() {
    let (mut rig, entry) = flying(TCP);
    let anew = ConntrackEntry { id: 8, ..entry };
    rig.event(&anew);
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    assert_eq!(rig.tracker.connections.len(), 1);
    // The predecessor's late DESTROY does not hit the successor.
    rig.tracker.destroyed(rig.now, &entry, &mut rig.model);
    assert_eq!(rig.model.entries.len(), 2);
}

#[test]
fn a_tuple_that_stands_in_two_zones_stays_in_the_kernel() {
    let (mut rig, entry) = flying(UDP);
    let other = ConntrackEntry { id: 8, zones: Zones { orig: 5, reply: 5 }, ..entry };
    rig.event(&other);
    assert!(rig.model.entries.is_empty());
    rig.event(&entry);
    rig.event(&other);
    assert!(rig.model.entries.is_empty(), "events don't bring it back");
    assert_eq!(rig.tracker.refusal(&entry), Some(Refusal::TwoZones));
    rig.act();
    rig.asked.clear();
    rig.tracker.destroyed(rig.now, &other, &mut rig.model);
    rig.act();
    assert!(rig.asked.contains(&entry.orig), "nothing else need tell of it any more");
    assert_eq!(rig.tracker.refusal(&entry), None);
    rig.event(&entry);
    assert_eq!(rig.model.entries.len(), 2, "alone again");
}

#[test]
fn a_longer_packet_is_proved_or_refused_for_good() {
    let (mut rig, entry) = flying(TCP);
    let flow = rig.model.flow(entry.orig);
    rig.model.set_state(flow, EntryState::Candidate);
    rig.observe(Observation::Longer { flow, length: 4000 });
    rig.prove(entry.orig, 4000);
    assert_eq!((rig.model.length(flow), rig.model.at(flow).expect("entry").refuse_longer), (4000, false));
    rig.settle.pop();
    rig.observe(Observation::Settled(flow, 0));
    // One that the kernel fragments or answers with an error never comes back: a shorter one that followed does.
    rig.model.set_state(flow, EntryState::Candidate);
    rig.observe(Observation::Longer { flow, length: 9000 });
    let short = rig.proof(entry.orig, 1500);
    rig.observe(Observation::Proof(Box::new(Proof { overtook: 9000, ..short })));
    assert_eq!((rig.model.length(flow), rig.model.at(flow).expect("entry").refuse_longer), (4000, true));
    // Until one comes out whole after all.
    rig.settle.pop();
    rig.observe(Observation::Settled(flow, 0));
    rig.prove(entry.orig, 9000);
    assert_eq!((rig.model.length(flow), rig.model.at(flow).expect("entry").refuse_longer), (9000, false));
}

#[test]
fn a_duplicated_packet_keeps_the_direction_away_for_a_while() {
    let (mut rig, entry) = (Rig::new(), masqueraded(UDP, 7));
    rig.event(&entry);
    rig.prove(entry.orig, 100);
    let flow = rig.model.flow(entry.orig);
    rig.observe(Observation::Duplicated(flow));
    rig.observe(Observation::Settled(flow, 0));
    rig.prove(entry.orig, 100);
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    rig.pass(30_000);
    rig.prove(entry.orig, 100);
    assert_eq!(rig.state(entry.orig), EntryState::Holding);
}

#[test]
fn a_direction_that_never_settles_goes_back() {
    let (mut rig, entry) = (Rig::new(), masqueraded(UDP, 7));
    rig.event(&entry);
    rig.prove(entry.orig, 100);
    rig.pass(300);
    assert_eq!(rig.state(entry.orig), EntryState::Candidate);
}

#[test]
fn a_full_table_leaves_new_connections_to_the_kernel() {
    let mut rig = Rig::new();
    rig.model.room = Some(2);
    rig.event(&masqueraded(UDP, 1));
    let mut other = masqueraded(UDP, 2);
    (other.orig.sport, other.reply.dport) = (4001, 4001);
    rig.event(&other);
    assert_eq!((rig.model.entries.len(), rig.tracker.connections.len()), (2, 1));
    assert_eq!(rig.tracker.stats().table_full, 1);
}

#[test]
fn a_dump_brings_in_what_is_there_and_ends_what_is_not() {
    let (mut rig, entry) = flying(TCP);
    let mut other = masqueraded(UDP, 2);
    (other.orig.sport, other.reply.dport) = (4001, 4001);
    rig.tracker.dump_started();
    rig.tracker.entry(rig.now, &other, Source::Dump, &mut rig.model);
    rig.tracker.dump_finished(&mut rig.model);
    assert_eq!(rig.tracker.connections.len(), 1);
    assert!(rig.model.find(&Key::from_tuple(&entry.orig).expect("one family")).is_none());
    // What an event tells of while the dump is under way is there, dumped or not.
    rig.tracker.dump_started();
    rig.event(&entry);
    rig.event(&other);
    rig.tracker.dump_finished(&mut rig.model);
    assert_eq!(rig.tracker.connections.len(), 2);
}

#[test]
fn one_way_traffic_counts_by_its_only_direction() {
    let (mut rig, mut entry) = (Rig::new(), masqueraded(UDP, 7));
    entry.status = Status::CONFIRMED | Status::SRC_NAT;
    rig.event(&entry);
    rig.prove(entry.orig, 1400);
    let flow = rig.settle.pop().expect("to be settled");
    rig.observe(Observation::Settled(flow, 0));
    assert_eq!(rig.tracker.counts(), Counts { software: 1, ..Counts::default() });
}

#[test]
fn views_page_through_all_connections() {
    let mut rig = Rig::new();
    for n in 0..100_u16 {
        let mut entry = masqueraded(UDP, u32::from(n));
        (entry.orig.sport, entry.reply.dport) = (5000 + n, 5000 + n);
        rig.event(&entry);
    }
    let (mut seen, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor {
        let (page, next) = rig.tracker.page(rig.now, at, 7, &rig.model, |_| true);
        assert!(page.len() <= 7);
        seen.extend(page.iter().map(|c| c.orig.tuple.sport));
        cursor = next;
    }
    seen.sort_unstable();
    assert_eq!(seen, (5000..5100).collect::<Vec<_>>());
}

#[test]
fn a_change_of_the_way_forgets_proved_lengths() {
    let (mut rig, entry) = flying(UDP);
    let flow = rig.model.flow(entry.orig);
    rig.tracker.changed(rig.now, Changed::Anything, &mut rig.model);
    assert_eq!(rig.model.length(flow), 0, "no packet flies by what was proved before");
    rig.model.set_state(flow, EntryState::Candidate);
    rig.prove(entry.orig, 700);
    assert_eq!(rig.model.length(flow), 700);
    let (mut rig, entry) = flying(UDP);
    rig.tracker.changed(rig.now, Changed::Port { port: 1 }, &mut rig.model);
    rig.prove(entry.orig, 600);
    assert_eq!(rig.model.length(rig.model.flow(entry.orig)), 600);
}

#[test]
fn what_keeps_coming_without_an_entry_is_asked_for_within_bounds() {
    let mut rig = Rig::new();
    let mut entry = masqueraded(UDP, 7);
    entry.status = Status::CONFIRMED | Status::SRC_NAT;
    let key = Key::from_tuple(&entry.orig).expect("one family");
    rig.observe(Observation::Unknown(key));
    assert_eq!(rig.asked, [entry.orig]);
    rig.tracker.entry(rig.now, &entry, Source::Answer, &mut rig.model);
    assert_eq!(rig.tracker.counts().candidate, 1, "one-way, and found by its packets");
    for _ in 0..10_000 {
        rig.observe(Observation::Unknown(key));
    }
    assert!(rig.asked.len() <= 1000, "{}", rig.asked.len());
    rig.pass(100);
    rig.observe(Observation::Unknown(key));
    assert!(rig.asked.len() > 900 && rig.tracker.stats().unasked > 8_000);
}
