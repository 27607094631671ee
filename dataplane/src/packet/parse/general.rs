//! The general lane: every encapsulation, both families.

use super::{GROUP_BIT, Headers, Refusal, ipv4, ipv6, refuse};
use crate::flow::Key;
use crate::packet::l2::Layer2;

/// Takes any frame apart.
#[inline(never)]
pub(super) fn parse(frame: &[u8], port: u16) -> Result<Headers, Refusal> {
    let Some(layer) = Layer2::walk(frame, port) else { return Err(refuse::cut_short(frame, port)) };
    let packet = frame.get(layer.l3..layer.end).unwrap_or_default();
    let headers = if layer.ingress.mac_port & GROUP_BIT == 0 {
        match layer.ip_version() {
            Some(4) => ipv4(packet).map(|inner| inner.headers(layer.ingress, layer.l3, Key::V4)),
            Some(_) => ipv6(packet).map(|inner| inner.headers(layer.ingress, layer.l3, Key::V6)),
            None => None,
        }
    } else {
        None
    };
    headers.ok_or_else(|| refuse::packet(&layer, packet))
}
