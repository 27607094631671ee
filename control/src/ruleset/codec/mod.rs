//! nf_tables' netlink messages: the requests of dumps, and what they bring. No panic, whatever the bytes.

mod expressions;
#[cfg(test)]
mod tests;

use nix::libc;

use super::expression::Data;
use super::model::{Chain, Element, Family, Flowtable, Hook, HookPoint, Object, Rule, Set, Table};
use crate::netlink::message::{Attributes, Message, NFGEN, Writer, be16, be32};
use expressions::{object_kind, parse_data};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;

/// `enum nf_tables_msg_types`: what is asked for, and the answers' type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tables,
    Chains,
    Rules,
    Sets,
    Elements,
    Objects,
    Flowtables,
    Generation,
}

impl Kind {
    const fn request(self) -> u16 {
        SUBSYSTEM | (self.answer_number() + 1)
    }

    const fn answer_number(self) -> u16 {
        match self {
            Self::Tables => 0,
            Self::Chains => 3,
            Self::Rules => 6,
            Self::Sets => 9,
            Self::Elements => 12,
            Self::Generation => 15,
            Self::Objects => 18,
            Self::Flowtables => 22,
        }
    }

    /// The type of the messages that answer.
    pub(super) const fn answer(self) -> u16 {
        SUBSYSTEM | self.answer_number()
    }
}

/// Writes a request. Elements are asked for by set: of which, `set` says.
pub(super) fn write_request(
    writer: &mut Writer,
    kind: Kind,
    sequence: u32,
    set: Option<(Family, &str, &str)>,
) {
    const TABLE: u16 = 1;
    const SET: u16 = 2;
    let dump = if kind == Kind::Generation { 0 } else { libc::NLM_F_DUMP };
    let message = writer.message(kind.request(), libc::NLM_F_REQUEST | dump, sequence);
    let family = set.map_or(0, |(family, ..)| family.number());
    writer.raw(&[family, 0, 0, 0]);
    if let Some((_, table, name)) = set {
        writer.attribute(TABLE, &terminated(table));
        writer.attribute(SET, &terminated(name));
    }
    writer.end_message(message);
}

fn terminated(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// A part of a ruleset; what belongs to a table has its family and name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Table(Table),
    Chain(Family, String, Chain),
    /// With its chain's name.
    Rule(Family, String, String, Rule),
    Set(Family, String, Set),
    Elements(Vec<Element>),
    Object(Family, String, Object),
    Flowtable(Family, String, Flowtable),
    Generation(u32),
}

/// The low half of the generation that a dump's message was made at (`nfgenmsg.res_id`).
pub(super) fn generation_of(message: &Message<'_>) -> Option<u16> {
    be16(message.payload.get(2..)?)
}

/// What a message brings; `None` if it has not the kernel's form.
pub(super) fn parse(message: &Message<'_>) -> Option<Part> {
    let family = Family::from_number(*message.payload.first()?);
    let attributes = message.payload.get(NFGEN..)?;
    let kind = message.kind.checked_sub(SUBSYSTEM)?;
    Some(match kind {
        0 => Part::Table(table(family, attributes)?),
        3 => {
            let (table, chain) = chain(family, attributes)?;
            Part::Chain(family, table, chain)
        }
        6 => {
            let (table, chain, rule) = rule(attributes)?;
            Part::Rule(family, table, chain, rule)
        }
        9 => {
            let (table, set) = set(attributes)?;
            Part::Set(family, table, set)
        }
        12 => Part::Elements(elements(attributes)),
        15 => {
            Part::Generation(Attributes(attributes).find(|(kind, _)| *kind == 1).and_then(|(_, v)| be32(v))?)
        }
        18 => {
            let (table, object) = object(attributes)?;
            Part::Object(family, table, object)
        }
        22 => {
            let (table, flowtable) = flowtable(attributes)?;
            Part::Flowtable(family, table, flowtable)
        }
        _ => return None,
    })
}

fn number(value: &[u8]) -> Option<u32> {
    be32(value)
}

fn number64(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn octet(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// The values of a list of attributes.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    const ELEMENT: u16 = 1;
    Attributes(value).filter(|(kind, _)| *kind == ELEMENT).map(|(_, value)| value)
}

fn table(family: Family, attributes: &[u8]) -> Option<Table> {
    const NAME: u16 = 1;
    const FLAGS: u16 = 2;
    const USERDATA: u16 = 6;
    const DORMANT: u32 = 1;
    let mut table = Table::new(family, String::new());
    for (kind, value) in Attributes(attributes) {
        match kind {
            NAME => table.name = text(value),
            FLAGS => table.dormant = number(value)? & DORMANT != 0,
            USERDATA => table.comment = comment(value),
            _ => {}
        }
    }
    (!table.name.is_empty()).then_some(table)
}

fn chain(family: Family, attributes: &[u8]) -> Option<(String, Chain)> {
    const TABLE: u16 = 1;
    const HANDLE: u16 = 2;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const KIND: u16 = 7;
    const NF_DROP: u32 = 0;
    let mut found = Chain { name: String::new(), handle: 0, hook: None, rules: Vec::new() };
    let (mut table, mut kind_name, mut drops) = (String::new(), String::new(), false);
    for (kind, value) in Attributes(attributes) {
        match kind {
            TABLE => table = text(value),
            HANDLE => found.handle = number64(value)?,
            NAME => found.name = text(value),
            HOOK => found.hook = Some(hook(family, value)?),
            POLICY => drops = number(value)? == NF_DROP,
            KIND => kind_name = text(value),
            _ => {}
        }
    }
    if let Some(hook) = &mut found.hook {
        (hook.kind, hook.drops) = (kind_name, drops);
    }
    (!table.is_empty() && !found.name.is_empty()).then_some((table, found))
}

/// NFTA_HOOK_* of chains and NFTA_FLOWTABLE_HOOK_* of flowtables: number, priority, devices.
fn hook_fields(value: &[u8], devices_at: u16) -> Option<(u32, i32, Vec<String>)> {
    const NUMBER: u16 = 1;
    const PRIORITY: u16 = 2;
    /// NFTA_HOOK_DEV, before there could be several.
    const DEVICE: u16 = 3;
    let (mut hook_number, mut priority, mut devices) = (0, 0, Vec::new());
    for (kind, value) in Attributes(value) {
        match kind {
            NUMBER => hook_number = number(value)?,
            PRIORITY => priority = number(value)? as i32,
            kind if kind == devices_at => devices = self::devices(value),
            DEVICE => devices.push(text(value)),
            _ => {}
        }
    }
    Some((hook_number, priority, devices))
}

fn devices(value: &[u8]) -> Vec<String> {
    /// NFTA_DEVICE_PREFIX, of Linux 6.16: interfaces by the beginning of their name.
    const PREFIX: u16 = 2;
    Attributes(value)
        .map(|(kind, value)| if kind == PREFIX { format!("{}*", text(value)) } else { text(value) })
        .collect()
}

fn hook(family: Family, value: &[u8]) -> Option<Hook> {
    const DEVICES: u16 = 4;
    let (number, priority, mut devices) = hook_fields(value, DEVICES)?;
    // The kernel gives a single device by both attributes.
    devices.dedup();
    let point = HookPoint::from_number(family, number);
    Some(Hook { point, priority, devices, kind: String::new(), drops: false })
}

fn rule(attributes: &[u8]) -> Option<(String, String, Rule)> {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const HANDLE: u16 = 3;
    const EXPRESSIONS: u16 = 4;
    const USERDATA: u16 = 7;
    let mut rule = Rule { handle: 0, expressions: Vec::new(), comment: None };
    let (mut table, mut chain) = (String::new(), String::new());
    for (kind, value) in Attributes(attributes) {
        match kind {
            TABLE => table = text(value),
            CHAIN => chain = text(value),
            HANDLE => rule.handle = number64(value)?,
            EXPRESSIONS => rule.expressions = expressions::parse_list(value),
            USERDATA => rule.comment = comment(value),
            _ => {}
        }
    }
    (!table.is_empty() && !chain.is_empty()).then_some((table, chain, rule))
}

/// The comment among the user data of a table or rule, which is nft's own: type, length, value.
fn comment(mut rest: &[u8]) -> Option<String> {
    /// NFTNL_UDATA_TABLE_COMMENT and NFTNL_UDATA_RULE_COMMENT.
    const COMMENT: u8 = 0;
    while let [kind, length, tail @ ..] = rest {
        let value = tail.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        rest = tail.get(usize::from(*length)..)?;
    }
    None
}

fn set(attributes: &[u8]) -> Option<(String, Set)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const FLAGS: u16 = 3;
    const KEY_LEN: u16 = 5;
    const TIMEOUT: u16 = 11;
    const OBJECT: u16 = 15;
    const EXPRESSION: u16 = 17;
    const EXPRESSIONS: u16 = 18;
    let mut set = Set {
        name: String::new(),
        flags: 0,
        key_len: 0,
        object: None,
        timeout_ms: None,
        expressions: Vec::new(),
        elements: Some(Vec::new()),
    };
    let mut table = String::new();
    for (kind, value) in Attributes(attributes) {
        match kind {
            TABLE => table = text(value),
            NAME => set.name = text(value),
            FLAGS => set.flags = number(value)?,
            KEY_LEN => set.key_len = number(value)?,
            TIMEOUT => set.timeout_ms = number64(value).filter(|timeout| *timeout > 0),
            OBJECT => set.object = number(value).map(object_kind),
            EXPRESSION => set.expressions = vec![expressions::parse(value)],
            EXPRESSIONS => set.expressions = expressions::parse_list(value),
            _ => {}
        }
    }
    (!table.is_empty() && !set.name.is_empty()).then_some((table, set))
}

fn elements(attributes: &[u8]) -> Vec<Element> {
    const ELEMENTS: u16 = 3;
    Attributes(attributes)
        .filter(|(kind, _)| *kind == ELEMENTS)
        .flat_map(|(_, value)| list(value))
        .map(element)
        .collect()
}

fn element(value: &[u8]) -> Element {
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const FLAGS: u16 = 3;
    const KEY_END: u16 = 10;
    const INTERVAL_END: u32 = 1;
    const CATCH_ALL: u32 = 2;
    let mut element =
        Element { key: Vec::new(), key_end: None, interval_end: false, catch_all: false, verdict: None };
    let bytes = |value| match parse_data(value) {
        Some(Data::Value(bytes)) => Some(bytes),
        _ => None,
    };
    for (kind, value) in Attributes(value) {
        match kind {
            KEY => element.key = bytes(value).unwrap_or_default(),
            DATA => {
                if let Some(Data::Verdict(verdict)) = parse_data(value) {
                    element.verdict = Some(verdict);
                }
            }
            FLAGS => {
                let flags = number(value).unwrap_or(0);
                element.interval_end = flags & INTERVAL_END != 0;
                element.catch_all = flags & CATCH_ALL != 0;
            }
            KEY_END => element.key_end = bytes(value),
            _ => {}
        }
    }
    element
}

fn object(attributes: &[u8]) -> Option<(String, Object)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const KIND: u16 = 3;
    const HANDLE: u16 = 6;
    let mut object = Object { name: String::new(), kind: object_kind(0), handle: 0 };
    let mut table = String::new();
    for (kind, value) in Attributes(attributes) {
        match kind {
            TABLE => table = text(value),
            NAME => object.name = text(value),
            KIND => object.kind = object_kind(number(value)?),
            HANDLE => object.handle = number64(value)?,
            _ => {}
        }
    }
    (!table.is_empty() && !object.name.is_empty()).then_some((table, object))
}

fn flowtable(attributes: &[u8]) -> Option<(String, Flowtable)> {
    const TABLE: u16 = 1;
    const NAME: u16 = 2;
    const HOOK: u16 = 3;
    const HANDLE: u16 = 5;
    const FLAGS: u16 = 7;
    const HW_OFFLOAD: u32 = 1;
    const COUNTER: u32 = 2;
    /// NFTA_FLOWTABLE_HOOK_DEVS.
    const DEVICES: u16 = 3;
    let mut flowtable = Flowtable {
        name: String::new(),
        handle: 0,
        priority: 0,
        devices: Vec::new(),
        offload: false,
        counter: false,
    };
    let mut table = String::new();
    for (kind, value) in Attributes(attributes) {
        match kind {
            TABLE => table = text(value),
            NAME => flowtable.name = text(value),
            HOOK => (_, flowtable.priority, flowtable.devices) = hook_fields(value, DEVICES)?,
            HANDLE => flowtable.handle = number64(value)?,
            FLAGS => {
                let flags = number(value)?;
                (flowtable.offload, flowtable.counter) = (flags & HW_OFFLOAD != 0, flags & COUNTER != 0);
            }
            _ => {}
        }
    }
    (!table.is_empty() && !flowtable.name.is_empty()).then_some((table, flowtable))
}
