//! What is known of a packet at a place in the ruleset: an over-approximation.

use std::collections::{BTreeMap, BTreeSet};

use super::field::{self, Field, IPV4, IPV6};
use super::ranges::Ranges;

/// `field & mask` is `value`, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MaskTest {
    pub(super) field: Field,
    pub(super) mask: u32,
    pub(super) value: u32,
    pub(super) equal: bool,
}

impl MaskTest {
    pub(super) const fn holds(&self, value: u32) -> bool {
        (value & self.mask == self.value) == self.equal
    }
}

/// What the packets can be that come to a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    fields: BTreeMap<Field, Ranges>,
    masks: Vec<MaskTest>,
    /// Fields that a rule has written: what they are now says nothing of the packet that came.
    written: BTreeSet<Field>,
}

impl State {
    /// What a field can be.
    pub(super) fn get(&self, field: Field) -> Ranges {
        self.fields.get(&field).cloned().unwrap_or_else(|| field.domain())
    }

    /// Conntrack may not have seen them.
    pub(super) fn may_be_untracked(&self) -> bool {
        self.get(Field::CtState).contains(field::STATE_INVALID)
    }

    /// What is known of fields beyond their nature.
    pub(super) fn fields(&self) -> impl Iterator<Item = (Field, &Ranges)> {
        self.fields.iter().map(|(field, ranges)| (*field, ranges))
    }

    pub(super) fn masks(&self) -> &[MaskTest] {
        &self.masks
    }

    /// Those whose field is among `ranges` too; `None` if there are none.
    pub(super) fn narrowed(&self, field: Field, ranges: &Ranges) -> Option<Self> {
        let mut narrowed = self.clone();
        narrowed.narrow(field, ranges).then_some(narrowed)
    }

    /// Keeps those whose field is among `ranges`; `false` if there are none.
    pub(super) fn narrow(&mut self, field: Field, ranges: &Ranges) -> bool {
        if !field.is_told_apart() || self.written.contains(&field) {
            return true;
        }
        let both = self.get(field).and(ranges);
        if both.is_empty() {
            return false;
        }
        // The Ethernet type of an untagged packet tells its protocol.
        if field == Field::Protocol {
            let tells = [(0x0800, IPV4), (0x86dd, IPV6)];
            if let Some(values) = both.values(tells.len())
                && let Some(protocols) = values
                    .iter()
                    .map(|value| {
                        tells.iter().find(|(kind, _)| kind == value).map(|(_, proto)| (*proto, *proto))
                    })
                    .collect::<Option<Vec<_>>>()
                && !self.narrow(Field::Nfproto, &Ranges::of(protocols))
            {
                return false;
            }
        }
        self.fields.insert(field, both);
        true
    }

    /// Keeps those for which a test under a mask holds; `false` if there are none.
    pub(super) fn narrow_mask(&mut self, test: MaskTest) -> bool {
        let contrary = MaskTest { equal: !test.equal, ..test };
        if self.written.contains(&test.field) {
            return true;
        }
        if self.masks.contains(&contrary) {
            return false;
        }
        if !self.masks.contains(&test) {
            self.masks.push(test);
        }
        true
    }

    /// Takes it that some fields have been written.
    pub(super) fn overwrite(&mut self, fields: impl IntoIterator<Item = Field>) {
        for field in fields {
            self.fields.remove(&field);
            self.masks.retain(|test| test.field != field);
            self.written.insert(field);
        }
    }

    /// Those that are in either.
    pub(super) fn or(&self, other: &Self) -> Self {
        let mut fields = BTreeMap::new();
        for (field, ranges) in &self.fields {
            if let Some(others) = other.fields.get(field) {
                fields.insert(*field, ranges.or(others));
            }
        }
        let masks = self.masks.iter().filter(|test| other.masks.contains(test)).copied().collect();
        Self { fields, masks, written: self.written.union(&other.written).copied().collect() }
    }

    /// Those that are in either, of which both may be nothing.
    pub(super) fn join(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.or(&other)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_grows_by_tests_and_shrinks_where_paths_meet() {
        let any = State::default();
        let tcp = any.narrowed(Field::L4Proto, &Ranges::one(6)).expect("TCP");
        assert_eq!(any.narrowed(Field::L4Proto, &Ranges::one(1)), None, "ICMP is not carried");
        assert_eq!(tcp.narrowed(Field::L4Proto, &Ranges::one(17)), None);
        let udp = any.narrowed(Field::L4Proto, &Ranges::one(17)).expect("UDP");
        assert_eq!(tcp.or(&udp).get(Field::L4Proto), Field::L4Proto.domain());
        let marked = tcp.narrowed(Field::CtMark, &Ranges::one(7)).expect("marked");
        assert_eq!(marked.or(&tcp), tcp);
    }

    #[test]
    fn the_ethernet_type_tells_the_protocol() {
        let v4 = State::default().narrowed(Field::Protocol, &Ranges::one(0x0800)).expect("IPv4");
        assert_eq!(v4.get(Field::Nfproto), Ranges::one(IPV4));
        assert_eq!(v4.narrowed(Field::Protocol, &Ranges::one(0x86dd)), None);
        let tagged = State::default().narrowed(Field::Protocol, &Ranges::one(0x8100)).expect("VLAN");
        assert_eq!(tagged.get(Field::Nfproto), Field::Nfproto.domain());
        assert_eq!(State::default().narrowed(Field::Protocol, &Ranges::one(0x0806)), None, "ARP");
    }

    #[test]
    fn tests_under_a_mask_exclude_their_contrary() {
        let test = MaskTest { field: Field::CtMark, mask: 1, value: 1, equal: true };
        let mut state = State::default();
        assert!(state.narrow_mask(test) && !state.narrow_mask(MaskTest { equal: false, ..test }));
    }
}
