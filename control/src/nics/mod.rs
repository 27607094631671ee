//! The machine's NICs: who drives them, which of them may be taken from the kernel, and taking and giving them back.
//!
//! All of it goes through sysfs, by what each device's `driver_override` says, as dpdk-devbind.py does.

mod binding;
mod keep;
mod management;
mod pci_ids;

#[cfg(test)]
mod tests;

use std::fmt;

pub use binding::{BindError, Bound, Situation, Wish, bind, give_back, plan};
pub(crate) use binding::{NO_IOMMU, companions};
pub use keep::Kept;
pub use management::{Management, Uses};

use crate::config::PciAddress;
use crate::host::Host;

/// The driver that NICs are bound to unless said otherwise.
pub const VFIO: &str = "vfio-pci";
/// Kernel drivers that hand a NIC over to user space whole.
pub const HANDED_OVER: [&str; 3] = [VFIO, "uio_pci_generic", "igb_uio"];
/// Kernel drivers that share the NIC with DPDK: it stays with them.
pub const SHARING: [&str; 2] = ["mlx5_core", "mlx4_core"];

/// Where PCI devices are.
const DEVICES: &str = "sys/bus/pci/devices";
/// Where the kernel driver of each NIC that was taken is remembered, until the machine is started anew.
const FORMER: &str = "run/flyover/nics";

/// A NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor and device, as `lspci -n` writes them: `8086:10c9`.
    pub id: String,
    /// Their names, where the machine has a list of them.
    pub name: Option<String>,
    /// The kernel driver that it is bound to.
    pub driver: Option<String>,
    /// Its interfaces, as far as this network namespace has them.
    pub interfaces: Vec<String>,
    /// Its NUMA node.
    pub numa_node: Option<u32>,
    /// Its IOMMU group.
    pub iommu_group: Option<String>,
    /// The kernel driver that it was taken from.
    pub former: Option<String>,
}

/// Who has a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The kernel.
    Kernel,
    /// Whoever opens it, such as Flyover.
    UserSpace,
    /// Both: it stays with its kernel driver.
    Shared,
    /// Nobody.
    Nobody,
}

impl Holder {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::UserSpace => "dpdk",
            Self::Shared => "shared",
            Self::Nobody => "none",
        }
    }

    /// By the name of the driver.
    pub fn of(driver: Option<&str>) -> Self {
        match driver {
            None => Self::Nobody,
            Some(driver) if HANDED_OVER.contains(&driver) => Self::UserSpace,
            Some(driver) if SHARING.contains(&driver) => Self::Shared,
            Some(_) => Self::Kernel,
        }
    }
}

impl Nic {
    /// All NICs of a machine, by address.
    pub fn all(host: &Host<'_>) -> Vec<Self> {
        let names = pci_ids::Names::of(host);
        let addresses = host.names(DEVICES).into_iter().filter_map(|name| PciAddress::parse(&name));
        addresses.filter_map(|address| Self::look(host, address, &names)).collect()
    }

    /// The NIC at an address.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(host: &Host<'_>, address: PciAddress) -> Result<Self, BindError> {
        if !host.has(&format!("{DEVICES}/{address}")) {
            return Err(BindError::NoDevice { address });
        }
        Self::look(host, address, &pci_ids::Names::of(host)).ok_or(BindError::NoNic { address })
    }

    /// The NIC that a user means: by PCI address, or by the name of its interface.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(host: &Host<'_>, text: &str) -> Result<Self, BindError> {
        if let Some(address) = PciAddress::parse(text) {
            return Self::at(host, address);
        }
        let path = format!("sys/class/net/{text}");
        if text.contains('/') || !host.has(&path) {
            return Err(BindError::Unknown { text: text.to_owned() });
        }
        // A virtio NIC's interface belongs to a device on the virtio bus, which belongs to the one on the PCI bus.
        let device = std::fs::canonicalize(host.path(&format!("{path}/device"))).unwrap_or_default();
        let parts = device.iter().rev().filter_map(|part| PciAddress::parse(part.to_str()?));
        let address = parts.into_iter().next().ok_or(BindError::NoPci { interface: text.to_owned() })?;
        Self::at(host, address)
    }

    fn look(host: &Host<'_>, address: PciAddress, names: &pci_ids::Names) -> Option<Self> {
        let path = format!("{DEVICES}/{address}");
        // Network controllers: Ethernet, and what else carries packets.
        host.read(&format!("{path}/class")).filter(|class| class.starts_with("0x02"))?;
        let hex = |name: &str| -> Option<String> {
            Some(host.read(&format!("{path}/{name}"))?.trim_start_matches("0x").to_owned())
        };
        let (vendor, device) = (hex("vendor")?, hex("device")?);
        let node = host.read(&format!("{path}/numa_node")).and_then(|text| text.parse().ok());
        Some(Self {
            address,
            name: names.of_device(&vendor, &device),
            id: format!("{vendor}:{device}"),
            driver: host.link(&format!("{path}/driver")),
            interfaces: interfaces(host, &path),
            numa_node: node,
            iommu_group: host.link(&format!("{path}/iommu_group")),
            former: former(host, address),
        })
    }

    /// Who has it.
    pub fn holder(&self) -> Holder {
        Holder::of(self.driver.as_deref())
    }

    /// Processes that have it open, as `flyover (1234)`; another user's are not seen without privileges.
    pub fn opened_by(&self, host: &Host<'_>) -> Vec<String> {
        let mut files = Vec::new();
        if let Some(group) = &self.iommu_group {
            files.extend([format!("/dev/vfio/{group}"), format!("/dev/vfio/noiommu-{group}")]);
        }
        let uio = host.names(&format!("{DEVICES}/{}/uio", self.address));
        files.extend(uio.iter().map(|uio| format!("/dev/{uio}")));
        if files.is_empty() {
            return Vec::new();
        }
        let processes = host.names("proc").into_iter().filter(|name| name.parse::<u32>().is_ok());
        let opened = |process: &String| {
            host.names(&format!("proc/{process}/fd")).iter().any(|fd| {
                let target = std::fs::read_link(host.path(&format!("proc/{process}/fd/{fd}")));
                target.is_ok_and(|target| files.iter().any(|file| target.as_os_str() == file.as_str()))
            })
        };
        let told = |process: String| {
            let name = host.read(&format!("proc/{process}/comm")).unwrap_or_default();
            format!("{name} ({process})")
        };
        processes.filter(opened).map(told).collect()
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.interfaces.is_empty() { Ok(()) } else { write!(f, " ({})", self.interfaces.join(", ")) }
    }
}

/// Of the device itself, or of the virtio device that belongs to it.
fn interfaces(host: &Host<'_>, path: &str) -> Vec<String> {
    let mut found = host.names(&format!("{path}/net"));
    for part in host.names(path).iter().filter(|part| part.starts_with("virtio")) {
        found.extend(host.names(&format!("{path}/{part}/net")));
    }
    found
}

/// The kernel driver that a NIC was taken from.
fn former(host: &Host<'_>, address: PciAddress) -> Option<String> {
    host.read(&format!("{FORMER}/{address}")).filter(|driver| !driver.is_empty() && !driver.contains('/'))
}
