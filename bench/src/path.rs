//! The whole path: the real worker between a cheap source and net_null, beside three yardsticks on the same source.

use std::sync::Arc;

use dataplane::dpdk::{Burst, RxQueue, TxQueue};
use dataplane::flow::{Key4, Key6, TableConfig, UDP, WorkerCounters};
use dataplane::packet::{Rewrite4, write_l2};
use dataplane::worker::Worker;

use crate::error::Error;
use crate::flows::{Family, Flows, Nat};
use crate::gateway::{Gateway, Ports, QueuePairs};
use crate::measure::{Contender, Effort, Outcome, interleave};
use crate::peer::{BULK, Peer4, Peer6, PeerKey, RteHash};
use crate::report::Row;
use crate::source::{Draw, Marking, Sizes, Traffic, feed};

/// One line of the results.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, without "path.".
    pub name: &'static str,
    /// Whose packets.
    pub flows: Flows,
    /// Connections in the table.
    pub connections: u32,
    /// How they are drawn.
    pub draw: Draw,
    /// Packets in a thousand that miss.
    pub strangers: u32,
    /// Frame lengths.
    pub sizes: Sizes,
}

impl Scenario {
    /// IPv4, source NAT, uniform, 64 bytes, all hits.
    pub const fn plain(connections: u32) -> Self {
        Self {
            name: "ipv4.snat.uniform",
            flows: Flows { family: Family::V4, nat: Nat::Snat },
            connections,
            draw: Draw::Uniform,
            strangers: 0,
            sizes: Sizes::Fixed(64),
        }
    }

    /// The same over IPv6.
    pub const fn plain6(connections: u32) -> Self {
        let flows = Flows { family: Family::V6, nat: Nat::Snat };
        Self { name: "ipv6.snat.uniform", flows, ..Self::plain(connections) }
    }

    fn traffic(&self, reply: bool) -> Traffic {
        let Self { flows, connections, draw, strangers, sizes, .. } = *self;
        Traffic { flows, reply, connections, draw, strangers, sizes, marks: Marking::None }
    }

    /// Takes queues, and has packets of this scenario come in on them.
    pub fn queues(&self, ports: &mut Ports, seed: u64) -> Result<QueuePairs, Error> {
        self.marked_queues(ports, seed, [Marking::None; 2])
    }

    /// The same, with marks of the original direction and of the reply.
    pub fn marked_queues(
        &self,
        ports: &mut Ports,
        seed: u64,
        marks: [Marking; 2],
    ) -> Result<QueuePairs, Error> {
        let queues = ports.queues()?;
        let directions = [(false, seed), (true, seed ^ 0x5eed)];
        for (((rx, _), (reply, seed)), marks) in queues.iter().zip(directions).zip(marks) {
            feed(rx, Traffic { marks, ..self.traffic(reply) }, seed)?;
        }
        Ok(queues)
    }
}

/// The scenarios of the long run beyond the four plain ones.
pub fn more() -> Vec<Scenario> {
    let plain = Scenario::plain(1 << 20);
    let v6 = |nat| Flows { family: Family::V6, nat };
    let v4 = |nat| Flows { family: Family::V4, nat };
    vec![
        Scenario { connections: 1 << 24, ..plain },
        Scenario { name: "ipv4.dnat.uniform", flows: v4(Nat::Dnat), ..plain },
        Scenario { name: "ipv4.route.uniform", flows: v4(Nat::Route), ..plain },
        Scenario { name: "ipv4.snat.zipf", draw: Draw::Zipf, ..plain },
        Scenario { name: "ipv4.snat.imix", sizes: Sizes::Imix, ..plain },
        Scenario { name: "ipv4.snat.1500", sizes: Sizes::Fixed(1518), ..plain },
        Scenario { name: "ipv4.snat.hits99", strangers: 10, ..plain },
        Scenario { name: "ipv6.route.uniform", flows: v6(Nat::Route), connections: 65_536, ..plain },
        Scenario { name: "ipv6.route.uniform", flows: v6(Nat::Route), ..plain },
        Scenario::plain6(1 << 20),
        Scenario { name: "ipv6.snat.hits99", flows: v6(Nat::Snat), strangers: 10, ..plain },
    ]
}

/// Receives and sends.
struct Io {
    queues: QueuePairs,
    burst: Burst,
}

/// Receives from one port, does something to the packets, sends them to the other.
#[inline(always)]
fn forward(queues: &mut QueuePairs, burst: &mut Burst, mut touch: impl FnMut(&mut Burst)) -> usize {
    let [(rx0, tx0), (rx1, tx1)] = queues;
    let mut carry = |rx: &mut RxQueue, tx: &mut TxQueue| {
        let count = rx.burst(burst);
        touch(burst);
        tx.burst(burst);
        burst.clear();
        count
    };
    carry(rx0, tx1) + carry(rx1, tx0)
}

impl Contender for Io {
    fn round(&mut self) -> usize {
        forward(&mut self.queues, &mut self.burst, |_| ())
    }
}

/// Rewrites every header, without looking anything up.
struct Swap {
    queues: QueuePairs,
    burst: Burst,
    rewrite: Rewrite4,
}

impl Swap {
    fn new(scenario: &Scenario, ports: &mut Ports, seed: u64) -> Result<Self, Error> {
        let rewrite = Rewrite4 { src: 1, dst: 2, ports: 3, ip_delta: 4, l4_delta: 5, decrement_ttl: true };
        Ok(Self { queues: scenario.queues(ports, seed)?, burst: Burst::new(), rewrite })
    }
}

const HEADER: [u8; 14] = [2, 0, 0, 1, 0, 1, 2, 0, 0, 0, 0, 0x10, 8, 0];

impl Contender for Swap {
    fn round(&mut self) -> usize {
        let rewrite = &self.rewrite;
        forward(&mut self.queues, &mut self.burst, |burst| {
            for packet in burst.iter_mut() {
                let data = packet.data_mut();
                let length = data.len() as u16 - 14;
                let done = data.get_mut(14..).is_some_and(|l3| rewrite.apply(l3))
                    && write_l2(data, &HEADER, None, length);
                std::hint::black_box(done);
            }
        })
    }
}

/// Looks up in `rte_hash` and does nothing with the answer.
struct IoHash<K: PeerKey> {
    queues: QueuePairs,
    burst: Burst,
    hash: RteHash<K>,
    read: fn(&[u8]) -> K,
    packets: usize,
    found: usize,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[inline(always)]
fn read4(frame: &[u8]) -> Peer4 {
    let number = |at| u32::from_ne_bytes(word(frame, at));
    Peer4::new(&Key4 { src: number(26), dst: number(30), ports: number(34), proto: UDP.into() })
}

#[inline(always)]
fn read6(frame: &[u8]) -> Peer6 {
    let number = |at| u64::from_ne_bytes(word(frame, at));
    let ports = u32::from_ne_bytes(word(frame, 54));
    Peer6::new(&Key6 {
        src: [number(22), number(30)],
        dst: [number(38), number(46)],
        ports,
        proto: UDP.into(),
    })
}

impl<K: PeerKey> Contender for IoHash<K> {
    fn round(&mut self) -> usize {
        let (hash, read, found) = (&self.hash, self.read, &mut self.found);
        let packets = forward(&mut self.queues, &mut self.burst, |burst| {
            for part in burst.chunks(BULK) {
                let mut keys = [K::default(); BULK];
                for (key, packet) in keys.iter_mut().zip(part) {
                    *key = read(packet.data());
                }
                *found += hash.look_up(keys.get(..part.len()).unwrap_or(&keys));
            }
        });
        self.packets += packets;
        packets
    }
}

impl<K: PeerKey> IoHash<K> {
    fn new(scenario: &Scenario, ports: &mut Ports, seed: u64, read: fn(&[u8]) -> K) -> Result<Self, Error> {
        let mut hash = RteHash::new(2 * scenario.connections)?;
        for number in 0..scenario.connections {
            for reply in [false, true] {
                if let Some(key) = K::of(&scenario.flows.key(number, reply)) {
                    hash.insert(&key)?;
                }
            }
        }
        let queues = scenario.queues(ports, seed)?;
        Ok(Self { queues, burst: Burst::new(), hash, read, packets: 0, found: 0 })
    }

    /// Every packet's key was looked for and found, but for the strangers.
    fn check(&self, strangers: u32) -> Result<(), Error> {
        let most = (self.packets as u64 * u64::from(1000 - strangers)) / 1000;
        if (self.found as u64) < most - most / 100 {
            let text = format!("{} of {} keys found", self.found, self.packets);
            return Err(Error::Wrong("io+rte_hash".to_owned(), text));
        }
        Ok(())
    }
}

/// The worker.
struct Whole {
    worker: Worker,
    counters: Arc<WorkerCounters>,
    gateway: Gateway,
    packets: usize,
}

impl Contender for Whole {
    fn round(&mut self) -> usize {
        let packets = self.worker.round();
        self.packets += packets;
        packets
    }

    fn between(&mut self) {
        self.gateway.drain();
    }
}

impl Whole {
    fn new(scenario: &Scenario, ports: &mut Ports, seed: u64) -> Result<Self, Error> {
        Self::with_config(scenario, ports, seed, TableConfig::new(scenario.connections as usize))
    }

    fn with_config(
        scenario: &Scenario,
        ports: &mut Ports,
        seed: u64,
        config: TableConfig,
    ) -> Result<Self, Error> {
        let gateway = Gateway::with_config(scenario.flows, scenario.connections, config)?;
        let queues = scenario.queues(ports, seed)?;
        let (worker, counters) = gateway.worker(queues)?;
        Ok(Self { worker, counters, gateway, packets: 0 })
    }

    /// Every packet was carried, but for the strangers.
    fn check(&self, scenario: &Scenario) -> Result<(), Error> {
        let (carried, packets) = (self.counters.fast().packets.get(), self.packets as u64);
        let share = carried * 1000 / packets.max(1);
        let expected = u64::from(1000 - scenario.strangers);
        if (scenario.strangers == 0 && carried != packets) || share.abs_diff(expected) > 2 {
            let text = format!("{carried} of {packets} packets carried");
            return Err(Error::Wrong(scenario.name.to_owned(), text));
        }
        Ok(())
    }
}

/// Runs the worker alone, with or without AVX2, and sees to it that it carries every packet.
pub fn hot(scenario: &Scenario, ports: &mut Ports, rounds: u32, avx2: bool) -> Result<(), Error> {
    let config = TableConfig { avx2, ..TableConfig::new(scenario.connections as usize) };
    let mut whole = Whole::with_config(scenario, ports, 1, config)?;
    for _ in 0..rounds {
        whole.round();
    }
    whole.check(scenario)
}

/// The worker with one scenario beside the worker with another, in turns.
pub fn compare(
    name: &str,
    scenario: &Scenario,
    other: &Scenario,
    ports: &mut Ports,
    effort: Effort,
) -> Result<Row, Error> {
    let seed = dataplane::dpdk::tsc();
    let mut ours = Whole::new(scenario, ports, seed)?;
    let mut theirs = Whole::new(other, ports, seed ^ 1)?;
    let outcome = interleave(&mut [&mut ours, &mut theirs], effort);
    ours.check(scenario)?;
    theirs.check(other)?;
    let cost = |at: usize| outcome.costs.get(at).cloned().unwrap_or_default();
    let mut row = Row::new(name, scenario.connections.into(), &cost(0));
    row.set_peer(&format!("path.{} {}", other.name, other.connections), cost(1).median);
    (row.clean, row.undisturbed) = (outcome.clean, outcome.undisturbed);
    row.pages = format!("{:?}", ours.gateway.table.page_kind()).to_lowercase();
    Ok(row)
}

/// What the worker does to a burst of packets in cache, beside rewriting every header: both without what receiving and
/// sending take.
pub fn burst(ports: &mut Ports, effort: Effort) -> Result<Row, Error> {
    let (scenario, seed) = (Scenario::plain(1000), dataplane::dpdk::tsc());
    let mut whole = Whole::new(&scenario, ports, seed)?;
    let mut io = Io { queues: scenario.queues(ports, seed ^ 1)?, burst: Burst::new() };
    let mut swap = Swap::new(&scenario, ports, seed ^ 2)?;
    let outcome = interleave(&mut [&mut whole, &mut swap, &mut io], effort);
    whole.check(&scenario)?;
    let cost = |at: usize| outcome.costs.get(at).cloned().unwrap_or_default();
    let (mut ours, io) = (cost(0), cost(2).median);
    for value in [&mut ours.median, &mut ours.min, &mut ours.max] {
        *value -= io;
    }
    let mut row = Row::new("micro.burst", scenario.connections.into(), &ours);
    row.set_peer("every header rewritten", cost(1).median - io);
    (row.clean, row.undisturbed) = (outcome.clean, outcome.undisturbed);
    Ok(row)
}

/// Runs one scenario with its yardsticks; gives its row.
pub fn run(
    scenario: &Scenario,
    ports: &mut Ports,
    effort: Effort,
    swap: bool,
) -> Result<(Row, Outcome), Error> {
    match scenario.flows.family {
        Family::V4 => run_with(scenario, ports, effort, swap, read4),
        Family::V6 => run_with(scenario, ports, effort, false, read6),
    }
}

fn run_with<K: PeerKey>(
    scenario: &Scenario,
    ports: &mut Ports,
    effort: Effort,
    swap: bool,
    read: fn(&[u8]) -> K,
) -> Result<(Row, Outcome), Error> {
    let seed = dataplane::dpdk::tsc();
    let mut io = Io { queues: scenario.queues(ports, seed)?, burst: Burst::new() };
    let mut hash = IoHash::new(scenario, ports, seed ^ 1, read)?;
    let mut whole = Whole::new(scenario, ports, seed ^ 2)?;
    let mut swapped = Swap::new(scenario, ports, seed ^ 3)?;
    let mut contenders: Vec<&mut dyn Contender> = vec![&mut whole, &mut hash, &mut io];
    if swap {
        contenders.push(&mut swapped);
    }
    let outcome = interleave(&mut contenders, effort);
    whole.check(scenario)?;
    hash.check(scenario.strangers)?;
    let cost = |at: usize| outcome.costs.get(at).cloned().unwrap_or_default();
    let mut row = Row::new(&format!("path.{}", scenario.name), scenario.connections.into(), &cost(0));
    row.set_peer("io+rte_hash", cost(1).median);
    row.yardsticks.insert("io".to_owned(), cost(2).median);
    if swap {
        row.yardsticks.insert("swap".to_owned(), cost(3).median);
    }
    row.clean = outcome.clean;
    row.undisturbed = outcome.undisturbed;
    row.pages = format!("{:?}", whole.gateway.table.page_kind()).to_lowercase();
    Ok((row, outcome))
}
