//! The model NIC behind receive queues, and rules that change while packets come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::dpdk::testing::{Bench, receive, send};
use crate::dpdk::{Burst, RxQueue};
use crate::hardware::model::NicHook;

fn tcp(number: u16) -> Frame {
    Frame::tcp("10.0.0.2:4000", "192.0.2.9:80").payload(&number.to_be_bytes())
}

fn out(number: u16) -> Frame {
    let frame = Frame::tcp("192.0.2.1:50000", "192.0.2.9:80").payload(&number.to_be_bytes());
    frame.with(|f| (f.dst_mac, f.src_mac) = ([2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 1, 1])).vlan(7)
}

fn flow_of(port: u16, egress: u16) -> HardwareFlow {
    let (flow, _) = flow(&tcp(0), &out(0)).expect("it can be carried");
    HardwareFlow { port, egress, ..flow }
}

fn forwarded(number: u16) -> Vec<u8> {
    out(number).with(|f| f.ttl = 63).build()
}

#[test]
fn what_a_rule_carries_never_reaches_the_worker() {
    let bench = Bench::new();
    let [(mut wire, mut rx), (mut tx, mut sent), ..] = bench.wires();
    let ports = [rx.port(), tx.port()];
    let nic = Nic::new(&ports, 1, Knobs::default());
    let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, ports[0]);
    rx.set_hook(Box::new(NicHook::new(Arc::clone(&nic), ports[0], vec![tx.share()]))).expect("a hook");

    let frames: Vec<Vec<u8>> = (0..10).map(|n| tcp(n).build()).collect();
    send(&bench, &mut wire, &frames);
    assert_eq!(receive(&mut rx), frames, "there is no rule");
    let form = Form { queues: vec![0], ..plain_form() };
    for guard in encode::guards(&form, ports[0]) {
        rules.create(&guard).expect("the model takes a guard");
    }
    rules.create(&encode::carry(&flow_of(ports[0], ports[1]), &form, Ttl::Decrement)).expect("a rule");

    // More than one burst, with others between.
    let other = Frame::udp("10.0.0.2:1", "192.0.2.9:2").build();
    let fin = tcp(3).flags(0x11).build();
    let mut frames: Vec<Vec<u8>> = (0..200).map(|n| tcp(n).build()).collect();
    frames.insert(100, other.clone());
    frames.insert(50, fin.clone());
    send(&bench, &mut wire, &frames);
    // A burst of which nothing is left looks like none.
    let software: Vec<Vec<u8>> = (0..8).flat_map(|_| receive(&mut rx)).collect();
    assert_eq!(software, [fin, other]);
    let left = receive(&mut sent);
    assert_eq!(left.len(), 200);
    for (frame, number) in left.iter().zip(0..) {
        assert_eq!(*frame, forwarded(number));
    }
    assert_eq!((nic.stats().sent, nic.stats().lost), (200, 0));
    // The worker sends on the same queue.
    let mut burst = Burst::new();
    burst.extend([bench.packet(b"from the worker")]);
    assert_eq!(tx.burst(&mut burst), 1);
    assert_eq!(receive(&mut sent), [b"from the worker"]);
    // The hook goes with the queue.
    drop((wire, rx, tx, sent));
    assert_eq!(bench.in_use(), 0);
    let [(mut wire, mut rx), ..] = bench.wires();
    send(&bench, &mut wire, &[tcp(0).build()]);
    assert_eq!(receive(&mut rx), [tcp(0).build()]);
}

#[test]
fn marked_packets_are_told_apart() {
    let bench = Bench::new();
    let [(mut wire, mut rx), ..] = bench.wires();
    let nic = Nic::new(&[rx.port()], 1, Knobs { tier: Tier::Assist, ..Knobs::default() });
    let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, rx.port());
    rules.create(&encode::mark(&flow_of(rx.port(), 0), 0xabcd, &[0])).expect("a rule");
    rx.set_hook(Box::new(NicHook::new(nic, rx.port(), Vec::new()))).expect("a hook");
    let other = Frame::udp("10.0.0.2:1", "192.0.2.9:2");
    send(&bench, &mut wire, &[tcp(1).build(), other.build()]);
    let mut burst = Burst::new();
    rx.burst(&mut burst);
    let marks: Vec<Option<u32>> = burst.iter().map(|packet| packet.mark()).collect();
    assert_eq!(marks, [Some(0xabcd), None]);
}

#[test]
fn a_shared_queue_sends_on_one_thread() {
    let bench = Bench::new();
    let [(mut tx, mut rx), ..] = bench.wires();
    let mut shared = tx.share();
    let mut packets = Burst::new();
    packets.extend([bench.packet(b"one"), bench.packet(b"two")]);
    // Nobody has sent yet: the thread that does first has the queue.
    assert_eq!(tx.burst(&mut packets), 2);
    packets.extend([bench.packet(b"three")]);
    thread::scope(|scope| {
        let elsewhere = scope.spawn(|| (shared.burst(&mut packets), tx.share().burst(&mut packets)));
        assert_eq!(elsewhere.join().expect("thread"), (0, 0));
    });
    assert_eq!(shared.burst(&mut packets), 1);
    assert_eq!(receive(&mut rx), [&b"one"[..], b"two", b"three"]);
}

/// So that the other thread ends, too, when an assertion does not hold.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn packets_are_neither_lost_nor_mixed_up_while_rules_change() {
    let bench = Bench::new();
    let [(mut wire, mut rx), (mut tx, mut sent), ..] = bench.wires();
    let ports = [rx.port(), tx.port()];
    let nic = Nic::new(&ports, 1, Knobs::default());
    rx.set_hook(Box::new(NicHook::new(Arc::clone(&nic), ports[0], vec![tx.share()]))).expect("a hook");
    let stop = AtomicBool::new(false);
    let (mut carried, mut not_carried) = (0, 0);
    thread::scope(|scope| {
        let _end = SetOnDrop(&stop);
        let changes = scope.spawn(|| {
            let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, ports[0]);
            let form = form(Domain::Transfer, 0, Fields::Modify);
            let rule = encode::carry(&flow_of(ports[0], ports[1]), &form, Ttl::Exact(64));
            while !stop.load(Ordering::Relaxed) {
                let id = rules.create(&rule).expect("a rule");
                thread::yield_now();
                rules.destroy(id).expect("it goes");
                thread::yield_now();
            }
        });
        // Until both ways were taken, with an end for a machine where that takes too long.
        for round in 0..20_000u16 {
            let numbers = [round.wrapping_mul(2), round.wrapping_mul(2).wrapping_add(1)];
            send(&bench, &mut wire, &numbers.map(|n| tcp(n).build()));
            let (software, hardware) = (receive(&mut rx), receive(&mut sent));
            assert_eq!(software.len() + hardware.len(), 2);
            for frame in &software {
                assert!(numbers.iter().any(|n| tcp(*n).build() == *frame));
            }
            for frame in &hardware {
                assert!(numbers.iter().any(|n| forwarded(*n) == *frame));
            }
            carried += hardware.len();
            not_carried += software.len();
            if round > 500 && carried > 50 && not_carried > 50 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        changes.join().expect("thread");
    });
    assert!(carried > 0 && not_carried > 0, "{carried} and {not_carried}");
    assert_eq!((nic.rules(), nic.stats().lost), (0, 0));
}

/// A queue with a hook may move to the thread that polls it.
#[test]
fn queues_with_hooks_may_move() {
    fn is_send<T: Send>() {}
    is_send::<RxQueue>();
    is_send::<NicHook>();
}
