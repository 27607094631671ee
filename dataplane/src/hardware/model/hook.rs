//! The model NIC behind a receive queue.

use std::fmt;
use std::sync::Arc;

use super::{Nic, Outcome};
use crate::dpdk::{Burst, Mbuf, ReceiveHook, SharedTx};

/// Does what a NIC would do before a worker sees a packet.
///
/// What a rule sends on leaves through the worker's own transmit queues, on the worker's thread, before the burst is
/// handed out; what goes to software stays in the burst, marked if a rule says so.
pub struct NicHook {
    nic: Arc<Nic>,
    port: u16,
    ports: Vec<(SharedTx, Burst)>,
}

impl NicHook {
    /// For the receive queue of a port, polled on the thread that these transmit queues belong to: one of each port that
    /// packets can leave by.
    pub fn new(nic: Arc<Nic>, port: u16, transmit: Vec<SharedTx>) -> Self {
        let ports = transmit.into_iter().map(|tx| (tx, Burst::new())).collect();
        Self { nic, port, ports }
    }

    fn flush(nic: &Nic, tx: &mut SharedTx, burst: &mut Burst) {
        while !burst.is_empty() {
            if tx.burst(burst) == 0 {
                nic.lost(burst.len() as u64);
                burst.clear();
            }
        }
    }
}

impl ReceiveHook for NicHook {
    fn received(&mut self, mut packet: Mbuf) -> Option<Mbuf> {
        match self.nic.process(self.port, &mut packet) {
            Outcome::Software { mark, .. } => {
                if let Some(mark) = mark {
                    packet.set_mark(mark);
                }
                Some(packet)
            }
            Outcome::Dropped => None,
            Outcome::Sent(port) => {
                let Some((tx, burst)) = self.ports.iter_mut().find(|(tx, _)| tx.port() == port) else {
                    self.nic.lost(1);
                    return None;
                };
                if let Err(packet) = burst.push(packet) {
                    Self::flush(&self.nic, tx, burst);
                    // There is room now.
                    drop(burst.push(packet));
                }
                None
            }
        }
    }

    fn burst_ended(&mut self) {
        for (tx, burst) in &mut self.ports {
            Self::flush(&self.nic, tx, burst);
        }
    }
}

impl fmt::Debug for NicHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NicHook(port {})", self.port)
    }
}
