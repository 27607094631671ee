//! What happened to packets, counted by the worker that handled them, in cache lines of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::packet::{DropReason, PuntReason};

/// The most ports that packets are counted for. DPDK's own default limit (`RTE_MAX_ETHPORTS`) is 32.
pub const MAX_PORTS: usize = 32;

/// A count that one thread adds to and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, by a plain load and store: right for one adding thread alone.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The count.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Begins anew; for the adding thread.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct PacketCounter {
    /// Packets.
    pub packets: Counter,
    /// Bytes, from the Ethernet header on.
    pub bytes: Counter,
}

impl PacketCounter {
    /// Counts a batch.
    #[inline]
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }

    /// Begins anew; for the adding thread.
    pub fn reset(&self) {
        self.packets.reset();
        self.bytes.reset();
    }
}

impl PacketCounter {
    /// Counts less: of what was counted before its fate was known.
    #[inline]
    pub fn take_back(&self, packets: u64, bytes: u64) {
        self.packets.add(packets.wrapping_neg());
        self.bytes.add(bytes.wrapping_neg());
    }
}

/// One worker's counters. Aligned so that no two workers share a cache line.
#[derive(Debug, Default)]
pub struct WorkerCounters(CachePadded<Cells>);

#[derive(Debug, Default)]
struct Cells {
    fast: PacketCounter,
    from_kernel: PacketCounter,
    punted: [Counter; PuntReason::COUNT],
    dropped: [Counter; DropReason::COUNT],
    transmitted: [PacketCounter; MAX_PORTS],
    marked: [MarkCounter; MAX_PORTS],
}

/// Packets that a NIC's rule has marked, by what came of it.
#[derive(Debug, Default)]
pub struct MarkCounter {
    /// The mark led to the entry: no lookup.
    pub found: Counter,
    /// It led nowhere, since it was old or wrong: they were looked up.
    pub missed: Counter,
}

impl WorkerCounters {
    /// Packets that were forwarded.
    #[inline]
    pub fn fast(&self) -> &PacketCounter {
        &self.0.fast
    }

    /// Packets that the kernel sent and this worker put on the wire.
    #[inline]
    pub fn from_kernel(&self) -> &PacketCounter {
        &self.0.from_kernel
    }

    /// Packets that were given to the kernel for this reason.
    #[inline]
    pub fn punted(&self, reason: PuntReason) -> &Counter {
        &self.0.punted[reason as usize]
    }

    /// Packets that were dropped for this reason.
    #[inline]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.0.dropped[reason as usize]
    }

    /// Packets that were sent through a port; `None` for a port beyond [`MAX_PORTS`].
    #[inline]
    pub fn transmitted(&self, port: u16) -> Option<&PacketCounter> {
        self.0.transmitted.get(usize::from(port))
    }

    /// Begins anew with what is counted by port; for the worker.
    pub fn forget_port(&self, port: usize) {
        if let (Some(transmitted), Some(marked)) = (self.0.transmitted.get(port), self.0.marked.get(port)) {
            transmitted.reset();
            marked.found.reset();
            marked.missed.reset();
        }
    }

    /// Marked packets that came in by a port; `None` for a port beyond [`MAX_PORTS`].
    #[inline]
    pub fn marked(&self, port: usize) -> Option<&MarkCounter> {
        self.0.marked.get(port)
    }
}

/// Packets and bytes at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the Ethernet header on.
    pub bytes: u64,
}

impl PacketCount {
    fn take(&mut self, counter: &PacketCounter) {
        self.packets = self.packets.wrapping_add(counter.packets.get());
        self.bytes = self.bytes.wrapping_add(counter.bytes.get());
    }
}

/// Marked packets at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkCount {
    /// Those whose lookup was skipped.
    pub found: u64,
    /// Those that were looked up, since the mark was old or wrong.
    pub missed: u64,
}

/// The sum of several workers' counters. Each count is exact; they are not all of the same instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Packets that were forwarded.
    pub fast: PacketCount,
    /// Packets that the kernel sent and a worker put on the wire.
    pub from_kernel: PacketCount,
    /// Packets given to the kernel, by [`PuntReason`].
    pub punted: [u64; PuntReason::COUNT],
    /// Packets dropped, by [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
    /// Packets sent, by port.
    pub transmitted: [PacketCount; MAX_PORTS],
    /// Marked packets, by the port that they came in by.
    pub marked: [MarkCount; MAX_PORTS],
}

impl Snapshot {
    /// Adds up.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a WorkerCounters>) -> Self {
        let none = PacketCount::default();
        let mut sum = Self {
            fast: none,
            from_kernel: none,
            punted: [0; PuntReason::COUNT],
            dropped: [0; DropReason::COUNT],
            transmitted: [none; MAX_PORTS],
            marked: [MarkCount::default(); MAX_PORTS],
        };
        for WorkerCounters(cells) in workers {
            sum.fast.take(&cells.fast);
            sum.from_kernel.take(&cells.from_kernel);
            add_all(&mut sum.punted, &cells.punted);
            add_all(&mut sum.dropped, &cells.dropped);
            for (sum, counter) in sum.transmitted.iter_mut().zip(&cells.transmitted) {
                sum.take(counter);
            }
            for (sum, counter) in sum.marked.iter_mut().zip(&cells.marked) {
                sum.found = sum.found.wrapping_add(counter.found.get());
                sum.missed = sum.missed.wrapping_add(counter.missed.get());
            }
        }
        sum
    }

    /// Packets given to the kernel, for whatever reason.
    pub fn punted_total(&self) -> u64 {
        self.punted.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Packets dropped, for whatever reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }
}

fn add_all(sums: &mut [u64], counters: &[Counter]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum = sum.wrapping_add(counter.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up() {
        let workers = [WorkerCounters::default(), WorkerCounters::default()];
        for (worker, packets) in workers.iter().zip([3, 4]) {
            worker.fast().add(packets, packets * 64);
            worker.punted(PuntReason::Segmented).add(1);
            worker.dropped(DropReason::NoMbuf).add(packets);
            worker.transmitted(1).expect("a port").add(1, 64);
            worker.marked(1).expect("a port").found.add(packets);
            assert!(worker.transmitted(MAX_PORTS as u16).is_none());
        }
        let sum = Snapshot::of(&workers);
        assert_eq!(sum.fast, PacketCount { packets: 7, bytes: 448 });
        assert_eq!(sum.punted[PuntReason::Segmented as usize], 2);
        assert_eq!((sum.punted_total(), sum.dropped_total()), (2, 7));
        assert_eq!(sum.marked[1], MarkCount { found: 7, missed: 0 });
        assert_eq!((sum.transmitted[1].packets, sum.transmitted[0].packets), (2, 0));
        assert_eq!(align_of::<WorkerCounters>() % 64, 0);
    }
}
