//! Sets of numbers as sorted ranges: what a field of a packet may be.

use std::fmt;
use std::sync::Arc;

/// Ranges beyond this number are not told apart: the set becomes the whole.
const MOST: usize = 8192;

/// A set of numbers: inclusive ranges, sorted, neither overlapping nor touching. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Ranges(Arc<[(u128, u128)]>);

impl Ranges {
    /// No number at all.
    pub(super) fn none() -> Self {
        Self(Arc::new([]))
    }

    /// Every number.
    pub(super) fn all() -> Self {
        Self(Arc::new([(0, u128::MAX)]))
    }

    /// One number.
    pub(super) fn one(value: u128) -> Self {
        Self(Arc::new([(value, value)]))
    }

    /// From `first` to `last`, both included; none if they are the wrong way round.
    pub(super) fn between(first: u128, last: u128) -> Self {
        if first <= last { Self(Arc::new([(first, last)])) } else { Self::none() }
    }

    /// The union of any ranges. More than can be told apart are taken for everything.
    pub(super) fn of(ranges: impl IntoIterator<Item = (u128, u128)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        if merged.len() > MOST { Self::all() } else { Self(merged.into()) }
    }

    /// Whether there is no number in it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every number is in it.
    pub(super) fn is_all(&self) -> bool {
        *self.0 == [(0, u128::MAX)]
    }

    /// Whether a number is in it.
    pub(super) fn contains(&self, value: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= value);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| value <= *last)
    }

    /// The numbers one by one, if there are at most `most`.
    pub(super) fn values(&self, most: usize) -> Option<Vec<u128>> {
        let mut values = Vec::new();
        for (first, last) in self.0.iter() {
            if last - first >= most as u128 {
                return None;
            }
            values.extend(*first..=*last);
            if values.len() > most {
                return None;
            }
        }
        Some(values)
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        if self.is_all() {
            return other.clone();
        }
        if other.is_all() || self == other {
            return self.clone();
        }
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                both.push((first, last));
            }
            if a.1 < b.1 {
                left.next();
            } else {
                right.next();
            }
        }
        Self(both.into())
    }

    /// What is in either.
    pub(super) fn or(&self, other: &Self) -> Self {
        if self == other {
            return self.clone();
        }
        Self::of(self.0.iter().chain(other.0.iter()).copied())
    }

    /// What is not in it.
    pub(super) fn not(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = Some(0);
        for (first, last) in self.0.iter() {
            if let Some(next) = next
                && next < *first
            {
                gaps.push((next, first - 1));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.map(|next| (next, u128::MAX)));
        Self(gaps.into())
    }

    /// The ranges, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all");
        }
        let mut list = f.debug_list();
        for (first, last) in self.iter().take(8) {
            if first == last {
                list.entry(&format_args!("{first:#x}"));
            } else {
                list.entry(&format_args!("{first:#x}-{last:#x}"));
            }
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Ranges> {
        proptest::collection::vec((0_u128..40, 0_u128..40), 0..6).prop_map(Ranges::of)
    }

    proptest! {
        #[test]
        fn they_are_sets(a in ranges(), b in ranges()) {
            for value in (0..45).chain([u128::MAX]) {
                let (in_a, in_b) = (a.contains(value), b.contains(value));
                prop_assert_eq!(a.and(&b).contains(value), in_a && in_b);
                prop_assert_eq!(a.or(&b).contains(value), in_a || in_b);
                prop_assert_eq!(a.not().contains(value), !in_a);
            }
            prop_assert!(a.and(&a.not()).is_empty());
            prop_assert!(a.or(&a.not()).is_all());
            prop_assert_eq!(a.not().not(), a);
        }
    }

    #[test]
    fn values_are_listed_while_they_are_few() {
        assert_eq!(Ranges::of([(1, 3), (7, 7)]).values(4), Some(vec![1, 2, 3, 7]));
        assert_eq!(Ranges::of([(1, 3), (7, 7)]).values(3), None);
        assert_eq!(Ranges::all().values(256), None);
    }

    #[test]
    fn too_many_ranges_are_everything() {
        assert!(Ranges::of((0..MOST as u128 + 1).map(|n| (2 * n, 2 * n))).is_all());
        assert!(!Ranges::of((0..MOST as u128).map(|n| (2 * n, 2 * n))).is_all());
    }
}
