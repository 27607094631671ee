//! What a port tells of itself, and its switches.

use std::ffi::c_char;

use dpdk_sys as sys;

use super::{Inner, Phase, Port, PortError, text, wire};

/// The state of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Megabits a second; 0 if unknown.
    pub speed_mbps: u32,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// Counters of a port, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Packets lost since the receive queues were full.
    pub imissed: u64,
    /// Broken packets received.
    pub ierrors: u64,
    /// Packets that could not be sent.
    pub oerrors: u64,
    /// Times that no buffer was left for a packet.
    pub rx_nombuf: u64,
}

/// What a port is and offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The driver's name.
    pub driver: String,
    /// A virtual device, not hardware on a bus.
    pub is_vdev: bool,
    /// The most receive queues.
    pub max_rx_queues: u16,
    /// The most transmit queues.
    pub max_tx_queues: u16,
    /// The least MTU.
    pub min_mtu: u16,
    /// The greatest MTU.
    pub max_mtu: u16,
    /// By as many bytes a packet without tags that comes in may be longer than the MTU, as far as the driver knows: room
    /// for tags.
    pub oversize: u16,
    /// Receive offloads, by DPDK's names.
    pub rx_offloads: Vec<String>,
    /// Transmit offloads, by DPDK's names.
    pub tx_offloads: Vec<String>,
    /// Whether packets can be spread over receive queues by hash.
    pub rss: bool,
    /// The NUMA node, where there is one to tell.
    pub numa_node: Option<u32>,
}

impl Port {
    /// The port's MAC address.
    pub fn mac(&self) -> Result<[u8; 6], PortError> {
        let _state = self.inner.state();
        self.inner.mac()
    }

    /// Gives the port another MAC address. Best before its start: a started net_tap port's wire side goes down and up.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), PortError> {
        let inner = &self.inner;
        let state = inner.state();
        let mut address = sys::rte_ether_addr { addr_bytes: mac };
        let from = &mut address;
        // SAFETY: the port exists as long as `self`, its control calls are locked, and `address` is valid.
        inner.call("mac", |id| unsafe { sys::rte_eth_dev_default_mac_addr_set(id, from) })?;
        match state.phase {
            Phase::Started => wire::set_wire_mac(inner),
            _ => Ok(()),
        }
    }

    /// The link's state as the driver knows it, without waiting.
    pub fn link(&self) -> Result<Link, PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        let mut link = sys::shim_link::default();
        let to = &mut link;
        // SAFETY: the port exists as long as `self`, and `link` is writable.
        inner.call("link", |id| unsafe { sys::shim_link_get_nowait(id, to) })?;
        let known = link.speed_mbps != sys::RTE_ETH_SPEED_NUM_UNKNOWN;
        Ok(Link {
            up: link.up != 0,
            speed_mbps: if known { link.speed_mbps } else { 0 },
            full_duplex: link.full_duplex != 0,
        })
    }

    /// Raises the link or takes it down, where the driver can.
    pub fn set_link(&self, up: bool) -> Result<(), PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        // SAFETY: the port exists as long as `self`, and its control calls are locked.
        inner.call("link", |id| unsafe {
            if up { sys::rte_eth_dev_set_link_up(id) } else { sys::rte_eth_dev_set_link_down(id) }
        })
    }

    /// Receives frames to any unicast address, or to the port's own alone.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        // SAFETY: the port exists as long as `self`, and its control calls are locked.
        inner.call("promiscuous", |id| unsafe {
            if on { sys::rte_eth_promiscuous_enable(id) } else { sys::rte_eth_promiscuous_disable(id) }
        })
    }

    /// Receives frames to any multicast address, or to none but those asked for.
    pub fn set_allmulticast(&self, on: bool) -> Result<(), PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        // SAFETY: the port exists as long as `self`, and its control calls are locked.
        inner.call("allmulticast", |id| unsafe {
            if on { sys::rte_eth_allmulticast_enable(id) } else { sys::rte_eth_allmulticast_disable(id) }
        })
    }

    /// The port's counters.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        let mut stats = sys::rte_eth_stats::default();
        let to = &mut stats;
        // SAFETY: the port exists as long as `self`, and `stats` is writable.
        inner.call("stats", |id| unsafe { sys::rte_eth_stats_get(id, to) })?;
        Ok(PortStats {
            ipackets: stats.ipackets,
            opackets: stats.opackets,
            ibytes: stats.ibytes,
            obytes: stats.obytes,
            imissed: stats.imissed,
            ierrors: stats.ierrors,
            oerrors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        })
    }

    /// What the port is and offers.
    pub fn info(&self) -> Result<PortInfo, PortError> {
        let inner = &self.inner;
        let _state = inner.state();
        let info = inner.info()?;
        // SAFETY: the port, and with it its device, exists as long as `self`; the bus's name is a static string.
        let bus = unsafe { text(sys::rte_bus_name(sys::rte_dev_bus(info.device))) };
        // SAFETY: the port exists as long as `self`.
        let node = unsafe { sys::rte_eth_dev_socket_id(inner.id) };
        Ok(PortInfo {
            driver: inner.driver.clone(),
            is_vdev: bus == "vdev",
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: info.max_mtu,
            oversize: oversize(info.max_rx_pktlen, info.max_mtu),
            rx_offloads: names(info.rx_offload_capa, sys::rte_eth_dev_rx_offload_name),
            tx_offloads: names(info.tx_offload_capa, sys::rte_eth_dev_tx_offload_name),
            rss: info.flow_type_rss_offloads != 0,
            numa_node: u32::try_from(node).ok(),
        })
    }
}

impl Inner {
    pub(super) fn mac(&self) -> Result<[u8; 6], PortError> {
        let mut mac = sys::rte_ether_addr::default();
        let to = &mut mac;
        // SAFETY: the port exists as long as `self`, and `mac` is writable.
        self.call("mac", |id| unsafe { sys::rte_eth_macaddr_get(id, to) })?;
        Ok(mac.addr_bytes)
    }
}

/// What there is of a frame around a packet of the MTU, beyond the Ethernet header and the checksum. A driver that does not
/// know its greatest MTU says 65535.
fn oversize(max_frame: u32, max_mtu: u16) -> u16 {
    const ETHERNET: u32 = 14 + 4;
    if max_mtu == u16::MAX {
        return 0;
    }
    u16::try_from(max_frame.saturating_sub(max_mtu.into()).saturating_sub(ETHERNET)).unwrap_or(u16::MAX)
}

/// The names of the flags that are set.
fn names(flags: u64, name_of: unsafe extern "C" fn(u64) -> *const c_char) -> Vec<String> {
    let set = (0..u64::BITS).map(|bit| 1 << bit).filter(|flag| flags & flag != 0);
    // SAFETY: DPDK gives a static string for any flag.
    set.map(|flag| unsafe { text(name_of(flag)) }).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::oversize;

    #[test]
    fn what_is_let_in_beyond_the_mtu() {
        // i40e counts two tags, virtio lets in what it can, others count nothing or do not know.
        for (max_frame, max_mtu, expected) in
            [(9728, 9702, 8), (9728, 1500, 8210), (9018, 9000, 0), (9014, 9000, 0), (1522, u16::MAX, 0)]
        {
            assert_eq!(oversize(max_frame, max_mtu), expected, "{max_frame} {max_mtu}");
        }
    }
}
