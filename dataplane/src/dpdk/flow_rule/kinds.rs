//! The kinds of items and actions that are known here: their numbers, the sizes of their C structures, their words.

use std::fmt;

use dpdk_sys as sys;

macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $kind:ident = $number:ident, $word:literal, $size:expr;)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $name {
            $($(#[$doc])* pub const $kind: Self = Self(sys::$number);)+

            /// The kind of this number, whether it is known here or not.
            pub const fn from_raw(number: u32) -> Self {
                Self(number)
            }

            /// Its number in `rte_flow.h`.
            pub const fn raw(self) -> u32 {
                self.0
            }

            /// Bytes of its C structure, 0 if it has none; `None` if the kind is not known here.
            pub const fn size(self) -> Option<usize> {
                match self {
                    $(Self::$kind => Some($size),)+
                    _ => None,
                }
            }

            /// What testpmd calls it; `None` if the kind is not known here.
            pub const fn word(self) -> Option<&'static str> {
                match self {
                    $(Self::$kind => Some($word),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.word() {
                    Some(word) => f.write_str(word),
                    None => write!(f, "number {}", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

kinds! {
    /// What an item of a pattern matches (`enum rte_flow_item_type`).
    ItemKind {
        /// The end of a pattern.
        END = RTE_FLOW_ITEM_TYPE_END, "end", 0;
        /// Nothing: to be skipped.
        VOID = RTE_FLOW_ITEM_TYPE_VOID, "void", 0;
        /// Ethernet header: 14 bytes as on the wire, then flags.
        ETH = RTE_FLOW_ITEM_TYPE_ETH, "eth", size_of::<sys::rte_flow_item_eth>();
        /// VLAN tag: tag control information and the EtherType behind it, then flags.
        VLAN = RTE_FLOW_ITEM_TYPE_VLAN, "vlan", size_of::<sys::rte_flow_item_vlan>();
        /// IPv4 header: 20 bytes as on the wire.
        IPV4 = RTE_FLOW_ITEM_TYPE_IPV4, "ipv4", size_of::<sys::rte_flow_item_ipv4>();
        /// IPv6 header: 40 bytes as on the wire, then flags.
        IPV6 = RTE_FLOW_ITEM_TYPE_IPV6, "ipv6", size_of::<sys::rte_flow_item_ipv6>();
        /// TCP header: 20 bytes as on the wire.
        TCP = RTE_FLOW_ITEM_TYPE_TCP, "tcp", size_of::<sys::rte_flow_item_tcp>();
        /// UDP header: 8 bytes as on the wire.
        UDP = RTE_FLOW_ITEM_TYPE_UDP, "udp", size_of::<sys::rte_flow_item_udp>();
        /// ICMP header.
        ICMP = RTE_FLOW_ITEM_TYPE_ICMP, "icmp", size_of::<sys::rte_flow_item_icmp>();
        /// What the NIC has found to be right: flags.
        INTEGRITY = RTE_FLOW_ITEM_TYPE_INTEGRITY, "integrity", size_of::<sys::rte_flow_item_integrity>();
        /// What comes in where this port sends to: the port's id, 2 bytes.
        REPRESENTED_PORT = RTE_FLOW_ITEM_TYPE_REPRESENTED_PORT, "represented_port",
            size_of::<sys::rte_flow_item_ethdev>();
    }
}

kinds! {
    /// What is done with a packet that matches (`enum rte_flow_action_type`).
    ActionKind {
        /// The end of the actions.
        END = RTE_FLOW_ACTION_TYPE_END, "end", 0;
        /// Nothing: to be skipped.
        VOID = RTE_FLOW_ACTION_TYPE_VOID, "void", 0;
        /// Nothing: on with rules of lower priority.
        PASSTHRU = RTE_FLOW_ACTION_TYPE_PASSTHRU, "passthru", 0;
        /// Go on in another group: its number, 4 bytes.
        JUMP = RTE_FLOW_ACTION_TYPE_JUMP, "jump", size_of::<sys::rte_flow_action_jump>();
        /// Mark the packet for software: 4 bytes.
        MARK = RTE_FLOW_ACTION_TYPE_MARK, "mark", size_of::<sys::rte_flow_action_mark>();
        /// To software through this queue: 2 bytes.
        QUEUE = RTE_FLOW_ACTION_TYPE_QUEUE, "queue", size_of::<sys::rte_flow_action_queue>();
        /// To software through one of these queues.
        RSS = RTE_FLOW_ACTION_TYPE_RSS, "rss", size_of::<sys::rte_flow_action_rss>();
        /// Away.
        DROP = RTE_FLOW_ACTION_TYPE_DROP, "drop", 0;
        /// Count packets and bytes: the counter's id, 4 bytes.
        COUNT = RTE_FLOW_ACTION_TYPE_COUNT, "count", size_of::<sys::rte_flow_action_count>();
        /// Note when the last packet came.
        AGE = RTE_FLOW_ACTION_TYPE_AGE, "age", size_of::<sys::rte_flow_action_age>();
        /// To a port of DPDK's by its id.
        PORT_ID = RTE_FLOW_ACTION_TYPE_PORT_ID, "port_id", size_of::<sys::rte_flow_action_port_id>();
        /// To where this port sends to: the port's id, 2 bytes.
        REPRESENTED_PORT = RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT, "represented_port",
            size_of::<sys::rte_flow_action_ethdev>();
        /// To software, as if this port had received it: the port's id, 2 bytes.
        PORT_REPRESENTOR = RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR, "port_representor",
            size_of::<sys::rte_flow_action_ethdev>();
        /// New source address.
        SET_IPV4_SRC = RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC, "set_ipv4_src", size_of::<sys::rte_flow_action_set_ipv4>();
        /// New destination address.
        SET_IPV4_DST = RTE_FLOW_ACTION_TYPE_SET_IPV4_DST, "set_ipv4_dst", size_of::<sys::rte_flow_action_set_ipv4>();
        /// New source address.
        SET_IPV6_SRC = RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC, "set_ipv6_src", size_of::<sys::rte_flow_action_set_ipv6>();
        /// New destination address.
        SET_IPV6_DST = RTE_FLOW_ACTION_TYPE_SET_IPV6_DST, "set_ipv6_dst", size_of::<sys::rte_flow_action_set_ipv6>();
        /// New source port.
        SET_TP_SRC = RTE_FLOW_ACTION_TYPE_SET_TP_SRC, "set_tp_src", size_of::<sys::rte_flow_action_set_tp>();
        /// New destination port.
        SET_TP_DST = RTE_FLOW_ACTION_TYPE_SET_TP_DST, "set_tp_dst", size_of::<sys::rte_flow_action_set_tp>();
        /// TTL or hop limit less one.
        DEC_TTL = RTE_FLOW_ACTION_TYPE_DEC_TTL, "dec_ttl", 0;
        /// New TTL or hop limit.
        SET_TTL = RTE_FLOW_ACTION_TYPE_SET_TTL, "set_ttl", size_of::<sys::rte_flow_action_set_ttl>();
        /// New source MAC.
        SET_MAC_SRC = RTE_FLOW_ACTION_TYPE_SET_MAC_SRC, "set_mac_src", size_of::<sys::rte_flow_action_set_mac>();
        /// New destination MAC.
        SET_MAC_DST = RTE_FLOW_ACTION_TYPE_SET_MAC_DST, "set_mac_dst", size_of::<sys::rte_flow_action_set_mac>();
        /// Take the outermost VLAN tag off.
        OF_POP_VLAN = RTE_FLOW_ACTION_TYPE_OF_POP_VLAN, "of_pop_vlan", 0;
        /// Put a VLAN tag of this TPID before all others.
        OF_PUSH_VLAN = RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN, "of_push_vlan",
            size_of::<sys::rte_flow_action_of_push_vlan>();
        /// New VLAN id of the outermost tag.
        OF_SET_VLAN_VID = RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_VID, "of_set_vlan_vid",
            size_of::<sys::rte_flow_action_of_set_vlan_vid>();
        /// New priority of the outermost tag.
        OF_SET_VLAN_PCP = RTE_FLOW_ACTION_TYPE_OF_SET_VLAN_PCP, "of_set_vlan_pcp",
            size_of::<sys::rte_flow_action_of_set_vlan_pcp>();
        /// Change any field: see [`ModifyField`](super::layout::ModifyField).
        MODIFY_FIELD = RTE_FLOW_ACTION_TYPE_MODIFY_FIELD, "modify_field",
            size_of::<sys::rte_flow_action_modify_field>();
    }
}
