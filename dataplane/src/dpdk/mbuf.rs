//! A packet in a DPDK buffer.

use std::ffi::c_char;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

/// A packet, owned: dropping it returns its buffers to their pool.
///
/// The size of a pointer, as is `Option<Mbuf>`. Only [`data`](Mbuf::data) of the first segment can be seen; a packet
/// longer than that has further [segments](Mbuf::segments).
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an Mbuf is the only owner of its buffers, and pools take them back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// # Safety
    /// A pointer that isn't NULL is to a packet that nobody else owns or refers to, and whose head is valid.
    #[inline]
    pub(super) unsafe fn from_raw(mbuf: *mut sys::rte_mbuf) -> Option<Self> {
        NonNull::new(mbuf).map(Self)
    }

    /// The packet as DPDK knows it; nobody owns it then.
    #[inline]
    pub(super) fn into_raw(self) -> *mut sys::rte_mbuf {
        ManuallyDrop::new(self).0.as_ptr()
    }

    #[inline]
    fn head(&self) -> &sys::shim_mbuf {
        // SAFETY: the shim asserts that `shim_mbuf` has the layout of the head of `rte_mbuf`; we own the packet.
        unsafe { self.0.cast().as_ref() }
    }

    #[inline]
    fn head_mut(&mut self) -> &mut sys::shim_mbuf {
        // SAFETY: as in `head`, and `self` is borrowed mutably.
        unsafe { self.0.cast().as_mut() }
    }

    /// The bytes of the first segment.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let head = self.head();
        // SAFETY: `data_off + data_len <= buf_len` in a packet that a driver or a pool gave, and every method here
        // keeps it so; the buffer is ours as long as `self`.
        unsafe {
            let start = head.buf_addr.cast::<u8>().add(usize::from(head.data_off));
            slice::from_raw_parts(start, usize::from(head.data_len))
        }
    }

    /// The bytes of the first segment, to change.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let head = self.head();
        // SAFETY: as in `data`, and `self` is borrowed mutably.
        unsafe {
            let start = head.buf_addr.cast::<u8>().add(usize::from(head.data_off));
            slice::from_raw_parts_mut(start, usize::from(head.data_len))
        }
    }

    /// Bytes in the first segment.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a length in bytes of one part, not of a collection")]
    pub fn len(&self) -> usize {
        usize::from(self.head().data_len)
    }

    /// Bytes in all segments.
    #[inline]
    pub fn packet_len(&self) -> usize {
        self.head().pkt_len as usize
    }

    /// Copies the bytes of all segments, as far as there is room, and gives their number.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let room = u32::try_from(to.len()).unwrap_or(u32::MAX);
        // SAFETY: we own the packet; `to` is as long as `room` says, or longer.
        unsafe { sys::shim_mbuf_copy(self.0.as_ptr(), to.as_mut_ptr().cast(), room) as usize }
    }

    /// Segments, at least 1.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.head().nb_segs
    }

    /// The id of the port that received the packet; 65535 for one that was made here.
    #[inline]
    pub fn port(&self) -> u16 {
        self.head().port
    }

    /// Whether a port received it; otherwise it was made here.
    #[inline]
    pub fn was_received(&self) -> bool {
        self.port() != u16::MAX
    }

    /// Forgets the port that received it, as if it had been made here.
    #[inline]
    pub fn forget_port(&mut self) {
        self.head_mut().port = u16::MAX;
    }

    /// What the port found out about the packet.
    #[inline]
    pub fn offload_flags(&self) -> RxFlags {
        RxFlags(self.head().ol_flags)
    }

    /// The hash that the port spread packets over its queues by, if it gave one.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        self.offload_flags().rss_hash_valid().then(|| self.head().rss_hash)
    }

    /// The mark that a flow rule put on the packet.
    #[inline]
    pub fn mark(&self) -> Option<u32> {
        self.offload_flags().mark_valid().then(|| self.head().fdir_id)
    }

    /// Marks the packet, as the driver of a NIC does whose flow rule says so.
    #[inline]
    pub fn set_mark(&mut self, mark: u32) {
        let head = self.head_mut();
        head.ol_flags |= sys::RTE_MBUF_F_RX_FDIR | sys::RTE_MBUF_F_RX_FDIR_ID;
        head.fdir_id = mark;
    }

    /// What was noted on the packet. Drivers leave it: it is of the last packet in this buffer until it is set.
    #[inline]
    pub fn note(&self, note: Note) -> u32 {
        // SAFETY: the mbuf is ours, and DPDK gave the field at this offset in every mbuf to us alone.
        unsafe { self.0.as_ptr().cast::<u8>().add(note.0).cast::<u32>().read() }
    }

    /// Notes something on the packet.
    #[inline]
    pub fn set_note(&mut self, note: Note, value: u32) {
        // SAFETY: as in `note`, and `self` is borrowed mutably.
        unsafe { self.0.as_ptr().cast::<u8>().add(note.0).cast::<u32>().write(value) }
    }

    /// The tag control information of a VLAN tag that the port took off.
    #[inline]
    pub fn stripped_vlan(&self) -> Option<u16> {
        self.offload_flags().vlan_stripped().then(|| self.head().vlan_tci)
    }

    /// The packet type as the port saw it (`RTE_PTYPE_*`); 0 if it did not look.
    #[inline]
    pub fn packet_type(&self) -> u32 {
        self.head().packet_type
    }

    /// Free bytes in front of the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.head().data_off)
    }

    /// Free bytes behind the data of the first segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let head = self.head();
        usize::from(head.buf_len).saturating_sub(usize::from(head.data_off) + usize::from(head.data_len))
    }

    /// Adds `n` bytes in front and gives them, to be written; `None`, and no change, if the headroom is smaller.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        let n16 = u16::try_from(n).ok()?;
        let head = self.head_mut();
        let data_len = head.data_len.checked_add(n16)?;
        head.data_off -= n16;
        head.data_len = data_len;
        head.pkt_len += u32::from(n16);
        self.data_mut().get_mut(..n)
    }

    /// Takes `n` bytes off the front; `false`, and no change, if the first segment is shorter.
    #[inline]
    #[must_use]
    pub fn trim_front(&mut self, n: usize) -> bool {
        let Ok(n) = u16::try_from(n) else { return false };
        let head = self.head_mut();
        if n > head.data_len {
            return false;
        }
        head.data_off += n;
        head.data_len -= n;
        head.pkt_len -= u32::from(n);
        true
    }

    /// Cuts the packet to `n` bytes or extends it into the tailroom, by bytes of any value. `false`, and no change, if
    /// there is too little room or the packet has more than one segment.
    #[inline]
    #[must_use]
    pub fn set_len(&mut self, n: usize) -> bool {
        if self.segments() != 1 || n > self.len() + self.tailroom() {
            return false;
        }
        let Ok(n) = u16::try_from(n) else { return false };
        let head = self.head_mut();
        head.data_len = n;
        head.pkt_len = u32::from(n);
        true
    }

    /// Appends bytes; `false`, and no change, if there is too little room or the packet has more than one segment.
    #[inline]
    #[must_use]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> bool {
        let old = self.len();
        if !self.set_len(old.saturating_add(bytes.len())) {
            return false;
        }
        if let Some(tail) = self.data_mut().get_mut(old..) {
            tail.copy_from_slice(bytes);
        }
        true
    }

    /// Starts to load the packet's head, which every other method here reads.
    #[inline]
    pub fn prefetch_head(&self) {
        prefetch(self.0.as_ptr().cast());
    }

    /// Starts to load the first cache line of the data. Reads the packet's head.
    #[inline]
    pub fn prefetch_data(&self) {
        let head = self.head();
        prefetch(head.buf_addr.cast::<u8>().wrapping_add(usize::from(head.data_off)));
    }
}

/// Where in every mbuf there is room for a word of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note(usize);

impl Note {
    /// The place, which is taken at the first call; `None` if there is none left. The EAL must have been initialised.
    pub fn register() -> Option<Self> {
        let mut field = sys::rte_mbuf_dynfield {
            size: size_of::<u32>(),
            align: align_of::<u32>(),
            ..sys::rte_mbuf_dynfield::default()
        };
        for (to, from) in field.name.iter_mut().zip(b"flyover_note") {
            *to = *from as c_char;
        }
        // SAFETY: the field is described by a name that ends within its array, and by a size and an alignment. The
        // same description gives the same offset again.
        let offset = unsafe { sys::rte_mbuf_dynfield_register(&raw const field) };
        usize::try_from(offset).ok().map(Self)
    }
}

#[inline(always)]
fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and never faults; every x86_64 CPU has SSE.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own the packet, and nothing uses it after this. Its pool is alive: pools stay while buffers are
        // out.
        unsafe { sys::shim_mbuf_free(self.0.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("port", &self.port())
            .field("len", &self.packet_len())
            .field("segments", &self.segments())
            .finish_non_exhaustive()
    }
}

/// What a port found out about a packet that it received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxFlags(u64);

impl RxFlags {
    /// The IPv4 header checksum is wrong.
    #[inline]
    pub fn ip_checksum_bad(self) -> bool {
        self.0 & sys::RTE_MBUF_F_RX_IP_CKSUM_MASK == sys::RTE_MBUF_F_RX_IP_CKSUM_BAD
    }

    /// The TCP or UDP checksum is wrong.
    #[inline]
    pub fn l4_checksum_bad(self) -> bool {
        self.0 & sys::RTE_MBUF_F_RX_L4_CKSUM_MASK == sys::RTE_MBUF_F_RX_L4_CKSUM_BAD
    }

    /// A checksum is wrong. In most packets one look tells that none is.
    #[inline]
    pub fn any_checksum_bad(self) -> bool {
        self.0 & (sys::RTE_MBUF_F_RX_IP_CKSUM_BAD | sys::RTE_MBUF_F_RX_L4_CKSUM_BAD) != 0
            && (self.ip_checksum_bad() || self.l4_checksum_bad())
    }

    /// There is an RSS hash.
    #[inline]
    pub fn rss_hash_valid(self) -> bool {
        self.0 & sys::RTE_MBUF_F_RX_RSS_HASH != 0
    }

    /// The port took a VLAN tag off the packet.
    #[inline]
    pub fn vlan_stripped(self) -> bool {
        self.0 & sys::RTE_MBUF_F_RX_VLAN_STRIPPED != 0
    }

    /// A flow rule marked the packet.
    #[inline]
    pub fn mark_valid(self) -> bool {
        self.0 & sys::RTE_MBUF_F_RX_FDIR_ID != 0
    }

    /// All flags, as `RTE_MBUF_F_RX_*`.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }
}
