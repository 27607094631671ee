//! Twins at the start: opened, and their frames carried by vhost-net or one by one.

use std::io;
use std::sync::Arc;

use dataplane::dpdk::{Mempool, Tap, TapOptions};
use dataplane::punt::Twin;

use super::error::GatewayError;
use super::start::setting;
use crate::config::{PortConfig, TwinIo};

/// Opens or makes a port's twin, ready for the way that its frames are to go. `kept`: this process has its keeper.
pub(super) fn open(config: &PortConfig, kept: bool) -> Result<Tap, GatewayError> {
    let vhost = match (config.twin_io, Tap::vhost_available()) {
        (TwinIo::Tap, _) => false,
        (_, Ok(())) => true,
        (TwinIo::Auto, Err(absent)) => {
            tracing::debug!(twin = config.name, %absent, "the twin's frames go one by one");
            false
        }
        (TwinIo::VhostNet, Err(source)) => {
            return Err(GatewayError::Vhost { name: config.name.clone(), source });
        }
    };
    open_tap(&config.name, TapOptions { multi_queue: true, vnet_header: vhost, kept })
}

fn open_tap(name: &str, options: TapOptions) -> Result<Tap, GatewayError> {
    Tap::open(name, options).map_err(|source| GatewayError::Twin { name: name.to_owned(), source })
}

/// Makes a twin that was deleted once more, or takes over the one that somebody has made in its place.
pub(super) fn anew(name: &str, mac: [u8; 6], mtu: u32) -> Result<Tap, GatewayError> {
    let tap = open_tap(name, TapOptions { multi_queue: true, vnet_header: false, kept: false })?;
    if tap.created() {
        tap.set_mac(mac).map_err(setting(name, "given its MAC address"))?;
        tap.set_mtu(mtu).map_err(setting(name, "given its MTU"))?;
    }
    tap.set_persistent(true).map_err(setting(name, "made to last"))?;
    Ok(tap)
}

/// Has a twin's frames carried, and says which way it is.
///
/// The twin must have its final MAC address: vhost-net gives it to the tap once more.
pub(super) fn carry(
    tap: Tap,
    number: usize,
    config: &PortConfig,
    mac: [u8; 6],
    pool: &Mempool,
) -> Result<(Arc<Tap>, Twin, TwinIo), GatewayError> {
    let name = &config.name;
    if !tap.vnet_header().map_err(setting(name, "asked for its flags"))? {
        return Ok(by_tap(tap));
    }
    if config.twin_io == TwinIo::Tap {
        return Ok(by_tap(again(tap, config, mac)?));
    }
    match tap.attach_vhost(number, pool) {
        Ok(queues) => Ok((Arc::new(tap), Twin::by_vhost(queues), TwinIo::VhostNet)),
        Err(source) if config.twin_io == TwinIo::VhostNet => {
            Err(GatewayError::Vhost { name: name.clone(), source })
        }
        Err(error) => {
            tracing::warn!(twin = name, %error, "vhost-net is there, but does not carry this twin");
            Ok(by_tap(again(tap, config, mac)?))
        }
    }
}

fn by_tap(tap: Tap) -> (Arc<Tap>, Twin, TwinIo) {
    let tap = Arc::new(tap);
    (Arc::clone(&tap), Twin::by_tap(tap), TwinIo::Tap)
}

/// A twin whose queue was given up, anew: with a queue, and without the header before its frames.
fn again(tap: Tap, config: &PortConfig, mac: [u8; 6]) -> Result<Tap, GatewayError> {
    let name = &config.name;
    let options = TapOptions { vnet_header: false, ..tap.options() };
    drop(tap);
    let tap = open_tap(name, options)?;
    // One that Flyover had made is gone with its descriptor.
    if tap.created() {
        tap.set_mac(mac).map_err(setting(name, "given its MAC address"))?;
        if let Some(mtu) = config.mtu {
            tap.set_mtu(u32::from(mtu)).map_err(setting(name, "given its MTU"))?;
        }
    }
    if tap.vnet_header().map_err(setting(name, "asked for its flags"))? {
        let busy = io::Error::other("another descriptor of it, opened for vhost-net, is still there");
        return Err(setting(name, "read frame by frame")(busy));
    }
    Ok(tap)
}
