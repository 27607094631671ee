//! What becomes of a packet, by its flow's state, where it came in, and what it is.

use super::*;
use crate::flow::{TCP, UDP, flags};
use crate::packet::testing::TcpFields;
use crate::worker::decide;

const STATES: [EntryState; 5] = [
    EntryState::Candidate,
    EntryState::Holding,
    EntryState::Software,
    EntryState::Probing,
    EntryState::Closing,
];
const FIN: u8 = 0x11;
const RST: u8 = 0x04;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const NOW: u32 = 100_000;
/// What the peer has acknowledged last.
const EXPECTED: u32 = 0x1000_0000;

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where the direction's packets do.
    Own,
    /// At the other port.
    Elsewhere,
    /// The direction has none yet.
    Unknown,
}

const PLACES: [Place; 3] = [Place::Own, Place::Elsewhere, Place::Unknown];

struct Case {
    rig: Rig,
    connection: Connection,
    place: Place,
}

impl Case {
    fn new(proto: u8, state: EntryState, place: Place) -> Self {
        let mut rig = Rig::new();
        let connection = rig.connect(proto, state);
        let [flow, peer] = connection.flows;
        if place == Place::Unknown {
            rig.writer.set_forwarding(flow.slot, ContextTable::NONE, crate::flow::AdjacencyId::NONE, 0);
        }
        let peer = rig.link().table.entry(peer.slot);
        peer.set_last_ack(EXPECTED);
        peer.touch(NOW);
        Self { rig, connection, place }
    }

    fn segment(&self, flags: u8, seq: u32) -> Frame {
        self.connection.frame(1).with(|f| f.tcp = TcpFields { flags, seq, ..f.tcp.clone() })
    }

    fn decide_at(&self, frame: &Frame, now: u32) -> Verdict {
        let port = u16::from(self.place == Place::Elsewhere);
        let mbuf = self.rig.bench.packet(&frame.build());
        let headers = parse(mbuf.data(), port).expect("a packet that can fly");
        decide::flow(self.rig.link(), &mbuf, &headers, self.connection.flows[0].slot, now)
    }

    fn decide(&self, frame: &Frame) -> Verdict {
        self.decide_at(frame, NOW)
    }

    fn states(&self) -> [EntryState; 2] {
        self.connection.flows.map(|flow| self.rig.state(flow))
    }
}

const fn punt(reason: PuntReason) -> Verdict {
    Verdict::Punt(reason, PuntEvent::None)
}

const FINGERPRINT: Verdict = Verdict::Punt(PuntReason::Candidate, PuntEvent::Fingerprint);

#[test]
fn data_goes_where_its_flow_is() {
    for (proto, state, place) in [TCP, UDP].into_iter().flat_map(|proto| {
        STATES.into_iter().flat_map(move |state| PLACES.into_iter().map(move |place| (proto, state, place)))
    }) {
        let case = Case::new(proto, state, place);
        let expected = match (state, place) {
            (EntryState::Candidate, _) => (FINGERPRINT, state),
            (EntryState::Closing, _) => (punt(PuntReason::Closing), state),
            (_, Place::Elsewhere | Place::Unknown) => (punt(PuntReason::IngressContext), state),
            (EntryState::Software, Place::Own) => (Verdict::Fly, state),
            (EntryState::Holding, Place::Own) => (Verdict::Hold, state),
            (EntryState::Probing, Place::Own) => {
                (Verdict::Punt(PuntReason::Probe, PuntEvent::Probe), EntryState::Holding)
            }
        };
        let verdict = case.decide(&case.connection.frame(1));
        assert_eq!(
            (verdict, case.states()),
            (expected.0, [expected.1, state]),
            "{proto} {state:?} {place:?}"
        );
    }
}

#[test]
fn a_packet_longer_than_proved_takes_its_direction_back_or_goes_alone() {
    for (state, refuse, place) in STATES.into_iter().flat_map(|state| {
        [false, true].into_iter().flat_map(move |r| PLACES.into_iter().map(move |place| (state, r, place)))
    }) {
        let mut case = Case::new(UDP, state, place);
        let slot = case.connection.flows[0].slot;
        let frame = case.connection.frame(1);
        if refuse && place != Place::Unknown {
            let entry = case.rig.link().table.entry(slot);
            let (context, adjacency) = (entry.context(), entry.adjacency());
            case.rig.writer.set_forwarding(slot, context, adjacency, flags::REFUSE_LONGER);
        }
        case.rig.writer.set_proved_length(slot, 29);
        let flying = matches!(state, EntryState::Software | EntryState::Probing | EntryState::Holding);
        let expected = match place {
            Place::Own if flying && refuse => {
                (Verdict::Punt(PuntReason::ProvedLength, PuntEvent::Fingerprint), state)
            }
            Place::Own if flying => {
                (Verdict::Punt(PuntReason::ProvedLength, PuntEvent::Longer), EntryState::Candidate)
            }
            _ if flying => (punt(PuntReason::IngressContext), state),
            _ if state == EntryState::Candidate => (FINGERPRINT, state),
            _ => (punt(PuntReason::Closing), state),
        };
        let verdict = case.decide(&frame);
        assert_eq!((verdict, case.states()[0]), expected, "{state:?} {place:?} {refuse}");
        // Exactly as long as proved is not longer.
        case.rig.writer.set_proved_length(slot, 30);
        case.rig.set_state(case.connection.flows[0], EntryState::Software);
        let expected = if place == Place::Own { Verdict::Fly } else { punt(PuntReason::IngressContext) };
        assert_eq!(case.decide(&frame), expected);
    }
}

#[test]
fn a_plausible_close_stops_both_directions() {
    for (state, flag) in STATES.into_iter().flat_map(|state| [FIN, RST].map(|flag| (state, flag))) {
        let case = Case::new(TCP, state, Place::Own);
        let verdict = case.decide(&case.segment(flag, EXPECTED));
        let expected = match state {
            EntryState::Candidate => (punt(PuntReason::TcpControl), state),
            EntryState::Closing => (punt(PuntReason::Closing), state),
            _ => (Verdict::Punt(PuntReason::TcpControl, PuntEvent::Closing), EntryState::Closing),
        };
        assert_eq!((verdict, case.states()), (expected.0, [expected.1; 2]), "{state:?} {flag:#x}");
    }
}

#[test]
fn a_syn_goes_to_the_kernel_and_stops_nothing() {
    for (state, flags, seq) in STATES
        .into_iter()
        .flat_map(|state| [SYN, SYN | ACK].map(|flags| (state, flags)))
        .flat_map(|(state, flags)| [EXPECTED, EXPECTED ^ 1 << 31].map(|seq| (state, flags, seq)))
    {
        let case = Case::new(TCP, state, Place::Own);
        let expected = match state {
            EntryState::Closing => punt(PuntReason::Closing),
            _ => punt(PuntReason::TcpControl),
        };
        let verdict = case.decide(&case.segment(flags, seq));
        assert_eq!((verdict, case.states()), (expected, [state; 2]), "{state:?} {flags:#x}");
    }
}

#[test]
fn an_implausible_close_is_dropped_and_stops_nothing() {
    let off = [(FIN, EXPECTED.wrapping_sub(1 << 30)), (FIN, EXPECTED + (1 << 25)), (RST, EXPECTED + 1)];
    for (state, (flag, seq)) in STATES.into_iter().flat_map(|state| off.map(|off| (state, off))) {
        let case = Case::new(TCP, state, Place::Own);
        let verdict = case.decide(&case.segment(flag, seq));
        let expected = match state {
            EntryState::Closing => punt(PuntReason::Closing),
            _ => Verdict::Drop(DropReason::ImplausibleClose),
        };
        assert_eq!((verdict, case.states()), (expected, [state; 2]), "{state:?} {flag:#x}");
    }
}

/// Else a forged one would say what those that follow it have to look like, of this end and of the other.
#[test]
fn an_implausible_close_acknowledges_nothing() {
    for state in STATES {
        let case = Case::new(TCP, state, Place::Own);
        let entry = case.rig.link().table.entry(case.connection.flows[0].slot);
        entry.set_last_ack(7);
        entry.touch(3);
        case.decide(&case.segment(FIN, EXPECTED));
        case.decide(&case.segment(RST | ACK, EXPECTED + 1));
        case.decide(&case.segment(SYN | ACK, EXPECTED));
        assert_eq!((entry.last_ack(), entry.last_seen(), case.states()), (7, 3, [state; 2]), "{state:?}");
    }
}

/// A connection that never flew has a strict entry in the kernel, which knows more than a worker.
#[test]
fn the_kernel_judges_closes_of_what_never_flew() {
    let mut case = Case::new(TCP, EntryState::Candidate, Place::Unknown);
    assert_eq!(
        case.decide(&case.segment(RST, EXPECTED + 1)),
        Verdict::Drop(DropReason::ImplausibleClose),
        "the other direction has flown"
    );
    let peer = case.connection.flows[1].slot;
    case.rig.writer.set_forwarding(peer, ContextTable::NONE, crate::flow::AdjacencyId::NONE, 0);
    for (flag, seq) in [(RST, EXPECTED + 1), (FIN, EXPECTED ^ 1 << 31)] {
        assert_eq!(case.decide(&case.segment(flag, seq)), punt(PuntReason::TcpControl), "{flag:#x}");
    }
}

#[test]
fn what_is_acknowledged_on_another_way_judges_no_close() {
    let implausible = EXPECTED.wrapping_sub(1 << 30);
    let case = Case::new(TCP, EntryState::Software, Place::Own);
    // Both ends have been silent for long.
    assert_eq!(
        case.decide_at(&case.segment(FIN, implausible), NOW + 30_000_000),
        Verdict::Drop(DropReason::ImplausibleClose)
    );
    let own = case.rig.link().table.entry(case.connection.flows[0].slot);
    own.touch(NOW + 29_999);
    assert_eq!(case.decide(&case.segment(FIN, implausible)), Verdict::Drop(DropReason::ImplausibleClose));
    own.touch(NOW + 30_000);
    let verdict = case.decide(&case.segment(FIN, implausible));
    assert_eq!(verdict, Verdict::Punt(PuntReason::TcpControl, PuntEvent::Closing));
}

#[test]
fn a_close_from_elsewhere_moves_nothing_and_must_be_exact() {
    for (state, flag) in STATES.into_iter().flat_map(|state| [FIN, RST, SYN].map(|flag| (state, flag))) {
        let case = Case::new(TCP, state, Place::Elsewhere);
        let exact = case.decide(&case.segment(flag, EXPECTED));
        assert_eq!(exact, punt(PuntReason::IngressContext), "{state:?} {flag:#x}");
        let near = case.decide(&case.segment(flag, EXPECTED + 1));
        let expected = if flag == SYN {
            punt(PuntReason::IngressContext)
        } else {
            Verdict::Drop(DropReason::ImplausibleClose)
        };
        assert_eq!((near, case.states()), (expected, [state; 2]), "{state:?} {flag:#x}");
    }
}

#[test]
fn while_nothing_says_where_a_direction_comes_in_a_reset_must_be_exact() {
    let case = Case::new(TCP, EntryState::Candidate, Place::Unknown);
    assert_eq!(case.decide(&case.segment(RST, EXPECTED)), punt(PuntReason::TcpControl));
    assert_eq!(case.decide(&case.segment(RST, EXPECTED + 1)), Verdict::Drop(DropReason::ImplausibleClose));
    assert_eq!(case.decide(&case.segment(FIN, EXPECTED + 1)), punt(PuntReason::TcpControl));
    assert_eq!(case.states(), [EntryState::Candidate; 2]);
}

#[test]
fn acknowledgements_are_remembered_of_packets_from_their_place_alone() {
    for (state, place) in STATES.into_iter().flat_map(|state| PLACES.map(|place| (state, place))) {
        let case = Case::new(TCP, state, place);
        case.decide_at(&case.connection.frame(1), NOW + 5);
        let entry = case.rig.link().table.entry(case.connection.flows[0].slot);
        let remembered = match (state, place) {
            (EntryState::Closing, _) | (_, Place::Elsewhere) => (0, 0),
            (EntryState::Candidate, Place::Unknown) | (_, Place::Own) => (0x2000_0000, NOW + 5),
            (_, Place::Unknown) => (0, 0),
        };
        assert_eq!((entry.last_ack(), entry.last_seen()), remembered, "{state:?} {place:?}");
    }
}

#[test]
fn a_crowded_ring_postpones_the_probe() {
    let mut rig = Rig::with_rings(4, 4);
    let connection = rig.connect(UDP, EntryState::Probing);
    let filler = |rig: &Rig| Punted {
        mbuf: rig.bench.packet(&[0; 60]),
        ingress: Ingress::default(),
        l3: 14,
        reason: PuntReason::NoFlow,
        flow: None,
        event: PuntEvent::None,
    };
    for _ in 0..3 {
        assert!(rig.link().rings.push(PuntClass::Transit, filler(&rig)).is_ok());
    }
    rig.arrive(0, &[connection.frame(1)]);
    rig.rounds();
    assert_eq!(rig.numbers_sent(1), [1], "flies on");
    assert_eq!(rig.state(connection.flows[0]), EntryState::Probing);
    assert_eq!(rig.punted().len(), 3);
    rig.arrive(0, &[connection.frame(2), connection.frame(3)]);
    rig.rounds();
    assert_eq!(numbers(&rig.punted()), [2], "one packet, the others wait for it");
    assert_eq!((rig.state(connection.flows[0]), rig.worker.carrier.held.len()), (EntryState::Holding, 1));
    rig.finish();
}

#[test]
fn a_probe_for_which_there_is_no_room_is_sent_later() {
    let mut rig = Rig::with_rings(1, 1);
    let connection = rig.connect(UDP, EntryState::Probing);
    let flow = connection.flows[0];
    // Another direction's packet of the same burst takes the last place.
    let unknown = Frame::udp("10.0.0.3:1", "10.0.1.3:1").with(|f| f.dst_mac = GATEWAY[0]);
    rig.arrive(0, &[unknown, connection.frame(1)]);
    rig.rounds();
    assert_eq!((rig.state(flow), rig.dropped(DropReason::PuntRingFull)), (EntryState::Probing, 1));
    assert_eq!(rig.count(PuntReason::Probe), 0);
    assert_eq!(rig.punted().len(), 1);
    rig.arrive(0, &[connection.frame(2)]);
    rig.rounds();
    assert_eq!((numbers(&rig.punted()), rig.state(flow)), (vec![2], EntryState::Holding));
    rig.finish();
}

#[test]
fn undo_moves_nothing_else_back() {
    let mut rig = Rig::new();
    let connection = rig.connect(UDP, EntryState::Holding);
    let flow = connection.flows[0];
    let others =
        [PuntEvent::None, PuntEvent::Fingerprint, PuntEvent::Closing, PuntEvent::Longer, PuntEvent::Lost];
    for event in others {
        decide::undo(rig.link(), Some(flow), event);
    }
    decide::undo(rig.link(), None, PuntEvent::Probe);
    let stale = FlowRef { generation: flow.generation.wrapping_add(1), ..flow };
    decide::undo(rig.link(), Some(stale), PuntEvent::Probe);
    assert_eq!(rig.state(flow), EntryState::Holding);
    rig.set_state(flow, EntryState::Candidate);
    decide::undo(rig.link(), Some(flow), PuntEvent::Probe);
    assert_eq!(rig.state(flow), EntryState::Candidate, "control has moved it meanwhile");
    rig.set_state(flow, EntryState::Holding);
    decide::undo(rig.link(), Some(flow), PuntEvent::Probe);
    assert_eq!(rig.state(flow), EntryState::Probing);
}
