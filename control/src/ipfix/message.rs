//! A message that is being filled.

/// RFC 7011, 3.1.
const VERSION: u16 = 10;
const HEADER: usize = 16;
const SET_HEADER: usize = 4;

/// A message, of sets of records.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// Bytes that it may have.
    limit: usize,
    /// The set that is being filled: its number, and where it begins.
    set: Option<(u16, usize)>,
    records: u32,
}

impl Message {
    pub(super) fn new(limit: usize) -> Self {
        let mut bytes = Vec::with_capacity(limit);
        bytes.resize(HEADER, 0);
        Self { bytes, limit, set: None, records: 0 }
    }

    /// Records that count in the sequence.
    pub(super) const fn records(&self) -> u32 {
        self.records
    }

    /// Whether a record of so many bytes still fits into a set of this number.
    pub(super) fn has_room(&self, set: u16, length: usize) -> bool {
        let header = if self.set.is_some_and(|(open, _)| open == set) { 0 } else { SET_HEADER };
        self.bytes.len() + header + length <= self.limit
    }

    /// Adds a data record. It must have room.
    pub(super) fn add(&mut self, set: u16, write: impl FnOnce(&mut Vec<u8>)) {
        self.add_template(set, write);
        self.records += 1;
    }

    /// Adds what counts in no sequence.
    pub(super) fn add_template(&mut self, set: u16, write: impl FnOnce(&mut Vec<u8>)) {
        if self.set.is_none_or(|(open, _)| open != set) {
            self.close_set();
            self.set = Some((set, self.bytes.len()));
            self.bytes.extend(set.to_be_bytes());
            self.bytes.extend([0; 2]);
        }
        write(&mut self.bytes);
    }

    fn close_set(&mut self) {
        let Some((_, start)) = self.set.take() else { return };
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start + 2..start + SET_HEADER].copy_from_slice(&length.to_be_bytes());
    }

    /// The bytes to send. `sequence` counts the data records before this message.
    pub(super) fn finish(mut self, unix_s: u32, sequence: u32, domain: u32) -> Vec<u8> {
        self.close_set();
        let length = self.bytes.len() as u16;
        let (head, rest) = self.bytes.split_at_mut(4);
        head[..2].copy_from_slice(&VERSION.to_be_bytes());
        head[2..].copy_from_slice(&length.to_be_bytes());
        for (place, number) in rest.chunks_exact_mut(4).zip([unix_s, sequence, domain]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        self.bytes
    }
}
