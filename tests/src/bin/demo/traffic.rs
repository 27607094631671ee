//! What the demo sends.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use lab::tcp::{self, Pair, Service, Transfer, Way};
use lab::topology::{CLIENT, GATEWAY_WAN, LAN_SERVER, SERVER};
use lab::{Gateway, Lab, Result, udp};

/// Connections besides those that carry a file.
pub(crate) const MANY: usize = 100;
const FILE: u64 = 60_000_000;
const SMALL: u64 = 400_000;
const UDP_INTERVAL: Duration = Duration::from_millis(2);

/// What was sent, with its connections still open.
#[derive(Debug)]
pub(crate) struct Carried {
    files: Vec<(Pair, Transfer)>,
    many: Vec<Pair>,
    udp: udp::Pair,
    udp_sent: u64,
    udp_arrived: u64,
}

/// What the table at the end says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses {
    pub(crate) connections: usize,
    pub(crate) files: usize,
    pub(crate) differing: usize,
    pub(crate) udp_sent: u64,
    pub(crate) udp_arrived: u64,
}

/// Sends everything at once, and returns when all has arrived.
pub(crate) fn run(lab: &Lab) -> Result<Carried> {
    let web = SocketAddrV4::new(SERVER, 80);
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    let udp = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, 5000), server)?;
    let stream = udp::Stream::start(&udp, UDP_INTERVAL, true)?;
    let (files, many) = thread::scope(|scope| {
        let up = scope.spawn(|| file(lab, Way::Up, 81));
        let down = scope.spawn(|| file(lab, Way::Down, 82));
        let forwarded = scope.spawn(|| {
            let service = Service::listen(lab.client(), LAN_SERVER, 80)?;
            let pair = Pair::open(lab.server(), None, SocketAddrV4::new(GATEWAY_WAN, 8080), &service)?;
            let transfer = pair.transfer(Way::Up, FILE)?;
            Ok((pair, transfer))
        });
        let service = Service::listen(lab.server(), SERVER, web.port())?;
        let many = tcp::many(lab.client(), web, &service, MANY, SMALL)?;
        let files = [up, down, forwarded]
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()?;
        Ok((files, many))
    })?;
    let (udp_sent, udp_arrived) = stream.finish();
    Ok(Carried { files, many, udp, udp_sent, udp_arrived })
}

fn file(lab: &Lab, way: Way, port: u16) -> Result<(Pair, Transfer)> {
    let service = Service::listen(lab.server(), SERVER, port)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, port), &service)?;
    let transfer = pair.transfer(way, FILE)?;
    Ok((pair, transfer))
}

impl Carried {
    /// How many of the connections have had packets past the kernel.
    pub(crate) fn flown(&self, gateway: &Gateway) -> Result<usize> {
        let pairs = self.files.iter().map(|(pair, _)| pair).chain(&self.many);
        let mut ports: HashSet<(&str, u16)> = pairs.map(|pair| ("tcp", pair.source_port())).collect();
        ports.insert(("udp", self.udp.source_port()));
        let flows = gateway.flows()?;
        let flown = flows.iter().filter(|flow| flow.packets() > 0);
        let ours = flown.filter(|flow| {
            flow.original().is_some_and(|o| ports.contains(&(flow.protocol(), o.source.port())))
        });
        Ok(ours.count())
    }

    /// What arrived.
    pub(crate) fn losses(&self) -> Losses {
        Losses {
            connections: self.files.len() + self.many.len() + 1,
            files: self.files.len(),
            differing: self.files.iter().filter(|(_, transfer)| transfer.sent != transfer.received).count(),
            udp_sent: self.udp_sent,
            udp_arrived: self.udp_arrived,
        }
    }

    /// Ends all connections in order.
    pub(crate) fn close(self) -> Result<()> {
        let files = self.files.into_iter().map(|(pair, _)| pair);
        files.chain(self.many).try_for_each(Pair::finish)
    }
}
