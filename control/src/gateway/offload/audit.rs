//! Kernel, flow table and NIC are compared, rule by rule: what events have not told, or what was told and got lost.
//!
//! A rule that is in must have a living direction that flies, whose connection the tracker knows; what a NIC would be told
//! of it now must be what it was told; and the NIC must know the rule, and count its packets. Each is looked at every few
//! seconds, some at a time. What is found has to be so at a second look, since workers and kernel are always a moment ahead
//! of control. Then it is counted, told and mended.

use std::collections::{BTreeSet, HashSet};

use dataplane::dpdk::flow_rule::{FlowError, FlowId};
use dataplane::flow::{EntryState, EntryView, FlowRef};
use dataplane::hardware::HardwareFlow;
use dataplane::hardware::scheduler::Whereabouts;
use nix::errno::Errno;

use super::{Name, Offload, cannot, name};

/// How often a rule is looked at, in milliseconds; and how soon again if it differs.
pub(super) const EVERY: u64 = 5_000;
pub(super) const AGAIN: u64 = 500;
/// Rules looked at in a second, and in one go: each may cost a question to the kernel's routing.
const RATE: u64 = 2_000;
const BATCH: u64 = 64;
/// How often the rules that a port holds are compared with those that were made.
pub(super) const BOOKS_EVERY: u64 = 10_000;
/// So many packets by workers, and none by the NIC that has the rule, say that it does nothing.
const STANDS_STILL: u64 = 200;
/// So many rules in a row that are lost or stand still, and none that works, say that the NIC has lost all.
const ALL_LOST: u32 = 4;
/// Differences are logged so often, in milliseconds.
const TELL_EVERY: u64 = 10_000;

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// The direction is not in the flow table any more, or another has its place.
    Gone,
    /// It does not fly.
    Grounded(EntryState),
    /// The tracker does not know its connection.
    Unknown,
    /// The NIC was told something else than it would be now.
    Otherwise(String),
    /// The NIC has no such rule.
    Lost,
    /// The NIC has the rule and can't say what it counted.
    Unreadable(FlowError),
    /// Its packets come to workers.
    Idle,
}

/// What the next look is compared with.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    /// Packets by the rule, and by workers.
    packets: (u64, u64),
    /// What differed.
    differs: Option<Difference>,
}

impl Looked {
    /// A rule is new; workers had so many packets until then.
    pub(super) const fn after(by_workers: u64) -> Self {
        Self { packets: (0, by_workers), differs: None }
    }
}

/// What there is to compare of a rule that is in.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// Of the direction; none if it is gone.
    pub(super) state: Option<EntryState>,
    /// The tracker knows its connection.
    pub(super) known: bool,
    /// What the NIC was told, and by which port packets come in.
    pub(super) told: (usize, &'a HardwareFlow),
    /// What it would be told now.
    pub(super) would_be_told: Result<(usize, HardwareFlow), FlowError>,
    /// What the rule has counted.
    pub(super) counted: Result<u64, FlowError>,
    /// What workers have.
    pub(super) by_workers: u64,
    pub(super) before: &'a Looked,
}

/// What differs, the worst first.
pub(super) fn compare(facts: &Facts<'_>) -> Option<Difference> {
    match facts.state {
        None => return Some(Difference::Gone),
        Some(EntryState::Software) => {}
        Some(state) => return Some(Difference::Grounded(state)),
    }
    if !facts.known {
        return Some(Difference::Unknown);
    }
    match &facts.would_be_told {
        Err(why) => return Some(Difference::Otherwise(why.to_string())),
        Ok((port, _)) if *port != facts.told.0 => {
            return Some(Difference::Otherwise("it comes in by another port".to_owned()));
        }
        Ok((_, flow)) if flow != facts.told.1 => {
            return Some(Difference::Otherwise("it leaves in another way".to_owned()));
        }
        Ok(_) => {}
    }
    match &facts.counted {
        Err(error) if error.errno == Errno::ENOENT => Some(Difference::Lost),
        Err(error) => Some(Difference::Unreadable(error.clone())),
        Ok(packets) => {
            let (by_nic, by_workers) = facts.before.packets;
            let idle = *packets == by_nic && facts.by_workers.saturating_sub(by_workers) >= STANDS_STILL;
            idle.then_some(Difference::Idle)
        }
    }
}

/// Who is to be looked at when.
#[derive(Debug, Default)]
pub(super) struct Audit {
    due: BTreeSet<(u64, Name, FlowId)>,
    books_due: u64,
    /// Thousandths of looks that may be taken now, and as of when.
    budget: u64,
    filled_at: u64,
    /// Rules of a port that nobody knew at the last look into the books.
    strangers: HashSet<(usize, u64)>,
    /// By port: rules in a row that do nothing.
    in_vain: Vec<u32>,
    told: Option<u64>,
}

impl Audit {
    /// A rule is in.
    pub(super) fn add(&mut self, name: Name, rule: FlowId, now: u64) {
        self.due.insert((now + EVERY, name, rule));
    }

    fn in_vain(&mut self, port: usize) -> &mut u32 {
        if self.in_vain.len() <= port {
            self.in_vain.resize(port + 1, 0);
        }
        &mut self.in_vain[port]
    }
}

impl Offload {
    /// Directions whose rules are to be [looked at](Self::look) now.
    pub(in crate::gateway) fn due_for_audit(&mut self, now: u64) -> Vec<FlowRef> {
        if now >= self.audit.books_due {
            self.audit.books_due = now + BOOKS_EVERY;
            (0..self.ports.len()).for_each(|port| self.compare_books(port));
        }
        let audit = &mut self.audit;
        let passed = now.saturating_sub(audit.filled_at);
        audit.budget = audit.budget.saturating_add(passed.saturating_mul(RATE)).min(BATCH * 1000);
        audit.filled_at = now;
        let mut flows = Vec::new();
        while let Some(first) = self.audit.due.first().copied().filter(|(due, ..)| *due <= now)
            && self.audit.budget >= 1000
        {
            self.audit.due.remove(&first);
            self.audit.budget -= 1000;
            let (_, name, rule) = first;
            // A later rule of the same direction has a place of its own.
            let placed = self.placed.get(&name).filter(|placed| placed.rule == Some(rule));
            flows.extend(placed.map(|placed| placed.flow));
        }
        flows
    }

    /// Compares what kernel (`known`: the tracker knows its connection), flow table and NIC have of a direction with a
    /// rule. `false`: the flow table has a direction that flies and is nobody's.
    pub(in crate::gateway) fn look(&mut self, flow: FlowRef, known: bool, now: u64) -> bool {
        let name = name(flow);
        let Some(placed) = self.placed.get(&name) else { return true };
        let (Some(rule), Some(told), port) = (placed.rule, &placed.told, placed.port) else { return true };
        let Some(rules) = self.ports.get(port) else { return true };
        // One on its way out is looked after already.
        if rules.scheduler.whereabouts(name) != Whereabouts::Hardware {
            return true;
        }
        let entry = self.table.resolve(flow).map(|slot| self.table.entry(slot));
        let by_workers = entry.as_ref().map_or(0, EntryView::packets);
        let counted = rules.rules().and_then(|rules| rules.count(rule, false));
        let counted = counted.map(|count| count.packets.unwrap_or(0));
        let packets = *counted.as_ref().unwrap_or(&placed.looked.packets.0);
        let difference = compare(&Facts {
            state: entry.as_ref().map(EntryView::state),
            known,
            told: (port, told),
            would_be_told: self.derive(flow),
            counted,
            by_workers,
            before: &placed.looked,
        });
        let is_new = difference.is_some() && placed.looked.differs != difference;
        if let Some(rules) = self.ports.get_mut(port) {
            rules.differences.looks += 1;
        }
        let Some(placed) = self.placed.get_mut(&name) else { return true };
        match difference {
            None => {
                // One whose packets are few says nothing of the NIC.
                if packets > placed.looked.packets.0 {
                    *self.audit.in_vain(port) = 0;
                }
                placed.looked = Looked { packets: (packets, by_workers), differs: None };
                self.audit.due.insert((now + EVERY, name, rule));
            }
            Some(difference) if is_new => {
                placed.looked.differs = Some(difference);
                self.audit.due.insert((now + AGAIN, name, rule));
            }
            Some(difference) => return self.mend(port, flow, difference, now),
        }
        true
    }

    fn mend(&mut self, port: usize, flow: FlowRef, difference: Difference, now: u64) -> bool {
        let name = name(flow);
        let key = self.placed.get(&name).map(|placed| placed.key);
        let id = self.ports.get(port).map(|port| port.id);
        self.tell(|| {
            tracing::warn!(
                port = id,
                flow = ?key,
                ?difference,
                "NIC, flow table and kernel did not agree on a rule: it is put right"
            );
        });
        let Some(found) = self.ports.get_mut(port).map(|rules| &mut rules.differences) else { return true };
        match &difference {
            Difference::Gone | Difference::Grounded(_) | Difference::Unknown => found.orphaned += 1,
            Difference::Otherwise(_) => found.outdated += 1,
            Difference::Lost => found.lost += 1,
            Difference::Unreadable(_) | Difference::Idle => found.failing += 1,
        }
        let mut in_vain = false;
        match difference {
            Difference::Gone => self.remove(flow),
            Difference::Grounded(_) | Difference::Otherwise(_) => drop(self.leave(flow)),
            Difference::Unknown => {
                self.leave(flow);
                return false;
            }
            Difference::Lost => {
                in_vain = true;
                if self.ports.get_mut(port).is_some_and(|rules| rules.scheduler.lost(name)) {
                    self.is_out(name);
                }
            }
            Difference::Unreadable(error) => self.withdraw(port, name, error),
            Difference::Idle => {
                in_vain = true;
                self.withdraw(
                    port,
                    name,
                    cannot("the NIC took its rule, and its packets came to software all the same"),
                );
            }
        }
        if in_vain {
            *self.audit.in_vain(port) += 1;
            if *self.audit.in_vain(port) >= ALL_LOST {
                *self.audit.in_vain(port) = 0;
                self.remake(port, now);
            }
        }
        true
    }

    fn withdraw(&mut self, port: usize, name: Name, why: FlowError) {
        if let Some(rules) = self.ports.get_mut(port) {
            rules.scheduler.withdraw(name, why);
        }
    }

    /// Removes rules that a port holds and nobody has asked for, if that is so twice.
    fn compare_books(&mut self, port: usize) {
        let Some(rules) = self.ports.get(port) else { return };
        let Ok(held) = rules.rules().map(dataplane::dpdk::flow_rule::FlowRules::held) else { return };
        let numbers = rules.scheduler.numbers();
        let with_rule = numbers.hardware + numbers.going_in + numbers.coming_out;
        let before = std::mem::take(&mut self.audit.strangers);
        let (of_port, others): (HashSet<_>, HashSet<_>) = before.into_iter().partition(|(of, _)| *of == port);
        self.audit.strangers = others;
        if held.len() <= rules.guards().len() + with_rule {
            return;
        }
        let placed = self.placed.values().filter(|placed| placed.port == port);
        let known: HashSet<u64> = placed
            .filter_map(|placed| placed.rule)
            .chain(rules.guards().iter().copied())
            .map(FlowId::number)
            .collect();
        for number in held.into_iter().filter(|number| !known.contains(number)) {
            if !of_port.contains(&(port, number)) {
                self.audit.strangers.insert((port, number));
                continue;
            }
            let Some(rules) = self.ports.get_mut(port) else { return };
            let (id, outcome) = (rules.id, rules.rules().and_then(|rules| rules.destroy_held(number)));
            rules.differences.extra += 1;
            self.tell(|| match outcome {
                Ok(()) => tracing::warn!(port = id, "the NIC had a rule that is nobody's: it is removed"),
                Err(error) => tracing::error!(
                    port = id,
                    %error,
                    "the NIC has a rule that is nobody's and does not let it go: its packets may go past the rules of nftables"
                ),
            });
        }
    }

    /// Not more often than makes sense.
    fn tell(&mut self, what: impl FnOnce()) {
        if self.audit.told.is_none_or(|told| self.now >= told + TELL_EVERY) {
            self.audit.told = Some(self.now);
            what();
        }
    }
}
