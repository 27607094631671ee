//! What the punt threads tell control about flows, and what control asks of them.

use crate::flow::{FlowRef, Key};
use crate::packet::{Ingress, L2Header};

/// The kernel has just forwarded a packet of this direction: where it came in, and how it left.
///
/// The frame equalled the rewritten snapshot of the punted packet; nothing else proves anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The direction.
    pub flow: FlowRef,
    /// Where the punted packet came in.
    pub ingress: Ingress,
    /// Index of the port whose twin the kernel sent it out of.
    pub egress_port: u16,
    /// The L2 header that the kernel gave it.
    pub l2: L2Header,
    /// L3 length of the packet: proved to leave unfragmented.
    pub l3_len: u16,
    /// L3 length of the longest packet that was given to the kernel before this one and has not come out in one
    /// piece: fragmented, answered with an error, or dropped. The kernel keeps a flow's packets in order.
    pub overtook: u16,
    /// The TTL was decremented (routed) or not (bridged).
    pub decrements_ttl: bool,
    /// The epoch when the packet was given to the kernel.
    pub epoch: u32,
}

/// A message from a punt thread to control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The kernel forwarded a packet of a direction.
    Proof(Box<Proof>),
    /// No punted packet of the direction is on its way through the kernel any more: the answer to the
    /// [`Settle`](PuntCommand::Settle) of this number.
    Settled(FlowRef, u32),
    /// A packet left more than once: the direction can't be carried by one copy.
    Duplicated(FlowRef),
    /// A probe, or a packet that a held direction waits for, did not come back in time.
    Lost(FlowRef),
    /// A worker saw a plausible FIN, RST or SYN and stopped both directions.
    Closing(FlowRef),
    /// A worker saw a packet longer than proved and gave the direction back to the kernel.
    Longer {
        /// The direction.
        flow: FlowRef,
        /// L3 length of that packet.
        length: u16,
    },
    /// A 5-tuple without an entry that the punt path keeps seeing.
    Unknown(Key),
}

/// A message from control to the punt thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PuntCommand {
    /// Say [`Observation::Settled`] when the last packet of this direction that was given to the kernel has
    /// come back, or [`Observation::Lost`] when it has not within the time that packets may take.
    ///
    /// To be sent after all workers have seen the direction's state [`Holding`](crate::flow::EntryState).
    /// The number tells the answer to this one from a late answer to an earlier one.
    Settle(FlowRef, u32),
}
