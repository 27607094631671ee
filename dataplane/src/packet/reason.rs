//! Why a packet did not fly: a closed list, so that every packet is counted once and can be explained.

/// Declares a reason enum together with its stable names, which are JSON keys and metric labels.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every reason, in the order of its discriminant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: a JSON key and a metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Why a worker gave a packet to the kernel.
    PuntReason {
        /// No entry has this 5-tuple.
        NoFlow => "no_flow",
        /// The entry waits for the kernel to prove the direction.
        Candidate => "candidate",
        /// The one packet by which a direction proves itself again.
        Probe => "probe",
        /// The connection is closing: the kernel follows its last segments.
        Closing => "closing",
        /// A plausible FIN, RST or SYN.
        TcpControl => "tcp_control",
        /// Known 5-tuple, but from another port, VLAN, PPPoE session or to another MAC.
        IngressContext => "ingress_context",
        /// Longer than what the kernel was seen to send on unfragmented.
        ProvedLength => "proved_length",
        /// TTL or hop limit of 0 or 1.
        Ttl => "ttl",
        /// A fragment.
        Fragment => "fragment",
        /// IPv4 options.
        IpOptions => "ip_options",
        /// IPv6 extension headers.
        ExtensionHeader => "extension_header",
        /// Neither TCP nor UDP.
        Protocol => "protocol",
        /// Multicast or broadcast, by MAC or by IP address.
        Multicast => "multicast",
        /// An address that routers do not forward: loopback, this-network, class E, IPv6 link-local.
        Martian => "martian",
        /// ARP.
        Arp => "arp",
        /// Neither IPv4 nor IPv6 nor ARP, or an encapsulation that is not taken apart.
        EtherType => "ethertype",
        /// A header that is cut short or whose lengths or offsets contradict each other.
        Malformed => "malformed",
        /// The NIC says that a checksum is bad: the kernel decides.
        BadChecksum => "bad_checksum",
        /// More packets waited for a direction to settle than the worker may hold.
        HoldFull => "hold_full",
        /// A direction that did not settle in time.
        HoldTimeout => "hold_timeout",
        /// The packet's buffer is made of several segments.
        Segmented => "segmented",
    }
}

reasons! {
    /// Why a packet was dropped.
    DropReason {
        /// Bad IPv4 header checksum, version or length: the kernel drops these without a trace.
        BadIpHeader => "bad_ip_header",
        /// A FIN, RST or SYN outside of the window: the kernel would have ignored it.
        ImplausibleClose => "implausible_close",
        /// The ring towards the punt thread was full.
        PuntRingFull => "punt_ring_full",
        /// The ingress port was over its budget of control traffic.
        ControlBudget => "control_budget",
        /// The twin took no more packets.
        TwinFull => "twin_full",
        /// The ring from the twins to a worker was full.
        FromKernelRingFull => "from_kernel_ring_full",
        /// The port's transmit queue was full.
        TxQueueFull => "tx_queue_full",
        /// The egress port is not there any more.
        NoPort => "no_port",
        /// No packet buffer was free.
        NoMbuf => "no_mbuf",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_discriminants_index_them() {
        for (index, reason) in PuntReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(PuntReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
