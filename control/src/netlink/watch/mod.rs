//! What changes in the kernel that can change where a packet goes.
//!
//! Links, addresses and neighbours are followed one by one, and only real changes are told: a neighbour
//! that goes between reachable and stale with the same MAC is none, nor is an address whose lifetime is
//! renewed. Of the rest it is enough to know that it changed.

mod kernel;
mod known;

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;

use self::kernel::{Item, open_netfilter, open_route, open_xfrm, parse_netfilter, parse_route};
use self::known::Known;
use super::NetlinkError;
use super::message::{Message, Messages};
use super::receive::{Drained, Received, Receiver};
use super::route::RouteSocket;

/// Receive buffer asked for, in bytes: room for some ten thousand route changes.
const RECEIVE_BUFFER: usize = 16 << 20;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index: what names it while it lives, renamed or not.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its other names.
    pub altnames: Vec<String>,
    /// Admin state.
    pub up: bool,
    /// Up, and with a carrier.
    pub running: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// MAC address; `None` where there is none, or it is not of Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Index of the interface below it, of a VLAN or macvlan.
    pub lower: Option<u32>,
    /// It is a PPP interface: its packets have no Ethernet header.
    pub ppp: bool,
    /// It is a bridge that gives its frames VLANs of its own.
    pub filters_vlans: bool,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// A neighbour: what the kernel knows of the way to the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// The MAC address; `None` where it is not known, or not of Ethernet.
    pub mac: Option<[u8; 6]>,
    /// The kernel would send to it now (NUD_VALID), without waiting for an answer.
    pub usable: bool,
    /// This or an earlier process [keeps](super::neighbour::Neighbours::keep) it.
    pub kept: bool,
    /// It is somebody else's affair: permanent, without ARP, or learned or managed by another program. Keeping it would
    /// take that away.
    pub fixed: bool,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An nftables transaction was committed.
    Ruleset {
        /// The ruleset's generation.
        generation: u32,
        /// Port id of the netlink socket that sent it: tells one's own from others'.
        port: u32,
        /// Process that sent it.
        pid: u32,
    },
    /// A route.
    Route,
    /// A policy routing rule.
    Rule,
    /// A nexthop object.
    Nexthop,
    /// A neighbour's MAC became known, changed or is no longer good.
    Neighbour {
        /// As it is now.
        neighbour: Neighbour,
        /// It is gone altogether.
        deleted: bool,
    },
    /// An address came or went.
    Address {
        /// The address.
        address: Address,
        /// It came.
        added: bool,
    },
    /// An interface came, went or changed.
    Link {
        /// As it is now; as it was when it went.
        link: Link,
        /// It is gone.
        deleted: bool,
    },
    /// Forwarding, reverse-path filtering and the like, of any interface.
    Netconf,
    /// An IPsec policy or state.
    Xfrm,
    /// A bridge's forwarding table, VLANs or port states.
    Fdb,
    /// A qdisc, class or filter.
    Tc,
    /// Messages were lost: anything may have changed. Links, addresses and neighbours are compared again,
    /// and their differences follow.
    Overrun,
}

impl Change {
    /// What has changed, in words.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Ruleset { .. } => "ruleset",
            Self::Route => "route",
            Self::Rule => "policy routing rule",
            Self::Nexthop => "nexthop",
            Self::Neighbour { .. } => "neighbour",
            Self::Address { .. } => "address",
            Self::Link { .. } => "interface",
            Self::Netconf => "forwarding or filtering of an interface",
            Self::Xfrm => "IPsec",
            Self::Fdb => "bridge",
            Self::Tc => "traffic control",
            Self::Overrun => "anything: messages were lost",
        }
    }
}

/// Links, addresses and neighbours when watching began. Neighbours that are neither usable nor kept are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialState {
    /// Every interface of this network namespace.
    pub links: Vec<Link>,
    /// Every address.
    pub addresses: Vec<Address>,
    /// Every neighbour that is usable or kept.
    pub neighbours: Vec<Neighbour>,
}

/// Watches one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct Watcher {
    route: Receiver,
    netfilter: Receiver,
    /// `None` on a kernel without IPsec, where there is nothing to watch.
    xfrm: Option<Receiver>,
    requests: RouteSocket,
    known: Known,
}

impl Watcher {
    /// Subscribes, then asks what there is.
    pub fn open() -> Result<(Self, InitialState), NetlinkError> {
        Self::with_receive_buffer(RECEIVE_BUFFER)
    }

    /// The same, with receive buffers of a size: bytes, as the kernel accounts them.
    pub fn with_receive_buffer(bytes: usize) -> Result<(Self, InitialState), NetlinkError> {
        let (route, netfilter, xfrm) = (open_route(bytes)?, open_netfilter(bytes)?, open_xfrm(bytes)?);
        let mut requests = RouteSocket::open()?;
        let initial = current(&mut requests)?;
        let known = Known::new(&initial);
        Ok((Self { route, netfilter, xfrm, requests, known }, initial))
    }

    /// Tells what has changed, reading at most about `max` datagrams of each socket. The kinds that say no
    /// more than their name are told once a call, however many there were, and last.
    ///
    /// After [`Change::Overrun`] this waits for the kernel's answer to three dumps (some milliseconds for
    /// ten thousand neighbours).
    pub fn drain(&mut self, max: usize, mut handle: impl FnMut(Change)) -> Result<Drained, NetlinkError> {
        let mut coarse = Coarse::default();
        let mut lost = false;
        let known = &mut self.known;
        let mut take = |item| match item {
            Item::Link { link, deleted } => known.link(link, deleted).into_iter().for_each(&mut handle),
            Item::Address { address, added } => {
                known.address(address, added).into_iter().for_each(&mut handle);
            }
            Item::Neighbour { neighbour, deleted } => {
                known.neighbour(neighbour, deleted).into_iter().for_each(&mut handle);
            }
            Item::Ruleset { generation, port, pid } => handle(Change::Ruleset { generation, port, pid }),
            Item::Coarse(kind) => coarse.0[kind as usize] = true,
        };
        let mut total = Drained::default();
        let mut add = |drained: Drained| {
            total.datagrams += drained.datagrams;
            total.more |= drained.more;
        };
        add(self.route.drain(max, |received| lost |= each(&received, parse_route, &mut take))?);
        add(self.netfilter.drain(max, |received| lost |= each(&received, parse_netfilter, &mut take))?);
        if let Some(xfrm) = &mut self.xfrm {
            let any = |_: &Message<'_>| Some(Item::Coarse(Kind::Xfrm));
            add(xfrm.drain(max, |received| lost |= each(&received, any, &mut take))?);
        }
        Kind::ALL.into_iter().filter(|kind| coarse.0[*kind as usize]).map(Kind::change).for_each(&mut handle);
        if lost {
            handle(Change::Overrun);
            let now = current(&mut self.requests)?;
            self.known.replace(&now).into_iter().for_each(&mut handle);
        }
        Ok(total)
    }

    /// The sockets, to be polled for reading.
    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        [Some(&self.route), Some(&self.netfilter), self.xfrm.as_ref()]
            .into_iter()
            .flatten()
            .map(AsRawFd::as_raw_fd)
    }
}

impl event::Source for Watcher {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.descriptors().try_for_each(|fd| SourceFd(&fd).register(registry, token, interest))
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        self.descriptors().try_for_each(|fd| SourceFd(&fd).reregister(registry, token, interest))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.descriptors().try_for_each(|fd| SourceFd(&fd).deregister(registry))
    }
}

/// The kinds of change that are told without detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Route,
    Rule,
    Nexthop,
    Netconf,
    Xfrm,
    Fdb,
    Tc,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Route, Self::Rule, Self::Nexthop, Self::Netconf, Self::Xfrm, Self::Fdb, Self::Tc];

    const fn change(self) -> Change {
        match self {
            Self::Route => Change::Route,
            Self::Rule => Change::Rule,
            Self::Nexthop => Change::Nexthop,
            Self::Netconf => Change::Netconf,
            Self::Xfrm => Change::Xfrm,
            Self::Fdb => Change::Fdb,
            Self::Tc => Change::Tc,
        }
    }
}

/// Which of them there were.
#[derive(Debug, Default)]
struct Coarse([bool; Kind::ALL.len()]);

/// Reads the messages of a datagram; true if something was lost.
fn each(
    received: &Received<'_>,
    parse: impl Fn(&Message<'_>) -> Option<Item>,
    take: &mut impl FnMut(Item),
) -> bool {
    match received {
        Received::Datagram(bytes) => {
            let mut messages = Messages::new(bytes);
            messages.by_ref().filter_map(|message| parse(&message)).for_each(take);
            !messages.rest().is_empty()
        }
        Received::Lost => true,
    }
}

/// Asks for all links, addresses and neighbours.
fn current(requests: &mut RouteSocket) -> Result<InitialState, NetlinkError> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let links =
        requests.dump(
            "list interfaces",
            &RouteNetlinkMessage::GetLink(link),
            |message| match parse_route(message)? {
                Item::Link { link, deleted: false } => Some(link),
                _ => None,
            },
        )?;
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = requests.dump("list addresses", &request, |message| match parse_route(message)? {
        Item::Address { address, added: true } => Some(address),
        _ => None,
    })?;
    let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let neighbours = requests.dump("list neighbours", &request, |message| match parse_route(message)? {
        Item::Neighbour { neighbour, deleted: false } if neighbour.usable || neighbour.kept => {
            Some(neighbour)
        }
        _ => None,
    })?;
    Ok(InitialState { links, addresses, neighbours })
}
