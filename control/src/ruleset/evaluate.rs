//! Tests of registers: what passes, what does not, and whether that says all.

use super::expression::Comparison;
use super::field::Field;
use super::model::{Element, Set};
use super::ranges::Ranges;
use super::registers::Loaded;
use super::state::{MaskTest, State};
use crate::config::Construct;

/// Fields with no more values than this are gone through value by value.
const FEW: usize = 256;

/// How a test divides packets. Both sides may be too large, neither too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Those for which it holds.
    pub(super) yes: Option<State>,
    /// Those for which it does not.
    pub(super) no: Option<State>,
}

impl Split {
    /// Anything may be on either side.
    pub(super) fn unknown(state: &State) -> Self {
        Self { yes: Some(state.clone()), no: Some(state.clone()) }
    }

    pub(super) fn never(state: &State) -> Self {
        Self { yes: None, no: Some(state.clone()) }
    }

    pub(super) fn always(state: &State) -> Self {
        Self { yes: Some(state.clone()), no: None }
    }

    pub(super) fn inverted(self, inverted: bool) -> Self {
        if inverted { Self { yes: self.no, no: self.yes } } else { self }
    }

    /// Whether it depends on the packet.
    pub(super) const fn depends(&self) -> bool {
        self.yes.is_some() && self.no.is_some()
    }
}

/// The constructs of what a test looks at, if its outcome depends on the packet.
pub(super) fn constructs<'a>(parts: impl IntoIterator<Item = &'a Loaded>) -> Vec<Construct> {
    let fields = parts.into_iter().flat_map(|part| part.seen().map(|run| run.field).collect::<Vec<_>>());
    let mut constructs: Vec<Construct> = fields.filter_map(Field::construct).collect();
    constructs.sort_unstable();
    constructs.dedup();
    constructs
}

/// Compares a register with a constant.
pub(super) fn compare(state: &State, loaded: &Loaded, op: Comparison, value: &[u8]) -> Split {
    use Comparison::*;
    if value.len() != loaded.len() {
        return Split::unknown(state);
    }
    let number = big_endian(value);
    let range = match (op, number) {
        (Equal | NotEqual, _) => return equal(state, loaded, value).inverted(op == NotEqual),
        (_, None) => return Split::unknown(state),
        (Less, Some(number)) => number.checked_sub(1).map(|last| (0, last)),
        (LessOrEqual, Some(number)) => Some((0, number)),
        (Greater, Some(number)) => number.checked_add(1).map(|first| (first, u128::MAX)),
        (GreaterOrEqual, Some(number)) => Some((number, u128::MAX)),
    };
    let Some((first, last)) = range else { return Split::never(state) };
    among(state, loaded, &Ranges::between(first, last))
}

/// Tests whether a register is between two constants, both included.
pub(super) fn between(state: &State, loaded: &Loaded, from: &[u8], to: &[u8]) -> Split {
    match (big_endian(from), big_endian(to)) {
        (Some(first), Some(last)) if from.len() == loaded.len() && to.len() == loaded.len() => {
            among(state, loaded, &Ranges::between(first, last))
        }
        _ => Split::unknown(state),
    }
}

/// Tests whether a set has a key.
pub(super) fn lookup(state: &State, parts: &[Loaded], set: &Set, elements: &[&Element]) -> Split {
    if elements.iter().any(|element| element.catch_all) {
        return Split::always(state);
    }
    if set.is_dynamic() {
        return Split::unknown(state);
    }
    match parts {
        // A key of another length is not one of these.
        [part] if elements.iter().any(|element| element.key.len() != part.len()) => Split::unknown(state),
        [part] => {
            let split = among(state, part, &keys(elements));
            // What expires is no longer excluded then, and nobody tells.
            if set.expires() && split.depends() { Split { no: Some(state.clone()), ..split } } else { split }
        }
        parts => {
            let mut yes = Some(state.clone());
            let mut at = 0;
            for part in parts {
                let component = |key: &[u8]| key.get(at..at + part.len()).and_then(big_endian);
                let values = elements.iter().map(|element| {
                    let first = component(&element.key)?;
                    let last = element.key_end.as_deref().map_or(Some(first), component)?;
                    Some((first, last))
                });
                // A key of another form than what is looked for: any.
                let values = values.collect::<Option<Vec<_>>>().map_or_else(Ranges::all, Ranges::of);
                yes = yes.and_then(|state| among(&state, part, &values).yes);
                at += part.len().div_ceil(4) * 4;
            }
            Split { yes, no: Some(state.clone()) }
        }
    }
}

/// The keys of elements as numbers.
fn keys(elements: &[&Element]) -> Ranges {
    let ranges = elements.iter().map(|element| {
        let first = big_endian(&element.key)?;
        let last = element.key_end.as_deref().map_or(Some(first), big_endian)?;
        Some((first, last))
    });
    ranges.collect::<Option<Vec<_>>>().map_or_else(Ranges::all, Ranges::of)
}

/// A number in network byte order; `None` if it is longer than 128 bits.
fn big_endian(bytes: &[u8]) -> Option<u128> {
    (bytes.len() <= 16).then(|| bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

/// The bytes that a register has for a field's value, as a number.
fn in_register(loaded: &Loaded, value: u128) -> Option<u128> {
    let len = loaded.len();
    let bytes = value.to_be_bytes();
    let mut bytes = bytes.get(bytes.len().checked_sub(len)?..)?.to_vec();
    if loaded.host && cfg!(target_endian = "little") {
        bytes.reverse();
    }
    for ((byte, mask), xor) in bytes.iter_mut().zip(&loaded.mask).zip(&loaded.xor) {
        *byte = *byte & mask ^ xor;
    }
    big_endian(&bytes)
}

fn equal(state: &State, loaded: &Loaded, value: &[u8]) -> Split {
    let Some(number) = big_endian(value) else { return Split::unknown(state) };
    if loaded.single().is_some() {
        return among(state, loaded, &Ranges::one(number));
    }
    // Several fields, each against its part.
    let (mut at, mut yes) = (0, Some(state.clone()));
    for run in &loaded.runs {
        let end = at + run.len;
        let part = |bytes: &[u8]| bytes.get(at..end).unwrap_or_default().to_vec();
        let one =
            Loaded { runs: vec![*run], mask: part(&loaded.mask), xor: part(&loaded.xor), host: loaded.host };
        yes = yes.and_then(|state| equal(&state, &one, &part(value)).yes);
        at = end;
    }
    Split { yes, no: Some(state.clone()) }
}

/// Tests whether the number in a register is one of `wanted`.
fn among(state: &State, loaded: &Loaded, wanted: &Ranges) -> Split {
    let Some(run) = loaded.single() else { return Split::unknown(state) };
    let known = state.get(run.field);
    let whole = run.from == 0 && run.len == run.width;
    if whole && let Some(values) = known.values(FEW) {
        let (yes, no): (Vec<u128>, Vec<u128>) = values
            .into_iter()
            .partition(|value| in_register(loaded, *value).is_some_and(|number| wanted.contains(number)));
        let narrowed = |values: Vec<u128>| match values.as_slice() {
            [] => None,
            values => state.narrowed(run.field, &Ranges::of(values.iter().map(|value| (*value, *value)))),
        };
        return Split { yes: narrowed(yes), no: narrowed(no) };
    }
    if !run.field.is_told_apart() || run.from != 0 {
        return Split::unknown(state);
    }
    let unmasked = loaded.xor.iter().all(|byte| *byte == 0);
    if loaded.host {
        return among_host(state, loaded, run.field, wanted);
    }
    let Some(mask) = big_endian(&loaded.mask).filter(|_| unmasked) else { return Split::unknown(state) };
    let Some(ranges) = under_prefix(wanted, mask, 8 * run.len as u32, 8 * (run.width - run.len) as u32)
    else {
        return Split::unknown(state);
    };
    let within = Ranges::between(0, ones(8 * run.width as u32));
    let narrowed = |ranges: &Ranges| state.narrowed(run.field, &ranges.and(&within));
    Split { yes: narrowed(&ranges), no: narrowed(&ranges.not()) }
}

/// The values of a field whose first `bits` bits, under `mask`, are among `wanted`, with `rest` bits behind them;
/// `None` if the mask is no prefix.
fn under_prefix(wanted: &Ranges, mask: u128, bits: u32, rest: u32) -> Option<Ranges> {
    let all = ones(bits);
    let low = all & !mask;
    if low & low.wrapping_add(1) != 0 {
        return None;
    }
    let free = low.count_ones();
    let ranges = wanted.iter().filter_map(|(first, last)| {
        // Only numbers whose masked bits are zero come out of the mask.
        let first = first.checked_add(low)? & !low;
        let last = last.min(all) & !low;
        (first <= last && first <= all).then_some((first, last | ones(free)))
    });
    Some(Ranges::of(ranges.map(|(first, last)| {
        let shifted = |number: u128| number.checked_shl(rest).unwrap_or(0);
        (shifted(first), shifted(last) | ones(rest))
    })))
}

/// `bits` bits that are set.
const fn ones(bits: u32) -> u128 {
    match 1_u128.checked_shl(bits) {
        Some(bit) => bit - 1,
        None => u128::MAX,
    }
}

/// Numbers in this machine's byte order: only single ones can be told.
fn among_host(state: &State, loaded: &Loaded, field: Field, wanted: &Ranges) -> Split {
    let number = |number: u128| {
        let bytes = (number as u32).to_be_bytes();
        u32::from_ne_bytes(bytes)
    };
    let Some(values) =
        wanted.values(FEW).filter(|values| values.iter().all(|value| *value <= u32::MAX.into()))
    else {
        return Split::unknown(state);
    };
    let masked = |bytes: &[u8]| big_endian(bytes).map_or(0, number);
    let (mask, xor) = (masked(&loaded.mask), masked(&loaded.xor));
    if mask == u32::MAX {
        let wanted = Ranges::of(values.iter().map(|value| u128::from(number(*value) ^ xor)).map(|n| (n, n)));
        let all = Ranges::between(0, u32::MAX.into());
        let narrowed = |ranges: &Ranges| state.narrowed(field, ranges);
        return Split { yes: narrowed(&wanted), no: narrowed(&wanted.not().and(&all)) };
    }
    let ([value], Field::CtMark | Field::CtStatus) = (values.as_slice(), field) else {
        return Split::unknown(state);
    };
    let test = MaskTest { field, mask, value: number(*value) ^ xor, equal: true };
    if test.value & !mask != 0 {
        return Split::never(state);
    }
    let narrowed = |test: MaskTest| {
        let mut narrowed = state.clone();
        narrowed.narrow_mask(test).then_some(narrowed)
    };
    Split { yes: narrowed(test), no: narrowed(MaskTest { equal: false, ..test }) }
}
