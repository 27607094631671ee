//! Why packets take another way than the fast one, in words for an operator.

use dataplane::packet::{DropReason, PuntReason};

/// Why packets go to the kernel for what they are themselves.
pub(crate) const fn punted_why(reason: PuntReason) -> &'static str {
    match reason {
        PuntReason::TcpControl => "a FIN, RST or SYN: the kernel follows how TCP connections begin and end",
        PuntReason::IngressContext => {
            "it came by another port, VLAN, PPPoE session or to another MAC address than the direction's own: an \
             asymmetric path, a loop, or somebody spoofs"
        }
        PuntReason::ProvedLength => {
            "longer than any that was seen to leave in one piece: the kernel fragments it, or answers that it is too long"
        }
        PuntReason::Ttl => "its TTL or hop limit is 0 or 1: the kernel answers that it has expired",
        PuntReason::Fragment => {
            "a fragment: the kernel puts datagrams together before it looks at their ports"
        }
        PuntReason::IpOptions => "it has IPv4 options, which the kernel has to act on",
        PuntReason::ExtensionHeader => "it has IPv6 extension headers, which the kernel has to act on",
        PuntReason::Malformed => {
            "headers are cut short, or their lengths, offsets or TCP flags contradict each other: the kernel judges it"
        }
        PuntReason::BadChecksum => "the NIC says that a checksum is wrong: the kernel judges it",
        PuntReason::HoldFull => "more packets waited for directions to settle than a worker may hold",
        PuntReason::HoldTimeout => {
            "it waited 20 ms for its direction to settle: the kernel was slow, or dropped the probe"
        }
        PuntReason::Segmented => {
            "it lies in several buffers: give the port a larger mtu, so that buffers hold it"
        }
        PuntReason::NoFlow => "its 5-tuple is of no connection in the table",
        PuntReason::Candidate => "its direction waits for a proof",
        PuntReason::Probe => "it was the packet by which its direction proved itself again",
        PuntReason::Closing => "its connection is closing",
        PuntReason::Protocol => "only TCP and UDP are carried",
        PuntReason::Multicast => "multicast and broadcast are the kernel's",
        PuntReason::Martian => {
            "one of its addresses is not forwarded: loopback, this network, class E or link-local"
        }
        PuntReason::Arp => "ARP is the kernel's",
        PuntReason::EtherType => "neither IPv4 nor IPv6, or in an encapsulation that is not taken apart",
    }
}

/// Why packets go no further.
pub(crate) const fn dropped_why(reason: DropReason) -> &'static str {
    match reason {
        DropReason::BadIpHeader => {
            "its IPv4 header's checksum, version or length is wrong: the kernel drops such packets without a trace"
        }
        DropReason::ImplausibleClose => {
            "a FIN, RST or SYN that does not fit what its ends have acknowledged: the kernel would ignore it"
        }
        DropReason::PuntRingFull => "the kernel takes fewer packets than come: the ring to it is full",
        DropReason::ControlBudget => {
            "more ARP, neighbour discovery or other control traffic came by its port than the kernel is given"
        }
        DropReason::TwinFull => "the twin takes no more packets",
        DropReason::FromKernelRingFull => "the kernel sends faster than the worker takes it",
        DropReason::TxQueueFull => "the port sends slower than packets come: its transmit queue is full",
        DropReason::NoPort => "the port that it would leave by is gone",
        DropReason::NoMbuf => "no packet buffer is free",
    }
}
