//! Netlink's framing: messages in a datagram, attributes in a message, and the writer of both.
//!
//! Reading walks borrowed bytes without copying; a length that does not fit ends the walk.

use nix::libc;

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Size of `struct nfgenmsg`, which follows the header in every nfnetlink message.
pub(crate) const NFGEN: usize = 4;

const NESTED: u16 = libc::NLA_F_NESTED as u16;
const TYPE_MASK: u16 = !(libc::NLA_F_NESTED | libc::NLA_F_NET_BYTEORDER) as u16;

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// One netlink message, its header in host byte order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`: that of the request which this answers.
    pub(crate) sequence: u32,
    /// `nlmsg_pid`: port id of the socket whose request caused this; 0 if none did.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    pub(crate) const fn has(&self, flag: i32) -> bool {
        self.flags & flag as u16 != 0
    }
}

/// The messages of a datagram.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(crate) const fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    /// The bytes that could not be read as a message: empty after a well-formed datagram.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    #[inline]
    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.rest.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let payload = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            payload,
        })
    }
}

/// The attributes in a payload: number without flags, and value.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk::<4>()?;
        let length = u16::from_ne_bytes([l0, l1]) as usize;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value))
    }
}

/// A number in network byte order, as nfnetlink's attributes hold it.
#[inline]
pub(crate) fn be64(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// A number in network byte order, as nfnetlink's attributes hold it.
#[inline]
pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A number in network byte order, as nfnetlink's attributes hold it.
#[inline]
pub(crate) fn be16(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// A number in host byte order, as rtnetlink's attributes hold it.
#[inline]
pub(crate) fn ne32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The error number of an NLMSG_ERROR or NLMSG_DONE payload, positive; 0 is success.
pub(crate) fn error_number(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes).wrapping_neg())
}

/// Where a message or a nest began, to be closed when its length is known.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(usize);

/// Appends messages to a buffer that is reused from one datagram to the next.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { buffer: Vec::with_capacity(capacity) }
    }

    /// Writes behind what is there.
    pub(crate) fn appending(buffer: Vec<u8>) -> Self {
        Self { buffer }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
    }

    /// Starts a message; the kernel fills in the port id.
    pub(crate) fn message(&mut self, kind: u16, flags: i32, sequence: u32) -> Open {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags as u16).to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        Open(start)
    }

    /// Ends a message.
    pub(crate) fn end_message(&mut self, Open(start): Open) {
        let length = (self.buffer.len() - start) as u32;
        if let Some(field) = self.buffer.get_mut(start..start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Bytes that are no attribute: the header of a family of messages.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.buffer.resize(aligned(self.buffer.len()), 0);
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.buffer.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value);
    }

    /// Starts an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16) -> Open {
        let start = self.buffer.len();
        self.attribute(kind | NESTED, &[]);
        Open(start)
    }

    /// Ends such an attribute.
    pub(crate) fn end_nest(&mut self, Open(start): Open) {
        let length = (self.buffer.len() - start) as u16;
        if let Some(field) = self.buffer.get_mut(start..start + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        for sequence in [1, 2] {
            let message = writer.message(0x102, libc::NLM_F_REQUEST, sequence);
            writer.raw(&[2, 0, 0, 0]);
            let nest = writer.nest(4);
            writer.attribute(1, &[7]);
            writer.attribute(2, &[1, 2, 3, 4, 5]);
            writer.end_nest(nest);
            writer.end_message(message);
        }
        let mut messages = Messages::new(writer.bytes());
        let first = messages.next().expect("a message");
        assert_eq!((first.kind, first.sequence), (0x102, 1));
        let (kind, nested) = Attributes(&first.payload[4..]).next().expect("the nest");
        assert_eq!(kind, 4);
        let inner: Vec<_> = Attributes(nested).collect();
        assert_eq!(inner, [(1, &[7][..]), (2, &[1, 2, 3, 4, 5][..])]);
        assert_eq!(messages.next().expect("another").sequence, 2);
        assert!(messages.next().is_none() && messages.rest().is_empty());
    }

    #[test]
    fn lengths_that_do_not_fit_end_the_walk() {
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[9, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(Attributes(&[5, 0, 1, 0, 0]).count(), 1, "padding may be missing at the end");
        let short = [15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut messages = Messages::new(&short);
        assert!(messages.next().is_none());
        assert_eq!(messages.rest().len(), 16);
    }
}
