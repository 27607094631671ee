//! A net_tap port, the kernel's side of it in a network namespace, and the filters there.

use std::error::Error;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::dpdk::flow_rule::FlowRules;
use dataplane::dpdk::{Burst, Eal, EalOptions, Hugepages, Mempool, Port, PortConfig, RxQueue, TxQueue};
use lab::Namespace;

/// The tap's name.
pub(crate) const TAP: &str = "fly0";
const QUEUES: u16 = 2;
/// Ends a wait for datagrams that may not come.
const SENTINEL: u16 = 4999;
/// Long enough for an emulated machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the sentinel.
const SETTLES: Duration = Duration::from_millis(200);
/// Of an Ethernet frame.
const UDP_PORT: std::ops::Range<usize> = 36..38;

pub(crate) struct Bench {
    pub(crate) rules: FlowRules,
    rx: Vec<RxQueue>,
    tx: Vec<TxQueue>,
    pub(crate) port: Port,
    pub(crate) namespace: Namespace,
    socket: UdpSocket,
    _pool: Mempool,
    _eal: Eal,
}

/// A filter of the kernel's, as `tc -s filter show` tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Filter(String);

impl Filter {
    /// Whether it says so, however far apart its words are.
    pub(crate) fn has(&self, words: &str) -> bool {
        self.0.contains(words)
    }

    /// Packets that its action has counted.
    pub(crate) fn packets(&self) -> Option<u64> {
        let (_, rest) = self.0.split_once("Sent ")?;
        rest.split_whitespace().nth(2)?.parse().ok()
    }
}

impl Bench {
    pub(crate) fn open() -> Result<Self, Box<dyn Error>> {
        let eal = Eal::init(&EalOptions {
            hugepages: Hugepages::Off,
            memory_mb: Some(64),
            file_prefix: format!("guest-rules{}", std::process::id()),
            ..EalOptions::default()
        })?;
        let pool = Mempool::packets("rules", 4095, 2048, 64, None)?;
        let namespace = Namespace::new("rules")?;
        let path = Path::new("/run/netns").join(namespace.name());
        let port = Port::attach(&format!("net_tap0,iface={TAP}"), Some(&path))?;
        port.configure(&PortConfig { rx_queues: QUEUES, tx_queues: QUEUES, ..PortConfig::new(&pool) })?;
        port.start()?;
        let (rx, tx) = port.take_queues()?;
        for line in [
            format!("ip link set {TAP} up"),
            format!("ip address add 192.0.2.2/24 dev {TAP}"),
            format!("ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev {TAP}"),
        ] {
            namespace.run(&line)?;
        }
        let socket = namespace.inside(|| UdpSocket::bind("192.0.2.2:4000"))?;
        let rules = FlowRules::of(&port);
        Ok(Self { rules, rx, tx, port, namespace, socket, _pool: pool, _eal: eal })
    }

    /// Stops the port.
    pub(crate) fn stop(&mut self) -> Result<(), Box<dyn Error>> {
        self.rx.clear();
        self.tx.clear();
        Ok(self.port.stop()?)
    }

    /// What filters the kernel has on the tap.
    pub(crate) fn filters(&self) -> Result<Vec<Filter>, Box<dyn Error>> {
        let text = self.namespace.run(&format!("tc -s filter show dev {TAP} parent 1:"))?;
        // A head without a handle stands before each priority's.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let filters = words.split("filter protocol").filter(|filter| filter.contains(" handle "));
        Ok(filters.map(|filter| Filter(filter.to_owned())).collect())
    }

    /// Sends datagrams to a port; how many of them arrive at each queue.
    pub(crate) fn arrivals(&mut self, port: u16, count: u64) -> Result<Vec<u64>, Box<dyn Error>> {
        self.received()?;
        for _ in 0..count {
            self.socket.send_to(b"datagram", ("192.0.2.1", port))?;
        }
        let mut arrived = vec![0; self.rx.len()];
        let (began, mut sentinel) = (Instant::now(), None);
        loop {
            for (queue, to) in self.received()? {
                arrived[queue] += u64::from(to == port);
                if to == SENTINEL {
                    sentinel.get_or_insert_with(Instant::now);
                }
            }
            match sentinel {
                // What was sent before it may be in another queue.
                Some(came) if came.elapsed() > SETTLES => return Ok(arrived),
                Some(_) => {}
                None if began.elapsed() > PATIENCE => return Err("nothing arrives at the port".into()),
                None => drop(self.socket.send_to(b"sentinel", ("192.0.2.1", SENTINEL))?),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What all queues have: each datagram's queue and destination port.
    fn received(&mut self) -> Result<Vec<(usize, u16)>, Box<dyn Error>> {
        let mut all = Vec::new();
        for (queue, rx) in self.rx.iter_mut().enumerate() {
            let mut burst = Burst::new();
            while rx.burst(&mut burst) > 0 {
                for packet in burst.drain() {
                    let port = packet.data().get(UDP_PORT).ok_or("a short frame")?;
                    all.push((queue, u16::from_be_bytes([port[0], port[1]])));
                }
            }
        }
        Ok(all)
    }
}
