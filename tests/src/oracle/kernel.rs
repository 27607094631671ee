//! The oracle itself: a kernel gateway in a namespace of its own, with a tap for each link.

use std::fmt::Write;
use std::io;

use dataplane::dpdk::{Tap, TapOptions};
use dataplane::flow::{FiveTuple, TCP};
use dataplane::packet::testing::Frame;
use dataplane::packet::wire::{ETHER_ARP, ETHER_IPV4, ETHER_IPV6, be16};
use dataplane::packet::{Ingress, L2Header, parse, tcp};

use super::OracleError;
use super::connection::{Connection, SourceNat, Target};
use super::links::Link;
use crate::{LabError, Namespace};

/// Longer than any frame that goes in, and than any that can come out.
const LONGEST: usize = 1 << 16;

/// A frame that the kernel sent, wrapped as its link wraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The link that it left by.
    pub link: Link,
    /// Its bytes.
    pub frame: Vec<u8>,
}

/// A connection that the kernel has admitted, and what was learned from the frames that it sent.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What was asked for.
    pub connection: Connection,
    /// The original and the reply direction, as their packets come in.
    pub tuples: [FiveTuple; 2],
    /// Where they come in.
    pub contexts: [Ingress; 2],
    /// In what they leave.
    pub headers: [L2Header; 2],
    /// By which link they leave.
    pub egress: [Link; 2],
    /// The TTL stays.
    pub bridged: bool,
}

impl Opened {
    /// The longest packet of a direction that is known to leave in one piece.
    pub fn proved_length(&self, way: usize) -> u16 {
        self.connection.length.min(self.egress[way].mtu())
    }
}

/// See the module.
#[derive(Debug)]
pub struct KernelGateway {
    namespace: Namespace,
    taps: Vec<(Link, Tap)>,
    buffer: Vec<u8>,
    /// There is a bridge whose packets conntrack sees. Takes br_netfilter, which not every kernel has.
    pub has_bridge: bool,
    /// Frames that no packet of ours caused: the kernel's own.
    pub chatter: u64,
}

/// With which first packets come in.
const FIRST_TTL: u8 = 64;

/// Sysctls of the namespace, before there is a link. Those of `verify` change from world to world.
const SETTINGS: [(&str, &str); 17] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    // A redirect is one frame more than what Flyover sends; candidates and probes give it its occasions.
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv6.conf.all.disable_ipv6", "0"),
    ("net.ipv6.conf.default.disable_ipv6", "0"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.default.addr_gen_mode", "1"),
    // What Flyover asks for entry by entry: numbers outside of the window are not INVALID.
    ("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
    ("net.netfilter.nf_conntrack_udp_timeout", "3600"),
    ("net.netfilter.nf_conntrack_udp_timeout_stream", "3600"),
];

impl KernelGateway {
    /// Makes the namespace, its taps, addresses, next hops and routes.
    ///
    /// # Errors
    /// When the kernel refuses any of it.
    pub fn new() -> Result<Self, OracleError> {
        let namespace = Namespace::new("oracle")?;
        for (name, value) in SETTINGS {
            namespace.sysctl(name, value)?;
        }
        let open = |link: Link| {
            let tap = namespace.inside(move || Tap::open(link.name(), TapOptions::default()))?;
            Ok((link, tap))
        };
        let taps = Link::all().map(open).collect::<Result<Vec<_>, OracleError>>()?;
        let (mut ip4, mut ip6) = (String::new(), String::new());
        for link in Link::all().filter(|link| !link.is_bridged()) {
            set_up(link, &mut ip4, &mut ip6);
        }
        namespace.feed("ip -batch -", &ip4)?;
        namespace.feed("ip -6 -batch -", &ip6)?;
        let has_bridge = bridge(&namespace).is_ok();
        Ok(Self { namespace, taps, buffer: vec![0; LONGEST], has_bridge, chatter: 0 })
    }

    /// Forgets all connections, loads the ruleset for new ones, and opens them by sending their first packets.
    ///
    /// `verify` is whether conntrack verifies L4 checksums.
    ///
    /// # Errors
    /// When the kernel refuses the ruleset, or does not forward the first packets.
    pub fn open(&mut self, connections: &[Connection], verify: bool) -> Result<Vec<Opened>, OracleError> {
        let verify = if verify { "1" } else { "0" };
        self.namespace.sysctl("net.netfilter.nf_conntrack_checksum", verify)?;
        self.namespace.nft(&ruleset(connections))?;
        self.namespace.run("conntrack -F")?;
        connections.iter().map(|connection| self.open_one(connection)).collect()
    }

    fn open_one(&mut self, connection: &Connection) -> Result<Opened, OracleError> {
        let (syn, syn_ack) =
            if connection.tuple.proto == TCP { (tcp::SYN, tcp::SYN | tcp::ACK) } else { (0, 0) };
        let Connection { from, to, tuple, .. } = *connection;
        let there = self.open_way(connection, (from, to), tuple, syn)?;
        let back = self.open_way(connection, (there.link, from), there.leaves.inverted(), syn_ack)?;
        if back.leaves != connection.tuple.inverted() {
            return Err(OracleError::NotOpened { connection: connection.to_string(), step: "the way back" });
        }
        if connection.tuple.proto == TCP {
            self.open_way(connection, (from, to), tuple, tcp::ACK)?;
        }
        Ok(Opened {
            connection: connection.clone(),
            tuples: [connection.tuple, there.leaves.inverted()],
            contexts: [there.context, back.context],
            headers: [there.header, back.header],
            egress: [there.link, back.link],
            bridged: there.ttl == FIRST_TTL,
        })
    }

    /// Sends a first packet of a direction and learns from what the kernel makes of it.
    fn open_way(
        &mut self,
        connection: &Connection,
        (link, to): (Link, Link),
        tuple: FiveTuple,
        flags: u8,
    ) -> Result<Way, OracleError> {
        let failed = |step| OracleError::NotOpened { connection: connection.to_string(), step };
        // A SYN acknowledges nothing, and what the answer acknowledges is the SYN.
        let mut frame = Frame::of(tuple).flags(flags);
        (frame.tcp.seq, frame.tcp.ack) = match flags {
            tcp::SYN => (1000, 0),
            tcp::ACK => (1001, 2001),
            _ => (2000, 1001),
        };
        frame.ttl = FIRST_TTL;
        link.dress(&mut frame, to, connection.priority);
        let frame = frame.build();
        let sent = self.forward(link.port(), &frame)?;
        let [Sent { link: egress, frame: out }] = sent.as_slice() else {
            return Err(failed("a first packet"));
        };
        let headers = parse(out, egress.port()).map_err(|_| failed("parsing what left"))?;
        let ttl = headers.packet(out).get(if tuple.src.is_ipv4() { 8 } else { 7 }).copied();
        let context = parse(&frame, link.port()).map_err(|_| failed("parsing what came"))?.ingress;
        let header = L2Header::learn(out).ok_or_else(|| failed("learning"))?;
        Ok(Way { link: *egress, leaves: headers.key.tuple(), context, header, ttl: ttl.unwrap_or_default() })
    }

    /// Sends a frame in by a port and collects what the kernel sends: it forwards within the system call.
    ///
    /// # Errors
    /// When a tap fails. A frame that the kernel does not take, one shorter than an Ethernet header, is none.
    pub fn forward(&mut self, port: u16, frame: &[u8]) -> Result<Vec<Sent>, OracleError> {
        self.chatter += self.collect()?.len() as u64;
        // Without a link to be of, it is the parent interface's, which does not know what it is wrapped in.
        let found = Link::of(port, frame);
        let (link, bare) = match &found {
            Some((link, bare)) => (*link, bare.as_slice()),
            None => (Link::plain(port), frame),
        };
        match self.tap(link).write(bare) {
            Ok(_) => self.collect(),
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(Vec::new()),
            Err(source) => Err(OracleError::Tap { link, source }),
        }
    }

    /// What the kernel has sent late, if anything.
    ///
    /// # Errors
    /// When a tap fails.
    pub fn late(&mut self) -> Result<Vec<Sent>, OracleError> {
        std::thread::sleep(std::time::Duration::from_millis(20));
        self.collect()
    }

    fn tap(&self, link: Link) -> &Tap {
        &self.taps[link.number()].1
    }

    fn collect(&mut self) -> Result<Vec<Sent>, OracleError> {
        let mut all = Vec::new();
        for (link, tap) in &self.taps {
            loop {
                let length = match tap.read(&mut self.buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(source) => return Err(OracleError::Tap { link: *link, source }),
                };
                let frame = self.buffer.get(..length).unwrap_or_default();
                match link.wrap(frame).filter(|_| !is_chatter(frame)) {
                    Some(frame) => all.push(Sent { link: *link, frame }),
                    None => self.chatter += 1,
                }
            }
        }
        Ok(all)
    }
}

struct Way {
    link: Link,
    leaves: FiveTuple,
    context: Ingress,
    header: L2Header,
    ttl: u8,
}

/// What the kernel sends of its own accord: to groups (MLD, IGMP, ND), ARP, and seconds after what it is about: that a
/// reassembly has timed out, or that no neighbour answers (next hops here are permanent; the packet went elsewhere).
fn is_chatter(bare: &[u8]) -> bool {
    let group = bare.first().is_none_or(|byte| byte & 1 != 0);
    let late = match be16(bare, 12) {
        Some(ETHER_IPV4) => bare.get(23) == Some(&1) && matches!(bare.get(34..36), Some([11, 1] | [3, 1])),
        Some(ETHER_IPV6) => bare.get(20) == Some(&58) && matches!(bare.get(54..56), Some([3, 1] | [1, 3])),
        kind => kind == Some(ETHER_ARP),
    };
    group || late
}

/// Whether a frame that left is an answer of the gateway's own: an ICMP or ICMPv6 message from its address.
pub fn is_answer(sent: &Sent) -> bool {
    let Some(bare) = sent.link.unwrap(&sent.frame) else { return false };
    match be16(&bare, 12) {
        Some(ETHER_IPV4) => bare.get(23) == Some(&1) && bare.get(26..28) == Some(&[10, 99]),
        Some(ETHER_IPV6) => {
            bare.get(20) == Some(&58) && bare.get(22..28) == Some(&[0x20, 1, 0xd, 0xb8, 0, 0x99])
        }
        _ => false,
    }
}

/// Makes a bridge of the links that are to be its ports, and has it show its packets to conntrack.
fn bridge(namespace: &Namespace) -> Result<(), LabError> {
    let mut batch = "link add bridge type bridge mcast_snooping 0\n".to_owned();
    for link in Link::all().filter(|link| link.is_bridged()) {
        let (mtu, host) = (link.mtu(), mac(link.neighbour_mac()));
        let _ = writeln!(batch, "link set {link} mtu {mtu} master bridge up");
        // Who is where is told, not learned: packets with any source address are sent.
        let _ = writeln!(batch, "link set {link} type bridge_slave learning off");
        let _ = writeln!(batch, "link set {link} type bridge_slave flood off");
        namespace.feed("ip -batch -", &batch)?;
        batch.clear();
        namespace.run(&format!("bridge fdb add {host} dev {link} master static"))?;
    }
    namespace.run("ip link set bridge up")?;
    namespace.sysctl("net.bridge.bridge-nf-call-iptables", "1")?;
    namespace.sysctl("net.bridge.bridge-nf-call-ip6tables", "1")
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// The commands that set a link up. Its routes have tables of their own, chosen by the packet's mark.
///
/// Nothing but the next hops is on the link, so that no packet waits for a neighbour, and no answer comes late.
fn set_up(link: Link, ip4: &mut String, ip6: &mut String) {
    let (number, own, next) = (link.number(), mac(link.mac()), mac(link.neighbour_mac()));
    let (mtu, address, neighbour, address6) =
        (link.mtu(), link.address4(), link.neighbour4(), link.address6());
    let table = 100 + number;
    let lines = format!(
        "link set {link} address {own} mtu {mtu} up\n\
         address add {address}/32 dev {link}\n\
         neighbour add {neighbour} lladdr {next} dev {link} nud permanent\n\
         route add default via {neighbour} dev {link} onlink table {table}\n"
    );
    let lines6 = format!(
        "address add {address6}/128 dev {link}\n\
         address add fe80::1/64 dev {link}\n\
         neighbour add fe80::2 lladdr {next} dev {link} nud permanent\n\
         route add default via fe80::2 dev {link} table {table}\n"
    );
    let by_mark = format!(
        "rule add fwmark {:#x} lookup {table}\nrule add fwmark {:#x} lookup {table}\n",
        number + 1,
        (number + 1) << 4
    );
    // What belongs to no connection goes this way.
    let fallback = if number == 0 { "route add default via " } else { "" };
    let (via4, via6) = match fallback {
        "" => (String::new(), String::new()),
        _ => {
            (format!("{fallback}{neighbour} dev {link} onlink\n"), format!("{fallback}fe80::2 dev {link}\n"))
        }
    };
    // Writing to a String can't fail.
    let _ = write!(ip4, "{lines}{by_mark}{via4}");
    let _ = write!(ip6, "{lines6}{by_mark}{via6}");
}

/// The ruleset: connection tracking, each connection's NAT, and routes by the connection's mark.
///
/// A mark is the connection's number, then the link of the reply's egress, then that of the original's.
fn ruleset(connections: &[Connection]) -> String {
    let (mut marks4, mut marks6) = (Vec::new(), Vec::new());
    let (mut dnat, mut snat) = (String::new(), String::new());
    for (number, connection) in connections.iter().enumerate() {
        let FiveTuple { proto, src, dst, sport, dport } = connection.tuple;
        let links = (connection.from.number() + 1) << 4 | (connection.to.number() + 1);
        let mark = (number + 1) << 8 | links;
        let marks = if src.is_ipv4() { &mut marks4 } else { &mut marks6 };
        marks.push(format!("{proto} . {src} . {dst} . {sport} . {dport} : {mark:#x}"));
        let (family, protocol) = (connection.family(), connection.protocol());
        let matching = format!("ct mark {mark:#x} meta l4proto {protocol}");
        if let Some(target) = connection.dnat {
            let _ = writeln!(dnat, "    {matching} dnat {family} to {}", nft(target));
        }
        let _ = match connection.snat {
            None => Ok(()),
            Some(SourceNat::Masquerade) => writeln!(snat, "    {matching} masquerade"),
            Some(SourceNat::Fixed(target)) => {
                writeln!(snat, "    {matching} snat {family} to {}", nft(target))
            }
            Some(SourceNat::Prefix(to)) => {
                writeln!(snat, "    {matching} snat ip6 prefix to ip6 saddr map {{ {src}/64 : {to}/64 }}")
            }
        };
    }
    let (marks4, marks6) = (marking("ip", &marks4), marking("ip6", &marks6));
    format!(
        "flush ruleset
table inet oracle {{
  chain route {{
    type filter hook prerouting priority mangle
{marks4}{marks6}
    ct direction original meta mark set ct mark and 0x0f
    ct direction reply meta mark set ct mark and 0xf0
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept
    ct state established,related accept
    ct state invalid drop
  }}
  chain destination {{
    type nat hook prerouting priority dstnat
    ct mark 0 return
{dnat}  }}
  chain source {{
    type nat hook postrouting priority srcnat
    ct mark 0 return
{snat}  }}
}}
"
    )
}

/// The rule that gives new connections their marks.
fn marking(family: &str, marks: &[String]) -> String {
    if marks.is_empty() {
        return String::new();
    }
    let key = format!("meta l4proto . {family} saddr . {family} daddr . th sport . th dport");
    format!("    ct state new ct mark set {key} map {{ {} }}\n", marks.join(", "))
}

/// A target as nft writes it; without a port IPv6 addresses have no brackets.
fn nft(target: Target) -> String {
    target.to_string()
}
