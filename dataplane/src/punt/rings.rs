//! The bounded rings between workers and the punt thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::dpdk::Mbuf;
use crate::flow::FlowRef;
use crate::packet::{Ingress, PuntReason};

/// What the punt thread has to tell control about a punted packet, beyond giving it to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PuntEvent {
    /// Nothing.
    None,
    /// The kernel's forwarding it proves the direction: fingerprint it.
    Fingerprint,
    /// It is the one packet that a held direction waits for.
    Probe,
    /// A plausible FIN, RST or SYN: the worker has stopped both directions.
    Closing,
    /// Longer than proved: the worker has given the direction back. Also fingerprinted.
    Longer,
    /// The worker waited in vain for a held direction.
    Lost,
}

impl PuntEvent {
    /// The direction flew until this packet, which is not to overtake what did.
    pub(crate) const fn ends_a_flight(self) -> bool {
        !matches!(self, Self::None | Self::Fingerprint)
    }
}

/// A packet on its way to the kernel.
#[derive(Debug)]
pub struct Punted {
    /// The packet, unmodified.
    pub mbuf: Mbuf,
    /// Where it came in.
    pub ingress: Ingress,
    /// Offset of its L3 header.
    pub l3: u8,
    /// Why it is punted.
    pub reason: PuntReason,
    /// The direction that it belongs to.
    pub flow: Option<FlowRef>,
    /// What control has to know.
    pub event: PuntEvent,
}

/// Rings towards the punt thread, one a class.
///
/// Control traffic (to the gateway itself, ARP, neighbour discovery, LACP, PPP control) has a ring of its own,
/// which is emptied first. All other packets share one, so that a flow's packets stay in order while its entry
/// comes and goes.
#[derive(Debug)]
pub struct PuntRings {
    control: ArrayQueue<Punted>,
    transit: ArrayQueue<Punted>,
    /// Packets that may wait in the transit ring: its capacity, or less while the kernel does not keep up.
    limit: AtomicUsize,
}

/// Classes of punted packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PuntClass {
    /// Keeps the gateway itself alive.
    Control,
    /// Packets to be forwarded.
    Transit,
}

impl PuntRings {
    /// Rings for so many packets each.
    pub fn new(control: usize, transit: usize) -> Arc<Self> {
        let limit = AtomicUsize::new(transit);
        Arc::new(Self { control: ArrayQueue::new(control), transit: ArrayQueue::new(transit), limit })
    }

    const fn ring(&self, class: PuntClass) -> &ArrayQueue<Punted> {
        match class {
            PuntClass::Control => &self.control,
            PuntClass::Transit => &self.transit,
        }
    }

    /// Hands a packet to the punt thread; gives it back if the ring is full.
    pub fn push(&self, class: PuntClass, packet: Punted) -> Result<(), Punted> {
        if class == PuntClass::Transit && self.is_at_limit() {
            return Err(packet);
        }
        self.ring(class).push(packet)
    }

    fn is_at_limit(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit < self.transit.capacity() && self.transit.len() >= limit
    }

    /// How many packets the transit ring holds at the most.
    pub(super) fn capacity(&self) -> usize {
        self.transit.capacity()
    }

    /// Has no more than so many packets wait in the transit ring. Those that do already, stay.
    pub(super) fn set_limit(&self, packets: usize) {
        self.limit.store(packets, Ordering::Relaxed);
    }

    /// The next packet of a class.
    pub fn pop(&self, class: PuntClass) -> Option<Punted> {
        self.ring(class).pop()
    }

    /// Packets waiting in a class.
    pub fn len(&self, class: PuntClass) -> usize {
        self.ring(class).len()
    }

    /// No packet waits.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.transit.is_empty()
    }

    /// More than half of the transit ring is taken: not the time for probes that can wait.
    pub fn is_busy(&self) -> bool {
        self.transit.len() * 2 > self.transit.capacity().min(self.limit.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::dpdk::testing::Bench;

    fn punted(bench: &Bench, number: u8) -> Punted {
        Punted {
            mbuf: bench.packet(&[number]),
            ingress: Ingress::default(),
            l3: 14,
            reason: PuntReason::NoFlow,
            flow: None,
            event: PuntEvent::None,
        }
    }

    fn popped(rings: &PuntRings, class: PuntClass) -> Option<u8> {
        rings.pop(class).map(|packet| packet.mbuf.data()[0])
    }

    #[test]
    fn each_class_keeps_its_order_and_its_room() {
        let bench = Bench::new();
        let rings = PuntRings::new(2, 4);
        assert!(rings.is_empty());
        for number in 0..4 {
            assert!(rings.push(PuntClass::Transit, punted(&bench, number)).is_ok());
        }
        let back = rings.push(PuntClass::Transit, punted(&bench, 4)).expect_err("full");
        assert_eq!(back.mbuf.data(), [4], "what found no room comes back");
        for number in 10..12 {
            assert!(
                rings.push(PuntClass::Control, punted(&bench, number)).is_ok(),
                "the other class is not full"
            );
        }
        assert!(rings.push(PuntClass::Control, punted(&bench, 12)).is_err());
        assert_eq!((rings.len(PuntClass::Control), rings.len(PuntClass::Transit)), (2, 4));
        let transit: Vec<u8> = std::iter::from_fn(|| popped(&rings, PuntClass::Transit)).collect();
        assert_eq!(transit, [0, 1, 2, 3]);
        assert!(!rings.is_empty());
        assert_eq!(
            [popped(&rings, PuntClass::Control), popped(&rings, PuntClass::Control)],
            [Some(10), Some(11)]
        );
        assert!(rings.is_empty() && popped(&rings, PuntClass::Control).is_none());
        drop(back);
        assert_eq!(bench.in_use(), 0);
    }

    #[test]
    fn more_than_half_of_the_transit_ring_is_busy() {
        let bench = Bench::new();
        let rings = PuntRings::new(4, 4);
        for number in 0..4 {
            assert!(rings.push(PuntClass::Control, punted(&bench, number)).is_ok());
        }
        for number in 0..2 {
            assert!(rings.push(PuntClass::Transit, punted(&bench, number)).is_ok());
        }
        assert!(!rings.is_busy(), "half of it, and the other class does not count");
        assert!(rings.push(PuntClass::Transit, punted(&bench, 2)).is_ok());
        assert!(rings.is_busy());
        drop(rings);
        assert_eq!(bench.in_use(), 0, "the rings' packets go with them");
    }

    #[test]
    fn a_limit_holds_for_transit_alone() {
        let bench = Bench::new();
        let rings = PuntRings::new(4, 8);
        rings.set_limit(2);
        for number in 0..2 {
            assert!(rings.push(PuntClass::Transit, punted(&bench, number)).is_ok());
        }
        assert!(rings.is_busy());
        assert!(rings.push(PuntClass::Transit, punted(&bench, 2)).is_err());
        assert!((0..4).all(|number| rings.push(PuntClass::Control, punted(&bench, number)).is_ok()));
        rings.set_limit(rings.capacity());
        assert!(!rings.is_busy());
        assert!(rings.push(PuntClass::Transit, punted(&bench, 2)).is_ok());
    }
}
