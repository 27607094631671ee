//! Connections that a conntrack helper reads stay in the kernel, payload rewriting included; those that it expects fly.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpStream};

use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, GATEWAY_WAN, LAN_SERVER, SERVER};
use lab::{Explained, Lab, LabError, Plane, Result, turn, udp};

const FTP: u16 = 21;
const TFTP: u16 = 69;
const READS: &str = "a conntrack helper reads its packets";

/// Helpers as they are assigned since they are no longer by port alone, and FTP to a host in the LAN.
const HELPERS: &str = r#"
table ip helpers {
  ct helper ftp { type "ftp" protocol tcp; }
  ct helper tftp { type "tftp" protocol udp; }
  chain prerouting {
    type filter hook prerouting priority filter;
    tcp dport 21 ct helper set "ftp"
    udp dport 69 ct helper set "tftp"
  }
}
table ip passive {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr 198.51.100.1 tcp dport 21 dnat to 192.168.1.2:21
  }
}
"#;

fn lab() -> Result<Lab> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    lab.gateway().nft(HELPERS)?;
    Ok(lab)
}

/// A line of the one end, as it comes to the other.
fn say(from: &TcpStream, to: &TcpStream, line: &str) -> Result<String> {
    let mut from = from;
    from.write_all(format!("{line}\r\n").as_bytes()).map_err(LabError::io("say a line"))?;
    let mut heard = String::new();
    // Not buffered beyond the line: nothing follows before it is answered.
    BufReader::with_capacity(512, to).read_line(&mut heard).map_err(LabError::io("hear a line"))?;
    Ok(heard.trim_end().to_owned())
}

/// The first line of each end. The helper looks at what follows a line that it has seen the end of (`find_nl_seq` of
/// net/netfilter/nf_conntrack_ftp.c).
fn greet(control: &Pair) -> Result<()> {
    assert_eq!(say(&control.server, &control.client, "220 ready")?, "220 ready");
    assert_eq!(say(&control.client, &control.server, "USER anonymous")?, "USER anonymous");
    Ok(())
}

/// An address as FTP writes it (RFC 959, 3.2.1).
fn written(address: Ipv4Addr, port: u16) -> String {
    let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
    format!("{a},{b},{c},{d},{high},{low}")
}

fn read(text: &str) -> SocketAddrV4 {
    let digits = |c: char| !c.is_ascii_digit();
    let numbers: Vec<u8> =
        text.split(digits).filter(|word| !word.is_empty()).filter_map(|word| word.parse().ok()).collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("no address: {text}") };
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))
}

/// The control connection is the kernel's, and says why.
fn stays(lab: &Lab, control: &Pair, source: Ipv4Addr, to: SocketAddrV4) -> Result<()> {
    // Words both ways, and more bytes than came in: what the helper has added must not be missed.
    for number in 0..30 {
        let line = format!("NOOP {number}");
        assert_eq!(say(&control.client, &control.server, &line)?, line);
        let line = format!("200 {number}");
        assert_eq!(say(&control.server, &control.client, &line)?, line);
    }
    let entries = lab.gateway().run("conntrack -L -p tcp")?;
    assert!(entries.contains("helper=ftp"), "{entries}");
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let flow = gateway.flow("tcp", control.source_port())?;
    assert!(flow.is_none(), "{flow:?}");
    let found = Explained::ask(gateway, "tcp", (source, control.source_port()), to)?;
    assert_eq!((found.known(), found.why()), ("kernel", READS), "{found:?}");
    assert!(found.advice().contains("ct helper set"), "{found:?}");
    Ok(())
}

/// The connection that the helper expected flies, and carries its bytes.
fn flies(lab: &Lab, data: &Pair, way: Way) -> Result<()> {
    const BYTES: u64 = 4_000_000;
    lab.until_flying("tcp", data.source_port(), || data.ping(1))?;
    let flown = || match lab.flyover() {
        Some(gateway) => {
            Ok(gateway.flow("tcp", data.source_port())?.expect("the data connection's entry").bytes())
        }
        None => Ok::<_, LabError>(0),
    };
    // The first segments are the longest so far, and a busy machine may give a direction back: not each time.
    for _ in 0..10 {
        let before = flown()?;
        let transfer = data.transfer(way, BYTES)?;
        assert_eq!(transfer.sent, transfer.received);
        if lab.flyover().is_none() || flown()? - before > BYTES / 10 * 9 {
            return Ok(());
        }
    }
    panic!("most of {BYTES} bytes was to fly, one time in ten at the least");
}

/// The client says where it listens, by an address that is one character shorter than the one that the server reads: the
/// kernel rewrites it, adjusts sequence numbers from there on, and lets the server's connection in.
#[test]
fn active_ftp_by_masquerade() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let to = SocketAddrV4::new(SERVER, FTP);
    let service = Service::listen(lab.server(), SERVER, FTP)?;
    let control = Pair::open(lab.client(), Some(LAN_SERVER.into()), to, &service)?;
    greet(&control)?;
    let listening = Service::listen(lab.client(), LAN_SERVER, 4021)?;
    let said = format!("PORT {}", written(LAN_SERVER, 4021));
    let heard = say(&control.client, &control.server, &said)?;
    let at = read(&heard);
    assert_eq!(*at.ip(), GATEWAY_WAN, "{heard}");
    assert!(heard.len() > said.len(), "{heard}");
    let data = Pair::open(lab.server(), Some(SERVER.into()), at, &listening)?;
    assert_eq!(data.seen_source()?.ip(), IpAddr::V4(SERVER));
    flies(&lab, &data, Way::Up)?;
    stays(&lab, &control, LAN_SERVER, to)?;
    // Once more, by the control connection that has been adjusted by now.
    let second = Service::listen(lab.client(), LAN_SERVER, 4022)?;
    let at = read(&say(&control.client, &control.server, &format!("PORT {}", written(LAN_SERVER, 4022)))?);
    let data = Pair::open(lab.server(), Some(SERVER.into()), at, &second)?;
    data.ping(2)?;
    control.finish()
}

/// The server behind a port forward says where it listens; the client outside reads the gateway's address.
#[test]
fn passive_ftp_behind_a_port_forward() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let to = SocketAddrV4::new(GATEWAY_WAN, FTP);
    let service = Service::listen(lab.client(), LAN_SERVER, FTP)?;
    let control = Pair::open(lab.server(), Some(SERVER.into()), to, &service)?;
    greet(&control)?;
    let listening = Service::listen(lab.client(), LAN_SERVER, 4023)?;
    assert_eq!(say(&control.client, &control.server, "PASV")?, "PASV");
    let said = format!("227 Entering Passive Mode ({})", written(LAN_SERVER, 4023));
    let heard = say(&control.server, &control.client, &said)?;
    let at = read(heard.strip_prefix("227 ").expect("the reply's number"));
    assert_eq!(*at.ip(), GATEWAY_WAN, "{heard}");
    let data = Pair::open(lab.server(), Some(SERVER.into()), at, &listening)?;
    flies(&lab, &data, Way::Down)?;
    stays(&lab, &control, SERVER, to)?;
    control.finish()
}

/// The first datagram names the file; all others come from another port of the server's.
#[test]
fn tftp_by_masquerade() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let asked = udp::bind(lab.server(), SERVER, TFTP)?;
    let client = udp::bind(lab.client(), CLIENT, 0)?;
    let port = client.local_addr().map_err(LabError::io("own address"))?.port();
    let request = b"\x00\x01file\x00octet\x00";
    client.send_to(request, (SERVER, TFTP)).map_err(LabError::io("ask"))?;
    let mut buffer = [0; 64];
    let (length, seen) = asked.recv_from(&mut buffer).map_err(LabError::io("be asked"))?;
    assert_eq!((&buffer[..length], seen.ip()), (&request[..], IpAddr::V4(GATEWAY_WAN)));
    // Nobody let this port of the server's in but the helper.
    let data = udp::Pair { client: udp::bind(lab.server(), SERVER, 0)?, server: client };
    data.client.connect(seen).map_err(LabError::io("connect"))?;
    assert_eq!(data.ping(1)?.ip(), IpAddr::V4(SERVER));
    lab.until_flying("udp", data.source_port(), || data.ping(2).map(drop))?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert!(gateway.flow("udp", port)?.is_none());
    let found = Explained::ask(gateway, "udp", (CLIENT, port), (SERVER, TFTP))?;
    assert_eq!((found.known(), found.why()), ("kernel", READS), "{found:?}");
    Ok(())
}

/// The kernel gives a helper to connections that begin: one that runs keeps flying, its successor does not fly.
#[test]
fn a_helper_that_is_assigned_reads_the_connections_that_begin_from_then_on() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let to = SocketAddrV4::new(SERVER, FTP);
    let service = Service::listen(lab.server(), SERVER, FTP)?;
    let before = Pair::open(lab.client(), None, to, &service)?;
    lab.until_flying("tcp", before.source_port(), || before.ping(1))?;
    lab.gateway().nft(HELPERS)?;
    let port = format!("PORT {}", written(CLIENT, 4024));
    let after = Pair::open(lab.client(), None, to, &service)?;
    greet(&before)?;
    greet(&after)?;
    assert_eq!(say(&before.client, &before.server, &port)?, port);
    assert_eq!(*read(&say(&after.client, &after.server, &port)?).ip(), GATEWAY_WAN);
    stays(&lab, &after, CLIENT, to)?;
    lab.until_flying("tcp", before.source_port(), || before.ping(2))?;
    assert_eq!(say(&before.client, &before.server, &port)?, port);
    Ok(())
}
