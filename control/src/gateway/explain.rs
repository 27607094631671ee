//! Why one connection is where it is.

use std::net::IpAddr;

use dataplane::flow::{FiveTuple, Key, TCP};
use dataplane::packet::PuntReason;

use super::interfaces;
use super::state::State;
use crate::api::{ConntrackInfo, DirectionInfo, Explanation, PuntedInfo, TupleInfo, Whereabouts};
use crate::netlink::NetlinkError;
use crate::netlink::conntrack::{ConntrackEntry, ConntrackMessage, Request, RequestSocket};
use crate::netlink::egress::egress;
use crate::netlink::qdisc::{self, Qdisc};
use crate::ruleset;
use crate::tracker::{DirectionView, Refusal, Why};
use crate::words::punted_why;

impl State {
    /// Asks the tracker first, then conntrack.
    pub(super) fn explanation(&self, tuple: &FiveTuple) -> Explanation {
        let now = self.clock.millis();
        let view = self.tracker.find(now, tuple, &self.plane);
        let entry = match &view {
            Some(view) => lookup(tuple, [view.zone]),
            None => lookup(tuple, self.tracker.zones()),
        };
        let conntrack = entry.as_ref().ok().and_then(Option::as_ref).map(conntrack_info);
        if let Some(view) = view {
            return Explanation {
                known: Whereabouts::Flyover,
                why: view.why.text().to_owned(),
                advice: advice(view.why).map(str::to_owned).into_iter().collect(),
                directions: [(&view.orig, &view.reply), (&view.reply, &view.orig)]
                    .map(|(direction, back)| self.direction_info(direction, back))
                    .into(),
                connection: Some(self.flow_info(&view)),
                conntrack,
            };
        }
        let (known, why, advice) = match entry {
            Err(error) => (Whereabouts::Nowhere, format!("conntrack could not be asked: {error}"), None),
            Ok(_) if let Some(reason) = never_carried(tuple) => {
                (Whereabouts::Kernel, punted_why(reason).to_owned(), None)
            }
            Ok(None) => (
                Whereabouts::Nowhere,
                "conntrack has no such connection".to_owned(),
                Some(
                    "see what it has: conntrack -L. If it has nothing at all, no rule of the ruleset asks for \
                     connection tracking: a rule with `ct state` does. A rule with `notrack` keeps packets from it; \
                     what is not tracked stays in the kernel",
                ),
            ),
            Ok(Some(entry)) => match self.tracker.refusal(&entry) {
                Some(Refusal::Ruleset) => return self.kept_by_ruleset(&entry, conntrack),
                Some(refusal) => (Whereabouts::Kernel, refusal.text().to_owned(), refusal.advice()),
                None => (
                    Whereabouts::Kernel,
                    "nothing keeps it in the kernel, but Flyover has not heard of it, or has no room for it"
                        .to_owned(),
                    Some(
                        "it is asked for when its packets are seen; see `table_full` in flyover stats --json for \
                         the room",
                    ),
                ),
            },
        };
        let advice = advice.map(str::to_owned).into_iter().collect();
        Explanation { known, why, advice, conntrack, ..Explanation::default() }
    }

    /// The ruleset has something that must see each packet.
    fn kept_by_ruleset(&self, entry: &ConntrackEntry, conntrack: Option<ConntrackInfo>) -> Explanation {
        let finding = self.rules.judgement().keeps(&ruleset::ConnectionView::of(entry));
        let why = finding.map_or_else(
            || Refusal::Ruleset.text().to_owned(),
            |finding| format!("{} in {}: {}", finding.what.name(), finding.location, finding.differs()),
        );
        let advice = finding.map(ruleset::Finding::remedy).into_iter().collect();
        Explanation { known: Whereabouts::Kernel, why, advice, conntrack, ..Explanation::default() }
    }

    /// What of a direction went to the kernel for its own sake.
    fn exceptions(&self, tuple: &FiveTuple) -> Vec<PuntedInfo> {
        let flow = Key::from_tuple(tuple).and_then(|key| self.plane.flow(&key));
        let counted = flow.map(|flow| self.punt.exceptions.of(flow)).unwrap_or_default();
        let info = |(reason, packets): (PuntReason, u64)| PuntedInfo {
            reason: reason.name().to_owned(),
            packets,
            why: punted_why(reason).to_owned(),
        };
        counted.into_iter().map(info).collect()
    }

    /// What the kernel can be asked about a direction. `to` is where its packets end.
    fn notes(&self, direction: &DirectionView, to: IpAddr) -> Vec<String> {
        let flow = Key::from_tuple(&direction.tuple).and_then(|key| self.plane.flow(&key));
        let mut notes: Vec<String> =
            flow.and_then(|flow| self.plane.offload.why_not(flow)).into_iter().collect();
        if matches!(direction.why, Why::Unproved | Why::NotForwarded) {
            notes.extend(self.way_out(to));
        }
        if let Some(port) = direction.ports.and_then(|(_, egress)| self.ports.get(usize::from(egress))) {
            let shapes = |found: &Qdisc| {
                found.ifindex == port.ifindex
                    && !Qdisc::only_queues(&found.kind)
                    && !Qdisc::only_filters(&found.kind)
            };
            let shapers = qdisc::qdiscs().unwrap_or_default().into_iter().filter(shapes);
            notes.extend(shapers.map(|Qdisc { kind, .. }| {
                let name = &port.config.name;
                format!(
                    "what flies leaves past the {kind} qdisc of {name}, which neither delays nor orders it"
                )
            }));
        }
        notes
    }

    /// What is to be known of an address that packets may not reach by a port.
    fn way_out(&self, to: IpAddr) -> Option<String> {
        let found = match egress(to) {
            Err(error) => return Some(format!("no way to {to}: {error}")),
            Ok(way) => way.ifindex,
        };
        let twins = self.ports.twins();
        if twins.iter().any(|twin| interfaces::above(*twin, &self.links).contains(&found)) {
            return None;
        }
        let name = self.links.get(&found).map_or("?", |link| link.name.as_str());
        Some(format!(
            "the route to {to} leads out of {name}, which is no port of this gateway, nor built on one: what leaves there \
             is not carried"
        ))
    }

    fn direction_info(&self, direction: &DirectionView, back: &DirectionView) -> DirectionInfo {
        let port = |number: u16| self.port_name(number);
        let flow = Key::from_tuple(&direction.tuple).and_then(|key| self.plane.flow(&key));
        let in_nic = flow.is_some_and(|flow| self.plane.offload.has(flow));
        DirectionInfo {
            tuple: TupleInfo::from(&direction.tuple),
            state: if in_nic { "hardware".to_owned() } else { direction.state.to_owned() },
            why: direction.why.text().to_owned(),
            since_s: direction.since as f64 / 1000.0,
            packets: direction.counters.packets,
            bytes: direction.counters.bytes,
            in_port: direction.ports.and_then(|(ingress, _)| port(ingress)),
            out_port: direction.ports.and_then(|(_, egress)| port(egress)),
            next_hop: direction.next_hop.map(super::report::mac),
            proved_length: direction.proved_length,
            punted: self.exceptions(&direction.tuple),
            notes: self.notes(direction, back.tuple.src),
        }
    }
}

/// What can be done about it; `None`: nothing need be, or it passes by itself.
const fn advice(why: Why) -> Option<&'static str> {
    match why {
        Why::NotForwarded => {
            Some("look for the rule, route or neighbour that stops it: nft monitor trace, ip route get")
        }
        Why::Duplicated => {
            Some("look for what sends its packets twice: a `dup` rule, a bridge that floods, tc mirred")
        }
        Why::Longer => Some(
            "a longer packet takes its turn through the kernel once; if it persists, compare the MTUs of both ports",
        ),
        Why::NoRoom => Some("more next hops or VLANs than the table of 65,536 holds"),
        Why::OtherDevice => Some(
            "if it is to fly, add the port's twin to the flowtable's devices; flyover status shows flowtables",
        ),
        Why::Ruleset => Some("flyover check tells which rule, and what changes it"),
        Why::PastRules => {
            Some("name the twins in the flowtable's devices, in place of the PPP interface or the bridge")
        }
        Why::PortChanged => Some("see flyover ports: link and admin state of the port"),
        Why::Changed => {
            Some("it passes; if it persists, look for what keeps changing: ip monitor, nft monitor")
        }
        Why::Unproved => Some(
            "it flies once the kernel has forwarded a packet of each direction; if it does not, the packets leave changed, \
             encrypted, in a tunnel or by an interface that is no port, or they end on this host (tproxy)",
        ),
        Why::Proved | Why::Settling | Why::Reproving | Why::Idle | Why::Closing => None,
    }
}

/// Why no packet with these addresses is carried, whatever conntrack has of it.
fn never_carried(tuple: &FiveTuple) -> Option<PuntReason> {
    let group = match tuple.dst {
        IpAddr::V4(dst) => dst.is_multicast() || dst.is_broadcast(),
        IpAddr::V6(dst) => dst.is_multicast(),
    };
    let martian = [tuple.src, tuple.dst].into_iter().any(|address| match address {
        IpAddr::V4(address) => address.is_loopback() || matches!(address.octets(), [0 | 240..=254, ..]),
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local()
        }
    });
    if group { Some(PuntReason::Multicast) } else { martian.then_some(PuntReason::Martian) }
}

/// The entry with this tuple in either direction, in the first of the zones that has one. The kernel answers within the
/// request.
fn lookup(
    tuple: &FiveTuple,
    zones: impl IntoIterator<Item = u16>,
) -> Result<Option<ConntrackEntry>, NetlinkError> {
    let mut socket = RequestSocket::open()?;
    let mut found = None;
    for zone in zones {
        socket.send(&Request::Get { tuple: *tuple, zone })?;
        socket.drain(16, |message| {
            if let ConntrackMessage::New(entry) | ConntrackMessage::DumpEntry { entry, .. } = message {
                found = Some(entry);
            }
        })?;
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

fn conntrack_info(entry: &ConntrackEntry) -> ConntrackInfo {
    ConntrackInfo {
        id: entry.id,
        orig: TupleInfo::from(&entry.orig),
        reply: TupleInfo::from(&entry.reply),
        tcp_state: entry.tcp_state().filter(|_| entry.orig.proto == TCP).map(|state| state.name().to_owned()),
        timeout_s: entry.timeout_s,
        mark: entry.mark.unwrap_or(0),
        zone: entry.zones.orig,
    }
}

/// Words for an operator.
trait Words {
    /// What keeps it in the kernel.
    fn text(self) -> &'static str;
    /// What can be done.
    fn advice(self) -> Option<&'static str>;
}

impl Words for Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::Protocol => "only TCP and UDP are carried",
            Self::Unconfirmed => "the kernel has not confirmed it yet, or is ending it",
            Self::NotEstablished => {
                "TCP is carried while it is ESTABLISHED and assured: after the handshake, before the close"
            }
            Self::Helper => "a conntrack helper reads its packets",
            Self::SequenceAdjusted => "the kernel adjusts its sequence numbers",
            Self::NatClash => "its NAT clashes with another connection's",
            Self::NotMarked => "its conntrack mark does not select it (policy.accelerate = \"marked\")",
            Self::NotInFlowtable => "no `flow add` rule has taken it into a flowtable",
            Self::FlowtableEnds => {
                "a `flow add` rule takes it, and the kernel's flowtable would end its entry while it flies: UDP without an \
                 answer, or a timeout that is as short as the flowtable's"
            }
            Self::Ruleset => "a rule must see each of its packets",
            Self::Zones => "its directions lie in different conntrack zones",
            Self::TwoZones => "its addresses and ports stand in two conntrack zones",
            Self::Synproxy => {
                "a SYN proxy stands between its ends, and the kernel adjusts its sequence numbers"
            }
            Self::Local => "it begins or ends on this host",
        }
    }

    fn advice(self) -> Option<&'static str> {
        match self {
            Self::Helper => Some(
                "if the helper is not needed, take it off by nft: a rule with `ct helper set`, or the module's port",
            ),
            Self::NotMarked => Some("set the mark in a rule: ct mark set"),
            Self::NotInFlowtable => Some(
                "let its packets come to a rule of the forward chain with `flow add @NAME`; or, for all that the ruleset \
                 lets through, set accelerate = \"established\" under [policy]",
            ),
            Self::FlowtableEnds => Some(
                "the kernel's flowtable carries it. To let it fly, keep it from the `flow add` rule: ct state established \
                 flow add @NAME",
            ),
            Self::TwoZones => Some(
                "one of them flies when the other has ended: conntrack -L -w ZONE shows them; tenants with addresses of their own fly",
            ),
            Self::Protocol
            | Self::Unconfirmed
            | Self::NotEstablished
            | Self::SequenceAdjusted
            | Self::NatClash
            | Self::Ruleset
            | Self::Zones
            | Self::Synproxy
            | Self::Local => None,
        }
    }
}
