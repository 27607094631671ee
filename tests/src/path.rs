//! Paths through the gateway, and traffic over them that must fly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::tcp::{Pair, Service, Way};
use crate::{Lab, LabError, Namespace, Result, udp};

/// Bytes each way, and how often at most.
const ROUND: u64 = 4_000_000;
const ROUNDS: usize = 10;

/// A path through the gateway: who connects from where to where, who listens where, and what it sees.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The client connects, not the server.
    pub from_client: bool,
    /// Where the connection comes from.
    pub source: IpAddr,
    /// Where it is sent to.
    pub to: SocketAddr,
    /// The client's host listens, not the server's.
    pub service_at_client: bool,
    /// Where it ends.
    pub listen: SocketAddr,
    /// Where it seems to come from there.
    pub seen: IpAddr,
}

impl Path {
    /// From the client to the server, as seen from `seen`.
    pub const fn out(source: Ipv4Addr, server: Ipv4Addr, seen: Ipv4Addr) -> Self {
        Self::out_by(IpAddr::V4(source), IpAddr::V4(server), IpAddr::V4(seen))
    }

    /// The same in either family.
    pub const fn out_by(source: IpAddr, server: IpAddr, seen: IpAddr) -> Self {
        let server = SocketAddr::new(server, 80);
        Self { from_client: true, source, to: server, service_at_client: false, listen: server, seen }
    }

    /// A connection flies, carries 4 MB each way unharmed, and is seen from where the kernel says.
    ///
    /// # Errors
    /// When it breaks or does not fly.
    ///
    /// # Panics
    /// When what is seen or counted is not as it should be.
    pub fn tcp(&self, lab: &Lab) -> Result<SocketAddr> {
        let service = Service::listen(self.host(lab), self.listen.ip(), self.listen.port())?;
        let pair = Pair::open(self.initiator(lab), Some(self.source), self.to, &service)?;
        let seen = pair.seen_source()?;
        assert_eq!(seen.ip(), self.seen);
        let flow = lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
        self.most_flies(lab, &pair)?;
        if let (Some(gateway), Some(_)) = (lab.flyover(), flow) {
            let flow = gateway.flow("tcp", pair.source_port())?.ok_or_else(gone)?;
            let original = flow.original().ok_or_else(gone)?;
            assert_eq!(original.source, SocketAddr::new(self.source, pair.source_port()));
            assert_eq!(original.destination, self.to);
            let reply = flow.reply().ok_or_else(gone)?;
            assert_eq!((reply.source, reply.destination), (self.listen, seen));
        }
        pair.finish()?;
        Ok(seen)
    }

    /// Carries 4 MB each way until of one such round nine tenths have flown in both directions.
    ///
    /// A round is over in some tens of milliseconds, and the first gives its direction back by nature: its segments are
    /// the longest so far, and have to be seen to leave in one piece. On a busy machine a thread may also be kept from
    /// running for as long as a direction waits before it goes back. Neither happens in every round, so one of few
    /// must do, and bytes of several do not add up: a flow that is given back again and again does not pass.
    fn most_flies(&self, lab: &Lab, pair: &Pair) -> Result<()> {
        let flown = || match lab.flyover() {
            Some(gateway) => Ok(gateway.flow("tcp", pair.source_port())?.ok_or_else(gone)?.bytes_each_way()),
            None => Ok([0; 2]),
        };
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let before = flown()?;
            for way in [Way::Up, Way::Down] {
                let transfer = pair.transfer(way, ROUND)?;
                assert_eq!(transfer.sent, transfer.received);
            }
            let after = flown()?;
            let round = [0, 1].map(|way| after[way].saturating_sub(before[way]));
            if lab.flyover().is_none() || round.iter().all(|bytes| *bytes >= ROUND / 10 * 9) {
                return Ok(());
            }
            rounds.push(round);
        }
        panic!("in no round of {ROUND} bytes each way most flew: {rounds:?}");
    }

    /// Datagrams of `size` bytes fly up and back, none is lost, and they are seen from where the kernel says.
    ///
    /// # Errors
    /// When one is lost or they do not fly.
    ///
    /// # Panics
    /// When what is seen or counted is not as it should be.
    pub fn udp_of(&self, lab: &Lab, size: usize) -> Result<SocketAddr> {
        let server = udp::bind(self.host(lab), self.listen.ip(), self.listen.port())?;
        let pair = udp::Pair::open(self.initiator(lab), self.source, self.to, server)?;
        let seen = pair.ping_of(0, size)?;
        assert_eq!(seen.ip(), self.seen);
        let mut token = 0;
        let flow = lab.until_flying("udp", pair.source_port(), || {
            token += 1;
            assert_eq!(pair.ping_of(token, size)?, seen);
            Ok(())
        })?;
        for token in 1000..1200 {
            assert_eq!(pair.ping_of(token, size)?, seen);
        }
        if let (Some(gateway), Some(before)) = (lab.flyover(), flow) {
            let flow = gateway.flow("udp", pair.source_port())?.ok_or_else(gone)?;
            assert!(flow.packets() - before.packets() >= 390, "{flow:?}");
        }
        Ok(seen)
    }

    /// The same with short datagrams.
    ///
    /// # Errors
    /// When one is lost or they do not fly.
    pub fn udp(&self, lab: &Lab) -> Result<SocketAddr> {
        self.udp_of(lab, 64)
    }

    /// TCP and then UDP.
    ///
    /// # Errors
    /// When either breaks or does not fly.
    pub fn both(&self, lab: &Lab) -> Result<()> {
        self.tcp(lab)?;
        self.udp(lab).map(drop)
    }

    fn initiator<'a>(&self, lab: &'a Lab) -> &'a Namespace {
        if self.from_client { lab.client() } else { lab.server() }
    }

    fn host<'a>(&self, lab: &'a Lab) -> &'a Namespace {
        if self.service_at_client { lab.client() } else { lab.server() }
    }
}

fn gone() -> LabError {
    LabError::Missing("the connection in `flyover flows`".to_owned())
}
