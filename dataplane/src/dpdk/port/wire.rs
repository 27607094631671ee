//! The MAC address of a net_tap port's wire side.

use std::io;

use super::{Inner, PortError};
use crate::dpdk::netdev::Netdev;

/// The MAC address that the wire side of a net_tap port gets: locally administered, and always the same for the port's.
pub fn wire_mac_of(port: [u8; 6]) -> [u8; 6] {
    let [first, second, rest @ ..] = port;
    let [a, b, c, d] = rest;
    [(first | 0x02) & 0xfe, second ^ 0x80, a, b, c, d]
}

/// net_tap gives its device in the kernel the port's own address, and IPv6 on a twin with that address would find a
/// duplicate on the wire. Each start sets the port's address again, so this follows each.
pub(super) fn set_wire_mac(port: &Inner) -> Result<(), PortError> {
    if port.driver != "net_tap" {
        return Ok(());
    }
    let wire_mac = wire_mac_of(port.mac()?);
    let index = port.info()?.if_index;
    port.within(|| readdress(index, wire_mac))?
        .map_err(|source| PortError::WireMac { device: port.name.clone(), source })
}

fn readdress(index: u32, mac: [u8; 6]) -> io::Result<()> {
    let device = Netdev::by_index(index)?;
    if device.mac()? == mac {
        return Ok(());
    }
    // A device that is up keeps the link-local address that it made of its old MAC address.
    let up = device.is_up()?;
    if up {
        device.set_up(false)?;
    }
    device.set_mac(mac)?;
    if up {
        device.set_up(true)?;
    }
    Ok(())
}
