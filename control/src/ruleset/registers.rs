//! What a rule has in its registers: not values, but where they come from.

use std::collections::BTreeMap;

use super::expression::Register;
use super::field::{Field, Run};

/// Words of the register file.
const WORDS: u8 = 16;

/// What a register holds: runs of fields, with a mask and an exclusive or over all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) runs: Vec<Run>,
    pub(super) mask: Vec<u8>,
    pub(super) xor: Vec<u8>,
    /// A number in this machine's byte order.
    pub(super) host: bool,
}

impl Loaded {
    /// Fields as they lie in the packet.
    pub(super) fn new(runs: Vec<Run>) -> Self {
        let len = runs.iter().map(|run| run.len).sum();
        Self { runs, mask: vec![0xff; len], xor: vec![0; len], host: false }
    }

    /// A number of 32 bits that the kernel has in its own byte order.
    pub(super) fn host_number(field: Field) -> Self {
        Self { host: true, ..Self::new(vec![Run::whole(field, 4)]) }
    }

    pub(super) fn len(&self) -> usize {
        self.mask.len()
    }

    /// The one field that all of it is of.
    pub(super) fn single(&self) -> Option<Run> {
        match self.runs.as_slice() {
            [run] => Some(*run),
            _ => None,
        }
    }

    /// The part of the first `len` bytes.
    pub(super) fn prefix(&self, len: usize) -> Self {
        let mut left = len;
        let mut runs = Vec::new();
        for run in &self.runs {
            let len = run.len.min(left);
            if len > 0 {
                runs.push(Run { len, ..*run });
            }
            left -= len;
        }
        let part = |bytes: &[u8]| bytes.get(..len).unwrap_or(bytes).to_vec();
        Self { runs, mask: part(&self.mask), xor: part(&self.xor), host: self.host }
    }

    /// `(value & mask) ^ xor`, on top of what was done before.
    pub(super) fn masked(&self, mask: &[u8], xor: &[u8]) -> Self {
        let mut masked = self.clone();
        let (masks, xors) = (masked.mask.iter_mut(), masked.xor.iter_mut());
        for (((own_mask, own_xor), mask), xor) in masks.zip(xors).zip(mask).zip(xor) {
            *own_mask &= mask;
            *own_xor = (*own_xor & mask) ^ xor;
        }
        masked
    }

    /// What became of it is not followed, only of which fields it was made.
    pub(super) fn blurred(&self) -> Self {
        let runs = self.seen().map(|run| Run {
            field: match run.field.construct() {
                Some(construct) => Field::PerPacket(construct),
                None => Field::PerConnection,
            },
            ..run
        });
        Self { host: false, ..Self::new(runs.collect()) }
    }

    /// The runs of which the mask leaves anything.
    pub(super) fn seen(&self) -> impl Iterator<Item = Run> {
        let mut at = 0;
        self.runs.iter().filter_map(move |run| {
            let mask = self.mask.get(at..at + run.len).unwrap_or_default();
            at += run.len;
            mask.iter().any(|byte| *byte != 0).then_some(*run)
        })
    }
}

/// The register file while a rule is gone through.
#[derive(Clone, Debug, Default)]
pub(super) struct Registers(BTreeMap<u8, Loaded>);

impl Registers {
    pub(super) fn load(&mut self, register: Register, loaded: Loaded) {
        if register.0 < WORDS {
            self.0.insert(register.0, loaded);
        }
    }

    /// The first `len` bytes from a register on, by what was loaded: a concatenation has several parts, each
    /// padded to whole words. `None` where something is there that was not seen to be loaded.
    pub(super) fn parts(&self, register: Register, len: usize) -> Option<Vec<Loaded>> {
        let (mut word, mut left) = (register.0, len);
        let mut parts = Vec::new();
        while left > 0 {
            let loaded = self.0.get(&word)?;
            let part = loaded.prefix(loaded.len().min(left));
            let words = part.len().div_ceil(4).max(1);
            left = left.saturating_sub(4 * words);
            word = word.checked_add(words as u8)?;
            parts.push(part);
        }
        Some(parts)
    }

    /// The one part that `len` bytes of a register are.
    pub(super) fn one(&self, register: Register, len: usize) -> Option<Loaded> {
        match self.parts(register, len)?.as_slice() {
            [part] if part.len() == len => Some(part.clone()),
            _ => None,
        }
    }

    /// Whatever is in a register.
    pub(super) fn any(&self, register: Register) -> Option<&Loaded> {
        self.0.get(&register.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::field::Part;

    fn field(part: Part) -> Loaded {
        Loaded::new(vec![Run::whole(Field::Packet(part), part.width())])
    }

    #[test]
    fn concatenations_have_a_part_each() {
        let mut registers = Registers::default();
        registers.load(Register(0), field(Part::Src4));
        registers.load(Register(1), field(Part::Dport));
        assert_eq!(registers.parts(Register(0), 8), Some(vec![field(Part::Src4), field(Part::Dport)]));
        assert_eq!(registers.parts(Register(0), 12), None);
        assert_eq!(registers.one(Register(0), 4), Some(field(Part::Src4)));
        assert_eq!(registers.one(Register(0), 8), None);
        assert_eq!(registers.parts(Register(15), 400), None);
    }

    #[test]
    fn masks_add_up() {
        let loaded = field(Part::Src4).masked(&[0xff, 0x0f, 0, 0], &[0, 1, 0, 0]);
        let loaded = loaded.masked(&[0xf0, 0xff, 0xff, 0xff], &[0, 2, 0, 0]);
        assert_eq!(
            (loaded.mask.as_slice(), loaded.xor.as_slice()),
            (&[0xf0, 0x0f, 0, 0][..], &[0, 3, 0, 0][..])
        );
        assert_eq!(field(Part::Src4).masked(&[0; 4], &[0; 4]).seen().count(), 0);
    }
}
