//! What lies between kernel, punt threads and control: sockets and rings that lose, delay, double and reorder.

use crate::netlink::conntrack::ConntrackEntry;
use crate::tracker::{Changed, Millis};
use dataplane::flow::FiveTuple;
use dataplane::punt::Observation;

use super::kernel::Event;

/// Numbers drawn from a seed (xorshift64*).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    /// True in `percent` of a hundred.
    pub(crate) const fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < percent as u64
    }
}

/// What goes wrong, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Events and announcements that are lost, and the loss told by ENOBUFS.
    pub(crate) lost: u8,
    /// The same, and nobody is told.
    pub(crate) silent: u8,
    pub(crate) doubled: u8,
    /// Observations that find no room in their ring, and dumps that are cut short.
    pub(crate) crowded: u8,
    /// An event's longest time on its way, in milliseconds: events overtake each other by as much.
    pub(crate) delay: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum Message {
    Event(Event, ConntrackEntry),
    /// ENOBUFS of the event socket.
    Overrun,
    /// A change, by its number, as it is announced.
    Change(usize, Changed),
    /// The same, as ENOBUFS: all up to this number.
    Changes(usize),
    DumpPart(Vec<ConntrackEntry>),
    DumpEnd {
        whole: bool,
    },
    Answer(FiveTuple, Option<ConntrackEntry>),
    Observation(Observation),
}

/// Sockets and rings that keep their order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    Changes,
    Answers,
    Observations,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) faults: Faults,
    dice: Dice,
    on_way: Vec<(Millis, u64, Message)>,
    sequence: u64,
    last: [Millis; 3],
}

impl Channel {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            faults: Faults::default(),
            dice: Dice::new(seed),
            on_way: Vec::new(),
            sequence: 0,
            last: [0; 3],
        }
    }

    fn push(&mut self, due: Millis, message: Message) {
        self.sequence += 1;
        self.on_way.push((due, self.sequence, message));
    }

    /// Something of conntrack, which keeps no order. `false`: it is lost, and nobody is told.
    pub(crate) fn event(&mut self, now: Millis, event: Event, entry: ConntrackEntry) -> bool {
        let Faults { lost, silent, doubled, delay, .. } = self.faults;
        if self.dice.chance(silent) {
            return false;
        }
        if self.dice.chance(lost) {
            let due = now + self.dice.below(100);
            self.push(due, Message::Overrun);
            return true;
        }
        let copies = 1 + usize::from(self.dice.chance(doubled));
        for _ in 0..copies {
            let due = now + self.dice.below(u64::from(delay) + 1);
            self.push(due, Message::Event(event, entry));
        }
        true
    }

    /// Something of a socket or ring that keeps its order.
    pub(crate) fn send(&mut self, now: Millis, lane: Lane, message: Message) {
        let due = self.last[lane as usize].max(now + self.dice.below(u64::from(self.faults.delay) / 4 + 1));
        self.last[lane as usize] = due;
        self.push(due, message);
    }

    /// A change is announced, unless that is lost.
    pub(crate) fn announce(&mut self, now: Millis, number: usize, changed: Changed) {
        if self.dice.chance(self.faults.silent) {
            return;
        }
        let lost = self.dice.chance(self.faults.lost);
        let message = if lost { Message::Changes(number) } else { Message::Change(number, changed) };
        self.send(now, Lane::Changes, message);
    }

    /// An observation finds room in the ring, or does not.
    pub(crate) fn observation(&mut self, now: Millis, observation: Observation) {
        if !self.dice.chance(self.faults.crowded) {
            self.send(now, Lane::Observations, Message::Observation(observation));
        }
    }

    pub(crate) const fn crowded(&mut self) -> bool {
        self.dice.chance(self.faults.crowded)
    }

    pub(crate) const fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// What has arrived, in the order of arrival.
    pub(crate) fn arrived(&mut self, now: Millis) -> Vec<Message> {
        self.on_way.sort_by_key(|(due, sequence, _)| (*due, *sequence));
        let ready = self.on_way.partition_point(|(due, ..)| *due <= now);
        self.on_way.drain(..ready).map(|(.., message)| message).collect()
    }
}
