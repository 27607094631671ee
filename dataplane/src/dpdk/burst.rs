//! A bounded array of packets: what a queue gives and takes at once.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;

use arrayvec::{ArrayVec, IntoIter};
use dpdk_sys as sys;

use super::{Mbuf, Mempool};

/// The most packets that a [`Burst`] holds.
pub const BURST_MAX: usize = 64;

/// Up to [`BURST_MAX`] packets, in order. Receiving appends to it, sending takes from its front.
#[derive(Debug, Default)]
pub struct Burst {
    packets: ArrayVec<Mbuf, BURST_MAX>,
}

impl Burst {
    /// An empty burst.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a packet; gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, packet: Mbuf) -> Result<(), Mbuf> {
        self.packets.try_push(packet).map_err(|full| full.element())
    }

    /// Takes the last packet.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.packets.pop()
    }

    /// Room for this many packets.
    #[inline]
    pub fn remaining_capacity(&self) -> usize {
        self.packets.remaining_capacity()
    }

    /// Whether no packet can be added.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.packets.is_full()
    }

    /// Takes all packets out, in order; those not taken from the iterator are freed with it.
    #[inline]
    pub fn drain(&mut self) -> impl Iterator<Item = Mbuf> + '_ {
        self.packets.drain(..)
    }

    /// Goes through the packets in order. What stays does so in order, and moves up to the place that the sieve is told;
    /// the rest the sieve has taken.
    #[inline(always)]
    pub fn sift(&mut self, sieve: &mut impl Sieve) {
        let (len, array) = (self.packets.len(), self.packets.as_mut_ptr());
        let (mut at, mut kept) = (0, 0);
        // SAFETY: the array holds `len` packets. Each is moved out once, and perhaps in again at a place that was moved
        // out of before: no more are kept than were moved out. The array counts as empty meanwhile: should the sieve
        // panic, packets are lost, but none is freed twice.
        unsafe {
            self.packets.set_len(0);
            while at < len {
                let packet = ManuallyDrop::new(array.add(at).read());
                at += 1;
                if sieve.stays(kept, &packet) {
                    array.add(kept).cast::<ManuallyDrop<Mbuf>>().write(packet);
                    kept += 1;
                    continue;
                }
                let mut following = Following { array, at, len, burst: PhantomData };
                let other = sieve.other(kept, ManuallyDrop::into_inner(packet), &mut following);
                at = following.at;
                if let Some(packet) = other {
                    array.add(kept).write(packet);
                    kept += 1;
                }
            }
            self.packets.set_len(kept);
        }
    }

    /// Frees all packets, by one call.
    #[inline]
    pub fn clear(&mut self) {
        let Ok(len) = u32::try_from(self.packets.len()) else { return };
        if len == 0 {
            return;
        }
        // SAFETY: Mbuf is a transparent pointer, so this is an array of `len` mbuf pointers. They are forgotten first,
        // and freed once.
        unsafe {
            self.packets.set_len(0);
            sys::shim_mbuf_free_bulk(self.packets.as_mut_ptr().cast(), len);
        }
    }

    /// Lets `receive` write pointers to packets behind those that are here. Gives the number of new ones.
    ///
    /// # Safety
    /// `receive(array, room)` writes at most `room` pointers to packets that nobody else owns, from `array[0]` on
    /// without gaps, and returns their number.
    #[inline]
    pub(super) unsafe fn fill(&mut self, receive: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16) -> usize {
        let len = self.packets.len();
        let room = u16::try_from(self.packets.remaining_capacity()).unwrap_or(0);
        // SAFETY: `len` is within the array, or one past its end with a room of 0. The new length covers what the
        // caller promises to have written.
        unsafe {
            let got = receive(self.packets.as_mut_ptr().add(len).cast(), room).min(room);
            self.packets.set_len(len + usize::from(got));
            usize::from(got)
        }
    }

    /// Lets `send` take packets from the front; those it leaves move up. Gives the number taken.
    ///
    /// # Safety
    /// `send(array, n)` takes over the first packets of the `n` in `array` and returns how many.
    #[inline]
    pub(super) unsafe fn take(&mut self, send: impl FnOnce(*mut *mut sys::rte_mbuf, u16) -> u16) -> usize {
        let len = self.packets.len();
        let Ok(offered) = u16::try_from(len) else { return 0 };
        let array = self.packets.as_mut_ptr();
        // SAFETY: the array holds `len` packets. Those taken are no longer ours: the rest is moved over them and the
        // length shortened before anyone looks.
        unsafe {
            let taken = usize::from(send(array.cast(), offered).min(offered));
            ptr::copy(array.add(taken), array, len - taken);
            self.packets.set_len(len - taken);
            taken
        }
    }

    #[inline]
    pub(super) fn alloc_bulk(&mut self, pool: &Mempool, n: usize) -> bool {
        if n > self.packets.remaining_capacity() {
            return false;
        }
        let Ok(count) = u32::try_from(n) else { return false };
        let len = self.packets.len();
        // SAFETY: there is room for `n` pointers behind the first `len`; the call writes all of them, or fails.
        unsafe {
            if sys::shim_mbuf_alloc_bulk(pool.as_ptr(), self.packets.as_mut_ptr().add(len).cast(), count) != 0
            {
                return false;
            }
            self.packets.set_len(len + n);
        }
        true
    }
}

/// Says which packets of a burst stay in it.
pub trait Sieve {
    /// Whether a packet stays, at this place of the burst.
    fn stays(&mut self, at: usize, packet: &Mbuf) -> bool;

    /// Takes a packet that doesn't, and of those that follow it as many as it likes. What it gives back, one of them,
    /// stays nevertheless.
    fn other(&mut self, at: usize, packet: Mbuf, following: &mut Following<'_>) -> Option<Mbuf>;
}

/// The packets of a burst that is [sifted](Burst::sift) which have not been looked at yet.
#[derive(Debug)]
pub struct Following<'a> {
    array: *const Mbuf,
    at: usize,
    len: usize,
    burst: PhantomData<&'a mut Burst>,
}

impl Following<'_> {
    /// Takes the next one.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Mbuf> {
        if self.at == self.len {
            return None;
        }
        // SAFETY: `sift` alone makes one of these, for an array of `len` packets that counts as empty; each place is
        // read once, and written only after that.
        let packet = unsafe { self.array.add(self.at).read() };
        self.at += 1;
        Some(packet)
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Deref for Burst {
    type Target = [Mbuf];

    #[inline]
    fn deref(&self) -> &[Mbuf] {
        &self.packets
    }
}

impl DerefMut for Burst {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        &mut self.packets
    }
}

impl IntoIterator for Burst {
    type Item = Mbuf;
    type IntoIter = IntoIter<Mbuf, BURST_MAX>;

    fn into_iter(mut self) -> Self::IntoIter {
        std::mem::take(&mut self.packets).into_iter()
    }
}

impl Extend<Mbuf> for Burst {
    /// Adds packets up to the burst's capacity, and frees the others.
    fn extend<I: IntoIterator<Item = Mbuf>>(&mut self, packets: I) {
        for packet in packets {
            drop(self.push(packet));
        }
    }
}
