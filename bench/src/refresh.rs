//! Keeping the kernel's entries of connections that fly alive: the tracker's part of it, up to the bytes for the kernel.

use control::netlink::conntrack::{ConntrackEntry, EntryUpdate, Request, Status, Zones};
use control::tracker::{
    Action, DirectionCounters, Forwarding, Millis, Plane, Policy, Source, TICK, Timing, Tracker,
};
use dataplane::flow::{EntryState, EntryView, FlowRef, InsertError, Key, UDP};
use dataplane::packet::{Ingress, L2Header};
use dataplane::punt::{Observation, Proof};

use crate::error::Error;
use crate::gateway::Gateway;
use crate::source::MAC;

/// Nothing else happens to a connection meanwhile.
const NEVER: u32 = 2_000_000_000;
/// All have been refreshed long before that.
const LONGEST: Millis = 1_000_000;
/// Batches that the gateway sends to the kernel are of about this size.
const BATCH: usize = 32 << 10;

/// The benchmark's table as the tracker sees it, at a time: the tracker keeps alive what has just had a packet.
struct Table<'a>(&'a mut Gateway, u32);

impl Plane for Table<'_> {
    fn insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        self.0.writer.insert_pair(orig, reply, owner)
    }

    fn remove(&mut self, flows: [FlowRef; 2]) {
        self.0.writer.remove_pair(flows);
    }

    fn owner(&self, flow: FlowRef) -> Option<u32> {
        self.0.table.resolve(flow).and_then(|slot| self.0.writer.owner(slot))
    }

    fn owner_of_key(&self, key: &Key) -> Option<u32> {
        self.0.table.lookup(key).and_then(|slot| self.0.writer.owner(slot))
    }

    fn state(&self, flow: FlowRef) -> EntryState {
        self.0.table.resolve(flow).map_or(EntryState::Closing, |slot| self.0.table.entry(slot).state())
    }

    fn set_state(&mut self, flow: FlowRef, state: EntryState) {
        self.0.table.entry(flow.slot).set_state(state);
    }

    fn transition(&mut self, flow: FlowRef, from: EntryState, to: EntryState) -> bool {
        self.0.table.entry(flow.slot).transition(from, to)
    }

    fn forward(&mut self, proof: &Proof) -> Forwarding {
        let owner = self.owner(proof.flow).unwrap_or(0);
        self.0.set_forwarding(proof.flow.slot, owner, proof.egress_port == 0);
        Forwarding::Changed
    }

    fn set_length(&mut self, flow: FlowRef, length: u16, _: bool) {
        self.0.writer.set_proved_length(flow.slot, length);
    }

    fn length(&self, flow: FlowRef) -> u16 {
        self.0.table.entry(flow.slot).proved_length()
    }

    fn counters(&self, flow: FlowRef) -> DirectionCounters {
        self.0.table.resolve(flow).map_or_else(DirectionCounters::default, |slot| {
            let entry = self.0.table.entry(slot);
            let last_seen = entry.last_seen().max(self.1);
            DirectionCounters { packets: entry.packets(), bytes: entry.bytes(), last_seen }
        })
    }

    fn key(&self, flow: FlowRef) -> Option<Key> {
        self.0.table.resolve(flow).map(|slot| self.0.table.entry(slot).key())
    }

    fn ports(&self, _: FlowRef) -> Option<(u16, u16)> {
        None
    }

    fn next_hop(&self, _: FlowRef) -> Option<[u8; 6]> {
        None
    }

    fn set_epoch(&mut self, _: u32) {}
}

/// Connections that all fly, spread over the time between two refreshes of one of them.
pub struct Refresher {
    tracker: Tracker,
    now: Millis,
    batch: Vec<u8>,
}

impl Refresher {
    /// Has connections take off, as the kernel's events and proofs would, until the first of them wants a refresh.
    pub fn new(gateway: &mut Gateway, first: u32, connections: u32) -> Result<Self, Error> {
        let timing = Timing { idle_after: NEVER, reprove_every: NEVER, ..Timing::default() };
        let tracker = Tracker::new(timing, Policy::Established);
        let mut refresher = Self { tracker, now: 0, batch: Vec::with_capacity(2 * BATCH) };
        for number in 0..connections {
            let due = u64::from(number) * u64::from(timing.refresh_every) / u64::from(connections);
            while refresher.now + TICK <= due {
                refresher.tick(gateway)?;
            }
            refresher.take_off(gateway, first + number);
        }
        while refresher.now < timing.refresh_every.into() {
            refresher.tick(gateway)?;
        }
        Ok(refresher)
    }

    fn take_off(&mut self, gateway: &mut Gateway, number: u32) {
        let (now, flows) = (self.now, gateway.flows());
        let [orig, reply] = [false, true].map(|reply| flows.key(number, reply));
        let entry = ConntrackEntry {
            id: number,
            orig: orig.tuple(),
            reply: reply.tuple(),
            zones: Zones::default(),
            // Seen reply, assured, confirmed.
            status: Status(0x0e),
            timeout_s: Some(NEVER / 1000),
            mark: None,
            tcp: None,
            has_helper: false,
            seq_adjust: false,
            synproxy: false,
            counted: None,
            started_ns: None,
        };
        let mut plane = Table(gateway, now as u32);
        self.tracker.entry(now, &entry, Source::Event, &mut plane);
        for (key, egress_port) in [(orig, 1), (reply, 0)] {
            let Some(slot) = plane.0.table.lookup(&key) else { continue };
            let flow = plane.0.table.reference(slot);
            let Some(l2) = L2Header::learn(&FRAME) else { continue };
            let proof = Proof {
                flow,
                ingress: Ingress::untagged(1 - egress_port, MAC),
                egress_port,
                l2,
                l3_len: 1500,
                overtook: 0,
                decrements_ttl: true,
                epoch: self.tracker.epoch(),
            };
            self.tracker.observe(now, Observation::Proof(Box::new(proof)), &mut plane);
            self.tracker.observe(now, Observation::Settled(flow, 0), &mut plane);
        }
    }

    /// A tick of the timers, and messages to the kernel for what is due.
    pub fn tick(&mut self, gateway: &mut Gateway) -> Result<(), Error> {
        self.now += TICK;
        if self.now > LONGEST {
            return Err(Error::Wrong(
                "control.refresh".to_owned(),
                "connections are not refreshed".to_owned(),
            ));
        }
        self.tracker.tick(self.now, &mut Table(gateway, self.now as u32));
        for (sequence, action) in self.tracker.actions().enumerate() {
            let Action::Timeout { orig, zones, timeout_s, .. } = action else { continue };
            debug_assert_eq!(orig.proto, UDP, "no TCP flags to be set");
            let update = EntryUpdate { timeout_s: Some(timeout_s), ..EntryUpdate::new(orig, zones) };
            Request::Update(update).encode(sequence as u32, &mut self.batch)?;
            if self.batch.len() >= BATCH {
                std::hint::black_box(&self.batch);
                self.batch.clear();
            }
        }
        Ok(())
    }

    /// Messages made so far.
    pub fn refreshes(&self) -> u64 {
        self.tracker.stats().refreshes
    }
}

/// A frame as it leaves, for its L2 header.
const FRAME: [u8; 34] = {
    let mut frame = [0; 34];
    (frame[0], frame[5], frame[6], frame[12], frame[14]) = (2, 1, 2, 8, 0x45);
    frame
};
