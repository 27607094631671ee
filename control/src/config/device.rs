//! The names of DPDK devices: PCI addresses and vdevs, with their arguments.

use std::fmt;

use super::error::nearest;

/// Drivers whose vdevs can be ports; a vdev's name begins with its driver's.
pub const VDEV_DRIVERS: &[&str] = &[
    "net_tap",
    "net_null",
    "net_ring",
    "net_pcap",
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_vhost",
    "net_virtio_user",
    "virtio_user",
];

/// A DPDK device and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A NIC.
    Pci {
        /// Its address.
        address: PciAddress,
        /// The driver's arguments, without the leading comma.
        args: String,
    },
    /// A virtual device.
    Vdev {
        /// One of [`VDEV_DRIVERS`].
        driver: &'static str,
        /// The whole name, such as `net_tap0`.
        name: String,
        /// The driver's arguments, without the leading comma.
        args: String,
    },
}

/// Where a device is on the PCI bus; displayed as `DDDD:BB:DD.F`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    /// Domain.
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl Device {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
            return Err("a device has no blanks or control characters in it".to_owned());
        }
        let (name, args) = text.split_once(',').unwrap_or((text, ""));
        if let Some(address) = PciAddress::parse(name) {
            return Ok(Self::Pci { address, args: args.to_owned() });
        }
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        match VDEV_DRIVERS.iter().find(|driver| name.starts_with(**driver)).filter(|_| plain) {
            Some(driver) => Ok(Self::Vdev { driver, name: name.to_owned(), args: args.to_owned() }),
            None => Err(unknown(name)),
        }
    }

    /// The name without arguments: what no two ports may share.
    pub fn name(&self) -> String {
        match self {
            Self::Pci { address, .. } => address.to_string(),
            Self::Vdev { name, .. } => name.clone(),
        }
    }

    /// The driver's arguments, without the leading comma.
    pub fn args(&self) -> &str {
        match self {
            Self::Pci { args, .. } | Self::Vdev { args, .. } => args,
        }
    }

    /// Whether this is a vdev.
    pub const fn is_vdev(&self) -> bool {
        matches!(self, Self::Vdev { .. })
    }

    /// The value of one argument of a vdev.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args().split(',').filter_map(|arg| arg.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

/// As EAL takes it: name, then the arguments after a comma.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        if self.args().is_empty() { Ok(()) } else { write!(f, ",{}", self.args()) }
    }
}

fn unknown(name: &str) -> String {
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let near = nearest(base, VDEV_DRIVERS.iter().copied())
        .map_or(String::new(), |near| format!("did you mean \"{near}0\"? "));
    format!(
        "{near}A device is a PCI address (0000:3b:00.0) or a vdev whose name begins with {}",
        VDEV_DRIVERS.join(", ")
    )
}

impl PciAddress {
    /// Reads `DDDD:BB:DD.F` or `BB:DD.F`, hexadecimal.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, function) = text.split_once('.')?;
        let mut parts = rest.rsplit(':');
        let (device, bus) = (hex(parts.next()?, 2)?, hex(parts.next()?, 2)?);
        let domain = parts.next().map_or(Some(0), |text| hex(text, 4))?;
        let function = hex(function, 1)?;
        if parts.next().is_some() || device > 0x1f || function > 7 {
            return None;
        }
        let byte = |value| u8::try_from(value).ok();
        Some(Self { domain, bus: byte(bus)?, device: byte(device)?, function: byte(function)? })
    }
}

fn hex(text: &str, most: usize) -> Option<u16> {
    let digits = !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_hexdigit());
    u16::from_str_radix(text, 16).ok().filter(|_| digits)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_displayed_as_eal_takes_them() {
        for (written, shown) in [
            ("3B:00.1", "0000:3b:00.1"),
            ("0000:3b:1f.7,rx_vec_en=1", "0000:3b:1f.7,rx_vec_en=1"),
            ("net_tap0,iface=uplink,mac=fixed", "net_tap0,iface=uplink,mac=fixed"),
            ("virtio_user3,path=/dev/vhost-net,queues=1", "virtio_user3,path=/dev/vhost-net,queues=1"),
        ] {
            assert_eq!(Device::parse(written).map(|device| device.to_string()).as_deref(), Ok(shown));
        }
        let tap = Device::parse("net_tap_wan,iface=uplink").expect("a tap");
        assert_eq!(
            (tap.name().as_str(), tap.arg("iface"), tap.is_vdev()),
            ("net_tap_wan", Some("uplink"), true)
        );
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let bad = ["", ",", "eth0", "net_foo0", "3b:00", "3b:20.0", "3b:00.8", "1:0000:3b:00.0", "net_tap 0"];
        for bad in bad.into_iter().chain(["net_tap0/x", "00003:b:00.0", "+b:00.0", "net_tap0,a=\n"]) {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
        let message = Device::parse("net_tpa0").expect_err("unknown");
        assert!(message.starts_with("did you mean \"net_tap0\"?"), "{message}");
    }
}
