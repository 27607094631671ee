//! The workers' cores: their clock, their sleep, who else runs on them, and how far from the NIC they are.

use super::{list, nic_ports, numbers};
use crate::cli::findings::{Finding, Severity};
use crate::cli::mend::Mend;
use crate::config::Config;
use crate::host::Host;
use crate::nics::Nic;

const CPUS: &str = "sys/devices/system/cpu";
/// A core that takes longer to wake adds more than a worker's own sleep does.
const LONG_US: u64 = 100;

pub(super) fn findings(host: &Host<'_>, config: &Config) -> Vec<Finding> {
    let cores = &config.workers.cores;
    let mut found: Vec<Finding> = governor(host, cores).into_iter().collect();
    // A gateway without NICs is for trying out, or is not where time is lost.
    if nic_ports(config).next().is_some() {
        found.extend(isolation(host, cores));
        found.extend(ticks(host, cores));
        found.extend(numa(host, config));
        if !config.workers.idle_sleep.is_zero() {
            found.extend(sleep(host, cores));
        }
    }
    found
}

fn governor(host: &Host<'_>, cores: &[u16]) -> Option<Finding> {
    let path = |core: u16| format!("{CPUS}/cpu{core}/cpufreq/scaling_governor");
    let governors = cores.iter().filter_map(|core| Some((*core, host.read(&path(*core))?)));
    let slow: Vec<(u16, String)> = governors.filter(|(_, governor)| governor != "performance").collect();
    let (first, governor) = slow.first()?;
    let choices = host.read(&format!("{CPUS}/cpu{first}/cpufreq/scaling_available_governors"));
    // Without the choice there is nothing to mend.
    choices.filter(|choices| choices.split_whitespace().any(|choice| choice == "performance"))?;
    let cores: Vec<u16> = slow.iter().map(|(core, _)| *core).collect();
    let mends = cores.iter().map(|core| Mend::Set {
        setting: format!("governor of core {core}"),
        path: path(*core),
        value: "performance".to_owned(),
    });
    let what = format!("the frequency governor of the workers' cores {} is {governor}", list(&cores));
    let why = "the clock falls while a worker finds nothing to do, and the next burst begins on a slow core";
    let fix = format!("cpupower -c {} frequency-set -g performance", list(&cores));
    let mends = mends.collect();
    Some(Finding::new(Severity::Warning, "governor", what, why, Some(&fix)).mended_by(mends))
}

/// The deepest sleep that is allowed.
fn sleep(host: &Host<'_>, cores: &[u16]) -> Option<Finding> {
    let deepest = |core: &u16| {
        let path = format!("{CPUS}/cpu{core}/cpuidle");
        let states = host.names(&path).into_iter().filter_map(|state| {
            let number = |file: &str| host.number(&format!("{path}/{state}/{file}"));
            let name = host.read(&format!("{path}/{state}/name"))?;
            (number("disable") != Some(1)).then_some((number("latency")?, name))
        });
        states.max().filter(|(latency, _)| *latency > LONG_US)
    };
    let deep: Vec<(u16, (u64, String))> =
        cores.iter().filter_map(|core| Some((*core, deepest(core)?))).collect();
    let (_, (latency, name)) = deep.first()?;
    let cores: Vec<u16> = deep.iter().map(|(core, _)| *core).collect();
    let what = format!(
        "the workers' cores {} may sleep as deep as {name}, from which they wake in {latency} us",
        list(&cores)
    );
    let why = "the first packet after a pause waits for that too; deep sleep saves power";
    let fix = format!("cpupower -c {} idle-set -D {LONG_US}", list(&cores));
    Some(Finding::new(Severity::Note, "cstates", what, why, Some(&fix)))
}

/// Cores that a file or an argument of the kernel's command line does not name.
fn missing(cores: &[u16], named: &[u16]) -> Vec<u16> {
    cores.iter().copied().filter(|core| !named.contains(core)).collect()
}

fn argument(host: &Host<'_>, key: &str) -> Option<String> {
    let line = host.read("proc/cmdline")?;
    line.split_whitespace().find_map(|word| Some(word.strip_prefix(key)?.strip_prefix('=')?.to_owned()))
}

fn command_line(arguments: &str) -> String {
    format!("in /etc/default/grub: GRUB_CMDLINE_LINUX=\"... {arguments}\"; then update-grub && reboot")
}

fn isolation(host: &Host<'_>, cores: &[u16]) -> Option<Finding> {
    let mut isolated = numbers(&host.read(&format!("{CPUS}/isolated"))?);
    // By a partition of cpusets, which needs no restart.
    isolated.extend(numbers(&host.read("sys/fs/cgroup/cpuset.cpus.isolated").unwrap_or_default()));
    let missing = missing(cores, &isolated);
    if missing.is_empty() {
        return None;
    }
    let what = format!("the scheduler puts other tasks on the workers' cores {}", list(&missing));
    let why = "a worker that shares its core loses packets while it waits for its turn";
    let fix = command_line(&format!("isolcpus=managed_irq,domain,{}", list(cores)));
    Some(Finding::new(Severity::Warning, "isolation", what, why, Some(&fix)))
}

/// The timer's tick and RCU's callbacks.
fn ticks(host: &Host<'_>, cores: &[u16]) -> Option<Finding> {
    // A kernel without the file can't do without ticks.
    let without = numbers(&host.read(&format!("{CPUS}/nohz_full"))?);
    let mut elsewhere = numbers(&argument(host, "rcu_nocbs").unwrap_or_default());
    // It does that too.
    elsewhere.extend(&without);
    let (ticking, called) = (missing(cores, &without), missing(cores, &elsewhere));
    let what = match (ticking.as_slice(), called.as_slice()) {
        ([], []) => return None,
        ([], called) => format!("RCU's callbacks run on the workers' cores {}", list(called)),
        (ticking, []) => format!("the timer ticks on the workers' cores {}", list(ticking)),
        (ticking, _) => {
            format!("the timer ticks, and RCU's callbacks run, on the workers' cores {}", list(ticking))
        }
    };
    let why = "each interrupts a worker for some microseconds, hundreds of times a second";
    let fix = command_line(&format!("nohz_full={0} rcu_nocbs={0}", list(cores)));
    Some(Finding::new(Severity::Note, "nohz", what, why, Some(&fix)))
}

fn numa(host: &Host<'_>, config: &Config) -> Vec<Finding> {
    let node_of = |core: &u16| {
        let parts = host.names(&format!("{CPUS}/cpu{core}"));
        parts.iter().find_map(|part| part.strip_prefix("node")?.parse::<u32>().ok())
    };
    let far = |(name, address)| {
        let node = Nic::at(host, address).ok()?.numa_node?;
        let cores = config.workers.cores.iter();
        let away: Vec<u16> =
            cores.filter(|core| node_of(core).is_some_and(|other| other != node)).copied().collect();
        if away.is_empty() {
            return None;
        }
        let near =
            numbers(&host.read(&format!("sys/devices/system/node/node{node}/cpulist")).unwrap_or_default());
        // The first is left to the kernel.
        let near: Vec<u16> = near.into_iter().filter(|core| *core != 0).collect();
        let what = format!(
            "{name}: {address} is on NUMA node {node}, and the workers' cores {} are not",
            list(&away)
        );
        let why = "each of its packets goes through the link between the nodes, twice";
        let cores: Vec<String> = near.iter().map(u16::to_string).collect();
        let fix = format!("[workers] cores = [{}], or some of them", cores.join(", "));
        Some(Finding::new(Severity::Warning, "numa", what, why, Some(&fix)))
    };
    nic_ports(config).filter_map(far).collect()
}
