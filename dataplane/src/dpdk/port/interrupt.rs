//! Sleeping until a receive queue has packets, for threads that need not poll.

use std::io;
use std::os::fd::BorrowedFd;

use dpdk_sys as sys;
use nix::errno::Errno;

use super::queue::RxQueue;

impl RxQueue {
    /// What becomes readable when a packet arrives at an [armed](Self::arm) queue. The port must have been configured
    /// with [`rx_interrupts`](super::PortConfig::rx_interrupts).
    pub fn wake_fd(&self) -> io::Result<BorrowedFd<'_>> {
        // SAFETY: the port exists as long as `self`; DPDK checks that the queue has a descriptor.
        let fd = unsafe { sys::rte_eth_dev_rx_intr_ctl_q_get_fd(self.port(), self.queue()) };
        if fd < 0 {
            return Err(Errno::ENOTSUP.into());
        }
        // SAFETY: the driver keeps the descriptor open until the port is closed, which `self` prevents.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Has the next packet make [`wake_fd`](Self::wake_fd) readable. What arrived before does not: poll once more
    /// before sleeping.
    pub fn arm(&mut self) -> io::Result<()> {
        // SAFETY: the port is started as long as `self`, and this thread alone uses the queue.
        outcome(unsafe { sys::rte_eth_dev_rx_intr_enable(self.port(), self.queue()) })
    }

    /// No more wake-ups; and takes back the one that may have come.
    pub fn disarm(&mut self) -> io::Result<()> {
        // SAFETY: as in `arm`.
        outcome(unsafe { sys::rte_eth_dev_rx_intr_disable(self.port(), self.queue()) })?;
        // An event counter that does not block: nothing to read is as good.
        let _ = nix::unistd::read(self.wake_fd()?, &mut [0; 8]);
        Ok(())
    }
}

fn outcome(ret: i32) -> io::Result<()> {
    if ret < 0 { Err(Errno::from_raw(ret.saturating_neg()).into()) } else { Ok(()) }
}
