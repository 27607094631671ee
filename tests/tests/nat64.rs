//! NAT64 by another program: packets go into its interface as IPv6 and come out as IPv4, as with tayga (RFC 7915). Neither
//! half is a connection that Flyover could carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::dpdk::{Tap, TapOptions};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::rules::ROUTED;
use lab::topology::{CLIENT6, SERVER, SERVER6};
use lab::{Explained, Lab, LabError, Plane, Result, raw, raw6, udp};

/// What the client is to the world of IPv4.
const MAPPED: Ipv4Addr = Ipv4Addr::new(192, 168, 255, 1);
const PORT: u16 = 5000;
const UDP: u8 = 17;
/// Of nobody else in the laboratory.
const MAC: [u8; 6] = [2, 0, 0, 0, 0x64, 2];

/// An IPv4 address in the well-known prefix (RFC 6052, 2.1).
fn embedded(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    Ipv6Addr::from([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// A translator behind a tap of the gateway's.
struct Translator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Translator {
    fn start(lab: &Lab) -> Result<Self> {
        let gateway = lab.gateway();
        let tap = gateway
            .inside(|| Tap::open("nat64", TapOptions::default()))
            .map_err(|error| LabError::Missing(format!("a tap: {error}")))?;
        let hop = MAC.map(|byte| format!("{byte:02x}")).join(":");
        for line in [
            "ip address add 10.64.0.1/24 dev nat64".to_owned(),
            "ip -6 address add fd64::1/64 dev nat64 nodad".to_owned(),
            "ip link set nat64 up".to_owned(),
            format!("ip neigh add 10.64.0.2 lladdr {hop} dev nat64 nud permanent"),
            format!("ip -6 neigh add fd64::2 lladdr {hop} dev nat64 nud permanent"),
            format!("ip route add {MAPPED}/32 via 10.64.0.2 dev nat64"),
            "ip -6 route add 64:ff9b::/96 via fd64::2 dev nat64".to_owned(),
        ] {
            gateway.run(&line)?;
        }
        let macs = (MAC, raw::mac(gateway, "nat64")?);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = tap.read(&mut buffer) else {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                };
                if let Some(frame) = translated(buffer.get(..length).unwrap_or_default(), macs) {
                    // What the interface does not take is lost, as on any wire.
                    let _ = tap.write(&frame);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

/// UDP of the one family in the other.
fn translated(frame: &[u8], macs: ([u8; 6], [u8; 6])) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(datagram)) = &packet.transport else { return None };
    let (ports, payload) = ((datagram.source_port(), datagram.destination_port()), datagram.payload());
    match packet.net? {
        NetSlice::Ipv6(ip) if ip.header().source_addr() == CLIENT6 => {
            let [.., a, b, c, d] = ip.header().destination_addr().octets();
            raw::udp_frame(macs, (MAPPED, ports.0), (Ipv4Addr::new(a, b, c, d), ports.1), payload).ok()
        }
        NetSlice::Ipv4(ip) if ip.header().destination_addr() == MAPPED => {
            let from = embedded(ip.header().source_addr());
            let datagram = raw6::udp((from, ports.0), (CLIENT6, ports.1), payload).ok()?;
            raw6::frame(macs, (from, CLIENT6), ip.header().ttl(), UDP, &datagram).ok()
        }
        _ => None,
    }
}

#[test]
fn what_another_program_translates_stays() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).ipv6().rules(ROUTED).build()?;
    let _translator = Translator::start(&lab)?;
    let to = SocketAddr::from((embedded(SERVER), PORT));
    let pair = udp::Pair::open(lab.client(), CLIENT6, to, udp::bind(lab.server(), SERVER, PORT)?)?;
    let server = udp::bind(lab.server(), SERVER6, PORT)?;
    let plain = udp::Pair::open(lab.client(), CLIENT6, (SERVER6, PORT), server)?;
    lab.until_flying("udp", plain.source_port(), || {
        assert_eq!(pair.ping(1)?, SocketAddr::from((MAPPED, pair.source_port())));
        plain.ping(1).map(drop)
    })?;
    for token in 2..200 {
        assert_eq!(pair.ping(token)?.ip(), IpAddr::V4(MAPPED));
    }
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    // The IPv6 half and the IPv4 half.
    let halves: Vec<_> = gateway
        .flows()?
        .into_iter()
        .filter(|flow| flow.original().is_some_and(|way| way.source.port() == pair.source_port()))
        .collect();
    assert_eq!(halves.len(), 2, "{halves:?}");
    for half in &halves {
        assert_eq!((half.state(), half.packets()), ("candidate", 0), "{half:?}");
    }
    let found = Explained::ask(gateway, "udp", (CLIENT6, pair.source_port()), to)?;
    assert!(found.notes().contains("leads out of nat64, which is no port"), "{found:?}");
    Ok(())
}
