//! Information elements, by the numbers that IANA has given them.

/// RFC 5103: what of an element counts the other direction.
const REVERSE: u32 = 29305;
/// The bit that says that an enterprise number follows.
const ENTERPRISE: u16 = 0x8000;

/// An information element, in the length in which it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its number.
    pub id: u16,
    /// Bytes of a value.
    pub length: u16,
    /// Whose number it is; none: IANA's.
    pub enterprise: Option<u32>,
}

const fn element(id: u16, length: u16) -> Element {
    Element { id, length, enterprise: None }
}

impl Element {
    /// The same of the reverse direction.
    const fn reverse(self) -> Self {
        Self { enterprise: Some(REVERSE), ..self }
    }

    /// As a template names it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let flag = if self.enterprise.is_some() { ENTERPRISE } else { 0 };
        out.extend((self.id | flag).to_be_bytes());
        out.extend(self.length.to_be_bytes());
        out.extend(self.enterprise.iter().flat_map(|number| number.to_be_bytes()));
    }
}

pub(super) const OCTET_DELTA_COUNT: Element = element(1, 8);
pub(super) const REVERSE_OCTET_DELTA_COUNT: Element = OCTET_DELTA_COUNT.reverse();
pub(super) const PACKET_DELTA_COUNT: Element = element(2, 8);
pub(super) const REVERSE_PACKET_DELTA_COUNT: Element = PACKET_DELTA_COUNT.reverse();
pub(super) const PROTOCOL_IDENTIFIER: Element = element(4, 1);
pub(super) const SOURCE_TRANSPORT_PORT: Element = element(7, 2);
pub(super) const SOURCE_IPV4_ADDRESS: Element = element(8, 4);
pub(super) const INGRESS_INTERFACE: Element = element(10, 4);
pub(super) const DESTINATION_TRANSPORT_PORT: Element = element(11, 2);
pub(super) const DESTINATION_IPV4_ADDRESS: Element = element(12, 4);
pub(super) const EGRESS_INTERFACE: Element = element(14, 4);
pub(super) const SOURCE_IPV6_ADDRESS: Element = element(27, 16);
pub(super) const DESTINATION_IPV6_ADDRESS: Element = element(28, 16);
pub(super) const EXPORTED_OCTET_TOTAL_COUNT: Element = element(40, 8);
pub(super) const EXPORTED_MESSAGE_TOTAL_COUNT: Element = element(41, 8);
pub(super) const EXPORTED_FLOW_RECORD_TOTAL_COUNT: Element = element(42, 8);
pub(super) const FLOW_END_REASON: Element = element(136, 1);
pub(super) const EXPORTING_PROCESS_ID: Element = element(144, 4);
pub(super) const FLOW_ID: Element = element(148, 8);
pub(super) const FLOW_START_MILLISECONDS: Element = element(152, 8);
pub(super) const FLOW_END_MILLISECONDS: Element = element(153, 8);
pub(super) const NOT_SENT_FLOW_TOTAL_COUNT: Element = element(166, 8);
pub(super) const POST_NAT_SOURCE_IPV4_ADDRESS: Element = element(225, 4);
pub(super) const POST_NAT_DESTINATION_IPV4_ADDRESS: Element = element(226, 4);
pub(super) const POST_NAPT_SOURCE_TRANSPORT_PORT: Element = element(227, 2);
pub(super) const POST_NAPT_DESTINATION_TRANSPORT_PORT: Element = element(228, 2);
pub(super) const NAT_EVENT: Element = element(230, 1);
pub(super) const BIFLOW_DIRECTION: Element = element(239, 1);
pub(super) const POST_NAT_SOURCE_IPV6_ADDRESS: Element = element(281, 16);
pub(super) const POST_NAT_DESTINATION_IPV6_ADDRESS: Element = element(282, 16);
pub(super) const OBSERVATION_TIME_MILLISECONDS: Element = element(323, 8);
