//! Connections that live long in an unusual way: half closed with much still to come, and idle but for keepalives.

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Way};
use lab::topology::SERVER;
use lab::{Lab, LabError, Meter, Plane, Result, conntrack, wait};
use socket2::{SockRef, TcpKeepalive};

/// A connection in a laboratory where a TCP state has this timeout, in seconds.
fn lab_and_pair(state: &str, timeout: u64) -> Result<(Lab, Pair)> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_{state}");
    lab.gateway().sysctl(&setting, &timeout.to_string())?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    Ok((lab, pair))
}

/// A FIN one way, data the other for several times the timeout that the kernel has for that state: the entry lives as
/// long as there is data, as that of the same connection, and the end is an ordinary one.
#[test]
fn half_closed_bulk_outlives_its_timeout_and_ends_in_order() -> Result<()> {
    const TIMEOUT: u64 = 3;
    const LASTS: Duration = Duration::from_secs(10);
    for way in [Way::Up, Way::Down] {
        let (lab, pair) = lab_and_pair("close_wait", TIMEOUT)?;
        let port = pair.source_port();
        lab.until_flying("tcp", port, || pair.ping(1))?;
        // So that what conntrack knows of the windows is old.
        pair.transfer_both(1_000_000)?;
        let before = conntrack::find(lab.gateway(), "tcp", port)?.expect("an entry");
        pair.half_close(way)?;
        let other = if way == Way::Up { Way::Down } else { Way::Up };
        let meter = lab.flyover().map(|gateway| Meter::start(&lab, gateway)).transpose()?;
        let started = Instant::now();
        while started.elapsed() < LASTS {
            let transfer = pair.transfer(other, 300_000)?;
            assert_eq!(transfer.sent, transfer.received);
            let entry = conntrack::find(lab.gateway(), "tcp", port)?.expect("the entry lives");
            assert_eq!((entry.id, entry.state.as_deref()), (before.id, Some("CLOSE_WAIT")), "{entry:?}");
            assert!(entry.timeout <= TIMEOUT, "{entry:?}");
            thread::sleep(Duration::from_millis(500));
        }
        if let (Some(gateway), Some(meter)) = (lab.flyover(), meter) {
            // What it costs: all of it goes through the kernel.
            let share = meter.share(&lab, gateway)?;
            assert_eq!(share.fast, 0, "{share:?}");
            let flow = gateway.flow("tcp", port)?.expect("the connection");
            assert_eq!(flow.state(), "closing", "{flow:?}");
        }
        pair.half_close(other)?;
        wait::until_true(wait::PATIENCE, "an ordinary end", || {
            conntrack::find(lab.gateway(), "tcp", port)
                .is_ok_and(|entry| entry.is_some_and(|entry| entry.state.as_deref() == Some("TIME_WAIT")))
        })?;
    }
    Ok(())
}

fn keepalive(pair: &Pair, every: Duration) -> Result<()> {
    let keepalive = TcpKeepalive::new().with_time(every).with_interval(every);
    SockRef::from(&pair.client).set_tcp_keepalive(&keepalive).map_err(LabError::io("set keepalives"))
}

/// Nothing but keepalives, for several times the timeout of an established connection. Whether they come often enough
/// to fly or so seldom that the connection is the kernel's between them, its entry stays.
fn keeps_alive(every: Duration) -> Result<()> {
    const TIMEOUT: u64 = 6;
    let (lab, pair) = lab_and_pair("established", TIMEOUT)?;
    let port = pair.source_port();
    lab.until_flying("tcp", port, || pair.ping(1))?;
    let before = conntrack::find(lab.gateway(), "tcp", port)?.expect("an entry");
    let meter = lab.flyover().map(|gateway| Meter::start(&lab, gateway)).transpose()?;
    keepalive(&pair, every)?;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4 * TIMEOUT) {
        let entry = conntrack::find(lab.gateway(), "tcp", port)?.expect("the entry lives");
        assert_eq!((entry.id, entry.state.as_deref()), (before.id, Some("ESTABLISHED")), "{entry:?}");
        thread::sleep(Duration::from_millis(200));
    }
    if let (Some(gateway), Some(meter)) = (lab.flyover(), meter) {
        let share = meter.share(&lab, gateway)?;
        println!("measured: keepalives every {every:?}: {share:?}");
    }
    // As alive as ever.
    lab.until_flying("tcp", port, || pair.ping(2))?;
    let transfer = pair.transfer(Way::Down, 1_000_000)?;
    assert_eq!(transfer.sent, transfer.received);
    // Without them the entry ends like any.
    SockRef::from(&pair.client).set_keepalive(false).map_err(LabError::io("end keepalives"))?;
    wait::until_true(Duration::from_secs(60), "the idle entry to end", || {
        conntrack::find(lab.gateway(), "tcp", port).is_ok_and(|entry| entry.is_none())
    })
}

#[test]
fn keepalives_that_come_often_keep_the_entry() -> Result<()> {
    keeps_alive(Duration::from_secs(1))
}

#[test]
fn keepalives_that_come_seldom_keep_the_entry() -> Result<()> {
    keeps_alive(Duration::from_secs(5))
}
