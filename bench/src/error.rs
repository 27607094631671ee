//! Why a benchmark can't run.

use control::netlink::NetlinkError;
use dataplane::dpdk::{EalError, MempoolError, PortError, RegisterError};
use dataplane::flow::{AdjacencyError, InsertError, TableError, TooManyContexts, TooManyReaders};

/// Why a benchmark can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// DPDK does not start.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No packet buffers.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// A port does not do what it should.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A thread can't be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// No memory for the flow table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A connection has no room.
    #[error(transparent)]
    Insert(#[from] InsertError),
    /// No reader's place left.
    #[error(transparent)]
    Readers(#[from] TooManyReaders),
    /// No adjacency left.
    #[error(transparent)]
    Adjacency(#[from] AdjacencyError),
    /// No ingress context left.
    #[error(transparent)]
    Context(#[from] TooManyContexts),
    /// No message to the kernel can be made.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The peer refuses.
    #[error("rte_hash: {0}")]
    Peer(&'static str),
    /// All queues that the benchmark made are in use.
    #[error("no queue left")]
    Queues,
    /// A path did not do what is measured, so its figure would mean nothing.
    #[error("{0}: {1}")]
    Wrong(String, String),
    /// Results can't be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
