//! The queues of a port: what workers poll and send to.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dpdk_sys as sys;

use super::Inner;
use crate::dpdk::Burst;

/// A receive queue of a started port.
#[derive(Debug)]
pub struct RxQueue(Handle);

/// A transmit queue of a started port.
#[derive(Debug)]
pub struct TxQueue(Handle);

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
        Self(Handle::new(port, queue))
    }

    /// Receives what has arrived, up to the burst's room, behind what is in it. Gives the number of new packets.
    #[inline]
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        let Handle { port_id, queue, .. } = self.0;
        // SAFETY: while a handle of the queue exists the port stays started, and there is one handle a queue. The
        // driver writes at most `room` packets, which are ours then.
        unsafe { burst.fill(|array, room| sys::shim_rx_burst(port_id, queue, array, room)) }
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.0.port_id
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.0.queue
    }
}

impl TxQueue {
    pub(super) fn new(port: &Arc<Inner>, queue: u16) -> Self {
        Self(Handle::new(port, queue))
    }

    /// Sends packets from the front of the burst, and leaves those in it that the queue has no room for. Gives the
    /// number sent.
    #[inline]
    pub fn burst(&mut self, burst: &mut Burst) -> usize {
        let Handle { port_id, queue, .. } = self.0;
        // SAFETY: while a handle of the queue exists the port stays started, and there is one handle a queue. The
        // driver takes over the first packets, as many as it returns.
        unsafe { burst.take(|array, n| sys::shim_tx_burst(port_id, queue, array, n)) }
    }

    /// The port's id.
    pub fn port(&self) -> u16 {
        self.0.port_id
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.0.queue
    }
}
