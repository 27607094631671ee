//! The links of the oracle's gateway: what each port's frames may be wrapped in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use dataplane::packet::testing::Frame;
use dataplane::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};

use crate::wrapping::Wrapping;

/// Ports of the gateway.
pub const PORTS: usize = 2;

struct Spec {
    name: &'static str,
    port: u16,
    tags: &'static [(u16, u16)],
    pppoe: Option<u16>,
    mtu: u16,
    bridged: bool,
}

const SPECS: [Spec; 10] = [
    Spec { name: "left", port: 0, tags: &[], pppoe: None, mtu: 9000, bridged: false },
    Spec { name: "left-vlan", port: 0, tags: &[(ETHER_VLAN, 100)], pppoe: None, mtu: 1500, bridged: false },
    Spec {
        name: "left-qinq",
        port: 0,
        tags: &[(ETHER_SERVICE_VLAN, 200), (ETHER_VLAN, 300)],
        pppoe: None,
        mtu: 9000,
        bridged: false,
    },
    Spec { name: "left-pppoe", port: 0, tags: &[], pppoe: Some(0x1234), mtu: 1492, bridged: false },
    Spec { name: "right", port: 1, tags: &[], pppoe: None, mtu: 9000, bridged: false },
    Spec { name: "right-vlan", port: 1, tags: &[(ETHER_VLAN, 4094)], pppoe: None, mtu: 9000, bridged: false },
    Spec {
        name: "right-qinq",
        port: 1,
        tags: &[(ETHER_VLAN, 100), (ETHER_VLAN, 100)],
        pppoe: None,
        mtu: 1500,
        bridged: false,
    },
    Spec {
        name: "right-pppoe",
        port: 1,
        tags: &[(ETHER_VLAN, 7)],
        pppoe: Some(0xffff),
        mtu: 1280,
        bridged: false,
    },
    Spec { name: "left-bridge", port: 0, tags: &[(ETHER_VLAN, 50)], pppoe: None, mtu: 1500, bridged: true },
    Spec { name: "right-bridge", port: 1, tags: &[(ETHER_VLAN, 51)], pppoe: None, mtu: 1500, bridged: true },
];

/// A link: an interface of the kernel's gateway, and on Flyover's side a port and what its frames are wrapped in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link(u8);

impl Link {
    /// How many there are.
    pub const COUNT: usize = SPECS.len();

    /// The link of a port whose frames are not wrapped in anything.
    pub fn plain(port: u16) -> Self {
        Self::all().find(|link| link.port() == port && link.spec().tags.is_empty()).unwrap_or(Self(0))
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    fn spec(self) -> &'static Spec {
        &SPECS[usize::from(self.0)]
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// The interface's name.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Flyover's port.
    pub fn port(self) -> u16 {
        self.spec().port
    }

    /// The interface's MTU.
    pub fn mtu(self) -> u16 {
        self.spec().mtu
    }

    /// Whether it is a port of the gateway's bridge.
    pub fn is_bridged(self) -> bool {
        self.spec().bridged
    }

    /// The gateway's MAC address, which is that of the port.
    pub fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 0, 0x0a + self.spec().port as u8]
    }

    /// The MAC address of the next hop, or of the host behind a bridge's port.
    pub fn neighbour_mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 1, self.0]
    }

    /// The gateway's address.
    pub fn address4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 1)
    }

    /// The next hop.
    pub fn neighbour4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 2)
    }

    /// The gateway's address.
    pub fn address6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x99, u16::from(self.0), 0, 0, 0, 1)
    }

    /// Puts a frame onto this link, towards the gateway, or through its bridge to whoever is on `to`. `priority` is PCP and DEI of its outer tag.
    pub fn dress(self, frame: &mut Frame, to: Self, priority: u8) {
        frame.dst_mac = if self.is_bridged() { to.neighbour_mac() } else { self.mac() };
        frame.src_mac = self.neighbour_mac();
        frame.tags = self.spec().tags.to_vec();
        if let Some((_, tci)) = frame.tags.first_mut() {
            *tci |= u16::from(priority & 15) << 12;
        }
        frame.pppoe = self.spec().pppoe;
    }

    /// What its frames are wrapped in.
    pub fn wrapping(self) -> Wrapping {
        Wrapping { tags: self.spec().tags, pppoe: self.spec().pppoe }
    }

    /// Takes off what a frame of this link is wrapped in, as far as it is that; priorities don't matter, as to the kernel.
    pub fn unwrap(self, frame: &[u8]) -> Option<Vec<u8>> {
        self.wrapping().unwrap(frame)
    }

    /// Wraps a frame that the kernel sent out of this link's interface; `None` for what PPPoE doesn't carry.
    pub fn wrap(self, frame: &[u8]) -> Option<Vec<u8>> {
        self.wrapping().wrap(frame)
    }

    /// The link of a port that a frame came in on; `None` if it is wrapped in anything else.
    pub fn of(port: u16, frame: &[u8]) -> Option<(Self, Vec<u8>)> {
        // Those with a wrapping first: all frames are of the link without one.
        let mut links: Vec<Self> = Self::all().filter(|link| link.port() == port).collect();
        links.sort_by_key(|link| std::cmp::Reverse((link.spec().tags.len(), link.spec().pppoe.is_some())));
        links.into_iter().find_map(|link| Some((link, link.unwrap(frame)?)))
    }
}

/// Whether an address is one of the gateway's networks, where connections have other ends than the gateway's hosts.
pub fn is_ours(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == [10, 99],
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 0x99],
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|link| link.name() == name).ok_or_else(|| format!("no link {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_can_be_unwrapped_on_its_link_alone() {
        for link in Link::all() {
            for (src, dst) in [("10.0.0.1:1", "10.0.0.2:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")] {
                let plain = Frame::udp(src, dst).payload(b"payload");
                let mut dressed = plain.clone();
                link.dress(&mut dressed, link, 0);
                let expected = Frame { dst_mac: dressed.dst_mac, src_mac: dressed.src_mac, ..plain };
                assert_eq!(link.wrap(&expected.build()), Some(dressed.build()), "{link}");
                assert_eq!(Link::of(link.port(), &dressed.build()), Some((link, expected.build())), "{link}");
                link.dress(&mut dressed, link, 15);
                assert_eq!(Link::of(link.port(), &dressed.build()), Some((link, expected.build())), "{link}");
            }
        }
    }

    #[test]
    fn padding_of_a_session_stays_outside() {
        let link: Link = "left-pppoe".parse().expect("a link");
        let mut frame = Frame::udp("10.0.0.1:1", "10.0.0.2:2");
        link.dress(&mut frame, link, 0);
        let bare = link.unwrap(&frame.build());
        frame.padding = vec![1; 20];
        assert_eq!(link.unwrap(&frame.build()), bare);
    }
}
