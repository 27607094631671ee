//! The parts of the path by themselves, each beside its peer: a lookup beside `rte_hash` in bulk and hashbrown, a
//! rewrite beside a copy.

use std::hint::black_box;

use dataplane::dpdk::tsc;
use dataplane::flow::{EntryView, Key, Key4, Lookup, MAX_BURST, Placement, Slot};
use dataplane::packet::{Outline, Rewrite4, parse_plain4, write_l2};

use crate::error::Error;
use crate::flows::{Family, Flows, Nat, Random};
use crate::gateway::Gateway;
use crate::machine::dependent_add;
use crate::measure::{Contender, Effort, Outcome, interleave, median};
use crate::peer::{BULK, Peer4, RteHash};
use crate::report::Row;

const FLOWS: Flows = Flows { family: Family::V4, nat: Nat::Snat };
const BURST: usize = MAX_BURST;

/// Anything that does a burst of operations.
struct Work<F>(F);

impl<F: FnMut()> Contender for Work<F> {
    fn round(&mut self) -> usize {
        (self.0)();
        BURST
    }
}

/// Draws keys without touching memory.
struct Drawn {
    random: Random,
    connections: u32,
    keys: [Key4; BURST],
}

impl Drawn {
    fn new(connections: u32) -> Self {
        Self { random: Random(tsc()), connections, keys: [Key4::default(); BURST] }
    }

    #[inline(always)]
    fn draw(&mut self) -> &[Key4; BURST] {
        for key in &mut self.keys {
            let number = self.random.below(2 * self.connections);
            // Both computed, and chosen without a branch, which would be mispredicted.
            let both = [FLOWS.key4(number >> 1, false), FLOWS.key4(number >> 1, true)];
            *key = both[(number & 1) as usize];
        }
        &self.keys
    }
}

fn row(name: &str, connections: u32, outcome: &Outcome, at: usize, drawing: Option<usize>) -> Row {
    let cost = |at: usize| outcome.costs.get(at).cloned().unwrap_or_default();
    let drawn = drawing.map_or(0.0, |at| cost(at).median);
    let mut net = cost(at);
    for value in [&mut net.median, &mut net.min, &mut net.max] {
        *value -= drawn;
    }
    let mut row = Row::new(name, connections.into(), &net);
    (row.clean, row.undisturbed) = (outcome.clean, outcome.undisturbed);
    row
}

/// Lookups with and without counting, beside `rte_hash` in bulk and, where it is not too large, hashbrown. The cost of
/// drawing the keys, which all have, is taken off.
pub fn lookup(connections: u32, effort: Effort) -> Result<Vec<Row>, Error> {
    let gateway = Gateway::with_flows(FLOWS, connections, Placement::default())?;
    let mut peer = RteHash::new(2 * connections)?;
    let mut map = hashbrown::HashMap::with_capacity(2 * connections as usize);
    for number in 0..connections {
        for reply in [false, true] {
            let key = FLOWS.key4(number, reply);
            peer.insert(&Peer4::new(&key))?;
            map.insert(key, number);
        }
    }
    let mut drawn = Drawn::new(connections);
    let mut drawing = Work(move || {
        black_box(drawn.draw());
    });
    let table = &*gateway.table;
    let look_up = |drawn: &mut Drawn, lookup: &mut Lookup, found: &mut [Option<Slot>; BURST]| {
        table.lookup4(drawn.draw(), lookup, found);
    };
    let (mut drawn, mut state, mut found) = (Drawn::new(connections), Lookup::default(), [None; BURST]);
    let mut plain = Work(move || {
        look_up(&mut drawn, &mut state, &mut found);
        black_box(&found);
    });
    let (mut drawn, mut state, mut found) = (Drawn::new(connections), Lookup::default(), [None; BURST]);
    let mut counted = Work(move || {
        look_up(&mut drawn, &mut state, &mut found);
        for slot in found.iter().flatten() {
            table.entry4(*slot).count(64, 1);
        }
    });
    let (mut drawn, peer) = (Drawn::new(connections), &peer);
    let mut bulk = Work(move || {
        for part in drawn.draw().chunks(BULK) {
            let mut keys = [Peer4::default(); BULK];
            for (place, key) in keys.iter_mut().zip(part) {
                *place = Peer4::new(key);
            }
            black_box(peer.look_up(&keys));
        }
    });
    let (mut drawn, map) = (Drawn::new(connections), &map);
    let mut brown = Work(move || {
        for key in drawn.draw() {
            black_box(map.get(key));
        }
    });
    let contenders: &mut [&mut dyn Contender] =
        &mut [&mut counted, &mut plain, &mut bulk, &mut brown, &mut drawing];
    let outcome = interleave(contenders, effort);
    let bulk = row("rte_hash", connections, &outcome, 2, Some(4)).cycles_per_packet.median;
    let brown = row("hashbrown", connections, &outcome, 3, Some(4)).cycles_per_packet.median;
    let mut rows = Vec::new();
    for (name, at) in [("micro.lookup.counted", 0), ("micro.lookup", 1)] {
        let mut row = row(name, connections, &outcome, at, Some(4));
        row.set_peer("rte_hash bulk", bulk);
        row.yardsticks.insert("hashbrown".to_owned(), brown);
        row.pages = format!("{:?}", table.page_kind()).to_lowercase();
        rows.push(row);
    }
    Ok(rows)
}

/// Pairs of entries put in and taken out of a table of that size, beside `rte_hash` with two keys each.
pub fn change(connections: u32) -> Result<Vec<Row>, Error> {
    const BATCH: u32 = 4096;
    const REPETITIONS: u32 = 31;
    let room = connections + BATCH;
    let mut gateway = Gateway::with_flows(FLOWS, room, Placement::default())?;
    let mut peer = RteHash::new(2 * room)?;
    for number in 0..room {
        for reply in [false, true] {
            peer.insert(&Peer4::new(&FLOWS.key4(number, reply)))?;
        }
    }
    let mut random = Random(tsc());
    let mut samples: [Vec<f64>; 5] = Default::default();
    for _ in 0..REPETITIONS {
        // Other connections each time, so that their lines are cold.
        let first = random.below(connections);
        let numbers = first..first + BATCH;
        let mut timed = |at: usize, work: &mut dyn FnMut() -> Result<(), Error>| -> Result<(), Error> {
            let start = tsc();
            work()?;
            samples[at].push((tsc() - start) as f64 / f64::from(BATCH));
            Ok(())
        };
        timed(1, &mut || {
            for number in numbers.clone() {
                let keys = [false, true].map(|reply| gateway.table.lookup(&FLOWS.key(number, reply)));
                if let [Some(orig), Some(reply)] = keys {
                    let flows = [orig, reply].map(|slot| gateway.table.reference(slot));
                    gateway.writer.remove_pair(flows);
                }
            }
            Ok(())
        })?;
        while gateway.writer.reclaim() > 0 {}
        timed(0, &mut || {
            for number in numbers.clone() {
                gateway.writer.insert_pair(&FLOWS.key(number, false), &FLOWS.key(number, true), number)?;
            }
            Ok(())
        })?;
        let keys = |number| [false, true].map(|reply| Peer4::new(&FLOWS.key4(number, reply)));
        timed(3, &mut || {
            numbers.clone().flat_map(keys).for_each(|key| peer.remove(&key));
            Ok(())
        })?;
        timed(2, &mut || numbers.clone().flat_map(keys).try_for_each(|key| peer.insert(&key)))?;
        samples[4].push(dependent_add());
    }
    let clean = median(&mut samples[4]);
    let figure = |samples: &mut [Vec<f64>; 5], at: usize| {
        let median = median(&mut samples[at]);
        let (min, max) = (samples[at].first(), samples[at].last());
        crate::measure::Cost { median, min: min.copied().unwrap_or(0.0), max: max.copied().unwrap_or(0.0) }
    };
    let mut rows = Vec::new();
    for (name, at) in [("micro.insert.pair", 0), ("micro.remove.pair", 1)] {
        let mut row = Row::new(name, connections.into(), &figure(&mut samples, at));
        row.set_peer("rte_hash, two keys", figure(&mut samples, at + 2).median);
        (row.clean, row.undisturbed) = (clean, clean < crate::measure::CLEAN);
        rows.push(row);
    }
    Ok(rows)
}

/// A UDP frame of 64 bytes with its checksum, as the source makes them.
fn frame() -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 0x10, 2, 0, 0, 0, 0, 1, 8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 93, 184, 216, 0]);
    frame[34..42].copy_from_slice(&[0x80, 0, 1, 0xbb, 0, 26, 0x5a, 0x5a]);
    let sum = dataplane::packet::checksum::compute(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_ne_bytes());
    frame
}

/// Parsing, hashing and rewriting, in cache, beside a copy of the frame.
pub fn parts(effort: Effort) -> Result<Vec<Row>, Error> {
    let mut frames = [frame(); BURST];
    let mut copies = frames;
    let mut known = [(Key4::default(), Outline::default()); BURST];
    let mut parse = Work(move || {
        for (frame, known) in frames.iter().zip(&mut known) {
            if let Some(parsed) = parse_plain4(black_box(frame), 0) {
                *known = parsed;
            }
        }
        black_box(&known);
    });
    let mut copy = Work(move || {
        for (copy, frame) in copies.iter_mut().zip(black_box(&frames)) {
            *copy = *frame;
        }
        black_box(&copies);
    });
    let to = |key: Key| if let Key::V4(key) = key { key } else { Key4::default() };
    let [from, into] = [FLOWS.key(1, false), FLOWS.key(1, true).inverted()].map(to);
    let change = Rewrite4::between(&from, &into, true);
    let header = [2; 14];
    let mut rewrite = Work(move || {
        let change = black_box(&change);
        for frame in &mut frames {
            let done = frame.get_mut(14..).is_some_and(|packet| change.apply(packet));
            black_box(done && write_l2(frame, &header, None, 46));
        }
        black_box(&frames);
    });
    let gateway = Gateway::with_flows(FLOWS, 1000, Placement::default())?;
    let keys = Drawn::new(1000).draw().to_owned();
    let (table, mut state) = (&*gateway.table, Lookup::default());
    let mut hash = Work(move || {
        table.prepare4(black_box(&keys), &mut state);
        black_box(&state);
    });
    let outcome = interleave(&mut [&mut parse, &mut hash, &mut rewrite, &mut copy], effort);
    let copied = outcome.costs.get(3).cloned().unwrap_or_default().median;
    let rows = [("micro.parse", 0), ("micro.hash", 1), ("micro.rewrite", 2)].map(|(name, at)| {
        let mut row = row(name, 1, &outcome, at, None);
        row.set_peer("copy of the frame", copied);
        row
    });
    Ok(rows.into())
}
