//! Why a gateway could not start or had to stop, in words for an operator.

use std::io;

use dataplane::dpdk::{EalError, MempoolError, PortError, TapError, VhostError};
use thiserror::Error;

use crate::privilege::PrivilegeError;

/// Why a gateway could not start or had to stop.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// DPDK did not start.
    #[error("DPDK could not be started")]
    Eal(#[from] EalError),
    /// Powers that are not needed are still there.
    #[error("the process can't be confined")]
    Privilege(#[from] PrivilegeError),
    /// No memory for packets.
    #[error("no memory for packet buffers; give DPDK more memory or the ports fewer descriptors")]
    Mempool(#[from] MempoolError),
    /// A port could not be set up.
    #[error("port {name}: device {device:?} could not be set up")]
    Port {
        /// The port's name.
        name: String,
        /// Its device, as configured.
        device: String,
        /// Why.
        source: PortError,
    },
    /// A port has too few queues for the workers.
    #[error(
        "port {name}: device {device:?} has {has} transmit queues, but {wants} workers need one each; \
         give [workers] cores {has} entries at the most"
    )]
    Queues {
        /// The port's name.
        name: String,
        /// Its device, as configured.
        device: String,
        /// Queues that it has.
        has: u16,
        /// Workers.
        wants: usize,
    },
    /// A twin could not be made or taken over.
    #[error("port {name}: its twin could not be set up")]
    Twin {
        /// The port's name.
        name: String,
        /// Why.
        source: TapError,
    },
    /// `twin_io = "vhost-net"` could not be had.
    #[error("port {name}: vhost-net can't carry its twin's frames; twin_io = \"auto\" would do without")]
    Vhost {
        /// The port's name.
        name: String,
        /// Why.
        source: VhostError,
    },
    /// The flow table could not be made.
    #[error("no memory for a flow table of {capacity} connections; lower [flows] capacity")]
    Table {
        /// Connections asked for.
        capacity: usize,
        /// Why.
        source: dataplane::flow::TableError,
    },
    /// A setting of the kernel could not be read or written.
    #[error("the kernel's connection tracking can't be set up")]
    Sysctl(#[from] crate::netlink::sysctl::SysctlError),
    /// A twin does not do as it is told.
    #[error("port {name}: its twin could not be {what}")]
    TwinSetting {
        /// The port's name.
        name: String,
        /// What was to be done with it.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The tables beside the flow table could not be made, or its readers be registered.
    #[error("more workers than the flow table has room for: {0}")]
    Readers(#[from] dataplane::flow::TooManyReaders),
    /// The kernel could not be talked to.
    #[error("the kernel's connection tracking can't be followed")]
    Netlink(#[from] crate::netlink::NetlinkError),
    /// The API socket could not be opened.
    #[error("the API socket could not be opened")]
    Api(#[from] crate::api::BindError),
    /// Metrics can't be served.
    #[error(transparent)]
    Metrics(#[from] crate::metrics::BindError),
    /// There is no socket for a collector.
    #[error(
        "ipfix.collectors: no socket can be opened for {collector}; is its family there (`sysctl net.ipv6.conf.all.disable_ipv6`)?"
    )]
    Collector {
        /// The collector.
        collector: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("a {what} thread could not be started")]
    Thread {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread ended by itself.
    #[error("a {0} thread ended unexpectedly; this is a fault of Flyover, please report it")]
    ThreadDied(&'static str),
    /// The event loop failed.
    #[error("the control loop's {what} failed")]
    Loop {
        /// What of it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}
