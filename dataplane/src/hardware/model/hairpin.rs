//! Hairpin queues of the model NIC: as strict as mlx5 between two ports.

use std::collections::{HashMap, HashSet};

use nix::errno::Errno;

use crate::dpdk::Direction;
use crate::dpdk::flow_rule::{ErrorKind, FlowError};
use crate::dpdk::hairpin::HairpinConf;

/// Port and queue.
type End = (u16, u16);

/// Which hairpin queues there are, and which are bound.
#[derive(Debug, Default)]
pub(super) struct Hairpins {
    /// Their peers.
    rx: HashMap<End, End>,
    tx: HashMap<End, End>,
    /// Pairs of ports: the one that transmits, and the one that receives.
    bound: HashSet<(u16, u16)>,
}

fn refuse<T>(message: &str) -> Result<T, FlowError> {
    Err(FlowError::new(ErrorKind::State, Errno::EINVAL, message))
}

impl Hairpins {
    /// Sets a queue up that stands behind so many of software, on a NIC with these ports.
    pub(super) fn set_up(
        &mut self,
        end: End,
        direction: Direction,
        conf: &HairpinConf,
        software: u16,
        ports: &[u16],
    ) -> Result<(), FlowError> {
        if end.1 < software {
            return refuse("the queue is one of software's");
        }
        let [peer] = conf.peers()[..] else { return refuse("a hairpin queue has one peer") };
        if !conf.is_bound_by_hand() || !conf.is_explicit() {
            return refuse("hairpin queues are bound by hand, and rules for what they send are explicit");
        }
        if !ports.contains(&peer.0) {
            return refuse("a hairpin queue's peer is no port of this NIC");
        }
        let queues = match direction {
            Direction::Receive => &mut self.rx,
            Direction::Transmit => &mut self.tx,
        };
        match queues.insert(end, peer) {
            None => Ok(()),
            Some(_) => refuse("the hairpin queue is set up already"),
        }
    }

    /// Binds all queues by which a port transmits what another receives.
    pub(super) fn bind(&mut self, tx: u16, rx: u16) -> Result<(), FlowError> {
        let mut queues = self.tx.iter().filter(|((port, _), peer)| *port == tx && peer.0 == rx).peekable();
        if queues.peek().is_none() {
            return refuse("there are no hairpin queues between these ports");
        }
        if !queues.all(|(end, peer)| self.rx.get(peer) == Some(end)) {
            return refuse("a hairpin queue's peer has another peer");
        }
        if self.bound.insert((tx, rx)) { Ok(()) } else { refuse("these ports are bound already") }
    }

    /// The port by which packets leave that are sent to a receive queue; none if it is no hairpin queue.
    pub(super) fn leads_to(&self, end: End) -> Option<Result<u16, FlowError>> {
        let (to, _) = *self.rx.get(&end)?;
        Some(if self.bound.contains(&(to, end.0)) {
            Ok(to)
        } else {
            refuse("the hairpin queue is not bound")
        })
    }
}
