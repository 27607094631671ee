//! Which connections a rule can concern, as a predicate on their tuples.

use std::net::IpAddr;

use dataplane::flow::FiveTuple;

use super::field::{self, Field, Part};
use super::ranges::Ranges;
use super::state::{MaskTest, State};
use crate::netlink::conntrack::{ConntrackEntry, Status};

/// What is known of a connection when it is asked whether a rule can concern it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<'a> {
    /// The direction that opened it.
    pub orig: Direction<'a>,
    /// The answering direction.
    pub reply: Direction<'a>,
    /// `ct mark`.
    pub mark: u32,
    /// `ct status`.
    pub status: Status,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Direction<'a> {
    /// Conntrack's tuple: the packets as they arrive.
    pub tuple: FiveTuple,
    /// Every name under which rules may know where the packets come in: the twin, its VLAN, bridge, VRF,
    /// PPPoE interface. Empty: not known, so that any may match.
    pub input: &'a [&'a str],
    /// The same for where they go out.
    pub output: &'a [&'a str],
}

impl ConnectionView<'static> {
    /// What conntrack says of a connection, which is nothing of interfaces.
    pub fn of(entry: &ConntrackEntry) -> Self {
        let direction = |tuple| Direction { tuple, input: &[], output: &[] };
        Self {
            orig: direction(entry.orig),
            reply: direction(entry.reply),
            mark: entry.mark.unwrap_or(0),
            status: entry.status,
        }
    }
}

impl ConnectionView<'_> {
    /// What `ct state` says of its packets.
    const fn state(&self) -> u128 {
        if self.status.contains(Status::SEEN_REPLY) {
            field::STATE_ESTABLISHED
        } else if self.status.contains(Status::EXPECTED) {
            field::STATE_RELATED
        } else {
            field::STATE_NEW
        }
    }
}

/// How far translation has come where a rule sees a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    /// As it came.
    Arriving,
    /// The destination is translated.
    Routed,
    /// The source is, too.
    Leaving,
}

/// The connections that can come to a rule: all that pass every test here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Concern {
    stages: Vec<Stage>,
    fields: Vec<(Field, Ranges)>,
    masks: Vec<MaskTest>,
}

impl Concern {
    /// What a state says of connections. Indices of interfaces are looked up in `interfaces`.
    pub(super) fn new(state: &State, stages: &[Stage], interfaces: &[(u32, String)]) -> Self {
        let mut fields: Vec<(Field, Ranges)> = Vec::new();
        for (field, ranges) in state.fields() {
            let (field, ranges) = match field {
                Field::IifIndex | Field::OifIndex => {
                    let named = if field == Field::IifIndex { Field::Iif } else { Field::Oif };
                    let Some(names) = names(ranges, interfaces) else { continue };
                    (named, names)
                }
                // What is not tracked where the rule stands may be anything elsewhere.
                Field::CtState if ranges.contains(field::STATE_INVALID) => continue,
                Field::CtState | Field::CtDirection | Field::CtMark | Field::Nfproto | Field::L4Proto => {
                    (field, ranges.clone())
                }
                Field::Tuple { .. } | Field::Packet(_) | Field::Iif | Field::Oif => (field, ranges.clone()),
                // Not the connection's, or not known of it.
                Field::CtStatus
                | Field::Protocol
                | Field::Ttl
                | Field::TcpFlags
                | Field::FragOff
                | Field::PerPacket(_)
                | Field::PerConnection
                | Field::Constant(_) => continue,
            };
            // Every value that the field can have: nothing is said. States are those of a place.
            let all = match field {
                Field::CtState => ALL_STATES.iter().all(|state| ranges.contains(*state)),
                _ => field.domain().and(&ranges) == field.domain(),
            };
            if all {
                continue;
            }
            match fields.iter_mut().find(|(known, _)| *known == field) {
                Some((_, known)) => *known = known.and(&ranges),
                None => fields.push((field, ranges)),
            }
        }
        Self { stages: stages.to_vec(), fields, masks: state.masks().to_vec() }
    }

    /// All connections.
    pub(super) const fn everything() -> Self {
        Self { stages: Vec::new(), fields: Vec::new(), masks: Vec::new() }
    }

    /// Whether it says nothing.
    pub(super) fn is_everything(&self) -> bool {
        self.fields.is_empty() && self.masks.is_empty()
    }

    /// Whether only connections without an answer can come there.
    pub(super) fn is_one_way(&self) -> bool {
        self.fields
            .iter()
            .any(|(known, states)| *known == Field::CtState && !states.contains(field::STATE_ESTABLISHED))
    }

    /// Whether it can concern a connection: a packet of either direction can come there.
    pub(super) fn covers(&self, view: &ConnectionView<'_>) -> bool {
        if !self.masks.iter().all(|test| match test.field {
            Field::CtMark => test.holds(view.mark),
            Field::CtStatus => test.holds(view.status.0),
            _ => true,
        }) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let ways = [(&view.orig, &view.reply, false), (&view.reply, &view.orig, true)];
        ways.into_iter().any(|(way, back, reply)| {
            self.stages.iter().any(|stage| {
                let seen = Seen { view, way, back, reply, stage: *stage };
                self.fields.iter().all(|(field, ranges)| seen.can_be(*field, ranges))
            })
        })
    }
}

const ALL_STATES: [u128; 3] = [field::STATE_ESTABLISHED, field::STATE_RELATED, field::STATE_NEW];

fn names(indices: &Ranges, interfaces: &[(u32, String)]) -> Option<Ranges> {
    const FEW: usize = 64;
    let indices = indices.values(FEW)?;
    let named = indices.into_iter().map(|index| {
        let (_, name) = interfaces.iter().find(|(known, _)| u128::from(*known) == index)?;
        Some((field::name(name), field::name(name)))
    });
    named.collect::<Option<Vec<_>>>().map(Ranges::of)
}

/// The packets of one direction at one stage.
struct Seen<'a> {
    view: &'a ConnectionView<'a>,
    way: &'a Direction<'a>,
    back: &'a Direction<'a>,
    reply: bool,
    stage: Stage,
}

impl Seen<'_> {
    fn can_be(&self, field: Field, ranges: &Ranges) -> bool {
        let tuple = &self.way.tuple;
        let value = match field {
            Field::CtState => self.view.state(),
            Field::CtDirection => u128::from(self.reply),
            Field::CtMark => self.view.mark.into(),
            Field::Nfproto if tuple.src.is_ipv4() => field::IPV4,
            Field::Nfproto => field::IPV6,
            Field::L4Proto => tuple.proto.into(),
            // What is known of addresses of the other family says nothing: their family is a field of its own.
            Field::Packet(part) => {
                let Some(value) = self.in_packet(part) else { return true };
                value
            }
            Field::Tuple { reply, part } => {
                let tuple = if reply { &self.view.reply.tuple } else { &self.view.orig.tuple };
                let Some(value) = of_tuple(tuple, part) else { return true };
                value
            }
            Field::Iif => return named(self.way.input, ranges),
            Field::Oif => return named(self.way.output, ranges),
            _ => return true,
        };
        ranges.contains(value)
    }

    /// Translated, an address is the one that the other direction's packets are sent to, or come from.
    fn in_packet(&self, part: Part) -> Option<u128> {
        let (own, back) = (&self.way.tuple, &self.back.tuple);
        match (part, self.stage) {
            (Part::Src4 | Part::Src6, Stage::Leaving) => address(back.dst, part),
            (Part::Sport, Stage::Leaving) => Some(back.dport.into()),
            (Part::Dst4 | Part::Dst6, Stage::Routed | Stage::Leaving) => address(back.src, part),
            (Part::Dport, Stage::Routed | Stage::Leaving) => Some(back.sport.into()),
            _ => of_tuple(own, part),
        }
    }
}

fn of_tuple(tuple: &FiveTuple, part: Part) -> Option<u128> {
    match part {
        Part::Src4 | Part::Src6 => address(tuple.src, part),
        Part::Dst4 | Part::Dst6 => address(tuple.dst, part),
        Part::Sport => Some(tuple.sport.into()),
        Part::Dport => Some(tuple.dport.into()),
    }
}

/// An address as a number, if it is of the part's family.
fn address(address: IpAddr, part: Part) -> Option<u128> {
    match (address, part.width()) {
        (IpAddr::V4(address), 4) => Some(address.to_bits().into()),
        (IpAddr::V6(address), 16) => Some(address.to_bits()),
        _ => None,
    }
}

fn named(names: &[&str], ranges: &Ranges) -> bool {
    names.is_empty() || names.iter().any(|name| ranges.contains(field::name(name)))
}
