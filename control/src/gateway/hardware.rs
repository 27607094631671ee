//! The gateway's hardware: which hot directions may go into it, and what is told of it.

use dataplane::flow::{EntryState, FiveTuple, FlowRef, Key, Snapshot};

use super::ports::GatewayPort;
use super::report::marks;
use super::state::State;
use crate::api::{DirectionRules, HardwareDirections, HardwareWaits, PortHardware};
use crate::config::Offload;
use crate::tracker::Plane;

impl State {
    /// Passes on what workers told of, and lets time pass for NICs.
    pub(super) fn offload(&mut self, now: u64) {
        let wanted = self.config.hardware.mark;
        while let Some(told) = self.plane.offload.next_hot() {
            let mark = self.tracker.mark(told.flow, &self.plane);
            // A connection that gets another mark leaves, as it proves itself again.
            if wanted.is_none_or(|wanted| mark.is_some_and(|mark| mark & wanted.mask == wanted.value)) {
                self.plane.offload.consider(told);
            } else {
                self.plane.offload.take_out(told.flow);
            }
        }
        if self.plane.offload.has_trials() {
            let counted = self.counted();
            self.plane.offload.marks_came(counted.marked.map(|marked| marked.found));
        }
        self.plane.offload.tick(now);
        for flow in self.plane.offload.due_for_audit(now) {
            let known = self.tracker.mark(flow, &self.plane).is_some();
            if !self.plane.offload.look(flow, known, now) {
                // Nobody would ever take it back.
                self.plane.set_state(flow, EntryState::Candidate);
            }
        }
    }

    /// What workers have counted.
    pub(super) fn counted(&self) -> Snapshot {
        Snapshot::of(self.workers.iter().map(|worker| &*worker.counters))
    }

    /// Whether NICs carry all of a connection that flies: both of its directions, or the one that has packets.
    pub(super) fn is_carried(&self, flow: FlowRef) -> bool {
        self.plane.offload.carries(flow)
    }

    /// Connections that NICs carry.
    pub(super) fn carried(&self) -> u64 {
        self.plane.offload.carried()
    }

    /// What ports' hardware does, in words.
    pub(super) fn hardware_words(&self) -> String {
        let named = |(number, port): (usize, &GatewayPort)| {
            let rules = self.plane.offload.ports().get(number)?;
            let (name, tier) = (&port.config.name, rules.capabilities.tier.name());
            Some(match rules.capabilities.why() {
                "" => format!("{name} {tier}"),
                why => format!("{name} {tier} ({why})"),
            })
        };
        self.in_order().into_iter().filter_map(named).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn hardware_info(&self) -> Vec<PortHardware> {
        let model = self.config.hardware.offload == Offload::Model;
        let counted = self.counted();
        let info = |(number, port): (usize, &GatewayPort)| {
            let (rules, marked) = (self.plane.offload.ports().get(number)?, counted.marked.get(number)?);
            let (found, numbers) = (&rules.capabilities, rules.scheduler.numbers());
            Some(PortHardware {
                name: port.config.name.clone(),
                driver: if model { "model".to_owned() } else { port.driver.clone() },
                tier: found.tier.name().to_owned(),
                used: rules.carries() || rules.marks(),
                proved: found.proved,
                ipv6: found.ipv6,
                vlan: found.tags,
                ages: found.ages,
                lengths: found.lengths,
                form: found.form.as_ref().map(ToString::to_string),
                findings: found.findings.clone(),
                directions: HardwareDirections {
                    hardware: numbers.hardware as u64,
                    waiting: (numbers.waiting + numbers.going_in) as u64,
                    put_off: numbers.put_off as u64,
                    leaving: numbers.coming_out as u64,
                    capacity: numbers.capacity as u64,
                },
                queues: rules.carries() && rules.under_way.by_queue(),
                audit: rules.differences,
                waits: HardwareWaits {
                    longest_us: rules.waits.longest.as_micros().try_into().unwrap_or(u64::MAX),
                    overran: rules.waits.overran,
                },
                marks: marks(std::slice::from_ref(marked)),
            })
        };
        self.in_order().into_iter().filter_map(info).collect()
    }

    /// The rules of both directions of a connection, whether they are in a NIC or not.
    pub(super) fn rules_of(&self, tuple: &FiveTuple) -> Vec<DirectionRules> {
        let now = self.clock.millis();
        let Some(view) = self.tracker.find(now, tuple, &self.plane) else { return Vec::new() };
        let rules = |tuple: &FiveTuple| {
            let flow = Key::from_tuple(tuple).and_then(|key| self.plane.flow(&key));
            match flow.map(|flow| self.plane.offload.rules_of(flow)) {
                Some(Ok((port, rules))) => {
                    DirectionRules { port: self.port_name(port as u16), rules, why: None }
                }
                Some(Err(why)) => DirectionRules { why: Some(why), ..DirectionRules::default() },
                None => DirectionRules::default(),
            }
        };
        vec![rules(&view.orig.tuple), rules(&view.reply.tuple)]
    }
}
