//! The kernel's side of watching: which groups, and what their messages say.
//!
//! Read by hand, not with netlink-packet-route: that decodes every attribute of a message and fails on the
//! first that a newer kernel has changed, and a link message lost so is a change missed. Few attributes
//! are all that is needed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use nix::errno::Errno;
use nix::libc;
use socket2::{SockFilter, SockRef};

use super::{Address, Kind, Link, Neighbour};
use crate::netlink::message::{Attributes, Message, NFGEN, be32, ne32};
use crate::netlink::receive::{Receiver, set_receive_buffer};
use crate::netlink::{NetlinkError, neighbour};

/// Longest datagram: a route with hundreds of next hops, an interface with every attribute.
const DATAGRAM: usize = 32 << 10;

/// `enum rtnetlink_groups` (linux/rtnetlink.h).
const ROUTE_GROUPS: [u32; 15] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
    libc::RTNLGRP_MPLS_ROUTE,
    libc::RTNLGRP_MPLS_NETCONF,
    RTNLGRP_NEXTHOP,
    RTNLGRP_BRVLAN,
];
const RTNLGRP_NEXTHOP: u32 = 32;
const RTNLGRP_BRVLAN: u32 = 33;
const NFNLGRP_NFTABLES: u32 = 7;
/// linux/xfrm.h: expiry (a policy that expires is not deleted by message), SA, policy, migration, mapping.
const XFRM_GROUPS: [u32; 5] = [2, 3, 4, 7, 8];

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN.
const NEWGEN: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_NEWGEN as u16;

/// What a message says.
#[derive(Debug)]
pub(super) enum Item {
    Link { link: Link, deleted: bool },
    Address { address: Address, added: bool },
    Neighbour { neighbour: Neighbour, deleted: bool },
    Ruleset { generation: u32, port: u32, pid: u32 },
    Coarse(Kind),
}

pub(super) fn open_route(buffer: usize) -> Result<Receiver, NetlinkError> {
    let socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::system("open a routing netlink socket"))?;
    subscribe(socket, buffer, &ROUTE_GROUPS, "subscribe to routing changes")
}

/// Of an nftables transaction only its generation: a large ruleset would fill any buffer.
pub(super) fn open_netfilter(buffer: usize) -> Result<Receiver, NetlinkError> {
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const TYPE_AT: u32 = 4;
    let socket =
        Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::system("open a netfilter netlink socket"))?;
    SockRef::from(&socket)
        .attach_filter(&[
            SockFilter::new(LOAD_HALF, 0, 0, TYPE_AT),
            // Loaded in network byte order, while netlink's header is in the host's.
            SockFilter::new(EQUAL, 0, 1, u32::from(NEWGEN.to_be())),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ])
        .map_err(NetlinkError::system("filter an nftables event socket"))?;
    subscribe(socket, buffer, &[NFNLGRP_NFTABLES], "subscribe to ruleset changes")
}

pub(super) fn open_xfrm(buffer: usize) -> Result<Option<Receiver>, NetlinkError> {
    match Socket::new(NETLINK_XFRM) {
        Ok(socket) => subscribe(socket, buffer, &XFRM_GROUPS, "subscribe to IPsec changes").map(Some),
        Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => Ok(None),
        Err(error) => Err(NetlinkError::system("open an IPsec netlink socket")(error)),
    }
}

fn subscribe(
    socket: Socket,
    buffer: usize,
    groups: &[u32],
    doing: &'static str,
) -> Result<Receiver, NetlinkError> {
    set_receive_buffer(&socket, buffer)?;
    let receiver = Receiver::bind(socket, DATAGRAM)?;
    // By number: a bit mask has room for the first 31 only.
    groups
        .iter()
        .try_for_each(|group| receiver.socket().add_membership(*group))
        .map_err(NetlinkError::system(doing))?;
    Ok(receiver)
}

pub(super) fn parse_netfilter(message: &Message<'_>) -> Option<Item> {
    const GEN_ID: u16 = 1;
    const GEN_PROC_PID: u16 = 2;
    if message.kind != NEWGEN {
        return None;
    }
    let (mut generation, mut pid) = (0, 0);
    for (kind, value) in Attributes(message.payload.get(NFGEN..)?) {
        match kind {
            GEN_ID => generation = be32(value)?,
            GEN_PROC_PID => pid = be32(value)?,
            _ => {}
        }
    }
    Some(Item::Ruleset { generation, port: message.port, pid })
}

pub(super) fn parse_route(message: &Message<'_>) -> Option<Item> {
    let coarse = |kind| Some(Item::Coarse(kind));
    match message.kind {
        libc::RTM_NEWLINK => parse_link(message, false),
        libc::RTM_DELLINK => parse_link(message, true),
        libc::RTM_NEWADDR => parse_address(message, true),
        libc::RTM_DELADDR => parse_address(message, false),
        libc::RTM_NEWNEIGH => parse_neighbour(message, false),
        libc::RTM_DELNEIGH => parse_neighbour(message, true),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => coarse(Kind::Route),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => coarse(Kind::Rule),
        libc::RTM_NEWNETCONF | RTM_DELNETCONF => coarse(Kind::Netconf),
        RTM_NEWVLAN | RTM_DELVLAN => coarse(Kind::Fdb),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP | RTM_NEWNEXTHOPBUCKET | RTM_DELNEXTHOPBUCKET => {
            coarse(Kind::Nexthop)
        }
        libc::RTM_NEWQDISC..=libc::RTM_DELTFILTER | RTM_NEWCHAIN | RTM_DELCHAIN => coarse(Kind::Tc),
        _ => None,
    }
}

const RTM_DELNETCONF: u16 = 81;
const RTM_NEWCHAIN: u16 = 100;
const RTM_DELCHAIN: u16 = 101;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_NEWVLAN: u16 = 112;
const RTM_DELVLAN: u16 = 113;
const RTM_NEWNEXTHOPBUCKET: u16 = 116;
const RTM_DELNEXTHOPBUCKET: u16 = 117;

fn mac(value: &[u8]) -> Option<[u8; 6]> {
    value.try_into().ok()
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// `struct ifinfomsg` and its attributes.
fn parse_link(message: &Message<'_>, deleted: bool) -> Option<Item> {
    const HEADER: usize = 16;
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const LINK: u16 = 5;
    const MASTER: u16 = 10;
    const LINKINFO: u16 = 18;
    const LINK_NETNSID: u16 = 37;
    const PROP_LIST: u16 = 52;
    const ALT_IFNAME: u16 = 53;
    let family = *message.payload.first()?;
    if i32::from(family) == libc::AF_BRIDGE {
        return Some(Item::Coarse(Kind::Fdb));
    }
    let flags = ne32(message.payload.get(8..)?)? as i32;
    let mut link = Link {
        ifindex: ne32(message.payload.get(4..)?)?,
        name: String::new(),
        altnames: Vec::new(),
        up: flags & libc::IFF_UP != 0,
        running: flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0,
        mtu: 0,
        mac: None,
        master: None,
        lower: None,
        ppp: message.payload.get(2..4).is_some_and(|kind| *kind == libc::ARPHRD_PPP.to_ne_bytes()),
        filters_vlans: false,
    };
    let mut elsewhere = false;
    for (kind, value) in Attributes(message.payload.get(HEADER..)?) {
        match kind {
            ADDRESS => link.mac = mac(value),
            NAME => link.name = text(value),
            MTU => link.mtu = ne32(value)?,
            LINK => link.lower = ne32(value).filter(|lower| *lower != 0 && *lower != link.ifindex),
            // Its index means something else there.
            LINK_NETNSID => elsewhere = true,
            MASTER => link.master = ne32(value),
            LINKINFO => link.filters_vlans = filters_vlans(value),
            PROP_LIST => {
                let names = Attributes(value).filter(|(kind, _)| *kind == ALT_IFNAME);
                link.altnames.extend(names.map(|(_, value)| text(value)));
            }
            _ => {}
        }
    }
    link.lower = link.lower.filter(|_| !elsewhere);
    (!link.name.is_empty()).then_some(Item::Link { link, deleted })
}

/// IFLA_LINKINFO of a bridge with `vlan_filtering 1`.
fn filters_vlans(info: &[u8]) -> bool {
    const KIND: u16 = 1;
    const DATA: u16 = 2;
    const BRIDGE_VLAN_FILTERING: u16 = 7;
    let of = |wanted| Attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    of(KIND).is_some_and(|kind| text(kind) == "bridge")
        && of(DATA).is_some_and(|data| {
            Attributes(data).any(|(kind, value)| kind == BRIDGE_VLAN_FILTERING && value.first() == Some(&1))
        })
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => value.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        libc::AF_INET6 => value.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

/// `struct ifaddrmsg` and its attributes.
fn parse_address(message: &Message<'_>, added: bool) -> Option<Item> {
    const HEADER: usize = 8;
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let [family, prefix, ..] = *message.payload.first_chunk::<HEADER>()?;
    let ifindex = ne32(message.payload.get(4..)?)?;
    // On a point-to-point interface ADDRESS is the other end's, and LOCAL ours; else LOCAL may be missing.
    let (mut address, mut local) = (None, None);
    for (kind, value) in Attributes(message.payload.get(HEADER..)?) {
        match kind {
            ADDRESS => address = ip(family, value),
            LOCAL => local = ip(family, value),
            _ => {}
        }
    }
    Some(Item::Address { address: Address { ifindex, address: local.or(address)?, prefix }, added })
}

/// `struct ndmsg` and its attributes.
fn parse_neighbour(message: &Message<'_>, deleted: bool) -> Option<Item> {
    const HEADER: usize = 12;
    const DST: u16 = 1;
    const LLADDR: u16 = 2;
    const PROTOCOL: u16 = 12;
    const FLAGS_EXT: u16 = 15;
    const EXT_MANAGED: u32 = 1;
    /// NUD_VALID: permanent, no-ARP, reachable, probe, stale, delay.
    const VALID: u16 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;
    /// NUD_PERMANENT, NUD_NOARP.
    const UNPROBED: u16 = 0x80 | 0x40;
    const PROXY: u8 = 0x08;
    const EXT_LEARNED: u8 = 0x10;
    let [family, _, _, _, i0, i1, i2, i3, s0, s1, flags, _] = *message.payload.first_chunk::<HEADER>()?;
    if i32::from(family) == libc::AF_BRIDGE {
        return Some(Item::Coarse(Kind::Fdb));
    }
    if flags & PROXY != 0 {
        return None;
    }
    let (mut address, mut lladdr, mut ours, mut managed) = (None, None, false, false);
    for (kind, value) in Attributes(message.payload.get(HEADER..)?) {
        match kind {
            PROTOCOL => ours = value == [neighbour::PROTOCOL],
            FLAGS_EXT => {
                managed = value.first_chunk().is_some_and(|v| u32::from_ne_bytes(*v) & EXT_MANAGED != 0);
            }
            DST => address = ip(family, value),
            LLADDR => lladdr = mac(value),
            _ => {}
        }
    }
    let state = u16::from_ne_bytes([s0, s1]);
    let usable = !deleted && state & VALID != 0;
    let others = !ours && (managed || flags & EXT_LEARNED != 0);
    let neighbour = Neighbour {
        ifindex: u32::from_ne_bytes([i0, i1, i2, i3]),
        address: address.filter(|address| !address.is_multicast())?,
        mac: lladdr.filter(|_| usable),
        usable,
        kept: !deleted && ours && managed,
        fixed: !deleted && (state & UNPROBED != 0 || others),
    };
    Some(Item::Neighbour { neighbour, deleted })
}
