//! A tap's frames by vhost-net: a kernel thread moves them between the tap and rings that DPDK's virtio_user shares
//! with it, in place of a system call a frame.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

#[cfg(doc)]
use super::TapOptions;
use super::{Tap, leaked};
use crate::dpdk::tun;
use crate::dpdk::{Mempool, Port, PortConfig, PortError, RxQueue, TxQueue};

pub(super) const VHOST_DEVICE: &str = "/dev/vhost-net";
/// The kernel makes a thread for each device, and gives up with ENOMEM when the caller is interrupted meanwhile.
const ATTEMPTS: usize = 3;

/// Why a tap's frames can't go by vhost-net.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// The kernel has no vhost-net, or the container does not show it.
    #[error("{VHOST_DEVICE}: {0}")]
    NoDevice(io::Error),
    /// DPDK's device arguments can't hold a name with these characters.
    #[error("the name {0:?} has characters that DPDK's device arguments can't hold")]
    Name(String),
    /// Another descriptor was there first, and wants frames without it.
    #[error("the tap was opened without the virtio-net header")]
    NoHeader,
    /// A setting of the tap.
    #[error("{what}: {source}")]
    Tap {
        /// What was to be done.
        what: &'static str,
        /// Why it was not.
        source: io::Error,
    },
    /// virtio_user refused.
    #[error(transparent)]
    Port(#[from] PortError),
}

fn attach(device: &str) -> Result<Port, PortError> {
    let before = leaked::descriptors();
    let mut attempt = 1;
    loop {
        match Port::attach(device, None) {
            Ok(port) => return Ok(port),
            Err(error) => {
                leaked::close_new(&before);
                if attempt == ATTEMPTS {
                    return Err(error);
                }
                attempt += 1;
            }
        }
    }
}

/// A tap's rings with vhost-net.
#[derive(Debug)]
pub struct VhostQueues {
    /// Frames that the kernel sends out of the interface; [armed](RxQueue::arm) to sleep.
    pub rx: RxQueue,
    /// Frames for the kernel.
    pub tx: TxQueue,
}

impl Tap {
    /// Descriptors, and so packets, that each of the two rings of [`Self::attach_vhost`] holds.
    pub const VHOST_DESCRIPTORS: u16 = 1024;

    /// Whether this process may use vhost-net.
    pub fn vhost_available() -> Result<(), VhostError> {
        OpenOptions::new().read(true).write(true).open(VHOST_DEVICE).map(drop).map_err(VhostError::NoDevice)
    }

    /// Whether a virtio-net header is put before each frame.
    pub fn vnet_header(&self) -> io::Result<bool> {
        Ok(tun::interface(self.file.as_raw_fd())?.flags & libc::IFF_VNET_HDR != 0)
    }

    /// Moves the tap's frames to rings of vhost-net. The tap itself stays: for carrier, and to keep the interface.
    ///
    /// The tap must have been opened with [`vnet_header`](TapOptions::vnet_header). After a failure it neither reads
    /// nor writes: open another.
    pub fn attach_vhost(&self, number: usize, pool: &Mempool) -> Result<VhostQueues, VhostError> {
        Self::vhost_available()?;
        let name = self.name();
        let failed = |what| move |source| VhostError::Tap { what, source };
        if !self.vnet_header().map_err(failed("its flags"))? {
            return Err(VhostError::NoHeader);
        }
        if name.contains([',', '=', '[', ']', '"', '\'']) {
            return Err(VhostError::Name(name.to_owned()));
        }
        let mac = self.mac().map_err(failed("MAC address"))?;
        // virtio_user opens a queue of its own; with this one attached the kernel would spread flows over both.
        tun::set_attached(self.file.as_raw_fd(), false).map_err(failed("detaching its queue"))?;
        let [a, b, c, d, e, f] = mac;
        // One buffer a frame. virtio_user gives the tap this MAC address, so it must be the one that it has.
        let device = format!(
            "virtio_user_twin{number},path={VHOST_DEVICE},iface={name},queue_size={},mrg_rxbuf=0,\
             mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}",
            Self::VHOST_DESCRIPTORS
        );
        let port = attach(&device)?;
        // virtio_user receives by NAPI, which would merge packets (GRO): frames are to be as they were on the wire.
        self.device.set_gro(false).map_err(failed("GRO off"))?;
        port.configure(&PortConfig {
            rx_descriptors: Self::VHOST_DESCRIPTORS,
            tx_descriptors: Self::VHOST_DESCRIPTORS,
            rss: false,
            // None is negotiated: the kernel finishes checksums and segments before the frame leaves.
            rx_checksum: false,
            rx_interrupts: true,
            ..PortConfig::new(pool)
        })?;
        port.start()?;
        let (mut rx, mut tx) = port.take_queues()?;
        match (rx.pop(), tx.pop()) {
            (Some(rx), Some(tx)) => {
                rx.wake_fd().map_err(failed("its interrupt"))?;
                Ok(VhostQueues { rx, tx })
            }
            _ => Err(PortError::NotStarted(device).into()),
        }
    }
}
