//! Hairpin queues: packets that a rule sends to one leave by another port, and no core sees them.
//!
//! A receive queue of the port that packets come in by and a transmit queue of the one that they leave by are each other's
//! only peer. They stand behind the queues of software. Both are set up between the configuration and the start of their
//! ports, and are bound once all ports have started. Packets leave as the rule on the first port made them: there is none
//! on the second.

use std::fmt;

use dpdk_sys as sys;

use super::flow_rule::{FlowEngine, FlowError};
use super::port::Direction;

/// What a port has (`struct rte_eth_hairpin_cap`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HairpinLimits {
    /// Hairpin queues each way.
    pub queues: u16,
    /// Descriptors of each.
    pub descriptors: u16,
}

/// How a hairpin queue is set up (`struct rte_eth_hairpin_conf`).
#[derive(Clone, Copy)]
pub struct HairpinConf(sys::rte_eth_hairpin_conf);

impl HairpinConf {
    /// With this queue of this port as its only peer, to be bound by hand, and without rules that the driver makes on the
    /// transmitting side: between two ports mlx5 takes nothing else.
    pub fn with(port: u16, queue: u16) -> Self {
        let mut conf = sys::rte_eth_hairpin_conf::default();
        conf.set_peer_count(1);
        conf.set_tx_explicit(1);
        conf.set_manual_bind(1);
        conf.peers[0] = sys::rte_eth_hairpin_peer { port, queue };
        Self(conf)
    }

    /// The same with another number of peers, or bound by the driver, to see who notices.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn but(mut self, peers: u32, by_hand: bool, explicit: bool) -> Self {
        self.0.set_peer_count(peers);
        self.0.set_manual_bind(by_hand.into());
        self.0.set_tx_explicit(explicit.into());
        self
    }

    /// Port and queue of each peer.
    pub fn peers(&self) -> Vec<(u16, u16)> {
        let count = usize::try_from(self.0.peer_count()).unwrap_or(usize::MAX);
        self.0.peers.iter().take(count).map(|peer| (peer.port, peer.queue)).collect()
    }

    /// Whether it is bound by [`Port::bind_hairpin`](super::Port::bind_hairpin), and not when its port starts.
    pub fn is_bound_by_hand(&self) -> bool {
        self.0.manual_bind() != 0
    }

    /// Whether rules on the transmitting side are the caller's.
    pub fn is_explicit(&self) -> bool {
        self.0.tx_explicit() != 0
    }

    pub(super) const fn as_ptr(&self) -> *const sys::rte_eth_hairpin_conf {
        &raw const self.0
    }
}

impl fmt::Debug for HairpinConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HairpinConf({:?})", self.peers())
    }
}

/// Hairpin queues of a port, which stand behind those of software.
#[derive(Clone, Debug, Default)]
pub struct HairpinQueues {
    /// For receiving.
    pub rx: Vec<HairpinConf>,
    /// For transmitting.
    pub tx: Vec<HairpinConf>,
}

/// A port between which and others hairpin queues are to be, and how many queues software has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HairpinPort {
    /// DPDK's number of it.
    pub id: u16,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
}

/// A hairpin receive queue that is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hairpin {
    /// Its number.
    pub queue: u16,
    /// The port that packets leave by.
    pub to: u16,
}

/// The hairpin queues of one of these ports: one each way for each port, itself included, in their order.
pub fn queues(ports: &[HairpinPort], of: usize) -> HairpinQueues {
    // Where the others have theirs for this one.
    let place = of as u16;
    HairpinQueues {
        rx: ports.iter().map(|peer| HairpinConf::with(peer.id, peer.tx_queues + place)).collect(),
        tx: ports.iter().map(|peer| HairpinConf::with(peer.id, peer.rx_queues + place)).collect(),
    }
}

/// The receive queue of a port whose peer is a queue of the port at this place.
pub fn hairpin(of: &HairpinPort, ports: &[HairpinPort], to: usize) -> Option<Hairpin> {
    ports.get(to).map(|port| Hairpin { queue: of.rx_queues + to as u16, to: port.id })
}

/// Sets hairpin queues up between ports whose driver something stands in for, and binds them; what each port has then.
///
/// # Errors
/// When it has none, or refuses.
pub fn set_up(engine: &dyn FlowEngine, ports: &[HairpinPort]) -> Result<Vec<Vec<Hairpin>>, FlowError> {
    for (at, port) in ports.iter().enumerate() {
        let limits = engine.hairpin_limits(port.id)?;
        if usize::from(limits.queues) < ports.len() {
            return Err(FlowError::unsupported());
        }
        let HairpinQueues { rx, tx } = queues(ports, at);
        for (conf, queue) in rx.iter().zip(port.rx_queues..) {
            engine.set_up_hairpin(port.id, Direction::Receive, queue, conf)?;
        }
        for (conf, queue) in tx.iter().zip(port.tx_queues..) {
            engine.set_up_hairpin(port.id, Direction::Transmit, queue, conf)?;
        }
    }
    for from in ports {
        ports.iter().try_for_each(|to| engine.bind_hairpin(to.id, from.id))?;
    }
    let of = |from: &HairpinPort| (0..ports.len()).filter_map(|to| hairpin(from, ports, to)).collect();
    Ok(ports.iter().map(of).collect())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_queue_is_the_peer_of_its_peer() {
        let ports = [(3, 2, 2), (5, 1, 4), (9, 7, 1)].map(|(id, rx_queues, tx_queues)| HairpinPort {
            id,
            rx_queues,
            tx_queues,
        });
        for (at, port) in ports.iter().enumerate() {
            for (to, other) in ports.iter().enumerate() {
                let hairpin = hairpin(port, &ports, to).expect("a queue");
                assert_eq!((hairpin.queue, hairpin.to), (port.rx_queues + to as u16, other.id));
                let peer = |conf: HairpinConf| {
                    assert!(conf.is_bound_by_hand() && conf.is_explicit());
                    conf.peers()
                };
                let [(peer_port, peer_queue)] = peer(queues(&ports, at).rx[to])[..] else {
                    panic!("one peer")
                };
                let back = queues(&ports, to).tx[usize::from(peer_queue - other.tx_queues)];
                assert_eq!((peer_port, peer(back)), (other.id, vec![(port.id, hairpin.queue)]));
            }
        }
    }
}
