use std::net::{IpAddr, Ipv4Addr};

use dataplane::flow::{FiveTuple, TCP};

use super::*;
use crate::netlink::conntrack::{self, ConntrackEntry, Status, TcpInfo, TcpState, Zones};
use crate::tracker::{Account, Carried, DirectionAccount};

const SECOND: u64 = 1000;

fn tuples() -> (FiveTuple, FiveTuple) {
    let [client, server, gateway]: [IpAddr; 3] = [[192, 168, 1, 10], [198, 51, 100, 10], [198, 51, 100, 1]]
        .map(|octets| Ipv4Addr::from(octets).into());
    let orig = FiveTuple { proto: TCP, src: client, dst: server, sport: 4000, dport: 80 };
    (orig, FiveTuple { proto: TCP, src: server, dst: gateway, sport: 80, dport: 1024 })
}

fn account(index: u32, up: u64, down: u64, last_seen: u32) -> Account {
    let (orig, reply) = tuples();
    let workers = |packets, header| Carried { packets, bytes: packets * (100 + u64::from(header)), header };
    let direction = |tuple, carried, ports| DirectionAccount { tuple, carried, last_seen, ports };
    Account {
        index,
        id: 77,
        born: 500,
        orig: direction(orig, [workers(up, 14), Carried::default()], Some((1, 0))),
        reply: direction(reply, [workers(down, 22), Carried::default()], None),
    }
}

fn entry(counted: Option<[(u64, u64); 2]>) -> ConntrackEntry {
    let (orig, reply) = tuples();
    ConntrackEntry {
        id: 77,
        orig,
        reply,
        zones: Zones::DEFAULT,
        status: Status::CONFIRMED,
        timeout_s: None,
        mark: None,
        tcp: Some(TcpInfo { state: TcpState::TimeWait, orig_flags: None, reply_flags: None }),
        has_helper: false,
        seq_adjust: false,
        synproxy: false,
        counted: counted.map(|both| both.map(|(packets, bytes)| conntrack::Count { packets, bytes })),
        started_ns: None,
    }
}

const fn at(now: u64) -> Moment {
    Moment { now, unix_ms: 1_000_000 + now }
}

const fn count(packets: u64, octets: u64) -> Count {
    Count { packets, octets }
}

fn interface(port: u16) -> u32 {
    10 + u32::from(port)
}

#[test]
fn everything_is_told_once() {
    let mut accounts = Accounts::new(60 * SECOND);
    let first = accounts.interim(at(10 * SECOND), &account(3, 5, 7, 9000), interface).expect("a record");
    assert_eq!((first.forward, first.reverse), (count(5, 500), count(7, 700)), "without the L2 headers");
    assert_eq!((first.before, first.after), (tuples().0, tuples().1.inverted()));
    assert_eq!((first.start, first.end, first.reason), (1_000_500, 1_009_000, EndReason::ActiveTimeout));
    assert_eq!((first.ingress, first.egress, first.id), (11, 10, 77));
    assert_eq!(accounts.interim(at(70 * SECOND), &account(3, 5, 7, 9000), interface), None, "nothing new");
    // What the kernel carried comes at the end, and once.
    let ended = entry(Some([(3, 180), (2, 120)]));
    let last = accounts.last(at(80 * SECOND), &account(3, 6, 7, 75_000), Some(&ended), interface);
    let last = last.expect("a record");
    assert_eq!((last.forward, last.reverse), (count(4, 280), count(2, 120)));
    assert_eq!((last.start, last.end, last.reason), (1_010_000, 1_075_000, EndReason::EndOfFlow));
    // Another connection in the same place.
    let next = accounts.interim(at(90 * SECOND), &account(3, 1, 0, 89_000), interface).expect("a record");
    assert_eq!(next.forward, count(1, 100));
}

#[test]
fn workers_and_nics_add_up_each_with_its_own_header() {
    let mut accounts = Accounts::new(60 * SECOND);
    let mut both = account(0, 10, 0, 5);
    both.orig.carried[1] = Carried { packets: 4, bytes: 4 * 118, header: 18 };
    let record = accounts.interim(at(SECOND), &both, interface).expect("a record");
    assert_eq!(record.forward, count(14, 1400));
    // A rule that was made anew begins at 0: nothing is told twice, and nothing negative.
    both.orig.carried[1] = Carried { packets: 1, bytes: 118, header: 18 };
    assert_eq!(accounts.interim(at(2 * SECOND), &both, interface), None);
}

#[test]
fn counters_wrap() {
    let mut accounts = Accounts::new(60 * SECOND);
    let many = u64::from(u32::MAX);
    accounts.interim(at(SECOND), &account(0, 1 << 30, 0, 5), interface);
    for packets in [1 << 31, 3 << 30, many] {
        accounts.interim(at(SECOND), &account(0, packets, 0, 5), interface);
    }
    let record = accounts.interim(at(SECOND), &account(0, many + 10, 0, 5), interface).expect("a record");
    assert_eq!(record.forward, count(10, 1000));
}

#[test]
fn the_end_has_a_reason() {
    let reason = |state: Option<TcpState>, timeout_s| {
        let tcp = state.map(|state| TcpInfo { state, orig_flags: None, reply_flags: None });
        let ended = ConntrackEntry { tcp, timeout_s, ..entry(Some([(1, 40), (0, 0)])) };
        Accounts::foreign(at(0), &ended).expect("a record").reason
    };
    assert_eq!(reason(Some(TcpState::TimeWait), None), EndReason::EndOfFlow);
    assert_eq!(reason(Some(TcpState::Close), Some(0)), EndReason::EndOfFlow);
    assert_eq!(reason(Some(TcpState::Established), None), EndReason::IdleTimeout);
    assert_eq!(reason(Some(TcpState::SynSent), None), EndReason::IdleTimeout);
    assert_eq!(reason(None, None), EndReason::IdleTimeout);
    assert_eq!(reason(None, Some(17)), EndReason::ForcedEnd);
    assert_eq!(reason(Some(TcpState::Established), Some(400)), EndReason::ForcedEnd);
    let mut accounts = Accounts::new(SECOND);
    let record = accounts.last(at(SECOND), &account(0, 1, 1, 5), None, interface).expect("a record");
    assert_eq!(record.reason, EndReason::ForcedEnd);
}

#[test]
fn what_never_flew_is_told_if_the_kernel_counts() {
    assert_eq!(Accounts::foreign(at(SECOND), &entry(None)), None);
    assert_eq!(Accounts::foreign(at(SECOND), &entry(Some([(0, 0), (0, 0)]))), None);
    let ended = ConntrackEntry { started_ns: Some(900_000_000_000), ..entry(Some([(2, 120), (1, 60)])) };
    let record = Accounts::foreign(at(SECOND), &ended).expect("a record");
    assert_eq!((record.forward, record.reverse), (count(2, 120), count(1, 60)));
    assert_eq!((record.start, record.end), (900_000, 1_001_000), "as the kernel's clock says");
    assert_eq!((record.ingress, record.egress), (0, 0));
}

#[test]
fn each_connection_has_its_turn_once_in_the_active_timeout() {
    for (span, step) in [(1, 10), (7, 10), (1000, 10), (100_000, 10), (1000, 333), (3, 4000)] {
        let mut accounts = Accounts::new(60 * SECOND);
        let (mut turns, mut now, mut longest) = (vec![0_u32; span], 0, 0);
        while now < 600 * SECOND {
            now += step;
            let due = accounts.due(now, span);
            longest = longest.max(due.len());
            due.for_each(|index| turns[index] += 1);
        }
        let (least, most) = (turns.iter().min().copied(), turns.iter().max().copied());
        assert!(least >= Some(9) && most <= Some(10), "{span} at {step} ms: {least:?} to {most:?}");
        assert!(
            longest <= 1 + span * step as usize / 60_000 * 2 + 1,
            "{span} at {step} ms: {longest} at once"
        );
    }
}

/// A million in a second are too many: they come later, and never all at once.
#[test]
fn nobody_waits_for_records() {
    let mut accounts = Accounts::new(SECOND);
    for now in (0..60 * SECOND).step_by(10) {
        assert!(accounts.due(now, 1_000_000).len() <= 1024);
    }
    // After a pause no debt is paid.
    assert!(accounts.due(3600 * SECOND, 1_000_000).len() <= 1024);
    assert!(accounts.due(3600 * SECOND, 1_000_000).is_empty());
    // Fewer than before.
    assert!(accounts.due(3601 * SECOND, 10).end <= 10);
    assert!(accounts.due(3700 * SECOND, 0).is_empty());
}
