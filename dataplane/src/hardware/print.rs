//! Rules in the words of testpmd, so that an operator can try them by hand.
//!
//! What is printed is read from the C structures that a driver gets, and not from what they were made of.

use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::dpdk::flow_rule::layout::{self, ModifyField, Operation};
use crate::dpdk::flow_rule::{ActionKind, FlowRule, ItemKind, RawAction, RawItem, RuleView};

/// As many characters testpmd reads of a line; the rest of a longer one is lost.
pub const TESTPMD_LINE: usize = 511;

/// `flow create PORT ... pattern ... / end actions ... / end`.
pub fn testpmd(port: u16, rule: &FlowRule) -> String {
    let view = rule.view();
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_rule(&mut text, port, &view);
    text
}

fn write_rule(out: &mut String, port: u16, view: &RuleView<'_>) -> fmt::Result {
    let attr = view.attr();
    write!(out, "flow create {port}")?;
    if attr.group != 0 {
        write!(out, " group {}", attr.group)?;
    }
    if attr.priority != 0 {
        write!(out, " priority {}", attr.priority)?;
    }
    for (set, word) in [(attr.ingress, "ingress"), (attr.egress, "egress"), (attr.transfer, "transfer")] {
        if set {
            write!(out, " {word}")?;
        }
    }
    out.push_str(" pattern");
    for item in view.items() {
        write!(out, " {}", item.kind)?;
        write_item(out, item)?;
        out.push_str(" /");
    }
    out.push_str(" end actions");
    for action in view.actions() {
        write!(out, " {}", action.kind)?;
        write_action(out, action)?;
        out.push_str(" /");
    }
    out.push_str(" end");
    Ok(())
}

/// A field of an item: what testpmd calls it, where it lies, how long it is, and how it is written.
type Place = (&'static str, usize, usize, Style);

#[derive(Clone, Copy)]
enum Style {
    Mac,
    Decimal,
    Hex,
    Ipv4,
    Ipv6,
    /// A number in the machine's byte order.
    Native,
}

const ETH: &[Place] = &[("dst", 0, 6, Style::Mac), ("src", 6, 6, Style::Mac), ("type", 12, 2, Style::Hex)];
const VLAN: &[Place] = &[("tci", 0, 2, Style::Hex), ("inner_type", 2, 2, Style::Hex)];
const IPV4: &[Place] = &[
    ("version_ihl", 0, 1, Style::Hex),
    ("tos", 1, 1, Style::Hex),
    ("length", 2, 2, Style::Decimal),
    ("fragment_offset", 6, 2, Style::Hex),
    ("ttl", 8, 1, Style::Decimal),
    ("proto", 9, 1, Style::Decimal),
    ("src", 12, 4, Style::Ipv4),
    ("dst", 16, 4, Style::Ipv4),
];
const IPV6: &[Place] = &[
    ("length", 4, 2, Style::Decimal),
    ("proto", 6, 1, Style::Decimal),
    ("hop", 7, 1, Style::Decimal),
    ("src", 8, 16, Style::Ipv6),
    ("dst", 24, 16, Style::Ipv6),
];
const TCP: &[Place] =
    &[("src", 0, 2, Style::Decimal), ("dst", 2, 2, Style::Decimal), ("flags", 13, 1, Style::Hex)];
const UDP: &[Place] = &[("src", 0, 2, Style::Decimal), ("dst", 2, 2, Style::Decimal)];
const REPRESENTED_PORT: &[Place] = &[("ethdev_port_id", 0, 2, Style::Native)];

fn places(kind: ItemKind) -> &'static [Place] {
    match kind {
        ItemKind::ETH => ETH,
        ItemKind::VLAN => VLAN,
        ItemKind::IPV4 => IPV4,
        ItemKind::IPV6 => IPV6,
        ItemKind::TCP => TCP,
        ItemKind::UDP => UDP,
        ItemKind::REPRESENTED_PORT => REPRESENTED_PORT,
        _ => &[],
    }
}

const INTEGRITY: [(usize, u32); 4] = [
    layout::INTEGRITY_L3_OK,
    layout::INTEGRITY_L4_OK,
    layout::INTEGRITY_IPV4_CHECKSUM_OK,
    layout::INTEGRITY_L4_CHECKSUM_OK,
];

fn flags(kind: ItemKind) -> &'static [(&'static str, (usize, u32))] {
    match kind {
        ItemKind::ETH => &[("has_vlan", layout::ETH_HAS_VLAN)],
        ItemKind::VLAN => &[("has_more_vlan", layout::VLAN_HAS_MORE)],
        ItemKind::IPV6 => &[("has_frag_ext", layout::IPV6_HAS_FRAGMENT)],
        _ => &[],
    }
}

fn write_item(out: &mut String, item: &RawItem<'_>) -> fmt::Result {
    let (Some(spec), Some(mask)) = (item.spec, item.mask) else { return Ok(()) };
    if item.kind == ItemKind::INTEGRITY {
        let [spec, mask] = [spec, mask].map(|content| {
            INTEGRITY.iter().filter(|flag| layout::flag(content, **flag)).map(|flag| flag.1).sum::<u32>()
        });
        return write!(out, " level is 0 value spec {spec:#x} value mask {mask:#x}");
    }
    for (word, at, len, style) in places(item.kind) {
        let (Some(value), Some(mask)) = (spec.get(*at..at + len), mask.get(*at..at + len)) else { continue };
        if mask.iter().all(|byte| *byte == 0) {
            continue;
        }
        let last = item
            .last
            .and_then(|last| last.get(*at..at + len))
            .filter(|last| last.iter().any(|byte| *byte != 0));
        if mask.iter().all(|byte| *byte == 0xff) && last.is_none() {
            write!(out, " {word} is ")?;
            write_value(out, value, *style)?;
            continue;
        }
        write!(out, " {word} spec ")?;
        write_value(out, value, *style)?;
        if let Some(last) = last {
            write!(out, " {word} last ")?;
            write_value(out, last, *style)?;
        }
        write!(out, " {word} mask ")?;
        write_value(out, mask, *style)?;
    }
    for (word, place) in flags(item.kind) {
        if layout::flag(mask, *place) {
            write!(out, " {word} is {}", u8::from(layout::flag(spec, *place)))?;
        }
    }
    Ok(())
}

fn write_action(out: &mut String, action: &RawAction<'_>) -> fmt::Result {
    if action.kind == ActionKind::RSS {
        out.push_str(" queues");
        for queue in &action.queues {
            write!(out, " {queue}")?;
        }
        out.push_str(" end");
        return Ok(());
    }
    let Some(conf) = action.conf else { return Ok(()) };
    let (word, at, len, style) = match action.kind {
        ActionKind::JUMP => ("group", 0, 4, Style::Native),
        ActionKind::MARK => ("id", 0, 4, Style::Native),
        ActionKind::QUEUE => ("index", 0, 2, Style::Native),
        ActionKind::AGE => ("timeout", 0, 4, Style::Native),
        ActionKind::PORT_ID => ("id", 4, 4, Style::Native),
        ActionKind::REPRESENTED_PORT => ("ethdev_port_id", 0, 2, Style::Native),
        ActionKind::PORT_REPRESENTOR => ("port_id", 0, 2, Style::Native),
        ActionKind::SET_IPV4_SRC | ActionKind::SET_IPV4_DST => ("ipv4_addr", 0, 4, Style::Ipv4),
        ActionKind::SET_IPV6_SRC | ActionKind::SET_IPV6_DST => ("ipv6_addr", 0, 16, Style::Ipv6),
        ActionKind::SET_TP_SRC | ActionKind::SET_TP_DST => ("port", 0, 2, Style::Decimal),
        ActionKind::SET_TTL => ("ttl_value", 0, 1, Style::Decimal),
        ActionKind::SET_MAC_SRC | ActionKind::SET_MAC_DST => ("mac_addr", 0, 6, Style::Mac),
        ActionKind::OF_PUSH_VLAN => ("ethertype", 0, 2, Style::Hex),
        ActionKind::OF_SET_VLAN_VID => ("vlan_vid", 0, 2, Style::Decimal),
        ActionKind::OF_SET_VLAN_PCP => ("vlan_pcp", 0, 1, Style::Decimal),
        ActionKind::MODIFY_FIELD => return write_modify(out, conf),
        _ => return Ok(()),
    };
    write!(out, " {word} ")?;
    write_value(out, conf.get(at..at + len).unwrap_or_default(), style)
}

fn write_modify(out: &mut String, conf: &[u8]) -> fmt::Result {
    let Some(modify) = ModifyField::read(conf) else { return Ok(()) };
    let operation = match modify.operation {
        Operation::Set => "set",
        Operation::Add => "add",
        Operation::Subtract => "sub",
    };
    write!(out, " op {operation} dst_type {} src_type value src_value ", modify.field.word())?;
    for byte in modify.value.iter().take((modify.width as usize).div_ceil(8)) {
        write!(out, "{byte:02x}")?;
    }
    write!(out, " width {}", modify.width)
}

fn write_value(out: &mut String, bytes: &[u8], style: Style) -> fmt::Result {
    let number = || bytes.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    match style {
        Style::Mac => {
            for (at, byte) in bytes.iter().enumerate() {
                write!(out, "{}{byte:02x}", if at > 0 { ":" } else { "" })?;
            }
            Ok(())
        }
        Style::Decimal => write!(out, "{}", number()),
        Style::Hex => write!(out, "{:#x}", number()),
        Style::Native => {
            let mut word = [0; 4];
            let at = if cfg!(target_endian = "big") { word.len().saturating_sub(bytes.len()) } else { 0 };
            for (place, byte) in word.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
            write!(out, "{}", u32::from_ne_bytes(word))
        }
        Style::Ipv4 => match bytes.first_chunk::<4>() {
            Some(octets) => write!(out, "{}", Ipv4Addr::from(*octets)),
            None => Ok(()),
        },
        Style::Ipv6 => match bytes.first_chunk::<16>() {
            Some(octets) => write!(out, "{}", Ipv6Addr::from(*octets)),
            None => Ok(()),
        },
    }
}
