//! What the demo sends: a function for each kind of traffic.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use lab::tcp::{self, Pair, Service, Transfer, Way};
use lab::topology::{CLIENT, CLIENT6, GATEWAY_WAN, LAN_SERVER, SERVER, SERVER6};
use lab::{Gateway, Lab, Result, udp};

/// Connections besides those that carry a file.
pub(crate) const MANY: usize = 100;
const FILE: u64 = 60_000_000;
const SMALL: u64 = 400_000;
const UDP_INTERVAL: Duration = Duration::from_millis(2);
/// As long as the quickest of machines takes for the files: enough for the stream to be found and flown.
const ONE_WAY_AT_LEAST: Duration = Duration::from_secs(2);

/// What was sent, with its connections still open.
#[derive(Debug)]
pub(crate) struct Carried {
    files: Vec<(Pair, Transfer)>,
    many: Vec<Pair>,
    udp: Exchange,
    one_way: Exchange,
    file6: (Pair, Transfer),
    udp6: Exchange,
}

/// A UDP stream, answered or not.
#[derive(Debug)]
struct Exchange {
    pair: udp::Pair,
    sent: u64,
    arrived: u64,
}

/// What the table at the end says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses {
    pub(crate) connections: usize,
    pub(crate) files: usize,
    pub(crate) differing: usize,
    pub(crate) udp_sent: u64,
    pub(crate) udp_arrived: u64,
    pub(crate) one_way_sent: u64,
    pub(crate) one_way_arrived: u64,
    pub(crate) differing6: usize,
    pub(crate) udp6_sent: u64,
    pub(crate) udp6_arrived: u64,
}

/// Sends everything at once, and returns when all has arrived.
pub(crate) fn run(lab: &Lab) -> Result<Carried> {
    let started = Instant::now();
    let udp = UdpStream::open(lab, CLIENT, SERVER, 5000, true)?;
    let one_way = UdpStream::open(lab, CLIENT, SERVER, 5001, false)?;
    let udp6 = UdpStream::open(lab, CLIENT6, SERVER6, 5000, true)?;
    let (files, file6, many) = thread::scope(|scope| {
        let up = scope.spawn(|| file(lab, SERVER, Way::Up, 81));
        let down = scope.spawn(|| file(lab, SERVER, Way::Down, 82));
        let forwarded = scope.spawn(|| forwarded(lab));
        let down6 = scope.spawn(|| file(lab, SERVER6, Way::Down, 81));
        let many = many(lab)?;
        let files = [up, down, forwarded].into_iter().map(join).collect::<Result<Vec<_>>>()?;
        Ok((files, join(down6)?, many))
    })?;
    thread::sleep(ONE_WAY_AT_LEAST.saturating_sub(started.elapsed()));
    let (udp, one_way, udp6) = (udp.finish(), one_way.finish(), udp6.finish());
    Ok(Carried { files, many, udp, one_way, file6, udp6 })
}

/// A file from or to the server.
fn file(lab: &Lab, server: impl Into<IpAddr>, way: Way, port: u16) -> Result<(Pair, Transfer)> {
    let to = SocketAddr::new(server.into(), port);
    let service = Service::listen(lab.server(), to.ip(), port)?;
    let pair = Pair::open(lab.client(), None, to, &service)?;
    let transfer = pair.transfer(way, FILE)?;
    Ok((pair, transfer))
}

/// A file through the port forward.
fn forwarded(lab: &Lab) -> Result<(Pair, Transfer)> {
    let service = Service::listen(lab.client(), LAN_SERVER, 80)?;
    let pair = Pair::open(lab.server(), None, SocketAddrV4::new(GATEWAY_WAN, 8080), &service)?;
    let transfer = pair.transfer(Way::Up, FILE)?;
    Ok((pair, transfer))
}

/// Small connections.
fn many(lab: &Lab) -> Result<Vec<Pair>> {
    let service = Service::listen(lab.server(), SERVER, 80)?;
    tcp::many(lab.client(), (SERVER, 80), &service, MANY, SMALL)
}

/// A UDP stream on its way, of which every datagram is answered, or none.
struct UdpStream(udp::Pair, udp::Stream);

impl UdpStream {
    fn open(
        lab: &Lab,
        client: impl Into<IpAddr>,
        server: impl Into<IpAddr>,
        port: u16,
        answered: bool,
    ) -> Result<Self> {
        let to = SocketAddr::new(server.into(), port);
        let pair = udp::Pair::open(lab.client(), client, to, udp::bind(lab.server(), to.ip(), to.port())?)?;
        let stream = udp::Stream::start(&pair, UDP_INTERVAL, answered)?;
        Ok(Self(pair, stream))
    }

    fn finish(self) -> Exchange {
        let (sent, arrived) = self.1.finish();
        Exchange { pair: self.0, sent, arrived }
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Carried {
    /// How many of the connections have had packets past the kernel.
    pub(crate) fn flown(&self, gateway: &Gateway) -> Result<usize> {
        let pairs = self.files.iter().chain([&self.file6]).map(|(pair, _)| pair).chain(&self.many);
        let mut ports: HashSet<(&str, u16)> = pairs.map(|pair| ("tcp", pair.source_port())).collect();
        ports.extend(
            [&self.udp, &self.one_way, &self.udp6].map(|exchange| ("udp", exchange.pair.source_port())),
        );
        let flows = gateway.flows()?;
        let flown = flows.iter().filter(|flow| flow.packets() > 0);
        let ours = flown.filter(|flow| {
            flow.original().is_some_and(|o| ports.contains(&(flow.protocol(), o.source.port())))
        });
        Ok(ours.count())
    }

    /// What arrived.
    pub(crate) fn losses(&self) -> Losses {
        let differing = |(_, transfer): &&(Pair, Transfer)| transfer.sent != transfer.received;
        Losses {
            connections: self.files.len() + self.many.len() + 4,
            files: self.files.len(),
            differing: self.files.iter().filter(differing).count(),
            udp_sent: self.udp.sent,
            udp_arrived: self.udp.arrived,
            one_way_sent: self.one_way.sent,
            one_way_arrived: self.one_way.arrived,
            differing6: usize::from(differing(&&self.file6)),
            udp6_sent: self.udp6.sent,
            udp6_arrived: self.udp6.arrived,
        }
    }

    /// The share of the stream without answers that went past the kernel.
    pub(crate) fn one_way_share(&self, gateway: &Gateway) -> Result<f64> {
        let flow = gateway.flow("udp", self.one_way.pair.source_port())?;
        Ok(flow.map_or(0, |flow| flow.packets()) as f64 / self.one_way.sent.max(1) as f64)
    }

    /// How many of the IPv6 connections have had packets past the kernel.
    pub(crate) fn flown6(&self, gateway: &Gateway) -> Result<usize> {
        let six = |flow: &lab::status::Flow| flow.original().is_some_and(|o| o.source.is_ipv6());
        Ok(gateway.flows()?.iter().filter(|flow| six(flow) && flow.packets() > 0).count())
    }

    /// Ends all connections in order.
    pub(crate) fn close(self) -> Result<()> {
        let files = self.files.into_iter().chain([self.file6]).map(|(pair, _)| pair);
        files.chain(self.many).try_for_each(Pair::finish)
    }
}
