//! A leg of the way through the gateway: a wire, what is wrapped around its frames, and the host at its end.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::raw::{self, Wire};
use crate::stack::{Layer, Stack};
use crate::topology::HOST_INTERFACE;
use crate::wrapping::Wrapping;
use crate::{Lab, LabError, Namespace, Result, wait};

/// See the module.
#[derive(Debug)]
pub struct Leg {
    /// The host.
    pub host: Namespace,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its interface that has the address.
    pub interface: &'static str,
    /// What its frames are wrapped in.
    pub wrapping: Wrapping,
    /// The host's MAC address and the gateway's.
    pub macs: ([u8; 6], [u8; 6]),
    tap: Tapped,
    /// Dropping it takes the gateway's side away.
    _gateway: Option<Stack>,
}

/// Where frames are sent and seen as they are on the wire.
#[derive(Debug)]
enum Tapped {
    Plain(Wire),
    Wrapped(Stack),
}

/// What a wire is to be wrapped in.
#[derive(Clone, Copy, Debug)]
pub struct Laid {
    /// The twin.
    pub twin: &'static str,
    /// The interface on top of it.
    pub name: &'static str,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// The host's.
    pub address: Ipv4Addr,
    /// What is around frames.
    pub wrapping: Wrapping,
    /// The MTU of both ends.
    pub mtu: u16,
}

impl Leg {
    /// A wire as the laboratory has laid it, without any wrapping.
    ///
    /// # Errors
    /// When the host has no interface.
    pub fn plain(lab: &Lab, twin: &str, address: Ipv4Addr) -> Result<Self> {
        let host = lab.host(twin).clone();
        let wire = Wire::open(&host, HOST_INTERFACE)?;
        let macs = (wire.mac, raw::mac(lab.gateway(), twin)?);
        Ok(Self {
            host,
            address,
            interface: HOST_INTERFACE,
            wrapping: Wrapping::default(),
            macs,
            tap: Tapped::Plain(wire),
            _gateway: None,
        })
    }

    /// Wraps a wire: the addresses of both its ends move to interfaces on top of it.
    ///
    /// # Errors
    /// When those can't be made, or the host does not reach the gateway by them.
    pub fn wrapped(lab: &Lab, laid: &Laid) -> Result<Self> {
        let Laid { twin, name, gateway, address, wrapping, mtu } = *laid;
        let host = lab.host(twin).clone();
        let macs = (raw::mac(&host, HOST_INTERFACE)?, raw::mac(lab.gateway(), twin)?);
        let session = wrapping.pppoe.is_some();
        let layer = |peer: [u8; 6]| Layer { name, wrapping, mtu, peer: session.then_some(peer) };
        lab.gateway().run(&format!("ip address flush dev {twin}"))?;
        host.run(&format!("ip address flush dev {HOST_INTERFACE}"))?;
        let ours = Stack::build(lab.gateway(), &[twin], &[layer(macs.0)])?;
        let theirs = Stack::build(&host, &[HOST_INTERFACE], &[layer(macs.1)])?;
        lab.gateway().run(&format!("ip address add {gateway}/24 dev {name}"))?;
        host.run(&format!("ip address add {address}/24 dev {name}"))?;
        host.run(&format!("ip route replace default via {gateway}"))?;
        reach(&host, gateway)?;
        let tap = Tapped::Wrapped(theirs);
        Ok(Self { host, address, interface: name, wrapping, macs, tap, _gateway: Some(ours) })
    }

    /// A leg whose interfaces were made in another way. `stack` is the host's.
    pub fn of(
        host: &Namespace,
        address: Ipv4Addr,
        layer: &Layer,
        macs: ([u8; 6], [u8; 6]),
        stack: Stack,
    ) -> Self {
        Self {
            host: host.clone(),
            address,
            interface: layer.name,
            wrapping: layer.wrapping,
            macs,
            tap: Tapped::Wrapped(stack),
            _gateway: None,
        }
    }

    /// The host sends a frame; `bare`, it is wrapped as the leg's are.
    ///
    /// # Errors
    /// When the wire is down.
    pub fn send(&self, bare: &[u8]) -> Result<()> {
        self.send_in(&self.wrapping, bare)
    }

    /// The host sends a frame in another wrapping.
    ///
    /// # Errors
    /// When the wire is down.
    pub fn send_in(&self, wrapping: &Wrapping, bare: &[u8]) -> Result<()> {
        let frame = wrapping.wrap(bare).ok_or_else(|| LabError::Missing("a frame to wrap".to_owned()))?;
        match &self.tap {
            Tapped::Plain(wire) => wire.send(&frame),
            Tapped::Wrapped(stack) => stack.send(0, &frame),
        }
    }

    /// Forgets what the host's wire has carried so far.
    ///
    /// # Errors
    /// When it can't be opened again.
    pub fn watch(&mut self) -> Result<()> {
        match &mut self.tap {
            Tapped::Plain(wire) => *wire = Wire::open(&self.host, self.interface)?,
            Tapped::Wrapped(stack) => stack.record(),
        }
        Ok(())
    }

    /// The next frame on the host's wire, as it is there, that `wanted` says yes to.
    ///
    /// # Errors
    /// When there is none within `patience`.
    pub fn next(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        match &self.tap {
            Tapped::Plain(wire) => wait::until(patience, "a frame", || {
                let frame = wire.receive(Duration::from_millis(1)).ok().flatten()?;
                wanted(&frame).then_some(frame)
            }),
            Tapped::Wrapped(stack) => stack.next(patience, wanted).map(|(_, frame)| frame),
        }
    }
}

/// Waits until the gateway refuses a connection to one of its addresses: the whole way there and back is up.
///
/// # Errors
/// When it does not.
pub fn reach(host: &Namespace, gateway: Ipv4Addr) -> Result<()> {
    let discard = SocketAddr::from((gateway, 9));
    wait::until_true(wait::PATIENCE, &format!("{} to reach {gateway}", host.name()), || {
        let outcome = host.inside(move || TcpStream::connect_timeout(&discard, Duration::from_secs(1)));
        outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
}
