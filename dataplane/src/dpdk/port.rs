//! A DPDK ethdev: a NIC, or a virtual device.

mod config;
mod flows;
mod hairpin;
mod hook;
mod info;
mod interrupt;
mod marks;
mod queue;
mod removal;
mod steering;
mod wire;

use std::ffi::{CStr, CString};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dpdk_sys as sys;
use nix::errno::Errno;

use super::eal::{self, Running};
use super::error::Cause;
use super::netns::{self, Netns};
use super::{Mempool, log};

pub use config::PortConfig;
pub(in crate::dpdk) use flows::PmdFlows;
pub use hook::ReceiveHook;
pub use info::{Link, PortInfo, PortStats};
pub use queue::{RxQueue, SharedTx, TxQueue};
pub use wire::wire_mac_of;

/// The way a packet takes through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// In from the wire.
    Receive,
    /// Out to the wire.
    Transmit,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
        })
    }
}

/// Why a port can't be had, or does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// DPDK isn't started.
    #[error("DPDK is not started")]
    NotRunning,
    /// The device string is empty or holds a NUL byte.
    #[error("{0:?} is not a device: write a PCI address or a virtual device such as net_tap0,iface=NAME")]
    Malformed(String),
    /// A port stands for this device already.
    #[error("{0} is attached already")]
    AlreadyAttached(String),
    /// There is no such device, or no driver for it.
    #[error("{device}: there is no such device, or DPDK has no driver for it")]
    NoSuchDevice {
        /// The device as it was given.
        device: String,
        /// What DPDK says to it.
        cause: Cause,
    },
    /// The driver could not start the device.
    #[error("{device} can't be attached: {cause}")]
    Probe {
        /// The device as it was given.
        device: String,
        /// Why.
        cause: Cause,
    },
    /// The network namespace can't be opened or entered.
    #[error("{device}: network namespace {netns}: {source}")]
    Netns {
        /// The device.
        device: String,
        /// The namespace as it was given.
        netns: String,
        /// Why.
        source: io::Error,
    },
    /// Fewer queues are offered than asked for, or none was asked for.
    #[error("{device} has 1 to {limit} {direction} queues, not {asked}")]
    Queues {
        /// The device.
        device: String,
        /// Which queues.
        direction: Direction,
        /// As many were asked for.
        asked: u16,
        /// As many there are.
        limit: u16,
    },
    /// The MTU is outside of what the device takes.
    #[error("{device} takes an MTU from {min} to {max}, not {asked}")]
    Mtu {
        /// The device.
        device: String,
        /// The MTU asked for.
        asked: u16,
        /// The least.
        min: u16,
        /// The most.
        max: u16,
    },
    /// A frame of this MTU needs several buffers, which the device can't fill.
    #[error("{device}: an MTU of {asked} needs packet buffers of {needed} bytes; the pool's hold {room}")]
    BufferTooSmall {
        /// The device.
        device: String,
        /// The MTU asked for.
        asked: u16,
        /// Bytes of the longest frame.
        needed: u32,
        /// Bytes that a buffer of the pool holds.
        room: u16,
    },
    /// Queues of the port are in use: drop them first.
    #[error("{0}: its queues are still in use")]
    QueuesInUse(String),
    /// The port must be stopped for this.
    #[error("{0} is started")]
    Started(String),
    /// The port must be configured for this.
    #[error("{0} is not configured")]
    NotConfigured(String),
    /// The port must be started for this.
    #[error("{0} is not started")]
    NotStarted(String),
    /// The device's wire side in the kernel does not take its MAC address.
    #[error("{device}: the MAC address of its wire side: {source}")]
    WireMac {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The device's wire side in the kernel does not take the program that keeps flows on their queues.
    #[error("{device}: a program to keep flows on their queues: {source}")]
    Steering {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// The driver refused.
    #[error("{device}: {operation}: {cause}")]
    Refused {
        /// The device.
        device: String,
        /// What it was told to do.
        operation: &'static str,
        /// Why it does not.
        cause: Cause,
    },
}

/// The control handle of a port. Its queues, which workers own, are apart: see [`Port::take_queues`].
///
/// The device is stopped, closed and detached when the port and all of its queues have been dropped.
#[derive(Debug)]
pub struct Port {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: u16,
    /// The device's name without arguments.
    name: String,
    driver: String,
    device: *mut sys::rte_device,
    netns: Option<(Netns, String)>,
    state: Mutex<State>,
    /// Queues that somebody holds.
    queues: AtomicUsize,
    flows: Mutex<flows::Installed>,
    _running: Arc<Running>,
}

// SAFETY: DPDK leaves the order of control calls on one port to the caller, not the thread; `state` is locked around
// them. `device` is touched by `Drop` alone. Queues call none of the control functions.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    rx_queues: u16,
    tx_queues: u16,
    /// The longest frame that a receive buffer holds; none if frames may be spread over several.
    frame_limit: Option<u16>,
    marks: marks::Marks,
    /// Pools whose buffers the device may hold.
    pools: Vec<Mempool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Attached,
    Configured,
    Started,
}

/// Ports that have a handle. DPDK's own list also has ports that EAL probed and nobody attached.
static ATTACHED: Mutex<Vec<u16>> = Mutex::new(Vec::new());

fn attached() -> MutexGuard<'static, Vec<u16>> {
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    /// Attaches a device: a PCI address (`0000:3b:00.0`), or a virtual device with its arguments
    /// (`net_tap0,iface=uplink`).
    ///
    /// With `netns`, a path or a name that `ip netns` knows, the device's wire side is looked for or made in that
    /// network namespace.
    pub fn attach(devargs: &str, netns: Option<&Path>) -> Result<Self, PortError> {
        let running = eal::running().ok_or(PortError::NotRunning)?;
        let malformed = || PortError::Malformed(devargs.to_owned());
        let name = devargs.split(',').next().filter(|name| !name.is_empty()).ok_or_else(malformed)?;
        let c_devargs = CString::new(devargs).map_err(|_| malformed())?;
        let netns_error = |given: &Path, source| PortError::Netns {
            device: name.to_owned(),
            netns: given.display().to_string(),
            source,
        };
        let netns = match netns {
            Some(given) => {
                let open = Netns::open(given).map_err(|e| netns_error(given, e))?;
                Some((open, given.display().to_string()))
            }
            None => None,
        };

        // Held to the end, so that two threads can't attach the same device.
        let mut attached = attached();
        let id = match find(name) {
            Some(id) if attached.contains(&id) => return Err(PortError::AlreadyAttached(name.to_owned())),
            Some(id) => id,
            None => {
                let probe = || {
                    log::capture(|| {
                        // SAFETY: EAL is up; the string is copied by the call.
                        unsafe { sys::rte_dev_probe(c_devargs.as_ptr()) }
                    })
                };
                let (ret, lines) =
                    netns::within(netns.as_ref().map(|(open, _)| open), probe).map_err(|e| {
                        netns_error(netns.as_ref().map_or(Path::new(""), |(_, given)| Path::new(given)), e)
                    })?;
                let refused = |ret, log| PortError::Probe {
                    device: devargs.to_owned(),
                    cause: Cause::from_return(ret, log),
                };
                // EAL answers EFAULT when no bus understands the name.
                if [-(Errno::EFAULT as i32), -(Errno::ENODEV as i32)].contains(&ret) {
                    let cause = Cause::from_return(ret, lines);
                    return Err(PortError::NoSuchDevice { device: devargs.to_owned(), cause });
                }
                if ret < 0 {
                    return Err(refused(ret, lines));
                }
                // A driver may take a device without making a port of it.
                find(name).ok_or_else(|| refused(Errno::ENODEV as i32, lines))?
            }
        };
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: the port exists, and `info` is writable.
        let ret = unsafe { sys::rte_eth_dev_info_get(id, &raw mut info) };
        if ret < 0 {
            let cause = Cause::from_return(ret, Vec::new());
            return Err(PortError::Probe { device: devargs.to_owned(), cause });
        }
        attached.push(id);
        let port = Self {
            inner: Arc::new(Inner {
                id,
                name: name.to_owned(),
                // SAFETY: the driver's name is NULL or a static string.
                driver: unsafe { text(info.driver_name) },
                device: info.device,
                netns,
                state: Mutex::default(),
                queues: AtomicUsize::new(0),
                flows: Mutex::default(),
                _running: running,
            }),
        };
        removal::watch(&port.inner);
        Ok(port)
    }

    /// Starts the device.
    pub fn start(&self) -> Result<(), PortError> {
        let inner = &self.inner;
        let mut state = inner.state();
        match state.phase {
            Phase::Attached => return Err(PortError::NotConfigured(inner.name.clone())),
            Phase::Started => return Ok(()),
            Phase::Configured => {}
        }
        // SAFETY: the port is configured, and its control calls are locked.
        inner.call("start", |id| unsafe { sys::rte_eth_dev_start(id) })?;
        state.phase = Phase::Started;
        wire::set_wire_mac(inner)
    }

    /// Stops the device. Its queues must have been dropped, since a worker that polls a stopped device reads what the
    /// driver has given back.
    pub fn stop(&self) -> Result<(), PortError> {
        let inner = &self.inner;
        let mut state = inner.state();
        inner.no_queues()?;
        if state.phase != Phase::Started {
            return Ok(());
        }
        inner.give_up_rules();
        inner.unbind_hairpins();
        // SAFETY: nobody polls the port, and its control calls are locked.
        inner.call("stop", |id| unsafe { sys::rte_eth_dev_stop(id) })?;
        state.phase = Phase::Configured;
        Ok(())
    }

    /// Gives the queues of a started port, each once; again when all of them have been dropped.
    pub fn take_queues(&self) -> Result<(Vec<RxQueue>, Vec<TxQueue>), PortError> {
        let inner = &self.inner;
        let state = inner.state();
        if state.phase != Phase::Started {
            return Err(PortError::NotStarted(inner.name.clone()));
        }
        inner.no_queues()?;
        // Counted one by one, under the lock.
        let rx = (0..state.rx_queues).map(|queue| RxQueue::new(inner, queue)).collect();
        let tx = (0..state.tx_queues).map(|queue| TxQueue::new(inner, queue)).collect();
        Ok((rx, tx))
    }

    /// DPDK's number for the port, which [`Mbuf::port`](super::Mbuf::port) gives for a received packet.
    pub fn id(&self) -> u16 {
        self.inner.id
    }

    /// The device's name, without arguments.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The driver's name, such as `net_tap`.
    pub fn driver(&self) -> String {
        self.inner.driver.clone()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref().map(|(open, _)| open)
    }

    /// Makes a control call in the namespace of the device's wire side: some drivers open a socket for each.
    fn call(&self, operation: &'static str, call: impl FnOnce(u16) -> i32 + Send) -> Result<(), PortError> {
        let id = self.id;
        let (ret, lines) = self.within(|| log::capture(|| call(id)))?;
        if ret < 0 {
            let cause = Cause::from_return(ret, lines);
            return Err(PortError::Refused { device: self.name.clone(), operation, cause });
        }
        Ok(())
    }

    fn within<R: Send>(&self, call: impl FnOnce() -> R + Send) -> Result<R, PortError> {
        netns::within(self.netns(), call).map_err(|source| PortError::Netns {
            device: self.name.clone(),
            netns: self.netns.as_ref().map_or_else(String::new, |(_, given)| given.clone()),
            source,
        })
    }

    fn no_queues(&self) -> Result<(), PortError> {
        // Acquire: what the workers did to their queues is over.
        match self.queues.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(PortError::QueuesInUse(self.name.clone())),
        }
    }

    fn info(&self) -> Result<sys::rte_eth_dev_info, PortError> {
        let mut info = sys::rte_eth_dev_info::default();
        let to = SendMut(&raw mut info);
        // SAFETY: the port exists as long as `self`, and `info` is writable.
        self.call("info", move |id| unsafe { sys::rte_eth_dev_info_get(id, to.get()) })?;
        Ok(info)
    }
}

/// A pointer into the stack of a thread that waits for the one that writes through it.
struct SendMut<T>(*mut T);

// SAFETY: made in this module alone, for closures that `netns::within` runs and waits for.
unsafe impl<T> Send for SendMut<T> {}

impl<T> SendMut<T> {
    // By a method, so that closures capture the whole and not the pointer in it.
    fn get(&self) -> *mut T {
        self.0
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        removal::unwatch(self);
        self.give_up_rules();
        self.unbind_hairpins();
        let started = self.state().phase == Phase::Started;
        let (id, device) = (self.id, SendMut(self.device));
        // Nobody is left to tell of an error, and nothing else can be done about one; DPDK logs it.
        let _ = self.within(move || {
            // SAFETY: this is the last handle, so nobody polls or calls. The device is removed when no other port
            // stands on it; `rte_eth_find_next_of` gives RTE_MAX_ETHPORTS for none.
            unsafe {
                if started {
                    sys::rte_eth_dev_stop(id);
                }
                sys::rte_eth_dev_close(id);
                let device = device.get();
                if u32::from(sys::rte_eth_find_next_of(0, device)) >= sys::RTE_MAX_ETHPORTS {
                    sys::rte_dev_remove(device);
                }
            }
        });
        attached().retain(|other| *other != id);
    }
}

/// The port of a device.
fn find(name: &str) -> Option<u16> {
    let find = |name: &str| {
        let name = CString::new(name).ok()?;
        let mut id = 0;
        // SAFETY: the name is NUL-terminated, `id` is writable.
        (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) } == 0).then_some(id)
    };
    // A PCI address may be given without its domain.
    find(name).or_else(|| find(&format!("0000:{name}")))
}

/// # Safety
/// `text` is NULL or a NUL-terminated string.
unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
