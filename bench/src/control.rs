//! The control side: conntrack events, as the kernel writes them, parsed, tracked and put into the real table.

use std::sync::Arc;

use control::netlink::conntrack::{ConntrackMessage, parse_datagram};
use control::tracker::{DirectionCounters, Forwarding, Plane, Policy, Source, Timing, Tracker};
use dataplane::dpdk::tsc;
use dataplane::flow::{
    EntryState, FlowRef, FlowTable, InsertError, Key, Placement, TableConfig, TableWriter,
};
use dataplane::punt::Proof;

use crate::error::Error;
use crate::flows::{Family, Flows, Nat};
use crate::machine::dependent_add;
use crate::measure::{CLEAN, Cost, median};
use crate::report::Row;

const FLOWS: Flows = Flows { family: Family::V4, nat: Nat::Snat };

/// Writes the attributes of one ctnetlink message.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn put(&mut self, kind: u16, value: &[u8]) {
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.0.len();
        self.put(kind | 0x8000, &[]);
        inside(&mut Attributes(self.0));
        let length = ((self.0.len() - start) as u16).to_ne_bytes();
        self.0[start..start + 2].copy_from_slice(&length);
    }

    fn tuple(&mut self, kind: u16, key: &Key) {
        let Key::V4(key) = key else { return };
        let ports = key.ports.to_ne_bytes();
        self.nest(kind, |tuple| {
            tuple.nest(1, |addresses| {
                addresses.put(1, &key.src.to_ne_bytes());
                addresses.put(2, &key.dst.to_ne_bytes());
            });
            tuple.nest(2, |proto| {
                proto.put(1, &[key.proto as u8]);
                proto.put(2, &ports[..2]);
                proto.put(3, &ports[2..]);
            });
        });
    }
}

/// What the kernel multicasts when a UDP connection becomes assured. Seen reply, assured, confirmed, source NAT done.
fn update(stream: &mut Vec<u8>, number: u32) {
    let start = stream.len();
    stream.extend_from_slice(&[0; 16]);
    stream.extend_from_slice(&[2, 0, 0, 0]);
    let mut attributes = Attributes(stream);
    attributes.tuple(1, &FLOWS.key(number, false));
    attributes.tuple(2, &FLOWS.key(number, true));
    attributes.put(12, &(0x1000_0000 + number).to_be_bytes());
    attributes.put(3, &0x19e_u32.to_be_bytes());
    attributes.put(7, &120_u32.to_be_bytes());
    let length = ((stream.len() - start) as u32).to_ne_bytes();
    stream[start..start + 4].copy_from_slice(&length);
    // IPCTNL_MSG_CT_NEW without NLM_F_CREATE is an update.
    stream[start + 4..start + 6].copy_from_slice(&0x0100_u16.to_ne_bytes());
}

/// The table, and nothing of what only flows that fly need.
struct Table {
    table: Arc<FlowTable>,
    writer: TableWriter,
}

impl Plane for Table {
    fn insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        self.writer.insert_pair(orig, reply, owner)
    }

    fn remove(&mut self, flows: [FlowRef; 2]) {
        self.writer.remove_pair(flows);
    }

    fn owner(&self, flow: FlowRef) -> Option<u32> {
        self.table.resolve(flow).and_then(|slot| self.writer.owner(slot))
    }

    fn owner_of_key(&self, key: &Key) -> Option<u32> {
        self.table.lookup(key).and_then(|slot| self.writer.owner(slot))
    }

    fn state(&self, _: FlowRef) -> EntryState {
        EntryState::Candidate
    }

    fn set_state(&mut self, _: FlowRef, _: EntryState) {}

    fn transition(&mut self, _: FlowRef, _: EntryState, _: EntryState) -> bool {
        false
    }

    fn forward(&mut self, _: &Proof) -> Forwarding {
        Forwarding::NoRoom
    }

    fn set_length(&mut self, _: FlowRef, _: u16, _: bool) {}

    fn length(&self, _: FlowRef) -> u16 {
        0
    }

    fn counters(&self, _: FlowRef) -> DirectionCounters {
        DirectionCounters::default()
    }

    fn key(&self, _: FlowRef) -> Option<Key> {
        None
    }

    fn ports(&self, _: FlowRef) -> Option<(u16, u16)> {
        None
    }

    fn next_hop(&self, _: FlowRef) -> Option<[u8; 6]> {
        None
    }

    fn set_epoch(&mut self, _: u32) {}
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

/// New connections taken from a stream of events into an empty table: cycles, connections a second, and bytes each.
pub fn admit(connections: u32, repetitions: usize) -> Result<Row, Error> {
    let mut stream = Vec::new();
    let mut ends = Vec::new();
    for number in 0..connections {
        update(&mut stream, number);
        ends.push(stream.len());
    }
    let (mut costs, mut bytes, mut adds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let before = resident();
        // Ordinary memory, so that it counts as resident.
        let placement = Placement { huge_pages: false, numa_node: None };
        let config = TableConfig { ipv6_share: 0, placement, ..TableConfig::new(connections as usize) };
        let (table, writer) = FlowTable::create(config)?;
        let mut plane = Table { table, writer };
        let mut tracker = Tracker::new(Timing::default(), Policy::Established);
        let add = dependent_add();
        let (start, mut from) = (tsc(), 0);
        for (now, end) in ends.iter().enumerate() {
            let datagram = stream.get(from..*end).unwrap_or_default();
            parse_datagram(datagram, |message| {
                if let ConntrackMessage::Update(entry) = message {
                    tracker.entry(now as u64 / 500, &entry, Source::Event, &mut plane);
                }
            });
            from = *end;
        }
        costs.push((tsc() - start) as f64 / f64::from(connections));
        adds.push(add.max(dependent_add()));
        bytes.push((resident() - before) / f64::from(connections));
        if plane.writer.len() != connections as usize {
            let text = format!("{} of {connections} connections taken", plane.writer.len());
            return Err(Error::Wrong("control.admit".to_owned(), text));
        }
    }
    let middle = median(&mut costs);
    let (min, max) = (costs.first().copied().unwrap_or(0.0), costs.last().copied().unwrap_or(0.0));
    let mut row = Row::new("control.admit", connections.into(), &Cost { median: middle, min, max });
    row.clean = median(&mut adds);
    row.undisturbed = row.clean < CLEAN;
    let rate = dataplane::dpdk::tsc_hz() as f64 / middle;
    row.yardsticks.insert("connections_per_second".to_owned(), rate.round());
    row.yardsticks.insert("bytes_per_connection".to_owned(), median(&mut bytes).round());
    Ok(row)
}
