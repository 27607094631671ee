//! UDP streams with sequence numbers: what was lost, reordered, duplicated.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{LabError, Namespace, Result, wait};

/// How long a socket waits for a datagram that should be on its way.
const IO_TIMEOUT: Duration = Duration::from_secs(2);
/// The same while a [`Stream`] runs: it bounds how long stopping one takes.
const STREAM_TIMEOUT: Duration = Duration::from_millis(100);

/// The first byte of a genuine datagram. Forged ones have another.
pub const GENUINE: u8 = b'G';

/// A bound socket in a namespace.
///
/// # Errors
/// When the address is not there or taken.
pub fn bind(namespace: &Namespace, address: impl Into<IpAddr>, port: u16) -> Result<UdpSocket> {
    let address = SocketAddr::new(address.into(), port);
    namespace
        .inside(move || {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(IO_TIMEOUT))?;
            Ok(socket)
        })
        .map_err(LabError::io(format!("bind {address}")))
}

/// A client's and a server's socket.
#[derive(Debug)]
pub struct Pair {
    /// The end that speaks first, connected to where it sends.
    pub client: UdpSocket,
    /// The end that answers to wherever a datagram came from.
    pub server: UdpSocket,
}

impl Pair {
    /// A client at `source` that sends to `to`, and a server's socket that those datagrams must lead to.
    ///
    /// # Errors
    /// When a socket can't be bound.
    pub fn open(
        namespace: &Namespace,
        source: impl Into<IpAddr>,
        to: impl Into<SocketAddr>,
        server: UdpSocket,
    ) -> Result<Self> {
        let to = to.into();
        let client = bind(namespace, source, 0)?;
        client.connect(to).map_err(LabError::io(format!("connect to {to}")))?;
        Ok(Self { client, server })
    }

    /// The client's port, before any NAT.
    pub fn source_port(&self) -> u16 {
        self.client.local_addr().map(|address| address.port()).unwrap_or(0)
    }

    /// Sends a datagram up and back, and returns where the server saw it come from.
    ///
    /// # Errors
    /// When either is lost: nothing here should lose one.
    pub fn ping(&self, token: u64) -> Result<SocketAddr> {
        self.ping_of(token, 64)
    }

    /// The same with `size` bytes.
    ///
    /// # Errors
    /// When either is lost.
    pub fn ping_of(&self, token: u64, size: usize) -> Result<SocketAddr> {
        self.client.send(&datagram(token, size)).map_err(LabError::io("send"))?;
        let seen = self.arrival(token)?;
        self.server.send_to(&datagram(token, size), seen).map_err(LabError::io("send back"))?;
        let mut buffer = vec![0; 65536];
        loop {
            let length = self.client.recv(&mut buffer).map_err(LabError::io("receive at client"))?;
            if sequence(&buffer[..length]) == Some(token) {
                return Ok(seen);
            }
        }
    }

    /// Waits until the server has the datagram with this number, and returns where it came from.
    ///
    /// # Errors
    /// When it does not come.
    pub fn arrival(&self, token: u64) -> Result<SocketAddr> {
        let mut buffer = vec![0; 65536];
        loop {
            let (length, from) =
                self.server.recv_from(&mut buffer).map_err(LabError::io("receive at server"))?;
            if sequence(&buffer[..length]) == Some(token) {
                return Ok(from);
            }
        }
    }

    /// Sends `count` datagrams of `size` bytes up, evenly over `duration`, and counts what arrives.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn one_way(&self, count: u64, size: usize, duration: Duration) -> Result<Tally> {
        self.stream(count, size, duration, false)
    }

    /// The same; with `answered` the server answers each datagram with a short one, which nobody reads.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn stream(&self, count: u64, size: usize, duration: Duration, answered: bool) -> Result<Tally> {
        thread::scope(|scope| {
            let receiver = scope.spawn(|| Tally::collect(&self.server, count, answered));
            let started = Instant::now();
            for number in 0..count {
                let due = duration.mul_f64(number as f64 / count as f64);
                thread::sleep(due.saturating_sub(started.elapsed()));
                self.client.send(&datagram(number, size)).map_err(LabError::io("send"))?;
            }
            receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// What a receiver has seen of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Different ones that arrived.
    pub received: u64,
    /// Those that arrived after a later one.
    pub reordered: u64,
    /// Those that arrived once more.
    pub duplicated: u64,
    /// Those that are not of the stream.
    pub foreign: u64,
}

impl Tally {
    /// Those that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Receives until all have arrived, or nothing has for two seconds.
    fn collect(socket: &UdpSocket, sent: u64, answered: bool) -> Result<Self> {
        let mut tally = Self { sent, ..Self::default() };
        let mut seen = HashSet::new();
        let mut newest = None;
        let mut buffer = [0; 2048];
        while tally.received < sent {
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(LabError::io("receive")(error)),
            };
            tally.count(&buffer[..length], &mut seen, &mut newest);
            if answered {
                socket.send_to(&buffer[..length.min(9)], from).map_err(LabError::io("answer"))?;
            }
        }
        Ok(tally)
    }

    fn count(&mut self, payload: &[u8], seen: &mut HashSet<u64>, newest: &mut Option<u64>) {
        match sequence(payload) {
            None => self.foreign += 1,
            Some(number) if !seen.insert(number) => self.duplicated += 1,
            Some(number) => {
                self.received += 1;
                if newest.is_some_and(|newest| number < newest) {
                    self.reordered += 1;
                } else {
                    *newest = Some(number);
                }
            }
        }
    }
}

/// A payload of `size` bytes, 9 at least, with a number.
pub fn datagram(number: u64, size: usize) -> Vec<u8> {
    let mut payload = vec![0; size.max(9)];
    payload[0] = GENUINE;
    payload[1..9].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The number in a genuine payload.
pub fn sequence(payload: &[u8]) -> Option<u64> {
    let (kind, rest) = payload.split_first()?;
    let number = rest.first_chunk::<8>()?;
    (*kind == GENUINE).then(|| u64::from_be_bytes(*number))
}

/// A stream that runs until it is stopped, with counters that can be read meanwhile.
#[derive(Debug)]
pub struct Stream {
    server: UdpSocket,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Tells the sender to end.
    pause: AtomicBool,
    /// Tells the receiver to end.
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    duplicated: AtomicU64,
    foreign: AtomicU64,
}

impl Stream {
    /// Sends a datagram up every `interval`. With `answered` the server answers each, so that both directions
    /// have packets.
    ///
    /// # Errors
    /// When the sockets can't be shared with the threads.
    pub fn start(pair: &Pair, interval: Duration, answered: bool) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let client = pair.client.try_clone().map_err(LabError::io("share a socket"))?;
        let server = pair.server.try_clone().map_err(LabError::io("share a socket"))?;
        // A clone shares the option with the pair: set back when the stream ends.
        server.set_read_timeout(Some(STREAM_TIMEOUT)).map_err(LabError::io("set a timeout"))?;
        let kept = pair.server.try_clone().map_err(LabError::io("share a socket"))?;
        let sender = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !shared.pause.load(Ordering::Relaxed) {
                    let number = shared.sent.fetch_add(1, Ordering::Relaxed);
                    // A drop rule may answer with an ICMP error: part of what is tested.
                    let _ = client.send(&datagram(number, 64));
                    let mut answers = answered;
                    while answers {
                        answers = nix::sys::socket::recv(
                            std::os::fd::AsRawFd::as_raw_fd(&client),
                            &mut buffer,
                            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
                        )
                        .is_ok();
                    }
                    thread::sleep(interval);
                }
            })
        };
        let receiver = {
            let shared = Arc::clone(&shared);
            let mut seen = HashSet::new();
            thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !shared.stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = server.recv_from(&mut buffer) else { continue };
                    let counter = match sequence(&buffer[..length]) {
                        None => &shared.foreign,
                        Some(number) if !seen.insert(number) => &shared.duplicated,
                        Some(_) => &shared.received,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    if answered {
                        let _ = server.send_to(&buffer[..length], from);
                    }
                }
            })
        };
        Ok(Self { server: kept, shared, threads: vec![sender, receiver] })
    }

    /// Stops sending, waits for what is on its way, and says how many were sent and how many arrived.
    pub fn finish(mut self) -> (u64, u64) {
        self.shared.pause.store(true, Ordering::Relaxed);
        // The sender is the first of the threads; a panic in there has been printed.
        let _ = self.threads.remove(0).join();
        // Whatever has not arrived by then is lost, which the caller sees.
        let _ = wait::until_true(IO_TIMEOUT, "the last datagrams", || self.received() == self.sent());
        (self.sent(), self.received())
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Different datagrams that have arrived so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Datagrams that arrived more than once.
    pub fn duplicated(&self) -> u64 {
        self.shared.duplicated.load(Ordering::Relaxed)
    }

    /// Datagrams that arrived and are not of the stream.
    pub fn foreign(&self) -> u64 {
        self.shared.foreign.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.pause.store(true, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in there has been printed.
            let _ = thread.join();
        }
        // Fails only for a duration of zero.
        let _ = self.server.set_read_timeout(Some(IO_TIMEOUT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_tells_reordered_duplicated_and_foreign_apart() {
        let mut tally = Tally { sent: 5, ..Tally::default() };
        let (mut seen, mut newest) = (HashSet::new(), None);
        for number in [0, 2, 1, 1, 3] {
            tally.count(&datagram(number, 64), &mut seen, &mut newest);
        }
        tally.count(b"forged datagram", &mut seen, &mut newest);
        assert_eq!(tally, Tally { sent: 5, received: 4, reordered: 1, duplicated: 1, foreign: 1 });
        assert_eq!(tally.lost(), 1);
    }
}
