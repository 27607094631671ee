//! Bringing a gateway up. Whatever fails, all that was made before is undone by being dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use crossbeam::queue::ArrayQueue;
use dataplane::clock::Clock;
use dataplane::dpdk::{
    Eal, EalOptions, Hugepages, Mempool, Port, PortConfig as QueueConfig, RxQueue, Tap, TapOptions, TxQueue,
};
use dataplane::flow::{AdjacencyTable, ContextTable, FlowTable, TableConfig, WorkerCounters};
use dataplane::punt::{LocalAddresses, PuntLink, PuntRings, PuntThread};
use dataplane::worker::{IdlePolicy, Worker, WorkerLink, WorkerPort};

use super::error::GatewayError;
use super::events::{Gateway, Kernel, Waker};
use super::plane::FlowPlane;
use super::ports::GatewayPort;
use super::settle::Settling;
use super::state::State;
use super::threads::Threads;
use super::RunOptions;
use crate::api;
use crate::config::{Config, PortConfig};
use crate::netlink::sysctl;
use crate::netlink::watch::LinkState;
use crate::tracker::{Timing, Tracker};

/// Descriptors of a queue that are asked for where the configuration does not say.
const DESCRIPTORS: u16 = 1024;
/// Packets that wait for the punt thread, by class.
const CONTROL_RING: usize = 1024;
const TRANSIT_RING: usize = 4096;
/// Frames that wait for a worker.
const FROM_KERNEL_RING: usize = 2048;
/// Observations that wait for control, and commands that wait for the punt thread.
const OBSERVATIONS: usize = 16_384;
const COMMANDS: usize = 16_384;
/// Packets that a worker may hold, and buffers that its cache keeps.
const HELD: usize = dataplane::worker::HOLD_CAPACITY;
const CACHE: u32 = 256;
/// Room in a buffer: an Ethernet frame with two tags and PPPoE around the MTU, and the longest L2 header that
/// may take the place of a shorter one.
const L2_ROOM: u16 = 64;

/// Brings everything up, up to and including the threads.
pub(super) fn start(config: &Config, options: &RunOptions) -> Result<Gateway, GatewayError> {
    // First of all, so that a second instance changes nothing.
    let api = api::Server::bind(&config.api.socket)?;
    let kernel = Kernel::open()?;
    let eal = Eal::init(&eal_options(config))?;
    let clock = Clock::start();
    let workers = config.workers.cores.len();

    let pool = packet_pool(config, workers)?;
    let (mut ports, taps, queues) = ports(config, workers, &pool)?;

    let capacity = config.flows.capacity as usize;
    let table_error = |source| GatewayError::Table { capacity, source };
    let (table, writer) = FlowTable::create(TableConfig::new(capacity)).map_err(table_error)?;
    let (adjacencies, adjacency_writer) = AdjacencyTable::create(Arc::clone(table.qsbr())).map_err(table_error)?;
    let (contexts, context_writer) = ContextTable::create(Arc::clone(table.qsbr())).map_err(table_error)?;

    let rings = PuntRings::new(CONTROL_RING, TRANSIT_RING);
    let observations = Arc::new(ArrayQueue::new(OBSERVATIONS));
    let commands = Arc::new(ArrayQueue::new(COMMANDS));
    let to_workers: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(FROM_KERNEL_RING))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let local = Arc::new(LocalAddresses::default());
    let epoch = Arc::new(AtomicU32::new(0));
    let register = || {
        table.qsbr().register().map_err(|_| GatewayError::ThreadDied("worker"))
    };

    let waker = Waker::new()?;
    let punt_link = PuntLink {
        rings: Arc::clone(&rings),
        to_workers: to_workers.clone(),
        observations: Arc::clone(&observations),
        commands: Arc::clone(&commands),
        wake: waker.notifier(),
        epoch: Arc::clone(&epoch),
        stop: Arc::clone(&stop),
    };
    let punt = PuntThread::new(taps, punt_link, Arc::clone(&table), register()?, pool.clone(), clock);
    let punt_counters = punt.counters();

    let mut counters = Vec::new();
    let mut threads = Vec::new();
    let idle = IdlePolicy { longest: config.workers.idle_sleep };
    for ((core, queues), from_kernel) in config.workers.cores.iter().zip(queues).zip(to_workers) {
        let counted = Arc::new(WorkerCounters::new());
        counters.push(Arc::clone(&counted));
        let link = WorkerLink {
            table: Arc::clone(&table),
            adjacencies: Arc::clone(&adjacencies),
            contexts: Arc::clone(&contexts),
            rings: Arc::clone(&rings),
            from_kernel,
            local: Arc::clone(&local),
            counters: counted,
            stop: Arc::clone(&stop),
        };
        threads.push((usize::from(*core), Worker::new(queues, link, register()?, clock, idle)));
    }

    let settling = Settling::new(Arc::clone(table.qsbr()), commands);
    let plane = FlowPlane { table, writer, adjacencies: adjacency_writer, contexts: context_writer, epoch };
    let tracker = Tracker::new(timing(config), super::state::policy(config));

    // Before the threads run: what fails up to here leaves nothing behind.
    for port in &mut ports {
        port.twin.set_persistent(true).map_err(|source| port.twin_error(source))?;
    }
    let threads = Threads::start(threads, punt, stop)?;
    let state = State::new(
        config.clone(),
        options.config_path.clone(),
        eal.uses_hugepages(),
        clock,
        tracker,
        plane,
        ports,
        counters,
        punt_counters,
        local,
    );
    Gateway::new(threads, state, settling, observations, kernel, api, waker, pool, eal)
}

fn eal_options(config: &Config) -> EalOptions {
    let pci = config.ports.iter().filter(|port| !port.device.is_vdev()).map(|port| port.device.to_string());
    let pci_allow: Vec<String> = pci.collect();
    EalOptions {
        // NICs need memory that they can address; vdevs do as well without.
        hugepages: Hugepages::Auto,
        memory_mb: Some(packet_memory_mb(config, config.workers.cores.len())),
        pci_allow,
        file_prefix: format!("flyover{}", std::process::id()),
        ..EalOptions::default()
    }
}

fn descriptors(port: &PortConfig) -> u16 {
    port.descriptors.unwrap_or(DESCRIPTORS)
}

/// Buffers for every place in which one can be at a time.
fn packet_count(config: &Config, workers: usize) -> usize {
    let queues: usize = config.ports.iter().map(|port| 2 * usize::from(descriptors(port)) * workers).sum();
    let threads = workers + 1;
    let bursts = workers * config.ports.len() * 2 * dataplane::worker::BURST;
    queues
        + bursts
        + CONTROL_RING
        + TRANSIT_RING
        + workers * (FROM_KERNEL_RING + HELD)
        + threads * 2 * CACHE as usize
}

fn data_room(config: &Config) -> u16 {
    let mtu = config.ports.iter().filter_map(|port| port.mtu).max().unwrap_or(1500).max(1984);
    mtu.saturating_add(L2_ROOM)
}

fn packet_memory_mb(config: &Config, workers: usize) -> u32 {
    // mbuf, headroom, and what the pool's ring and alignment take.
    let each = usize::from(data_room(config)) + 512;
    let bytes = packet_count(config, workers) * each + (64 << 20);
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

fn packet_pool(config: &Config, workers: usize) -> Result<Mempool, GatewayError> {
    let count = u32::try_from(packet_count(config, workers)).unwrap_or(u32::MAX);
    Ok(Mempool::packets("flyover", count, data_room(config), CACHE, None)?)
}

type Ports = (Vec<GatewayPort>, Vec<Tap>, Vec<Vec<WorkerPort>>);

/// Ports with their twins, the twins' descriptors for the punt thread, and the queues by worker.
fn ports(config: &Config, workers: usize, pool: &Mempool) -> Result<Ports, GatewayError> {
    let (mut ports, mut taps) = (Vec::new(), Vec::new());
    let mut queues: Vec<Vec<WorkerPort>> = (0..workers).map(|_| Vec::new()).collect();
    for port_config in &config.ports {
        let (port, tap, rx, tx) = port(port_config, workers, pool)?;
        let mut rx = rx.into_iter();
        for (worker, tx) in queues.iter_mut().zip(tx) {
            worker.push(WorkerPort { rx: rx.next(), tx });
        }
        ports.push(port);
        taps.push(tap);
    }
    Ok((ports, taps, queues))
}

fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn port(
    config: &PortConfig,
    workers: usize,
    pool: &Mempool,
) -> Result<(GatewayPort, Tap, Vec<RxQueue>, Vec<TxQueue>), GatewayError> {
    let device = config.device.to_string();
    let twin_error = |source| GatewayError::Twin { name: config.name.clone(), source };
    let port_error = |source| GatewayError::Port { name: config.name.clone(), device: device.clone(), source };

    let twin = Tap::open(&config.name, TapOptions { multi_queue: true }).map_err(twin_error)?;
    let netns = config.netns.as_deref().map(netns_path);
    let port = Port::attach(&device, netns.as_deref()).map_err(port_error)?;

    let wanted = config.queues.map_or(workers, usize::from).min(workers);
    let info = port.info();
    if usize::from(info.max_tx_queues) < workers {
        let (name, has) = (config.name.clone(), info.max_tx_queues);
        return Err(GatewayError::Queues { name, device, has, wants: workers });
    }
    // A tap PMD wants as many queues one way as the other.
    let rx_queues = if port.driver() == "net_tap" { workers } else { wanted.min(info.max_rx_queues.into()) };
    let descriptors = descriptors(config);
    let queue_config = QueueConfig {
        rx_queues: rx_queues as u16,
        tx_queues: workers as u16,
        rx_descriptors: descriptors,
        tx_descriptors: descriptors,
        mtu: config.mtu,
        rss: rx_queues > 1,
        pool,
    };
    port.configure(&queue_config).map_err(port_error)?;

    // The twin's address is the one that neighbours know: an existing twin keeps it, a new one takes the
    // port's. A device that can't change its own hears everything instead.
    let mac = if twin.created() { port.mac() } else { twin.mac().map_err(twin_error)? };
    if twin.created() {
        twin.set_mac(mac).map_err(twin_error)?;
    }
    if let Some(mtu) = config.mtu {
        twin.set_mtu(mtu).map_err(twin_error)?;
    }
    port.start().map_err(port_error)?;
    if port.mac() != mac && (info.is_vdev || port.set_mac(mac).is_err()) {
        port.set_promiscuous(true).map_err(port_error)?;
    }
    let (rx, tx) = port.take_queues().map_err(port_error)?;
    let mtu = twin.mtu().map_err(twin_error)?;
    let index = twin.index().map_err(twin_error)?;
    let control = twin.control().map_err(twin_error)?;
    let gateway_port =
        GatewayPort::new(config.clone(), port, control, index, rx_queues as u16, LinkState::new(mac, mtu));
    Ok((gateway_port, twin, rx, tx))
}

fn timing(config: &Config) -> Timing {
    let default = Timing::default();
    let seconds = |name: &str, fallback: u32| sysctl::conntrack_timeout(name).unwrap_or(fallback);
    let millis = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Timing {
        revalidate_within: millis(config.flows.revalidate_within),
        reprove_every: millis(config.flows.reprove_every),
        tcp_established_s: seconds("tcp_timeout_established", default.tcp_established_s),
        udp_stream_s: seconds("udp_timeout_stream", default.udp_stream_s),
        udp_s: seconds("udp_timeout", default.udp_s),
        ..default
    }
}
