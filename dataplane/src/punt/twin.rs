//! The kernel's side of a port, as the punt thread sees it: frames go in and come out, in bursts and without waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dpdk::{BURST_MAX, Burst, Mbuf, Mempool, Tap, VhostQueues};
use crate::packet;

/// How long a vhost-net ring that is full may hold the punt thread up. The kernel takes frames out as fast as it can:
/// waiting makes the rings from the workers fill instead, where control traffic goes first.
const RING_FULL: Duration = Duration::from_millis(2);

/// A twin's frames.
#[derive(Debug)]
pub struct Twin(Way);

#[derive(Debug)]
enum Way {
    /// The port was taken away.
    Absent,
    /// A system call a frame.
    Tap {
        tap: Arc<Tap>,
        /// Taken from the pool for a frame that did not come.
        spare: Option<Mbuf>,
        /// For a packet in several segments on its way in, and for a frame without a buffer on its way out.
        scratch: Vec<u8>,
    },
    /// Rings with a kernel thread.
    Vhost {
        queues: VhostQueues,
        /// Came in while going to sleep.
        early: Box<Burst>,
    },
}

/// What came out of a twin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Frames, lost ones included.
    pub(super) frames: usize,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Frames lost since no buffer was free.
    pub(super) no_mbuf: u64,
    /// Frames lost since they are longer than a buffer.
    pub(super) too_long: u64,
}

impl Read {
    fn saw(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length as u64;
    }
}

impl Twin {
    /// A twin whose frames are read and written one by one.
    pub fn by_tap(tap: Arc<Tap>) -> Self {
        // The longest frame that a tap can give.
        Self(Way::Tap { tap, spare: None, scratch: vec![0; 65_536 + packet::L2_MAX] })
    }

    /// A twin whose frames vhost-net carries.
    pub fn by_vhost(queues: VhostQueues) -> Self {
        Self(Way::Vhost { queues, early: Box::default() })
    }

    /// None: takes nothing, and has nothing.
    pub const fn absent() -> Self {
        Self(Way::Absent)
    }

    /// Whether it is none.
    pub const fn is_absent(&self) -> bool {
        matches!(self.0, Way::Absent)
    }

    /// Gives all packets to the kernel. Bit `i` of the answer: it has taken packet `i`.
    pub(super) fn write(&mut self, packets: &mut Burst) -> u64 {
        match &mut self.0 {
            Way::Absent => {
                packets.clear();
                0
            }
            Way::Tap { tap, scratch, .. } => {
                let mut written = |packet: &Mbuf| {
                    if packet.segments() == 1 {
                        return tap.write(packet.data()).is_ok();
                    }
                    let length = packet.copy_to(scratch);
                    scratch.get(..length).is_some_and(|whole| tap.write(whole).is_ok())
                };
                let taken = |(n, packet): (usize, Mbuf)| u64::from(written(&packet)) << n;
                packets.drain().enumerate().map(taken).fold(0, |all, bit| all | bit)
            }
            Way::Vhost { queues, .. } => {
                let mut sent = queues.tx.burst(packets);
                if !packets.is_empty() {
                    let deadline = Instant::now() + RING_FULL;
                    while !packets.is_empty() && Instant::now() < deadline {
                        std::thread::yield_now();
                        sent += queues.tx.burst(packets);
                    }
                    packets.clear();
                }
                if sent >= BURST_MAX { u64::MAX } else { (1 << sent) - 1 }
            }
        }
    }

    /// Takes what the kernel has sent out of the interface, as far as the burst has room.
    pub(super) fn read(&mut self, pool: &Mempool, frames: &mut Burst) -> Read {
        let mut read = Read::default();
        match &mut self.0 {
            Way::Absent => {}
            Way::Tap { tap, spare, scratch } => {
                while read.frames < BURST_MAX && !frames.is_full() {
                    let Some(mut frame) = spare.take().or_else(|| pool.alloc()) else {
                        let Ok(length) = tap.read(scratch) else { break };
                        read.saw(length);
                        read.no_mbuf += 1;
                        continue;
                    };
                    let room = frame.len() + frame.tailroom();
                    let ready = frame.set_len(room);
                    let Ok(length) = tap.read(frame.data_mut()) else {
                        *spare = Some(frame);
                        break;
                    };
                    read.saw(length);
                    // One that fills the buffer may have been longer.
                    if ready && length < room && frame.set_len(length) {
                        drop(frames.push(frame));
                    } else {
                        read.too_long += 1;
                        *spare = Some(frame);
                    }
                }
            }
            Way::Vhost { queues, early } => {
                let mut burst = std::mem::take(&mut **early);
                queues.rx.burst(&mut burst);
                for mut frame in burst {
                    read.saw(frame.packet_len());
                    // Further segments would be lost: virtio_user was told not to make any.
                    if frame.segments() > 1 {
                        read.too_long += 1;
                        continue;
                    }
                    frame.forget_port();
                    drop(frames.push(frame));
                }
            }
        }
        read
    }

    /// Readies [`wake_fd`](Self::wake_fd) for a sleep; `false` if there is a frame to read instead.
    pub(super) fn arm(&mut self) -> bool {
        match &mut self.0 {
            Way::Absent | Way::Tap { .. } => true,
            // What came before it was armed does not wake.
            Way::Vhost { queues, early } => queues.rx.arm().is_ok() && queues.rx.burst(early) == 0,
        }
    }

    /// The sleep is over.
    pub(super) fn disarm(&mut self) {
        if let Way::Vhost { queues, .. } = &mut self.0 {
            // Left armed it costs the kernel a wake-up that nobody waits for, nothing else.
            let _ = queues.rx.disarm();
        }
    }

    /// Readable when there is a frame to read.
    pub(super) fn wake_fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.0 {
            Way::Absent => Err(io::ErrorKind::NotFound.into()),
            Way::Tap { tap, .. } => Ok(tap.as_fd()),
            Way::Vhost { queues, .. } => queues.rx.wake_fd(),
        }
    }
}
