//! Ingress contexts, numbered, so that an entry can name one in 16 bits.

use std::sync::Arc;

use thiserror::Error;

use super::intern::Numbers;
use super::region::{Placement, Region, Zeroed};
use super::sync::{AtomicU64, Ordering};
use super::{Qsbr, TableError};
use crate::packet::Ingress;

#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(16)))]
struct Words([AtomicU64; 2]);

// SAFETY: made of atomic integers alone, whose default is 0.
#[allow(unsafe_code)]
unsafe impl Zeroed for Words {}

const COUNT: usize = u16::MAX as usize + 1;

/// All ingress contexts. Shared by workers.
#[derive(Debug)]
pub struct ContextTable(Region<Words>);

/// All 65,535 numbers are in use.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("all ingress contexts are in use")]
pub struct TooManyContexts;

impl ContextTable {
    /// No context: the direction has not been learnt.
    pub const NONE: u16 = 0;

    /// Makes an empty table and its only writer. The readers are those of `qsbr`.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn create(qsbr: &Arc<Qsbr>, placement: Placement) -> Result<(Arc<Self>, ContextWriter), TableError> {
        let table = Arc::new(Self(Region::new(COUNT, placement)?));
        // No frame comes from there: group address as the destination, all bits of the encapsulation.
        table.write(Self::NONE, &Ingress { mac_port: u64::MAX, encap: u64::MAX });
        let numbers = Numbers::new(Arc::clone(qsbr), u32::from(u16::MAX));
        Ok((Arc::clone(&table), ContextWriter { table, numbers }))
    }

    /// The context of that number. [`Self::NONE`] equals the context of no frame.
    #[inline]
    pub fn get(&self, number: u16) -> Ingress {
        self.0[usize::from(number)].get()
    }

    /// All of them, for who looks at many.
    #[inline]
    pub fn all(&self) -> Contexts<'_> {
        Contexts(&self.0[..COUNT])
    }

    fn write(&self, number: u16, ingress: &Ingress) {
        let [mac_port, encap] = &self.0[usize::from(number)].0;
        mac_port.store(ingress.mac_port, Ordering::Relaxed);
        encap.store(ingress.encap, Ordering::Relaxed);
    }
}

/// All ingress contexts: as many as 16 bits can name, which the compiler sees here, so that it needs no check.
#[derive(Clone, Copy, Debug)]
pub struct Contexts<'a>(&'a [Words]);

impl Contexts<'_> {
    /// As [`ContextTable::get`].
    #[inline(always)]
    pub fn get(self, number: u16) -> Ingress {
        self.0[usize::from(number)].get()
    }
}

impl Words {
    #[inline(always)]
    fn get(&self) -> Ingress {
        let [mac_port, encap] = self.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        Ingress { mac_port, encap }
    }
}

/// The only writer of a [`ContextTable`]. Counts references.
#[derive(Debug)]
pub struct ContextWriter {
    table: Arc<ContextTable>,
    numbers: Numbers<Ingress>,
}

impl ContextWriter {
    /// The number of a context, with one more reference.
    ///
    /// # Errors
    /// When all are in use.
    pub fn acquire(&mut self, ingress: &Ingress) -> Result<u16, TooManyContexts> {
        let table = &self.table;
        let number = self.numbers.acquire(ingress, |number, ingress| table.write(number as u16, ingress));
        number.map(|number| number as u16).ok_or(TooManyContexts)
    }

    /// Gives one reference back; false if there was none.
    pub fn release(&mut self, number: u16) -> bool {
        self.numbers.release(u32::from(number))
    }

    /// Frees numbers that nobody refers to and no worker can see; says how many.
    pub fn reclaim(&mut self) -> usize {
        self.numbers.reclaim()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_shared_by_content() {
        let qsbr = Arc::new(Qsbr::new());
        let (table, mut writer) = ContextTable::create(&qsbr, Placement::default()).expect("memory");
        let plain = Ingress::untagged(3, [2; 6]);
        let tagged = plain.in_vlan(7, false);
        let (a, b) = (writer.acquire(&plain).expect("room"), writer.acquire(&tagged).expect("room"));
        assert_eq!(writer.acquire(&plain), Ok(a));
        assert_eq!((table.get(a), table.get(b)), (plain, tagged));
        assert!(![plain, tagged, Ingress::default()].contains(&table.get(ContextTable::NONE)));
        assert!(writer.release(b) && !writer.release(b));
        assert_eq!(writer.reclaim(), 1);
    }

    #[test]
    fn numbers_run_out_and_come_back() {
        let qsbr = Arc::new(Qsbr::new());
        let (_, mut writer) = ContextTable::create(&qsbr, Placement::default()).expect("memory");
        let ingress = |n: u64| Ingress { mac_port: n, encap: 0 };
        let last = (0..65_535).map(|n| writer.acquire(&ingress(n)).expect("room")).last();
        assert_eq!(last, Some(65_535));
        assert_eq!(writer.acquire(&ingress(65_535)), Err(TooManyContexts));
        assert!(writer.release(9));
        assert_eq!(writer.acquire(&ingress(65_535)), Ok(9));
    }
}
