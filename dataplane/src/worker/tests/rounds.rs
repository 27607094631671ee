//! Whole rounds: what arrives, and where it goes.

use std::time::Duration;

use super::*;
use crate::flow::{TCP, UDP, flags};
use crate::packet::source_mac;
use crate::packet::testing::Faults;

fn arp() -> Frame {
    Frame::udp("10.0.0.2:1", "10.0.0.1:1").with(|f| {
        f.dst_mac = [0xff; 6];
        f.faults = Faults { ether_type: Some(0x0806), ..Faults::default() };
    })
}

/// Packets of the control class that wait.
fn control(rig: &Rig) -> usize {
    std::iter::from_fn(|| rig.link().rings.pop(PuntClass::Control)).count()
}

#[test]
fn a_packet_flies_rewritten_out_of_the_other_port() {
    for proto in [TCP, UDP] {
        let mut rig = Rig::new();
        let connection = rig.connect(proto, EntryState::Software);
        // The kernel trims padding too.
        let frame = connection.frame(1).with(|f| f.padding = vec![0xee; 9]);
        let answer = connection.answer(2);
        rig.arrive(0, std::slice::from_ref(&frame));
        rig.arrive(1, std::slice::from_ref(&answer));
        rig.rounds();
        assert_eq!(rig.sent(1), [forwarded(&frame, &connection).build()]);
        assert_eq!(rig.sent(0), [forwarded(&answer, &connection).build()]);
        let bytes = rig.link().counters.fast().bytes.get();
        let entry = rig.link().table.entry(connection.flows[0].slot);
        assert_eq!((entry.packets(), rig.link().counters.fast().packets.get()), (1, 2));
        assert_eq!(
            (entry.bytes(), bytes),
            (bytes / 2, 2 * forwarded(&frame, &connection).build().len() as u64)
        );
        rig.finish();
    }
}

#[test]
fn a_header_of_another_length_is_put_in_front() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let frame = connection.frame(1);
    for (header, pppoe_length) in [
        // VLAN 7.
        (vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 0x81, 0, 0, 7, 8, 0], None),
        // PPPoE session 5.
        (vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 0x88, 0x64, 0x11, 0, 0, 5, 0, 0, 0, 0x21], Some(18)),
    ] {
        let egress =
            Egress { port: 1, header: header.into_iter().collect(), mtu: 1500, pppoe_length, dscp: None };
        let adjacency = rig.adjacencies.acquire(&egress).expect("room");
        let slot = connection.flows[0].slot;
        let context = rig.link().table.entry(slot).context();
        rig.writer.set_forwarding(slot, context, adjacency, 0);
        rig.arrive(0, std::slice::from_ref(&frame));
        rig.rounds();
        let expected = forwarded(&frame, &connection);
        let expected = if pppoe_length.is_some() { expected.pppoe(5) } else { expected.vlan(7) };
        assert_eq!(rig.sent(1), [expected.build()]);
    }
    rig.finish();
}

#[test]
fn whatever_cannot_fly_goes_to_the_kernel_as_it_came() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Candidate);
    let frames = [
        (connection.frame(1).with(|f| f.padding = vec![0xee; 9]), PuntReason::Candidate),
        (connection.frame(2).with(|f| f.ttl = 1), PuntReason::Ttl),
        (connection.frame(3).with(|f| f.fragment = 0x2000), PuntReason::Fragment),
        (connection.frame(4).with(|f| f.options = vec![1; 4]), PuntReason::IpOptions),
        (connection.frame(5).with(|f| f.tuple.dport = 81), PuntReason::NoFlow),
        (connection.frame(6).with(|f| f.tuple.proto = 50), PuntReason::Protocol),
        (connection.frame(7).vlan(7), PuntReason::Candidate),
    ];
    let all: Vec<Frame> = frames.iter().map(|(frame, _)| frame.clone()).collect();
    rig.arrive(0, &all);
    rig.rounds();
    let mut punted = rig.punted();
    // What is refused while parsing goes ahead of what is looked up; neither overtakes its own.
    punted.sort_by_key(|packet| frames.iter().position(|(frame, _)| frame.build() == packet.mbuf.data()));
    for ((frame, reason), packet) in frames.iter().zip(&punted) {
        assert_eq!((packet.mbuf.data(), packet.reason), (&frame.build()[..], *reason));
        assert_eq!(packet.flow, (*reason == PuntReason::Candidate).then_some(connection.flows[0]));
        assert_eq!((packet.ingress.port(), packet.l3), (0, frame.l2_len() as u8));
        assert!(rig.count(*reason) > 0);
    }
    assert_eq!(punted.len(), frames.len());
    drop(punted);
    rig.finish();
}

#[test]
fn what_the_kernel_would_drop_unseen_is_dropped_and_counted() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let faults = Faults { ip_checksum_error: 1, ..Faults::default() };
    rig.arrive(0, &[connection.frame(1).with(|f| f.faults = faults)]);
    rig.rounds();
    assert_eq!(rig.dropped(DropReason::BadIpHeader), 1);
    // A bridge would send it on.
    rig.link().flags.set_bridged(0, true);
    rig.arrive(0, &[connection.frame(2).with(|f| f.faults = faults)]);
    rig.rounds();
    assert_eq!((numbers(&rig.punted()), rig.dropped(DropReason::BadIpHeader)), (vec![2], 1));
    rig.finish();
}

/// Found by the oracle: a bridge hands the sender's MAC address on, and a header is learned from one sender.
#[test]
fn a_bridged_flow_flies_for_its_own_sender_alone() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let slot = connection.flows[0].slot;
    let entry = rig.link().table.entry(slot);
    let (context, adjacency) = (entry.context(), entry.adjacency());
    rig.writer.set_forwarding(slot, context, adjacency, flags::BRIDGED);
    let learned = source_mac(&HEADER[1]).expect("a MAC address");
    let from = |number, mac| connection.frame(number).with(|f| f.src_mac = mac);
    rig.arrive(0, &[from(1, learned), from(2, [2, 0, 0, 0, 9, 9]), from(3, learned)]);
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [1, 3]);
    assert_eq!((numbers(&rig.punted()), rig.count(PuntReason::IngressContext)), (vec![2], 1));
    rig.finish();
}

#[test]
fn frames_from_the_kernel_leave_by_their_port_and_unknown_ports_drop() {
    let mut rig = Rig::new();
    let frame = |number: u16| Frame::udp("10.0.0.1:1", "10.0.0.2:1").payload(&number.to_be_bytes());
    for (port, number) in [(0, 1), (1, 2), (0, 3), (1, 4), (2, 5)] {
        rig.kernel_sends(port, &frame(number));
    }
    assert_eq!(rig.worker.round(), 5);
    assert_eq!((rig.numbers_sent(0), rig.numbers_sent(1)), (vec![1, 3], vec![2, 4]));
    assert_eq!(rig.dropped(DropReason::NoPort), 1);
    assert_eq!(rig.link().counters.from_kernel().packets.get(), 5);
    rig.finish();
}

#[test]
fn what_leaves_is_itself_whatever_comes_between() {
    let mut rig = Rig::new();
    let connections = [UDP, TCP, UDP].map(|proto| rig.connect(proto, EntryState::Software));
    let held = rig.connect(UDP, EntryState::Holding);
    let (mut frames, mut expected) = (Vec::new(), Vec::new());
    for number in 0..60 {
        let connection = &connections[usize::from(number) % 3];
        let frame = connection.frame(number);
        frames.push(match number % 5 {
            0 => frame.with(|f| f.ttl = 1),
            1 => Frame::udp("10.0.0.2:9", "192.0.2.9:9").payload(&number.to_be_bytes()),
            2 => held.frame(number),
            _ => {
                expected.push(forwarded(&frame, connection).build());
                frame
            }
        });
    }
    rig.arrive(0, &frames);
    rig.worker.round();
    assert_eq!(rig.sent(1), expected);
    assert_eq!((rig.count(PuntReason::Ttl), rig.count(PuntReason::NoFlow)), (12, 12));
    assert_eq!(rig.worker.carrier.held.len(), 12);
    assert_eq!(numbers(&rig.punted()).len(), 24);
    rig.set_state(held.flows[0], EntryState::Software);
    rig.worker.round();
    assert!(rig.numbers_sent(1).into_iter().eq((0..60).filter(|number| number % 5 == 2)));
    rig.finish();
}

#[test]
fn more_frames_than_a_burst_leave_in_order() {
    let mut rig = Rig::new();
    for number in 0..200 {
        rig.kernel_sends(1, &Frame::udp("10.0.0.1:1", "10.0.0.2:1").payload(&u16::to_be_bytes(number)));
    }
    rig.rounds();
    assert!(rig.numbers_sent(1).into_iter().eq(0..200));
    rig.finish();
}

#[test]
fn a_full_wire_drops_and_counts() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Software);
    let (mut arrived, mut wire) = (0_u16, 0);
    while rig.dropped(DropReason::TxQueueFull) == 0 {
        let frames: Vec<Frame> = (arrived..arrived + 64).map(|number| connection.frame(number)).collect();
        rig.arrive(0, &frames);
        arrived += 64;
        rig.rounds();
        assert!(arrived < 10_000, "the ring has an end");
    }
    wire += rig.sent(1).len() as u64;
    assert_eq!(wire + rig.dropped(DropReason::TxQueueFull), u64::from(arrived));
    rig.finish();
}

#[test]
fn control_traffic_has_a_class_and_a_budget() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.arrive(0, &vec![arp(); 64]);
        rig.rounds();
    }
    let taken = control(&rig);
    assert_eq!(taken, 256, "as many as may come at once");
    let started = rig.worker.carrier.now;
    rig.arrive(0, &vec![arp(); 1000]);
    rig.rounds();
    let more = control(&rig) as u64;
    let elapsed = u64::from(rig.worker.carrier.now - started) + 256 / 8;
    assert!(more <= elapsed * 8, "{more} within {elapsed} ms");
    assert_eq!(rig.dropped(DropReason::ControlBudget), 1000 - more);
    assert_eq!(rig.count(PuntReason::Arp), 256 + more);
    // The other port has a budget of its own.
    rig.arrive(1, &[arp()]);
    rig.rounds();
    assert_eq!(control(&rig), 1);
    assert!(rig.punted().is_empty());
    rig.finish();
}

#[test]
fn the_budget_fills_up_again() {
    let mut rig = Rig::new();
    rig.arrive(0, &vec![arp(); 600]);
    rig.rounds();
    control(&rig);
    std::thread::sleep(Duration::from_millis(50));
    rig.arrive(0, &vec![arp(); 256]);
    rig.rounds();
    assert_eq!(control(&rig), 256);
    rig.finish();
}

#[test]
fn packets_to_the_gateway_itself_are_control_within_the_budget_and_transit_beyond() {
    let mut rig = Rig::new();
    rig.link().local.set([[10, 0, 0, 1].into()]);
    let own = Frame::tcp("10.0.0.2:1", "10.0.0.1:22").with(|f| f.dst_mac = GATEWAY[0]);
    let ping = own.clone().with(|f| f.tuple.proto = 1);
    rig.arrive(0, &[own.clone(), ping.clone()]);
    rig.rounds();
    assert_eq!(control(&rig), 2);
    rig.arrive(0, &vec![own; 500]);
    rig.arrive(0, &vec![ping; 400]);
    rig.rounds();
    let (first, rest) = (control(&rig), rig.punted().len());
    assert!((254..900).contains(&first), "{first}");
    assert_eq!(first + rest, 900, "none is dropped");
    rig.finish();
}

#[test]
fn a_full_ring_drops_and_counts() {
    let mut rig = Rig::with_rings(1, 3);
    let connection = rig.connect(UDP, EntryState::Candidate);
    let frames: Vec<Frame> = (0..5).map(|number| connection.frame(number)).collect();
    rig.arrive(0, &frames);
    rig.arrive(0, &[arp(), arp()]);
    rig.rounds();
    assert_eq!(rig.dropped(DropReason::PuntRingFull), 3);
    assert_eq!((numbers(&rig.punted()), control(&rig)), (vec![0, 1, 2], 1));
    rig.finish();
}
