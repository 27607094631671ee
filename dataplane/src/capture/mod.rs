//! What an operator is shown of packets: which are wanted, and what workers tell of them.
//!
//! Nothing here knows of files or sockets. Control gives each worker a [`Recorder`], through its [`Door`]; the worker
//! fills it with [`Record`]s and gives it back when the capture ends. From the other end, a [`Reader`], they come out as
//! bytes. A recorder's ring is bounded and wait-free for the worker: what finds no room is counted and lost, and the
//! packet goes its way.

mod door;
mod filter;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod fuzz;
mod possible;
mod record;
mod recorder;

pub use door::Door;
pub use filter::{Filter, FilterError, Instruction, MOST_INSTRUCTIONS};
pub use possible::Template;
pub use record::{Decision, Found, Garbled, Looked, Origin, Record, What};
pub use recorder::{NoRoom, Points, Reader, Recorder, Wanted};
