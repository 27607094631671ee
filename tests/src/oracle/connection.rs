//! Connections that packets are sent through: tuple, NAT, links, and the state that Flyover has them in.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use dataplane::flow::{EntryState, FiveTuple, TCP, UDP};
use dataplane::packet::testing::strategies;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use super::links::{Link, is_ours};

/// The new address and, perhaps, port of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The new address.
    pub address: IpAddr,
    /// The new port; the old one stays if there is none.
    pub port: Option<u16>,
}

/// What becomes of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceNat {
    /// `snat to`.
    Fixed(Target),
    /// `masquerade`.
    Masquerade,
    /// `snat prefix to`: the upper 64 bits change.
    Prefix(Ipv6Addr),
}

/// A connection as the initiator sees it, and what the gateway does with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The original direction.
    pub tuple: FiveTuple,
    /// Source NAT.
    pub snat: Option<SourceNat>,
    /// Destination NAT.
    pub dnat: Option<Target>,
    /// Where the original direction comes in and the reply leaves.
    pub from: Link,
    /// Where the original direction leaves and the reply comes in.
    pub to: Link,
    /// PCP and DEI of frames that come in tagged.
    pub priority: u8,
    /// The proved length of both directions, as far as the egress MTU allows it.
    pub length: u16,
    /// The state that Flyover's entries are in before each packet.
    pub state: EntryState,
    /// Longer packets go to the kernel one by one, and the direction stays.
    pub refuse_longer: bool,
}

impl Connection {
    /// How NAT is named in reports.
    pub fn nat(&self) -> &'static str {
        let port = |target: Option<Target>| target.is_some_and(|target| target.port.is_some());
        match (self.snat, self.dnat) {
            (None, None) => "none",
            (None, dnat) if port(dnat) => "dnat to port",
            (None, Some(_)) => "dnat",
            (Some(SourceNat::Masquerade), None) => "masquerade",
            (Some(SourceNat::Prefix(_)), None) => "npt",
            (Some(SourceNat::Fixed(target)), None) if target.port.is_some() => "snat to port",
            (Some(SourceNat::Fixed(_)), None) => "snat",
            (Some(_), Some(_)) => "snat and dnat",
        }
    }

    /// `tcp` or `udp`.
    pub fn protocol(&self) -> &'static str {
        if self.tuple.proto == TCP { "tcp" } else { "udp" }
    }

    /// `ip` or `ip6`, as nft calls them.
    pub fn family(&self) -> &'static str {
        if self.tuple.src.is_ipv4() { "ip" } else { "ip6" }
    }
}

/// Any connection that the kernel forwards, by routing or, if there is a bridge, through that.
pub fn connections(bridge: bool) -> impl Strategy<Value = Connection> {
    let foreign = |tuple: &FiveTuple| [tuple.src, tuple.dst].into_iter().all(is_host);
    let tuples = strategies::tuples().prop_filter("hosts elsewhere", foreign);
    let (bridged, routed): (Vec<_>, Vec<_>) = Link::all().partition(|link| link.is_bridged());
    let pairs = [(bridged[0], bridged[1]), (bridged[1], bridged[0])];
    let links = prop_oneof![
        9 => (select(routed.clone()), select(routed)),
        u32::from(bridge) => select(pairs.to_vec()),
    ];
    let state = prop_oneof![
        30 => Just(EntryState::Software),
        1 => Just(EntryState::Probing),
        1 => Just(EntryState::Candidate),
        1 => Just(EntryState::Closing),
    ];
    let length = prop_oneof![6 => Just(u16::MAX), 1 => 40u16..1500, 1 => 1500u16..9000];
    let rest = (links, 0u8..16, length, state, weighted(0.1, Just(true)));
    (tuples.prop_flat_map(|tuple| (Just(tuple), snat(tuple), dnat(tuple))), rest).prop_map(
        |((tuple, snat, dnat), ((from, to), priority, length, state, refuse_longer))| Connection {
            tuple,
            snat: snat.filter(|_| !from.is_bridged()),
            dnat: dnat.filter(|_| !from.is_bridged()),
            from,
            to,
            priority,
            length,
            state,
            refuse_longer: refuse_longer.is_some(),
        },
    )
}

/// Not an address of the gateway, nor one that the kernel takes for another family's.
fn is_host(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !is_ours(address) && !mapped
}

/// A new address and, perhaps, port for one end of a tuple.
fn target(address: IpAddr, port: u16) -> impl Strategy<Value = Target> {
    let new = if address.is_ipv4() {
        strategies::unicast4().prop_map(IpAddr::V4).boxed()
    } else {
        strategies::unicast6().prop_map(IpAddr::V6).boxed()
    };
    let new = new.prop_filter("hosts elsewhere", |address| is_host(*address));
    let ports = prop_oneof![
        3 => Just(Ports::Kept),
        3 => (1u16..).prop_map(Ports::Other),
        1 => Just(Ports::Neutral),
    ];
    (new, ports).prop_map(move |(new, ports)| {
        let port = match ports {
            Ports::Kept => None,
            Ports::Other(port) => Some(port),
            Ports::Neutral => Some(neutral_port(address, port, new)),
        };
        Target { address: new, port }
    })
}

#[derive(Clone, Copy, Debug)]
enum Ports {
    Kept,
    Other(u16),
    /// One that makes up for the change of the address, so that checksums stay as they are, but for the form of a zero.
    Neutral,
}

fn neutral_port(old: IpAddr, port: u16, new: IpAddr) -> u16 {
    const MODULUS: u32 = 0xffff;
    let sum = |address: IpAddr| -> u32 {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>() % MODULUS
    };
    match (sum(old) + u32::from(port) + MODULUS - sum(new)) % MODULUS {
        0 => u16::MAX,
        port => port as u16,
    }
}

fn snat(tuple: FiveTuple) -> impl Strategy<Value = Option<SourceNat>> {
    let prefix = if tuple.src.is_ipv4() {
        Just(SourceNat::Masquerade).boxed()
    } else {
        strategies::unicast6()
            .prop_filter("hosts elsewhere", |address| is_host(IpAddr::V6(*address)))
            .prop_map(SourceNat::Prefix)
            .boxed()
    };
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(SourceNat::Masquerade)),
        1 => prefix.prop_map(Some),
        4 => target(tuple.src, tuple.sport).prop_map(|target| Some(SourceNat::Fixed(target))),
    ]
}

fn dnat(tuple: FiveTuple) -> impl Strategy<Value = Option<Target>> {
    let own = tuple.dst;
    prop_oneof![
        3 => Just(None),
        2 => target(tuple.dst, tuple.dport).prop_map(Some),
        // Another port of the same host.
        1 => (1u16..).prop_map(move |port| Some(Target { address: own, port: Some(port) })),
    ]
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let socket: SocketAddr = text.parse().map_err(|_| format!("no address: {text}"))?;
        Ok(Self { address: socket.ip(), port: Some(socket.port()) })
    }
}

/// One line of `key=value` pairs, which [`Connection::from_str`] reads.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FiveTuple { src, dst, sport, dport, .. } = self.tuple;
        let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
        write!(f, "proto={} src={src} dst={dst}", self.protocol())?;
        match self.snat {
            Some(SourceNat::Fixed(target)) => write!(f, " snat={target}")?,
            Some(SourceNat::Masquerade) => f.write_str(" snat=masquerade")?,
            Some(SourceNat::Prefix(prefix)) => write!(f, " snat=prefix/{prefix}")?,
            None => {}
        }
        if let Some(target) = self.dnat {
            write!(f, " dnat={target}")?;
        }
        write!(f, " from={} to={} priority={} length={}", self.from, self.to, self.priority, self.length)?;
        write!(f, " state={} refuse_longer={}", self.state.name(), self.refuse_longer)
    }
}

/// The `key=value` pairs of a line.
pub fn pairs(line: &str) -> HashMap<&str, &str> {
    line.split_whitespace().filter_map(|word| word.split_once('=')).collect()
}

/// The value of a key, read.
///
/// # Errors
/// When there is none or it can't be read.
pub fn value<T: FromStr>(pairs: &HashMap<&str, &str>, key: &str) -> Result<T, String> {
    let text = pairs.get(key).ok_or_else(|| format!("no {key}= in the line"))?;
    text.parse().map_err(|_| format!("{key}={text}"))
}

impl FromStr for Connection {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let pairs = pairs(line);
        let (src, dst): (SocketAddr, SocketAddr) = (value(&pairs, "src")?, value(&pairs, "dst")?);
        let proto = match pairs.get("proto") {
            Some(&"tcp") => TCP,
            Some(&"udp") => UDP,
            other => return Err(format!("proto={other:?}")),
        };
        let snat = match pairs.get("snat") {
            None => None,
            Some(&"masquerade") => Some(SourceNat::Masquerade),
            Some(text) => Some(match text.strip_prefix("prefix/") {
                Some(prefix) => SourceNat::Prefix(prefix.parse().map_err(|_| format!("snat={text}"))?),
                None => SourceNat::Fixed(text.parse()?),
            }),
        };
        let state = match pairs.get("state").copied() {
            Some("software") => EntryState::Software,
            Some("probing") => EntryState::Probing,
            Some("candidate") => EntryState::Candidate,
            Some("closing") => EntryState::Closing,
            other => return Err(format!("state={other:?}")),
        };
        let (sport, dport) = (src.port(), dst.port());
        Ok(Self {
            tuple: FiveTuple { proto, src: src.ip(), dst: dst.ip(), sport, dport },
            snat,
            dnat: pairs.get("dnat").map(|text| text.parse()).transpose()?,
            from: value(&pairs, "from")?,
            to: value(&pairs, "to")?,
            priority: value(&pairs, "priority")?,
            length: value(&pairs, "length")?,
            state,
            refuse_longer: value(&pairs, "refuse_longer")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use dataplane::packet::checksum;
    use dataplane::packet::testing::Frame;

    use super::*;

    proptest! {
        #[test]
        fn lines_can_be_read_back(connection in connections(true)) {
            prop_assert_eq!(connection.to_string().parse::<Connection>(), Ok(connection));
        }

        #[test]
        fn neutral_ports_leave_sums_alone(tuple in strategies::tuples(), new in strategies::tuples()) {
            prop_assume!(tuple.src.is_ipv4() == new.src.is_ipv4());
            let translated = FiveTuple { src: new.src, sport: neutral_port(tuple.src, tuple.sport, new.src), ..tuple };
            let sum = |tuple| match Frame::of(tuple).ip() {
                packet if tuple.src.is_ipv4() => checksum::fold(checksum::sum(&packet[12..24])),
                packet => checksum::fold(checksum::sum(&packet[8..44])),
            };
            prop_assert_eq!(sum(translated) % 0xffff, sum(tuple) % 0xffff);
        }
    }

    #[test]
    fn what_is_missing_or_unreadable_is_named() {
        assert_eq!("proto=tcp".parse::<Connection>(), Err("no src= in the line".to_owned()));
        assert_eq!("src=1.2.3.4:5 dst=x".parse::<Connection>(), Err("dst=x".to_owned()));
    }
}
