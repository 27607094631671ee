//! Numbers for values that many flows share: equal values get one number, counted, and reused only when no
//! worker can still be looking at it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::Qsbr;
use super::limbo::Limbo;

/// Control's side of a table of shared values. Number 0 is never given.
#[derive(Debug)]
pub(crate) struct Numbers<T> {
    /// Number and count of references, by value.
    by_value: HashMap<T, (u32, usize)>,
    by_number: HashMap<u32, T>,
    /// Numbers below this were given once.
    fresh: u32,
    free: Vec<u32>,
    limbo: Limbo<u32>,
    most: u32,
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    /// Numbers from 1 to `most`.
    pub(crate) fn new(qsbr: Arc<Qsbr>, most: u32) -> Self {
        let (by_value, by_number) = (HashMap::new(), HashMap::new());
        Self { by_value, by_number, fresh: 1, free: Vec::new(), limbo: Limbo::new(qsbr), most }
    }

    /// The number of a value, with one more reference; `write` is called first if the number is new to it.
    /// `None` when all numbers are taken.
    pub(crate) fn acquire(&mut self, value: &T, write: impl FnOnce(u32, &T)) -> Option<u32> {
        if let Some((number, references)) = self.by_value.get_mut(value) {
            *references += 1;
            return Some(*number);
        }
        if self.free.is_empty() && self.fresh > self.most {
            self.reclaim();
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.fresh <= self.most => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        write(number, value);
        self.by_value.insert(value.clone(), (number, 1));
        self.by_number.insert(number, value.clone());
        Some(number)
    }

    /// Gives one reference back; false if there was none.
    pub(crate) fn release(&mut self, number: u32) -> bool {
        let Some(value) = self.by_number.get(&number) else { return false };
        let Some((_, references)) = self.by_value.get_mut(value) else { return false };
        *references -= 1;
        if *references == 0 {
            self.by_value.remove(value);
            self.by_number.remove(&number);
            self.limbo.push(number);
        }
        true
    }

    /// The value of a number that is referenced.
    pub(crate) fn value(&self, number: u32) -> Option<&T> {
        self.by_number.get(&number)
    }

    /// Makes numbers free whose grace period is over; says how many.
    pub(crate) fn reclaim(&mut self) -> usize {
        let Self { limbo, free, .. } = self;
        limbo.collect(usize::MAX, |number| free.push(number))
    }

    /// The values that are referenced.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.by_value.keys()
    }

    /// How many values are referenced.
    pub(crate) fn len(&self) -> usize {
        self.by_value.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_a_number_until_the_last_reference_goes() {
        let qsbr = Arc::new(Qsbr::new());
        let reader = qsbr.register().expect("a place");
        let mut numbers = Numbers::new(qsbr, 2);
        let mut written = Vec::new();
        let one = numbers.acquire(&"one", |n, v| written.push((n, *v))).expect("room");
        assert_eq!(numbers.acquire(&"one", |_, _| panic!("written twice")), Some(one));
        let two = numbers.acquire(&"two", |n, v| written.push((n, *v))).expect("room");
        assert_eq!(written, [(1, "one"), (2, "two")]);
        assert_eq!(numbers.acquire(&"three", |_, _| ()), None);
        assert!(numbers.release(one) && numbers.value(one) == Some(&"one"));
        assert!(numbers.release(one) && numbers.value(one).is_none());
        assert!(!numbers.release(one));
        assert_eq!(numbers.acquire(&"three", |_, _| ()), None, "a reader may still look at it");
        reader.quiescent();
        assert_eq!(numbers.acquire(&"three", |_, _| ()), Some(one));
        assert!(numbers.release(two));
        assert_eq!(numbers.len(), 1);
    }
}
