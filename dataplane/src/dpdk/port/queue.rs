//! The queues of a port: what workers poll and send to.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk_sys as sys;
use nix::errno::Errno;

use super::Inner;
use super::hook::Hooked;
use crate::dpdk::{Burst, ReceiveHook};

/// A receive queue of a started port.
#[derive(Debug)]
pub struct RxQueue {
    // First, so that it is taken off while the queue is still there.
    hook: Option<Hooked>,
    handle: Handle,
}

/// A transmit queue of a started port.
#[derive(Debug)]
pub struct TxQueue {
    handle: Handle,
    /// Set if the queue has [sharers](SharedTx).
    user: Option<Arc<User>>,
}

/// A transmit queue for those who run on the thread that its [`TxQueue`] is used on: such as a
/// [hook](RxQueue::set_hook) of a receive queue that is polled there. On any other thread it sends nothing.
#[derive(Debug)]
pub struct SharedTx {
    handle: Handle,
    user: Arc<User>,
}

/// The thread that uses a shared queue: the first to do so. 0 before.
#[derive(Debug, Default)]
struct User(AtomicU64);

static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The thread's number; no other has the same.
    static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
}

impl User {
    /// Whether it is this thread. Who finds nobody becomes it, for good.
    fn is_here(&self) -> bool {
        let here = THREAD.with(|number| *number);
        match self.0.load(Ordering::Relaxed) {
            0 => self.0.compare_exchange(0, here, Ordering::Relaxed, Ordering::Relaxed).is_ok(),
            user => user == here,
        }
    }
}

#[derive(Debug)]
struct Handle {
    port: Arc<Inner>,
    port_id: u16,
    queue: u16,
    // DPDK's queues are for one thread at a time.
    _not_sync: PhantomData<Cell<()>>,
}

impl Handle {
    fn new(port: &Arc<Inner>, queue: u16) -> Self {
        port.queues.fetch_add(1, Ordering::Relaxed);
        Self { port: Arc::clone(port), port_id: port.id, queue, _not_sync: PhantomData }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Release: `Port::stop` sees that this thread is done with the queue.
        self.port.queues.fetch_sub(1, Ordering::Release);
    }
}

impl RxQueue {
    pub(super) fn new(port: &Arc<Inner>, queue: u16) -> Self {
        Self { hook: None, handle: Handle::new(port, queue) }
    }

    /// Receives what has arrived, up to the burst's room, behind what is in it. Gives the number of new packets.
    #[inline]
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        let Handle { port_id, queue, .. } = self.handle;
        // SAFETY: while a handle of the queue exists the port stays started, and there is one handle a queue. The
        // driver writes at most `room` packets, which are ours then.
        unsafe { burst.fill(|array, room| sys::shim_rx_burst(port_id, queue, array, room)) }
    }

    /// Has a hook see each packet before whoever polls the queue does, on the thread that polls: what a model of a NIC
    /// needs. It stays until the queue is dropped, or another one is set.
    ///
    /// # Errors
    /// When DPDK has no memory, or was built without callbacks. Then there is no hook.
    pub fn set_hook(&mut self, hook: Box<dyn ReceiveHook>) -> Result<(), Errno> {
        self.hook = None;
        self.hook = Some(Hooked::install(self.handle.port_id, self.handle.queue, hook)?);
        Ok(())
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.handle.port_id
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.handle.queue
    }
}

impl TxQueue {
    pub(super) fn new(port: &Arc<Inner>, queue: u16) -> Self {
        Self { handle: Handle::new(port, queue), user: None }
    }

    /// Sends packets from the front of the burst, and leaves those in it that the queue has no room for. Gives the
    /// number sent.
    #[inline]
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        if self.user.as_ref().is_some_and(|user| !user.is_here()) {
            return 0;
        }
        let Handle { port_id, queue, .. } = self.handle;
        // SAFETY: while a handle of the queue exists the port stays started, and there is one handle a queue but for
        // sharers, which send on the same thread alone. The driver takes over the first packets, as many as it returns.
        unsafe { burst.take(|array, n| sys::shim_tx_burst(port_id, queue, array, n)) }
    }

    /// Shares the queue with who runs on the same thread. From then on the queue belongs to the thread that sends first,
    /// on this handle or the other, and sends nothing on others.
    pub fn share(&mut self) -> SharedTx {
        let user = Arc::clone(self.user.get_or_insert_default());
        SharedTx { handle: Handle::new(&self.handle.port, self.handle.queue), user }
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.handle.port_id
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.handle.queue
    }
}

impl SharedTx {
    /// As [`TxQueue::burst`]; nothing is sent on another thread than that handle's.
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        if !self.user.is_here() {
            return 0;
        }
        let Handle { port_id, queue, .. } = self.handle;
        // SAFETY: as in `TxQueue::burst`.
        unsafe { burst.take(|array, n| sys::shim_tx_burst(port_id, queue, array, n)) }
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.handle.port_id
    }
}
