//! The tracker under any sequence of what conntrack, punt threads, workers and time may bring.

use std::collections::HashMap;

use dataplane::flow::{EntryState, FiveTuple, FlowRef, Key, TCP, UDP};
use dataplane::punt::{Observation, Proof};
use proptest::prelude::*;

use super::connection::Dir;
use super::testing::{Rig, in_state, ip, masqueraded};
use super::*;

/// Connections that the sequences are about; they differ in port and protocol.
const CONNECTIONS: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// conntrack tells of a connection: in this TCP state, from this source, made anew under another id, or in
    /// another zone.
    Told {
        connection: usize,
        state: u8,
        source: u8,
        anew: bool,
        zone: u16,
    },
    Destroyed {
        connection: usize,
        anew: bool,
        zone: u16,
    },
    NotFound {
        connection: usize,
        zone: u16,
    },
    /// Tells of some connections alone.
    Dump {
        which: u8,
    },
    /// The kernel forwarded a packet that was given to it in this epoch, or some epochs earlier.
    Proof {
        flow: Flow,
        age: u32,
        length: u16,
    },
    Settled(Flow),
    Lost(Flow),
    Duplicated(Flow),
    Closing(Flow),
    Longer {
        flow: Flow,
        length: u16,
    },
    /// An observation comes once more, late.
    Again {
        nth: usize,
    },
    Changed(u8),
    /// A worker does what workers do to a direction.
    Worker {
        flow: Flow,
        what: Deed,
    },
    Tick(u16),
}

/// What a worker may do by itself.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Fly,
    /// Sends the probe.
    Probe,
    /// Finds no room for the probe.
    Undo,
    /// A longer packet, or no room to hold more.
    GiveUp,
    /// A FIN, RST or SYN.
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    connection: usize,
    reply: bool,
}

fn flow() -> impl Strategy<Value = Flow> {
    (0..CONNECTIONS, any::<bool>()).prop_map(|(connection, reply)| Flow { connection, reply })
}

fn step() -> impl Strategy<Value = Step> {
    let zone = || prop_oneof![20 => Just(0_u16), 1 => Just(5)];
    let anew = || prop::bool::weighted(0.1);
    let deed = prop_oneof![
        6 => Just(Deed::Fly),
        4 => Just(Deed::Probe),
        1 => Just(Deed::Undo),
        1 => Just(Deed::GiveUp),
        1 => Just(Deed::Close)
    ];
    prop_oneof![
        8 => (0..CONNECTIONS, 0..12_u8, 0..4_u8, anew(), zone()).prop_map(
            |(connection, state, source, anew, zone)| Step::Told { connection, state, source, anew, zone }
        ),
        1 => (0..CONNECTIONS, anew(), zone())
            .prop_map(|(connection, anew, zone)| Step::Destroyed { connection, anew, zone }),
        1 => (0..CONNECTIONS, zone()).prop_map(|(connection, zone)| Step::NotFound { connection, zone }),
        1 => any::<u8>().prop_map(|which| Step::Dump { which: which | 3 }),
        12 => (flow(), prop_oneof![9 => Just(0_u32), 1 => 1..4_u32], 40..1500_u16)
            .prop_map(|(flow, age, length)| Step::Proof { flow, age, length }),
        10 => flow().prop_map(Step::Settled),
        2 => flow().prop_map(Step::Lost),
        1 => flow().prop_map(Step::Duplicated),
        1 => flow().prop_map(Step::Closing),
        1 => (flow(), 40..9000_u16).prop_map(|(flow, length)| Step::Longer { flow, length }),
        2 => any::<usize>().prop_map(|nth| Step::Again { nth }),
        2 => (0..5_u8).prop_map(Step::Changed),
        10 => (flow(), deed).prop_map(|(flow, what)| Step::Worker { flow, what }),
        8 => (1..60_u16).prop_map(Step::Tick),
        2 => (60..1000_u16).prop_map(Step::Tick),
    ]
}

fn entry(connection: usize, anew: bool, zone: u16) -> ConntrackEntry {
    let proto = if connection < 3 { TCP } else { UDP };
    let id = connection as u32 + if anew { 100 } else { 1 } + 1000 * u32::from(zone);
    let mut entry = masqueraded(proto, id);
    let port = 4000 + connection as u16;
    (entry.orig.sport, entry.reply.dport) = (port, port);
    entry.zones = Zones { orig: zone, reply: zone };
    entry
}

struct World {
    rig: Rig,
    /// Observations so far, to be repeated.
    seen: Vec<Observation>,
    /// The epoch of the last proof that was given for a direction.
    proved: HashMap<FlowRef, u32>,
    /// When each epoch began.
    began: Vec<Millis>,
    /// When that was.
    proved_at: HashMap<FlowRef, Millis>,
}

impl World {
    fn new() -> Self {
        let mut rig = Rig::new();
        // Room for all but one.
        rig.model.room = Some(2 * (CONNECTIONS - 1));
        let began = vec![0; rig.tracker.epoch() as usize + 1];
        Self { rig, seen: Vec::new(), proved: HashMap::new(), began, proved_at: HashMap::new() }
    }

    fn find(&self, flow: Flow) -> Option<(FlowRef, FiveTuple)> {
        let entry = entry(flow.connection, false, 0);
        let tuple = if flow.reply { entry.reply } else { entry.orig };
        self.rig.model.find(&Key::from_tuple(&tuple)?).map(|found| (found, tuple))
    }

    fn observe(&mut self, observation: Observation) {
        if let Observation::Proof(proof) = &observation {
            let epoch = self.proved.entry(proof.flow).or_default();
            *epoch = (*epoch).max(proof.epoch);
            self.proved_at.insert(proof.flow, self.rig.now);
        }
        self.seen.push(observation.clone());
        self.rig.observe(observation);
    }

    fn about(&mut self, flow: Flow, observation: impl FnOnce(FlowRef) -> Observation) {
        if let Some((flow, _)) = self.find(flow) {
            self.observe(observation(flow));
        }
    }

    fn told(&mut self, entry: &ConntrackEntry, source: Source) {
        let Rig { tracker, model, now, .. } = &mut self.rig;
        tracker.entry(*now, entry, source, model);
    }

    fn change(&mut self, change: Changed) {
        let Rig { tracker, model, now, .. } = &mut self.rig;
        tracker.changed(*now, change, model);
        self.began.push(self.rig.now);
        assert_eq!(self.began.len(), self.rig.tracker.epoch() as usize + 1);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Told { connection, state, source, anew, zone } => {
                let entry = entry(connection, anew, zone);
                let entry = match (state, entry.orig.proto) {
                    (0, TCP) => in_state(entry, TcpState::FinWait),
                    (1, TCP) => in_state(entry, TcpState::Close),
                    (2, _) => ConntrackEntry { has_helper: true, ..entry },
                    _ => entry,
                };
                self.told(&entry, if source == 0 { Source::Answer } else { Source::Event });
            }
            Step::Destroyed { connection, anew, zone } => {
                let entry = entry(connection, anew, zone);
                let Rig { tracker, model, now, .. } = &mut self.rig;
                tracker.destroyed(*now, &entry, model);
                self.is_gone(&entry);
            }
            Step::NotFound { connection, zone } => {
                let entry = entry(connection, false, zone);
                let Rig { tracker, model, .. } = &mut self.rig;
                tracker.not_found(&entry.orig, entry.zones, model);
            }
            Step::Dump { which } => {
                self.rig.tracker.dump_started();
                for connection in (0..CONNECTIONS).filter(|connection| which >> connection & 1 == 1) {
                    self.told(&entry(connection, false, 0), Source::Dump);
                }
                self.rig.tracker.dump_finished(&mut self.rig.model);
                for connection in (0..CONNECTIONS).filter(|connection| which >> connection & 1 == 0) {
                    self.is_gone(&entry(connection, false, 0));
                }
            }
            Step::Proof { flow, age, length } => {
                if let Some((_, tuple)) = self.find(flow) {
                    let proof = self.rig.proof(tuple, length);
                    let epoch = proof.epoch.saturating_sub(age);
                    self.observe(Observation::Proof(Box::new(Proof { epoch, ..proof })));
                }
            }
            Step::Settled(flow) => self.about(flow, |flow| Observation::Settled(flow, 0)),
            Step::Lost(flow) => self.about(flow, Observation::Lost),
            Step::Duplicated(flow) => self.about(flow, Observation::Duplicated),
            Step::Closing(flow) => self.about(flow, Observation::Closing),
            Step::Longer { flow, length } => self.about(flow, |flow| Observation::Longer { flow, length }),
            Step::Again { nth } => {
                if let Some(observation) = self.seen.get(nth % self.seen.len().max(1)).cloned() {
                    self.observe(observation);
                    self.seen.pop();
                }
            }
            Step::Changed(what) => self.change(match what {
                0 | 1 => Changed::Ruleset,
                2 => Changed::Anything,
                3 => Changed::NextHop { mac: [2, 0, 0, 0, 0, 9] },
                _ => Changed::Port { port: 1 },
            }),
            Step::Worker { flow, what } => self.work(flow, what),
            Step::Tick(ticks) => self.pass(ticks),
        }
        self.rig.act();
    }

    fn work(&mut self, flow: Flow, what: Deed) {
        let Some((flow, tuple)) = self.find(flow) else { return };
        let now = self.rig.now;
        let model = &mut self.rig.model;
        match (what, model.state(flow)) {
            (Deed::Fly, EntryState::Software | EntryState::Probing) => model.fly(tuple, now),
            // The next packet of a probing direction is the probe, unless the ring is crowded.
            (Deed::Probe, EntryState::Probing) => model.set_state(flow, EntryState::Holding),
            (Deed::Undo, _) => {
                let probing = self.rig.tracker.locate(flow, model).is_some_and(|(index, dir)| {
                    self.rig.tracker.connections[index].directions[dir as usize].state == EntryState::Probing
                });
                if probing {
                    model.transition(flow, EntryState::Holding, EntryState::Probing);
                }
            }
            (Deed::GiveUp, EntryState::Software | EntryState::Probing | EntryState::Holding) => {
                model.set_state(flow, EntryState::Candidate);
            }
            (Deed::Close, EntryState::Software | EntryState::Probing | EntryState::Holding) => {
                let tuples = self
                    .rig
                    .tracker
                    .locate(flow, model)
                    .and_then(|(index, _)| self.rig.tracker.connections[index].flows);
                for flow in tuples.into_iter().flatten() {
                    model.set_state(flow, EntryState::Closing);
                }
            }
            _ => {}
        }
    }

    fn pass(&mut self, ticks: u16) {
        for _ in 0..ticks {
            self.rig.now += TICK;
            self.rig.tracker.tick(self.rig.now, &mut self.rig.model);
        }
    }

    /// A connection that the kernel has no more has no entries.
    fn is_gone(&self, entry: &ConntrackEntry) {
        for tuple in [entry.orig, entry.reply] {
            let Some(flow) = Key::from_tuple(&tuple).and_then(|key| self.rig.model.find(&key)) else {
                continue;
            };
            let (index, _) = self.rig.tracker.locate(flow, &self.rig.model).expect("checked elsewhere");
            let connection = &self.rig.tracker.connections[index];
            assert!(
                (connection.id, connection.zones) != (entry.id, entry.zones),
                "an entry of a connection that is gone"
            );
        }
    }

    /// What always holds.
    fn check(&self) {
        let Rig { tracker, model, .. } = &self.rig;
        self.counts_are_right();
        // Every entry belongs to a connection, in the right direction; every connection's entries are there.
        for (bits, entry) in &model.entries {
            let connection = tracker.connections.get(entry.owner).expect("an entry has a connection");
            let flows = connection.flows.expect("a connection with entries knows of them");
            assert!(flows.iter().any(|flow| flow.slot.to_bits() == *bits && model.owner(*flow).is_some()));
        }
        let mut known = 0;
        for index in tracker.connections.indices() {
            let Some(flows) = tracker.connections[index].flows else {
                assert!(tracker.clashes_has(index) || tracker.stats.table_full > 0, "kept for no reason");
                continue;
            };
            for (flow, dir) in flows.into_iter().zip(Dir::BOTH) {
                assert_eq!(tracker.locate(flow, model), Some((index, dir)));
                self.is_proved(index, dir, flow);
                known += 1;
            }
        }
        assert_eq!(known, model.entries.len());
        assert_eq!(model.epoch.max(1), tracker.epoch());
    }

    fn counts_are_right(&self) {
        let tracker = &self.rig.tracker;
        let mut counted = [0; 4];
        for index in tracker.connections.indices() {
            let connection = &tracker.connections[index];
            if connection.flows.is_some() {
                counted[connection.class() as usize] += 1;
            }
        }
        let [candidate, software, probing, closing] = counted;
        assert_eq!(tracker.counts(), Counts { candidate, software, probing, closing });
    }

    /// A direction flies only by a proof, and only by one from before a change as long as it may.
    fn is_proved(&self, index: u32, dir: Dir, flow: FlowRef) {
        let Rig { tracker, model, now, .. } = &self.rig;
        let state = model.state(flow);
        if !matches!(state, EntryState::Software | EntryState::Probing) {
            return;
        }
        let direction = &tracker.connections[index].directions[dir as usize];
        let proved = self.proved.get(&flow).copied().unwrap_or(0);
        assert!(direction.ever_proved && proved > 0, "flies without a proof");
        assert!(direction.epoch <= proved, "remembers a proof that was never given");
        assert!(model.at(flow).is_some_and(|entry| entry.forwarding.is_some()));
        assert!(tracker.connections[index].established, "flies though conntrack says otherwise");
        let late = 2 * TICK;
        let proof = self.proved_at.get(&flow).copied().unwrap_or(0);
        let silent = proof + Millis::from(tracker.timing.reprove_every);
        assert!(*now <= silent + late, "flies long after its last proof");
        // The first change that the proof does not cover: a sweep sets all probing at once here, they are few.
        let Some(change) = self.began.get(direction.epoch as usize + 1) else { return };
        assert_eq!(state, EntryState::Probing, "flies on as if nothing had changed");
        let announced = change + Millis::from(tracker.timing.revalidate_within);
        assert!(*now <= announced + late, "flies beyond the deadline");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_the_tracker_and_the_table_agree(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
    }

    /// Without a packet nothing flies for ever, and the end of all connections leaves nothing.
    #[test]
    fn silence_ends_every_flight(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.pass(10_000);
        world.check();
        let Counts { software, probing, .. } = world.rig.tracker.counts();
        prop_assert_eq!((software, probing), (0, 0));
        world.rig.tracker.dump_started();
        world.rig.tracker.dump_finished(&mut world.rig.model);
        prop_assert!(world.rig.tracker.is_empty() && world.rig.model.entries.is_empty());
        prop_assert!(world.rig.tracker.clashes.is_empty());
        prop_assert_eq!(world.rig.tracker.counts(), Counts::default());
    }
}

#[test]
fn the_sequences_reach_what_they_are_about() {
    let mut world = World::new();
    let flow = Flow { connection: 0, reply: false };
    for step in [
        Step::Told { connection: 0, state: 9, source: 1, anew: false, zone: 0 },
        Step::Proof { flow, age: 0, length: 100 },
        Step::Settled(flow),
    ] {
        world.step(step);
        world.check();
    }
    assert_eq!(world.rig.state(entry(0, false, 0).orig), EntryState::Software);
    world.rig.tracker.set_local_addresses(world.rig.now, [ip("10.0.0.2")], &mut world.rig.model);
    world.check();
    assert!(world.rig.model.entries.is_empty());
}
