//! Metrics for Prometheus, and whether the gateway is well, over HTTP.
//!
//! A thread of its own asks the gateway over its API socket, as any client does: whoever scrapes can't hold up the
//! control thread, and sees what `flyover status` shows.

mod exposition;
mod server;

pub use exposition::{Scrape, render};
pub use server::{BindError, Listener, Server};

#[cfg(test)]
mod tests;
