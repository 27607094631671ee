//! DPDK for unit tests: started once for all tests of the process, without hugepages and hardware.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Burst, Eal, EalOptions, Hugepages, Mbuf, Mempool, Port, PortConfig, RxQueue, TxQueue};

/// Wires of the bench.
pub(crate) const WIRES: usize = 4;

struct Started {
    _eal: Eal,
    pool: Mempool,
    // DPDK doesn't give a ring's memory back, so they are made once.
    ports: [Port; WIRES],
}

static STARTED: OnceLock<Started> = OnceLock::new();
static TURN: Mutex<()> = Mutex::new(());

fn start() -> Started {
    let options = EalOptions {
        hugepages: Hugepages::Off,
        memory_mb: Some(64),
        file_prefix: "flyover-test-units".to_owned(),
        ..EalOptions::default()
    };
    let eal = Eal::init(&options).expect("DPDK starts");
    let pool = Mempool::packets("units", 4095, 2048, 0, None).expect("a pool");
    let ports = std::array::from_fn(|number| {
        let port = Port::attach(&format!("net_ring{number}"), None).expect("a ring");
        port.configure(&PortConfig::new(&pool)).expect("a ring is configured");
        port.start().expect("a ring starts");
        port
    });
    Started { _eal: eal, pool, ports }
}

/// DPDK for one test at a time: its memory and ports are few, and what is in use is exact.
pub(crate) struct Bench {
    started: &'static Started,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Self { started: STARTED.get_or_init(start), _turn: turn };
        // A test that failed may have left frames on the wires.
        for (_, mut rx) in bench.wires() {
            receive(&mut rx);
        }
        bench
    }

    /// A packet with this content.
    pub(crate) fn packet(&self, bytes: &[u8]) -> Mbuf {
        let mut packet = self.started.pool.alloc().expect("a buffer");
        assert!(packet.extend_from_slice(bytes));
        packet
    }

    /// The port of a wire.
    pub(crate) fn port(&self, wire: usize) -> &Port {
        &self.started.ports[wire]
    }

    /// Packets that are somewhere.
    pub(crate) fn in_use(&self) -> u32 {
        self.started.pool.in_use()
    }

    /// Rings: what is sent into one is received from it, in order.
    pub(crate) fn wires(&self) -> [(TxQueue, RxQueue); WIRES] {
        self.started.ports.each_ref().map(|port| {
            let (mut rx, mut tx) = port.take_queues().expect("queues");
            (tx.remove(0), rx.remove(0))
        })
    }
}

/// Puts frames on a wire.
pub(crate) fn send(bench: &Bench, tx: &mut TxQueue, frames: &[Vec<u8>]) {
    for frames in frames.chunks(super::BURST_MAX) {
        let mut burst = Burst::new();
        burst.extend(frames.iter().map(|frame| bench.packet(frame)));
        tx.burst(&mut burst);
        assert!(burst.is_empty(), "the wire is full");
    }
}

/// Takes all frames off a wire.
pub(crate) fn receive(rx: &mut RxQueue) -> Vec<Vec<u8>> {
    let (mut frames, mut burst) = (Vec::new(), Burst::new());
    while rx.burst(&mut burst) > 0 {
        frames.extend(burst.drain().map(|packet| packet.data().to_vec()));
    }
    frames
}
