//! A gateway as [`Tracker`] knows it, between the wire and the model kernel: workers, punt threads, and [control's
//! loop](control).

mod control;

use std::collections::HashMap;

use dataplane::flow::{EntryState, FiveTuple, FlowRef, Key};
use dataplane::packet::{Ingress, L2Header};
use dataplane::punt::{Observation, Proof};

use super::air::{Air, ByNic};
use super::channel::{Channel, Faults};
use super::kernel::{Direction, HOSTS, Kernel, Kind, Sent, client_of, orig};
use crate::tracker::{Changed, Millis, Policy, TICK, Timing, Tracker};

/// How long a packet may take through the kernel.
const PATIENCE: Millis = TICK;
/// How long a worker keeps a packet back.
const HOLD: Millis = 200;
/// How much later than it should something may be: ticks, and the time that a proof takes to control.
const LATE: Millis = 2 * TICK + 100;
/// How much longer than alone an entry may live: timeouts are whole seconds.
const OUTLIVES: Millis = 1_100;

/// A packet on its way through the kernel, of a direction that wants to know.
#[derive(Debug)]
struct Print {
    flow: FlowRef,
    direction: Direction,
    epoch: u32,
    probe: bool,
    at: Millis,
    due: Millis,
    sent: Option<Sent>,
    changes: usize,
}

#[derive(Debug)]
struct Held {
    flow: FlowRef,
    tuple: FiveTuple,
    direction: Direction,
    since: Millis,
}

/// When a direction was right last, and the number of changes that had been made by then.
#[derive(Clone, Copy, Debug)]
struct Right {
    at: Millis,
    changes: usize,
}

#[derive(Debug)]
pub(crate) struct World<A> {
    pub(crate) now: Millis,
    pub(crate) kernel: Kernel,
    pub(crate) tracker: Tracker,
    pub(crate) plane: A,
    room: Option<usize>,
    timing: Timing,
    pub(crate) channel: Channel,
    policy: Policy,
    prints: Vec<Print>,
    held: Vec<Held>,
    settling: Vec<(FlowRef, Millis)>,
    unknown: HashMap<FiveTuple, u32>,
    /// Where each server answers to.
    answers: [Option<FiveTuple>; HOSTS],
    /// When control first knew of each change.
    told: Vec<Option<Millis>>,
    right: HashMap<FlowRef, Right>,
    dump_stage: u8,
    dump_again: bool,
    pub(crate) flown: u64,
    pub(crate) by_nic: u64,
}

pub(crate) fn way_of(way: u8) -> (u16, [u8; 6]) {
    (u16::from(way & 1), [2, 0, 0, 0, 0, 10 + way])
}

impl<A: Air> World<A> {
    /// `room`: connections that the table has room for, if not for all.
    pub(crate) fn new(seed: u64, policy: Policy, room: Option<usize>) -> Self {
        let mut world = Self {
            now: 5_000,
            kernel: Kernel::new(),
            tracker: Tracker::new(Kernel::timing(), policy),
            plane: A::new(room),
            room,
            timing: Kernel::timing(),
            channel: Channel::new(seed),
            policy,
            prints: Vec::new(),
            held: Vec::new(),
            settling: Vec::new(),
            unknown: HashMap::new(),
            answers: [None; HOSTS],
            told: Vec::new(),
            right: HashMap::new(),
            dump_stage: 0,
            dump_again: false,
            flown: 0,
            by_nic: 0,
        };
        world.dump();
        world
    }

    /// Other times than [`Kernel::timing`] from now on.
    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
        self.tracker.set_timing(timing);
    }

    /// The process dies, and another one begins.
    pub(crate) fn restart(&mut self) {
        self.tracker = Tracker::new(self.timing, self.policy);
        self.plane.restart(self.room);
        let (faults, seed) = (self.channel.faults, self.channel.dice().below(u64::MAX));
        self.channel = Channel::new(seed);
        self.channel.faults = faults;
        self.prints.clear();
        self.held.clear();
        self.settling.clear();
        self.right.clear();
        self.kernel.orphan(self.now);
        // What changes from now on is told to the new one; what changed before, it starts with.
        self.told.iter_mut().for_each(|told| *told = told.or(Some(self.now)));
        (self.dump_stage, self.dump_again) = (0, false);
        self.dump();
    }

    /// Compares with all that conntrack has, as the gateway's loop does.
    pub(crate) fn dump(&mut self) {
        if self.dump_stage > 0 {
            self.dump_again = true;
            return;
        }
        self.dump_again = false;
        self.dump_stage = 1;
        self.tracker.dump_started();
    }

    /// The kernel is changed; `announce`: as what netlink tells of it.
    pub(crate) fn change(&mut self, announce: Option<Changed>) {
        self.told.push(None);
        if let Some(changed) = announce {
            self.channel.announce(self.now, self.told.len() - 1, changed);
        }
    }

    /// A packet comes in from the client or from the server.
    pub(crate) fn packet(&mut self, host: usize, direction: Direction, kind: Kind) {
        let tuple = if direction == 0 { Some(orig(host)) } else { self.answers[host] };
        if let Some(tuple) = tuple {
            self.received(tuple, direction, kind);
        }
    }

    /// What the NIC does with it, or else a worker.
    fn received(&mut self, tuple: FiveTuple, direction: Direction, kind: Kind) {
        match self.plane.nic(direction, &tuple, kind) {
            ByNic::Software => {}
            ByNic::Sent { sent, counted } => {
                assert_eq!(kind, Kind::Data, "the NIC carried what is for software");
                return self.carried_by_nic(tuple, direction, sent, counted);
            }
            ByNic::Astray => {
                // It counts, and so seems to live.
                self.kernel.hit(&tuple, None);
                return;
            }
        }
        let Some(flow) = Key::from_tuple(&tuple).and_then(|key| self.plane.find(&key)) else {
            let seen = self.unknown.entry(tuple).or_default();
            *seen += 1;
            if seen.is_multiple_of(8)
                && let Some(key) = Key::from_tuple(&tuple)
            {
                self.channel.observation(self.now, Observation::Unknown(key));
            }
            return self.punt(tuple, direction, kind, None);
        };
        match (self.plane.state(flow), kind) {
            (EntryState::Closing, _) => self.punt(tuple, direction, kind, None),
            (EntryState::Candidate, _) => self.punt(tuple, direction, kind, Some((flow, false))),
            (_, Kind::Fin | Kind::Rst | Kind::Syn) => {
                for flow in self.both(flow) {
                    self.plane.worker_sets(flow, EntryState::Closing);
                }
                self.channel.observation(self.now, Observation::Closing(flow));
                self.punt(tuple, direction, kind, None);
            }
            (EntryState::Holding, _) => {
                self.held.push(Held { flow, tuple, direction, since: self.now });
            }
            (EntryState::Software, _) => self.fly(flow, tuple, direction),
            // The way to the kernel may be crowded: then the probe waits for another packet.
            (EntryState::Probing, _) if self.channel.dice().chance(10) => self.fly(flow, tuple, direction),
            (EntryState::Probing, _) => {
                self.plane.worker_sets(flow, EntryState::Holding);
                self.punt(tuple, direction, kind, Some((flow, true)));
            }
        }
    }

    fn both(&self, flow: FlowRef) -> Vec<FlowRef> {
        let Some(owner) = self.plane.owner(flow) else { return Vec::new() };
        let flows = self.plane.flows().into_iter();
        flows.filter(|flow| self.plane.owner(*flow) == Some(owner)).collect()
    }

    /// What the fast path makes of a packet of this direction.
    fn carried(&self, flow: FlowRef) -> Option<(FiveTuple, Sent)> {
        let key = self.plane.key(flow)?;
        let peer = self.both(flow).into_iter().find(|peer| *peer != flow)?;
        let tuple = self.plane.key(peer)?.tuple().inverted();
        let (_, mac) = (self.plane.ports(flow)?, self.plane.next_hop(flow)?);
        Some((key.tuple(), Sent { tuple, way: mac[5] - 10 }))
    }

    fn fly(&mut self, flow: FlowRef, tuple: FiveTuple, direction: Direction) {
        self.flown += 1;
        let sent = self.may_fly(flow);
        self.plane.flew(flow, self.now);
        self.kernel.flew(self.now, direction, &tuple);
        self.delivered(sent);
    }

    fn carried_by_nic(&mut self, tuple: FiveTuple, direction: Direction, sent: Sent, counted: bool) {
        self.by_nic += 1;
        let flow = Key::from_tuple(&tuple).and_then(|key| self.plane.find(&key));
        let flow = flow.unwrap_or_else(|| panic!("the NIC carried a packet of nobody's: {tuple:?}"));
        let state = self.plane.state(flow);
        // A worker that sees a FIN says so at once; control hears of it later.
        assert!(matches!(state, EntryState::Software | EntryState::Closing), "in the NIC while {state:?}");
        assert_eq!(self.may_fly(flow), sent, "the NIC carried it elsewhere");
        match state {
            // What nobody counts keeps nothing alive, until it is counted after all.
            EntryState::Software if !counted => self.kernel.hit(&tuple, None),
            EntryState::Software => self.kernel.flew(self.now, direction, &tuple),
            _ => {}
        }
        self.delivered(sent);
    }

    /// How a packet leaves that goes past the kernel, which must not have been otherwise for too long.
    fn may_fly(&mut self, flow: FlowRef) -> Sent {
        self.note_what_is_right();
        let (_, sent) = self.carried(flow).expect("what flies knows its way");
        let right = self.right.get(&flow).expect("flew, and was never right");
        let (now, timing) = (self.now, self.timing);
        let silent = right.at + Millis::from(timing.reprove_every) + LATE;
        assert!(now <= silent, "{} ms after it was right for the last time: {sent:?}", now - right.at);
        if right.at < now
            && let Some(told) = self.told.get(right.changes).copied().flatten()
        {
            let announced = told.max(right.at) + Millis::from(timing.revalidate_within) + LATE;
            assert!(now <= announced, "{} ms after the change was known: {sent:?}", now - told);
        }
        sent
    }

    /// What goes to a server is answered to where it came from.
    fn delivered(&mut self, sent: Sent) {
        if let Some(host) = client_of(&sent.tuple) {
            self.answers[host] = Some(sent.tuple.inverted());
        }
    }

    /// Remembers of each direction whether the kernel would now send its packets as the fast path does.
    fn note_what_is_right(&mut self) {
        for flow in self.plane.flows() {
            let Some((tuple, sent)) = self.carried(flow) else { continue };
            let direction = usize::from(tuple.sport == 80);
            if self.kernel.would(direction, &tuple) == Some(sent) {
                self.right.insert(flow, Right { at: self.now, changes: self.told.len() });
            }
        }
    }

    /// A packet goes through the kernel.
    fn punt(&mut self, tuple: FiveTuple, direction: Direction, kind: Kind, print: Option<(FlowRef, bool)>) {
        let sent = self.kernel.packet(self.now, direction, &tuple, kind);
        self.told_of_conntrack();
        if let Some((flow, probe)) = print {
            let (epoch, changes) = (self.plane.epoch().max(1), self.told.len());
            let due = self.now + self.channel.dice().below(2) * TICK;
            // Now and then one is late.
            let due = if self.channel.crowded() { due + 2 * PATIENCE } else { due };
            self.prints.push(Print { flow, direction, epoch, probe, at: self.now, due, sent, changes });
        }
        if let Some(sent) = sent {
            self.delivered(sent);
        }
    }

    fn told_of_conntrack(&mut self) {
        for (event, entry) in std::mem::take(&mut self.kernel.events) {
            if !self.channel.event(self.now, event, entry) {
                self.kernel.unheard(entry.id);
            }
        }
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, time: Millis) {
        for _ in 0..time / TICK {
            self.note_what_is_right();
            self.now += TICK;
            self.kernel.expire(self.now, OUTLIVES + A::KNOWN_LATE);
            self.told_of_conntrack();
            self.punt_thread();
            self.control();
            self.plane.pass(self.now);
            self.release_held();
        }
    }

    fn punt_thread(&mut self) {
        let now = self.now;
        for print in std::mem::take(&mut self.prints) {
            if print.due > now && now - print.at < PATIENCE {
                self.prints.push(print);
                continue;
            }
            let proof = print.sent.filter(|_| print.due <= now).and_then(|sent| self.proof(&print, sent));
            if let Some(proof) = proof {
                let right = self.right.entry(print.flow).or_insert(Right { at: 0, changes: 0 });
                if right.at <= print.at {
                    *right = Right { at: print.at, changes: print.changes };
                }
                self.channel.observation(now, Observation::Proof(Box::new(proof)));
            } else if print.probe {
                self.channel.observation(now, Observation::Lost(print.flow));
            }
        }
        for (flow, deadline) in std::mem::take(&mut self.settling) {
            if now < deadline && self.prints.iter().any(|print| print.flow == flow) {
                self.settling.push((flow, deadline));
            } else {
                self.channel.observation(now, Observation::Settled(flow, 0));
            }
        }
    }

    /// The frame is compared with the snapshot, rewritten as the entries at hand say.
    fn proof(&self, print: &Print, sent: Sent) -> Option<Proof> {
        let peer = self.both(print.flow).into_iter().find(|peer| *peer != print.flow)?;
        if self.plane.key(peer)?.tuple() != sent.tuple.inverted() {
            return None;
        }
        let (egress_port, mac) = way_of(sent.way);
        let mut frame = [0_u8; 60];
        frame[..6].copy_from_slice(&mac);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        Some(Proof {
            flow: print.flow,
            ingress: Ingress::untagged(print.direction as u16, [2, 0, 0, 0, 0, 1]),
            egress_port,
            l2: L2Header::learn(&frame)?,
            l3_len: 100,
            overtook: 0,
            decrements_ttl: true,
            epoch: print.epoch,
        })
    }

    fn release_held(&mut self) {
        for held in std::mem::take(&mut self.held) {
            let is_held = self.plane.state(held.flow) == EntryState::Holding;
            if is_held && self.now - held.since < HOLD {
                self.held.push(held);
            } else {
                if is_held {
                    self.channel.observation(self.now, Observation::Lost(held.flow));
                    self.plane.transition(held.flow, EntryState::Holding, EntryState::Candidate);
                }
                self.received(held.tuple, held.direction, Kind::Data);
            }
        }
    }

    /// What holds at all times.
    fn check(&self) {
        for flow in self.plane.flows() {
            assert!(self.tracker.locate(flow, &self.plane).is_some(), "an entry without a connection");
        }
        self.plane.check();
    }

    /// After a dump, without faults: kernel, tracker and table have the same connections.
    pub(crate) fn settle_down(&mut self) {
        self.channel.faults = Faults::default();
        self.pass(3_000);
        self.dump();
        self.pass(500);
        let mut carried = 0;
        for entry in self.kernel.dump(self.now) {
            let view = self.tracker.find(self.now, &entry.orig, &self.plane);
            if self.tracker.refusal(&entry).is_none() {
                let Some(view) = view else {
                    assert!(self.room.is_some(), "an entry of conntrack that is not known");
                    continue;
                };
                assert_eq!(view.id, entry.id, "known by another id");
                assert_eq!((view.orig.tuple, view.reply.tuple), (entry.orig, entry.reply));
                carried += 1;
            }
        }
        let known = self.tracker.counts();
        let known = known.candidate + known.software + known.probing + known.closing;
        assert_eq!(self.plane.flows().len(), 2 * known as usize, "entries that belong to nobody");
        let closing = self.kernel.dump(self.now).iter().filter(|e| self.tracker.refusal(e).is_some()).count();
        assert!(known <= carried + closing as u32, "connections that the kernel does not have");
    }
}
