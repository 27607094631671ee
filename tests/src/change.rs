//! Watching a change take effect: how long packets still go the way that is no longer theirs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::raw::Wire;
use crate::topology::{CLIENT, SERVER};
use crate::{Lab, LabBuilder, Plane, Result, udp, wait};

/// What the laboratory's gateway is configured with.
pub const REVALIDATE_WITHIN: Duration = Duration::from_secs(1);
/// What a busy machine may add: for netlink, threads and timers to have their turn.
pub const GRACE: Duration = Duration::from_secs(2);
/// Nothing for so long: it has stopped.
pub const QUIET: Duration = Duration::from_secs(1);

/// A gateway that revalidates within [`REVALIDATE_WITHIN`], and proves again so rarely that nothing but the announced
/// change can move or stop a flow.
pub fn lab(rules: &str) -> LabBuilder {
    Lab::builder(Plane::under_test())
        .rules(rules)
        .config("flows", &format!("revalidate_within = \"{}s\"", REVALIDATE_WITHIN.as_secs()))
        .config("flows", "reprove_every = \"10m\"")
}

/// A UDP pair from the client to this port of the server.
///
/// # Errors
/// When a socket can't be had.
pub fn udp_pair(lab: &Lab, port: u16) -> Result<udp::Pair> {
    udp_pair_to(lab, SERVER, port)
}

/// The same to another address of the server's host.
///
/// # Errors
/// When a socket can't be had.
pub fn udp_pair_to(lab: &Lab, address: Ipv4Addr, port: u16) -> Result<udp::Pair> {
    let server = udp::bind(lab.server(), address, port)?;
    udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(address, port), server)
}

/// Waits until none of the streams has received anything for [`QUIET`], and says how long that took.
///
/// # Errors
/// When they go on.
pub fn until_quiet(streams: &[udp::Stream]) -> Result<Duration> {
    until_quiet_within(REVALIDATE_WITHIN + GRACE, streams)
}

/// The same with another deadline.
///
/// # Errors
/// When they go on.
pub fn until_quiet_within(deadline: Duration, streams: &[udp::Stream]) -> Result<Duration> {
    let started = Instant::now();
    let (mut last, mut since) = (0, started);
    let took = wait::until(deadline + QUIET, "the streams to stop", || {
        let received = streams.iter().map(udp::Stream::received).sum();
        if received != last {
            (last, since) = (received, Instant::now());
        }
        (since.elapsed() >= QUIET).then(|| since.duration_since(started))
    })?;
    measured("the last packet came after", took);
    Ok(took)
}

/// Makes a change, and says when the last frame came by that the kernel would have sent otherwise by then.
///
/// # Errors
/// When the change can't be made, or such frames go on beyond [`REVALIDATE_WITHIN`] and [`GRACE`].
pub fn last_of_the_old_way(
    wire: &Wire,
    is_old: impl Fn(&[u8]) -> bool,
    change: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    change()?;
    let started = Instant::now();
    let mut last = Duration::ZERO;
    while started.elapsed() < last + QUIET {
        if wire.receive(Duration::from_millis(50))?.is_some_and(|frame| is_old(&frame)) {
            last = started.elapsed();
        }
        if last > REVALIDATE_WITHIN + GRACE {
            let seconds = last.as_secs();
            return Err(crate::LabError::Timeout {
                what: "packets to leave the old way".to_owned(),
                seconds,
            });
        }
    }
    measured("the last packet the old way came after", last);
    Ok(last)
}

/// Prints how long something took, under the test's name: what docs/reliability.md tells comes from there.
pub fn measured(what: &str, took: Duration) {
    let thread = std::thread::current();
    println!("measured: {}: {what} {} ms", thread.name().unwrap_or_default(), took.as_millis());
}

/// Whether a frame is IPv4 UDP to this port.
pub fn is_udp_to(frame: &[u8], port: u16) -> bool {
    frame.get(12..14) == Some(&[8, 0])
        && frame.get(23) == Some(&17)
        && frame.get(36..38) == Some(&port.to_be_bytes())
}
