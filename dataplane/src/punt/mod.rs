//! The way to the kernel and back: twins, rings, and the proof that flows earn by being forwarded.

mod bell;
mod fingerprints;
mod local;
mod observation;
mod rings;
mod thread;
mod unknown;

pub use bell::Bell;
pub use local::LocalAddresses;
pub use observation::{Observation, Proof, PuntCommand};
pub use rings::{FromKernel, PuntClass, PuntEvent, PuntRings, Punted};
pub use thread::{PuntCounters, PuntLink, PuntThread, TwinCounters};
