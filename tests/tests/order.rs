//! Taking a flow over does not put its packets out of order, nor lose them.

use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use lab::iperf::{Iperf, Measured};
use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Trouble, Way};
use lab::topology::SERVER;
use lab::{Lab, Meter, Plane, Result, turn};

/// A gateway between hosts that send a segment again only when it is lost, comes late by the 200 ms of the smallest
/// retransmission timeout, or out of order. With round trips of a tenth of a millisecond the kernel's tail loss
/// probe (RFC 8985) repeats segments on a busy machine also where nothing but the kernel forwards.
fn lab() -> Result<Lab> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    for host in [lab.client(), lab.server()] {
        host.sysctl("net.ipv4.tcp_early_retrans", "0")?;
    }
    Ok(lab)
}

/// Runs iperf3 through a fresh gateway; most packets must have flown, or nothing was shown.
fn measure(iperf: &Iperf, share_at_least: f64) -> Result<Measured> {
    let _turn = turn::take();
    let lab = lab()?;
    let meter = lab.flyover().map(|gateway| Meter::start(&lab, gateway)).transpose()?;
    let measured = iperf.run(&lab, SERVER)?;
    if let (Some(gateway), Some(meter)) = (lab.flyover(), meter) {
        let share = meter.share(&lab, gateway)?;
        assert!(share.by_flyover() > share_at_least, "{share:?}");
    }
    Ok(measured)
}

#[test]
fn udp_stays_in_order() -> Result<()> {
    let measured = measure(&Iperf::udp(5201, 4, "20M"), 0.5)?;
    assert!(measured.packets > 5_000, "{measured:?}");
    assert_eq!(measured.out_of_order, 0, "{measured:?}");
    Ok(())
}

#[test]
fn udp_of_small_packets_downwards_stays_in_order() -> Result<()> {
    let measured = measure(&Iperf::udp(5201, 4, "8M").length(200).reverse(), 0.5)?;
    assert!(measured.packets > 15_000, "{measured:?}");
    assert_eq!(measured.out_of_order, 0, "{measured:?}");
    Ok(())
}

#[test]
fn tcp_at_a_steady_rate_sends_nothing_again() -> Result<()> {
    for iperf in [Iperf::tcp(5201, 3), Iperf::tcp(5201, 3).reverse()] {
        let measured = measure(&iperf.bitrate("10M").streams(4), 0.5)?;
        assert_eq!(measured.retransmits, 0, "{measured:?}");
    }
    Ok(())
}

/// Thirty connections that are taken over in mid-flow: steady small writes from the first moment, and at both
/// ends' sockets neither a retransmission nor a segment out of order.
#[test]
fn activation_in_mid_flow_is_unnoticed() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let mut pairs = Vec::new();
    for _ in 0..30 {
        let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
        for _ in 0..40 {
            for way in [Way::Up, Way::Down] {
                pair.transfer(way, 6_000)?;
            }
            thread::sleep(Duration::from_millis(1));
        }
        pairs.push(pair);
    }
    if let Some(gateway) = lab.flyover() {
        let flows = gateway.flows()?;
        let flown = flows.iter().filter(|flow| flow.packets() > 0).count();
        assert!(flown >= 25, "only {flown} of 30 flew");
    }
    for namespace in [lab.client(), lab.server()] {
        assert_eq!(Trouble::of(namespace)?, Trouble::default());
    }
    Ok(())
}
