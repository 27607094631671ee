//! How many packets went past the kernel, by two independent witnesses.

use crate::counters::LinkCounters;
use crate::{Gateway, Lab, Result};

/// Counters at the start of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    fast: u64,
    punted: u64,
    dropped: u64,
    kernel: LinkCounters,
}

/// What was counted during a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Packets over the fast path, by Flyover's count.
    pub fast: u64,
    /// Packets given to the kernel, by Flyover's count.
    pub punted: u64,
    /// Packets dropped, by Flyover's count.
    pub dropped: u64,
    /// Packets that came in on the twins, by the kernel's count.
    pub kernel: u64,
}

impl Meter {
    /// Starts a measurement.
    ///
    /// # Errors
    /// When Flyover does not answer or a twin is missing.
    pub fn start(lab: &Lab, gateway: &Gateway) -> Result<Self> {
        let status = gateway.status()?;
        Ok(Self {
            fast: fast(&status)?,
            punted: status.counter("packets.punted")?,
            dropped: status.counter("packets.dropped")?,
            kernel: lab.kernel_counters()?,
        })
    }

    /// What was counted since the start.
    ///
    /// # Errors
    /// When Flyover does not answer or a twin is missing.
    pub fn share(&self, lab: &Lab, gateway: &Gateway) -> Result<Share> {
        let now = Self::start(lab, gateway)?;
        Ok(Share {
            fast: now.fast - self.fast,
            punted: now.punted - self.punted,
            dropped: now.dropped - self.dropped,
            kernel: now.kernel.since(self.kernel).rx_packets,
        })
    }
}

impl Share {
    /// The share past the kernel as Flyover counts it, from 0 to 1.
    pub fn by_flyover(&self) -> f64 {
        share(self.fast, self.punted)
    }

    /// The share past the kernel where what the kernel saw is counted by the kernel, from 0 to 1.
    pub fn by_kernel(&self) -> f64 {
        share(self.fast, self.kernel)
    }
}

fn fast(status: &crate::status::Status) -> Result<u64> {
    Ok(status.counter("packets.fast")? + status.counter("packets.hardware")?)
}

fn share(fast: u64, slow: u64) -> f64 {
    if fast == 0 { 0.0 } else { fast as f64 / (fast + slow) as f64 }
}
