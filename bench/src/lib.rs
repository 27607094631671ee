//! Benchmarks of Flyover, each beside its peer in the same interleaved run. docs/performance.md explains the figures.
#![deny(unsafe_code)]

pub mod assist;
pub mod churn;
pub mod control;
pub mod error;
pub mod flows;
pub mod gateway;
pub mod machine;
pub mod measure;
pub mod micro;
pub mod path;
#[allow(unsafe_code, reason = "calls DPDK, the peer that Flyover is compared with")]
pub mod peer;
pub mod plot;
pub mod refresh;
pub mod report;
pub mod rules;
#[allow(unsafe_code, reason = "fills the packets that a DPDK driver hands to its callback")]
pub mod source;
pub mod workers;
