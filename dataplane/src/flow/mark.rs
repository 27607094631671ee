//! Marks: what a NIC's rule puts on the packets of a flow, so that its entry need not be looked for.
//!
//! A mark names a place in the arena of the packet's own family, and no more: what lies there is taken if it can be found
//! and has the packet's key. So a mark may be old, wrong or made up, and costs a lookup then, never a wrong packet.

use super::Slot;

/// The mark of a flow's packets: never 0, at most [`MOST`](Self::MOST).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mark(u32);

impl Mark {
    /// Many NICs have marks of 24 bits, and some keep the largest for themselves.
    pub const MOST: u32 = 0x00ff_ff00;

    /// The mark for a slot; `None` if its number is too large for a mark.
    pub const fn of(slot: Slot) -> Option<Self> {
        let index = if slot.is_ipv6() { slot.index6() } else { slot.index4() };
        if index < Self::MOST as usize { Some(Self(index as u32 + 1)) } else { None }
    }

    /// What a packet has been marked with, whatever it is.
    #[inline(always)]
    pub(crate) const fn from_packet(bits: u32) -> Self {
        Self(bits)
    }

    /// The number that the NIC is given.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// Index into the arena of the packet's family; beyond every arena for 0.
    #[inline(always)]
    pub(crate) const fn index(self) -> u32 {
        self.0.wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_both_families_have_marks_of_24_bits_and_none_is_0() {
        for index in [0, 1, Mark::MOST - 1] {
            for slot in [Slot::v4(index), Slot::v6(index)] {
                let mark = Mark::of(slot).expect("small enough");
                assert_eq!((mark.to_bits(), mark.index()), (index + 1, index));
            }
        }
        assert_eq!(Mark::of(Slot::v4(Mark::MOST)), None);
        assert_eq!(Mark::of(Slot::v6(Slot::MAX as u32)), None);
        assert!(Mark::from_packet(0).index() as usize > Slot::MAX);
    }
}
