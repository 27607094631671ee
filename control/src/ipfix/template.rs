//! Templates: which elements a record has, in which order.

use super::element::{self as e, Element};

/// Sets that hold templates, and such of options (RFC 7011, 3.3.2).
const TEMPLATE_SET: u16 = 2;
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// What records of one kind are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// The number by which sets of its records name it.
    pub id: u16,
    /// So many of the first fields say what an options record is about; 0: its records are flows or events.
    pub scope: u16,
    /// The fields of a record.
    pub fields: &'static [Element],
}

/// A connection over IPv4, or a part of it.
pub const FLOW4: Template = Template {
    id: 256,
    scope: 0,
    fields: &[
        e::FLOW_ID,
        e::FLOW_START_MILLISECONDS,
        e::FLOW_END_MILLISECONDS,
        e::OCTET_DELTA_COUNT,
        e::PACKET_DELTA_COUNT,
        e::REVERSE_OCTET_DELTA_COUNT,
        e::REVERSE_PACKET_DELTA_COUNT,
        e::SOURCE_IPV4_ADDRESS,
        e::DESTINATION_IPV4_ADDRESS,
        e::POST_NAT_SOURCE_IPV4_ADDRESS,
        e::POST_NAT_DESTINATION_IPV4_ADDRESS,
        e::SOURCE_TRANSPORT_PORT,
        e::DESTINATION_TRANSPORT_PORT,
        e::POST_NAPT_SOURCE_TRANSPORT_PORT,
        e::POST_NAPT_DESTINATION_TRANSPORT_PORT,
        e::INGRESS_INTERFACE,
        e::EGRESS_INTERFACE,
        e::PROTOCOL_IDENTIFIER,
        e::FLOW_END_REASON,
        e::BIFLOW_DIRECTION,
    ],
};

/// The same over IPv6.
pub const FLOW6: Template = Template {
    id: 257,
    scope: 0,
    fields: &[
        e::FLOW_ID,
        e::FLOW_START_MILLISECONDS,
        e::FLOW_END_MILLISECONDS,
        e::OCTET_DELTA_COUNT,
        e::PACKET_DELTA_COUNT,
        e::REVERSE_OCTET_DELTA_COUNT,
        e::REVERSE_PACKET_DELTA_COUNT,
        e::SOURCE_IPV6_ADDRESS,
        e::DESTINATION_IPV6_ADDRESS,
        e::POST_NAT_SOURCE_IPV6_ADDRESS,
        e::POST_NAT_DESTINATION_IPV6_ADDRESS,
        e::SOURCE_TRANSPORT_PORT,
        e::DESTINATION_TRANSPORT_PORT,
        e::POST_NAPT_SOURCE_TRANSPORT_PORT,
        e::POST_NAPT_DESTINATION_TRANSPORT_PORT,
        e::INGRESS_INTERFACE,
        e::EGRESS_INTERFACE,
        e::PROTOCOL_IDENTIFIER,
        e::FLOW_END_REASON,
        e::BIFLOW_DIRECTION,
    ],
};

/// A NAT44 session begins or ends (RFC 8158, 5.6.1 and 5.6.2).
pub const NAT44: Template = Template {
    id: 258,
    scope: 0,
    fields: &[
        e::OBSERVATION_TIME_MILLISECONDS,
        e::FLOW_ID,
        e::SOURCE_IPV4_ADDRESS,
        e::DESTINATION_IPV4_ADDRESS,
        e::POST_NAT_SOURCE_IPV4_ADDRESS,
        e::POST_NAT_DESTINATION_IPV4_ADDRESS,
        e::SOURCE_TRANSPORT_PORT,
        e::DESTINATION_TRANSPORT_PORT,
        e::POST_NAPT_SOURCE_TRANSPORT_PORT,
        e::POST_NAPT_DESTINATION_TRANSPORT_PORT,
        e::PROTOCOL_IDENTIFIER,
        e::NAT_EVENT,
    ],
};

/// What the exporter has sent, and what it could not (RFC 7011, 4.3).
pub const STATISTICS: Template = Template {
    id: 259,
    scope: 1,
    fields: &[
        e::EXPORTING_PROCESS_ID,
        e::EXPORTED_FLOW_RECORD_TOTAL_COUNT,
        e::EXPORTED_MESSAGE_TOTAL_COUNT,
        e::EXPORTED_OCTET_TOTAL_COUNT,
        e::NOT_SENT_FLOW_TOTAL_COUNT,
    ],
};

impl Template {
    /// Every template that an exporter may send, in the order in which it does.
    pub const ALL: [Self; 4] = [FLOW4, FLOW6, NAT44, STATISTICS];

    /// Bytes of a record.
    pub const fn record_length(&self) -> usize {
        let (mut length, mut at) = (0, 0);
        while at < self.fields.len() {
            length += self.fields[at].length as usize;
            at += 1;
        }
        length
    }

    /// The set in which it is sent itself.
    pub(super) const fn set(&self) -> u16 {
        if self.scope == 0 { TEMPLATE_SET } else { OPTIONS_TEMPLATE_SET }
    }

    /// The template's record.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.id.to_be_bytes());
        out.extend((self.fields.len() as u16).to_be_bytes());
        if self.scope != 0 {
            out.extend(self.scope.to_be_bytes());
        }
        self.fields.iter().for_each(|field| field.write(out));
    }
}
