//! Names of entries: where one lies, and which of the flows that lay there is meant.

use std::fmt;
use std::num::NonZeroU32;

/// Set in the slots of IPv6 entries.
const IPV6: u32 = 1 << 31;

/// Where an entry lies. Valid until the entry's grace period is over: do not keep it across
/// [`QsbrReader::quiescent`](super::QsbrReader::quiescent); keep a [`FlowRef`] instead.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(NonZeroU32);

impl Slot {
    /// The most slots that one family can have.
    pub(crate) const MAX: usize = (IPV6 - 2) as usize;

    #[inline]
    pub(crate) const fn v4(index: u32) -> Self {
        Self::numbered(index & !IPV6)
    }

    #[inline]
    pub(crate) const fn v6(index: u32) -> Self {
        Self::numbered(index | IPV6)
    }

    #[inline]
    const fn numbered(number: u32) -> Self {
        match NonZeroU32::new(number.wrapping_add(1)) {
            Some(bits) => Self(bits),
            // Not for indices up to MAX.
            None => Self(NonZeroU32::MAX),
        }
    }

    /// Whether the slot is of an IPv6 entry.
    pub const fn is_ipv6(self) -> bool {
        (self.0.get() - 1) & IPV6 != 0
    }

    /// Index into the IPv4 arena; out of every arena's bounds if this is an IPv6 slot.
    #[inline]
    pub(crate) const fn index4(self) -> usize {
        (self.0.get() - 1) as usize
    }

    /// Index into the IPv6 arena; out of every arena's bounds if this is an IPv4 slot.
    #[inline]
    pub(crate) const fn index6(self) -> usize {
        ((self.0.get() - 1) ^ IPV6) as usize
    }

    /// The slot as one word, never 0.
    pub const fn to_bits(self) -> u32 {
        self.0.get()
    }

    /// The slot of a word that [`to_bits`](Self::to_bits) gave; `None` for 0.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match NonZeroU32::new(bits) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ipv6() { write!(f, "v6[{}]", self.index6()) } else { write!(f, "v4[{}]", self.index4()) }
    }
}

/// A slot together with the generation of the flow that is meant: may be kept as long as one likes.
///
/// A slot's generation goes up by one when a flow comes and by one when it goes, so that it is odd while there is one. It
/// wraps after 32,768 flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowRef {
    /// Where the entry lies, or lay.
    pub slot: Slot,
    /// Which of the slot's flows is meant.
    pub generation: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_do_not_mix() {
        for index in [0, 1, 77, Slot::MAX as u32] {
            let (four, six) = (Slot::v4(index), Slot::v6(index));
            assert!(!four.is_ipv6() && six.is_ipv6());
            assert_eq!((four.index4(), six.index6()), (index as usize, index as usize));
            assert!(four.index6() > Slot::MAX && six.index4() > Slot::MAX);
            assert_eq!(Slot::from_bits(six.to_bits()), Some(six));
        }
        assert_eq!(size_of::<Option<Slot>>(), 4);
    }
}
