//! Passes frames on between two DPDK ports, as `memif-peer DEVICE DEVICE`: what a process at the other end of a
//! memif does. The first device's server must be there already.
#![forbid(unsafe_code)]

use std::error::Error;
use std::thread;
use std::time::Duration;

use dataplane::dpdk::{Burst, Eal, EalOptions, Hugepages, Mempool, Port, PortConfig, RxQueue, TxQueue};

/// An Ethernet frame of the usual MTU, and room to spare.
const DATA_ROOM: u16 = 2048;
const BUFFERS: u32 = 8191;
const IDLE: Duration = Duration::from_micros(50);

type Queues = (Port, RxQueue, TxQueue);

fn main() -> Result<(), Box<dyn Error>> {
    let devices: Vec<String> = std::env::args().skip(1).collect();
    let [one, other] = devices.as_slice() else { return Err("two devices are needed".into()) };
    let _eal = Eal::init(&EalOptions {
        hugepages: Hugepages::Off,
        file_prefix: format!("memif-peer{}", std::process::id()),
        ..EalOptions::default()
    })?;
    let pool = Mempool::packets("peer", BUFFERS, DATA_ROOM, 64, None)?;
    let (_one, mut one_rx, mut one_tx) = open(one, &pool)?;
    let (_other, mut other_rx, mut other_tx) = open(other, &pool)?;
    let mut burst = Burst::new();
    loop {
        let passed =
            pass(&mut one_rx, &mut other_tx, &mut burst) + pass(&mut other_rx, &mut one_tx, &mut burst);
        if passed == 0 {
            thread::sleep(IDLE);
        }
    }
}

fn open(device: &str, pool: &Mempool) -> Result<Queues, Box<dyn Error>> {
    let port = Port::attach(device, None)?;
    port.configure(&PortConfig { rss: false, rx_checksum: false, ..PortConfig::new(pool) })?;
    port.start()?;
    let (mut rx, mut tx) = port.take_queues()?;
    match (rx.pop(), tx.pop()) {
        (Some(rx), Some(tx)) => Ok((port, rx, tx)),
        _ => Err("a port without queues".into()),
    }
}

/// Passes on what has arrived. What the other side has no room for is lost, as on a wire.
fn pass(rx: &mut RxQueue, tx: &mut TxQueue, burst: &mut Burst) -> usize {
    let received = rx.burst(burst);
    tx.burst(burst);
    burst.clear();
    received
}
