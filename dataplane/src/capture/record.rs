//! What workers tell of packets, as bytes: a head of fixed length, and what is told.

use crate::flow::EntryState;
use crate::packet::{DropReason, Ingress, PuntReason};
use crate::punt::{PuntClass, PuntEvent};

/// Bytes before the packet's own.
pub(super) const HEAD: usize = 32;
/// Bytes of a decision.
const DECISION: usize = 24;
/// The longest record, and so the most bytes of a packet.
const LONGEST: usize = HEAD + (1 << 18);

/// Something that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What.
    pub what: What,
    /// The port: where the packet came in; of what is sent, where it leaves.
    pub port: u16,
    /// The worker, by its place in the configuration.
    pub worker: u16,
    /// The packet, among those of its worker; 0 where it was not noted when it came.
    pub packet: u32,
    /// When: nanoseconds since the gateway started.
    pub nanos: u64,
    /// Bytes of the packet.
    pub length: u32,
    /// The first of them.
    pub bytes: &'a [u8],
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It came in.
    Received,
    /// The kernel has sent it.
    Fetched,
    /// It was looked up and decided on.
    Decided {
        /// How its entry was found.
        found: Found,
        /// What the entry was like.
        looked: Option<Looked>,
        /// What becomes of the packet.
        decision: Decision,
    },
    /// It was given to a port's queue.
    Sent(Origin),
    /// It was given to the kernel.
    Punted {
        /// Why.
        reason: PuntReason,
        /// What control is told with it.
        event: PuntEvent,
        /// By which ring.
        class: PuntClass,
    },
    /// It was dropped.
    Dropped(DropReason),
    /// Records of the worker and port found no room since the last time that this was told.
    Lost {
        /// Of which [kind](What::kind).
        kind: u8,
        /// How many.
        records: u32,
    },
    /// No more is told.
    End,
}

/// Where what is sent comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A port.
    Wire,
    /// The kernel.
    Kernel,
}

/// How an entry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was looked up.
    Lookup,
    /// By the mark that the NIC gave the packet.
    Mark,
    /// There is none.
    Nowhere,
}

impl Found {
    /// By a mark, or by a lookup.
    pub(crate) const fn by(mark: bool) -> Self {
        if mark { Self::Mark } else { Self::Lookup }
    }
}

/// What an entry was like when it was decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Its state.
    pub state: EntryState,
    /// Where its packets have to come in; `None` while that is not proved.
    pub ingress: Option<Ingress>,
    /// The longest packet that it was proved with.
    pub proved_length: u16,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It flies.
    Fly,
    /// It waits for its direction to settle.
    Hold,
    /// It goes to the kernel.
    Punt(PuntReason, PuntEvent),
    /// It goes nowhere.
    Drop(DropReason),
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no record of this version of Flyover")]
pub struct Garbled;

const EVENTS: [PuntEvent; 6] = [
    PuntEvent::None,
    PuntEvent::Fingerprint,
    PuntEvent::Probe,
    PuntEvent::Closing,
    PuntEvent::Longer,
    PuntEvent::Lost,
];
const FOUND: [Found; 3] = [Found::Lookup, Found::Mark, Found::Nowhere];
const CLASSES: [PuntClass; 2] = [PuntClass::Control, PuntClass::Transit];
const ORIGINS: [Origin; 2] = [Origin::Wire, Origin::Kernel];
const NO_STATE: u8 = u8::MAX;

fn place<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|other| other == one).unwrap_or_default() as u8
}

fn at<T: Copy>(all: &[T], place: u8) -> Result<T, Garbled> {
    all.get(usize::from(place)).copied().ok_or(Garbled)
}

impl Record<'_> {
    /// Writes it over what a buffer holds, which is long enough for it already where nothing may be allocated.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.clear();
        let (kind, [a, b, c]) = self.what.code();
        let decision;
        let bytes = match self.what {
            What::Decided { found, looked, decision: decided } => {
                decision = encode(found, looked, decided);
                &decision[..]
            }
            _ => self.bytes,
        };
        let len = (HEAD + bytes.len()) as u32;
        to.extend_from_slice(&len.to_le_bytes());
        to.extend_from_slice(&[kind, a, b, c]);
        to.extend_from_slice(&self.port.to_le_bytes());
        to.extend_from_slice(&self.worker.to_le_bytes());
        to.extend_from_slice(&self.packet.to_le_bytes());
        to.extend_from_slice(&self.nanos.to_le_bytes());
        to.extend_from_slice(&self.length.to_le_bytes());
        let more = if let What::Lost { records, .. } = self.what { records } else { 0 };
        to.extend_from_slice(&more.to_le_bytes());
        to.extend_from_slice(bytes);
    }

    /// Reads the first record; gives it and its length, or `None` if it is not whole yet.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn read(from: &[u8]) -> Result<Option<(Record<'_>, usize)>, Garbled> {
        let Some(head) = from.first_chunk::<HEAD>() else { return Ok(None) };
        let len = u32::from_le_bytes(word(head, 0)) as usize;
        if !(HEAD..=LONGEST).contains(&len) {
            return Err(Garbled);
        }
        let Some(bytes) = from.get(HEAD..len) else { return Ok(None) };
        let [_, _, _, _, kind, a, b, c, ..] = *head;
        let what = match kind {
            What::RECEIVED => What::Received,
            1 => What::Fetched,
            2 => decode(bytes.first_chunk().ok_or(Garbled)?)?,
            What::SENT => What::Sent(at(&ORIGINS, a)?),
            What::PUNTED => What::Punted {
                reason: at(PuntReason::ALL, a)?,
                event: at(&EVENTS, b)?,
                class: at(&CLASSES, c)?,
            },
            What::DROPPED => What::Dropped(at(DropReason::ALL, a)?),
            6 => What::Lost { kind: a, records: u32::from_le_bytes(word(head, 28)) },
            7 => What::End,
            _ => return Err(Garbled),
        };
        let bytes = if kind == 2 { &[] } else { bytes };
        let record = Record {
            what,
            port: u16::from_le_bytes(word(head, 8)),
            worker: u16::from_le_bytes(word(head, 10)),
            packet: u32::from_le_bytes(word(head, 12)),
            nanos: u64::from_le_bytes(word(head, 16)),
            length: u32::from_le_bytes(word(head, 24)),
            bytes,
        };
        Ok(Some((record, len)))
    }
}

impl What {
    /// How many kinds there are.
    pub const KINDS: usize = 8;
    /// The kind of [`What::Received`].
    pub const RECEIVED: u8 = 0;
    /// The kind of [`What::Sent`].
    pub const SENT: u8 = 3;
    /// The kind of [`What::Punted`].
    pub const PUNTED: u8 = 4;
    /// The kind of [`What::Dropped`].
    pub const DROPPED: u8 = 5;

    /// Its kind, whatever else it says.
    pub fn kind(self) -> u8 {
        self.code().0
    }

    /// Its number, and what it needs no more than three bytes for.
    fn code(self) -> (u8, [u8; 3]) {
        match self {
            Self::Received => (Self::RECEIVED, [0; 3]),
            Self::Fetched => (1, [0; 3]),
            Self::Decided { .. } => (2, [0; 3]),
            Self::Sent(origin) => (Self::SENT, [place(&ORIGINS, &origin), 0, 0]),
            Self::Punted { reason, event, class } => {
                (Self::PUNTED, [reason as u8, place(&EVENTS, &event), place(&CLASSES, &class)])
            }
            Self::Dropped(reason) => (Self::DROPPED, [reason as u8, 0, 0]),
            Self::Lost { kind, .. } => (6, [kind, 0, 0]),
            Self::End => (7, [0; 3]),
        }
    }
}

/// The bytes from `at` on; 0 where there are none.
fn word<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn encode(found: Found, looked: Option<Looked>, decision: Decision) -> [u8; DECISION] {
    let (verdict, reason, event) = match decision {
        Decision::Fly => (0, 0, 0),
        Decision::Hold => (1, 0, 0),
        Decision::Punt(reason, event) => (2, reason as u8, place(&EVENTS, &event)),
        Decision::Drop(reason) => (3, reason as u8, 0),
    };
    let state = looked.map_or(NO_STATE, |looked| looked.state as u8);
    let ingress = looked.and_then(|looked| looked.ingress);
    let length = looked.map_or(0, |looked| looked.proved_length).to_le_bytes();
    let Ingress { mac_port, encap } = ingress.unwrap_or_default();
    let mut bytes = [0; DECISION];
    let parts = [
        &[place(&FOUND, &found), verdict, reason, event, state, u8::from(ingress.is_some())][..],
        &length[..],
        &mac_port.to_le_bytes()[..],
        &encap.to_le_bytes()[..],
    ];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

fn decode(bytes: &[u8; DECISION]) -> Result<What, Garbled> {
    let [found, verdict, reason, event, state, placed, ..] = *bytes;
    let decision = match verdict {
        0 => Decision::Fly,
        1 => Decision::Hold,
        2 => Decision::Punt(at(PuntReason::ALL, reason)?, at(&EVENTS, event)?),
        3 => Decision::Drop(at(DropReason::ALL, reason)?),
        _ => return Err(Garbled),
    };
    let ingress =
        Ingress { mac_port: u64::from_le_bytes(word(bytes, 8)), encap: u64::from_le_bytes(word(bytes, 16)) };
    let looked = (state != NO_STATE).then(|| Looked {
        state: EntryState::from_byte(state),
        ingress: (placed == 1).then_some(ingress),
        proved_length: u16::from_le_bytes(word(bytes, 6)),
    });
    Ok(What::Decided { found: at(&FOUND, found)?, looked, decision })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn punt_reason() -> impl Strategy<Value = PuntReason> {
        select(PuntReason::ALL)
    }

    fn drop_reason() -> impl Strategy<Value = DropReason> {
        select(DropReason::ALL)
    }

    fn event() -> impl Strategy<Value = PuntEvent> {
        select(&EVENTS[..])
    }

    fn decision() -> impl Strategy<Value = Decision> {
        prop_oneof![
            Just(Decision::Fly),
            Just(Decision::Hold),
            (punt_reason(), event()).prop_map(|(reason, event)| Decision::Punt(reason, event)),
            drop_reason().prop_map(Decision::Drop),
        ]
    }

    fn looked() -> impl Strategy<Value = Looked> {
        let ingress = any::<(u64, u64)>().prop_map(|(mac_port, encap)| Ingress { mac_port, encap });
        (0_u8..5, proptest::option::of(ingress), any::<u16>()).prop_map(|(state, ingress, proved_length)| {
            Looked { state: EntryState::from_byte(state), ingress, proved_length }
        })
    }

    fn what() -> impl Strategy<Value = What> {
        prop_oneof![
            Just(What::Received),
            Just(What::Fetched),
            (select(&FOUND[..]), proptest::option::of(looked()), decision())
                .prop_map(|(found, looked, decision)| What::Decided { found, looked, decision }),
            select(&ORIGINS[..]).prop_map(What::Sent),
            (punt_reason(), event(), select(&CLASSES[..])).prop_map(|(reason, event, class)| What::Punted {
                reason,
                event,
                class
            }),
            drop_reason().prop_map(What::Dropped),
            any::<(u8, u32)>().prop_map(|(kind, records)| What::Lost { kind, records }),
            Just(What::End),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            what in what(), head in any::<(u16, u16, u32, u64, u32)>(), data in vec(any::<u8>(), 0..100)
        ) {
            let (port, worker, packet, nanos, length) = head;
            let bytes = if matches!(what, What::Decided { .. }) { &[] } else { &data[..] };
            let record = Record { what, port, worker, packet, nanos, length, bytes };
            let mut written = Vec::new();
            record.write(&mut written);
            prop_assert_eq!(Record::read(&written), Ok(Some((record, written.len()))));
            for part in 0..written.len() {
                prop_assert_eq!(Record::read(&written[..part]), Ok(None));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
            if let Ok(Some((_, len))) = Record::read(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
