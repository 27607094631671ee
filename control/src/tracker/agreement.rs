//! The tracker between a model kernel and a model gateway, when what lies between them loses, delays, doubles and
//! reorders: no packet flies that the kernel would not have sent so, and in the end all agree.

pub(crate) mod air;
mod channel;
pub(crate) mod kernel;
pub(crate) mod world;

use dataplane::flow::EntryState;
use proptest::prelude::*;

use air::Air;
use channel::Faults;
use kernel::{HOSTS, Kind, orig};
use world::{World, way_of};

use super::testing::Model;
use super::{Changed, Millis, Policy};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Packet {
        host: usize,
        direction: usize,
        kind: Kind,
    },
    /// Data of these hosts, one packet each way every `every` milliseconds (`answered`: by the servers too).
    Traffic {
        hosts: u8,
        answered: bool,
        every: Millis,
        time: Millis,
    },
    Silence(Millis),
    /// A handshake, or the first two datagrams.
    Open(usize),
    /// The ruleset lets a host's packets through, or not any more.
    Block {
        host: usize,
        blocked: bool,
        told: bool,
    },
    Route {
        host: usize,
        direction: usize,
        way: u8,
        told: bool,
    },
    /// A neighbour is gone; what was sent to it goes another way.
    Neighbour {
        way: u8,
        to: u8,
    },
    Delete(usize),
    Mark {
        host: usize,
        mark: u32,
    },
    ShiftPorts,
    Faults(Faults),
    Restart,
    Overrun,
}

fn faults() -> impl Strategy<Value = Faults> {
    let none = Just(Faults::default());
    let some = (0..30_u8, 0..30_u8, 0..30_u8, 0..30_u8, 0..300_u16)
        .prop_map(|(lost, silent, doubled, crowded, delay)| Faults { lost, silent, doubled, crowded, delay });
    prop_oneof![1 => none, 3 => some]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS;
    let kind =
        prop_oneof![4 => Just(Kind::Data), 1 => Just(Kind::Syn), 2 => Just(Kind::Fin), 1 => Just(Kind::Rst)];
    prop_oneof![
        4 => (host(), 0..2_usize, kind).prop_map(|(host, direction, kind)| Step::Packet { host, direction, kind }),
        8 => (any::<u8>(), prop::bool::weighted(0.9), 10..200_u64, 100..20_000_u64)
            .prop_map(|(hosts, answered, every, time)| Step::Traffic { hosts, answered, every, time }),
        2 => (10..3_000_u64).prop_map(Step::Silence),
        1 => (3_000..60_000_u64).prop_map(Step::Silence),
        6 => host().prop_map(Step::Open),
        2 => (host(), any::<bool>(), prop::bool::weighted(0.7))
            .prop_map(|(host, blocked, told)| Step::Block { host, blocked, told }),
        2 => (host(), 0..2_usize, 0..4_u8, prop::bool::weighted(0.7))
            .prop_map(|(host, direction, way, told)| Step::Route { host, direction, way, told }),
        1 => (0..4_u8, 0..4_u8).prop_map(|(way, to)| Step::Neighbour { way, to }),
        1 => host().prop_map(Step::Delete),
        1 => (host(), 0..2_u32).prop_map(|(host, mark)| Step::Mark { host, mark }),
        1 => Just(Step::ShiftPorts),
        2 => faults().prop_map(Step::Faults),
        1 => Just(Step::Restart),
        1 => Just(Step::Overrun),
    ]
}

impl<A: Air> World<A> {
    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Packet { host, direction, kind } => self.packet(host, direction, kind),
            Step::Traffic { hosts, answered, every, time } => self.traffic(hosts, answered, every, time),
            Step::Silence(time) => self.pass(time),
            Step::Open(host) => self.open(host),
            Step::Block { host, blocked, told } => {
                self.kernel.blocked[host] = blocked;
                self.change(told.then_some(Changed::Ruleset));
            }
            Step::Route { host, direction, way, told } => {
                self.kernel.ways[host][direction] = way;
                self.change(told.then_some(Changed::Anything));
            }
            Step::Neighbour { way, to } => {
                for host in 0..HOSTS {
                    for direction in 0..2 {
                        if self.kernel.ways[host][direction] == way {
                            self.kernel.ways[host][direction] = to;
                        }
                    }
                }
                self.change(Some(Changed::NextHop { mac: way_of(way).1 }));
            }
            Step::Delete(host) => self.kernel.delete(self.now, host),
            Step::Mark { host, mark } => self.kernel.mark(self.now, host, mark),
            Step::ShiftPorts => self.kernel.shift_ports(),
            Step::Faults(faults) => self.channel.faults = faults,
            Step::Restart => self.restart(),
            Step::Overrun => self.dump(),
        }
        self.pass(super::TICK);
    }

    pub(crate) fn open(&mut self, host: usize) {
        for (direction, kind) in [(0, Kind::Syn), (1, Kind::Data), (0, Kind::Data)] {
            self.packet(host, direction, kind);
            self.pass(super::TICK);
        }
    }

    pub(crate) fn traffic(&mut self, hosts: u8, answered: bool, every: Millis, time: Millis) {
        let mut left = time;
        while left > 0 {
            for host in (0..HOSTS).filter(|host| hosts >> host & 1 == 1) {
                self.packet(host, 0, Kind::Data);
                if answered {
                    self.packet(host, 1, Kind::Data);
                }
            }
            self.pass(every.max(super::TICK));
            left = left.saturating_sub(every.max(super::TICK));
        }
    }
}

fn live(world: &mut World<Model>, steps: Vec<Step>) {
    for step in steps {
        world.step(step);
    }
    world.settle_down();
}

/// How many are tried: more for a longer look, by `HISTORIES=5000`.
pub(crate) fn histories() -> u32 {
    std::env::var("HISTORIES").ok().and_then(|number| number.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(histories()))]

    #[test]
    fn kernel_tracker_and_table_agree_in_the_end(
        seed in any::<u64>(),
        marked in prop::bool::weighted(0.2),
        room in prop_oneof![4 => Just(None), 1 => Just(Some(HOSTS / 2))],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let policy = if marked { Policy::Marked { value: 1, mask: 1 } } else { Policy::Established };
        let mut world = World::<Model>::new(seed, policy, room);
        live(&mut world, steps);
    }

    /// Whatever has happened, once nothing goes wrong any more each connection flies that may.
    #[test]
    fn what_belongs_into_the_air_gets_there(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::<Model>::new(seed, Policy::Established, None);
        live(&mut world, steps);
        for host in 0..HOSTS {
            world.packet(host, 0, Kind::Rst);
        }
        world.pass(100_000);
        assert!(world.kernel.entries.is_empty() && world.tracker.is_empty(), "something never ends");
        assert!(world.plane.entries.is_empty());
        for host in 0..HOSTS {
            world.open(host);
        }
        world.traffic(u8::MAX, true, 20, 3_000);
        for host in 0..HOSTS {
            let state = world.tracker.find(world.now, &orig(host), &world.plane).map(|view| view.state);
            let state = state.unwrap_or("unknown");
            prop_assert_eq!(state != "software", world.kernel.blocked[host], "host {} is {}", host, state);
        }
        for entry in world.plane.entries.values() {
            prop_assert!(entry.state != EntryState::Closing);
        }
    }
}

#[test]
fn the_worlds_traffic_flies() {
    let mut world = World::<Model>::new(1, Policy::Established, None);
    (0..HOSTS).for_each(|host| world.open(host));
    world.traffic(u8::MAX, true, 20, 60_000);
    let packets = 60_000 / 20 * 2 * HOSTS as u64;
    assert!(world.flown > packets * 9 / 10, "{} of {packets}", world.flown);
    let used = world.plane.entries.keys().count();
    assert_eq!(used, 2 * HOSTS);
    assert_eq!(world.plane.epoch, 0);
    world.settle_down();
}
