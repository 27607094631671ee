//! What an expression that loads a register loads.

use super::concern::Stage;
use super::expression::{Base, Expression, Register};
use super::field::{self, Field, NAME, Part, Run};
use super::model::{Family, HookPoint};
use super::ranges::Ranges;
use super::registers::{Loaded, Registers};
use super::state::State;
use crate::config::Construct;

/// Where rules are gone through.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) family: Family,
    pub(super) point: HookPoint,
    /// How far translation may have come.
    pub(super) stages: Vec<Stage>,
    /// The mark of a connection may change from rule to rule, so that a test of it says nothing.
    pub(super) marks_change: bool,
}

/// What became of a load.
pub(super) enum Load {
    /// The register has something.
    Done,
    /// The packet has no such thing, which ends the rule.
    Breaks,
    /// No load at all.
    NotOne,
}

/// `enum nft_meta_keys` (linux/netfilter/nf_tables.h).
mod meta {
    pub(super) const LEN: u32 = 0;
    pub(super) const PROTOCOL: u32 = 1;
    pub(super) const PRIORITY: u32 = 2;
    pub(super) const IIF: u32 = 4;
    pub(super) const OIF: u32 = 5;
    pub(super) const IIFNAME: u32 = 6;
    pub(super) const OIFNAME: u32 = 7;
    pub(super) const IIFTYPE: u32 = 8;
    pub(super) const OIFTYPE: u32 = 9;
    pub(super) const SKUID: u32 = 10;
    pub(super) const SKGID: u32 = 11;
    pub(super) const NFPROTO: u32 = 15;
    pub(super) const L4PROTO: u32 = 16;
    pub(super) const BRI_IIFNAME: u32 = 17;
    pub(super) const BRI_OIFNAME: u32 = 18;
    pub(super) const PKTTYPE: u32 = 19;
    pub(super) const CPU: u32 = 20;
    pub(super) const CGROUP: u32 = 23;
    pub(super) const PRANDOM: u32 = 24;
    pub(super) const SECPATH: u32 = 25;
    pub(super) const IIFKIND: u32 = 26;
    pub(super) const OIFKIND: u32 = 27;
    pub(super) const BRI_IIFPVID: u32 = 28;
    pub(super) const BRI_IIFVPROTO: u32 = 29;
    pub(super) const TIME_NS: u32 = 30;
    pub(super) const TIME_DAY: u32 = 31;
    pub(super) const TIME_HOUR: u32 = 32;
    pub(super) const SDIFNAME: u32 = 34;
    /// The last that is known: an interface's own MAC address.
    pub(super) const BRI_IIFHWADDR: u32 = 36;
}

/// `enum nft_ct_keys` (linux/netfilter/nf_tables.h).
mod ct {
    pub(super) const STATE: u32 = 0;
    pub(super) const DIRECTION: u32 = 1;
    pub(super) const STATUS: u32 = 2;
    pub(super) const MARK: u32 = 3;
    pub(super) const EXPIRATION: u32 = 5;
    pub(super) const HELPER: u32 = 6;
    pub(super) const L3PROTOCOL: u32 = 7;
    pub(super) const SRC: u32 = 8;
    pub(super) const DST: u32 = 9;
    pub(super) const PROTOCOL: u32 = 10;
    pub(super) const PROTO_SRC: u32 = 11;
    pub(super) const PROTO_DST: u32 = 12;
    pub(super) const LABELS: u32 = 13;
    pub(super) const PKTS: u32 = 14;
    pub(super) const AVGPKT: u32 = 16;
    pub(super) const ZONE: u32 = 17;
    pub(super) const SRC_IP: u32 = 19;
    pub(super) const DST_IP: u32 = 20;
    pub(super) const SRC_IP6: u32 = 21;
    pub(super) const DST_IP6: u32 = 22;
    /// The last that is known.
    pub(super) const ID: u32 = 23;
}

/// The family that a packet must be of for an expression to load anything.
pub(super) const fn family_of(expression: &Expression) -> Option<u128> {
    match expression {
        Expression::Ct { key: ct::SRC_IP | ct::DST_IP, .. } => Some(field::IPV4),
        Expression::Ct { key: ct::SRC_IP6 | ct::DST_IP6, .. } => Some(field::IPV6),
        _ => None,
    }
}

/// Whether an expression needs an entry of conntrack to load anything: all but the state do.
pub(super) const fn needs_entry(expression: &Expression) -> bool {
    matches!(expression, Expression::Ct { key, .. } if *key != ct::STATE)
}

/// Carries an expression out, if it loads a register.
pub(super) fn load(expression: &Expression, scene: &Scene, state: &State, registers: &mut Registers) -> Load {
    let (dreg, loaded) = match expression {
        Expression::Payload { base, offset, len, dreg } => {
            (*dreg, Some(payload(*base, *offset, *len, state)))
        }
        Expression::Exthdr { op, kind, len, present, dreg } => (*dreg, exthdr(*op, *kind, *len, *present)),
        Expression::Meta { key, dreg } => (*dreg, meta(*key, scene)),
        Expression::Ct { key, direction, dreg } => (*dreg, Some(ct(*key, *direction, scene, state))),
        Expression::Immediate { dreg, value } => (*dreg, Some(constant(value))),
        Expression::Bitwise { sreg, dreg, len, mask, xor } => {
            let source = registers.one(*sreg, *len as usize).map(|source| source.masked(mask, xor));
            (*dreg, source.or_else(|| derived(registers, *sreg, *len)))
        }
        Expression::BitwiseOther { sreg, dreg, len } => (*dreg, derived(registers, *sreg, *len)),
        Expression::Byteorder { sreg, dreg, len, size } => {
            let source = registers.any(*sreg).cloned().map(|source| {
                // A number turned to network byte order is what a field's value is.
                if source.host && source.len() == *len as usize && size == len {
                    let turned = |bytes: &[u8]| match cfg!(target_endian = "little") {
                        true => bytes.iter().rev().copied().collect(),
                        false => bytes.to_vec(),
                    };
                    Loaded { mask: turned(&source.mask), xor: turned(&source.xor), host: false, ..source }
                } else {
                    source.blurred()
                }
            });
            (*dreg, Some(source.unwrap_or_else(|| opaque(Field::PerConnection, *len))))
        }
        Expression::OfConnection { len, dreg, .. } => {
            let Some(dreg) = dreg else { return Load::Done };
            (*dreg, Some(opaque(Field::PerConnection, *len)))
        }
        // Of SYN packets alone.
        Expression::Osf { .. } => return Load::Breaks,
        Expression::Hash { sreg, dreg } => {
            let source = sreg.and_then(|(sreg, len)| derived(registers, sreg, len));
            let fields = source.map(|source| source.runs).unwrap_or_default();
            let construct = fields.iter().find_map(|run| run.field.construct());
            (*dreg, Some(opaque(construct.map_or(Field::PerConnection, Field::PerPacket), 4)))
        }
        Expression::Numgen { dreg } => (*dreg, Some(opaque(Field::PerPacket(Construct::Numgen), 4))),
        _ => return Load::NotOne,
    };
    match loaded {
        Some(loaded) => {
            registers.load(dreg, loaded);
            Load::Done
        }
        None => Load::Breaks,
    }
}

fn opaque(field: Field, len: u32) -> Loaded {
    Loaded::new(vec![Run::whole(field, (len as usize).min(64))])
}

/// Made of registers in a way that is not followed.
fn derived(registers: &Registers, sreg: Register, len: u32) -> Option<Loaded> {
    let parts = registers.parts(sreg, len as usize);
    let runs: Vec<Run> = match &parts {
        Some(parts) => parts.iter().flat_map(|part| part.blurred().runs).collect(),
        None => registers.any(sreg).map(|source| source.blurred().runs).unwrap_or_default(),
    };
    Some(if runs.is_empty() { opaque(Field::PerConnection, len) } else { Loaded::new(runs) })
}

fn constant(value: &[u8]) -> Loaded {
    let number = value.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte));
    let len = value.len();
    let field = if len <= 16 { Field::Constant(number) } else { Field::PerConnection };
    Loaded::new(vec![Run::whole(field, len)])
}

fn payload(base: Base, offset: u32, len: u32, state: &State) -> Loaded {
    /// The longest load that the kernel does: NFT_REG32_COUNT words.
    const LONGEST: u32 = 64;
    Loaded::new(field::in_header(
        base,
        offset,
        len.min(LONGEST),
        &state.get(Field::Nfproto),
        &state.get(Field::L4Proto),
    ))
}

/// `enum nft_exthdr_op`. Options of IP and extension headers go to the kernel with their packets.
fn exthdr(op: u32, kind: u8, len: u32, present: bool) -> Option<Loaded> {
    const TCP_OPTION: u32 = 1;
    /// Maximum segment size, window scale, SACK permitted: of SYN packets.
    const OF_SYN: [u8; 3] = [2, 3, 4];
    let absent = op != TCP_OPTION || OF_SYN.contains(&kind);
    match (absent, present) {
        (true, true) => Some(constant(&[0])),
        (true, false) => None,
        (false, _) => Some(opaque(Field::PerPacket(Construct::TcpOption), if present { 1 } else { len })),
    }
}

/// `None` where a forwarded packet has no such thing.
fn meta(key: u32, scene: &Scene) -> Option<Loaded> {
    let bridged = scene.family == Family::Bridge;
    // Only there both ends of the packet's way are set.
    let (input, output) = match scene.point {
        HookPoint::Forward => (true, true),
        HookPoint::Ingress | HookPoint::Prerouting | HookPoint::Input => (true, false),
        HookPoint::Postrouting | HookPoint::Egress | HookPoint::Output => (false, true),
        HookPoint::Other(_) => (false, false),
    };
    let name = |known: bool, field| {
        Loaded::new(vec![Run::whole(if known { field } else { Field::PerConnection }, NAME)])
    };
    let index = |known: bool, field| Loaded::host_number(if known { field } else { Field::PerConnection });
    Some(match key {
        meta::LEN => opaque(Field::PerPacket(Construct::Length), 4),
        meta::PROTOCOL => Loaded::new(vec![Run::whole(Field::Protocol, 2)]),
        // Routing derives it from DSCP.
        meta::PRIORITY => opaque(Field::PerPacket(Construct::Dscp), 4),
        meta::IIF => index(input && !bridged, Field::IifIndex),
        meta::OIF => index(output && !bridged, Field::OifIndex),
        meta::IIFNAME => name(input, Field::Iif),
        meta::OIFNAME => name(output, Field::Oif),
        meta::IIFTYPE | meta::OIFTYPE | meta::BRI_IIFPVID | meta::BRI_IIFVPROTO => {
            opaque(Field::PerConnection, 2)
        }
        // Of a socket here, which what is forwarded has not.
        meta::SKUID | meta::SKGID | meta::CGROUP => return None,
        // Of the hook there, not of the packet.
        meta::NFPROTO if bridged || matches!(scene.point, HookPoint::Ingress | HookPoint::Egress) => {
            opaque(Field::PerConnection, 1)
        }
        meta::NFPROTO => Loaded::new(vec![Run::whole(Field::Nfproto, 1)]),
        meta::L4PROTO => Loaded::new(vec![Run::whole(Field::L4Proto, 1)]),
        // A bridge's name is not among those that are told of a direction's ends for certain.
        meta::BRI_IIFNAME | meta::BRI_OIFNAME | meta::IIFKIND | meta::OIFKIND | meta::SDIFNAME => {
            opaque(Field::PerConnection, NAME as u32)
        }
        meta::PKTTYPE => opaque(Field::PerConnection, 1),
        meta::CPU | meta::PRANDOM => opaque(Field::PerPacket(Construct::Numgen), 4),
        // What came by IPsec is not carried.
        meta::SECPATH => constant(&[0]),
        meta::TIME_NS => opaque(Field::PerPacket(Construct::Time), 8),
        meta::TIME_DAY => opaque(Field::PerPacket(Construct::Time), 1),
        meta::TIME_HOUR => opaque(Field::PerPacket(Construct::Time), 4),
        meta::BRI_IIFHWADDR => opaque(Field::PerConnection, 6),
        key if key > meta::BRI_IIFHWADDR => opaque(Field::PerPacket(Construct::Unknown), 4),
        _ => opaque(Field::PerConnection, 4),
    })
}

fn ct(key: u32, direction: Option<u8>, scene: &Scene, state: &State) -> Loaded {
    let v4 = state.get(Field::Nfproto) == Ranges::one(field::IPV4);
    let v6 = state.get(Field::Nfproto) == Ranges::one(field::IPV6);
    let part = match key {
        ct::SRC_IP => Some(Part::Src4),
        ct::DST_IP => Some(Part::Dst4),
        ct::SRC_IP6 => Some(Part::Src6),
        ct::DST_IP6 => Some(Part::Dst6),
        ct::SRC if v4 => Some(Part::Src4),
        ct::DST if v4 => Some(Part::Dst4),
        ct::SRC if v6 => Some(Part::Src6),
        ct::DST if v6 => Some(Part::Dst6),
        ct::PROTO_SRC => Some(Part::Sport),
        ct::PROTO_DST => Some(Part::Dport),
        _ => None,
    };
    if let Some((part, reply)) = part.zip(direction) {
        let field = Field::Tuple { reply: reply != 0, part };
        return Loaded::new(vec![Run::whole(field, part.width())]);
    }
    match key {
        ct::STATE => Loaded::host_number(Field::CtState),
        ct::STATUS => Loaded::host_number(Field::CtStatus),
        ct::MARK if scene.marks_change => Loaded::host_number(Field::PerConnection),
        ct::MARK => Loaded::host_number(Field::CtMark),
        ct::DIRECTION => Loaded::new(vec![Run::whole(Field::CtDirection, 1)]),
        ct::L3PROTOCOL => Loaded::new(vec![Run::whole(Field::Nfproto, 1)]),
        ct::PROTOCOL => Loaded::new(vec![Run::whole(Field::L4Proto, 1)]),
        ct::EXPIRATION => opaque(Field::PerPacket(Construct::CtExpiration), 4),
        ct::PKTS..=ct::AVGPKT => opaque(Field::PerPacket(Construct::CtBytes), 8),
        ct::HELPER | ct::LABELS => opaque(Field::PerConnection, 16),
        ct::ZONE => opaque(Field::PerConnection, 2),
        key if key > ct::ID => opaque(Field::PerPacket(Construct::Unknown), 4),
        _ => opaque(Field::PerConnection, 4),
    }
}
