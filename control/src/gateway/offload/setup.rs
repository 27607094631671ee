//! What ports can do, found out before workers begin.

use std::sync::Arc;

use dataplane::dpdk::flow_rule::{FlowEngine, FlowRules};
use dataplane::hardware::Tier;
use dataplane::hardware::model::{Knobs, Nic, NicHook};
use dataplane::hardware::probe::{Capabilities, Probe, Unreachable};
use dataplane::hardware::scheduler::Policy;
use dataplane::worker::{Hot, WorkerPort};

use super::PortRules;
use crate::config::{Config, HardwareConfig, Offload, Tier as ModelTier};
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
    let mut found = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let Some(device) = &port.port else { continue };
        let engine = model.clone().map(|nic| nic as Arc<dyn FlowEngine>);
        let rules = match engine {
            Some(engine) => FlowRules::of_engine(engine, device.id()),
            None => FlowRules::of(device),
        };
        let nothing = |why: &str| Capabilities::nothing(vec![why.to_owned()]);
        let capabilities = if hardware.offload == Offload::Off {
            nothing("hardware.offload is \"off\"")
        } else if model.is_none() && port.config.device.is_vdev() {
            nothing("a vdev has no hardware")
        } else {
            // What a gateway that was killed may have left.
            let _ = rules.flush();
            let probe = Probe {
                rules: &rules,
                port: device.id(),
                mac: port.mac,
                egress: ids.get((index + 1) % ids.len()).copied().unwrap_or(device.id()),
                queues: (0..port.queues).collect(),
            };
            match &model {
                Some(nic) => probe.run(&mut &**nic),
                None => probe.run(&mut Unreachable),
            }
        };
        tracing::info!(
            port = port.config.name,
            tier = capabilities.tier.name(),
            why = capabilities.why(),
            "hardware"
        );
        found.push(PortRules::new(device.id(), rules, capabilities, policy(hardware)));
    }
    let hot =
        if found.iter().any(PortRules::carries) { Hot::every(notice(hardware)) } else { Hot::default() };
    Ok(Hardware { ports: found, hot, model })
}

fn policy(hardware: &HardwareConfig) -> Policy {
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
) -> Result<Arc<Nic>, GatewayError> {
    let most = ports.iter().map(|port| port.queues).max().unwrap_or(1);
    let knobs = Knobs {
        tier: tier(hardware.model.tier),
        capacity: hardware.model.capacity as usize,
        groups: if hardware.model.groups { Knobs::default().groups } else { 1 },
        ..Knobs::default()
    };
    let nic = Nic::new(ids, most, knobs);
    for worker in queues {
        for at in 0..worker.len() {
            let shared = worker.iter_mut().map(|port| port.tx.share()).collect();
            let Some(rx) = worker.get_mut(at).and_then(|port| port.rx.as_mut()) else { continue };
            let hook = Box::new(NicHook::new(Arc::clone(&nic), rx.port(), shared));
            rx.set_hook(hook)
                .map_err(|source| GatewayError::Loop { what: "model NIC", source: source.into() })?;
        }
    }
    Ok(nic)
}
