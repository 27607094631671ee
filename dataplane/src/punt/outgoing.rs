//! Packets on their way into one twin.

use arrayvec::ArrayVec;

use super::Twin;
use crate::dpdk::{BURST_MAX, Burst, Mbuf};
use crate::packet::PuntReason;

/// Packets that a twin is given at once, with the reasons why they were punted.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    packets: Burst,
    reasons: ArrayVec<(PuntReason, u64), BURST_MAX>,
}

impl Outgoing {
    /// Queues a packet; `true` if it is to be [flushed](Self::flush) before the next.
    pub(super) fn push(&mut self, packet: Mbuf, reason: PuntReason) -> bool {
        let length = packet.packet_len() as u64;
        // Both have the same room, and are emptied when it is used up.
        if self.packets.push(packet).is_ok() {
            let _ = self.reasons.try_push((reason, length));
        }
        self.packets.is_full()
    }

    /// Gives the twin all of them; tells of each its reason, its length, and whether it was taken.
    pub(super) fn flush(&mut self, twin: &mut Twin, mut told: impl FnMut(PuntReason, u64, bool)) {
        if self.packets.is_empty() {
            return;
        }
        let taken = twin.write(&mut self.packets);
        for (n, (reason, length)) in self.reasons.drain(..).enumerate() {
            told(reason, length, taken >> n & 1 == 1);
        }
    }
}
