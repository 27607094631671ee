//! A running gateway: brings up ports, twins and threads, then follows the kernel until told to stop.

mod bring_up;
mod captures;
mod collector;
mod error;
mod events;
mod explain;
mod export;
mod flowtables;
mod hardware;
mod interfaces;
mod kept;
mod numa;
mod offload;
mod own_table;
mod plane;
mod ports;
mod reload;
mod remake;
mod report;
mod roster;
mod rules;
mod service;
mod settle;
mod shares;
mod shortfall;
mod start;
mod state;
mod threads;
mod twins;
mod watchdog;

use std::time::Duration;

pub use error::GatewayError;

use crate::cli::RunOptions;
use crate::config::Config;
use crate::metrics::Listener;

/// Runs a gateway until SIGTERM or SIGINT.
///
/// # Errors
///
/// Whatever keeps it from starting, or from going on. All that it made is undone: interfaces, sockets, devices.
pub fn run(config: &Config, options: &RunOptions) -> Result<(), GatewayError> {
    // Before anything is changed.
    let listener = config.metrics.listen.map(Listener::bind).transpose()?;
    let mut gateway = start::start(config, options)?;
    let serve = |listener: Listener| listener.serve(&config.api.socket);
    let metrics =
        listener.map(serve).transpose().map_err(|source| GatewayError::Thread { what: "metrics", source })?;
    gateway.serve_metrics(metrics);
    gateway.follow()
}

/// Memory in MB that packets of a configuration take.
pub(crate) fn packet_memory_mb(config: &Config) -> u32 {
    start::packet_memory_mb(config, config.workers.cores.len())
}

/// How long one wait for events lasts at the most: the pace of timers, while there are any.
const TICK: Duration = Duration::from_millis(10);
/// The same while no connection is known.
const REST: Duration = Duration::from_millis(100);
/// The same while directions wait for workers to pass a quiescent state.
const HASTE: Duration = Duration::from_millis(1);
