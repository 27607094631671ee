//! The ruleset loaded anew under traffic.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use lab::rules::ROUTED;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{Device, GATEWAY_LAN, SERVER};
use lab::{Lab, LabError, Plane, Result, wait};

use crate::crowd::{Crowd, flying};
use crate::row;

/// A TCP transfer long enough to span the reload.
const BYTES: u64 = 400_000_000;
/// The default of `flows.revalidate_within`.
const REVALIDATE_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn measure(connections: u32, rate: u32) -> Result<bool> {
    println!(
        "{connections} UDP connections, {rate} datagrams a second and their answers, and a TCP transfer; on veth"
    );
    let lab = Lab::builder(Plane::Flyover).device(Device::AfPacket).rules(ROUTED).quiet().build()?;
    let gateway = lab.flyover().ok_or_else(|| LabError::Missing("Flyover".to_owned()))?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    let crowd = Crowd::start(&lab, connections, rate)?;
    crowd.until_flying(&lab, connections)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let missed = |lab: &Lab| -> Result<u64> {
        lab.flyover().map_or(Ok(0), |g| g.stats()?.counter("tracker.deadline_missed"))
    };
    let (missed_before, counted) = (missed(&lab)?, crowd.counted());
    crowd.gaps();
    let (transfer, slowest, proved) = std::thread::scope(|scope| -> Result<_> {
        let transfer = scope.spawn(|| pair.transfer(Way::Down, BYTES));
        std::thread::sleep(Duration::from_millis(500));
        lab.gateway().nft(&format!("flush ruleset\n{ROUTED}"))?;
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        wait::until_true(Duration::from_secs(120), "the deadline to be over and all to fly", || {
            slowest = slowest.max(answer(&lab));
            let late = started.elapsed() > REVALIDATE_WITHIN;
            late && gateway.status().is_ok_and(|s| flying(&s) >= u64::from(connections) * 95 / 100)
        })?;
        let proved = started.elapsed();
        let transfer = transfer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((transfer, slowest, proved))
    })?;
    let (sent, received) = crowd.counted();
    let gaps = crowd.gaps();
    println!();
    row(
        "from the reload until the deadline is over and 95 of 100 fly, s",
        format!("{:.3}", proved.as_secs_f64()),
    );
    row("directions that missed the deadline and went back", missed(&lab)? - missed_before);
    row("UDP datagrams lost on the way up", (sent - counted.0).saturating_sub(received - counted.1));
    row(
        "longest time without one of the same connection, s",
        format!("{:.3}", gaps.longest_each.as_secs_f64()),
    );
    row(
        "slowest answer of the gateway itself (TCP refused), ms",
        format!("{:.1}", slowest.as_secs_f64() * 1e3),
    );
    row("TCP bytes whose SHA-256 is equal", if transfer.sent == transfer.received { BYTES } else { 0 });
    Ok(transfer.sent == transfer.received)
}

/// How long the gateway takes to refuse a connection to itself: its control plane shares the punt path with all probes.
fn answer(lab: &Lab) -> Duration {
    const PATIENCE: Duration = Duration::from_secs(2);
    let started = Instant::now();
    let closed = SocketAddr::from((GATEWAY_LAN, 1));
    let refused = lab.client().inside(move || TcpStream::connect_timeout(&closed, PATIENCE));
    let answered = refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    if answered { started.elapsed() } else { PATIENCE }
}
