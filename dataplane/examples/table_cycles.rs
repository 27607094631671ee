//! What a lookup costs: bursts of random connections, their entries counted, in TSC cycles a key.
//!
//! `cargo run --release -p dataplane --example table_cycles [-- CONNECTIONS...]`. Keys are drawn uniformly at random from both
//! directions of all connections, computed from their number (not read from memory); `drawing` is what that costs alone,
//! `lookup` is net of it. `add` is the machine's state: cycles a dependent addition, 0.7 when nobody else runs.

use std::hint::black_box;
use std::time::Instant;

use dataplane::flow::{
    EntryView, FlowTable, Key, Key4, Key6, Lookup, MAX_BURST, Placement, Slot, TableConfig, TableWriter, UDP,
};

const ROUNDS: usize = 15;
const LOOKUPS: usize = 1 << 20;

/// Cycles a nanosecond: the kernel gives twice the TSC's megahertz as "bogomips" on x86.
fn tsc_per_ns() -> f64 {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line =
        info.lines().find_map(|line| line.strip_prefix("bogomips")?.split(':').nth(1)?.trim().parse().ok());
    line.map_or(1.0, |bogomips: f64| bogomips / 2000.0)
}

/// SplitMix64: cheap, and each number is independent of the one before.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ z >> 31
    }
}

/// A key of direction `number & 1` of connection `number >> 1`: source NAT to one address.
trait Numbered: Copy + Default {
    fn of(number: u32) -> Self;
    fn key(self) -> Key;
    /// The first so many of the three stages.
    fn look_up(
        stages: u32,
        table: &FlowTable,
        keys: &[Self],
        lookup: &mut Lookup,
        found: &mut [Option<Slot>],
    );
    fn count(table: &FlowTable, slot: Slot);
}

impl Numbered for Key4 {
    #[inline(always)]
    fn of(number: u32) -> Self {
        // Without branches, whose misprediction would be counted.
        let (connection, reply) = (number >> 1, (number & 1).wrapping_neg());
        let (client, server, public) = (0x0a ^ connection << 8, 0x0102_0304, 0xc6 ^ connection << 8);
        let (port, service) = (connection >> 16, 0x3500);
        Self {
            src: client & !reply | server & reply,
            dst: server & !reply | public & reply,
            ports: (port | service << 16).rotate_left(16 & reply),
            proto: UDP.into(),
        }
    }

    fn key(self) -> Key {
        Key::V4(self)
    }

    #[inline(always)]
    fn look_up(
        stages: u32,
        table: &FlowTable,
        keys: &[Self],
        lookup: &mut Lookup,
        found: &mut [Option<Slot>],
    ) {
        table.prepare4(keys, lookup);
        if stages > 1 {
            table.match4(lookup);
        }
        if stages > 2 {
            table.confirm4(keys, lookup, found);
        }
    }

    #[inline(always)]
    fn count(table: &FlowTable, slot: Slot) {
        table.entry4(slot).count(64, 1);
    }
}

impl Numbered for Key6 {
    #[inline(always)]
    fn of(number: u32) -> Self {
        let (client, server) = ([0xb80d_0120, u64::from(number >> 1)], [0xb80d_0120, 1 << 63]);
        let ports = 0x3500_3930;
        if number & 1 == 0 {
            Self { src: client, dst: server, ports, proto: UDP.into() }
        } else {
            Self { src: server, dst: client, ports: 0x3930_3500, proto: UDP.into() }
        }
    }

    fn key(self) -> Key {
        Key::V6(self)
    }

    #[inline(always)]
    fn look_up(
        stages: u32,
        table: &FlowTable,
        keys: &[Self],
        lookup: &mut Lookup,
        found: &mut [Option<Slot>],
    ) {
        table.prepare6(keys, lookup);
        if stages > 1 {
            table.match6(lookup);
        }
        if stages > 2 {
            table.confirm6(keys, lookup, found);
        }
    }

    #[inline(always)]
    fn count(table: &FlowTable, slot: Slot) {
        table.entry6(slot).count(64, 1);
    }
}

fn draw<K: Numbered>(random: &mut Random, directions: u32, keys: &mut [K]) {
    for key in keys {
        *key = K::of((((random.next() >> 32) * u64::from(directions)) >> 32) as u32);
    }
}

/// The least and the median of some rounds.
#[derive(Clone, Copy)]
struct Cost {
    least: f64,
    median: f64,
}

/// Cycles a call.
fn cycles(per_ns: f64, calls: usize, mut work: impl FnMut()) -> Cost {
    let round = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64 * per_ns / calls as f64
    };
    let mut costs: Vec<f64> = (0..ROUNDS).map(round).collect();
    costs.sort_by(f64::total_cmp);
    Cost { least: costs[0], median: costs[ROUNDS / 2] }
}

/// Cycles to write to a random cache line out of as many as a table of this size has entries, in bursts of 32.
fn random_line(directions: u32, per_ns: f64) -> Cost {
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line([u64; 8]);
    let count = directions / 3 * 4;
    let mut lines = vec![Line([0; 8]); count as usize];
    lines.iter_mut().for_each(|line| line.0[0] = 1);
    let mut random = Random(7);
    cycles(per_ns, LOOKUPS, || {
        for _ in 0..LOOKUPS / 32 {
            // Independent read-modify-writes: the processor overlaps them by itself.
            for _ in 0..32 {
                let index = (((random.next() >> 32) * u64::from(count)) >> 32) as usize;
                lines[index].0[1] += 1;
            }
        }
        black_box(&lines);
    })
}

fn dependent_add(per_ns: f64) -> f64 {
    const ADDITIONS: u64 = 1 << 22;
    let cost = cycles(per_ns, ADDITIONS as usize, || {
        let mut sum = 1u64;
        for _ in 0..ADDITIONS {
            sum = black_box_register(sum);
        }
        black_box(sum);
    });
    cost.median
}

/// One multiplication-free step that the compiler can't fold: a rotation and an addition are two dependent operations.
#[inline(always)]
fn black_box_register(value: u64) -> u64 {
    value.rotate_left(1).wrapping_add(1)
}

fn fill<K: Numbered>(writer: &mut TableWriter, connections: u32, per_ns: f64) -> f64 {
    let start = Instant::now();
    let pair = |number: u32| [2 * number, 2 * number + 1].map(|number| K::of(number).key());
    for number in 0..connections {
        // As control does with a batch of events.
        let [orig, reply] = pair(number + 8);
        writer.prefetch_pair(&orig, &reply);
        let [orig, reply] = pair(number);
        if let Err(error) = writer.insert_pair(&orig, &reply, number) {
            println!("connection {number}: {error}");
            break;
        }
    }
    start.elapsed().as_nanos() as f64 * per_ns / f64::from(connections)
}

fn measure<K: Numbered>(family: &str, connections: u32, placement: Placement, per_ns: f64) {
    let config = TableConfig { ipv6_share: 100, placement, ..TableConfig::new(connections as usize) };
    let (table, mut writer) = match FlowTable::create(config) {
        Ok(made) => made,
        Err(error) => return println!("{connections}: {error}"),
    };
    let reader = match table.qsbr().register() {
        Ok(reader) => reader,
        Err(error) => return println!("{error}"),
    };
    let inserted = fill::<K>(&mut writer, connections, per_ns);
    let mut random = Random(Instant::now().elapsed().as_nanos() as u64 ^ 0x5eed);
    for size in [32, MAX_BURST] {
        let (mut keys, mut found) = ([K::default(); MAX_BURST], [None; MAX_BURST]);
        let (keys, found) = (&mut keys[..size], &mut found[..size]);
        let drawing = cycles(per_ns, LOOKUPS, || {
            for _ in 0..LOOKUPS / size {
                draw(&mut random, 2 * connections, keys);
                black_box(&keys);
            }
        });
        let line = random_line(2 * connections, per_ns);
        let mut lookup = Lookup::default();
        let mut missed = 0;
        let before = dependent_add(per_ns);
        let mut looking = |stages: u32| {
            cycles(per_ns, LOOKUPS, || {
                for _ in 0..LOOKUPS / size {
                    draw(&mut random, 2 * connections, keys);
                    K::look_up(stages, &table, keys, &mut lookup, found);
                    if stages > 3 {
                        for slot in found.iter() {
                            match slot {
                                Some(slot) => K::count(&table, *slot),
                                None => missed += 1,
                            }
                        }
                    }
                    black_box((&lookup, &found));
                    reader.quiescent();
                }
            })
        };
        let [hash, tags, keys, whole] = [1, 2, 3, 4].map(&mut looking);
        let add = f64::max(before, dependent_add(per_ns));
        println!(
            "{family} {connections:>9} burst {size}: lookup {:6.1} (least {:6.1}: hash {:.1} tags {:.1} keys {:.1} count {:.1})  \
             drawing {:4.1}  line {:5.1} (least {:5.1})  insert pair {inserted:6.0}  missed {missed}  add {add:.2}  {} {:?}",
            whole.median - drawing.median,
            whole.least - drawing.least,
            hash.least - drawing.least,
            tags.least - hash.least,
            keys.least - tags.least,
            whole.least - keys.least,
            drawing.median,
            line.median,
            line.least,
            table.kernel(),
            table.page_kind(),
        );
    }
}

fn main() {
    let per_ns = tsc_per_ns();
    let mut sizes: Vec<u32> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1_000, 65_536, 1 << 20, 1 << 22];
    }
    for huge_pages in [true, false] {
        for &connections in &sizes {
            let placement = Placement { huge_pages, numa_node: None };
            measure::<Key4>("ipv4", connections, placement, per_ns);
        }
    }
    for &connections in &sizes {
        measure::<Key6>("ipv6", connections, Placement::default(), per_ns);
    }
}
