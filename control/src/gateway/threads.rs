//! The dataplane's threads: workers and the punt thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use dataplane::dpdk::register_thread;
use dataplane::punt::PuntThread;
use dataplane::worker::Worker;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::error::GatewayError;
use crate::privilege;

/// Running workers and punt thread. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    punt: Option<JoinHandle<()>>,
}

/// Pins the calling thread; a core that may not be used leaves it where it is.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_err() || sched_setaffinity(Pid::from_raw(0), &set).is_err() {
        tracing::warn!(core, "could not pin a worker to its core: it runs where the kernel puts it");
    }
}

impl Threads {
    pub(super) fn start(
        workers: Vec<(usize, Worker)>,
        punt: PuntThread,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, GatewayError> {
        let mut threads = Self { stop, workers: Vec::new(), punt: None };
        for (core, worker) in workers {
            let body = move || {
                privilege::give_up();
                pin(core);
                // Without a registration buffers are taken and given back one by one: slower, not wrong.
                let registration = register_thread();
                if let Err(error) = &registration {
                    tracing::warn!(core, %error, "a worker has no buffer cache");
                }
                worker.run();
            };
            let handle = Builder::new()
                .name(format!("worker-{core}"))
                .spawn(body)
                .map_err(|source| GatewayError::Thread { what: "worker", source })?;
            threads.workers.push(handle);
        }
        let body = move || {
            privilege::give_up();
            let _registration = register_thread();
            punt.run();
        };
        let handle = Builder::new()
            .name("punt".to_owned())
            .spawn(body)
            .map_err(|source| GatewayError::Thread { what: "punt", source })?;
        threads.punt = Some(handle);
        Ok(threads)
    }

    /// A thread that has ended although nobody asked it to.
    pub(super) fn dead(&self) -> Option<&'static str> {
        if self.workers.iter().any(JoinHandle::is_finished) {
            return Some("worker");
        }
        self.punt.as_ref().is_some_and(JoinHandle::is_finished).then_some("punt")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so already.
            let _ = worker.join();
        }
        // Dropping the twins' descriptors last keeps carrier and neighbours as long as possible.
        if let Some(punt) = self.punt.take() {
            let _ = punt.join();
        }
    }
}
