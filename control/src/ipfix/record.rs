//! Records, and their bytes in the order of their templates.

use std::net::IpAddr;

use dataplane::flow::FiveTuple;

use super::template::{FLOW4, FLOW6, NAT44, STATISTICS, Template};

/// biflowDirection: the source is the end that began.
const INITIATOR: u8 = 1;

/// Packets and bytes from the IP header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub octets: u64,
}

/// Why there is a record: flowEndReason, by IANA's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// No packet for as long as conntrack's timeout.
    IdleTimeout = 1,
    /// The connection goes on: this is what it has carried since the last record.
    ActiveTimeout = 2,
    /// FIN or RST.
    EndOfFlow = 3,
    /// It was taken out: by an operator, by a policy, or since the gateway ends.
    ForcedEnd = 4,
}

/// What a connection has carried, or a part of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// conntrack's id.
    pub id: u32,
    /// As its first packet came in.
    pub before: FiveTuple,
    /// As that packet left, of the same family.
    pub after: FiveTuple,
    /// That way.
    pub forward: Count,
    /// The way of the answers.
    pub reverse: Count,
    /// From when on this record counts, in milliseconds since 1970.
    pub start: u64,
    /// When the last packet was seen, in milliseconds since 1970.
    pub end: u64,
    /// Why there is a record.
    pub reason: EndReason,
    /// Interface by which the first packet came in; 0: not known, since it never flew.
    pub ingress: u32,
    /// Interface by which it left; 0: not known.
    pub egress: u32,
}

/// What happens to a NAT session: natEvent, by RFC 8158's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NatEvent {
    /// It begins.
    Create = 4,
    /// It ends.
    Delete = 5,
}

/// A NAT44 session begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatSession {
    /// conntrack's id.
    pub id: u32,
    /// As its packets come in; IPv4.
    pub before: FiveTuple,
    /// As they leave; IPv4.
    pub after: FiveTuple,
    /// What happens.
    pub event: NatEvent,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// What an exporter tells of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statistics {
    pub(super) process: u32,
    pub(super) records: u64,
    pub(super) messages: u64,
    pub(super) octets: u64,
    pub(super) not_sent: u64,
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => out.extend(address.octets()),
        IpAddr::V6(address) => out.extend(address.octets()),
    }
}

fn tuples(out: &mut Vec<u8>, before: &FiveTuple, after: &FiveTuple) {
    [before.src, before.dst, after.src, after.dst].into_iter().for_each(|end| address(out, end));
    for port in [before.sport, before.dport, after.sport, after.dport] {
        out.extend(port.to_be_bytes());
    }
}

impl FlowRecord {
    /// The template that it is written by.
    pub const fn template(&self) -> Template {
        if self.before.src.is_ipv4() { FLOW4 } else { FLOW6 }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let numbers = [
            u64::from(self.id),
            self.start,
            self.end,
            self.forward.octets,
            self.forward.packets,
            self.reverse.octets,
            self.reverse.packets,
        ];
        numbers.into_iter().for_each(|number| out.extend(number.to_be_bytes()));
        tuples(out, &self.before, &self.after);
        out.extend(self.ingress.to_be_bytes());
        out.extend(self.egress.to_be_bytes());
        out.extend([self.before.proto, self.reason as u8, INITIATOR]);
    }
}

impl NatSession {
    /// The template that it is written by.
    pub const TEMPLATE: Template = NAT44;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.at.to_be_bytes());
        out.extend(u64::from(self.id).to_be_bytes());
        tuples(out, &self.before, &self.after);
        out.extend([self.before.proto, self.event as u8]);
    }
}

impl Statistics {
    pub(super) const TEMPLATE: Template = STATISTICS;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.process.to_be_bytes());
        for number in [self.records, self.messages, self.octets, self.not_sent] {
            out.extend(number.to_be_bytes());
        }
    }
}
