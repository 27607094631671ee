//! Control's loop: what it hears of kernel, punt threads and workers, and what it does.

use super::super::air::Air;
use super::super::channel::{Lane, Message};
use super::super::kernel::Event;
use super::{PATIENCE, World};
use crate::netlink::conntrack::{ConntrackEntry, Zones};
use crate::tracker::{Action, Changed, Source};

impl<A: Air> World<A> {
    /// One round of control's loop: the kernel's word first.
    pub(super) fn control(&mut self) {
        let rank = |message: &Message| match message {
            Message::Change(..) | Message::Changes(_) => 0,
            Message::Event(..) | Message::Overrun => 1,
            Message::DumpPart(_) | Message::DumpEnd { .. } | Message::Answer(..) => 2,
            Message::Observation(_) => 3,
        };
        let mut arrived = self.channel.arrived(self.now);
        arrived.sort_by_key(rank);
        for message in arrived {
            self.heard(message);
            self.check();
        }
        self.tracker.tick(self.now, &mut self.plane);
        self.act();
        self.check();
        self.go_on_dumping();
    }

    fn heard(&mut self, message: Message) {
        let (now, plane) = (self.now, &mut self.plane);
        match message {
            Message::Change(number, changed) => {
                self.tracker.changed(now, changed, plane);
                self.knows(number);
            }
            Message::Changes(number) => {
                self.tracker.changed(now, Changed::Anything, plane);
                self.knows(number);
            }
            Message::Event(Event::Update, entry) => {
                self.tracker.entry(now, &entry, Source::Event, plane);
            }
            Message::Event(Event::Destroy, entry) => {
                self.tracker.destroyed(now, &entry, plane);
                let known = self.tracker.find(now, &entry.orig, &self.plane);
                assert!(known.is_none_or(|view| view.id != entry.id), "known though it was destroyed");
            }
            Message::Overrun => self.dump(),
            Message::DumpPart(entries) => {
                for entry in &entries {
                    self.tracker.entry(now, entry, Source::Dump, plane);
                }
            }
            Message::DumpEnd { whole } => {
                self.dump_stage = 0;
                if whole {
                    self.tracker.dump_finished(plane);
                }
                if !whole || self.dump_again {
                    self.dump();
                }
            }
            Message::Answer(_, Some(entry)) => {
                self.tracker.entry(now, &entry, Source::Answer, plane);
            }
            Message::Answer(tuple, None) => self.tracker.not_found(&tuple, Zones::default(), plane),
            Message::Observation(observation) => self.tracker.observe(now, observation, plane),
        }
        self.act();
    }

    fn knows(&mut self, number: usize) {
        let now = self.now;
        self.told.iter_mut().take(number + 1).for_each(|told| *told = told.or(Some(now)));
    }

    fn act(&mut self) {
        let actions: Vec<Action> = self.tracker.actions().collect();
        for action in actions {
            match action {
                Action::Timeout { orig, timeout_s, liberal, .. } => {
                    let known = self.tracker.find(self.now, &orig, &self.plane).map(|view| view.id);
                    self.kernel.hit(&orig, known);
                    self.kernel.set_timeout(self.now, &orig, timeout_s, liberal);
                }
                Action::Ask { tuple, .. } => {
                    let answer = self.kernel.get(self.now, &tuple);
                    self.channel.send(self.now, Lane::Answers, Message::Answer(tuple, answer));
                }
                Action::Settle(flow) => self.settling.push((flow, self.now + PATIENCE)),
            }
        }
    }

    fn go_on_dumping(&mut self) {
        let half = |entries: Vec<ConntrackEntry>, second: bool| {
            let lies = move |e: &ConntrackEntry| (e.id % 2 == 1) == second;
            Message::DumpPart(entries.into_iter().filter(lies).collect())
        };
        let entries = self.kernel.dump(self.now);
        if let stage @ (1 | 2) = self.dump_stage {
            self.channel.send(self.now, Lane::Answers, half(entries, stage == 2));
            self.dump_stage += 1;
            let whole = stage == 2;
            if whole || self.channel.crowded() {
                self.channel.send(self.now, Lane::Answers, Message::DumpEnd { whole });
                self.dump_stage = 3;
            }
        }
    }
}
