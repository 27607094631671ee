//! One packet's way, put together from what was told of it.

use std::time::{Duration, UNIX_EPOCH};

use dataplane::capture::{Decision, Found, Looked, Record, What};
use dataplane::packet::{Ingress, Refused, parse};
use dataplane::punt::{PuntClass, PuntEvent};
use serde::Serialize;

use super::frame::{Change, Frame};
use crate::words::{dropped_why, punted_why};

/// See the module. The fields are the keys of `flyover trace --json`.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Traced {
    /// Its number among those printed.
    pub(super) packet: u64,
    pub(super) time: String,
    /// `wire` or `kernel`.
    pub(super) from: &'static str,
    pub(super) in_port: Option<String>,
    /// Also the number of the queue.
    pub(super) worker: u16,
    pub(super) length: u32,
    /// As it came, or as the kernel has sent it.
    pub(super) frame: Frame,
    /// Why it can't fly whatever entry there is: the reason's name.
    pub(super) refused: Option<&'static str>,
    pub(super) lookup: Option<&'static str>,
    pub(super) entry: Option<Entry>,
    pub(super) held: bool,
    pub(super) decision: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) why: Option<&'static str>,
    /// By which ring it went to the kernel.
    pub(super) ring: Option<&'static str>,
    /// What else is done with it there.
    pub(super) event: Option<&'static str>,
    pub(super) rewritten: Vec<Change>,
    pub(super) out_port: Option<String>,
    pub(super) out_length: Option<u32>,
    /// From when it was received until its way ended.
    pub(super) took_us: Option<f64>,
    #[serde(skip)]
    pub(super) nanos: u64,
    #[serde(skip)]
    pub(super) ingress: Option<Ingress>,
}

/// The entry that it was decided by.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Entry {
    pub(super) state: &'static str,
    /// `same`: it came in as its direction's packets do; `other`: elsewhere; `unproved`: where they do is not known.
    pub(super) ingress: &'static str,
    /// Where they do, if this one did not.
    pub(super) proved_ingress: Option<String>,
    pub(super) proved_length: u16,
}

impl Traced {
    /// It was received, or fetched from the kernel.
    pub(super) fn begin(record: &Record<'_>, ports: &[String], epoch_ns: u64) -> Self {
        let from_wire = record.what == What::Received;
        let port = ports.get(usize::from(record.port)).cloned();
        let time = UNIX_EPOCH + Duration::from_nanos(epoch_ns.saturating_add(record.nanos));
        let parsed = parse(record.bytes, record.port);
        let refused = match &parsed {
            Ok(_) => None,
            Err(refusal) => Some(match refusal.what {
                Refused::Punt(reason) => reason.name(),
                Refused::Drop(reason) => reason.name(),
            }),
        };
        Self {
            time: humantime::format_rfc3339_nanos(time).to_string(),
            from: if from_wire { "wire" } else { "kernel" },
            in_port: port.filter(|_| from_wire),
            worker: record.worker,
            length: record.length,
            frame: Frame::read(record.bytes),
            // The kernel's frames are nobody's to judge.
            refused: refused.filter(|_| from_wire),
            decision: if from_wire { "unknown" } else { "send" },
            nanos: record.nanos,
            ingress: parsed.ok().map(|headers| headers.ingress),
            ..Self::default()
        }
    }

    /// Takes in what else was told; `true`: its way has ended.
    pub(super) fn note(&mut self, record: &Record<'_>, ports: &[String]) -> bool {
        match record.what {
            What::Decided { found, looked, decision } => {
                self.decided(found, looked, decision, ports);
                return false;
            }
            What::Sent(_) => {
                let after = Frame::read(record.bytes);
                self.rewritten = self.frame.changes(&after);
                self.out_port = ports.get(usize::from(record.port)).cloned();
                self.out_length = Some(record.length);
                if self.from == "wire" {
                    (self.decision, self.reason, self.why) = ("fly", None, None);
                }
            }
            What::Punted { reason, event, class } => {
                self.decision = "punt";
                (self.reason, self.why) = (Some(reason.name()), Some(punted_why(reason)));
                self.event = event_words(event);
                self.ring = Some(match class {
                    PuntClass::Control => "control",
                    PuntClass::Transit => "transit",
                });
            }
            What::Dropped(reason) => {
                self.decision = "drop";
                (self.reason, self.why) = (Some(reason.name()), Some(dropped_why(reason)));
            }
            What::Received | What::Fetched | What::Lost { .. } | What::End => return false,
        }
        self.took_us = Some(record.nanos.saturating_sub(self.nanos) as f64 / 1000.0);
        true
    }

    fn decided(&mut self, found: Found, looked: Option<Looked>, decision: Decision, ports: &[String]) {
        self.lookup = Some(match found {
            Found::Lookup => "hit",
            Found::Mark => "mark",
            Found::Nowhere => "miss",
        });
        self.entry = looked.map(|Looked { state, ingress, proved_length }| Entry {
            state: state.name(),
            ingress: match ingress {
                None => "unproved",
                Some(proved) if Some(proved) == self.ingress => "same",
                Some(_) => "other",
            },
            proved_ingress: ingress.filter(|proved| Some(*proved) != self.ingress).map(|at| place(at, ports)),
            proved_length,
        });
        (self.decision, self.reason, self.why) = match decision {
            Decision::Fly => ("fly", None, None),
            Decision::Hold => ("hold", None, None),
            Decision::Punt(reason, _) => ("punt", Some(reason.name()), Some(punted_why(reason))),
            Decision::Drop(reason) => ("drop", Some(reason.name()), Some(dropped_why(reason))),
        };
        self.held |= decision == Decision::Hold;
    }
}

/// Where packets come in.
fn place(ingress: Ingress, ports: &[String]) -> String {
    let port = ports.get(usize::from(ingress.port())).map_or("?", String::as_str);
    let mac = ingress.dst_mac().map(|byte| format!("{byte:02x}")).join(":");
    let mut text = format!("{port}, to {mac}");
    for (_, tci) in ingress.tags().into_iter().flatten() {
        text.push_str(&format!(", VLAN {} priority {}", tci & 0xfff, tci >> 13));
    }
    if let Some(session) = ingress.pppoe() {
        text.push_str(&format!(", PPPoE session {session}"));
    }
    text
}

const fn event_words(event: PuntEvent) -> Option<&'static str> {
    match event {
        PuntEvent::None => None,
        PuntEvent::Fingerprint => Some("fingerprinted: if the kernel forwards it, that proves its direction"),
        PuntEvent::Probe => Some("the probe: packets behind it wait until the kernel has forwarded it"),
        PuntEvent::Closing => Some("both directions of its connection stop flying"),
        PuntEvent::Longer => {
            Some("fingerprinted; its direction stops flying until a packet as long has left in one piece")
        }
        PuntEvent::Lost => Some("its direction stops flying"),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::capture::Origin;
    use dataplane::flow::{EntryState, FiveTuple, UDP};
    use dataplane::packet::PuntReason;
    use dataplane::packet::testing::Frame as Built;

    use super::*;

    fn built() -> Built {
        let (src, dst) = ([10, 0, 0, 1].into(), [192, 0, 2, 1].into());
        Built::of(FiveTuple { proto: UDP, src, dst, sport: 1000, dport: 53 })
    }

    fn record(what: What, port: u16, nanos: u64, bytes: &[u8]) -> Record<'_> {
        Record { what, port, worker: 0, packet: 1, nanos, length: bytes.len() as u32, bytes }
    }

    fn ports() -> Vec<String> {
        vec!["wan0".to_owned(), "lan0".to_owned()]
    }

    fn looked(bytes: &[u8], port: u16) -> Looked {
        let ingress = parse(bytes, port).expect("it can fly").ingress;
        Looked { state: EntryState::Software, ingress: Some(ingress), proved_length: 1500 }
    }

    #[test]
    fn a_packet_that_flies_tells_its_rewriting() {
        let before = built().build();
        let mut after = built();
        (after.tuple.src, after.ttl) = ([198, 51, 100, 1].into(), after.ttl - 1);
        let after = after.build();
        let mut packet = Traced::begin(&record(What::Received, 1, 1000, &before), &ports(), 0);
        let decided =
            What::Decided { found: Found::Lookup, looked: Some(looked(&before, 1)), decision: Decision::Fly };
        assert!(!packet.note(&record(decided, 1, 1100, &[]), &ports()));
        assert!(packet.note(&record(What::Sent(Origin::Wire), 0, 3500, &after), &ports()));
        assert_eq!((packet.decision, packet.lookup, packet.took_us), ("fly", Some("hit"), Some(2.5)));
        assert_eq!((packet.in_port.as_deref(), packet.out_port.as_deref()), (Some("lan0"), Some("wan0")));
        assert_eq!(packet.entry.as_ref().expect("an entry").ingress, "same");
        let fields: Vec<_> = packet.rewritten.iter().map(|change| change.field).collect();
        assert_eq!(fields, ["source", "ttl"]);
    }

    #[test]
    fn a_packet_from_elsewhere_tells_from_where_it_should_have_come() {
        let bytes = built().build();
        let mut packet = Traced::begin(&record(What::Received, 1, 0, &bytes), &ports(), 0);
        let reason = PuntReason::IngressContext;
        let decision = Decision::Punt(reason, PuntEvent::None);
        let decided = What::Decided { found: Found::Lookup, looked: Some(looked(&bytes, 0)), decision };
        packet.note(&record(decided, 1, 0, &[]), &ports());
        let entry = packet.entry.clone().expect("an entry");
        assert_eq!(entry.ingress, "other");
        assert!(entry.proved_ingress.expect("told").starts_with("wan0, to "));
        let punted = What::Punted { reason, event: PuntEvent::None, class: PuntClass::Transit };
        assert!(packet.note(&record(punted, 1, 0, &bytes), &ports()));
        assert_eq!((packet.decision, packet.reason), ("punt", Some("ingress_context")));
    }

    #[test]
    fn one_that_waited_flies_in_the_end() {
        let bytes = built().build();
        let mut packet = Traced::begin(&record(What::Received, 1, 0, &bytes), &ports(), 0);
        let decided =
            What::Decided { found: Found::Lookup, looked: Some(looked(&bytes, 1)), decision: Decision::Hold };
        packet.note(&record(decided, 1, 0, &[]), &ports());
        assert_eq!(packet.decision, "hold");
        assert!(packet.note(&record(What::Sent(Origin::Wire), 0, 0, &bytes), &ports()));
        assert_eq!((packet.decision, packet.held), ("fly", true));
    }

    #[test]
    fn what_can_not_be_taken_apart_says_so_and_the_kernels_frames_are_not_judged() {
        let mut arp = built().build();
        arp[12..14].copy_from_slice(&[8, 6]);
        let packet = Traced::begin(&record(What::Received, 1, 0, &arp), &ports(), 0);
        assert_eq!((packet.refused, packet.frame.proto.as_str()), (Some("arp"), "arp"));
        let packet = Traced::begin(&record(What::Fetched, 1, 0, &arp), &ports(), 0);
        assert_eq!((packet.refused, packet.decision, packet.in_port), (None, "send", None));
    }
}
