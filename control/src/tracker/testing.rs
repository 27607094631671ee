//! A plane made of plain maps, and a tracker on it, for tests.

use std::collections::HashMap;
use std::net::IpAddr;

use dataplane::flow::{EntryState, FiveTuple, FlowRef, InsertError, Key, Slot, TCP};
use dataplane::packet::{Ingress, L2Header};
use dataplane::punt::{Observation, Proof};

use super::*;
use crate::netlink::conntrack::{Status, TcpInfo, Zones};

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) owner: u32,
    pub(super) state: EntryState,
    pub(super) generation: u16,
    pub(super) forwarding: Option<(Ingress, u16, L2Header)>,
    pub(super) length: u16,
    pub(super) refuse_longer: bool,
    pub(super) counters: DirectionCounters,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) entries: HashMap<u32, Entry>,
    pub(super) generation: u16,
    pub(super) next: u32,
    pub(super) epoch: u32,
    pub(super) room: Option<usize>,
    /// What was told of connections that left the table, if anybody wants to know.
    pub(super) closed: Option<Vec<Account>>,
}

impl Model {
    pub(super) fn at(&self, flow: FlowRef) -> Option<&Entry> {
        self.entries.get(&flow.slot.to_bits()).filter(|e| e.generation == flow.generation)
    }

    pub(super) fn at_mut(&mut self, flow: FlowRef) -> Option<&mut Entry> {
        self.entries.get_mut(&flow.slot.to_bits()).filter(|e| e.generation == flow.generation)
    }

    pub(super) fn find(&self, key: &Key) -> Option<FlowRef> {
        let (bits, entry) = self.entries.iter().find(|(_, e)| e.key == *key)?;
        Some(FlowRef { slot: Slot::from_bits(*bits)?, generation: entry.generation })
    }

    pub(super) fn flow(&self, tuple: FiveTuple) -> FlowRef {
        self.find(&Key::from_tuple(&tuple).expect("one family")).expect("an entry")
    }

    /// A packet of the direction flies.
    pub(super) fn fly(&mut self, tuple: FiveTuple, now: Millis) {
        let flow = self.flow(tuple);
        let entry = self.at_mut(flow).expect("an entry");
        entry.counters.packets += 1;
        entry.counters.last_seen = now as u32;
    }
}

impl Plane for Model {
    fn insert(&mut self, orig: &Key, reply: &Key, owner: u32) -> Result<[FlowRef; 2], InsertError> {
        if orig == reply {
            return Err(InsertError::SameKey);
        }
        for key in [orig, reply] {
            if let Some(flow) = self.find(key) {
                return Err(InsertError::Exists(flow.slot));
            }
        }
        if self.room.is_some_and(|room| self.entries.len() + 2 > room) {
            return Err(InsertError::Full);
        }
        self.generation = self.generation.wrapping_add(1);
        Ok([*orig, *reply].map(|key| {
            self.next += 1;
            let entry = Entry {
                key,
                owner,
                state: EntryState::Candidate,
                generation: self.generation,
                forwarding: None,
                length: 0,
                refuse_longer: false,
                counters: DirectionCounters::default(),
            };
            self.entries.insert(self.next, entry);
            FlowRef { slot: Slot::from_bits(self.next).expect("not 0"), generation: self.generation }
        }))
    }

    fn remove(&mut self, flows: [FlowRef; 2]) {
        for flow in flows {
            assert!(self.at(flow).is_some(), "removed what is not there");
            self.entries.remove(&flow.slot.to_bits());
        }
    }

    fn owner(&self, flow: FlowRef) -> Option<u32> {
        self.at(flow).map(|e| e.owner)
    }

    fn owner_of_key(&self, key: &Key) -> Option<u32> {
        self.find(key).and_then(|flow| self.owner(flow))
    }

    fn state(&self, flow: FlowRef) -> EntryState {
        self.at(flow).map_or(EntryState::Closing, |e| e.state)
    }

    fn set_state(&mut self, flow: FlowRef, state: EntryState) {
        if let Some(entry) = self.at_mut(flow) {
            entry.state = state;
        }
    }

    fn transition(&mut self, flow: FlowRef, from: EntryState, to: EntryState) -> bool {
        let Some(entry) = self.at_mut(flow).filter(|e| e.state == from) else { return false };
        entry.state = to;
        true
    }

    fn forward(&mut self, proof: &Proof) -> Forwarding {
        let Some(entry) = self.at_mut(proof.flow) else { return Forwarding::NoRoom };
        let wanted = Some((proof.ingress, proof.egress_port, proof.l2));
        if entry.forwarding == wanted {
            return Forwarding::Unchanged;
        }
        entry.forwarding = wanted;
        Forwarding::Changed
    }

    fn set_length(&mut self, flow: FlowRef, length: u16, refuse_longer: bool) {
        if let Some(entry) = self.at_mut(flow) {
            (entry.length, entry.refuse_longer) = (length, refuse_longer);
        }
    }

    fn length(&self, flow: FlowRef) -> u16 {
        self.at(flow).map_or(0, |e| e.length)
    }

    fn counters(&self, flow: FlowRef) -> DirectionCounters {
        self.at(flow).map_or_else(DirectionCounters::default, |e| e.counters)
    }

    fn key(&self, flow: FlowRef) -> Option<Key> {
        self.at(flow).map(|e| e.key)
    }

    fn ports(&self, flow: FlowRef) -> Option<(u16, u16)> {
        self.at(flow)?.forwarding.as_ref().map(|(ingress, egress, _)| (ingress.port(), *egress))
    }

    fn next_hop(&self, flow: FlowRef) -> Option<[u8; 6]> {
        self.at(flow)?.forwarding.as_ref().and_then(|(.., l2)| l2.bytes().first_chunk().copied())
    }

    fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    fn keeps_accounts(&self) -> bool {
        self.closed.is_some()
    }

    fn closed(&mut self, account: &Account) {
        for direction in [&account.orig, &account.reply] {
            assert!(
                self.find(&Key::from_tuple(&direction.tuple).expect("a key")).is_some(),
                "still in the table"
            );
        }
        self.closed.as_mut().expect("somebody who wants to know").push(*account);
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn masqueraded(proto: u8, id: u32) -> ConntrackEntry {
    let orig = FiveTuple { proto, src: ip("10.0.0.2"), dst: ip("192.0.2.9"), sport: 4000, dport: 80 };
    let reply = FiveTuple { proto, src: ip("192.0.2.9"), dst: ip("192.0.2.1"), sport: 80, dport: 4000 };
    let state = TcpInfo { state: TcpState::Established, orig_flags: None, reply_flags: None };
    ConntrackEntry {
        id,
        orig,
        reply,
        zones: Zones::default(),
        status: Status::SEEN_REPLY | Status::ASSURED | Status::CONFIRMED | Status::SRC_NAT,
        timeout_s: Some(if proto == TCP { 432_000 } else { 120 }),
        mark: None,
        tcp: (proto == TCP).then_some(state),
        has_helper: false,
        seq_adjust: false,
        synproxy: false,
        counted: None,
        started_ns: None,
    }
}

pub(super) fn in_state(mut entry: ConntrackEntry, state: TcpState) -> ConntrackEntry {
    entry.tcp = Some(TcpInfo { state, orig_flags: None, reply_flags: None });
    entry
}

pub(super) struct Rig {
    pub(super) tracker: Tracker,
    pub(super) model: Model,
    pub(super) now: Millis,
    pub(super) asked: Vec<FiveTuple>,
    pub(super) timeouts: Vec<u32>,
    pub(super) settle: Vec<FlowRef>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Policy::Established)
    }

    pub(super) fn with(policy: Policy) -> Self {
        let tracker = Tracker::new(Timing::default(), policy);
        let model = Model::default();
        Self { tracker, model, now: 5_000, asked: vec![], timeouts: vec![], settle: vec![] }
    }

    pub(super) fn act(&mut self) {
        for action in self.tracker.actions() {
            match action {
                Action::Timeout { timeout_s, .. } => self.timeouts.push(timeout_s),
                Action::Ask { tuple, .. } => self.asked.push(tuple),
                Action::Settle(flow) => self.settle.push(flow),
            }
        }
    }

    pub(super) fn event(&mut self, entry: &ConntrackEntry) {
        self.tracker.entry(self.now, entry, Source::Event, &mut self.model);
        self.act();
    }

    /// The kernel answers the question that was put last: its entry lives on for so many seconds.
    pub(super) fn answer(&mut self, entry: &ConntrackEntry, timeout_s: u32) {
        assert_eq!(self.asked.pop(), Some(entry.orig));
        let entry = ConntrackEntry { timeout_s: Some(timeout_s), ..*entry };
        self.tracker.entry(self.now, &entry, Source::Answer, &mut self.model);
        self.act();
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        self.tracker.observe(self.now, observation, &mut self.model);
        self.act();
    }

    pub(super) fn proof(&self, tuple: FiveTuple, length: u16) -> Proof {
        let mut frame = [0_u8; 60];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        Proof {
            flow: self.model.flow(tuple),
            ingress: Ingress::untagged(0, [2, 0, 0, 0, 0, 1]),
            egress_port: 1,
            l2: L2Header::learn(&frame).expect("an IPv4 frame"),
            l3_len: length,
            overtook: 0,
            decrements_ttl: true,
            epoch: self.tracker.epoch(),
        }
    }

    pub(super) fn prove(&mut self, tuple: FiveTuple, length: u16) {
        let proof = self.proof(tuple, length);
        self.observe(Observation::Proof(Box::new(proof)));
    }

    /// Proves and settles both directions.
    pub(super) fn take_off(&mut self, entry: &ConntrackEntry) {
        for tuple in [entry.orig, entry.reply] {
            self.prove(tuple, 1500);
            let flow = self.model.flow(tuple);
            assert_eq!(self.settle.pop(), Some(flow));
            self.observe(Observation::Settled(flow, 0));
        }
    }

    pub(super) fn pass(&mut self, time: Millis) {
        for _ in 0..time / TICK {
            self.now += TICK;
            self.tracker.tick(self.now, &mut self.model);
            self.act();
        }
    }

    pub(super) fn state(&self, tuple: FiveTuple) -> EntryState {
        self.model.state(self.model.flow(tuple))
    }
}

pub(super) fn flying(proto: u8) -> (Rig, ConntrackEntry) {
    let (mut rig, entry) = (Rig::new(), masqueraded(proto, 7));
    rig.event(&entry);
    rig.take_off(&entry);
    rig.timeouts.clear();
    (rig, entry)
}
