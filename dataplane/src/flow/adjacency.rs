//! Adjacencies: where a direction's packets leave, and the whole L2 header that they leave with.

use std::sync::Arc;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::intern::Numbers;
use super::region::{Placement, Region, Zeroed};
use super::sync::{AtomicU64, Ordering};
use super::tags::prefetch;
use super::{Qsbr, TableError};

/// The longest L2 header: Ethernet, two VLAN tags and PPPoE are 30 bytes.
pub const MAX_HEADER: usize = 40;
const WORDS: usize = MAX_HEADER / 8;
/// The length of an Ethernet header without tags.
const ETHERNET: usize = 14;
/// Stands for "no such field" where a byte's worth is stored.
const ABSENT: u8 = 0xff;

/// Names an adjacency. 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdjacencyId(pub u32);

impl AdjacencyId {
    /// No adjacency: the direction has not been learnt.
    pub const NONE: Self = Self(0);
    pub(crate) const MASK: u32 = 0x00ff_ffff;
}

/// What control knows of an adjacency.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Egress {
    /// Port through which packets leave.
    pub port: u16,
    /// The bytes in front of the IP header.
    pub header: ArrayVec<u8, MAX_HEADER>,
    /// The longest L3 packet that the egress interface takes.
    pub mtu: u16,
    /// Offset in the header of a 16-bit length that counts what follows: PPPoE's (RFC 2516, section 4), which includes
    /// the two bytes of the PPP protocol.
    pub pppoe_length: Option<u8>,
    /// The DSCP (6 bits) that packets leave with, where the kernel changes it.
    pub dscp: Option<u8>,
}

/// An adjacency as workers read it: one cache line.
///
/// Constant as long as a flow that a worker can find refers to it. A worker that looks at one that nobody refers to reads
/// old or new words, or some of both, but nothing else happens.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(C, align(64)))]
pub struct Adjacency {
    /// Port (16 bits, lowest), MTU (16), header length (8), offset of PPPoE's length (8), DSCP (8), valid (1),
    /// Ethernet's header alone (1).
    fields: AtomicU64,
    header: [AtomicU64; WORDS],
    _spare: [AtomicU64; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Adjacency>() == 64);

// SAFETY: made of atomic integers alone, whose default is 0.
#[allow(unsafe_code)]
unsafe impl Zeroed for Adjacency {}

impl Adjacency {
    /// Everything but the header's bytes, in one load.
    #[inline]
    pub fn fields(&self) -> AdjacencyFields {
        AdjacencyFields(self.fields.load(Ordering::Relaxed))
    }

    /// The header's bytes, in words as they lie in memory; those beyond the header's length are 0.
    #[inline]
    pub fn header_words(&self) -> [u64; WORDS] {
        self.header.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    /// The header's bytes; those beyond the header's length are 0.
    #[inline]
    pub fn header_bytes(&self) -> [u8; MAX_HEADER] {
        let mut bytes = [0; MAX_HEADER];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.header_words()) {
            *bytes = word.to_ne_bytes();
        }
        bytes
    }

    /// Writes the first bytes of the header: all of it where it [is Ethernet's alone](AdjacencyFields::is_ethernet).
    #[inline(always)]
    pub fn write_ethernet(&self, to: &mut [u8; ETHERNET]) {
        let [first, second, ..] = &self.header;
        let [first, second] = [first, second].map(|word| word.load(Ordering::Relaxed));
        // Two stores that overlap, instead of three.
        let tail = u64::from_le(first) >> 48 | u64::from_le(second) << 16;
        to[..8].copy_from_slice(&first.to_ne_bytes());
        to[ETHERNET - 8..].copy_from_slice(&tail.to_le_bytes());
    }

    fn write(&self, egress: &Egress) {
        let mut bytes = [0; MAX_HEADER];
        bytes[..egress.header.len()].copy_from_slice(&egress.header);
        for (word, bytes) in self.header.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.fields.store(AdjacencyFields::of(egress).0, Ordering::Relaxed);
    }
}

/// The small fields of an adjacency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdjacencyFields(u64);

const VALID: u64 = 1 << 56;
const PLAIN: u64 = 1 << 57;

impl AdjacencyFields {
    fn of(egress: &Egress) -> Self {
        let bytes =
            [egress.header.len() as u8, egress.pppoe_length.unwrap_or(ABSENT), egress.dscp.unwrap_or(ABSENT)];
        let plain = egress.header.len() == ETHERNET && egress.pppoe_length.is_none();
        let [length, pppoe, dscp] = bytes.map(u64::from);
        Self(
            u64::from(egress.port)
                | u64::from(egress.mtu) << 16
                | length << 32
                | pppoe << 40
                | dscp << 48
                | VALID
                | if plain { PLAIN } else { 0 },
        )
    }

    const fn byte(self, shift: u32) -> u8 {
        (self.0 >> shift) as u8
    }

    const fn optional(self, shift: u32) -> Option<u8> {
        match self.byte(shift) {
            ABSENT => None,
            value => Some(value),
        }
    }

    /// Whether there is an adjacency at all: false for [`AdjacencyId::NONE`].
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 & VALID != 0
    }

    /// Port through which packets leave.
    #[inline]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// The longest L3 packet that the egress interface takes.
    #[inline]
    pub const fn mtu(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bytes in front of the IP header; at most [`MAX_HEADER`].
    #[inline]
    pub const fn header_len(self) -> usize {
        let len = self.byte(32) as usize;
        if len < MAX_HEADER { len } else { MAX_HEADER }
    }

    /// Whether the header is Ethernet's alone, without a tag and without any field that differs by packet.
    #[inline(always)]
    pub const fn is_ethernet(self) -> bool {
        self.0 & PLAIN != 0
    }

    /// Offset in the header of PPPoE's length.
    #[inline]
    pub const fn pppoe_length(self) -> Option<u8> {
        self.optional(40)
    }

    /// The DSCP that packets leave with.
    #[inline]
    pub const fn dscp(self) -> Option<u8> {
        self.optional(48)
    }
}

/// All adjacencies. Shared by workers.
#[derive(Debug)]
pub struct AdjacencyTable(Region<Adjacency>);

/// Why there is no adjacency to be had.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AdjacencyError {
    /// All are in use.
    #[error("all adjacencies are in use")]
    Full,
    /// PPPoE's length field does not lie inside the header.
    #[error("a length field at offset {0} is not in the header")]
    LengthField(u8),
}

impl AdjacencyTable {
    /// Makes a table for so many adjacencies, and its only writer. The readers are those of `qsbr`.
    ///
    /// # Errors
    /// When there is no memory, or more are asked for than 24 bits can name.
    pub fn create(
        capacity: usize,
        qsbr: &Arc<Qsbr>,
        placement: Placement,
    ) -> Result<(Arc<Self>, AdjacencyWriter), TableError> {
        if capacity >= AdjacencyId::MASK as usize {
            return Err(TableError::TooLarge(capacity));
        }
        let table = Arc::new(Self(Region::new(capacity + 1, placement)?));
        let numbers = Numbers::new(Arc::clone(qsbr), capacity as u32);
        Ok((Arc::clone(&table), AdjacencyWriter { table, numbers }))
    }

    /// Asks for an adjacency that will be read soon.
    #[inline]
    pub fn prefetch(&self, id: AdjacencyId) {
        prefetch(self.0.as_ptr().wrapping_add(id.0 as usize));
    }

    /// All of them, for who looks at many.
    #[inline]
    pub fn all(&self) -> Adjacencies<'_> {
        Adjacencies(&self.0)
    }

    /// The adjacency of that name. One that says [`AdjacencyFields::is_some`] is false if there was never any.
    #[inline]
    pub fn get(&self, id: AdjacencyId) -> &Adjacency {
        self.all().get(id)
    }
}

/// All adjacencies.
#[derive(Clone, Copy, Debug)]
pub struct Adjacencies<'a>(&'a [Adjacency]);

impl<'a> Adjacencies<'a> {
    /// As [`AdjacencyTable::get`].
    #[inline(always)]
    pub fn get(self, id: AdjacencyId) -> &'a Adjacency {
        // There is always number 0, so the table is never empty.
        self.0.get(id.0 as usize).unwrap_or(&self.0[0])
    }
}

/// The only writer of an [`AdjacencyTable`]. Counts references: each [`acquire`](Self::acquire) wants its
/// [`release`](Self::release).
#[derive(Debug)]
pub struct AdjacencyWriter {
    table: Arc<AdjacencyTable>,
    numbers: Numbers<Egress>,
}

impl AdjacencyWriter {
    /// The adjacency with this content, with one more reference.
    ///
    /// # Errors
    /// When all are in use, or the content makes no sense.
    pub fn acquire(&mut self, egress: &Egress) -> Result<AdjacencyId, AdjacencyError> {
        if let Some(offset) =
            egress.pppoe_length.filter(|offset| usize::from(*offset) + 2 > egress.header.len())
        {
            return Err(AdjacencyError::LengthField(offset));
        }
        let table = &self.table;
        let number = self.numbers.acquire(egress, |number, egress| table.0[number as usize].write(egress));
        number.map(AdjacencyId).ok_or(AdjacencyError::Full)
    }

    /// Gives one reference back; false if there was none.
    pub fn release(&mut self, id: AdjacencyId) -> bool {
        self.numbers.release(id.0)
    }

    /// The content of an adjacency that is referenced.
    pub fn get(&self, id: AdjacencyId) -> Option<&Egress> {
        self.numbers.value(id.0)
    }

    /// Frees what nobody refers to and no worker can see; says how many.
    pub fn reclaim(&mut self) -> usize {
        self.numbers.reclaim()
    }

    /// What is referenced, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Egress> {
        self.numbers.values()
    }

    /// Adjacencies that are referenced.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn egress(port: u16, length: usize) -> Egress {
        let header = (0..length as u8).collect();
        Egress { port, header, mtu: 1492, pppoe_length: Some(18), dscp: None }
    }

    #[test]
    fn what_is_written_is_read() {
        let qsbr = Arc::new(Qsbr::new());
        let (table, mut writer) = AdjacencyTable::create(8, &qsbr, Placement::default()).expect("memory");
        assert!(!table.get(AdjacencyId::NONE).fields().is_some());
        assert!(!table.get(AdjacencyId(u32::MAX)).fields().is_some());
        let wanted = egress(0xfffe, 22);
        let id = writer.acquire(&wanted).expect("room");
        assert_eq!(writer.acquire(&wanted), Ok(id));
        assert_ne!(writer.acquire(&egress(1, 40)), Ok(id));
        let (fields, bytes) = (table.get(id).fields(), table.get(id).header_bytes());
        assert!(fields.is_some());
        assert_eq!((fields.port(), fields.mtu(), fields.header_len()), (0xfffe, 1492, 22));
        assert_eq!((fields.pppoe_length(), fields.dscp()), (Some(18), None));
        assert_eq!((&bytes[..22], &bytes[22..]), (&wanted.header[..], &[0; 18][..]));
        assert_eq!(writer.get(id), Some(&wanted));
    }

    #[test]
    fn a_length_field_outside_of_the_header_is_refused() {
        let qsbr = Arc::new(Qsbr::new());
        let (_, mut writer) = AdjacencyTable::create(8, &qsbr, Placement::default()).expect("memory");
        assert_eq!(writer.acquire(&egress(0, 19)), Err(AdjacencyError::LengthField(18)));
    }

    #[test]
    fn a_full_table_says_so_and_recovers() {
        let qsbr = Arc::new(Qsbr::new());
        let reader = qsbr.register().expect("a place");
        let (table, mut writer) = AdjacencyTable::create(2, &qsbr, Placement::default()).expect("memory");
        let ids = [1, 2].map(|port| writer.acquire(&egress(port, 20)).expect("room"));
        assert_eq!(writer.acquire(&egress(3, 20)), Err(AdjacencyError::Full));
        assert!(writer.release(ids[0]) && !writer.release(ids[0]) && !writer.release(AdjacencyId::NONE));
        assert_eq!(writer.acquire(&egress(3, 20)), Err(AdjacencyError::Full));
        assert_eq!(table.get(ids[0]).fields().port(), 1, "still there for a worker in the middle of a burst");
        reader.quiescent();
        assert_eq!(writer.acquire(&egress(3, 20)), Ok(ids[0]));
        assert_eq!((table.get(ids[0]).fields().port(), writer.len()), (3, 2));
    }
}
