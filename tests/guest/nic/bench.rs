//! The NIC under test, and the interface at the other end of its wire.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::dpdk::{Burst, Eal, EalOptions, Hugepages, Mempool, Port, PortConfig, RxQueue, TxQueue};

use crate::frames::Frame;

const BUFFERS: u32 = 8191;
const DATA_ROOM: u16 = 2048;
const CACHE: u32 = 64;
/// Long enough for an emulated machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(3);
/// Source port of the frame that ends a wait for another that may not come.
const SENTINEL: u16 = 65_000;

/// A frame that the NIC has received.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) queue: u16,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ip_bad: bool,
    pub(crate) l4_bad: bool,
    pub(crate) hash: Option<u32>,
}

impl Got {
    pub(crate) fn is(&self, frame: &[u8]) -> bool {
        self.bytes == frame
    }
}

struct Side {
    rx: Vec<RxQueue>,
    tx: Vec<TxQueue>,
    port: Port,
}

pub(crate) struct Bench {
    nic: Side,
    peer: Side,
    pool: Mempool,
    _eal: Eal,
}

impl Bench {
    pub(crate) fn open(nic: &str, peer: &str, netns: &str) -> Result<Self, Box<dyn Error>> {
        let eal = Eal::init(&EalOptions {
            hugepages: Hugepages::On,
            memory_mb: Some(128),
            pci_allow: vec![nic.to_owned()],
            file_prefix: format!("guest-nic{}", std::process::id()),
            ..EalOptions::default()
        })?;
        let pool = Mempool::packets("nic", BUFFERS, DATA_ROOM, CACHE, None)?;
        let port = Port::attach(nic, None)?;
        let queues = port.info()?.max_rx_queues.min(port.info()?.max_tx_queues).min(2);
        let nic = Side::start(port, &pool, queues, true)?;
        let netns = Path::new("/run/netns").join(netns);
        let port = Port::attach(&format!("net_af_packet0,iface={peer}"), Some(&netns))?;
        let peer = Side::start(port, &pool, 1, false)?;
        peer.port.set_promiscuous(true)?;
        let mut bench = Self { nic, peer, pool, _eal: eal };
        bench.wait_for_link()?;
        Ok(bench)
    }

    fn wait_for_link(&mut self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + 3 * PATIENCE;
        while !self.nic.port.link()?.up {
            if Instant::now() > deadline {
                return Err("the NIC has no link".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn nic(&self) -> &Port {
        &self.nic.port
    }

    pub(crate) fn queues(&self) -> usize {
        self.nic.rx.len()
    }

    /// Whether the NIC hears a frame to this address, its own being the second.
    pub(crate) fn heard(&mut self, to: [u8; 6], own: [u8; 6]) -> Result<bool, Box<dyn Error>> {
        let frame = Frame::to(to).udp(SENTINEL - 1, 100)?;
        Ok(self.ended(std::slice::from_ref(&frame), own)?.iter().any(|got| got.is(&frame)))
    }

    /// What arrives of one frame.
    pub(crate) fn one(&mut self, frame: &[u8]) -> Result<Option<Got>, Box<dyn Error>> {
        let own = self.nic.port.mac()?;
        Ok(self.ended(&[frame.to_vec()], own)?.into_iter().next())
    }

    /// What arrives of several.
    pub(crate) fn all(&mut self, frames: &[Vec<u8>]) -> Result<Vec<Got>, Box<dyn Error>> {
        let own = self.nic.port.mac()?;
        self.ended(frames, own)
    }

    /// Sends frames, and after them one to the NIC's own address, which is sent until it arrives.
    fn ended(&mut self, frames: &[Vec<u8>], own: [u8; 6]) -> Result<Vec<Got>, Box<dyn Error>> {
        let sentinel = Frame::to(own).udp(SENTINEL, 100)?;
        self.received();
        self.peer.send(&self.pool, frames)?;
        let (mut got, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while Instant::now() < deadline {
            self.peer.send(&self.pool, std::slice::from_ref(&sentinel))?;
            let next = Instant::now() + PATIENCE / 10;
            while Instant::now() < next {
                got.extend(self.received());
                if got.iter().any(|got| got.is(&sentinel)) {
                    // What another queue still has, and sentinels that were sent too often.
                    std::thread::sleep(Duration::from_millis(20));
                    got.extend(self.received());
                    got.retain(|got| !got.is(&sentinel) && !is_foreign(&got.bytes));
                    return Ok(got);
                }
            }
        }
        Err("the NIC does not hear its own address".into())
    }

    /// Whether a frame that the NIC sends arrives at the other end as it is.
    pub(crate) fn back(&mut self, frame: &[u8]) -> Result<bool, Box<dyn Error>> {
        // The other end's kernel takes the outer tag off, and its PMD puts one of 802.1Q in its place.
        let retagged = retagged(frame);
        self.nic.send(&self.pool, &[frame.to_vec()])?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.peer.receive().iter().any(|got| got.bytes == frame || got.bytes == retagged) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn received(&mut self) -> Vec<Got> {
        self.nic.receive()
    }
}

impl Side {
    fn start(port: Port, pool: &Mempool, queues: u16, is_nic: bool) -> Result<Self, Box<dyn Error>> {
        port.configure(&PortConfig {
            rx_queues: queues,
            tx_queues: queues,
            rx_descriptors: 256,
            tx_descriptors: 256,
            rss: queues > 1,
            rx_checksum: is_nic,
            ..PortConfig::new(pool)
        })?;
        port.start()?;
        let (rx, tx) = port.take_queues()?;
        Ok(Self { rx, tx, port })
    }

    fn send(&mut self, pool: &Mempool, frames: &[Vec<u8>]) -> Result<(), Box<dyn Error>> {
        let tx = self.tx.first_mut().ok_or("no transmit queue")?;
        for frame in frames {
            let mut packet = pool.alloc().ok_or("no buffer")?;
            if !packet.extend_from_slice(frame) {
                return Err("too long a frame".into());
            }
            let mut burst = Burst::new();
            burst.extend([packet]);
            let deadline = Instant::now() + PATIENCE;
            while tx.burst(&mut burst) == 0 {
                if Instant::now() > deadline {
                    return Err("the transmit queue stays full".into());
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        for rx in &mut self.rx {
            let queue = rx.queue();
            let mut burst = Burst::new();
            while rx.burst(&mut burst) > 0 {
                all.extend(burst.drain().map(|packet| Got {
                    queue,
                    bytes: packet.data().to_vec(),
                    ip_bad: packet.offload_flags().ip_checksum_bad(),
                    l4_bad: packet.offload_flags().l4_checksum_bad(),
                    hash: packet.rss_hash(),
                }));
            }
        }
        all
    }
}

/// What the kernel at the other end says by itself, such as router solicitations.
fn is_foreign(frame: &[u8]) -> bool {
    frame.get(6..12) != Some(&[0x02, 0, 0, 0, 0xee, 0x01])
}

fn retagged(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(protocol) = frame.get_mut(12..14).filter(|protocol| **protocol == [0x88, 0xa8]) {
        protocol.copy_from_slice(&[0x81, 0x00]);
    }
    frame
}
