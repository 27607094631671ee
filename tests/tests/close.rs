//! How a connection ends in the kernel's table is as with the kernel alone.

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, SERVER};
use lab::{Lab, Plane, Result, conntrack, udp, wait};

/// How a connection is closed.
#[derive(Clone, Copy, Debug)]
enum Close {
    Fin,
    FinOfServerFirst,
    Reset(Way),
    Half(Way),
}

#[test]
fn fin_leaves_time_wait() -> Result<()> {
    ends_in(Close::Fin, "TIME_WAIT")
}

#[test]
fn fin_of_the_server_first_leaves_time_wait() -> Result<()> {
    ends_in(Close::FinOfServerFirst, "TIME_WAIT")
}

#[test]
fn rst_of_the_client_leaves_close() -> Result<()> {
    ends_in(Close::Reset(Way::Up), "CLOSE")
}

#[test]
fn rst_of_the_server_leaves_close() -> Result<()> {
    ends_in(Close::Reset(Way::Down), "CLOSE")
}

#[test]
fn half_close_leaves_close_wait() -> Result<()> {
    ends_in(Close::Half(Way::Up), "CLOSE_WAIT")?;
    ends_in(Close::Half(Way::Down), "CLOSE_WAIT")
}

/// Closes a flying connection on the plane under test, and one through the kernel alone: both must come to the
/// same state, with a timeout of the same order.
fn ends_in(close: Close, state: &str) -> Result<()> {
    let mut timeouts = Vec::new();
    for plane in [Plane::KernelOnly, Plane::under_test()] {
        let lab = Lab::builder(plane).rules(HOME_ROUTER).build()?;
        let service = Service::listen(lab.server(), SERVER, 80)?;
        let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
        let port = pair.source_port();
        lab.until_flying("tcp", port, || pair.ping(1))?;
        // Enough that the kernel's idea of the windows is old by the time that it sees the end.
        let (up, down) = pair.transfer_both(2_000_000)?;
        assert_eq!((up.sent, down.sent), (up.received, down.received));
        let open = match close {
            Close::Fin => pair.finish().map(|()| None)?,
            Close::FinOfServerFirst => {
                pair.half_close(Way::Down)?;
                pair.half_close(Way::Up)?;
                None
            }
            Close::Reset(way) => pair.reset(way).map(|()| None)?,
            Close::Half(way) => {
                pair.half_close(way)?;
                Some(pair)
            }
        };
        let mut last = None;
        let what = format!("{state} after {close:?} on {plane:?}");
        let entry = wait::until(Duration::from_secs(5), &what, || {
            last = conntrack::find(lab.gateway(), "tcp", port).ok().flatten();
            last.clone().filter(|entry| entry.state.as_deref() == Some(state))
        });
        let entry = entry.unwrap_or_else(|timeout| panic!("{timeout}; it is {last:?}"));
        timeouts.push(entry.timeout);
        drop(open);
    }
    assert!(timeouts.iter().all(|timeout| timeouts[0].abs_diff(*timeout) <= 5), "{timeouts:?}");
    Ok(())
}

/// With timeouts of 4 seconds: entries live as long as their packets flow past the kernel, and as long after that as
/// without Flyover.
#[test]
fn no_entry_expires_under_a_living_connection() -> Result<()> {
    const TIMEOUT: &str = "4";
    const ALIVE_FOR: Duration = Duration::from_secs(14);
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    for name in ["tcp_timeout_established", "udp_timeout", "udp_timeout_stream"] {
        lab.gateway().sysctl(&format!("net.netfilter.nf_conntrack_{name}"), TIMEOUT)?;
    }
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let tcp = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    let udp = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, 5000), server)?;
    lab.until_flying("tcp", tcp.source_port(), || tcp.ping(1))?;
    lab.until_flying("udp", udp.source_port(), || udp.ping(1).map(drop))?;
    let entry = |protocol, port| -> Result<Option<u64>> {
        Ok(conntrack::find(lab.gateway(), protocol, port)?.map(|entry| entry.id))
    };
    let before = (entry("tcp", tcp.source_port())?, entry("udp", udp.source_port())?);
    assert!(before.0.is_some() && before.1.is_some(), "{before:?}");
    let started = Instant::now();
    let mut token = 2;
    let mut last = started;
    while started.elapsed() < ALIVE_FOR {
        tcp.ping(token)?;
        udp.ping(token)?;
        last = Instant::now();
        token += 1;
        let now = (entry("tcp", tcp.source_port())?, entry("udp", udp.source_port())?);
        assert_eq!(now, before, "after {:?}", started.elapsed());
        thread::sleep(Duration::from_millis(200));
    }
    if let Some(gateway) = lab.flyover() {
        for (protocol, port) in [("tcp", tcp.source_port()), ("udp", udp.source_port())] {
            let flow = gateway.flow(protocol, port)?;
            assert!(flow.as_ref().is_some_and(lab::status::Flow::flies), "{flow:?}");
        }
    }
    // Idle now: the entries end when they would have without Flyover, 4 s after the last packet.
    let mut ended = [None; 2];
    wait::until_true(Duration::from_secs(60), "idle entries to expire", || {
        let ports = [("tcp", tcp.source_port()), ("udp", udp.source_port())];
        for (ended, (protocol, port)) in ended.iter_mut().zip(ports) {
            if ended.is_none() && matches!(entry(protocol, port), Ok(None)) {
                *ended = Some(last.elapsed());
            }
        }
        ended.iter().all(Option::is_some)
    })?;
    let expected = Duration::from_secs(3)..Duration::from_millis(5_500);
    assert!(ended.iter().flatten().all(|ended| expected.contains(ended)), "{ended:?}");
    Ok(())
}
