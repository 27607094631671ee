//! Whether a port's NIC is where DPDK can drive it, or can be taken there.

use super::{Finding, Severity};
use crate::config::{Bind, Device, PortConfig};
use crate::host::Host;
use crate::nics::{self, BindError, Holder, Nic, Situation, Wish};

pub(super) fn finding(host: &Host<'_>, port: &PortConfig) -> Option<Finding> {
    let Device::Pci { address, .. } = port.device else { return None };
    let name = &port.name;
    let error = |what: String, why: &str, fix: Option<&str>| {
        Some(super::finding(Severity::Error, "device", what, why, fix))
    };
    let nic = match Nic::at(host, address) {
        Ok(nic) => nic,
        Err(BindError::NoDevice { .. }) => {
            let what = format!("{name}: there is no PCI device {address}");
            return error(what, "the port is this NIC", Some("flyover bind --status  (lists the NICs)"));
        }
        Err(fault) => return error(format!("{name}: {fault}"), "the port is this NIC", None),
    };
    let bound = match (nic.holder(), &nic.driver) {
        (Holder::UserSpace | Holder::Shared, _) => return None,
        (_, Some(driver)) => format!("the kernel driver {driver}"),
        (_, None) => "no driver".to_owned(),
    };
    if port.bind != Bind::Manual {
        let fault = nics::plan(host, &nic, &Wish::default(), &Situation::read(host)).err()?;
        let what = format!("{name}: bind = \"{}\", but {fault}", port.bind.name());
        return error(what, "the gateway can't take the NIC when it starts", None);
    }
    error(
        format!("{name}: {address} is bound to {bound}"),
        "DPDK can only drive it through vfio-pci (or mlx5_core)",
        Some(&format!(
            "flyover bind {address}  (the kernel loses the NIC; or bind = \"auto\" for this port)"
        )),
    )
}
