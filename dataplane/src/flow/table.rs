//! The flow table as workers see it.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::arena::{Arena, Lookup, MAX_BURST};
use super::burst::Kernel;
use super::entry::{Entry, Entry4, Entry6, EntryView, Line, Line4, Line6};
use super::region::{PageKind, Placement};
use super::{FlowRef, Key, Key4, Key6, Qsbr, Slot, TableWriter};

/// How large a table is and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct TableConfig {
    /// The most connections, both families together. Room for all of them to be IPv4 is reserved.
    pub connections: usize,
    /// The most of them that may be IPv6, in percent.
    ///
    /// Without reserved huge pages, room that is never used takes no memory.
    pub ipv6_share: u8,
    /// Where the memory comes from.
    pub placement: Placement,
    /// Compare tags with AVX2 where the processor has it. Without, the same instructions run on every x86 processor with
    /// AES, which is for counting them.
    pub avx2: bool,
}

impl TableConfig {
    /// Room for so many connections, half of which may be IPv6.
    pub fn new(connections: usize) -> Self {
        Self { connections, ipv6_share: 50, placement: Placement::default(), avx2: true }
    }
}

/// Why a table could not be made.
#[derive(Debug, Error)]
pub enum TableError {
    /// More entries than a slot can name.
    #[error("a flow table cannot hold {0} connections")]
    TooLarge(usize),
    /// The kernel gave no memory.
    #[error("no memory for the flow table")]
    Memory(#[from] io::Error),
}

/// Flows by 5-tuple. Any number of threads look up; the [`TableWriter`] alone changes what is there.
///
/// Readers other than the writer's own thread must be registered with [`Self::qsbr`], and must not use a [`Slot`] after
/// they said that they are quiescent. (Nothing breaks if they do: they only read or count for another flow.)
#[derive(Debug)]
pub struct FlowTable {
    pub(crate) v4: Arena<Line4>,
    pub(crate) v6: Arena<Line6>,
    qsbr: Arc<Qsbr>,
}

impl FlowTable {
    /// Makes an empty table and its only writer.
    ///
    /// # Errors
    /// When there is no memory, or more is asked for than can be named.
    pub fn create(config: TableConfig) -> Result<(Arc<Self>, TableWriter), TableError> {
        Self::with_kernels(config, Kernel::detect(config.avx2), Kernel::detect(config.avx2))
    }

    pub(crate) fn with_kernels(
        config: TableConfig,
        kernel4: Kernel<Line4>,
        kernel6: Kernel<Line6>,
    ) -> Result<(Arc<Self>, TableWriter), TableError> {
        let six = config.connections.saturating_mul(usize::from(config.ipv6_share.min(100))).div_ceil(100);
        let too_large = || TableError::TooLarge(config.connections);
        let groups = |connections: usize| {
            connections.checked_mul(2).and_then(Arena::<Line4>::groups_for).ok_or_else(too_large)
        };
        let table = Self {
            v4: Arena::new(groups(config.connections)?, config.placement, kernel4)?,
            v6: Arena::new(groups(six)?, config.placement, kernel6)?,
            qsbr: Arc::new(Qsbr::new()),
        };
        let table = Arc::new(table);
        let writer = TableWriter::new(Arc::clone(&table), config.connections, six);
        Ok((table, writer))
    }

    /// Looks up a burst of at most [`MAX_BURST`] keys in one go; `found[i]` becomes the slot of `keys[i]`.
    #[inline]
    pub fn lookup4(&self, keys: &[Key4], lookup: &mut Lookup, found: &mut [Option<Slot>]) {
        self.prepare4(keys, lookup);
        self.match4(lookup);
        self.confirm4(keys, lookup, found);
    }

    /// The same for IPv6.
    #[inline]
    pub fn lookup6(&self, keys: &[Key6], lookup: &mut Lookup, found: &mut [Option<Slot>]) {
        self.prepare6(keys, lookup);
        self.match6(lookup);
        self.confirm6(keys, lookup, found);
    }

    /// First stage: hashes the keys and asks for their tags.
    #[inline]
    pub fn prepare4(&self, keys: &[Key4], lookup: &mut Lookup) {
        lookup.clear();
        self.v4.prepare(keys, lookup);
    }

    /// First stage for IPv6.
    #[inline]
    pub fn prepare6(&self, keys: &[Key6], lookup: &mut Lookup) {
        lookup.clear();
        self.v6.prepare(keys, lookup);
    }

    /// Second stage: compares tags and asks for the entries.
    #[inline]
    pub fn match4(&self, lookup: &mut Lookup) {
        self.v4.find_candidates(lookup, MAX_BURST);
    }

    /// Second stage for IPv6.
    #[inline]
    pub fn match6(&self, lookup: &mut Lookup) {
        self.v6.find_candidates(lookup, MAX_BURST);
    }

    /// Third stage: compares the keys with those of the entries. `keys` must be those of the first stage.
    #[inline]
    pub fn confirm4(&self, keys: &[Key4], lookup: &mut Lookup, found: &mut [Option<Slot>]) {
        self.v4.confirm(keys, lookup, found);
    }

    /// Third stage for IPv6.
    #[inline]
    pub fn confirm6(&self, keys: &[Key6], lookup: &mut Lookup, found: &mut [Option<Slot>]) {
        self.v6.confirm(keys, lookup, found);
    }

    /// Looks up a single key. For threads that see a packet now and then.
    pub fn lookup(&self, key: &Key) -> Option<Slot> {
        match key {
            Key::V4(key) => self.v4.find(key, self.v4.probe(key)).map(|index| Slot::v4(index as u32)),
            Key::V6(key) => self.v6.find(key, self.v6.probe(key)).map(|index| Slot::v6(index as u32)),
        }
    }

    /// An IPv4 entry.
    ///
    /// # Panics
    /// When the slot is not an IPv4 slot of this table.
    #[inline]
    pub fn entry4(&self, slot: Slot) -> Entry4<'_> {
        Entry4(&self.v4.entries[slot.index4()])
    }

    /// An IPv6 entry.
    ///
    /// # Panics
    /// When the slot is not an IPv6 slot of this table.
    #[inline]
    pub fn entry6(&self, slot: Slot) -> Entry6<'_> {
        Entry6(&self.v6.entries[slot.index6()])
    }

    /// An entry.
    ///
    /// # Panics
    /// When the slot is not of this table.
    #[inline]
    pub fn entry(&self, slot: Slot) -> Entry<'_> {
        if slot.is_ipv6() { Entry::V6(self.entry6(slot)) } else { Entry::V4(self.entry4(slot)) }
    }

    /// The other direction of the same connection; `None` if the slot never held one.
    pub fn peer(&self, slot: Slot) -> Option<Slot> {
        if slot.is_ipv6() { self.v6.peer(slot.index6()) } else { self.v4.peer(slot.index4()) }
    }

    /// Names the flow that is now in a slot, to be kept beyond the grace period.
    pub fn reference(&self, slot: Slot) -> FlowRef {
        FlowRef { slot, generation: self.entry(slot).generation() }
    }

    /// The slot of a flow, if it is still there.
    pub fn resolve(&self, flow: FlowRef) -> Option<Slot> {
        fn alive<L: Line>(arena: &Arena<L>, index: usize, generation: u16) -> bool {
            arena.tag(index) != 0 && arena.entries.get(index).is_some_and(|e| e.generation() == generation)
        }
        let FlowRef { slot, generation } = flow;
        let alive = if slot.is_ipv6() {
            alive(&self.v6, slot.index6(), generation)
        } else {
            alive(&self.v4, slot.index4(), generation)
        };
        alive.then_some(slot)
    }

    /// Who reads this table, and its companions: adjacencies and contexts.
    pub fn qsbr(&self) -> &Arc<Qsbr> {
        &self.qsbr
    }

    /// What the entries' memory is made of.
    pub fn page_kind(&self) -> PageKind {
        self.v4.page_kind()
    }

    /// Which code looks up: `avx2`, `sse2` or `portable`.
    pub fn kernel(&self) -> &'static str {
        self.v4.kernel.name()
    }
}
