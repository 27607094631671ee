//! The way to the kernel and back: twins, rings, and the proof that flows earn by being forwarded.

mod bell;
mod exceptions;
mod fingerprints;
mod frames;
mod local;
mod observation;
mod outbox;
mod outgoing;
mod pace;
mod priority;
mod rings;
mod thread;
mod twin;
mod unknown;

pub use bell::Bell;
pub use exceptions::Exceptions;
pub use frames::{FromKernel, KernelFrames};
pub use local::LocalAddresses;
pub use observation::{Observation, Proof, PuntCommand};
pub use priority::PriorityTags;
pub use rings::{PuntClass, PuntEvent, PuntRings, Punted};
pub use thread::{PuntCounters, PuntLink, PuntThread, TwinCounters};
pub use twin::Twin;
