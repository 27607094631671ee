//! A burst of packets of both families does what its packets would do one by one.

use proptest::prelude::*;

use super::*;
use crate::flow::{TCP, UDP};

const VERSIONS: [Version; 2] = [Version::V4, Version::V6];

/// What arrives: a packet of one of the connections, and how it differs from a plain one.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    connection: usize,
    reply: bool,
    odd: Oddity,
    mark: Marking,
}

/// What the NIC has marked a packet with.
#[derive(Clone, Copy, Debug)]
enum Marking {
    No,
    /// The mark of a direction: of its own as a rule.
    Of(usize, bool),
    Any(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Oddity {
    None,
    Padded,
    LastHop,
    Tagged,
    Stranger,
    CutShort,
}

impl Arrival {
    fn frame(self, connections: &[Connection], number: u16) -> Frame {
        let connection = &connections[self.connection];
        let frame = if self.reply { connection.answer(number) } else { connection.frame(number) };
        match self.odd {
            Oddity::None => frame,
            Oddity::Padded => frame.with(|f| f.padding = vec![0xee; 3]),
            Oddity::LastHop => frame.with(|f| f.ttl = 1),
            Oddity::Tagged => frame.vlan(9),
            Oddity::Stranger => frame.with(|f| (f.tuple.sport, f.tuple.dport) = (7, 7)),
            Oddity::CutShort => frame.with(|f| f.faults.truncate = Some(40)),
        }
    }

    fn mark(self, connections: &[Connection]) -> Option<u32> {
        match self.mark {
            Marking::No => None,
            Marking::Of(connection, reply) => {
                Mark::of(connections[connection].flows[usize::from(reply)].slot).map(Mark::to_bits)
            }
            Marking::Any(mark) => Some(mark),
        }
    }

    /// Whether its mark leads to its entry.
    fn is_found(self, connections: &[Connection]) -> bool {
        let own = Marking::Of(self.connection, self.reply);
        matches!(self.odd, Oddity::None | Oddity::Padded | Oddity::Tagged)
            && self.mark(connections) == Self { mark: own, ..self }.mark(connections)
    }
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let odd = prop_oneof![
        12 => Just(Oddity::None),
        2 => Just(Oddity::Padded),
        1 => Just(Oddity::LastHop),
        1 => Just(Oddity::Tagged),
        1 => Just(Oddity::Stranger),
        1 => Just(Oddity::CutShort),
    ];
    let connection = || (0..2 * STATES.len(), any::<bool>());
    let mark = prop_oneof![
        3 => Just(None),
        1 => connection().prop_map(|(connection, reply)| Some(Marking::Of(connection, reply))),
        1 => any::<u32>().prop_map(|mark| Some(Marking::Any(mark))),
        1 => (0..200u32).prop_map(|mark| Some(Marking::Any(mark))),
    ];
    let one = (connection(), odd, any::<bool>(), mark);
    let arrival = one.prop_map(|((connection, reply), odd, plain, mark)| {
        let own = if plain { Marking::No } else { Marking::Of(connection, reply) };
        Arrival { connection, reply, odd, mark: mark.unwrap_or(own) }
    });
    // Runs of one family too, which are taken together.
    let run = (arrival, 1..20_usize).prop_map(|(arrival, count)| vec![arrival; count]);
    prop::collection::vec(run, 1..20).prop_map(|runs| runs.concat())
}

/// Of the connections of each family.
const STATES: [(u8, EntryState); 4] = [
    (UDP, EntryState::Software),
    (TCP, EntryState::Software),
    (UDP, EntryState::Candidate),
    (TCP, EntryState::Closing),
];

/// What becomes of packets.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// What leaves each port, in order.
    sent: [Vec<Vec<u8>>; 2],
    /// What goes to the kernel, and why: no order among those that are refused while parsing and those that are not.
    punted: Vec<(Vec<u8>, PuntReason)>,
    /// Packets and bytes of each direction.
    counts: Vec<(u64, u64)>,
}

/// Lets packets arrive, so many at a time, at ports with marks or without.
fn outcome(arrivals: &[Arrival], at_once: usize, marks: bool) -> (Outcome, [Vec<Vec<u8>>; 2]) {
    let mut rig = Rig::new();
    let each = VERSIONS.into_iter().flat_map(|version| STATES.map(|(proto, state)| (version, proto, state)));
    let connections: Vec<Connection> =
        each.map(|(version, proto, state)| rig.connect_over(version, proto, state)).collect();
    let (mut sent, mut punted) = ([Vec::new(), Vec::new()], Vec::new());
    let mut expected = [Vec::new(), Vec::new()];
    for (part, arrivals) in arrivals.chunks(at_once).enumerate() {
        for (at, arrival) in arrivals.iter().enumerate() {
            let frame = arrival.frame(&connections, (part * at_once + at) as u16);
            if marks {
                rig.arrive_marked(arrival.reply.into(), &frame, arrival.mark(&connections));
            } else {
                rig.arrive(arrival.reply.into(), std::slice::from_ref(&frame));
            }
            let flies = matches!(arrival.odd, Oddity::None | Oddity::Padded)
                && STATES[arrival.connection % STATES.len()].1 == EntryState::Software;
            if flies {
                let leaves = forwarded(&frame, &connections[arrival.connection]);
                expected[usize::from(!arrival.reply)].push(leaves.build());
            }
        }
        rig.rounds();
        for (port, sent) in sent.iter_mut().enumerate() {
            sent.append(&mut rig.sent(port));
        }
        punted.extend(rig.punted().iter().map(|packet| (packet.mbuf.data().to_vec(), packet.reason)));
    }
    punted.sort();
    let found = arrivals.iter().filter(|arrival| marks && arrival.is_found(&connections)).count() as u64;
    assert_eq!(rig.marked().0, found, "lookups skipped");
    let entries = connections.iter().flat_map(|connection| connection.flows);
    let counts = entries.map(|flow| rig.link().table.entry(flow.slot));
    let counts = counts.map(|entry| (entry.packets(), entry.bytes())).collect();
    rig.finish();
    (Outcome { sent, punted, counts }, expected)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_burst_does_what_its_packets_do_one_by_one(arrivals in arrivals()) {
        let (together, expected) = outcome(&arrivals, 180, false);
        prop_assert_eq!(&together.sent, &expected);
        prop_assert_eq!(&together, &outcome(&arrivals, 1, false).0);
        prop_assert_eq!(&together, &outcome(&arrivals, 180, true).0);
        prop_assert_eq!(&together, &outcome(&arrivals, 1, true).0);
    }
}

/// Where a table is as full as it gets, keys lie beside and away from where they belong.
#[test]
fn every_connection_of_a_full_table_is_found_in_bursts_of_any_size() {
    for version in VERSIONS {
        let mut rig = Rig::with_room(3000, CONTROL_RING, TRANSIT_RING);
        let connections: Vec<Connection> =
            (0..3000).map(|_| rig.connect_over(version, UDP, EntryState::Software)).collect();
        let (mut size, mut rest) = (1, &connections[..]);
        while !rest.is_empty() {
            let (some, others) = rest.split_at(size.min(rest.len()));
            let frames: Vec<Frame> = some.iter().map(|connection| connection.frame(1)).collect();
            rig.arrive(0, &frames);
            rig.rounds();
            let expected: Vec<_> = some
                .iter()
                .zip(&frames)
                .map(|(connection, frame)| forwarded(frame, connection).build())
                .collect();
            assert_eq!(rig.sent(1), expected);
            (size, rest) = (size % BURST + 1, others);
        }
        rig.finish();
    }
}
