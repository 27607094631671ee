//! Flyover's control side: the kernel's state, the flow's life, and the user.
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod host;
pub mod ipfix;
pub mod log;
pub mod metrics;
pub mod netlink;
pub mod nft;
pub mod nics;
pub mod privilege;
pub mod ruleset;
pub mod tracker;
mod words;
