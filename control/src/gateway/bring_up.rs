//! Ports and their twins at the start: all are attached before the first is configured, and all have started before those
//! with hairpin queues between them are bound. Ports that come later are brought up one by one.

use std::collections::HashMap;
use std::path::Path;

use dataplane::dpdk::hairpin::{self, HairpinPort, HairpinQueues};
use dataplane::dpdk::{Mempool, Port, PortConfig as QueueConfig, PortError, PortInfo, Tap};
use dataplane::punt::Twin;
use dataplane::worker::WorkerPort;

use super::error::GatewayError;
use super::offload;
use super::ports::{self, GatewayPort};
use super::service::Keepers;
use super::start::{descriptors, setting};
use super::twins;
use crate::config::{Config, Offload, PortConfig};

/// Bytes of two VLAN tags: many NICs let in frames that are so much longer, and not all say so.
const TWO_TAGS: u16 = 8;

/// Why a port that came later has none.
const NO_HAIRPINS: &str = "no hairpin queues: they are set up when the gateway starts, and the port came later; restart Flyover to have them";

/// Ports with their twins, the twins for the punt thread, and the queues by worker.
type Ports = (Vec<GatewayPort>, Vec<Twin>, Vec<Vec<WorkerPort>>);

pub(super) fn ports(
    config: &Config,
    workers: usize,
    pool: &Mempool,
    keepers: &Keepers,
) -> Result<Ports, GatewayError> {
    let attached = config
        .ports
        .iter()
        .map(|port| attach(port, workers, keepers.has(&port.name)))
        .collect::<Result<Vec<_>, _>>()?;
    let between = between(config, &attached);
    let (mut ports, mut twins) = (Vec::new(), Vec::new());
    let mut queues: Vec<Vec<WorkerPort>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, attached) in attached.into_iter().enumerate() {
        let hairpins = between
            .iter()
            .position(|port| port.id == attached.port.id())
            .map_or_else(HairpinQueues::default, |at| hairpin::queues(&between, at));
        let (port, twin) = bring_up(number, config, attached, &hairpins, pool)?;
        let Some(device) = &port.port else { continue };
        let port_error = |source| port_error(&port.config, source);
        let (rx, tx) = device.take_queues().map_err(port_error)?;
        let mut rx = rx.into_iter();
        for (worker, tx) in queues.iter_mut().zip(tx) {
            worker.push(WorkerPort { rx: rx.next(), tx, marks: false });
        }
        twins.push(twin);
        ports.push(port);
    }
    bind(&mut ports, &between);
    Ok((ports, twins, queues))
}

/// A port that comes while others run. Its `number` names what its twin needs of DPDK; its queues are by worker.
///
/// Hairpin queues are set up before ports start, with their peers, so that it has none with those that run.
pub(super) fn one(
    number: usize,
    whole: &Config,
    config: &PortConfig,
    workers: usize,
    pool: &Mempool,
    kept: bool,
) -> Result<(GatewayPort, Twin, Vec<WorkerPort>), GatewayError> {
    let attached = attach(config, workers, kept)?;
    let might = !between(whole, std::slice::from_ref(&attached)).is_empty();
    let (mut port, twin) = bring_up(number, whole, attached, &HairpinQueues::default(), pool)?;
    port.no_hairpins = might.then(|| NO_HAIRPINS.to_owned());
    let Some(device) = &port.port else { return Err(GatewayError::Unplugged { name: config.name.clone() }) };
    let (rx, tx) = device.take_queues().map_err(|source| port_error(config, source))?;
    let mut rx = rx.into_iter();
    let queues = tx.into_iter().map(|tx| WorkerPort { rx: rx.next(), tx, marks: false }).collect();
    Ok((port, twin, queues))
}

/// A port with its twin, not yet configured.
struct Attached<'a> {
    config: &'a PortConfig,
    twin: Tap,
    port: Port,
    info: PortInfo,
    rx_queues: u16,
    tx_queues: u16,
}

fn port_error(config: &PortConfig, source: PortError) -> GatewayError {
    GatewayError::Port { name: config.name.clone(), device: config.device.to_string(), source }
}

fn attach<'a>(config: &'a PortConfig, workers: usize, kept: bool) -> Result<Attached<'a>, GatewayError> {
    let twin = twins::open(config, kept)?;
    let netns = config.netns.as_deref().map(|name| Path::new("/run/netns").join(name));
    let device = config.device.to_string();
    let port = Port::attach(&device, netns.as_deref()).map_err(|source| port_error(config, source))?;
    let info = port.info().map_err(|source| port_error(config, source))?;
    if usize::from(info.max_tx_queues) < workers {
        let (name, has) = (config.name.clone(), info.max_tx_queues);
        return Err(GatewayError::Queues { name, device, has, wants: workers });
    }
    // A tap PMD wants as many queues one way as the other.
    let rx_queues = if info.driver == "net_tap" {
        workers
    } else {
        config.queues.map_or(workers, usize::from).min(workers).min(info.max_rx_queues.into())
    };
    Ok(Attached { config, twin, port, info, rx_queues: rx_queues as u16, tx_queues: workers as u16 })
}

/// The ports between which there are to be hairpin queues: those of NICs whose drivers have enough of them, if rules may
/// send packets there.
fn between(config: &Config, attached: &[Attached<'_>]) -> Vec<HairpinPort> {
    if config.hardware.offload != Offload::Auto {
        return Vec::new();
    }
    let most = attached.len() as u16;
    let has = |one: &&Attached<'_>| {
        let fits = |queues: u16, limit: u16| queues.saturating_add(most) <= limit;
        !one.config.device.is_vdev()
            && fits(one.rx_queues, one.info.max_rx_queues)
            && fits(one.tx_queues, one.info.max_tx_queues)
            && one.port.hairpin_limits().is_ok_and(|limits| limits.queues >= most)
    };
    let port = |one: &Attached<'_>| HairpinPort {
        id: one.port.id(),
        rx_queues: one.rx_queues,
        tx_queues: one.tx_queues,
    };
    attached.iter().filter(has).map(port).collect()
}

/// Configures and starts a port, and has its twin's frames carried.
fn bring_up(
    number: usize,
    whole: &Config,
    attached: Attached<'_>,
    hairpins: &HairpinQueues,
    pool: &Mempool,
) -> Result<(GatewayPort, Twin), GatewayError> {
    let Attached { config, twin, port, info, rx_queues, tx_queues } = attached;
    let name = &config.name;
    let port_error = |source| port_error(config, source);
    let descriptors = descriptors(config);
    let queues = QueueConfig {
        rx_queues,
        tx_queues,
        rx_descriptors: descriptors,
        tx_descriptors: descriptors,
        mtu: config.mtu,
        rss: rx_queues > 1,
        // net_tap would compute checksums in software, on the worker.
        rx_checksum: info.driver != "net_tap",
        hairpins: hairpins.clone(),
        ..QueueConfig::new(pool)
    };

    // The twin's address is the one that neighbours know: an existing twin keeps it, a new one takes the
    // port's. A device that can't change its own hears everything instead.
    let port_mac = port.mac().map_err(port_error)?;
    if twin.created() {
        twin.set_mac(port_mac).map_err(setting(name, "given the port's MAC address"))?;
    }
    if let Some(mtu) = config.mtu {
        twin.set_mtu(u32::from(mtu)).map_err(setting(name, "given its MTU"))?;
    }
    let mac = twin.mac().map_err(setting(name, "asked for its MAC address"))?;
    let (no_queues, no_hairpins) = match start(whole, config, &port, &queues) {
        Ok(no_queues) => (no_queues, None),
        Err(error) if !hairpins.rx.is_empty() => {
            // The port does as well without.
            let without = QueueConfig { hairpins: HairpinQueues::default(), ..queues };
            let no_queues = start(whole, config, &port, &without).map_err(port_error)?;
            (no_queues, Some(format!("hairpin queues can't be set up: {error}")))
        }
        Err(error) => return Err(port_error(error)),
    };
    if let Err(error) = port.keep_flows_on_queues() {
        tracing::warn!(port = name, %error, "packets of a flow may leave out of order: use one worker, or another device");
    }
    // The twin's multicast addresses are the kernel's affair: without theirs IPv6 finds no neighbour.
    if let Err(error) = port.set_allmulticast(true) {
        tracing::info!(port = name, %error, "the device has no switch for multicast");
    }
    if port_mac != mac {
        ports::hear(&port, mac, &config.device, &info.driver).map_err(port_error)?;
    }
    let (twin, way, twin_io) = twins::carry(twin, number, config, mac, pool)?;
    let gateway_port = GatewayPort {
        config: config.clone(),
        ifindex: twin.index().map_err(setting(name, "asked for its index"))?,
        bereft: false,
        mtu: twin.mtu().map_err(setting(name, "asked for its MTU"))?,
        admin_up: twin.is_up().map_err(setting(name, "asked for its state"))?,
        driver: info.driver,
        port: Some(port),
        going: false,
        twin,
        twin_io,
        oversize: whole.hardware.oversize.unwrap_or(info.oversize.max(TWO_TAGS)),
        queues: rx_queues,
        hairpins: Vec::new(),
        no_queues,
        no_hairpins,
        mac,
        carrier: None,
    };
    Ok((gateway_port, way))
}

/// Configures and starts a port; why it has no queues for flow rules, where its driver should have some.
fn start(
    whole: &Config,
    config: &PortConfig,
    port: &Port,
    queues: &QueueConfig<'_>,
) -> Result<Option<String>, PortError> {
    port.configure(queues)?;
    let no_queues = offload::set_up_queues(whole, config, port);
    port.start()?;
    Ok(no_queues)
}

/// Binds the hairpin queues of all pairs of ports that have them.
fn bind(ports: &mut [GatewayPort], between: &[HairpinPort]) {
    let id_of = |port: &GatewayPort| port.port.as_ref().map(Port::id);
    let able: HashMap<u16, usize> = ports
        .iter()
        .enumerate()
        .filter(|(_, port)| port.no_hairpins.is_none())
        .filter_map(|(index, port)| Some((id_of(port)?, index)))
        .collect();
    for (from, to) in between.iter().flat_map(|from| (0..between.len()).map(move |to| (from, to))) {
        let Some(hairpin) = hairpin::hairpin(from, between, to) else { continue };
        let (Some(from), Some(to)) = (able.get(&from.id), able.get(&hairpin.to)) else { continue };
        let [device, other] = [from, to].map(|index| ports.get(*index).and_then(|port| port.port.as_ref()));
        let Some((device, other)) = device.zip(other) else { continue };
        let outcome = device.bind_hairpin(other).map_err(|error| (other.name().to_owned(), error));
        let Some(port) = ports.get_mut(*from) else { continue };
        match outcome {
            Ok(()) => port.hairpins.push(hairpin),
            Err((to, error)) => {
                port.no_hairpins = Some(format!("hairpin queues to {to} can't be bound: {error}"));
            }
        }
    }
}
