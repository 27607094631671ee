//! What can go wrong with the oracle itself. What it finds out about Flyover is no error.

use std::io;

use dataplane::dpdk::flow_rule::FlowError;
use dataplane::dpdk::{EalError, MempoolError, PortError, TapError};
use dataplane::flow::{TableError, TooManyReaders};

use super::links::Link;
use crate::LabError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The laboratory.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// DPDK does not start.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No pool.
    #[error(transparent)]
    Pool(#[from] MempoolError),
    /// No port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// No flow table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No place for the worker among the table's readers.
    #[error(transparent)]
    Readers(#[from] TooManyReaders),
    /// No tap.
    #[error(transparent)]
    Tun(#[from] TapError),
    /// A tap fails.
    #[error("the tap {link}: {source}")]
    Tap {
        /// The tap.
        link: Link,
        /// Why.
        source: io::Error,
    },
    /// The kernel did not forward the first packets of a connection.
    #[error("the kernel does not open a connection ({step}): {connection}")]
    NotOpened {
        /// The connection.
        connection: String,
        /// Where it failed.
        step: &'static str,
    },
    /// A ring has no queue.
    #[error("a ring port without a queue")]
    Queues,
    /// The model of a NIC refuses a rule.
    #[error("the model NIC refuses a rule: {0}")]
    Rule(#[from] FlowError),
    /// Buffers leak.
    #[error("no packet buffer is left")]
    Buffers,
    /// The generator makes frames that no buffer holds.
    #[error("a frame of {0} bytes does not fit into a buffer")]
    TooLong(usize),
    /// The worker has lost a packet, or counted it twice or not at all.
    #[error("not every packet is counted once: {0}")]
    Miscounted(String),
    /// A line that is no case.
    #[error("not a case: {0}")]
    Line(String),
}
