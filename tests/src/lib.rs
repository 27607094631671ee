//! Laboratories of network namespaces in which Flyover, or the kernel alone, is the gateway.
//!
//! A [`Lab`] builds namespaces for a client, a gateway and a server, and takes them away again whatever happens.
//! Its [`Plane`] decides who forwards: Flyover on tap ports, or the kernel between veth pairs with the same
//! addresses and the same ruleset, so that what the kernel does is always at hand to compare with.
//!
//! Everything here runs as root, or as an ordinary user under `tests/in-userns`.
#![forbid(unsafe_code)]

pub mod attack;
pub mod book;
pub mod captured;
pub mod carries;
pub mod change;
pub mod collector;
pub mod conntrack;
pub mod counters;
pub mod error;
pub mod explained;
pub mod gateway;
pub mod icmp;
pub mod iperf;
pub mod leftovers;
pub mod leg;
pub mod meter;
pub mod model_nic;
pub mod namespace;
pub mod oracle;
pub mod path;
pub mod process;
pub mod raw;
pub mod raw6;
pub mod report;
pub mod rules;
pub mod schema;
pub mod service;
pub mod stack;
pub mod status;
pub mod tcp;
pub mod terminal;
pub mod topology;
pub mod turn;
pub mod udp;
pub mod wait;
pub mod wrapping;

pub use error::LabError;
pub use explained::Explained;
pub use gateway::Gateway;
pub use meter::{Meter, Share};
pub use namespace::Namespace;
pub use topology::{Lab, LabBuilder, Plane};

/// What the functions of this crate return.
pub type Result<T, E = LabError> = std::result::Result<T, E>;
