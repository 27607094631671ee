//! Flyover's dataplane: DPDK ports, packets, the flow table, workers and the punt path to the kernel.
//!
//! Knows nothing of netlink, sockets or files. `unsafe` is confined to `dpdk` and `flow`.
#![deny(unsafe_code)]

pub mod capture;
pub mod clock;
#[allow(unsafe_code)]
pub mod dpdk;
pub mod flow;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub mod fuzz;
pub mod hardware;
pub mod packet;
pub mod punt;
pub mod worker;
