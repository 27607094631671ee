//! What rules write into packets and connections.

use super::expression::{Base, Expression};
use super::field::{self, Field, Part, Run};
use super::registers::{Loaded, Registers};
use super::state::State;
use crate::config::Construct;

/// `NFT_CT_MARK`.
const CT_MARK: u32 = 3;

/// Which bits of a connection's mark an expression may change.
pub(super) fn marked_bits(expression: &Expression, registers: &Registers) -> u32 {
    match expression {
        Expression::CtSet { key: CT_MARK, sreg } => match registers.any(*sreg) {
            // `ct mark set ct mark | 1`: the mark as it was, but for some bits.
            Some(Loaded { runs, mask, xor, .. }) if *runs == [Run::whole(Field::CtMark, 4)] => {
                let number =
                    |bytes: &[u8]| bytes.first_chunk().map_or(u32::MAX, |bytes| u32::from_ne_bytes(*bytes));
                !number(mask) | number(xor)
            }
            _ => u32::MAX,
        },
        Expression::Target { name, .. } if name == "CONNMARK" => u32::MAX,
        _ => 0,
    }
}

/// What an expression writes: what is known of it no longer holds.
pub(super) fn overwrite(expression: &Expression, state: &mut State) {
    const MARK: [Field; 1] = [Field::CtMark];
    const PACKET: [Field; 10] = [
        Field::Packet(Part::Src4),
        Field::Packet(Part::Dst4),
        Field::Packet(Part::Src6),
        Field::Packet(Part::Dst6),
        Field::Packet(Part::Sport),
        Field::Packet(Part::Dport),
        Field::Protocol,
        Field::Ttl,
        Field::TcpFlags,
        Field::FragOff,
    ];
    match expression {
        Expression::CtSet { key: CT_MARK, .. } => state.overwrite(MARK),
        Expression::PayloadWrite { .. } => state.overwrite(PACKET),
        // A target may write whatever it likes.
        Expression::Target { .. } => state.overwrite(MARK.into_iter().chain(PACKET)),
        _ => {}
    }
}

/// What must not be written past the kernel. DSCP is learned from the frame that leaves.
///
/// nft loads whole words, changes some bits and writes them back: only the bytes that change count.
pub(super) fn written(
    base: Base,
    offset: u32,
    len: u32,
    source: Option<&Loaded>,
    state: &State,
) -> Vec<Construct> {
    if base == Base::Link {
        return Vec::new();
    }
    let runs = field::in_header(base, offset, len, &state.get(Field::Nfproto), &state.get(Field::L4Proto));
    let changes = |at: usize, run: &Run| {
        let Some(source) = source.filter(|source| source.runs == runs) else { return true };
        let within = at..at + run.len;
        let kept = |bytes: &[u8], value: u8| {
            bytes.get(within.clone()).is_some_and(|bytes| bytes.iter().all(|byte| *byte == value))
        };
        !(kept(&source.mask, 0xff) && kept(&source.xor, 0))
    };
    let mut constructs = Vec::new();
    let mut at = 0;
    for run in &runs {
        match run.field {
            _ if !changes(at, run) => {}
            Field::Constant(_) | Field::PerPacket(Construct::Dscp) => {}
            Field::Ttl => constructs.push(Construct::Ttl),
            _ => constructs.push(Construct::Payload),
        }
        at += run.len;
    }
    constructs.sort_unstable();
    constructs.dedup();
    constructs
}
