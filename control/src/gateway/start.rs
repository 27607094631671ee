//! Bringing a gateway up. Whatever fails, all that was made before is undone by being dropped.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use crossbeam::queue::ArrayQueue;
use dataplane::capture::Door;
use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalOptions, Hugepages, Mempool, Tap};
use dataplane::flow::{AdjacencyTable, ContextTable, FlowTable, Placement, TableConfig, WorkerCounters};
use dataplane::punt::{Bell, KernelFrames, LocalAddresses, PuntLink, PuntRings, PuntThread};
use dataplane::worker::{Activity, IdlePolicy, PortFlags, Worker, WorkerLink};

use super::bring_up;
use super::captures::Captures;
use super::error::GatewayError;
use super::events::{Gateway, Kernel, Waker};
use super::export::Export;
use super::flowtables::Tagging;
use super::offload::{self, Offload};
use super::plane::FlowPlane;
use super::remake::Remake;
use super::service::Keepers;
use super::settle::Settling;
use super::shares::Shares;
use super::shortfall::Shortfall;
use super::state::{ConntrackTotals, State, WorkerView};
use super::threads::Threads;
use super::watchdog::Watchdog;
use crate::api;
use crate::cli::RunOptions;
use crate::config::{Config, PortConfig};
use crate::host::Host;
use crate::netlink::sysctl::ConntrackSettings;
use crate::privilege;
use crate::ruleset::Judgement;
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
/// Different next hops at a time.
const ADJACENCIES: usize = 65_536;
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
    let export = config.ipfix.as_ref().map(Export::open).transpose()?.map(Box::new);
    // Behind what may be somebody else's to open, before the first thread.
    privilege::confine(config, &Host::this())?;
    let kernel = Kernel::open(config.ipfix.as_ref().is_some_and(|ipfix| ipfix.nat_events))?;
    let eal = Eal::init(&eal_options(config))?;
    let clock = Clock::start();
    let workers = config.workers.cores.len();

    let pool = packet_pool(config, workers)?;
    let mut keepers = Keepers::inherited();
    let (ports, twins, mut queues) = bring_up::ports(config, workers, &pool, &keepers)?;
    let hardware = offload::prepare(config, &ports, &mut queues)?;
    let hot = hardware.hot.clone();

    let capacity = config.flows.capacity as usize;
    let table_error = |source| GatewayError::Table { capacity, source };
    let placement =
        Placement { numa_node: super::numa::node_of(&config.workers.cores), ..Placement::default() };
    let table_config = TableConfig { placement, ..TableConfig::new(capacity) };
    let (table, writer) = FlowTable::create(table_config).map_err(table_error)?;
    let (adjacencies, adjacency_writer) =
        AdjacencyTable::create(ADJACENCIES, table.qsbr(), placement).map_err(table_error)?;
    let (contexts, context_writer) = ContextTable::create(table.qsbr(), placement).map_err(table_error)?;

    let rings = PuntRings::new(CONTROL_RING, TRANSIT_RING);
    let observations = Arc::new(ArrayQueue::new(OBSERVATIONS));
    let commands = Arc::new(ArrayQueue::new(COMMANDS));
    let new_twins = Arc::new(ArrayQueue::new(ports.len()));
    let to_workers: Vec<_> = (0..workers).map(|_| Arc::new(KernelFrames::new(FROM_KERNEL_RING))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let local = Arc::new(LocalAddresses::default());
    let tracker = Tracker::new(timing(config)?, super::state::policy(config, &Judgement::default()));
    let epoch = Arc::new(AtomicU32::new(tracker.epoch()));
    let bell = Arc::new(Bell::new().map_err(|source| GatewayError::Loop { what: "bell", source })?);
    let waker = Waker::new()?;
    let tagging = Tagging::new(Arc::clone(&bell));
    let punt_link = PuntLink {
        rings: Arc::clone(&rings),
        to_workers: to_workers.clone(),
        observations: Arc::clone(&observations),
        commands: Arc::clone(&commands),
        new_twins: Arc::clone(&new_twins),
        tags: tagging.queue(),
        bell: Arc::clone(&bell),
        wake: waker.notifier(),
        epoch: Arc::clone(&epoch),
        stop: Arc::clone(&stop),
    };
    let punt = PuntThread::new(
        twins,
        punt_link,
        Arc::clone(&table),
        table.qsbr().register()?,
        pool.clone(),
        clock,
        config.workers.idle_sleep,
    );
    let punt_counters = punt.counters();

    let flags = Arc::new(PortFlags::default());
    let doors: Vec<Arc<Door>> = (0..workers).map(|_| Arc::default()).collect();
    let mut views = Vec::new();
    let mut threads = Vec::new();
    let idle = IdlePolicy { longest: config.workers.idle_sleep };
    let cores = config.workers.cores.iter().zip(0..);
    for ((((core, number), queues), from_kernel), door) in cores.zip(queues).zip(to_workers).zip(&doors) {
        let (counters, activity) = (Arc::new(WorkerCounters::default()), Arc::new(Activity::default()));
        views.push(WorkerView {
            core: *core,
            counters: Arc::clone(&counters),
            activity: Arc::clone(&activity),
            shares: Shares::default(),
        });
        let link = WorkerLink {
            table: Arc::clone(&table),
            adjacencies: Arc::clone(&adjacencies),
            contexts: Arc::clone(&contexts),
            rings: Arc::clone(&rings),
            from_kernel,
            local: Arc::clone(&local),
            flags: Arc::clone(&flags),
            hot: hot.of_worker(number),
            counters,
            activity,
            door: Arc::clone(door),
            stop: Arc::clone(&stop),
        };
        threads.push((usize::from(*core), Worker::new(queues, link, table.qsbr().register()?, clock, idle)));
    }

    let captures = Captures::new(doors, Arc::clone(&flags), clock, waker.notifier().into());
    let settling = Settling::new(Arc::clone(table.qsbr()), commands, Arc::clone(&bell));
    let offload = Offload::new(hardware, (&table, &contexts, &adjacencies));
    let plane = FlowPlane {
        table,
        writer,
        adjacencies: adjacency_writer,
        contexts: context_writer,
        adjacency_table: adjacencies,
        context_table: contexts,
        epoch,
        offload,
        export,
    };
    // Last of all: what fails before leaves no twin behind that was not there.
    for port in &ports {
        port.twin.set_persistent(true).map_err(setting(&port.config.name, "made to last"))?;
    }
    let names: Vec<&str> = ports.iter().map(|port| port.config.name.as_str()).collect();
    keepers.retain(&names);
    ports.iter().for_each(|port| keepers.hold(&port.config.name, &port.twin));
    let threads = Threads::start(threads, punt, stop)?;
    let remake = Remake::new(new_twins, bell);
    let state = State {
        config: config.clone(),
        config_file: options.config_file.clone(),
        log: options.log.clone(),
        hugepages: eal.uses_hugepages(),
        clock,
        tracker,
        plane,
        ports,
        workers: views,
        punt: punt_counters,
        local,
        flags,
        addresses: Vec::new(),
        neighbours: HashMap::new(),
        fixed: HashSet::new(),
        shortfall: Shortfall::default(),
        watchdog: Watchdog::new(config.workers.idle_sleep),
        rules: super::rules::Rules::default(),
        links: HashMap::new(),
        tagging,
        own_table: super::own_table::OwnTable::new(options.no_nft),
        conntrack: ConntrackTotals::default(),
        ready: false,
    };
    Gateway::new(
        threads,
        state,
        settling,
        captures,
        remake,
        observations,
        kernel,
        api,
        waker,
        keepers,
        pool,
        eal,
    )
}

/// An error of a setting of a twin.
pub(super) fn setting(name: &str, what: &'static str) -> impl Fn(io::Error) -> GatewayError {
    let name = name.to_owned();
    move |source| GatewayError::TwinSetting { name: name.clone(), what, source }
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

pub(super) fn descriptors(port: &PortConfig) -> u16 {
    port.descriptors.unwrap_or(DESCRIPTORS)
}

/// Buffers for every place in which one can be at a time.
fn packet_count(config: &Config, workers: usize) -> usize {
    let queues: usize = config.ports.iter().map(|port| 2 * usize::from(descriptors(port)) * workers).sum();
    let threads = workers + 1;
    let bursts = workers * config.ports.len() * 2 * dataplane::worker::BURST;
    // A tap's twin keeps a spare buffer; vhost-net's rings are full of them.
    let twins = config.ports.len() * 2 * usize::from(Tap::VHOST_DESCRIPTORS);
    queues
        + bursts
        + twins
        + CONTROL_RING
        + TRANSIT_RING
        + workers * (FROM_KERNEL_RING + HELD)
        + threads * 2 * CACHE as usize
}

fn data_room(config: &Config) -> u16 {
    let mtu = config.ports.iter().filter_map(|port| port.mtu).max().unwrap_or(1500).max(1984);
    // Some NICs (igb, ixgbe) fill buffers by whole kilobytes, and spread what is longer over several.
    mtu.saturating_add(L2_ROOM).next_multiple_of(1024)
}

pub(super) fn packet_memory_mb(config: &Config, workers: usize) -> u32 {
    // mbuf, headroom, and what the pool's ring and alignment take.
    let each = usize::from(data_room(config)) + 512;
    let bytes = packet_count(config, workers) * each + (64 << 20);
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

fn packet_pool(config: &Config, workers: usize) -> Result<Mempool, GatewayError> {
    let count = u32::try_from(packet_count(config, workers)).unwrap_or(u32::MAX);
    Ok(Mempool::packets("flyover", count, data_room(config), CACHE, None)?)
}

pub(super) fn timing(config: &Config) -> Result<Timing, GatewayError> {
    let settings = ConntrackSettings::read()?;
    let millis = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Ok(Timing {
        revalidate_within: millis(config.flows.revalidate_within),
        reprove_every: millis(config.flows.reprove_every),
        tcp_established_s: settings.tcp_timeout_established,
        tcp_closing_s: settings.tcp_timeouts_closing,
        udp_stream_s: settings.udp_timeout_stream,
        udp_s: settings.udp_timeout,
        ..Timing::default()
    })
}
