//! What must hold of connections between the ends of two legs, whatever their frames are wrapped in.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dataplane::packet::wire::ETHER_VLAN;

use crate::icmp::Error;
use crate::leg::Leg;
use crate::raw::{self, Wire};
use crate::tcp::{Pair, Service, Way};
use crate::wrapping::Wrapping;
use crate::{Gateway, Lab, LabError, Result, udp, wait};

/// What a forged datagram begins with; a genuine one begins with [`udp::GENUINE`].
const FORGED: u8 = b'F';
/// Where the server's datagrams go.
pub const PORT: u16 = 5000;
/// Nobody's.
const ELSEWHERE: [Wrapping; 3] = [
    Wrapping { tags: &[(ETHER_VLAN, 99)], pppoe: None },
    Wrapping { tags: &[(ETHER_VLAN, 10), (ETHER_VLAN, 99)], pppoe: None },
    Wrapping { tags: &[], pppoe: Some(99) },
];

/// Connections from the end of one leg to that of the other fly, and differ in nothing from the kernel's: the frames that
/// leave, what becomes of packets longer than `mtu` (0: not tried), and of those that come in another wrapping.
///
/// # Errors
/// When traffic fails.
///
/// # Panics
/// When something differs.
pub fn carries(lab: &Lab, client: &Leg, server: &mut Leg, mtu: u16) -> Result<()> {
    let pair = same_bytes(lab, client, server)?;
    if mtu > 0 {
        too_long(lab, client, &pair, server.address, mtu)?;
    }
    from_elsewhere(lab, client, server, &pair)?;
    drop(pair);
    let service = Service::listen(&server.host, server.address, 80)?;
    let pair = Pair::open(&client.host, None, SocketAddrV4::new(server.address, 80), &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 2_000_000)?;
        assert_eq!(transfer.sent, transfer.received, "{way:?}");
    }
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("tcp", pair.source_port())?.expect("the connection's entry");
        let [up, down] = flow.bytes_each_way();
        assert!(up > 1_500_000 && down > 1_500_000, "most of it was to fly: {flow:?}");
    }
    pair.finish()
}

/// UDP flies, and the same frame, sent again and again while the kernel carries it and after, leaves as the same bytes.
///
/// # Errors
/// When traffic fails.
///
/// # Panics
/// When the bytes differ.
pub fn same_bytes(lab: &Lab, client: &Leg, server: &mut Leg) -> Result<udp::Pair> {
    let socket = udp::bind(&server.host, server.address, PORT)?;
    let pair =
        udp::Pair::open(&client.host, client.address, SocketAddrV4::new(server.address, PORT), socket)?;
    let from = (client.address, pair.source_port());
    let marker = udp::datagram(0x0123_4567_89ab_cdef, 100);
    let frame = raw::udp_frame(client.macs, from, (server.address, PORT), &marker)?;
    server.watch()?;
    let contains = |frame: &[u8]| frame.windows(marker.len()).any(|window| window == marker);
    let mut first: Option<Vec<u8>> = None;
    let mut again = || -> Result<()> {
        client.send(&frame)?;
        let left = server.next(Duration::from_secs(2), contains)?;
        let expected = first.get_or_insert_with(|| left.clone());
        assert_eq!(&left, expected, "what left, and what the kernel let out first");
        // The answer makes it a connection; nobody waits for it.
        let seen = pair.arrival(0x0123_4567_89ab_cdef)?;
        pair.server.send_to(b"answer", seen).map(drop).map_err(LabError::io("answer"))
    };
    lab.until_flying("udp", pair.source_port(), &mut again)?;
    let before = lab.flyover().map(|gateway| fast(gateway, &pair)).transpose()?;
    for _ in 0..20 {
        again()?;
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), before) {
        let flew = fast(gateway, &pair)? - before;
        assert!(flew >= 20, "{flew} packets of 20 and their answers");
    }
    pair.client.set_nonblocking(true).map_err(LabError::io("empty a socket"))?;
    while pair.client.recv(&mut [0; 256]).is_ok() {}
    pair.client.set_nonblocking(false).map_err(LabError::io("empty a socket"))?;
    Ok(pair)
}

fn fast(gateway: &Gateway, pair: &udp::Pair) -> Result<u64> {
    Ok(gateway.flow("udp", pair.source_port())?.map_or(0, |flow| flow.packets()))
}

/// The longest packet that goes through arrives, one byte more is answered by the kernel, and the flow flies on.
fn too_long(lab: &Lab, client: &Leg, pair: &udp::Pair, to: Ipv4Addr, mtu: u16) -> Result<()> {
    let from = (client.address, pair.source_port());
    let errors = Wire::open(&client.host, client.interface)?;
    let longest = usize::from(mtu) - 28;
    for round in 0..3 {
        let whole = udp::datagram(1000 + round, longest);
        client.send(&raw::udp_frame(client.macs, from, (to, PORT), &whole)?)?;
        pair.arrival(1000 + round)?;
        let long = udp::datagram(2000 + round, longest + 1);
        client.send(&raw::udp_frame(client.macs, from, (to, PORT), &long)?)?;
        let error = Error::wait(&errors, Error::too_big(client.address.into()))?;
        assert_eq!((error.to, error.mtu), (client.address.into(), u32::from(mtu)));
        assert_eq!(error.inner_source, from.into());
    }
    // The client's socket has heard of it too; short ones go on.
    let _ = pair.client.take_error();
    lab.until_flying("udp", pair.source_port(), || pair.ping(7).map(drop))?;
    Ok(())
}

/// Datagrams of the same 5-tuple in another wrapping are given to the kernel, and do not get through.
fn from_elsewhere(lab: &Lab, client: &Leg, server: &mut Leg, pair: &udp::Pair) -> Result<()> {
    let mut payload = udp::datagram(u64::MAX, 64);
    payload[0] = FORGED;
    let from = (client.address, pair.source_port());
    let frame = raw::udp_frame(client.macs, from, (server.address, PORT), &payload)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(7).map(drop))?;
    server.watch()?;
    let context = |gateway: &Gateway| gateway.status()?.counter("punted_by_reason.ingress_context");
    let before = lab.flyover().map(context).transpose()?;
    let others = ELSEWHERE.iter().filter(|other| **other != client.wrapping);
    let mut sent = 0;
    for other in others {
        for _ in 0..5 {
            client.send_in(other, &frame)?;
            sent += 1;
        }
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), before) {
        wait::until_true(wait::PATIENCE, "the frames from elsewhere to be punted", || {
            context(gateway).is_ok_and(|now| now == before + sent)
        })?;
        let flow = gateway.flow("udp", pair.source_port())?.expect("the stream's entry");
        assert!(flow.flies(), "{flow:?}");
    }
    pair.ping(8)?;
    let forged = server.next(Duration::from_millis(100), |frame| {
        frame.windows(payload.len()).any(|window| window == payload)
    });
    assert!(forged.is_err(), "a frame from elsewhere got through: {forged:02x?}");
    Ok(())
}
