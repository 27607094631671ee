//! The general lane: every encapsulation, both families.

use super::{GROUP_BIT, Headers, Refusal, ipv4, ipv6, refuse};
use crate::packet::l2::Layer2;
use crate::packet::wire::{IPV4_LEN, IPV6_LEN};

/// Takes any frame apart.
#[inline(never)]
pub(super) fn parse_into(frame: &[u8], port: u16, headers: &mut Headers) -> Result<(), Refusal> {
    let Some(layer) = Layer2::walk(frame, port) else { return Err(refuse::cut_short(frame, port)) };
    let packet = frame.get(layer.l3..layer.end).unwrap_or_default();
    if layer.ingress.mac_port & GROUP_BIT == 0 {
        match layer.ip_version() {
            Some(4) => {
                if let Some(inner) = ipv4(packet) {
                    *headers = inner.any().headers(layer.ingress, layer.l3, IPV4_LEN);
                    return Ok(());
                }
            }
            Some(_) => {
                if let Some(inner) = ipv6(packet) {
                    *headers = inner.headers(layer.ingress, layer.l3, IPV6_LEN);
                    return Ok(());
                }
            }
            None => {}
        }
    }
    Err(refuse::packet(&layer, packet))
}
