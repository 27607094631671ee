//! The general lane: every encapsulation, both families.

use super::{GROUP_BIT, Headers, Refusal, ipv4, ipv6, refuse};
use crate::packet::l2::Layer2;
use crate::packet::wire::{IPV4_LEN, IPV6_LEN};

/// Takes any frame apart.
#[inline(never)]
pub(super) fn parse_into(frame: &[u8], port: u16, headers: &mut Headers) -> Result<(), Refusal> {
    let Some(layer) = Layer2::walk(frame, port) else { return Err(refuse::cut_short(frame, port)) };
    let packet = frame.get(layer.l3..layer.end).unwrap_or_default();
    let (inner, ip_len) = match layer.ip_version() {
        _ if layer.ingress.mac_port & GROUP_BIT != 0 => (None, 0),
        Some(4) => (ipv4(packet), IPV4_LEN),
        Some(6) => (ipv6(packet), IPV6_LEN),
        _ => (None, 0),
    };
    let Some(inner) = inner else { return Err(refuse::packet(&layer, packet)) };
    *headers = inner.headers(layer.ingress, layer.l3, ip_len);
    Ok(())
}
