//! `flyover doctor`: what of this machine, its kernel and its ruleset keeps a gateway from its best.
//!
//! What does not concern the configuration is no finding: without NICs there is nothing to say of IOMMUs.

mod cores;
mod kernel;
mod nics;

#[cfg(test)]
mod tests;

use super::check::{self, Running};
use super::findings::{Finding, Severity};
use crate::config::{Config, Device, PciAddress};
use crate::host::Host;

/// All findings, the worst first: those of `check`, and what is slow or will be a trap. The ruleset's are not among them.
pub(super) fn findings(host: Host<'_>, config: &Config, running: Option<&Running>) -> Vec<Finding> {
    let mut found = check::of_host(host, config, running);
    found.extend(nics::findings(&host, config));
    found.extend(cores::findings(&host, config));
    found.extend(kernel::findings(&host, config, running));
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Nobody has said what gateway this is to be.
pub(super) fn no_configuration(path: &str) -> Finding {
    Finding::new(
        Severity::Note,
        "config",
        format!("no gateway runs, and there is no {path}: only what every gateway needs was looked at"),
        "what else matters depends on its ports and cores",
        Some("flyover doctor -c FILE"),
    )
}

/// Ports that are NICs, with their names.
fn nic_ports(config: &Config) -> impl Iterator<Item = (&str, PciAddress)> {
    config.ports.iter().filter_map(|port| match port.device {
        Device::Pci { address, .. } => Some((port.name.as_str(), address)),
        Device::Vdev { .. } => None,
    })
}

/// Cores, or the like, as the kernel writes them: `1-3,6`.
fn list(numbers: &[u16]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(number) => *end = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |&(from, to): &(u16, u16)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// What such a list holds; a step (`0-6:2`) or what is no number is left out.
fn numbers(text: &str) -> Vec<u16> {
    let parts = text.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse().ok()?)
    });
    parts.flatten().collect()
}
