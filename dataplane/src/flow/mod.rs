//! Flows: keys, entries, and the table that workers read and control writes.
//!
//! The unsafe parts (`region`, `hash`, `tags`, `burst`) and the orders of memory accesses are checked by `make loom`,
//! `make sanitize`, `make valgrind` and, for those who have it, `make miri`; and
//! `cargo run --release -p dataplane --example table_cycles` measures.

mod adjacency;
mod arena;
mod burst;
mod context;
mod counters;
mod entry;
pub mod flags;
mod hash;
mod intern;
mod key;
mod limbo;
#[cfg(all(test, loom))]
mod loom_tests;
mod mark;
mod qsbr;
mod region;
mod slot;
mod state;
#[cfg(all(test, not(loom)))]
mod stress;
mod sync;
mod table;
mod tags;
#[cfg(all(test, not(loom)))]
mod tests;
mod writer;

pub use adjacency::{
    Adjacencies, Adjacency, AdjacencyError, AdjacencyFields, AdjacencyId, AdjacencyTable, AdjacencyWriter,
    Egress, MAX_HEADER,
};
pub use arena::{Lookup, MAX_BURST};
pub use context::{ContextTable, ContextWriter, Contexts, TooManyContexts};
pub use counters::{
    Counter, MAX_PORTS, MarkCount, MarkCounter, PacketCount, PacketCounter, Snapshot, WorkerCounters,
};
pub use entry::{Entry, Entry4, Entry6, EntryView};
pub(crate) use entry::{Line, Line4, Line6};
pub use key::{FiveTuple, Key, Key4, Key6, TCP, UDP};
pub use mark::Mark;
pub use qsbr::{MAX_READERS, Qsbr, QsbrReader, Token, TooManyReaders};
pub use region::{PageKind, Placement};
pub use slot::{FlowRef, Slot};
pub use state::EntryState;
pub use table::{FlowTable, TableConfig, TableError};
pub use writer::{InsertError, TableWriter};
