//! Timeouts of entries that fly, and of those that are given back.

use dataplane::flow::{EntryState, TCP, UDP};
use dataplane::punt::Observation;

use super::testing::{Rig, flying, masqueraded};
use super::*;
use crate::netlink::conntrack::{Status, TcpFlags, TcpInfo};

#[test]
fn living_flows_are_kept_alive_and_idle_ones_get_the_rest_of_their_timeout() {
    let (mut rig, entry) = flying(UDP);
    for second in 0..300 {
        rig.pass(1_000);
        rig.model.fly(entry.orig, rig.now);
        // Probes are answered.
        for tuple in [entry.orig, entry.reply] {
            if rig.state(tuple) == EntryState::Probing {
                let flow = rig.model.flow(tuple);
                rig.model.set_state(flow, EntryState::Holding);
                rig.prove(tuple, 60);
            }
        }
        assert_eq!(rig.tracker.counts().candidate, 0, "after {second} s");
    }
    // Two minutes' UDP timeout: refreshed often enough for packets through the kernel to do no harm.
    assert!(rig.timeouts.len() >= 300 / 36, "{:?}", rig.timeouts);
    assert!(rig.timeouts.iter().all(|t| *t == 600));
    rig.timeouts.clear();
    rig.pass(31_000);
    assert_eq!(rig.tracker.counts().candidate, 1);
    rig.answer(&entry, 569);
    assert_eq!(rig.timeouts.last(), Some(&(120 - 31)), "{:?}", rig.timeouts);
}

/// Packets that the ruleset has dropped since, say, have made the kernel's entry young by themselves.
#[test]
fn a_timeout_that_the_kernel_has_set_is_left_alone() {
    let (mut rig, entry) = flying(UDP);
    rig.pass(31_000);
    rig.timeouts.clear();
    rig.answer(&entry, 117);
    rig.pass(10_000);
    assert_eq!((rig.timeouts.len(), rig.asked.len()), (0, 0));
}

/// An answer may be lost.
#[test]
fn the_kernel_is_asked_again_until_it_answers() {
    let (mut rig, entry) = flying(UDP);
    rig.pass(40_000);
    assert!(rig.asked.len() > 2, "{:?}", rig.asked);
    rig.timeouts.clear();
    rig.answer(&entry, 600);
    rig.asked.clear();
    rig.pass(60_000);
    assert_eq!((rig.timeouts.as_slice(), rig.asked.len()), ([120 - 40].as_slice(), 0));
}

/// The kernel sees that answered UDP is a stream by a packet in its third second, which may fly.
#[test]
fn udp_that_becomes_a_stream_in_the_air_has_a_streams_timeout() {
    for (lasts, timeout) in [(1_000, 30), (3_000, 120)] {
        let mut rig = Rig::new();
        let entry = ConntrackEntry { timeout_s: Some(30), ..masqueraded(UDP, 7) };
        let entry = ConntrackEntry { status: Status::SEEN_REPLY | Status::CONFIRMED, ..entry };
        rig.event(&entry);
        rig.take_off(&entry);
        rig.pass(lasts);
        rig.model.fly(entry.orig, rig.now);
        rig.pass(15_000);
        rig.answer(&entry, 500);
        assert_eq!(rig.timeouts.last(), Some(&(timeout - 15)));
    }
}

/// What a rule has set (`ct timeout`) is told with the packet that makes the stream one: it must go through the kernel.
#[test]
fn udp_shows_the_kernel_a_packet_of_its_third_second() {
    let mut rig = Rig::new();
    let entry = ConntrackEntry { timeout_s: Some(29), ..masqueraded(UDP, 7) };
    let entry = ConntrackEntry { status: Status::SEEN_REPLY | Status::CONFIRMED, ..entry };
    rig.event(&entry);
    rig.take_off(&entry);
    rig.pass(2_400);
    assert_eq!(rig.state(entry.orig), EntryState::Software);
    rig.pass(200);
    assert_eq!([entry.orig, entry.reply].map(|tuple| rig.state(tuple)), [EntryState::Probing; 2]);
    rig.prove(entry.orig, 60);
    let status = entry.status | Status::ASSURED;
    let assured = ConntrackEntry { timeout_s: Some(3_600), status, ..entry };
    rig.event(&assured);
    rig.pass(10_000);
    assert_eq!(rig.state(entry.orig), EntryState::Software, "once is enough");
    rig.pass(20_500);
    rig.answer(&assured, 590);
    assert_eq!(rig.timeouts.last(), Some(&(3_600 - 30)));
}

/// A gateway that died could not give back what it kept alive; its successor does.
#[test]
fn what_an_earlier_process_held_is_given_back() {
    let flags = Some(TcpFlags::BE_LIBERAL);
    let info = TcpInfo { state: TcpState::Established, orig_flags: flags, reply_flags: flags };
    let entry = ConntrackEntry { timeout_s: Some(550), tcp: Some(info), ..masqueraded(TCP, 7) };
    let mut rig = Rig::new();
    rig.tracker.dump_started();
    rig.tracker.entry(rig.now, &entry, Source::Dump, &mut rig.model);
    rig.tracker.dump_finished(&mut rig.model);
    rig.pass(30_000);
    rig.answer(&entry, 520);
    assert_eq!(rig.timeouts, [432_000 - 30]);
    // These have their timeouts of the kernel, or of a rule's timeout policy.
    let udp = masqueraded(UDP, 7);
    for entry in [
        udp,
        ConntrackEntry { timeout_s: Some(300), ..udp },
        ConntrackEntry { timeout_s: Some(550), ..masqueraded(TCP, 7) },
    ] {
        let mut rig = Rig::new();
        rig.tracker.entry(rig.now, &entry, Source::Dump, &mut rig.model);
        rig.pass(60_000);
        assert_eq!((rig.timeouts.len(), rig.asked.len()), (0, 0));
    }
}

#[test]
fn all_are_given_back_when_the_process_ends() {
    let (mut rig, entry) = flying(TCP);
    rig.pass(3_000);
    rig.tracker.release(rig.now, &mut rig.model);
    rig.act();
    assert_eq!(rig.timeouts, [432_000 - 3]);
    assert_eq!([rig.state(entry.orig), rig.state(entry.reply)], [EntryState::Candidate; 2]);
}

/// What the policy no longer selects lives on in the kernel.
#[test]
fn what_is_refused_later_is_given_back() {
    let (mut rig, entry) = flying(UDP);
    rig.event(&ConntrackEntry { has_helper: true, ..entry });
    assert_eq!(rig.timeouts, [120]);
    assert!(rig.tracker.is_empty());
}

/// The kernel's entry must not outlive a connection that was the kernel's again when it fell silent.
#[test]
fn what_no_longer_flies_is_handed_back_too() {
    for what in [Observation::Lost as fn(FlowRef) -> Observation, Observation::Duplicated] {
        let (mut rig, entry) = flying(UDP);
        rig.timeouts.clear();
        for tuple in [entry.orig, entry.reply] {
            let flow = rig.model.flow(tuple);
            rig.model.set_state(flow, EntryState::Candidate);
            rig.observe(what(flow));
        }
        // Its packets go through the kernel, which a worker notes.
        rig.pass(20_000);
        rig.model.fly(entry.orig, rig.now);
        rig.pass(29_000);
        assert!(rig.timeouts.is_empty(), "it lives");
        rig.pass(1_000);
        rig.answer(&entry, 570);
        assert_eq!(rig.timeouts, [120 - 30]);
        rig.pass(100_000);
        assert_eq!((rig.timeouts.as_slice(), rig.asked.len()), ([120 - 30].as_slice(), 0), "once");
    }
}

#[test]
fn a_short_timeout_is_respected() {
    let (mut rig, mut entry) = (Rig::new(), masqueraded(UDP, 7));
    entry.timeout_s = Some(5);
    rig.event(&entry);
    rig.take_off(&entry);
    rig.timeouts.clear();
    for _ in 0..4 {
        rig.pass(500);
        rig.model.fly(entry.orig, rig.now);
    }
    // Refreshed within a third of it, since any packet through the kernel sets it to 5 s again.
    assert_eq!(rig.timeouts, [600]);
    rig.pass(2_500);
    assert_eq!(rig.timeouts, [600], "not behind a packet that may have gone through the kernel");
    rig.answer(&entry, 599);
    assert_eq!(rig.timeouts.last(), Some(&3), "2.5 s idle of 5, to the nearest second");
    assert_eq!(rig.tracker.counts().candidate, 1);
}
