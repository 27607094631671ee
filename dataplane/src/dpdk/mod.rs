//! Safe wrappers around DPDK and the kernel's taps: the only user of `dpdk-sys`.
//!
//! Everything that DPDK owns is held by a handle that gives it back: [`Eal`], [`Mempool`], [`Mbuf`], [`Port`] and its
//! queues. Handles keep alive what they stand on, so they may be dropped in any order, on any thread.
//!
//! ```no_run
//! use dataplane::dpdk::{Burst, Eal, EalOptions, Mempool, Port, PortConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let _eal = Eal::init(&EalOptions::default())?;
//! let pool = Mempool::packets("packets", 8191, 2048, 256, None)?;
//! let port = Port::attach("net_null0", None)?;
//! port.configure(&PortConfig::new(&pool))?;
//! port.start()?;
//! let (mut rx, mut tx) = port.take_queues()?;
//! let mut burst = Burst::new();
//! rx[0].burst(&mut burst);
//! tx[0].burst(&mut burst);
//! # Ok(())
//! # }
//! ```

mod burst;
mod eal;
mod error;
pub mod flow_rule;
pub mod hairpin;
mod keeper;
mod log;
mod mbuf;
mod mempool;
mod netdev;
mod netns;
mod port;
mod tap;
#[cfg(all(test, not(loom)))]
pub(crate) mod testing;
mod thread;
mod tun;

pub use burst::{BURST_MAX, Burst, Following, Sieve};
pub use eal::{Eal, EalError, EalOptions, Hugepages};
pub use error::Cause;
pub use keeper::Keeper;
pub use mbuf::{Mbuf, Note, RxFlags};
pub use mempool::{Mempool, MempoolError};
pub use port::{
    Direction, Link, Port, PortConfig, PortError, PortInfo, PortStats, ReceiveHook, RxQueue, SharedTx,
    TxQueue, wire_mac_of,
};
pub use tap::{Tap, TapError, TapOptions, VhostError, VhostQueues};
pub use thread::{RegisterError, ThreadRegistration, register_thread, tsc, tsc_hz};
