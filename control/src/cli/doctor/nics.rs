//! What NICs need to be handed over to user space, and what they are.

use super::nic_ports;
use crate::cli::findings::{Finding, Severity};
use crate::cli::mend::Mend;
use crate::config::Config;
use crate::host::Host;
use crate::nics::{Holder, NO_IOMMU, Nic, VFIO, companions};

pub(super) fn findings(host: &Host<'_>, config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    // One that isn't there is the check's to tell.
    let nics = nic_ports(config).filter_map(|(name, address)| Some((name, Nic::at(host, address).ok()?)));
    let nics: Vec<(&str, Nic)> = nics.collect();
    // By vfio-pci now, or as soon as they are bound.
    let by_vfio = |nic: &Nic| {
        nic.driver.as_deref() == Some(VFIO) || matches!(nic.holder(), Holder::Kernel | Holder::Nobody)
    };
    if nics.iter().any(|(_, nic)| by_vfio(nic)) {
        found.extend(module(host));
    }
    for (name, nic) in &nics {
        if by_vfio(nic) {
            found.extend(iommu(host, name, nic));
            found.extend(group(host, name, nic));
        }
        found.extend(slot(host, name, nic));
        found.extend(firmware(host, name, nic));
    }
    found
}

fn module(host: &Host<'_>) -> Option<Finding> {
    if host.has(&format!("sys/bus/pci/drivers/{VFIO}")) {
        return None;
    }
    let what = format!("the kernel has no driver {VFIO}");
    let why = "NICs are handed to DPDK through it";
    let fix = format!("modprobe {VFIO}  (at each start: echo {VFIO} > /etc/modules-load.d/flyover.conf)");
    Some(Finding::new(Severity::Warning, "vfio", what, why, Some(&fix)).mended_by(vec![Mend::Load(VFIO)]))
}

fn iommu(host: &Host<'_>, name: &str, nic: &Nic) -> Option<Finding> {
    let without = host.read(NO_IOMMU).as_deref() == Some("Y");
    if nic.iommu_group.is_some() && !without {
        return None;
    }
    let intel = host.read("proc/cpuinfo").is_some_and(|text| text.contains("GenuineIntel"));
    let argument = if intel { "intel_iommu=on iommu=pt" } else { "iommu=pt" };
    let turn_on = format!(
        "turn on VT-d or AMD-Vi in the firmware; in /etc/default/grub: GRUB_CMDLINE_LINUX=\"... {argument}\"; \
         then update-grub && reboot"
    );
    // With the mode on, a device without an IOMMU gets a group of its own all the same.
    if without {
        if !host.names("sys/class/iommu").is_empty() {
            return None;
        }
        let what = format!("{name}: {} works without an IOMMU", nic.address);
        let why = "whatever goes wrong in the NIC or its driver may write anywhere in memory";
        return Some(Finding::new(Severity::Warning, "iommu", what, why, Some(&turn_on)));
    }
    let what = format!("{name}: {} has no IOMMU", nic.address);
    let why = "vfio-pci does not take a NIC that could write anywhere in memory";
    let fix = format!(
        "{turn_on}. In a virtual machine without one: modprobe vfio && echo Y > /{NO_IOMMU}  (trusts the NIC with all memory)"
    );
    Some(Finding::new(Severity::Error, "iommu", what, why, Some(&fix)))
}

fn group(host: &Host<'_>, name: &str, nic: &Nic) -> Option<Finding> {
    let others = companions(host, nic)?;
    let why = "vfio gives the devices of a group to user space together, or none of them";
    let fix = "flyover bind DEVICE  (each NIC of the group), or another slot";
    Some(Finding::new(Severity::Error, "vfio", format!("{name}: {others}"), why, Some(fix)))
}

/// How many lanes it has, of those that it could use.
fn slot(host: &Host<'_>, name: &str, nic: &Nic) -> Option<Finding> {
    let width = |which: &str| {
        let path = format!("sys/bus/pci/devices/{}/{which}_link_width", nic.address);
        host.number(&path).filter(|lanes| (1..=32).contains(lanes))
    };
    let (has, could) = (width("current")?, width("max")?);
    let what = format!("{name}: {} has {has} PCIe lanes, and could use {could}", nic.address);
    let why = "at full rate the bus is the bottleneck: the NIC drops what it can't deliver (missed)";
    let fix = "put it into a slot with all lanes  (lspci -vv -s ADDRESS shows LnkCap and LnkSta)"
        .replace("ADDRESS", &nic.address.to_string());
    (has < could).then(|| Finding::new(Severity::Warning, "nic", what, why, Some(&fix)))
}

/// Known only while a kernel driver has it.
fn firmware(host: &Host<'_>, name: &str, nic: &Nic) -> Option<Finding> {
    let printed = host.run(&["ethtool", "-i", nic.interfaces.first()?]).ok()?;
    let line = |key: &str| {
        let value = printed.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))?.trim();
        (!value.is_empty() && value != "N/A").then_some(value)
    };
    let driver = [line("driver")?, line("version").unwrap_or_default()].join(" ");
    let firmware = line("firmware-version").map(|text| format!(", firmware {text}")).unwrap_or_default();
    let model = nic.name.clone().unwrap_or_else(|| nic.id.clone());
    let what = format!("{name}: {} is a {model}, driver {}{firmware}", nic.address, driver.trim_end());
    let why = "faults of rules and counters in a NIC are often its firmware's: look for a newer one";
    Some(Finding::new(Severity::Note, "nic", what, why, None))
}
