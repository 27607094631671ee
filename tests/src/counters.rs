//! The kernel's own counters of an interface.

use serde_json::Value;

use crate::{LabError, Namespace, Result};

/// What the kernel has counted on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets that came in: on a twin, those that Flyover gave to the kernel.
    pub rx_packets: u64,
    /// Packets that went out: on a twin, those that the kernel gave to Flyover.
    pub tx_packets: u64,
    /// Bytes in.
    pub rx_bytes: u64,
    /// Bytes out.
    pub tx_bytes: u64,
}

impl LinkCounters {
    /// Reads the counters of `interface`.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn read(namespace: &Namespace, interface: &str) -> Result<Self> {
        let text = namespace.run(&format!("ip -j -s link show dev {interface}"))?;
        let shape = || LabError::Shape { what: format!("statistics of {interface}"), text: text.clone() };
        let json: Value = serde_json::from_str(&text).map_err(|_| shape())?;
        let statistics = json.pointer("/0/stats64").ok_or_else(shape)?;
        let read = |pointer| statistics.pointer(pointer).and_then(Value::as_u64).ok_or_else(shape);
        Ok(Self {
            rx_packets: read("/rx/packets")?,
            tx_packets: read("/tx/packets")?,
            rx_bytes: read("/rx/bytes")?,
            tx_bytes: read("/tx/bytes")?,
        })
    }

    /// What was counted since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            rx_packets: self.rx_packets.saturating_sub(before.rx_packets),
            tx_packets: self.tx_packets.saturating_sub(before.tx_packets),
            rx_bytes: self.rx_bytes.saturating_sub(before.rx_bytes),
            tx_bytes: self.tx_bytes.saturating_sub(before.tx_bytes),
        }
    }
}
