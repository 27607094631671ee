//! Connections that the gateway takes part in: through its SYN proxy, to a transparent proxy on it, to services of its own
//! and behind interfaces that are no ports.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};
use lab::change::{self, udp_pair, until_quiet};
use lab::raw::Wire;
use lab::rules::{HOME_ROUTER, ROUTED};
use lab::tcp::{Pair, Service, Way, connect};
use lab::topology::{CLIENT, GATEWAY_WAN, HOST_INTERFACE, SERVER};
use lab::{Explained, Lab, LabError, Namespace, Plane, Result, turn, udp, wait};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};

/// Where the transparent proxy listens.
const PROXY: u16 = 3129;
const PORT: u16 = 5000;
const HERE: &str = "it begins or ends on this host";

/// A SYN proxy for port 80, as nft(8) has it, that offers fewer segments than the server does.
const SYNPROXY: &str = "
table inet proxy {
  chain raw {
    type filter hook prerouting priority raw;
    tcp dport 80 tcp flags & (fin | syn | rst | ack) == syn notrack
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    tcp dport 80 ct state invalid,untracked synproxy mss 1400 wscale 7 timestamp sack-perm
    ct state invalid drop
    ct state established,related,new accept
  }
}
";

/// The sequence number of the SYN ACK from port 80 on a wire.
fn initial_sequence(wire: &Wire) -> Result<u32> {
    wait::until(wait::PATIENCE, "a SYN ACK", || {
        let frame = wire.receive(Duration::from_millis(10)).ok().flatten()?;
        let packet = SlicedPacket::from_ethernet(&frame).ok()?;
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
        (tcp.syn() && tcp.ack() && tcp.source_port() == 80).then(|| tcp.sequence_number())
    })
}

/// The client has shaken hands with the gateway, and the server with the gateway too: each by other numbers.
#[test]
fn what_a_syn_proxy_has_answered_for_stays() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(SYNPROXY).build()?;
    for (name, value) in [
        ("net.netfilter.nf_conntrack_tcp_loose", "0"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_timestamps", "1"),
    ] {
        lab.gateway().sysctl(name, value)?;
    }
    let wires = [lab.client(), lab.server()].map(|host| Wire::open(host, HOST_INTERFACE));
    let [outside, inside] = wires;
    let (outside, inside) = (outside?, inside?);
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let to = SocketAddrV4::new(SERVER, 80);
    let proxied = Pair::open(lab.client(), None, to, &service)?;
    assert_ne!(initial_sequence(&outside)?, initial_sequence(&inside)?, "the proxy has numbers of its own");
    for way in [Way::Up, Way::Down] {
        let transfer = proxied.transfer(way, 1_000_000)?;
        assert_eq!(transfer.sent, transfer.received, "{way:?}");
    }
    let plain = Service::listen(lab.server(), SERVER, 81)?;
    let plain = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 81), &plain)?;
    lab.until_flying("tcp", plain.source_port(), || {
        proxied.ping(1)?;
        plain.ping(1)
    })?;
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("tcp", proxied.source_port())?;
        assert!(flow.is_none(), "{flow:?}");
        let found = Explained::ask(gateway, "tcp", (CLIENT, proxied.source_port()), to)?;
        assert_eq!(found.known(), "kernel", "{found:?}");
        assert!(found.why().starts_with("a SYN proxy stands between its ends"), "{found:?}");
    }
    plain.finish()?;
    proxied.finish()
}

/// TCP and UDP of these ports to the proxy, wherever they were going.
const TPROXY: &str = "
table ip intercept {
  chain prerouting {
    type filter hook prerouting priority mangle;
    iifname lan0 tcp dport 80 tproxy to :3129 meta mark set 1
    iifname lan0 udp dport 5000 tproxy to :3129 meta mark set 1
  }
}
";

/// What is marked is delivered here, whatever its address.
fn deliver_marked(lab: &Lab) -> Result<()> {
    lab.gateway().run("ip rule add fwmark 1 lookup 100")?;
    lab.gateway().run("ip route add local default dev lo table 100").map(drop)
}

/// A socket that takes packets for any address.
fn transparent(namespace: &Namespace, kind: Type) -> Result<Socket> {
    transparent_at(namespace, kind, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PROXY)))
}

/// A socket that has an address which may be somebody else's.
fn transparent_at(namespace: &Namespace, kind: Type, at: SocketAddr) -> Result<Socket> {
    let open = move || {
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
        socket.set_ip_transparent_v4(true)?;
        socket.bind(&at.into())?;
        socket.set_read_timeout(Some(wait::PATIENCE))?;
        if kind == Type::STREAM {
            socket.listen(16)?;
        }
        Ok(socket)
    };
    namespace.inside(open).map_err(LabError::io("open a transparent socket"))
}

/// The client believes that it talks to the server; what it says comes to the proxy, which asks the server itself.
#[test]
fn what_a_transparent_proxy_takes_ends_there() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    deliver_marked(&lab)?;
    lab.gateway().nft(TPROXY)?;
    let proxy = transparent(lab.gateway(), Type::STREAM)?;
    let to = SocketAddrV4::new(SERVER, 80);
    let client = connect(lab.client(), None, to)?;
    let (taken, from) = proxy.accept().map_err(LabError::io("accept"))?;
    let own = client.local_addr().map_err(LabError::io("own address"))?;
    assert_eq!(from.as_socket(), Some(own));
    let taken = std::net::TcpStream::from(taken);
    assert_eq!(taken.local_addr().ok(), Some(to.into()));
    let pair = Pair { client, server: taken };
    // The proxy's own connection to the server.
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let upstream = Pair::open(lab.gateway(), None, to, &service)?;
    assert_eq!(upstream.seen_source()?.ip(), IpAddr::V4(GATEWAY_WAN));
    for token in 0..100 {
        pair.ping(token)?;
        upstream.ping(token)?;
    }
    let transfer = pair.transfer(Way::Down, 500_000)?;
    assert_eq!(transfer.sent, transfer.received);
    if let Some(gateway) = lab.flyover() {
        let flown = |port| Ok::<_, LabError>(gateway.flow("tcp", port)?.map_or(0, |flow| flow.packets()));
        assert_eq!((flown(pair.source_port())?, flown(upstream.source_port())?), (0, 0));
        let found = Explained::ask(gateway, "tcp", own, to)?;
        assert_eq!(found.state(), "candidate", "{found:?}");
        assert!(found.advice().contains("tproxy"), "{found:?}");
        let found = Explained::ask(gateway, "tcp", (GATEWAY_WAN, upstream.source_port()), to)?;
        assert_eq!((found.known(), found.why()), ("kernel", HERE), "{found:?}");
    }
    pair.finish()?;
    upstream.finish()
}

/// What comes back to an address that a socket here has is for that socket.
const RETURNS: &str = "
table ip relay {
  chain prerouting {
    type filter hook prerouting priority mangle;
    iifname wan0 udp sport 5000 socket transparent 1 meta mark set 1
  }
}
";

/// A relay on the gateway that speaks to either end in the other's name. What it sends is what came in, byte for byte, with
/// the TTL that it came with, as through a bridge: but each packet is the relay's to send or not to.
#[test]
fn what_a_relay_sends_in_the_name_of_others_stays() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(ROUTED).build()?;
    deliver_marked(&lab)?;
    lab.gateway().nft(TPROXY)?;
    lab.gateway().nft(RETURNS)?;
    let client = udp::bind(lab.client(), CLIENT, 0)?;
    let own = client.local_addr().map_err(LabError::io("own address"))?;
    let to = SocketAddr::from((SERVER, PORT));
    let server = udp::bind(lab.server(), SERVER, PORT)?;
    let taking = UdpSocket::from(transparent(lab.gateway(), Type::DGRAM)?);
    let [as_client, as_server] = [own, to].map(|name| transparent_at(lab.gateway(), Type::DGRAM, name));
    let (as_client, as_server) = (UdpSocket::from(as_client?), UdpSocket::from(as_server?));
    // As of QUIC, never fragmented: all of these have 0 for an identification, whoever sends them.
    for socket in [&client, &server, &as_client, &as_server] {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)
            .map_err(|error| LabError::io("forbid fragments")(error.into()))?;
    }
    let mut buffer = [0; 256];
    let mut pass = |from: &UdpSocket, by: &UdpSocket, to: SocketAddr| {
        let (length, source) = from.recv_from(&mut buffer).map_err(LabError::io("receive at the relay"))?;
        by.send_to(&buffer[..length], to).map_err(LabError::io("relay"))?;
        Ok::<_, LabError>(source)
    };
    let mut heard = [0; 256];
    for token in 0..300 {
        client.send_to(&udp::datagram(token, 64), to).map_err(LabError::io("send"))?;
        assert_eq!(pass(&taking, &as_client, to)?, own);
        let (length, seen) = server.recv_from(&mut heard).map_err(LabError::io("receive at the server"))?;
        assert_eq!((seen, udp::sequence(&heard[..length])), (own, Some(token)));
        server.send_to(&heard[..length], seen).map_err(LabError::io("answer"))?;
        assert_eq!(pass(&as_client, &as_server, own)?, to);
        let (length, from) = client.recv_from(&mut heard).map_err(LabError::io("receive at the client"))?;
        assert_eq!((from, udp::sequence(&heard[..length])), (to, Some(token)));
    }
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let found = Explained::ask(gateway, "udp", own, to)?;
    assert_eq!((found.state(), found.text("/directions/0/out_port")), ("candidate", ""), "{found:?}");
    assert_eq!(found.text("/directions/1/out_port"), "", "{found:?}");
    Ok(())
}

/// A stream flies to the server, until a rule says that it is the proxy's.
#[test]
fn a_transparent_proxy_takes_a_stream_that_flies() -> Result<()> {
    let _turn = turn::take();
    let lab = change::lab(ROUTED).build()?;
    deliver_marked(&lab)?;
    let proxy = UdpSocket::from(transparent(lab.gateway(), Type::DGRAM)?);
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let streams = [udp::Stream::start(&pair, Duration::from_millis(2), true)?];
    wait::until_true(wait::PATIENCE, "the stream", || streams[0].received() > 50)?;
    lab.gateway().nft(TPROXY)?;
    until_quiet(&streams)?;
    let mut buffer = [0; 128];
    for _ in 0..100 {
        let (_, from) = proxy.recv_from(&mut buffer).map_err(LabError::io("receive at the proxy"))?;
        assert_eq!(from, SocketAddr::from((CLIENT, pair.source_port())));
    }
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let flow = gateway.flow("udp", pair.source_port())?;
    assert!(flow.as_ref().is_none_or(|flow| !flow.flies()), "{flow:?}");
    Ok(())
}

/// A service of the gateway's, reached by another port, and the gateway's own way out.
#[test]
fn what_begins_or_ends_here_stays() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    lab.gateway().nft(
        "table ip own { chain prerouting { type nat hook prerouting priority dstnat; \
         iifname lan0 tcp dport 8081 redirect to :3130; }; }",
    )?;
    let service = Service::listen(lab.gateway(), Ipv4Addr::UNSPECIFIED, 3130)?;
    let to = SocketAddrV4::new(SERVER, 8081);
    let redirected = Pair::open(lab.client(), None, to, &service)?;
    let server = udp::bind(lab.server(), SERVER, PORT)?;
    let own = udp::Pair::open(lab.gateway(), GATEWAY_WAN, SocketAddrV4::new(SERVER, PORT), server)?;
    for token in 0..100 {
        redirected.ping(token)?;
        own.ping(token)?;
    }
    if let Some(gateway) = lab.flyover() {
        assert!(gateway.flows()?.is_empty(), "{:?}", gateway.flows()?);
        let from = SocketAddr::from((CLIENT, redirected.source_port()));
        let of_service = Explained::ask(gateway, "tcp", from, to)?;
        let of_own = Explained::ask(gateway, "udp", (GATEWAY_WAN, own.source_port()), (SERVER, PORT))?;
        for found in [of_service, of_own] {
            assert_eq!((found.known(), found.why()), ("kernel", HERE), "{found:?}");
        }
    }
    redirected.finish()
}

/// A container on the gateway: its interface is no port, so that only one side of its packets is seen.
#[test]
fn what_is_behind_an_interface_that_is_no_port_stays() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let container = Namespace::new("container")?;
    let gateway = lab.gateway();
    gateway.run(&format!("ip link add veth0 type veth peer name eth0 netns {}", container.name()))?;
    gateway.run("ip address add 172.17.0.1/24 dev veth0")?;
    gateway.run("ip link set veth0 up")?;
    container.run("ip address add 172.17.0.2/24 dev eth0")?;
    container.run("ip link set eth0 up")?;
    container.run("ip route add default via 172.17.0.1")?;
    let inside = Ipv4Addr::new(172, 17, 0, 2);
    let service = Service::listen(&container, inside, 80)?;
    let to = SocketAddrV4::new(inside, 80);
    let pair = Pair::open(lab.client(), None, to, &service)?;
    let transfer = pair.transfer(Way::Down, 500_000)?;
    assert_eq!(transfer.sent, transfer.received);
    if let Some(gateway) = lab.flyover() {
        pair.ping(1)?;
        let flow = gateway.flow("tcp", pair.source_port())?;
        assert!(flow.as_ref().is_none_or(|flow| flow.packets() == 0), "{flow:?}");
        let found = Explained::ask(gateway, "tcp", (CLIENT, pair.source_port()), to)?;
        assert_eq!(found.state(), "candidate", "{found:?}");
        assert!(found.notes().contains("veth0, which is no port"), "{found:?}");
    }
    let mut client = &pair.client;
    client
        .write_all(b"x")
        .and_then(|()| (&pair.server).read_exact(&mut [0]))
        .map_err(LabError::io("a byte"))?;
    pair.finish()
}
