//! Expressions, from the kernel's attributes (linux/netfilter/nf_tables.h).

use super::{list, number, number64, octet, text};
use crate::netlink::message::Attributes;
use crate::ruleset::expression::{Base, Comparison, Data, Expression, ObjectKind, Register, Verdict};

/// Expressions in expressions (of a set update): one level is all there is.
const DEPTH: usize = 2;

/// `NFT_DATA_VALUE_MAXLEN`.
const LONGEST_VALUE: usize = 64;

/// A list of expressions.
pub(super) fn parse_list(value: &[u8]) -> Vec<Expression> {
    list_at(value, 0)
}

fn list_at(value: &[u8], depth: usize) -> Vec<Expression> {
    list(value).map(|value| parse_at(value, depth)).collect()
}

/// One expression; what has not the form that is known here keeps its name alone.
pub(super) fn parse(value: &[u8]) -> Expression {
    parse_at(value, 0)
}

fn parse_at(value: &[u8], depth: usize) -> Expression {
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    let mut name = String::new();
    let mut data: &[u8] = &[];
    for (kind, value) in Attributes(value) {
        match kind {
            NAME => name = text(value),
            DATA => data = value,
            _ => {}
        }
    }
    known(&name, &Fields(data), depth).unwrap_or(Expression::Other { name })
}

/// The attributes of one expression. Each is looked for in the bytes: they are few.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&self, wanted: u16) -> Option<&'a [u8]> {
        Attributes(self.0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    fn number(&self, wanted: u16) -> Option<u32> {
        self.bytes(wanted).and_then(number)
    }

    fn text(&self, wanted: u16) -> Option<String> {
        self.bytes(wanted).map(text)
    }

    fn register(&self, wanted: u16) -> Option<Register> {
        self.number(wanted).and_then(register)
    }

    fn value(&self, wanted: u16) -> Option<Vec<u8>> {
        match self.bytes(wanted).and_then(parse_data)? {
            Data::Value(bytes) => Some(bytes),
            Data::Verdict(_) => None,
        }
    }

    fn expressions(&self, one: u16, many: u16, depth: usize) -> Vec<Expression> {
        if depth >= DEPTH {
            return Vec::new();
        }
        match (self.bytes(one), self.bytes(many)) {
            (_, Some(many)) => list_at(many, depth + 1),
            (Some(one), None) => vec![parse_at(one, depth + 1)],
            (None, None) => Vec::new(),
        }
    }
}

/// `enum nft_registers`: 1 to 4 are of 128 bits, 8 to 23 the same space by 32 bits.
fn register(number: u32) -> Option<Register> {
    match number {
        1..=4 => Some(Register((number as u8 - 1) * 4)),
        8..=23 => Some(Register(number as u8 - 8)),
        _ => None,
    }
}

/// NFTA_DATA_*: bytes or a verdict.
pub(super) fn parse_data(value: &[u8]) -> Option<Data> {
    const VALUE: u16 = 1;
    const VERDICT: u16 = 2;
    match Attributes(value).find(|(kind, _)| matches!(*kind, VALUE | VERDICT))? {
        (VALUE, bytes) if bytes.len() <= LONGEST_VALUE => Some(Data::Value(bytes.to_vec())),
        (VERDICT, value) => parse_verdict(value).map(Data::Verdict),
        _ => None,
    }
}

fn parse_verdict(value: &[u8]) -> Option<Verdict> {
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    let fields = Fields(value);
    let code = fields.number(CODE)? as i32;
    Some(match code {
        // NF_QUEUE has the queue's number in its upper half.
        code if code >= 0 && code & 0xff == 3 => Verdict::Queue,
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(fields.text(CHAIN)?),
        -4 => Verdict::Goto(fields.text(CHAIN)?),
        -5 => Verdict::Return,
        other => Verdict::Other(other),
    })
}

fn base(number: u32) -> Base {
    match number {
        0 => Base::Link,
        1 => Base::Network,
        2 => Base::Transport,
        _ => Base::Inner,
    }
}

pub(super) fn object_kind(number: u32) -> ObjectKind {
    match number {
        1 => ObjectKind::Counter,
        2 => ObjectKind::Quota,
        3 => ObjectKind::CtHelper,
        4 => ObjectKind::Limit,
        5 => ObjectKind::ConnLimit,
        6 | 8 => ObjectKind::Metadata,
        7 => ObjectKind::CtTimeout,
        9 => ObjectKind::CtExpectation,
        10 => ObjectKind::Synproxy,
        other => ObjectKind::Other(other),
    }
}

/// The expression of a name; `None` if there is no such or an attribute is missing that it must have.
fn known(name: &str, fields: &Fields<'_>, depth: usize) -> Option<Expression> {
    Some(match name {
        "payload" => payload(fields)?,
        "exthdr" => exthdr(fields)?,
        "meta" => match fields.register(1) {
            Some(dreg) => Expression::Meta { key: fields.number(2)?, dreg },
            None => Expression::MetaSet { key: fields.number(2)?, sreg: fields.register(3)? },
        },
        "ct" => match fields.register(1) {
            Some(dreg) => {
                let direction = fields.bytes(3).and_then(octet);
                Expression::Ct { key: fields.number(2)?, direction, dreg }
            }
            None => Expression::CtSet { key: fields.number(2)?, sreg: fields.register(4)? },
        },
        "immediate" => match parse_data(fields.bytes(2)?)? {
            Data::Verdict(verdict) => Expression::Verdict(verdict),
            Data::Value(value) => Expression::Immediate { dreg: fields.register(1)?, value },
        },
        "cmp" => {
            let op = match fields.number(2)? {
                0 => Comparison::Equal,
                1 => Comparison::NotEqual,
                2 => Comparison::Less,
                3 => Comparison::LessOrEqual,
                4 => Comparison::Greater,
                5 => Comparison::GreaterOrEqual,
                _ => return None,
            };
            Expression::Compare { sreg: fields.register(1)?, op, value: fields.value(3)? }
        }
        "range" => Expression::Range {
            sreg: fields.register(1)?,
            inverted: match fields.number(2)? {
                0 => false,
                1 => true,
                _ => return None,
            },
            from: fields.value(3)?,
            to: fields.value(4)?,
        },
        "bitwise" => bitwise(fields)?,
        "byteorder" => Expression::Byteorder {
            sreg: fields.register(1)?,
            dreg: fields.register(2)?,
            len: fields.number(4)?,
            size: fields.number(5)?,
        },
        "lookup" => {
            const VERDICT_REGISTER: u32 = 0;
            let dreg = fields.number(3);
            Expression::Lookup {
                set: fields.text(1)?,
                sreg: fields.register(2)?,
                dreg: dreg.and_then(register),
                verdict: dreg == Some(VERDICT_REGISTER),
                inverted: fields.number(5).unwrap_or(0) & 1 != 0,
            }
        }
        "dynset" => Expression::Dynset {
            set: fields.text(1)?,
            delete: fields.number(3) == Some(2),
            sreg: fields.register(4)?,
            timeout_ms: fields.bytes(6).and_then(number64).filter(|timeout| *timeout > 0),
            expressions: fields.expressions(7, 10, depth),
        },
        "fib" => of_connection(name, fields, if fields.number(2) == Some(2) { 16 } else { 4 }, 1),
        "rt" => {
            let len = match fields.number(2) {
                Some(2) => 16,
                Some(3) => 2,
                Some(4) => 1,
                _ => 4,
            };
            of_connection(name, fields, len, 1)
        }
        "socket" => {
            let len = match fields.number(1) {
                Some(1) => 4,
                Some(3) => 8,
                _ => 1,
            };
            of_connection(name, fields, len, 2)
        }
        "tunnel" => of_connection(name, fields, if fields.number(1) == Some(0) { 1 } else { 4 }, 2),
        "xfrm" => {
            of_connection(name, fields, if matches!(fields.number(2), Some(2 | 4)) { 16 } else { 4 }, 1)
        }
        "osf" => Expression::Osf { dreg: fields.register(1)? },
        "hash" => Expression::Hash {
            sreg: fields.register(1).map(|sreg| (sreg, fields.number(3).unwrap_or(4))),
            dreg: fields.register(2)?,
        },
        "numgen" => Expression::Numgen { dreg: fields.register(1)? },
        "limit" => Expression::Limit,
        "quota" => Expression::Quota,
        "connlimit" => Expression::ConnLimit,
        "counter" => Expression::Counter,
        "last" => Expression::Last,
        "log" => Expression::Log,
        "queue" => Expression::Queue,
        "dup" => Expression::Dup,
        "fwd" => Expression::Fwd,
        "objref" => Expression::Object {
            kind: fields.number(1).map(object_kind),
            map: fields.text(4).zip(fields.register(3)),
        },
        "flow_offload" => Expression::FlowAdd { table: fields.text(1)? },
        "nat" | "masq" | "redir" => Expression::Nat,
        "reject" => Expression::Reject,
        "tproxy" => Expression::Tproxy,
        "synproxy" => Expression::Synproxy,
        "notrack" => Expression::Notrack,
        "match" => Expression::Match {
            name: fields.text(1)?,
            revision: fields.number(2).unwrap_or(0),
            info: fields.bytes(3).unwrap_or_default().to_vec(),
        },
        "target" => {
            Expression::Target { name: fields.text(1)?, info: fields.bytes(3).unwrap_or_default().to_vec() }
        }
        _ => return None,
    })
}

fn of_connection(name: &str, fields: &Fields<'_>, len: u32, register_at: u16) -> Expression {
    Expression::OfConnection { name: name.to_owned(), len, dreg: fields.register(register_at) }
}

fn payload(fields: &Fields<'_>) -> Option<Expression> {
    let (base, offset, len) = (base(fields.number(2)?), fields.number(3)?, fields.number(4)?);
    Some(match fields.register(1) {
        Some(dreg) => Expression::Payload { base, offset, len, dreg },
        None => Expression::PayloadWrite { base, offset, len, sreg: fields.register(5)? },
    })
}

fn exthdr(fields: &Fields<'_>) -> Option<Expression> {
    const PRESENT: u32 = 1;
    let op = fields.number(6).unwrap_or(0);
    let kind = fields.bytes(2).and_then(octet)?;
    let present = fields.number(5).unwrap_or(0) & PRESENT != 0;
    Some(match fields.register(1) {
        Some(dreg) => Expression::Exthdr { op, kind, len: fields.number(4).unwrap_or(1), present, dreg },
        // Without a source the option is taken out.
        None => Expression::ExthdrWrite { op, kind },
    })
}

fn bitwise(fields: &Fields<'_>) -> Option<Expression> {
    let (sreg, dreg, len) = (fields.register(1)?, fields.register(2)?, fields.number(3)?);
    let constants = fields.value(4).zip(fields.value(5));
    Some(match (fields.number(6).unwrap_or(0), constants) {
        (0, Some((mask, xor))) => Expression::Bitwise { sreg, dreg, len, mask, xor },
        _ => Expression::BitwiseOther { sreg, dreg, len },
    })
}
