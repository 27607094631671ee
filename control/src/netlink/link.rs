//! Settings of an interface.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::NetlinkError;
use super::route::RouteSocket;

/// What to set; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSettings {
    /// Admin state.
    pub up: Option<bool>,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: Option<u32>,
    /// MAC address. Changing it on a live interface loses its neighbours.
    pub mac: Option<[u8; 6]>,
}

/// Sets what interfaces have.
#[derive(Debug)]
pub struct Links {
    socket: RouteSocket,
}

impl Links {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: RouteSocket::open()? })
    }

    /// Sets all that is given, in one request. The kernel does them one after the other (MAC, MTU, state)
    /// and stops at the first that it refuses.
    pub fn set(&mut self, ifindex: u32, settings: LinkSettings) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        if let Some(up) = settings.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        message.attributes.extend(settings.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.extend(settings.mtu.map(LinkAttribute::Mtu));
        self.socket.change(
            || format!("set {settings:?} of interface {ifindex}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::{in_namespace, run};

    #[test]
    fn settings_reach_the_interface_and_refusals_say_why() {
        in_namespace(|| {
            run("ip link add v0 type veth peer name v1");
            let ifindex = nix::net::if_::if_nametoindex("v0").expect("index");
            let mut links = Links::open().expect("socket");
            let settings = LinkSettings { up: Some(true), mtu: Some(1400), mac: Some([2, 0, 0, 0, 0, 9]) };
            links.set(ifindex, settings).expect("set");
            let line = run("ip link show v0");
            assert!(line.contains("mtu 1400") && line.contains("02:00:00:00:00:09") && line.contains(",UP"));
            links.set(ifindex, LinkSettings { up: Some(false), ..LinkSettings::default() }).expect("set");
            let line = run("ip link show v0");
            assert!(line.contains("mtu 1400") && !line.contains(",UP"), "{line}");

            let huge = LinkSettings { mtu: Some(1 << 20), ..LinkSettings::default() };
            let refused = links.set(ifindex, huge).expect_err("too large").to_string();
            assert!(refused.contains("Invalid argument (mtu greater than device maximum)"), "{refused}");
            assert!(links.set(4711, settings).is_err());
        });
    }
}
