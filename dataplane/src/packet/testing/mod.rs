//! Frames for tests: a builder whose every field can be made wrong, and proptest strategies over it.
//!
//! A [`Frame`] is a description; [`Frame::build`] turns it into bytes, with lengths and checksums computed
//! unless a field of [`Faults`] overrides them.

pub mod strategies;

use std::net::IpAddr;

use super::checksum;
use super::wire::{
    ETHER_IPV4, ETHER_IPV6, ETHER_PPPOE_SESSION, ETHER_SERVICE_VLAN, ETHER_VLAN, PPP_IPV4, PPP_IPV6,
};
use crate::flow::{FiveTuple, TCP, UDP};

/// Description of a frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination MAC.
    pub dst_mac: [u8; 6],
    /// Source MAC.
    pub src_mac: [u8; 6],
    /// VLAN tags, outer first: TPID and TCI.
    pub tags: Vec<(u16, u16)>,
    /// PPPoE session.
    pub pppoe: Option<u16>,
    /// Addresses, ports and protocol; protocols other than TCP and UDP get no L4 header but the payload.
    pub tuple: FiveTuple,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4 flags and fragment offset, as they are in the header.
    pub fragment: u16,
    /// IPv4 options; padded with zeros to a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// IPv6 extension headers: number and whole content, whose first byte is overwritten by the next header.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// TCP fields; not used for UDP.
    pub tcp: TcpFields,
    /// UDP without a checksum.
    pub udp_without_checksum: bool,
    /// What follows the L4 header.
    pub payload: Vec<u8>,
    /// What follows the packet in the frame.
    pub padding: Vec<u8>,
    /// What is to be wrong.
    pub faults: Faults,
}

/// TCP fields that are not in the tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpFields {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// The four bits between data offset and flags.
    pub reserved: u8,
    /// Window.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options; padded with zeros to a multiple of 4 bytes.
    pub options: Vec<u8>,
}

/// Fields that are written instead of the right ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// EtherType behind the tags.
    pub ether_type: Option<u16>,
    /// Version nibble of the IP header.
    pub version: Option<u8>,
    /// IPv4 header length in words.
    pub ihl: Option<u8>,
    /// IPv4 total length or IPv6 payload length.
    pub ip_length: Option<u16>,
    /// Added to the IPv4 header checksum.
    pub ip_checksum_error: u16,
    /// Added to the L4 checksum.
    pub l4_checksum_error: u16,
    /// UDP length.
    pub udp_length: Option<u16>,
    /// TCP data offset in words.
    pub data_offset: Option<u8>,
    /// PPPoE length.
    pub pppoe_length: Option<u16>,
    /// PPPoE version, type and code.
    pub pppoe_code: Option<u16>,
    /// PPP protocol.
    pub ppp: Option<u16>,
    /// Length at which the frame is cut.
    pub truncate: Option<usize>,
}

impl Frame {
    /// A UDP datagram with an empty payload.
    pub fn udp(src: &str, dst: &str) -> Self {
        Self::new(UDP, src, dst)
    }

    /// A TCP segment with the ACK flag and an empty payload.
    pub fn tcp(src: &str, dst: &str) -> Self {
        Self::new(TCP, src, dst)
    }

    /// A packet of any protocol between addresses with ports, such as `"10.0.0.1:80"` and `"[::1]:80"`.
    ///
    /// # Panics
    ///
    /// If one of them is none.
    pub fn new(proto: u8, src: &str, dst: &str) -> Self {
        let parse = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address with a port");
        let (src, dst) = (parse(src), parse(dst));
        Self::of(FiveTuple { proto, src: src.ip(), dst: dst.ip(), sport: src.port(), dport: dst.port() })
    }

    /// A packet with a tuple.
    pub fn of(tuple: FiveTuple) -> Self {
        Self {
            dst_mac: [2, 0, 0, 0, 0, 1],
            src_mac: [2, 0, 0, 0, 0, 2],
            tags: Vec::new(),
            pppoe: None,
            tuple,
            ttl: 64,
            tos: 0,
            id: 0x1d1d,
            fragment: 0x4000,
            options: Vec::new(),
            flow_label: 0,
            extensions: Vec::new(),
            tcp: TcpFields {
                seq: 0x1000_0000,
                ack: 0x2000_0000,
                flags: 0x10,
                reserved: 0,
                window: 512,
                urgent: 0,
                options: Vec::new(),
            },
            udp_without_checksum: false,
            payload: Vec::new(),
            padding: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// The same frame with a payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// The same frame in one more VLAN tag.
    #[must_use]
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// The same frame in an 802.1Q tag.
    #[must_use]
    pub fn vlan(self, tci: u16) -> Self {
        self.tag(ETHER_VLAN, tci)
    }

    /// The same frame in an 802.1ad tag.
    #[must_use]
    pub fn service_vlan(self, tci: u16) -> Self {
        self.tag(ETHER_SERVICE_VLAN, tci)
    }

    /// The same frame in a PPPoE session.
    #[must_use]
    pub fn pppoe(mut self, session: u16) -> Self {
        self.pppoe = Some(session);
        self
    }

    /// The same frame with TCP flags.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        self.tcp.flags = flags;
        self
    }

    /// The same frame with any change.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Length of the L2 header.
    pub fn l2_len(&self) -> usize {
        14 + 4 * self.tags.len() + if self.pppoe.is_some() { 8 } else { 0 }
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let ip = self.ip();
        let mut frame = self.l2(ip.len());
        frame.extend(ip);
        frame.extend(&self.padding);
        if let Some(length) = self.faults.truncate {
            frame.truncate(length);
        }
        frame
    }

    /// The packet's bytes from the IP header on.
    pub fn ip(&self) -> Vec<u8> {
        let l4 = self.l4();
        match (self.tuple.src, self.tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(&src.octets(), &dst.octets(), &l4),
            _ => self.ipv6(&octets(self.tuple.src), &octets(self.tuple.dst), &l4),
        }
    }

    fn is_v4(&self) -> bool {
        self.tuple.src.is_ipv4() && self.tuple.dst.is_ipv4()
    }

    fn l2(&self, ip_len: usize) -> Vec<u8> {
        let v4 = self.is_v4();
        let mut frame = [self.dst_mac, self.src_mac].concat();
        for (tpid, tci) in &self.tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        let inner = if v4 { ETHER_IPV4 } else { ETHER_IPV6 };
        let inner = if self.pppoe.is_some() { ETHER_PPPOE_SESSION } else { inner };
        frame.extend(self.faults.ether_type.unwrap_or(inner).to_be_bytes());
        if let Some(session) = self.pppoe {
            let ppp = if v4 { PPP_IPV4 } else { PPP_IPV6 };
            frame.extend(self.faults.pppoe_code.unwrap_or(0x1100).to_be_bytes());
            frame.extend(session.to_be_bytes());
            frame.extend(self.faults.pppoe_length.unwrap_or(ip_len as u16 + 2).to_be_bytes());
            frame.extend(self.faults.ppp.unwrap_or(ppp).to_be_bytes());
        }
        frame
    }

    fn ipv4(&self, src: &[u8; 4], dst: &[u8; 4], l4: &[u8]) -> Vec<u8> {
        let options = padded(&self.options);
        let header_len = 20 + options.len();
        let ihl = self.faults.ihl.unwrap_or((header_len / 4) as u8);
        let total = self.faults.ip_length.unwrap_or((header_len + l4.len()) as u16);
        let mut header = vec![self.faults.version.unwrap_or(4) << 4 | ihl & 15, self.tos];
        header.extend(total.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.tuple.proto, 0, 0]);
        header.extend(src);
        header.extend(dst);
        header.extend(options);
        let check = wrong(checksum::compute(&header), self.faults.ip_checksum_error);
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        header.extend(l4);
        header
    }

    fn ipv6(&self, src: &[u8; 16], dst: &[u8; 16], l4: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        let mut followers = self.extensions.iter().skip(1).map(|(number, _)| *number);
        for (_, content) in &self.extensions {
            let start = body.len();
            body.extend(content);
            if let Some(next) = body.get_mut(start) {
                *next = followers.next().unwrap_or(self.tuple.proto);
            }
        }
        body.extend(l4);
        let first = self.extensions.first().map_or(self.tuple.proto, |(number, _)| *number);
        let version = u32::from(self.faults.version.unwrap_or(6));
        let word = version << 28 | u32::from(self.tos) << 20 | self.flow_label & 0xf_ffff;
        let mut packet = word.to_be_bytes().to_vec();
        packet.extend(self.faults.ip_length.unwrap_or(body.len() as u16).to_be_bytes());
        packet.extend([first, self.ttl]);
        packet.extend(src);
        packet.extend(dst);
        packet.extend(body);
        packet
    }

    fn l4(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.tuple.sport.to_be_bytes());
        segment.extend(self.tuple.dport.to_be_bytes());
        let place = match self.tuple.proto {
            TCP => {
                let options = padded(&self.tcp.options);
                let offset = self.faults.data_offset.unwrap_or(5 + (options.len() / 4) as u8);
                segment.extend(self.tcp.seq.to_be_bytes());
                segment.extend(self.tcp.ack.to_be_bytes());
                segment.extend([offset << 4 | self.tcp.reserved & 15, self.tcp.flags]);
                segment.extend(self.tcp.window.to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(self.tcp.urgent.to_be_bytes());
                segment.extend(options);
                16
            }
            UDP => {
                let length = self.faults.udp_length.unwrap_or(8 + self.payload.len() as u16);
                segment.extend(length.to_be_bytes());
                segment.extend([0, 0]);
                6
            }
            _ => return self.payload.clone(),
        };
        segment.extend(&self.payload);
        if self.tuple.proto == UDP && self.udp_without_checksum {
            return segment;
        }
        let mut check = checksum::compute_l4(&self.addresses(), self.tuple.proto, &segment);
        if self.tuple.proto == UDP && check == 0 {
            check = 0xffff;
        }
        let check = wrong(check, self.faults.l4_checksum_error);
        segment[place..place + 2].copy_from_slice(&check.to_ne_bytes());
        segment
    }

    /// Source and destination address as the pseudo header has them.
    pub fn addresses(&self) -> Vec<u8> {
        match (self.tuple.src, self.tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (src, dst) => [octets(src), octets(dst)].concat(),
        }
    }
}

fn wrong(check: u16, error: u16) -> u16 {
    check.wrapping_add(error)
}

fn padded(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
