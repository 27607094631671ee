//! What ports can do, found out before workers begin.

use std::sync::Arc;

use dataplane::dpdk::Port;
use dataplane::dpdk::flow_rule::{FlowEngine, FlowQueues, FlowRules};
use dataplane::dpdk::hairpin::{self, Hairpin, HairpinPort};
use dataplane::hardware::Tier;
use dataplane::hardware::model::{Knobs, Nic, NicHook};
use dataplane::hardware::probe::{Capabilities, Unreachable};
use dataplane::hardware::scheduler::Policy;
use dataplane::worker::{Hot, WorkerPort};

use super::PortRules;
use super::port::Site;
use crate::config::{Config, HardwareConfig, Offload, PortConfig, Tier as ModelTier};
use crate::gateway::error::GatewayError;
use crate::gateway::ports::GatewayPort;

/// What was found.
#[derive(Debug)]
pub(in crate::gateway) struct Hardware {
    pub(super) ports: Vec<PortRules>,
    /// Whom workers tell.
    pub(in crate::gateway) hot: Hot,
    pub(super) model: Option<Arc<Nic>>,
}

/// Operations that may wait in a queue for rules.
const DEPTH: u32 = 512;

/// Queues for rules: one for those of flows, one for calls that wait.
const fn wanted(config: &Config) -> FlowQueues {
    FlowQueues { queues: 2, depth: DEPTH, rules: config.flows.capacity }
}

/// Sets up queues for rules where the driver has them, which is between a port's configuration and its start. What is
/// told if that fails.
pub(in crate::gateway) fn set_up_queues(config: &Config, port: &PortConfig, device: &Port) -> Option<String> {
    if config.hardware.offload != Offload::Auto || port.device.is_vdev() {
        return None;
    }
    let mut rules = FlowRules::of(device);
    set_up(config, &mut rules)
}

fn set_up(config: &Config, rules: &mut FlowRules) -> Option<String> {
    // Most have none, and nobody misses them.
    let limits = rules.queue_limits().ok()?;
    let queues = wanted(config).within(&limits)?;
    let error = rules.configure(&queues).err()?;
    Some(format!("rules are made one by one: queues for them can't be set up: {error}"))
}

/// Probes the ports, and puts the model behind their queues if that is asked for. `queues` is by worker.
pub(in crate::gateway) fn prepare(
    config: &Config,
    ports: &[GatewayPort],
    queues: &mut [Vec<WorkerPort>],
) -> Result<Hardware, GatewayError> {
    let hardware = &config.hardware;
    let ids: Vec<u16> = ports.iter().filter_map(|port| port.port.as_ref().map(|port| port.id())).collect();
    let model = match hardware.offload {
        Offload::Model => Some(put_in_model(hardware, ports, &ids, queues)?),
        Offload::Auto | Offload::Off => None,
    };
    let (model, model_hairpins) = model.unzip();
    let mut found = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let egress = ids.get((index + 1) % ids.len()).copied();
        let hairpins = model_hairpins.as_ref().and_then(|by_port| by_port.get(index)).cloned();
        let model = model.as_ref().map(|nic| (nic, hairpins.unwrap_or_default()));
        found.extend(probe(config, port, egress, model));
    }
    for worker in queues.iter_mut() {
        for (port, rules) in worker.iter_mut().zip(&found) {
            port.marks = rules.marks();
        }
    }
    let hot = hot(hardware, &found);
    Ok(Hardware { ports: found, hot, model })
}

/// Probes a port that is added while others, of these numbers, are there.
pub(in crate::gateway) fn prepare_one(
    config: &Config,
    port: &GatewayPort,
    others: &[u16],
) -> Option<PortRules> {
    probe(config, port, others.first().copied(), None)
}

/// Whom workers are to tell of hot directions, where ports have a use for that.
pub(super) fn hot(hardware: &HardwareConfig, ports: &[PortRules]) -> Hot {
    let used = ports.iter().any(|port| port.carries() || port.marks());
    if used { Hot::every(notice(hardware)) } else { Hot::default() }
}

/// Finds out what a port can do; canaries leave by the port of the number `egress`. The model comes with the port's hairpin
/// queues in it.
fn probe(
    config: &Config,
    port: &GatewayPort,
    egress: Option<u16>,
    model: Option<(&Arc<Nic>, Vec<Hairpin>)>,
) -> Option<PortRules> {
    let hardware = &config.hardware;
    let device = port.port.as_ref()?;
    let (model, model_hairpins) = model.unzip();
    let (rules, no_queues, hairpins) = match model {
        Some(nic) => {
            let mut rules = FlowRules::of_engine(Arc::clone(nic) as Arc<dyn FlowEngine>, device.id());
            let fault = set_up(config, &mut rules);
            (rules, fault, model_hairpins.unwrap_or_default())
        }
        None => (FlowRules::of(device), port.no_queues.clone(), port.hairpins.clone()),
    };
    let site = Site {
        mac: port.mac,
        egress: egress.unwrap_or(device.id()),
        queues: (0..port.queues).collect(),
        hairpins,
    };
    let nothing = |why: &str| Capabilities::nothing(vec![why.to_owned()]);
    let mut capabilities = if hardware.offload == Offload::Off {
        nothing("hardware.offload is \"off\"")
    } else if model.is_none() && port.config.device.is_vdev() {
        nothing("a vdev has no hardware")
    } else {
        // What a gateway that was killed may have left.
        let _ = rules.flush();
        let probe = site.probe(device.id(), &rules);
        match model {
            Some(nic) => probe.run(&mut &**nic),
            None => delivered(probe.run(&mut Unreachable), device.marks_refused()),
        }
    };
    capabilities.findings.extend(no_queues.into_iter().chain(port.no_hairpins.clone()));
    tracing::info!(
        port = port.config.name,
        tier = capabilities.tier.name(),
        why = capabilities.why(),
        "hardware"
    );
    Some(PortRules::new(device.id(), rules, capabilities, policy(hardware)).at(site))
}

/// Marks that do not reach software are none.
fn delivered(found: Capabilities, refused: Option<String>) -> Capabilities {
    match refused {
        Some(why) if found.marks.is_some() => Capabilities::nothing(vec![format!("marks: {why}")]),
        _ => found,
    }
}

pub(super) fn policy(hardware: &HardwareConfig) -> Policy {
    let hot = u64::from(hardware.hot);
    Policy { hot, cold: (hot / 10).max(1), ..Policy::default() }
}

/// Packets after which workers tell of a direction: so few that a hot one is told of twice a second.
const fn notice(hardware: &HardwareConfig) -> u64 {
    let half = hardware.hot as u64 / 2;
    // The power of two below, which is what counts.
    if half == 0 { 1 } else { 1 << half.ilog2() }
}

const fn tier(tier: ModelTier) -> Tier {
    match tier {
        ModelTier::Full => Tier::Full,
        ModelTier::Assist => Tier::Assist,
        ModelTier::None => Tier::None,
    }
}

fn put_in_model(
    hardware: &HardwareConfig,
    ports: &[GatewayPort],
    ids: &[u16],
    queues: &mut [Vec<WorkerPort>],
) -> Result<(Arc<Nic>, Vec<Vec<Hairpin>>), GatewayError> {
    let most = ports.iter().map(|port| port.queues).max().unwrap_or(1);
    let knobs = Knobs {
        tier: tier(hardware.model.tier),
        capacity: hardware.model.capacity as usize,
        has_queues: hardware.model.queues,
        groups: if hardware.model.groups { Knobs::default().groups } else { 1 },
        hairpin: hardware.model.hairpin,
        lengths: hardware.model.lengths,
        ..Knobs::default()
    };
    let nic = Nic::new(ids, most, knobs);
    let between: Vec<HairpinPort> =
        ids.iter().map(|id| HairpinPort { id: *id, rx_queues: most, tx_queues: most }).collect();
    // Without them it has other ways to another port.
    let hairpins = hairpin::set_up(&*nic, &between).unwrap_or_default();
    for worker in queues {
        for at in 0..worker.len() {
            let shared = worker.iter_mut().map(|port| port.tx.share()).collect();
            let Some(rx) = worker.get_mut(at).and_then(|port| port.rx.as_mut()) else { continue };
            let hook = Box::new(NicHook::new(Arc::clone(&nic), rx.port(), shared));
            rx.set_hook(hook)
                .map_err(|source| GatewayError::Loop { what: "model NIC", source: source.into() })?;
        }
    }
    Ok((nic, hairpins))
}
