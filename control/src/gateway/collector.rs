//! One collector: its socket, and what becomes of messages there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::api::CollectorStatus;
use crate::config::IpfixConfig;
use crate::ipfix::{Exporter, ExporterConfig, Moment};

/// Messages sent in one go.
const BURST: usize = 64;
/// After an error nothing is sent for so long, in milliseconds.
const PAUSE: u64 = 1000;
/// An error is told for so long, in milliseconds: one that stays comes back meanwhile.
const NEWS: u64 = 10_000;
/// Nothing is ever read.
const RECEIVE_BUFFER: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    collector: SocketAddr,
    socket: UdpSocket,
    pub(super) exporter: Exporter,
    /// Nothing is sent before.
    paused_until: u64,
    /// What went wrong last, and when.
    trouble: Option<(u64, io::Error)>,
}

impl Session {
    pub(super) fn open(collector: SocketAddr, config: &IpfixConfig) -> io::Result<Self> {
        let exporter = Exporter::new(ExporterConfig {
            domain: config.observation_domain,
            process: std::process::id(),
            message_size: config.message_size,
            template_interval: config.template_interval.as_millis() as u64,
            nat_events: config.nat_events,
        });
        let socket = socket(collector, config.source)?;
        Ok(Self { collector, socket, exporter, paused_until: 0, trouble: None })
    }

    /// Whether there is something to send, and nothing that speaks against it.
    pub(super) fn may_send(&self, now: u64) -> bool {
        now >= self.paused_until && self.exporter.next().is_some()
    }

    /// Sends what waits, as much as the socket takes and not too much at a time; `true`: there is more.
    pub(super) fn send(&mut self, now: u64) -> bool {
        for _ in 0..BURST {
            let Some(message) = self.exporter.next().filter(|_| now >= self.paused_until) else {
                return false;
            };
            match self.socket.send_to(message, self.collector) {
                Ok(_) => self.exporter.sent(now),
                Err(error) if is_full(&error) => return false,
                Err(error) => self.failed(now, error),
            }
        }
        self.exporter.next().is_some()
    }

    fn failed(&mut self, now: u64, error: io::Error) {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EMSGSIZE) => self.exporter.failed(),
            // The word of a message that had left. Who refused it may know no templates when it comes back.
            Some(Errno::ECONNREFUSED) => self.exporter.refused(),
            _ => {}
        }
        self.exporter.send_templates();
        self.paused_until = now + PAUSE;
        if self.trouble.is_none() {
            tracing::warn!(collector = %self.collector, %error, "flow records can't be sent, and wait");
        }
        self.trouble = Some((now, error));
    }

    /// Whether packets are still on their way out of this host.
    pub(super) fn has_unsent(&self) -> bool {
        let table = if self.collector.is_ipv4() { "udp" } else { "udp6" };
        let Ok(local) = self.socket.local_addr() else { return false };
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        queued(&table, local.port()).is_some_and(|bytes| bytes > 0)
    }

    /// The gateway ends.
    pub(super) fn give_up(&mut self, moment: Moment) {
        let before = self.exporter.totals().lost;
        self.exporter.give_up(moment);
        let lost = self.exporter.totals().lost - before;
        if lost > 0 {
            tracing::warn!(collector = %self.collector, lost, "the last flow records could not be sent");
        }
    }

    pub(super) fn status(&self, now: u64) -> CollectorStatus {
        let totals = self.exporter.totals();
        CollectorStatus {
            collector: self.collector.to_string(),
            records: totals.records,
            messages: totals.messages,
            lost: totals.lost,
            waiting: self.exporter.waiting(),
            error: self.error(now).map(ToString::to_string),
        }
    }

    pub(super) fn notice(&self, now: u64) -> Option<String> {
        let (collector, error) = (self.collector, self.error(now)?);
        Some(format!(
            "ipfix: records for {collector} can't be sent: {error}. They wait, and the oldest go first when it can be \
             reached again: `ip route get {}` shows how it is tried",
            collector.ip()
        ))
    }

    fn error(&self, now: u64) -> Option<&io::Error> {
        self.trouble.as_ref().filter(|(at, _)| now < at + NEWS).map(|(_, error)| error)
    }

    /// What went wrong is over.
    pub(super) fn forget_trouble(&mut self, now: u64) {
        if self.trouble.as_ref().is_some_and(|(at, _)| now >= at + NEWS) {
            tracing::info!(collector = %self.collector, "flow records can be sent again");
            self.trouble = None;
        }
    }
}

/// Not connected, so that the kernel chooses source and way anew with each message, as addresses and routes change; it
/// tells all the same what others answer.
fn socket(collector: SocketAddr, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(collector), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    // The source may be an address that its interface gets later.
    let any: IpAddr = if collector.is_ipv4() {
        socket.set_freebind_v4(true)?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        socket.set_freebind_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        Ipv6Addr::UNSPECIFIED.into()
    };
    socket.bind(&SocketAddr::new(source.unwrap_or(any), 0).into())?;
    Ok(socket.into())
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// Bytes that the packets of the socket with this port take, after the kernel's table of sockets.
fn queued(table: &str, port: u16) -> Option<u64> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().filter(|local| local.ends_with(&port))?;
        let (sent, _) = fields.nth(2)?.split_once(':')?;
        u64::from_str_radix(sent, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use dataplane::flow::{FiveTuple, UDP};

    use super::*;
    use crate::ipfix::{Count, EndReason, FlowRecord};

    fn config(collectors: &[SocketAddr]) -> IpfixConfig {
        IpfixConfig {
            collectors: collectors.into(),
            source: None,
            active_timeout: Duration::from_secs(60),
            template_interval: Duration::from_secs(60),
            observation_domain: 1,
            message_size: 1400,
            nat_events: false,
        }
    }

    fn record() -> FlowRecord {
        let end = IpAddr::from([192, 0, 2, 1]);
        let before = FiveTuple { proto: UDP, src: end, dst: end, sport: 1, dport: 2 };
        let count = Count { packets: 1, octets: 28 };
        let (forward, reverse, reason) = (count, count, EndReason::IdleTimeout);
        FlowRecord {
            id: 1,
            before,
            after: before,
            forward,
            reverse,
            start: 0,
            end: 0,
            reason,
            ingress: 0,
            egress: 0,
        }
    }

    #[test]
    fn the_kernels_table_tells_what_is_queued() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n \
            12: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0\n \
            13: 00000000:C001 00000000:0000 07 00000900:00000100 00:00000000 00000000     0        0 1 2 0 0\n";
        assert_eq!(queued(table, 0xc001), Some(0x900));
        assert_eq!(queued(table, 53), Some(0));
        assert_eq!(queued(table, 54), None);
    }

    /// Nobody listens: what was refused counts as lost, what comes after waits.
    #[test]
    fn a_collector_that_refuses_is_told_of() {
        let port =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let mut session = Session::open(port, &config(&[port])).expect("a socket");
        let (started, mut now) = (Instant::now(), 0);
        while session.status(now).error.is_none() {
            assert!(started.elapsed() < Duration::from_secs(20), "{session:?}");
            let moment = Moment { now, unix_ms: now };
            session.exporter.flow(moment, &record());
            session.exporter.close(moment);
            session.send(now);
            now += 1;
        }
        let status = session.status(now);
        assert!(status.error.as_deref().is_some_and(|error| error.contains("refused")), "{status:?}");
        assert!(status.waiting > 0, "{status:?}");
        assert!(session.notice(now).is_some_and(|text| text.contains("ip route get 127.0.0.1")));
        // It comes to life.
        let collector = UdpSocket::bind(port).expect("the port is free still");
        collector.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        now += PAUSE;
        session.send(now);
        let length = collector.recv(&mut [0; 2000]).expect("what waited");
        assert!(length > 16);
        session.forget_trouble(now + NEWS);
        assert_eq!(session.status(now + NEWS).error, None);
    }

    #[test]
    fn a_socket_that_is_full_is_not_waited_for() {
        let collector = UdpSocket::bind("[::1]:0").and_then(|socket| socket.local_addr()).expect("a port");
        let session = Session::open(collector, &config(&[collector])).expect("a socket");
        assert!(!session.has_unsent());
        assert!(is_full(&io::ErrorKind::WouldBlock.into()) && is_full(&Errno::ENOBUFS.into()));
    }
}
