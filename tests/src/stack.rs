//! Interfaces on top of others: what stands for the kernel's VLAN, PPPoE and bonding devices where the kernel has none.
//!
//! An interface of a stack is a tap. What the kernel sends out of it is wrapped and sent out of the interface below;
//! what comes in there with that wrapping comes in by the tap without it. `tc` leads the frames below by another tap,
//! where they are seen as they are on the wire, tags included. So it works the same on a twin, which Flyover serves,
//! and on a veth pair of the kernel alone.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::dpdk::{Tap, TapOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wrapping::Wrapping;
use crate::{LabError, Namespace, Result, raw, wait};

/// Longer than any frame.
const LONGEST: usize = 1 << 16;
/// Frames that are remembered, at most.
const MOST_SEEN: usize = 16_384;

/// An interface of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Its name.
    pub name: &'static str,
    /// What its frames are wrapped in below.
    pub wrapping: Wrapping,
    /// Its MTU.
    pub mtu: u16,
    /// The MAC address at the other end of its PPPoE session, which has no neighbours.
    pub peer: Option<[u8; 6]>,
}

/// A frame as it was on an interface below.
pub type Seen = (usize, Vec<u8>);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// By which of the interfaces below frames leave.
    active: AtomicUsize,
    /// What came in below, while it is recorded.
    seen: Mutex<Option<VecDeque<Seen>>>,
}

/// Interfaces on top of one, or of several that are used one at a time. They go away with it.
#[derive(Debug)]
pub struct Stack {
    shared: Arc<Shared>,
    trunks: Arc<Vec<Tap>>,
    thread: Option<JoinHandle<()>>,
}

impl Stack {
    /// Builds `layers` on the interfaces `below` of a namespace, with the MAC address of the first.
    ///
    /// Frames that are not wrapped are left to the interface below, unless a layer has no wrapping.
    ///
    /// # Errors
    /// When the kernel lacks what it takes (tun, tc's u32 and mirred).
    pub fn build(namespace: &Namespace, below: &[&str], layers: &[Layer]) -> Result<Self> {
        let mac = raw::mac(namespace, below.first().copied().unwrap_or_default())?;
        let trunks = below
            .iter()
            .enumerate()
            .map(|(number, below)| trunk(namespace, below, number, layers))
            .collect::<Result<Vec<Tap>>>()?;
        let devices = layers
            .iter()
            .map(|layer| {
                let tap = open(namespace, layer.name)?;
                let (name, mtu) = (layer.name, layer.mtu);
                namespace.run(&format!("ip link set {name} address {} mtu {mtu}", hex(mac)))?;
                if layer.peer.is_some() {
                    namespace.run(&format!("ip link set {name} arp off"))?;
                }
                namespace.run(&format!("ip link set {name} up"))?;
                Ok((*layer, tap))
            })
            .collect::<Result<Vec<_>>>()?;
        let (shared, trunks) = (Arc::new(Shared::default()), Arc::new(trunks));
        let relay = Relay { shared: Arc::clone(&shared), trunks: Arc::clone(&trunks), devices, mac };
        let thread = std::thread::Builder::new().name("stack".to_owned()).spawn(move || relay.run());
        let thread = thread.map_err(LabError::io("start a thread"))?;
        Ok(Self { shared, trunks, thread: Some(thread) })
    }

    /// Sends by another of the interfaces below, as a bond does when its active slave fails.
    pub fn switch(&self, below: usize) {
        self.shared.active.store(below, Ordering::Relaxed);
    }

    /// Begins to record the frames that come in below, as they are there; what was recorded before is forgotten.
    pub fn record(&self) {
        *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(VecDeque::new());
    }

    /// The next recorded frame that `wanted` says yes to, with the number of the interface below.
    ///
    /// # Errors
    /// When there is none within `patience`.
    pub fn next(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Seen> {
        wait::until(patience, "a frame", || {
            let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = seen.as_mut()?;
            while let Some((below, frame)) = seen.pop_front() {
                if wanted(&frame) {
                    return Some((below, frame));
                }
            }
            None
        })
    }

    /// Sends a frame out of an interface below, as it is.
    ///
    /// # Errors
    /// When there is none such, or it takes no frame.
    pub fn send(&self, below: usize, frame: &[u8]) -> Result<()> {
        let trunk = self.trunks.get(below).ok_or_else(|| LabError::Missing(format!("trunk {below}")))?;
        trunk.write(frame).map(drop).map_err(LabError::io("send a frame"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

/// What moves frames between the taps.
struct Relay {
    shared: Arc<Shared>,
    trunks: Arc<Vec<Tap>>,
    devices: Vec<(Layer, Tap)>,
    mac: [u8; 6],
}

impl Relay {
    fn run(self) {
        let mut buffer = vec![0; LONGEST];
        let patience = PollTimeout::from(50_u8);
        while !self.shared.stop.load(Ordering::Relaxed) {
            let taps = self.trunks.iter().chain(self.devices.iter().map(|(_, tap)| tap));
            let mut polled: Vec<PollFd<'_>> =
                taps.map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
            // Interrupted or not, the taps are looked at.
            let _ = poll(&mut polled, patience);
            for (number, trunk) in self.trunks.iter().enumerate() {
                while let Ok(length) = trunk.read(&mut buffer) {
                    self.up(number, buffer.get(..length).unwrap_or_default());
                }
            }
            for (layer, tap) in &self.devices {
                while let Ok(length) = tap.read(&mut buffer) {
                    self.down(layer, buffer.get(..length).unwrap_or_default());
                }
            }
        }
    }

    fn up(&self, number: usize, frame: &[u8]) {
        if let Some(seen) = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && seen.len() < MOST_SEEN
        {
            seen.push_back((number, frame.to_vec()));
        }
        // A slave that is not used hears nothing: what is sent to all would come in by each.
        if number != self.shared.active.load(Ordering::Relaxed) {
            return;
        }
        for (layer, tap) in &self.devices {
            if let Some(bare) = layer.wrapping.unwrap(frame) {
                // What a full or dead interface does not take is lost, as on any wire.
                let _ = tap.write(&bare);
                return;
            }
        }
    }

    fn down(&self, layer: &Layer, frame: &[u8]) {
        let Some(mut frame) = layer.wrapping.wrap(frame) else { return };
        if let (Some(peer), Some(macs)) = (layer.peer, frame.first_chunk_mut::<12>()) {
            macs[..6].copy_from_slice(&peer);
            macs[6..].copy_from_slice(&self.mac);
        }
        if let Some(trunk) = self.trunks.get(self.shared.active.load(Ordering::Relaxed)) {
            let _ = trunk.write(&frame);
        }
    }
}

/// A tap to which the frames of an interface below are led, and whose frames leave by it.
fn trunk(namespace: &Namespace, below: &str, number: usize, layers: &[Layer]) -> Result<Tap> {
    let name = format!("trunk{number}-{below}");
    let tap = open(namespace, &name)?;
    namespace.run(&format!("ip link set {name} mtu 9000 up"))?;
    let lead = |from: &str, to: &str, protocol: &str, order: usize| {
        namespace.run(&format!(
            "tc filter add dev {from} ingress protocol {protocol} prio {order} u32 match u32 0 0 \
             action mirred egress redirect dev {to}"
        ))
    };
    for device in [below, &name] {
        namespace.run(&format!("tc qdisc replace dev {device} clsact"))?;
    }
    let mut protocols: Vec<&str> =
        layers.iter().map(|layer| layer.wrapping.protocol().unwrap_or("all")).collect();
    protocols.sort_unstable();
    protocols.dedup();
    for (order, protocol) in protocols.into_iter().enumerate() {
        lead(below, &name, protocol, order + 1)?;
    }
    lead(&name, below, "all", 1)?;
    Ok(tap)
}

fn open(namespace: &Namespace, name: &str) -> Result<Tap> {
    let owned = name.to_owned();
    namespace
        .inside(move || Tap::open(&owned, TapOptions::default()))
        .map_err(|error| LabError::Missing(format!("the tap {name}: {error}")))
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
