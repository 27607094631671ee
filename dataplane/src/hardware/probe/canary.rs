//! Canaries: packets that nobody misses, and what has to become of them.

use std::net::IpAddr;

use super::Probe;
use crate::dpdk::flow_rule::FlowRule;
use crate::flow::{FiveTuple, Key, Key4, TCP, UDP};
use crate::hardware::rule::Tag;
use crate::hardware::{Form, HardwareFlow, Ttl, encode};
use crate::packet::wire::{ETHER_IPV4, ETHER_IPV6, ETHER_VLAN};
use crate::packet::{Rewrite, checksum};

/// A flow, a packet of it, and what that has to become.
pub(super) struct Canary {
    pub(super) flow: HardwareFlow,
    pub(super) frame: Vec<u8>,
    pub(super) expected: Vec<u8>,
    /// Packets of the flow that have to go to software, and what they are.
    pub(super) to_software: Vec<(&'static str, Vec<u8>)>,
    checksum_at: usize,
}

/// TTL of canaries.
const TTL: u8 = 64;
/// Locally administered MAC addresses: no host has them.
const FROM: [u8; 6] = [0x02, 0xca, 0xfe, 0, 0, 1];
const NEXT_HOP: [u8; 6] = [0x02, 0xca, 0xfe, 0, 0, 2];
const ACK: u8 = 0x10;
const PAYLOAD: &[u8] = b"flyover canary";

impl Canary {
    /// TCP over IPv4, between addresses for documentation (RFC 5737), masqueraded.
    pub(super) fn ipv4(probe: &Probe<'_>) -> Self {
        let tuple = |src: [u8; 4], sport| FiveTuple {
            proto: TCP,
            src: src.into(),
            dst: [198, 51, 100, 9].into(),
            sport,
            dport: 443,
        };
        Self::new(probe, tuple([192, 0, 2, 2], 40_000), tuple([203, 0, 113, 1], 50_000), [None, None])
    }

    /// UDP over IPv6, between addresses for documentation (RFC 3849), to another address and port.
    pub(super) fn ipv6(probe: &Probe<'_>) -> Self {
        let tuple = |last, dport| FiveTuple {
            proto: UDP,
            src: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
            dst: [0x2001, 0xdb8, 1, 0, 0, 0, 0, last].into(),
            sport: 40_000,
            dport,
        };
        Self::new(probe, tuple(1, 53), tuple(9, 5353), [None, None])
    }

    /// A flow of which longer packets than this go to software.
    pub(super) fn no_longer(mut self) -> Self {
        let l3 = 14 + 4 * self.flow.tags.len();
        self.flow.longest = u16::try_from(self.frame.len() - l3).ok();
        let longer = packet(&self.flow.key.tuple(), TTL, ACK, 0, &[PAYLOAD, b"."].concat());
        self.to_software.push(("a packet that is too long to leave", [&self.frame[..l3], &longer].concat()));
        self
    }

    /// Flows whose tag is put on, changed, and taken off.
    pub(super) fn tagged(probe: &Probe<'_>) -> Vec<Self> {
        let Self { flow, .. } = Self::ipv4(probe);
        let (old, new) = (flow.key.tuple(), flow.leaves_as.tuple());
        let (some, other) = (Some((ETHER_VLAN, 0x2064)), Some((ETHER_VLAN, 0x60c8)));
        [[None, some], [some, other], [some, None]].map(|tags| Self::new(probe, old, new, tags)).into()
    }

    fn new(probe: &Probe<'_>, old: FiveTuple, new: FiveTuple, tags: [Option<Tag>; 2]) -> Self {
        let ether_type = if old.src.is_ipv4() { ETHER_IPV4 } else { ETHER_IPV6 };
        let headers =
            [header(probe.mac, FROM, tags[0], ether_type), header(NEXT_HOP, probe.mac, tags[1], ether_type)];
        let packet = |ttl, flags, fragment| packet(&old, ttl, flags, fragment, PAYLOAD);
        let frame = |packet: Vec<u8>| [&headers[0][..], &packet].concat();
        // Canaries are of one family.
        let key = |tuple| Key::from_tuple(tuple).unwrap_or(Key::V4(Key4::default()));
        let flow = HardwareFlow {
            port: probe.port,
            to: probe.mac,
            tags: tags[0].into_iter().collect(),
            key: key(&old),
            longest: None,
            egress: probe.egress,
            macs: [NEXT_HOP, probe.mac],
            new_tags: tags[1].into_iter().collect(),
            leaves_as: key(&new),
        };
        let mut leaves = packet(TTL, ACK, 0);
        // As a worker does it.
        if let Some(rewrite) = Rewrite::between(&flow.key, &flow.leaves_as, true)
            && !rewrite.apply(&mut leaves)
        {
            leaves.clear();
        }
        let mut to_software = vec![
            ("a packet whose TTL is 1", frame(packet(1, ACK, 0))),
            ("a packet whose TTL is 0", frame(packet(0, ACK, 0))),
        ];
        if old.proto == TCP {
            for (what, flags) in [("a FIN", 0x11), ("a SYN", 0x02), ("an RST", 0x04)] {
                to_software.push((what, frame(packet(TTL, flags, 0))));
            }
        }
        if old.src.is_ipv4() {
            to_software.push(("the first fragment", frame(packet(TTL, ACK, 0x2000))));
            to_software.push(("a later fragment", frame(packet(TTL, ACK, 0x0010))));
            to_software.push(("a packet with IP options", frame(with_option(packet(TTL, ACK, 0)))));
        }
        let ip_len = if old.src.is_ipv4() { 20 } else { 40 };
        let checksum_at = headers[1].len() + ip_len + if old.proto == TCP { 16 } else { 6 };
        let expected = [&headers[1][..], &leaves].concat();
        Self { flow, frame: frame(packet(TTL, ACK, 0)), expected, to_software, checksum_at }
    }

    /// Its rule.
    pub(super) fn rule(&self, form: &Form) -> FlowRule {
        encode::carry(&self.flow, form, if form.is_guarded() { Ttl::Decrement } else { Ttl::Exact(TTL) })
    }

    /// Whether what left is right but for a checksum.
    pub(super) fn differs_in_checksum(&self, frame: &[u8]) -> bool {
        let l3 = 14 + 4 * self.flow.new_tags.len();
        let places = [self.checksum_at, l3 + 10].map(|at| at..at + 2);
        let is_checksum = |at| places.iter().any(|place| place.contains(&at));
        let mut bytes = frame.iter().zip(&self.expected).enumerate();
        frame.len() == self.expected.len() && bytes.all(|(at, (a, b))| a == b || is_checksum(at))
    }
}

fn header(to: [u8; 6], from: [u8; 6], tag: Option<Tag>, ether_type: u16) -> Vec<u8> {
    let mut header = [to, from].concat();
    if let Some((tpid, tci)) = tag {
        header.extend(tpid.to_be_bytes());
        header.extend(tci.to_be_bytes());
    }
    header.extend(ether_type.to_be_bytes());
    header
}

/// A packet of a flow, from the IP header on, with right checksums.
fn packet(tuple: &FiveTuple, ttl: u8, flags: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut l4 = [tuple.sport.to_be_bytes(), tuple.dport.to_be_bytes()].concat();
    let check = if tuple.proto == TCP {
        l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        16
    } else {
        l4.extend([0, 8 + payload.len() as u8, 0, 0]);
        6
    };
    l4.extend(payload);
    let (mut ip, addresses) = match (tuple.src, tuple.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [high, low] = fragment.to_be_bytes();
            let header = vec![0x45, 0, 0, 20 + l4.len() as u8, 0, 0, high, low, ttl, tuple.proto, 0, 0];
            (header, [src.octets(), dst.octets()].concat())
        }
        (src, dst) => {
            let header = vec![0x60, 0, 0, 0, 0, l4.len() as u8, tuple.proto, ttl];
            (header, [octets(src), octets(dst)].concat())
        }
    };
    ip.extend(&addresses);
    if tuple.src.is_ipv4() {
        let sum = checksum::compute(&ip).to_ne_bytes();
        ip[10..12].copy_from_slice(&sum);
    }
    let sum = checksum::compute_l4(&addresses, tuple.proto, &l4).to_ne_bytes();
    l4[check..check + 2].copy_from_slice(&sum);
    [ip, l4].concat()
}

/// The same packet with an IP option: router alert (RFC 2113).
fn with_option(mut packet: Vec<u8>) -> Vec<u8> {
    packet.splice(20..20, [0x94, 4, 0, 0]);
    packet[0] = 0x46;
    packet[3] += 4;
    packet[10..12].fill(0);
    let sum = checksum::compute(&packet[..24]).to_ne_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
