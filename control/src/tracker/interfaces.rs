//! Rules that name interfaces: which of them concern a connection shows when it is seen where its packets come in and
//! go out. Until then it is a candidate, if there is a way on which no rule keeps it.

use dataplane::flow::FiveTuple;
use dataplane::punt::Proof;

use super::connection::Connection;
use super::{Dir, Plane, Tracker};
use crate::netlink::conntrack::{ConntrackEntry, Status};
use crate::ruleset::{ConnectionView, Direction};

/// By port, every name under which rules may know where its packets come in and go out: the twin's, and those of what
/// is built on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces(pub Vec<Vec<String>>);

impl Interfaces {
    /// Any, if the port is not known.
    fn of(&self, port: u16) -> Vec<&str> {
        self.0
            .get(usize::from(port))
            .map(|names| names.iter().map(String::as_str).collect())
            .unwrap_or_default()
    }
}

/// A connection that comes in and goes out so. Answers go the same way back.
fn view<'a>(
    orig: FiveTuple,
    reply: FiveTuple,
    mark: u32,
    status: Status,
    inside: &'a [&'a str],
    outside: &'a [&'a str],
) -> ConnectionView<'a> {
    ConnectionView {
        orig: Direction { tuple: orig, input: inside, output: outside },
        reply: Direction { tuple: reply, input: outside, output: inside },
        mark,
        status,
    }
}

/// What is known of the status of an entry whose connection is in the table.
fn status(connection: &Connection, orig: &FiveTuple, reply: &FiveTuple) -> Status {
    let mut status = Status::CONFIRMED;
    for (is, bit) in [
        (connection.replied, Status::SEEN_REPLY),
        (connection.assured, Status::ASSURED),
        ((orig.src, orig.sport) != (reply.dst, reply.dport), Status::SRC_NAT),
        ((orig.dst, orig.dport) != (reply.src, reply.sport), Status::DST_NAT),
    ] {
        if is {
            status = status | bit;
        }
    }
    status
}

impl Tracker {
    /// Replaces the names of ports. To be told of as a [change](Tracker::changed), too.
    pub fn set_interfaces(&mut self, interfaces: Interfaces) {
        self.interfaces = interfaces;
    }

    /// The names of ports.
    pub const fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// Whether the ruleset keeps a connection in the kernel wherever it comes in and goes out.
    pub(super) fn is_kept(&self, entry: &ConntrackEntry) -> bool {
        if !self.judgement.keeps_any() || self.judgement.keeps(&ConnectionView::of(entry)).is_none() {
            return false;
        }
        let ports = 0..self.interfaces.0.len() as u16;
        let mut ways = ports.clone().flat_map(|inside| ports.clone().map(move |outside| (inside, outside)));
        let mark = entry.mark.unwrap_or(0);
        ways.all(|(inside, outside)| {
            let (inside, outside) = (self.interfaces.of(inside), self.interfaces.of(outside));
            let view = view(entry.orig, entry.reply, mark, entry.status, &inside, &outside);
            self.judgement.keeps(&view).is_some()
        })
    }

    /// Whether the ruleset keeps a connection in the kernel that was seen to go this way.
    pub(super) fn is_kept_on_its_way(&self, index: u32, dir: Dir, proof: &Proof, plane: &impl Plane) -> bool {
        let connection = &self.connections[index];
        if !self.judgement.keeps_any() {
            return false;
        }
        let key = |dir: Dir| connection.flows.and_then(|flows| plane.key(flows[dir as usize]));
        let (Some(orig), Some(reply)) = (key(Dir::Orig), key(Dir::Reply)) else { return false };
        let (orig, reply) = (orig.tuple(), reply.tuple());
        // The PPP interface is none of those that are known to stand on a twin.
        let named = |port: u16, pppoe: bool| if pppoe { Vec::new() } else { self.interfaces.of(port) };
        let input = named(proof.ingress.port(), proof.ingress.pppoe().is_some());
        let output = named(proof.egress_port, proof.l2.pppoe_length_offset().is_some());
        let (inside, outside) = match dir {
            Dir::Orig => (input, output),
            Dir::Reply => (output, input),
        };
        let status = status(connection, &orig, &reply);
        self.judgement.keeps(&view(orig, reply, connection.mark, status, &inside, &outside)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use dataplane::flow::{EntryState, UDP};
    use dataplane::packet::Ingress;
    use dataplane::punt::Observation;

    use super::super::testing::{Rig, masqueraded};
    use super::super::{Changed, Policy, Refusal};
    use super::*;
    use crate::ruleset::testing::with_quota_from;

    /// Port 0 is lan0 in br0, port 1 is wan0; what a rule for this interface must see stays in the kernel.
    fn rig(interface: &str) -> Rig {
        let mut rig = Rig::with(Policy::Established);
        let names = [vec!["br0".to_owned(), "lan0".to_owned()], vec!["wan0".to_owned()]];
        rig.tracker.set_interfaces(Interfaces(names.into()));
        rig.tracker.set_judgement(with_quota_from(interface).into());
        rig
    }

    #[test]
    fn a_rule_for_an_interface_keeps_what_goes_by_it() {
        // Packets come in by lan0 and are answered by wan0.
        for (interface, state) in [
            ("guest0", EntryState::Holding),
            ("br0", EntryState::Candidate),
            ("lan0", EntryState::Candidate),
            ("wan0", EntryState::Candidate),
        ] {
            let (mut rig, entry) = (rig(interface), masqueraded(UDP, 1));
            rig.event(&entry);
            assert_eq!(rig.tracker.refusal(&entry), None, "{interface}: not on every way");
            rig.prove(entry.orig, 100);
            assert_eq!(rig.state(entry.orig), state, "{interface}");
        }
    }

    #[test]
    fn without_names_any_may_be_meant() {
        let (mut rig, entry) = (rig("guest0"), masqueraded(UDP, 1));
        rig.tracker.set_interfaces(Interfaces::default());
        assert_eq!(rig.tracker.refusal(&entry), Some(Refusal::Ruleset));
        rig.event(&entry);
        assert!(rig.model.entries.is_empty());
    }

    #[test]
    fn a_ppp_interface_may_have_any_name() {
        let (mut rig, entry) = (rig("pppoe-wan"), masqueraded(UDP, 1));
        rig.event(&entry);
        let mut proof = rig.proof(entry.orig, 100);
        proof.ingress = Ingress::untagged(0, [2, 0, 0, 0, 0, 1]).in_pppoe(7);
        rig.observe(Observation::Proof(Box::new(proof)));
        assert_eq!(rig.state(entry.orig), EntryState::Candidate);
        rig.prove(entry.orig, 100);
        assert_eq!(rig.state(entry.orig), EntryState::Holding);
    }

    #[test]
    fn a_rule_that_comes_takes_what_flies_back() {
        let (mut rig, entry) = (rig("guest0"), masqueraded(UDP, 1));
        rig.event(&entry);
        rig.take_off(&entry);
        rig.tracker.set_judgement(with_quota_from("lan0").into());
        rig.tracker.changed(rig.now, Changed::Ruleset, &mut rig.model);
        rig.prove(entry.orig, 100);
        assert_eq!(rig.state(entry.orig), EntryState::Candidate);
    }
}
