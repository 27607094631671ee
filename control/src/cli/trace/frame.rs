//! What can be read off the first bytes of a frame.

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use serde::Serialize;

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const PPPOE_SESSION: u16 = 0x8864;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// A frame's headers. What it does not have is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Frame {
    pub(super) src_mac: String,
    pub(super) dst_mac: String,
    /// Outer first.
    pub(super) vlans: Vec<u16>,
    pub(super) pppoe: Option<u16>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp`; else the number of the IP protocol or EtherType.
    pub(super) proto: String,
    pub(super) src: Option<IpAddr>,
    pub(super) dst: Option<IpAddr>,
    pub(super) sport: Option<u16>,
    pub(super) dport: Option<u16>,
    pub(super) ttl: Option<u8>,
    /// From the IP header on, as it says itself.
    pub(super) l3_length: Option<u32>,
    /// Of TCP, as letters.
    pub(super) tcp_flags: Option<String>,
}

impl Frame {
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mac = |at: usize| bytes.get(at..at + 6).map(hex).unwrap_or_default();
        let mut frame = Self { dst_mac: mac(0), src_mac: mac(6), ..Self::default() };
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word));
        let mut at = 12;
        let mut kind = word(at).unwrap_or(0);
        at += 2;
        while matches!(kind, VLAN | SERVICE_VLAN) {
            frame.vlans.push(word(at).unwrap_or(0) & 0xfff);
            kind = word(at + 2).unwrap_or(0);
            at += 4;
        }
        if kind == PPPOE_SESSION {
            frame.pppoe = word(at + 2);
            kind = match word(at + 6) {
                Some(0x0021) => IPV4,
                Some(0x0057) => IPV6,
                _ => kind,
            };
            at += 8;
        }
        frame.proto = match kind {
            0x0806 => "arp".to_owned(),
            kind => format!("ethertype {kind:#06x}"),
        };
        if matches!(kind, IPV4 | IPV6) {
            frame.read_ip(bytes.get(at..).unwrap_or_default());
        }
        frame
    }

    fn read_ip(&mut self, packet: &[u8]) {
        self.proto = "ip".to_owned();
        let Ok(sliced) = LaxSlicedPacket::from_ip(packet) else { return };
        let number = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                self.src = Some(header.source_addr().into());
                self.dst = Some(header.destination_addr().into());
                self.ttl = Some(header.ttl());
                self.l3_length = Some(header.total_len().into());
                ip.payload_ip_number()
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                self.src = Some(header.source_addr().into());
                self.dst = Some(header.destination_addr().into());
                self.ttl = Some(header.hop_limit());
                self.l3_length = Some(u32::from(header.payload_length()) + 40);
                ip.payload().ip_number
            }
            _ => return,
        };
        self.proto = match number.0 {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            other => format!("ip protocol {other}"),
        };
        match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                (self.sport, self.dport) = (Some(tcp.source_port()), Some(tcp.destination_port()));
                let flags = [
                    (tcp.syn(), 'S'),
                    (tcp.fin(), 'F'),
                    (tcp.rst(), 'R'),
                    (tcp.psh(), 'P'),
                    (tcp.ack(), 'A'),
                    (tcp.urg(), 'U'),
                ];
                self.tcp_flags =
                    Some(flags.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect());
            }
            Some(TransportSlice::Udp(udp)) => {
                (self.sport, self.dport) = (Some(udp.source_port()), Some(udp.destination_port()));
            }
            _ => {}
        }
    }

    /// The fields in which another frame differs: the name of each, and what it was and is.
    pub(super) fn changes(&self, after: &Self) -> Vec<Change> {
        let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
            (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
            (Some(address), None) => address.to_string(),
            _ => String::new(),
        };
        let number = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
        let fields = |frame: &Self| {
            [
                ("source", end(frame.src, frame.sport)),
                ("destination", end(frame.dst, frame.dport)),
                ("ttl", number(frame.ttl.map(u32::from))),
                ("source MAC", frame.src_mac.clone()),
                ("destination MAC", frame.dst_mac.clone()),
                ("vlans", frame.vlans.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")),
                ("pppoe", number(frame.pppoe.map(u32::from))),
            ]
        };
        fields(self)
            .into_iter()
            .zip(fields(after))
            .filter(|((_, before), (_, after))| before != after)
            .map(|((field, before), (_, after))| Change { field, before, after })
            .collect()
    }
}

/// A field that was rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) field: &'static str,
    pub(super) before: String,
    pub(super) after: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use dataplane::flow::{FiveTuple, TCP, UDP};
    use dataplane::packet::testing::{Frame as Built, strategies};
    use proptest::prelude::*;

    use super::*;

    fn tuple(proto: u8) -> FiveTuple {
        FiveTuple { proto, src: [10, 0, 0, 1].into(), dst: [192, 0, 2, 1].into(), sport: 1000, dport: 53 }
    }

    #[test]
    fn headers_are_read_and_differences_named() {
        let mut built = Built::of(tuple(UDP));
        built.tags = vec![(VLAN, 10)];
        built.pppoe = Some(7);
        let frame = Frame::read(&built.build());
        assert_eq!((frame.vlans.as_slice(), frame.pppoe, frame.proto.as_str()), (&[10][..], Some(7), "udp"));
        assert_eq!((frame.src, frame.sport, frame.dport), (Some([10, 0, 0, 1].into()), Some(1000), Some(53)));
        let mut after = Built::of(tuple(UDP));
        (after.ttl, after.tuple.sport) = (after.ttl - 1, 2000);
        let after = Frame::read(&after.build());
        let names: Vec<_> = frame.changes(&after).into_iter().map(|change| change.field).collect();
        assert_eq!(names, ["source", "ttl", "vlans", "pppoe"]);
        let change = &frame.changes(&after)[0];
        assert_eq!((change.before.as_str(), change.after.as_str()), ("10.0.0.1:1000", "10.0.0.1:2000"));
        let tcp = Built::of(tuple(TCP));
        assert_eq!(Frame::read(&tcp.build()).proto, "tcp");
    }

    proptest! {
        #[test]
        fn any_frame_and_any_part_of_it_is_read(frame in strategies::any_frames(), cut in 0..300_usize) {
            let bytes = frame.build();
            Frame::read(&bytes[..cut.min(bytes.len())]);
        }

        #[test]
        fn what_flies_is_read_as_it_is(frame in strategies::legal_frames()) {
            let read = Frame::read(&frame.build());
            prop_assert_eq!(read.src, Some(frame.tuple.src));
            prop_assert_eq!((read.sport, read.dport), (Some(frame.tuple.sport), Some(frame.tuple.dport)));
            prop_assert_eq!(read.ttl, Some(frame.ttl));
        }
    }
}
