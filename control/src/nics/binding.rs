//! Taking a NIC from its kernel driver, and giving it back.

use std::fmt;
use std::fs;
use std::io;

use super::management::{Management, Uses};
use super::{DEVICES, FORMER, HANDED_OVER, Holder, Nic, VFIO};
use crate::config::PciAddress;
use crate::host::Host;

/// Where drivers are.
const DRIVERS: &str = "sys/bus/pci/drivers";
/// Whether vfio hands NICs over that no IOMMU watches.
pub(crate) const NO_IOMMU: &str = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

/// Why a NIC was not bound, or not given back. Nothing has changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Neither an address nor an interface.
    #[error(
        "{text}: neither a PCI address (0000:3b:00.0) nor an interface of this network namespace; \
         `flyover bind --status` lists the NICs"
    )]
    Unknown {
        /// What was given.
        text: String,
    },
    /// An interface that is no NIC.
    #[error("{interface} is no NIC on the PCI bus: there is nothing to bind")]
    NoPci {
        /// The interface.
        interface: String,
    },
    /// No device there.
    #[error("there is no PCI device {address}; `flyover bind --status` lists the NICs")]
    NoDevice {
        /// The address.
        address: PciAddress,
    },
    /// Something else than a NIC.
    #[error("{address} is no network device; `flyover bind --status` lists the NICs")]
    NoNic {
        /// The address.
        address: PciAddress,
    },
    /// The machine is reached by it.
    #[error(
        "{nic} stays with its kernel driver: {interface} carries {why}. Without it this machine may not be reached any \
         more. If that is what you want, name the interface: --lose {interface}"
    )]
    Management {
        /// The NIC.
        nic: String,
        /// Its interface.
        interface: String,
        /// What it carries.
        why: String,
    },
    /// It can't be told by what the machine is reached.
    #[error(
        "{nic} stays with its kernel driver: by which interfaces this machine is reached could not be told ({why}). \
         If you know that it is not this NIC: --lose INTERFACE with the name of its interface, or its address"
    )]
    Unseen {
        /// The NIC.
        nic: String,
        /// What could not be read.
        why: String,
    },
    /// It is in use.
    #[error("{nic} stays with its kernel driver: {why}. --force takes it all the same")]
    InUse {
        /// The NIC.
        nic: String,
        /// What for.
        why: String,
    },
    /// Its interface is in another network namespace.
    #[error(
        "{nic} stays with its kernel driver: {driver} has it, but its interface is not in this network namespace, so \
         that nothing is known of its use. Run this where the interface is, or take it all the same with --force"
    )]
    Elsewhere {
        /// The NIC.
        nic: String,
        /// The driver.
        driver: String,
    },
    /// A process has it open.
    #[error("{nic} is in use by {}: the kernel would wait for that to end. Stop it first", by.join(", "))]
    Open {
        /// The NIC.
        nic: String,
        /// The processes.
        by: Vec<String>,
    },
    /// No such driver.
    #[error("the kernel has no driver {driver}{why}; try: modprobe {driver}")]
    NoDriver {
        /// The driver.
        driver: String,
        /// What modprobe said.
        why: String,
    },
    /// vfio would refuse it.
    #[error(
        "{nic} has no IOMMU, which vfio-pci needs. Turn it on in the firmware (VT-d, AMD-Vi) and boot with \
         intel_iommu=on on Intel; in a virtual machine without one, and only if you trust the NIC with all memory: \
         modprobe vfio && echo Y > /{NO_IOMMU}"
    )]
    NoIommu {
        /// The NIC.
        nic: String,
    },
    /// A file could not be written.
    #[error("can't write '{text}' to {path}: {source}{}", as_root(source))]
    Write {
        /// The file.
        path: String,
        /// What was to be written.
        text: String,
        /// Why not.
        source: io::Error,
    },
    /// The driver did not take it.
    #[error("{nic}: {wanted} did not take it, and it is bound to {is} now; `dmesg` tells more")]
    NotTaken {
        /// The NIC.
        nic: String,
        /// The driver that should have it.
        wanted: String,
        /// The one that has it.
        is: String,
    },
}

fn as_root(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; run as root" } else { "" }
}

/// What a NIC is taken for, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The driver that it should have.
    pub driver: &'a str,
    /// Also if it is in use.
    pub force: bool,
    /// Interfaces, or addresses of NICs, by which the machine may be reached and need not be any more.
    pub lose: &'a [String],
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self { driver: VFIO, force: false, lose: &[] }
    }
}

/// What is known of the machine's interfaces when NICs are to be taken.
pub struct Situation {
    management: Result<Management, String>,
    uses: Result<Uses, String>,
}

impl Situation {
    /// As it is.
    pub fn read(host: &Host<'_>) -> Self {
        Self { management: Management::read(host), uses: Uses::read(host) }
    }

    /// The interface of a NIC that the machine is reached by, and what it carries.
    pub fn management(&self, nic: &Nic) -> Option<(&str, &str)> {
        self.management.as_ref().ok()?.of(nic)
    }

    /// What it is used for, beside that.
    pub fn uses(&self, host: &Host<'_>, nic: &Nic) -> Option<String> {
        self.uses.as_ref().ok()?.of(host, nic)
    }
}

/// What became of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The NIC, as it was.
    pub nic: Nic,
    /// The driver that it has now.
    pub after: Option<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

impl Bound {
    fn unchanged(nic: Nic, note: &str) -> Self {
        Self { after: nic.driver.clone(), nic, notes: vec![note.to_owned()] }
    }

    /// Whether anything has changed.
    pub fn changed(&self) -> bool {
        self.nic.driver != self.after
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "no driver".to_owned());
        write!(f, "{}: ", self.nic)?;
        if self.changed() {
            write!(f, "{} -> {}", name(&self.nic.driver), name(&self.after))?;
        } else {
            write!(f, "{}", name(&self.after))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Whether a NIC may be taken.
///
/// # Errors
/// Why not.
pub fn plan(host: &Host<'_>, nic: &Nic, wish: &Wish<'_>, situation: &Situation) -> Result<(), BindError> {
    if nic.driver.as_deref() == Some(wish.driver) || nic.holder() == Holder::Shared {
        return Ok(());
    }
    let told = || nic.to_string();
    let given_up = |name: &str| wish.lose.iter().any(|lost| lost == name);
    let all_given_up = nic.interfaces.iter().any(|name| given_up(name)) || given_up(&nic.address.to_string());
    if nic.holder() == Holder::Kernel {
        match &situation.management {
            Err(why) if !all_given_up => return Err(BindError::Unseen { nic: told(), why: why.clone() }),
            _ => {}
        }
        if let Some((interface, why)) = situation.management(nic).filter(|(name, _)| !given_up(name)) {
            let (interface, why) = (interface.to_owned(), why.to_owned());
            return Err(BindError::Management { nic: told(), interface, why });
        }
        let forced = wish.force || all_given_up;
        if let Some(driver) = nic.driver.clone().filter(|_| nic.interfaces.is_empty() && !forced) {
            return Err(BindError::Elsewhere { nic: told(), driver });
        }
        if let Some(why) = situation.uses(host, nic).filter(|_| !forced) {
            return Err(BindError::InUse { nic: told(), why });
        }
    }
    if wish.driver == VFIO && nic.iommu_group.is_none() && host.read(NO_IOMMU).as_deref() != Some("Y") {
        return Err(BindError::NoIommu { nic: told() });
    }
    let by = nic.opened_by(host);
    if by.is_empty() { Ok(()) } else { Err(BindError::Open { nic: told(), by }) }
}

/// Takes a NIC from its kernel driver, after [`plan`], and remembers which that was.
///
/// # Errors
/// Why not. The NIC has its former driver again then, if the kernel gave it back.
pub fn bind(host: &Host<'_>, nic: Nic, wish: &Wish<'_>, situation: &Situation) -> Result<Bound, BindError> {
    plan(host, &nic, wish, situation)?;
    if nic.driver.as_deref() == Some(wish.driver) {
        return Ok(Bound::unchanged(nic, "nothing to do"));
    }
    if nic.holder() == Holder::Shared {
        return Ok(Bound::unchanged(nic, "stays: this driver shares the NIC with DPDK, use it as it is"));
    }
    load(host, wish.driver)?;
    if nic.holder() == Holder::Kernel {
        remember(host, &nic)?;
    }
    if let Err(error) = hand_over(host, &nic, Some(wish.driver)) {
        // Best effort: the first error is the one to tell.
        let _ = hand_over(host, &nic, None);
        return Err(match error {
            BindError::NotTaken { nic: told, wanted, .. } => {
                BindError::NotTaken { nic: told, wanted, is: driver_now(host, nic.address) }
            }
            other => other,
        });
    }
    let notes = companions(host, &nic).into_iter().collect();
    Ok(Bound { after: Some(wish.driver.to_owned()), nic, notes })
}

/// Gives a NIC back to the kernel driver that it was taken from, or to the one that wants it.
///
/// # Errors
/// Why not.
pub fn give_back(host: &Host<'_>, nic: Nic, driver: Option<&str>) -> Result<Bound, BindError> {
    match nic.holder() {
        Holder::Kernel => return Ok(Bound::unchanged(nic, "nothing to do: the kernel has it")),
        Holder::Shared => return Ok(Bound::unchanged(nic, "nothing to do: it stays with its kernel driver")),
        Holder::UserSpace | Holder::Nobody => {}
    }
    let by = nic.opened_by(host);
    if !by.is_empty() {
        return Err(BindError::Open { nic: nic.to_string(), by });
    }
    write(host, &format!("{DEVICES}/{}/driver_override", nic.address), "\n")?;
    if let Some(has) = &nic.driver {
        write(host, &format!("{DRIVERS}/{has}/unbind"), &nic.address.to_string())?;
    }
    let mut notes = Vec::new();
    let wanted = driver.map(str::to_owned).or_else(|| nic.former.clone());
    if let Some(wanted) = &wanted {
        // It may be gone, or the kernel may have been started with another: then any that wants the NIC will do.
        let _ = write(host, &format!("{DRIVERS}/{wanted}/bind"), &nic.address.to_string());
    }
    if host.link(&format!("{DEVICES}/{}/driver", nic.address)).is_none() {
        write(host, "sys/bus/pci/drivers_probe", &nic.address.to_string())?;
    }
    let after = host.link(&format!("{DEVICES}/{}/driver", nic.address));
    match (&wanted, &after) {
        (_, None) => {
            let wanted = wanted.unwrap_or_else(|| "a kernel driver".to_owned());
            let is = driver_now(host, nic.address);
            return Err(BindError::NotTaken { nic: nic.to_string(), wanted, is });
        }
        (Some(wanted), Some(has)) if wanted != has => notes.push(format!("{wanted} did not take it")),
        _ => {}
    }
    forget(host, &nic);
    let interfaces = Nic::at(host, nic.address).map(|nic| nic.interfaces).unwrap_or_default();
    if !interfaces.is_empty() {
        notes.push(format!("its interface is {}", interfaces.join(", ")));
    }
    Ok(Bound { nic, after, notes })
}

/// Sets whose the NIC is to be, and lets the bus find a driver for it.
fn hand_over(host: &Host<'_>, nic: &Nic, driver: Option<&str>) -> Result<(), BindError> {
    let address = nic.address.to_string();
    write(host, &format!("{DEVICES}/{address}/driver_override"), driver.unwrap_or("\n"))?;
    if let Some(has) = host.link(&format!("{DEVICES}/{address}/driver")) {
        write(host, &format!("{DRIVERS}/{has}/unbind"), &address)?;
    }
    write(host, "sys/bus/pci/drivers_probe", &address)?;
    let has = host.link(&format!("{DEVICES}/{address}/driver"));
    match driver {
        Some(wanted) if has.as_deref() != Some(wanted) => Err(BindError::NotTaken {
            nic: nic.to_string(),
            wanted: wanted.to_owned(),
            is: driver_now(host, nic.address),
        }),
        _ => Ok(()),
    }
}

fn driver_now(host: &Host<'_>, address: PciAddress) -> String {
    host.link(&format!("{DEVICES}/{address}/driver")).unwrap_or_else(|| "no driver".to_owned())
}

/// Loads a driver's module if need be.
fn load(host: &Host<'_>, driver: &str) -> Result<(), BindError> {
    let there = || host.has(&format!("{DRIVERS}/{driver}"));
    if there() {
        return Ok(());
    }
    let why = match host.run(&["modprobe", driver]) {
        Err(error) => format!(" ({error})"),
        Ok(_) if there() => return Ok(()),
        Ok(_) => String::new(),
    };
    Err(BindError::NoDriver { driver: driver.to_owned(), why })
}

/// What else is in the NIC's IOMMU group and is not handed over: vfio gives a group whole or not at all.
pub(crate) fn companions(host: &Host<'_>, nic: &Nic) -> Option<String> {
    let group = nic.iommu_group.as_ref()?;
    let others = host.names(&format!("sys/kernel/iommu_groups/{group}/devices"));
    let held = others.into_iter().filter_map(|other| {
        let driver = host.link(&format!("{DEVICES}/{other}/driver"))?;
        // Bridges of the bus may stay.
        let mine = other == nic.address.to_string() || HANDED_OVER.contains(&driver.as_str());
        (!mine && driver != "pcieport").then(|| format!("{other} ({driver})"))
    });
    let held: Vec<String> = held.collect();
    (!held.is_empty())
        .then(|| format!("its IOMMU group {group} also has {}, which must be bound too", held.join(", ")))
}

fn remember(host: &Host<'_>, nic: &Nic) -> Result<(), BindError> {
    let Some(driver) = &nic.driver else { return Ok(()) };
    let path = format!("{FORMER}/{}", nic.address);
    let written = fs::create_dir_all(host.path(FORMER)).and_then(|()| fs::write(host.path(&path), driver));
    written.map_err(|source| BindError::Write { path: format!("/{path}"), text: driver.clone(), source })
}

fn forget(host: &Host<'_>, nic: &Nic) {
    // What stays is written over the next time.
    let _ = fs::remove_file(host.path(&format!("{FORMER}/{}", nic.address)));
}

fn write(host: &Host<'_>, path: &str, text: &str) -> Result<(), BindError> {
    host.write(path, text).map_err(|source| BindError::Write {
        path: format!("/{path}"),
        text: text.trim().to_owned(),
        source,
    })
}
