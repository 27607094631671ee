//! Copies of a flow's packets that come in elsewhere never win the flow, nor get through.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::raw::{self, Segment, Wire};
use lab::rules::ROUTED;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, HOST_INTERFACE, SERVER};
use lab::{Lab, Plane, Result, conntrack, udp, wait};

const FORGED: &[u8] = b"forged data";

/// The host on the third port, sending what only the client may send: as fast as the client sends, every frame of
/// the client's as it was, and forged ones with its addresses.
struct Attacker {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What the attacker forges besides the copies.
#[derive(Clone, Copy)]
enum Forgery {
    Udp { port: u16, to: u16 },
    Tcp { port: u16, to: u16 },
}

impl Attacker {
    fn start(lab: &Lab, forgery: Forgery) -> Result<Self> {
        let tap = Wire::open(lab.client(), HOST_INTERFACE)?;
        let out = Wire::open(lab.other(), HOST_INTERFACE)?;
        let gateway = raw::mac(lab.gateway(), "opt0")?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = lab.other().spawn(move || {
            let macs = (out.mac, gateway);
            let mut next = Next::default();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(mut frame) = tap.receive(Duration::from_millis(1))?
                    && frame.get(6..12) == Some(&tap.mac)
                    && frame.len() >= 34
                {
                    next = Next::after(&frame).unwrap_or(next);
                    frame[0..6].copy_from_slice(&gateway);
                    frame[6..12].copy_from_slice(&out.mac);
                    out.send(&frame)?;
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                for frame in forgery.frames(macs, next)? {
                    out.send(&frame)?;
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread.join().expect("the attacker does not panic")?;
        Ok(self.sent())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The numbers that the client's next TCP segment will have: what a forged one must have to be believed.
#[derive(Clone, Copy, Default)]
struct Next {
    sequence: u32,
    acknowledgement: u32,
}

impl Next {
    fn after(frame: &[u8]) -> Option<Self> {
        let segment = TcpView::of(frame)?;
        let sequence = segment.sequence.wrapping_add(u32::try_from(segment.payload.len()).ok()?);
        Some(Self { sequence, acknowledgement: segment.acknowledgement })
    }
}

/// What these tests look at in a TCP segment over IPv4.
struct TcpView<'a> {
    source: u16,
    identification: u16,
    sequence: u32,
    acknowledgement: u32,
    reset: bool,
    payload: &'a [u8],
}

impl<'a> TcpView<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
        else {
            return None;
        };
        Some(Self {
            source: tcp.source_port(),
            identification: ip.header().identification(),
            sequence: tcp.sequence_number(),
            acknowledgement: tcp.acknowledgment_number(),
            reset: tcp.rst(),
            payload: tcp.payload(),
        })
    }
}

impl Forgery {
    fn frames(self, macs: ([u8; 6], [u8; 6]), next: Next) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Udp { port, to } => {
                // As long as a genuine datagram, so that nothing but the ingress port tells them apart.
                let mut payload = udp::datagram(u64::MAX, 64);
                payload[0] = b'F';
                Ok(vec![raw::udp_frame(macs, (CLIENT, port), (SERVER, to), &payload)?])
            }
            Self::Tcp { port, to } => {
                let Next { sequence, acknowledgement } = next;
                let forged = Segment { sequence, acknowledgement, payload: FORGED, ..Segment::default() };
                // One in the window would close the kernel's entry too: conntrack comes before rp_filter.
                let reset = Segment { reset: true, ..Segment::default() };
                [forged, reset]
                    .iter()
                    .map(|segment| raw::tcp_frame(macs, (CLIENT, port), (SERVER, to), segment))
                    .collect()
            }
        }
    }
}

fn lab() -> Result<Lab> {
    // Without NAT, so that a forged packet that got through would reach the server's socket as it is.
    Lab::builder(Plane::under_test()).third_port().rules(ROUTED).build()
}

fn udp_pair(lab: &Lab) -> Result<udp::Pair> {
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(SERVER, 5000), server)
}

/// Without this, the tests below would pass on a gateway that lets nothing through from the third port, whatever
/// it comes from.
#[test]
fn an_honest_host_on_the_third_port_gets_through() -> Result<()> {
    let lab = lab()?;
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    let pair = udp::Pair::open(lab.other(), Ipv4Addr::UNSPECIFIED, SocketAddrV4::new(SERVER, 5000), server)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    Ok(())
}

#[test]
fn udp_spoofed_from_the_first_packet_on() -> Result<()> {
    let lab = lab()?;
    let pair = udp_pair(&lab)?;
    let attacker = Attacker::start(&lab, Forgery::Udp { port: pair.source_port(), to: 5000 })?;
    wait::until_true(wait::PATIENCE, "the attack", || attacker.sent() > 100)?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(1), true)?;
    wait::until_true(wait::PATIENCE, "a thousand datagrams", || stream.received() > 1000)?;
    if let Some(gateway) = lab.flyover()
        && let Some(flow) = gateway.flow("udp", pair.source_port())?
    {
        assert!(flow.in_port() == "lan0" || !flow.flies(), "{flow:?}");
    }
    let sent = attacker.finish()?;
    assert!(sent > 500, "{sent}");
    assert_eq!((stream.foreign(), stream.duplicated()), (0, 0), "forged or copied datagrams got through");
    drop(stream);
    // The attack is over: the flow is as good as any.
    let flow = lab.until_flying("udp", pair.source_port(), || pair.ping(u64::MAX).map(drop))?;
    assert!(flow.is_none_or(|flow| flow.in_port() == "lan0"));
    Ok(())
}

#[test]
fn udp_spoofed_while_it_flies() -> Result<()> {
    let lab = lab()?;
    let pair = udp_pair(&lab)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(u64::MAX).map(drop))?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(1), true)?;
    let attacker = Attacker::start(&lab, Forgery::Udp { port: pair.source_port(), to: 5000 })?;
    wait::until_true(wait::PATIENCE, "the attack beside the stream", || {
        attacker.sent() > 1000 && stream.received() > 1000
    })?;
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("udp", pair.source_port())?.expect("the stream's entry");
        assert!(flow.flies() && flow.in_port() == "lan0", "an attack must not stop a flow either: {flow:?}");
        let punted = gateway.status()?.counter("punted_by_reason.ingress_context")?;
        assert!(punted > 500, "{punted} packets were noticed to come from elsewhere");
    }
    attacker.finish()?;
    assert_eq!((stream.foreign(), stream.duplicated()), (0, 0), "forged or copied datagrams got through");
    Ok(())
}

#[test]
fn tcp_spoofed_from_the_handshake_on() -> Result<()> {
    tcp_spoofed(false)
}

#[test]
fn tcp_spoofed_while_it_flies() -> Result<()> {
    tcp_spoofed(true)
}

fn tcp_spoofed(flies_first: bool) -> Result<()> {
    let lab = lab()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    if flies_first {
        lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    }
    let server_wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    let attacker = Attacker::start(&lab, Forgery::Tcp { port: pair.source_port(), to: 80 })?;
    wait::until_true(wait::PATIENCE, "the attack", || attacker.sent() > 100)?;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        for way in [Way::Up, Way::Down] {
            let transfer = pair.transfer(way, 20_000)?;
            assert_eq!(transfer.sent, transfer.received);
        }
        // The server's socket might throw forged segments away by itself: look at its wire.
        while let Some(frame) = server_wire.receive(Duration::ZERO)? {
            let Some(segment) = TcpView::of(&frame).filter(|view| view.source == pair.source_port()) else {
                continue;
            };
            assert!(!segment.reset && segment.payload != FORGED, "a forged segment: {frame:02x?}");
            // A retransmission has another identification.
            assert!(seen.insert((segment.identification, segment.sequence)), "a copy: {frame:02x?}");
        }
    }
    assert!(seen.len() > 100, "the capture saw {} segments", seen.len());
    let entry = conntrack::find(lab.gateway(), "tcp", pair.source_port())?;
    assert_eq!(entry.and_then(|entry| entry.state).as_deref(), Some("ESTABLISHED"));
    attacker.finish()?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    pair.finish()
}
