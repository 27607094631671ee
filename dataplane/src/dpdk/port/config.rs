//! Setting a port up: queues, MTU, and what the device takes off the workers' hands.

use std::ptr;

use dpdk_sys as sys;

use super::marks::Marks;
use super::{Direction, Inner, Phase, Port, PortError, SendMut};
use crate::dpdk::Mempool;
use crate::dpdk::hairpin::HairpinQueues;

/// Ethernet header, two VLAN tags, and the checksum that some drivers count.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4 + 4;
/// Of a port whose configuration names none.
const DEFAULT_MTU: u16 = 1500;

/// How to set a port up.
#[derive(Clone, Debug)]
pub struct PortConfig<'a> {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues. net_tap wants as many as receive queues.
    pub tx_queues: u16,
    /// Descriptors of a receive queue, rounded to what the device takes.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue, likewise.
    pub tx_descriptors: u16,
    /// The longest packet in bytes, without the Ethernet header. 1500, or less if the device can't, if not said.
    pub mtu: Option<u16>,
    /// Spread TCP and UDP over the receive queues by their addresses and ports, where the device offers it.
    pub rss: bool,
    /// Have checksums of received packets checked, where the device offers it. net_tap offers it too, and does it in
    /// software.
    pub rx_checksum: bool,
    /// Let the receive queues be [armed](super::RxQueue::arm), where the driver can.
    pub rx_interrupts: bool,
    /// Queues behind these whose packets no core sees.
    pub hairpins: HairpinQueues,
    /// Where received packets are put.
    pub pool: &'a Mempool,
}

impl<'a> PortConfig<'a> {
    /// One queue each way, of 1024 descriptors.
    pub fn new(pool: &'a Mempool) -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            rss: true,
            rx_checksum: true,
            rx_interrupts: false,
            hairpins: HairpinQueues::default(),
            pool,
        }
    }
}

impl Port {
    /// Sets the device and its queues up. The port must not be started.
    pub fn configure(&self, config: &PortConfig<'_>) -> Result<(), PortError> {
        let inner = &*self.inner;
        let mut state = inner.state();
        if state.phase == Phase::Started {
            return Err(PortError::Started(inner.name.clone()));
        }
        let info = inner.info()?;
        let HairpinQueues { rx: rx_hairpins, tx: tx_hairpins } = &config.hairpins;
        let (rx_queues, tx_queues) = (config.rx_queues, config.tx_queues);
        let all_rx = rx_queues.saturating_add(u16::try_from(rx_hairpins.len()).unwrap_or(u16::MAX));
        let all_tx = tx_queues.saturating_add(u16::try_from(tx_hairpins.len()).unwrap_or(u16::MAX));
        for (direction, software, all, limit) in [
            (Direction::Receive, rx_queues, all_rx, info.max_rx_queues),
            (Direction::Transmit, tx_queues, all_tx, info.max_tx_queues),
        ] {
            inner.check_queues(direction, software, limit)?;
            inner.check_queues(direction, all, limit)?;
        }
        if let Some(asked) = config.mtu {
            inner.check_mtu(asked, &info)?;
        }

        let offered = info.rx_offload_capa;
        let scatter = offered & sys::RTE_ETH_RX_OFFLOAD_SCATTER != 0;
        let frame_limit = (!scatter).then(|| config.pool.data_room());
        inner.check_frame(config.mtu.unwrap_or(DEFAULT_MTU.min(info.max_mtu)), frame_limit)?;
        if state.marks == Marks::Unasked {
            state.marks = inner.ask_for_marks();
        }
        let mut conf = device_configuration(config, &info);

        // Until this succeeds the device is in no state to start.
        state.phase = Phase::Attached;
        let conf = SendMut(&raw mut conf);
        // SAFETY: the port is stopped, its control calls are locked, and `conf` is valid.
        inner.call("configure", move |id| unsafe {
            sys::rte_eth_dev_configure(id, all_rx, all_tx, conf.get())
        })?;

        let (mut rx_descriptors, mut tx_descriptors) = (config.rx_descriptors, config.tx_descriptors);
        let (rx, tx) = (&mut rx_descriptors, &mut tx_descriptors);
        // SAFETY: both numbers are writable.
        inner.call("descriptors", |id| unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, rx, tx) })?;

        // SAFETY: the port exists.
        let socket = unsafe { sys::rte_eth_dev_socket_id(inner.id) }.cast_unsigned();
        // From the first queue on the device may hold buffers of the pool.
        state.pools.push(config.pool.clone());
        let pool = config.pool;
        inner.call("receive queues", |id| {
            first_refusal(rx_queues, |queue| {
                // SAFETY: the port is configured with this queue, and `state.pools` keeps the pool.
                unsafe {
                    sys::rte_eth_rx_queue_setup(id, queue, rx_descriptors, socket, ptr::null(), pool.as_ptr())
                }
            })
        })?;
        inner.call("transmit queues", |id| {
            first_refusal(tx_queues, |queue| {
                // SAFETY: the port is configured with this queue.
                unsafe { sys::rte_eth_tx_queue_setup(id, queue, tx_descriptors, socket, ptr::null()) }
            })
        })?;
        inner.set_up_hairpins(config, rx_descriptors, tx_descriptors)?;
        state.rx_queues = rx_queues;
        state.tx_queues = tx_queues;
        state.frame_limit = frame_limit;
        state.phase = Phase::Configured;
        // NICs take the MTU from the configuration; drivers of kernel devices want to be told.
        match config.mtu {
            Some(mtu) if inner.mtu()? != mtu || inner.driver == "net_tap" => inner.apply_mtu(mtu),
            _ => Ok(()),
        }
    }

    /// The longest packet in bytes, without the Ethernet header.
    pub fn mtu(&self) -> Result<u16, PortError> {
        let _state = self.inner.state();
        self.inner.mtu()
    }

    /// Changes the MTU. Whether a started device takes a change is up to its driver.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), PortError> {
        let inner = &self.inner;
        let state = inner.state();
        if state.phase == Phase::Attached {
            return Err(PortError::NotConfigured(inner.name.clone()));
        }
        inner.check_mtu(mtu, &inner.info()?)?;
        inner.check_frame(mtu, state.frame_limit)?;
        inner.apply_mtu(mtu)
    }
}

impl Inner {
    /// Sets up queues behind those of software, with as many descriptors.
    fn set_up_hairpins(
        &self,
        config: &PortConfig<'_>,
        rx_descriptors: u16,
        tx_descriptors: u16,
    ) -> Result<(), PortError> {
        for (conf, queue) in config.hairpins.rx.iter().zip(config.rx_queues..) {
            // SAFETY: the port is configured with this queue; the driver copies what it keeps of `conf`.
            self.call("hairpin receive queues", |id| unsafe {
                sys::rte_eth_rx_hairpin_queue_setup(id, queue, rx_descriptors, conf.as_ptr())
            })?;
        }
        for (conf, queue) in config.hairpins.tx.iter().zip(config.tx_queues..) {
            // SAFETY: as above.
            self.call("hairpin transmit queues", |id| unsafe {
                sys::rte_eth_tx_hairpin_queue_setup(id, queue, tx_descriptors, conf.as_ptr())
            })?;
        }
        Ok(())
    }

    fn check_queues(&self, direction: Direction, asked: u16, limit: u16) -> Result<(), PortError> {
        if (1..=limit).contains(&asked) {
            return Ok(());
        }
        Err(PortError::Queues { device: self.name.clone(), direction, asked, limit })
    }

    fn check_mtu(&self, asked: u16, info: &sys::rte_eth_dev_info) -> Result<(), PortError> {
        let (min, max) = (info.min_mtu, info.max_mtu);
        if (min..=max).contains(&asked) {
            return Ok(());
        }
        Err(PortError::Mtu { device: self.name.clone(), asked, min, max })
    }

    fn check_frame(&self, asked: u16, limit: Option<u16>) -> Result<(), PortError> {
        let needed = u32::from(asked) + FRAME_OVERHEAD;
        match limit {
            Some(room) if needed > u32::from(room) => {
                Err(PortError::BufferTooSmall { device: self.name.clone(), asked, needed, room })
            }
            _ => Ok(()),
        }
    }

    fn mtu(&self) -> Result<u16, PortError> {
        let mut mtu = 0;
        let to = &mut mtu;
        // SAFETY: the port exists as long as `self`, and `mtu` is writable.
        self.call("mtu", |id| unsafe { sys::rte_eth_dev_get_mtu(id, to) })?;
        Ok(mtu)
    }

    fn apply_mtu(&self, mtu: u16) -> Result<(), PortError> {
        // SAFETY: the port is configured, and its control calls are locked.
        self.call("mtu", |id| unsafe { sys::rte_eth_dev_set_mtu(id, mtu) })
    }
}

fn device_configuration(config: &PortConfig<'_>, info: &sys::rte_eth_dev_info) -> sys::rte_eth_conf {
    let mut conf = sys::rte_eth_conf::default();
    let mut wanted = sys::RTE_ETH_RX_OFFLOAD_RSS_HASH;
    if config.rx_checksum {
        wanted |= sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM
            | sys::RTE_ETH_RX_OFFLOAD_TCP_CKSUM
            | sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
    }
    let mtu = config.mtu.unwrap_or(DEFAULT_MTU.min(info.max_mtu));
    if u32::from(mtu) + FRAME_OVERHEAD > u32::from(config.pool.data_room()) {
        wanted |= sys::RTE_ETH_RX_OFFLOAD_SCATTER;
    }
    let flows = sys::RTE_ETH_RSS_IPV4
        | sys::RTE_ETH_RSS_IPV6
        | sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP
        | sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP
        | sys::RTE_ETH_RSS_NONFRAG_IPV6_TCP
        | sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP;
    let flows = flows & info.flow_type_rss_offloads;
    if config.rss && config.rx_queues > 1 && flows != 0 {
        conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = flows;
    } else {
        wanted &= !sys::RTE_ETH_RX_OFFLOAD_RSS_HASH;
    }
    conf.rxmode.mtu = u32::from(mtu);
    conf.rxmode.offloads = wanted & info.rx_offload_capa;
    conf.intr_conf.set_rxq(u32::from(config.rx_interrupts));
    // A packet that arrived in several buffers leaves in several.
    conf.txmode.offloads = sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS & info.tx_offload_capa;
    conf
}

fn first_refusal(queues: u16, setup: impl Fn(u16) -> i32) -> i32 {
    (0..queues).map(setup).find(|ret| *ret < 0).unwrap_or(0)
}
