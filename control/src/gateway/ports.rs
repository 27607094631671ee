//! Ports and their twins at run time: who follows whom.
//!
//! The twin owns admin state, MTU and MAC, and the port follows; the port owns carrier.

use std::sync::Arc;

use dataplane::dpdk::hairpin::Hairpin;
use dataplane::dpdk::{Port, PortError, Tap};

use crate::config::{Device, PortConfig, TwinIo};
use crate::netlink::watch::Link;

/// One port and its twin.
#[derive(Debug)]
pub(super) struct GatewayPort {
    pub(super) config: PortConfig,
    /// None once the device has been taken away.
    pub(super) port: Option<Port>,
    /// Workers were told to drop its queues.
    pub(super) going: bool,
    pub(super) driver: String,
    pub(super) twin: Arc<Tap>,
    /// How the twin's frames are carried; never [`TwinIo::Auto`].
    pub(super) twin_io: TwinIo,
    pub(super) ifindex: u32,
    /// The twin was deleted, and is to be made again.
    pub(super) bereft: bool,
    /// By as many bytes packets without tags may be longer than the MTU that come in.
    pub(super) oversize: u16,
    pub(super) queues: u16,
    /// Its hairpin queues, which are bound.
    pub(super) hairpins: Vec<Hairpin>,
    /// Why the port has no queues for flow rules, where its driver should have some.
    pub(super) no_queues: Option<String>,
    /// Why it lacks hairpin queues, where its driver should have some.
    pub(super) no_hairpins: Option<String>,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    /// The twin is administratively up.
    pub(super) admin_up: bool,
    /// The port's carrier, as the twin was told; `None`: not told yet.
    pub(super) carrier: Option<bool>,
}

/// What a look at a port or its twin brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortEvent {
    /// Nothing that concerns flows.
    None,
    /// Flows over it must prove themselves again.
    Changed,
}

/// Has a port hear what is sent to its twin's MAC address.
///
/// A vdev's address is that of an interface which is somebody else's, its wire side: it stays. What can't have the
/// twin's address hears everything instead, which net_tap does anyway.
pub(super) fn hear(port: &Port, mac: [u8; 6], device: &Device, driver: &str) -> Result<(), PortError> {
    if driver == "net_tap" || (!device.is_vdev() && port.set_mac(mac).is_ok()) {
        return Ok(());
    }
    port.set_promiscuous(true)
}

impl GatewayPort {
    /// The longest packet without VLAN tags that can come in, from the IP header on.
    pub(super) fn may_come(&self) -> u16 {
        // A port may not have taken its twin's.
        let mtu = self.port.as_ref().and_then(|port| port.mtu().ok()).unwrap_or(0);
        mtu.max(u16::try_from(self.mtu).unwrap_or(u16::MAX)).saturating_add(self.oversize)
    }

    /// The link as the driver knows it; none if the device is gone, or its driver can't tell.
    pub(super) fn link(&self) -> Option<dataplane::dpdk::Link> {
        self.port.as_ref().filter(|port| !port.is_wanted_back())?.link().ok()
    }

    /// Whether the device is being taken away, and workers have to be told; lets it go once they have given their queues
    /// back.
    pub(super) fn begins_to_go(&mut self) -> bool {
        let Some(port) = self.port.take_if(|port| port.is_wanted_back()) else { return false };
        if port.has_queues_out() {
            self.port = Some(port);
        } else {
            drop(port);
            tracing::error!(
                port = self.config.name,
                device = %self.config.device,
                "the device was taken away: the port carries nothing until it is taken out of the configuration and \
                 put in again, with a reload each, or the gateway is restarted"
            );
        }
        !std::mem::replace(&mut self.going, true)
    }

    /// The port owns carrier: the twin shows it.
    pub(super) fn follow_carrier(&mut self) -> PortEvent {
        // A driver that can't tell is taken at its word that it runs.
        let up = self.link().is_some_and(|link| link.up);
        if self.carrier == Some(up) {
            return PortEvent::None;
        }
        if let Err(error) = self.twin.set_carrier(up) {
            tracing::warn!(port = self.config.name, %error, "the twin's carrier could not be set");
            return PortEvent::None;
        }
        let known = self.carrier.replace(up).is_some();
        if known {
            tracing::info!(port = self.config.name, up, "carrier");
        }
        if known { PortEvent::Changed } else { PortEvent::None }
    }

    /// The twin owns MTU, MAC and admin state: the port follows.
    pub(super) fn follow_twin(&mut self, link: &Link) -> PortEvent {
        let name = &self.config.name;
        let mut event = PortEvent::None;
        if link.mtu != self.mtu {
            let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
            if let Some(Err(error)) = self.port.as_ref().map(|port| port.set_mtu(mtu)) {
                tracing::warn!(port = name, mtu, %error, "the port does not take its twin's MTU");
            }
            self.mtu = link.mtu;
            event = PortEvent::Changed;
        }
        if let Some(mac) = link.mac.filter(|mac| *mac != self.mac) {
            let set = |port: &Port| hear(port, mac, &self.config.device, &self.driver);
            if let Some(Err(error)) = self.port.as_ref().map(set) {
                tracing::warn!(port = name, %error, "the port does not take its twin's MAC address");
            }
            self.mac = mac;
            event = PortEvent::Changed;
        }
        if link.up != self.admin_up {
            self.admin_up = link.up;
            event = PortEvent::Changed;
        }
        event
    }
}
