//! 200 MB each way: the same bytes, and next to none of their packets seen by the kernel.

use std::net::SocketAddrV4;

use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Way};
use lab::topology::SERVER;
use lab::{Lab, Meter, Plane, Result, turn};

const BYTES: u64 = 200_000_000;
/// The least number of packets that BYTES fit in, at 1448 to 1460 bytes a segment.
const SEGMENTS: u64 = BYTES / 1460;

#[test]
fn two_hundred_megabytes_up() -> Result<()> {
    bulk(Way::Up)
}

#[test]
fn two_hundred_megabytes_down() -> Result<()> {
    bulk(Way::Down)
}

fn bulk(way: Way) -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    // The measurement holds the whole connection, its handshake and its first segments included.
    let meter = lab.flyover().map(|gateway| Meter::start(&lab, gateway)).transpose()?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    let transfer = pair.transfer(way, BYTES)?;
    assert_eq!(transfer.sent, transfer.received);
    if let (Some(gateway), Some(meter)) = (lab.flyover(), meter) {
        let share = meter.share(&lab, gateway)?;
        // Without this, counters that count nothing would show any share.
        assert!(share.fast + share.punted >= SEGMENTS, "{share:?}");
        assert!(share.by_flyover() >= 0.99, "by Flyover's counters {:.4}: {share:?}", share.by_flyover());
        assert!(share.by_kernel() >= 0.99, "by the twins' counters {:.4}: {share:?}", share.by_kernel());
        let flow = gateway.flow("tcp", pair.source_port())?.expect("the connection's entry");
        assert!(flow.packets() as f64 >= 0.99 * SEGMENTS as f64, "{flow:?}");
    }
    pair.finish()
}
