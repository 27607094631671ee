//! Many UDP connections at a steady pace, from one packet socket to one UDP socket.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::raw::{Wire, mac, udp_frame};
use lab::status::Status;
use lab::topology::{CLIENT, HOST_INTERFACE, LAN_SERVER, SERVER};
use lab::{Lab, LabError, Result, udp, wait};

const PORT: u16 = 5000;
const FIRST_PORT: u16 = 5001;
/// Connections for each address of the client.
const PORTS: u32 = 55_000;
/// Ethernet, IPv4 and UDP headers.
const PAYLOAD: usize = 42;

/// Connections that send.
#[derive(Debug)]
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    gaps: Mutex<Gaps>,
}

/// When datagrams arrived.
#[derive(Debug, Default)]
struct Gaps {
    last: Option<Instant>,
    longest: Duration,
    /// By connection.
    each: Vec<Option<Instant>>,
    longest_each: Duration,
}

impl Gaps {
    fn arrived(&mut self, connection: usize, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        if self.each.len() <= connection {
            self.each.resize(connection + 1, None);
        }
        if let Some(last) = self.each[connection].replace(now) {
            self.longest_each = self.longest_each.max(now - last);
        }
    }
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The longest time without any datagram.
    pub(crate) longest: Duration,
    /// The longest time without one of the same connection.
    pub(crate) longest_each: Duration,
}

impl Crowd {
    /// Sends from `connections` addresses and ports in turn, `rate` datagrams a second, and answers each.
    pub(crate) fn start(lab: &Lab, connections: u32, rate: u32) -> Result<Self> {
        // The client has no sockets for the answers, and is not to say so.
        lab.client().nft(
            "table ip quiet { chain in { type filter hook prerouting priority raw; udp sport 5000 drop; }; }",
        )?;
        let shared = Arc::new(Shared::default());
        let frames = frames(lab, connections)?;
        let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
        let server = udp::bind(lab.server(), SERVER, PORT)?;
        server.set_read_timeout(Some(Duration::from_millis(100))).map_err(LabError::io("set a timeout"))?;
        // Best effort: as much as the system allows without privilege of another kind.
        let _ = socket2::SockRef::from(&server).set_recv_buffer_size(8 << 20);
        let sender = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || send(&shared, &wire, frames, rate))
        };
        let receiver = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut buffer = [0; 256];
                while !shared.stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = server.recv_from(&mut buffer) else { continue };
                    let Some(connection) = buffer.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
                    else {
                        continue;
                    };
                    shared.received.fetch_add(1, Ordering::Relaxed);
                    let mut gaps = shared.gaps.lock().unwrap_or_else(PoisonError::into_inner);
                    gaps.arrived(connection as usize, Instant::now());
                    drop(gaps);
                    // What does not leave is no worse than what is lost on the way.
                    let _ = server.send_to(&buffer[..length], from);
                }
            })
        };
        Ok(Self { shared, threads: vec![sender, receiver] })
    }

    /// Waits until 95 of 100 connections fly, and says how long that took. At any time some are just proving
    /// themselves again, the more the rarer their packets are.
    pub(crate) fn until_flying(&self, lab: &Lab, connections: u32) -> Result<Duration> {
        let gateway = lab.flyover().ok_or_else(|| LabError::Missing("Flyover".to_owned()))?;
        let started = Instant::now();
        wait::until_true(Duration::from_secs(180), "all connections to fly", || {
            std::thread::sleep(Duration::from_millis(40));
            gateway.status().is_ok_and(|status| flying(&status) >= u64::from(connections) * 95 / 100)
        })?;
        Ok(started.elapsed())
    }

    /// The gaps since the last call.
    pub(crate) fn gaps(&self) -> Seen {
        let mut gaps = self.shared.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen { longest: gaps.longest, longest_each: gaps.longest_each };
        (gaps.longest, gaps.longest_each) = (Duration::ZERO, Duration::ZERO);
        seen
    }

    /// Datagrams sent and received so far.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.shared.sent.load(Ordering::Relaxed), self.shared.received.load(Ordering::Relaxed))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

/// Connections that fly, those that prove themselves again included.
pub(crate) fn flying(status: &Status) -> u64 {
    ["flows.software", "flows.probing"].iter().filter_map(|path| status.counter(path).ok()).sum()
}

fn frames(lab: &Lab, connections: u32) -> Result<Vec<Vec<u8>>> {
    let macs = (mac(lab.client(), HOST_INTERFACE)?, mac(lab.gateway(), "lan0")?);
    let source = |connection: u32| -> (Ipv4Addr, u16) {
        let address = if connection < PORTS { CLIENT } else { LAN_SERVER };
        (address, FIRST_PORT + (connection % PORTS) as u16)
    };
    (0..connections)
        .map(|connection| {
            let mut payload = connection.to_be_bytes().to_vec();
            payload.resize(22, 0);
            udp_frame(macs, source(connection), (SERVER, PORT), &payload)
        })
        .collect()
}

fn send(shared: &Shared, wire: &Wire, mut frames: Vec<Vec<u8>>, rate: u32) {
    // The payload counts, so that no two datagrams are equal; the checksum is left out, which IPv4 allows.
    for frame in &mut frames {
        frame[PAYLOAD - 2..PAYLOAD].fill(0);
    }
    let started = Instant::now();
    let mut number = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let due = started.elapsed().as_micros() as u64 * u64::from(rate) / 1_000_000;
        while number < due {
            let connection = (number % frames.len() as u64) as usize;
            frames[connection][PAYLOAD + 4..PAYLOAD + 12].copy_from_slice(&number.to_be_bytes());
            // A full queue loses it, as a wire would.
            let _ = wire.send(&frames[connection]);
            number += 1;
            shared.sent.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
