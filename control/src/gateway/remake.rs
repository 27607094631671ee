//! A twin that was deleted while the gateway runs is made again: its port would have no way to the kernel.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use dataplane::punt::{Bell, Twin};

use super::error::GatewayError;
use super::ports::GatewayPort;
use super::roster::Ports;
use super::service::Keepers;
use super::start::setting;
use super::twins;
use crate::config::TwinIo;

/// How long until it is tried once more, in milliseconds.
const EVERY: u64 = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Remake {
    made: Arc<ArrayQueue<(usize, Twin)>>,
    bell: Arc<Bell>,
    due: u64,
    /// Why it did not work is said once.
    told: bool,
}

impl Remake {
    /// What is made goes to the punt thread.
    pub(super) fn new(made: Arc<ArrayQueue<(usize, Twin)>>, bell: Arc<Bell>) -> Self {
        Self { made, bell, due: 0, told: false }
    }

    /// Makes twins that are missing, if it is time to.
    pub(super) fn advance(&mut self, now: u64, ports: &mut Ports, keepers: &mut Keepers) {
        if now < self.due || !ports.iter().any(|(_, port)| port.bereft) {
            return;
        }
        self.due = now + EVERY;
        for (index, port) in ports.iter_mut().filter(|(_, port)| port.bereft) {
            match self.make(index, port) {
                Ok(()) => {
                    keepers.lose(&port.config.name);
                    keepers.hold(&port.config.name, &port.twin);
                    self.told = false;
                    tracing::warn!(
                        port = port.config.name,
                        "its twin was made again, without addresses and routes: set them and raise it, as at the \
                         first start"
                    );
                }
                Err(error) if self.told => tracing::debug!(port = port.config.name, %error, "no twin yet"),
                Err(error) => {
                    self.told = true;
                    let because =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::error!(port = port.config.name, %error, because, "it carries nothing meanwhile");
                }
            }
        }
    }

    fn make(&self, index: usize, port: &mut GatewayPort) -> Result<(), GatewayError> {
        let name = &port.config.name;
        // Frame by frame: rings with vhost-net are set up at the start alone.
        let tap = twins::anew(name, port.mac, port.mtu)?;
        let ifindex = tap.index().map_err(setting(name, "asked for its index"))?;
        let admin_up = tap.is_up().map_err(setting(name, "asked for its state"))?;
        let mac = tap.mac().map_err(setting(name, "asked for its MAC address"))?;
        let tap = Arc::new(tap);
        if self.made.push((index, Twin::by_tap(Arc::clone(&tap)))).is_err() {
            let full = std::io::Error::other("the punt thread has not taken the last one yet");
            return Err(setting(name, "handed to the punt thread")(full));
        }
        self.bell.ring();
        (port.twin, port.twin_io, port.ifindex, port.admin_up, port.mac) =
            (tap, TwinIo::Tap, ifindex, admin_up, mac);
        (port.bereft, port.carrier) = (false, None);
        Ok(())
    }
}
