//! Flows: keys, entries, and the table that workers read and control writes.

mod key;
mod state;

pub use key::{FiveTuple, Key, Key4, Key6, TCP, UDP};
pub use state::EntryState;
