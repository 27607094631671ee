//! TCP connections whose two ends are both in the test's hands.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{LabError, Namespace, Result, wait};

/// How long one read or write may take: a retransmission timeout or two fit in.
const IO_TIMEOUT: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 * 1024;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the end that connected to the end that accepted.
    Up,
    /// From the end that accepted to the end that connected.
    Down,
}

/// What became of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes received.
    pub bytes: u64,
    /// The SHA-256 of what was sent, in hexadecimal.
    pub sent: String,
    /// The SHA-256 of what was received, in hexadecimal.
    pub received: String,
    /// From the first byte to the last.
    pub elapsed: Duration,
    /// The longest that the receiver waited for more.
    pub longest_wait: Duration,
}

impl Transfer {
    /// Bits per second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64()
    }
}

/// A listening socket in a namespace.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
}

impl Service {
    /// Listens.
    ///
    /// # Errors
    /// When the address is not there or taken.
    pub fn listen(namespace: &Namespace, address: impl Into<IpAddr>, port: u16) -> Result<Self> {
        let address = SocketAddr::new(address.into(), port);
        let listener = namespace
            .inside(move || {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.bind(&address.into())?;
                // std's backlog of 128 is less than the connections that a test opens at once.
                socket.listen(1024)?;
                socket.set_nonblocking(true)?;
                Ok(TcpListener::from(socket))
            })
            .map_err(LabError::io(format!("listen on {address}")))?;
        Ok(Self { listener })
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// When none comes within [`wait::PATIENCE`].
    pub fn accept(&self) -> Result<TcpStream> {
        let (stream, _) = wait::until(wait::PATIENCE, "a connection", || match self.listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            result => Some(result),
        })?
        .map_err(LabError::io("accept"))?;
        stream.set_nonblocking(false).map_err(LabError::io("make blocking"))?;
        ready(stream)
    }
}

/// Connects from a namespace, from `source` if given.
///
/// # Errors
/// When the connection is refused or not there within 30 s.
pub fn connect(
    namespace: &Namespace,
    source: Option<IpAddr>,
    to: impl Into<SocketAddr>,
) -> Result<TcpStream> {
    let to = to.into();
    let stream = namespace
        .spawn(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(source) = source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            socket.connect_timeout(&to.into(), IO_TIMEOUT)?;
            Ok(TcpStream::from(socket))
        })
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .map_err(LabError::io(format!("connect to {to}")))?;
    ready(stream)
}

fn ready(stream: TcpStream) -> Result<TcpStream> {
    let set = || {
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        stream.set_nodelay(true)
    };
    set().map_err(LabError::io("set socket options"))?;
    Ok(stream)
}

/// Both ends of a connection.
#[derive(Debug)]
pub struct Pair {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that accepted.
    pub server: TcpStream,
}

impl Pair {
    /// Connects from `namespace` to `to`, which must lead to `service`.
    ///
    /// # Errors
    /// When either end does not come about.
    pub fn open(
        namespace: &Namespace,
        source: Option<IpAddr>,
        to: impl Into<SocketAddr>,
        service: &Service,
    ) -> Result<Self> {
        let client = connect(namespace, source, to)?;
        Ok(Self { client, server: service.accept()? })
    }

    /// The client's port, before any NAT: what names the connection.
    pub fn source_port(&self) -> u16 {
        self.client.local_addr().map(|address| address.port()).unwrap_or(0)
    }

    /// Where the server believes that the connection comes from.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn seen_source(&self) -> Result<SocketAddr> {
        self.server.peer_addr().map_err(LabError::io("peer address"))
    }

    /// Sends `bytes` one way and compares.
    ///
    /// # Errors
    /// When the connection breaks or stands still for 30 s.
    pub fn transfer(&self, way: Way, bytes: u64) -> Result<Transfer> {
        let (from, to) = self.ends(way);
        transfer(from, to, bytes)
    }

    /// Sends `bytes` each way at once.
    ///
    /// # Errors
    /// When the connection breaks or stands still for 30 s.
    pub fn transfer_both(&self, bytes: u64) -> Result<(Transfer, Transfer)> {
        thread::scope(|scope| {
            let up = scope.spawn(|| self.transfer(Way::Up, bytes));
            let down = self.transfer(Way::Down, bytes)?;
            Ok((join(up)?, down))
        })
    }

    /// Sends a few bytes up and back and checks them: the connection is alive, and both directions have packets.
    ///
    /// # Errors
    /// When they don't come back, or not the same.
    pub fn ping(&self, token: u64) -> Result<()> {
        for way in [Way::Up, Way::Down] {
            let (mut from, mut to) = self.ends(way);
            from.write_all(&token.to_be_bytes()).map_err(LabError::io("send a token"))?;
            let mut received = [0; 8];
            to.read_exact(&mut received).map_err(LabError::io("receive a token"))?;
            if u64::from_be_bytes(received) != token {
                return Err(LabError::Shape {
                    what: "a token came back as".to_owned(),
                    text: format!("{received:?}"),
                });
            }
        }
        Ok(())
    }

    /// Ends the connection in order: FIN from the client, then from the server. Both see the end.
    ///
    /// # Errors
    /// When either end does not see the other's FIN.
    pub fn finish(self) -> Result<()> {
        self.half_close(Way::Up)?;
        self.half_close(Way::Down)
    }

    /// Sends a FIN one way; the other way stays open.
    ///
    /// # Errors
    /// When the FIN does not arrive.
    pub fn half_close(&self, way: Way) -> Result<()> {
        let (from, mut to) = self.ends(way);
        // A delayed ACK makes the sender repeat its FIN, which conntrack takes for the other end's.
        SockRef::from(to).set_tcp_quickack(true).map_err(LabError::io("set TCP_QUICKACK"))?;
        from.shutdown(Shutdown::Write).map_err(LabError::io("send a FIN"))?;
        match to.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(LabError::Shape { what: "instead of a FIN".to_owned(), text: "data".to_owned() }),
            Err(error) => Err(LabError::io("receive a FIN")(error)),
        }
    }

    /// Ends the connection with an RST of the sending end. The other sees it.
    ///
    /// # Errors
    /// When the RST does not arrive.
    pub fn reset(self, way: Way) -> Result<()> {
        let (from, mut to) = match way {
            Way::Up => (self.client, self.server),
            Way::Down => (self.server, self.client),
        };
        // The kernel's conntrack takes an RST at its word only if it continues what was acknowledged last, and
        // acknowledgements may be delayed for 200 ms (TCP_DELACK_MAX).
        thread::sleep(Duration::from_millis(250));
        // Closing with unsent data thrown away is what makes the kernel send an RST.
        SockRef::from(&from).set_linger(Some(Duration::ZERO)).map_err(LabError::io("set SO_LINGER"))?;
        drop(from);
        match to.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(LabError::io("receive an RST")(error)),
            Ok(_) => {
                Err(LabError::Shape { what: "instead of an RST".to_owned(), text: "data or FIN".to_owned() })
            }
        }
    }

    fn ends(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Way::Up => (&self.client, &self.server),
            Way::Down => (&self.server, &self.client),
        }
    }
}

fn transfer(mut from: &TcpStream, mut to: &TcpStream, bytes: u64) -> Result<Transfer> {
    let started = Instant::now();
    let (sent, received, longest_wait) = thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut hash = Sha256::new();
            let mut chunk = noise();
            let mut left = bytes;
            while left > 0 {
                // Every chunk differs, so that one swapped for another shows.
                chunk[..8].copy_from_slice(&left.to_be_bytes());
                let part = &chunk[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
                hash.update(part);
                from.write_all(part).map_err(LabError::io(format!("send, {left} bytes before the end")))?;
                left -= part.len() as u64;
            }
            Ok(hex(&hash.finalize()))
        });
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut left = bytes;
        let mut longest_wait = Duration::ZERO;
        while left > 0 {
            let asked = Instant::now();
            let room = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            let count = match to.read(&mut buffer[..room]) {
                // A socket with a timeout tells of signals that nobody handles, such as SIGCONT (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(LabError::io(format!("receive, {left} bytes before the end")))?,
            };
            longest_wait = longest_wait.max(asked.elapsed());
            if count == 0 {
                let text = format!("{left} bytes before the end");
                return Err(LabError::Shape { what: "the connection ended".to_owned(), text });
            }
            hash.update(&buffer[..count]);
            left -= count as u64;
        }
        Ok((join(sender)?, hex(&hash.finalize()), longest_wait))
    })?;
    Ok(Transfer { bytes, sent, received, elapsed: started.elapsed(), longest_wait })
}

/// Opens `count` connections, keeps all of them open, and lets each carry `bytes` up and the same number down,
/// a few tens at a time.
///
/// # Errors
/// When one of them can't be opened, breaks, or carries something wrong.
pub fn many(
    namespace: &Namespace,
    to: impl Into<SocketAddr>,
    service: &Service,
    count: usize,
    bytes: u64,
) -> Result<Vec<Pair>> {
    let to = to.into();
    let pairs =
        (0..count).map(|_| Pair::open(namespace, None, to, service)).collect::<Result<Vec<Pair>>>()?;
    // Which client belongs to which accepted end is not given by the order of accepting.
    let pairs = matched(pairs)?;
    thread::scope(|scope| {
        let workers: Vec<_> = pairs
            .chunks(count.div_ceil(20).max(1))
            .map(|share| {
                scope.spawn(move || {
                    for pair in share {
                        let (up, down) = pair.transfer_both(bytes)?;
                        if up.sent != up.received || down.sent != down.received {
                            let text = format!("{up:?} {down:?}");
                            return Err(LabError::Shape { what: "checksums differ".to_owned(), text });
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(join)
    })?;
    Ok(pairs)
}

/// Pairs every client with the accepted end that reads what it writes.
fn matched(pairs: Vec<Pair>) -> Result<Vec<Pair>> {
    let (clients, servers): (Vec<_>, Vec<_>) =
        pairs.into_iter().map(|pair| (pair.client, pair.server)).unzip();
    let mut waiting = Vec::with_capacity(servers.len());
    for (number, mut client) in clients.iter().enumerate() {
        client.write_all(&(number as u64).to_be_bytes()).map_err(LabError::io("send a number"))?;
    }
    for mut server in servers {
        let mut number = [0; 8];
        server.read_exact(&mut number).map_err(LabError::io("receive a number"))?;
        waiting.push((u64::from_be_bytes(number), server));
    }
    waiting.sort_by_key(|(number, _)| *number);
    let servers = waiting.into_iter().map(|(_, server)| server);
    Ok(clients.into_iter().zip(servers).map(|(client, server)| Pair { client, server }).collect())
}

/// What the open TCP sockets of a namespace have had to put up with, over their lifetimes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Segments sent again.
    pub retransmits: u64,
    /// Segments that came after a later one.
    pub out_of_order: u64,
}

impl Trouble {
    /// Asks `ss`.
    ///
    /// # Errors
    /// When it fails.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        Ok(Self::parse(&namespace.run("ss -Htin")?))
    }

    /// `ss` prints these words only where they are not zero.
    fn parse(text: &str) -> Self {
        let retransmits = |word: &str| word.strip_prefix("retrans:")?.split('/').nth(1)?.parse::<u64>().ok();
        let out_of_order = |word: &str| word.strip_prefix("rcv_ooopack:")?.parse::<u64>().ok();
        Self {
            retransmits: text.split_whitespace().filter_map(retransmits).sum(),
            out_of_order: text.split_whitespace().filter_map(out_of_order).sum(),
        }
    }
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A chunk of bytes that nothing compresses or mistakes for another: xorshift64.
fn noise() -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chunk = Vec::with_capacity(CHUNK);
    while chunk.len() < CHUNK {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        chunk.extend_from_slice(&word.to_be_bytes());
    }
    chunk
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_summed_over_sockets() {
        let text = "ESTAB 0 0 10.0.0.1:1 10.0.0.2:2\n cubic retrans:1/3 rcv_ooopack:2 minrtt:0.1\n\
                    ESTAB 0 0 10.0.0.1:3 10.0.0.2:2\n cubic minrtt:0.1 retrans:0/4\n";
        assert_eq!(Trouble::parse(text), Trouble { retransmits: 7, out_of_order: 2 });
        assert_eq!(Trouble::parse(""), Trouble::default());
    }
}
