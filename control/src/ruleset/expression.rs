//! The expressions of a rule, as the kernel holds them.

/// `enum nft_payload_bases`: from which header on an offset counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The Ethernet header.
    Link,
    /// The IP header.
    Network,
    /// The TCP or UDP header.
    Transport,
    /// What the transport header is followed by, or a base that is not known here.
    Inner,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Goes on to the next base chain.
    Accept,
    /// Ends here.
    Drop,
    /// Goes to user space, past the rest of this base chain.
    Queue,
    /// On with the next rule.
    Continue,
    /// Back to the chain that jumped here.
    Return,
    /// On in another chain, and back.
    Jump(String),
    /// On in another chain, and not back.
    Goto(String),
    /// Something that this version does not know.
    Other(i32),
}

/// A register by its first 32-bit word, from 0: NFT_REG_1 is word 0, NFT_REG_2 word 4, NFT_REG32_01 word 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(pub u8);

/// What an immediate loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Bytes.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// `NFT_OBJECT_*`: kinds of named objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A counter.
    Counter,
    /// A quota.
    Quota,
    /// A conntrack helper.
    CtHelper,
    /// A rate.
    Limit,
    /// A number of connections.
    ConnLimit,
    /// Timeouts of conntrack.
    CtTimeout,
    /// An expectation of conntrack.
    CtExpectation,
    /// A SYN proxy.
    Synproxy,
    /// Tunnel metadata, a security mark.
    Metadata,
    /// One that this version does not know.
    Other(u32),
}

/// One expression. Loads write registers, tests read them and end the rule where they fail, the rest acts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are those of the kernel's attributes of the same names")]
pub enum Expression {
    /// Bytes of the packet into a register.
    Payload { base: Base, offset: u32, len: u32, dreg: Register },
    /// A register into bytes of the packet.
    PayloadWrite { base: Base, offset: u32, len: u32, sreg: Register },
    /// An extension header or option into a register; `present` loads whether there is one.
    Exthdr { op: u32, kind: u8, len: u32, present: bool, dreg: Register },
    /// A register into an option, or an option taken out.
    ExthdrWrite { op: u32, kind: u8 },
    /// `meta` into a register (`enum nft_meta_keys`).
    Meta { key: u32, dreg: Register },
    /// A register into `meta`.
    MetaSet { key: u32, sreg: Register },
    /// `ct` into a register (`enum nft_ct_keys`); `direction` 0 is original, 1 reply.
    Ct { key: u32, direction: Option<u8>, dreg: Register },
    /// A register into `ct`.
    CtSet { key: u32, sreg: Register },
    /// A constant into a register.
    Immediate { dreg: Register, value: Vec<u8> },
    /// A verdict.
    Verdict(Verdict),
    /// A test of a register against a constant.
    Compare { sreg: Register, op: Comparison, value: Vec<u8> },
    /// A test of a register against a range.
    Range { sreg: Register, inverted: bool, from: Vec<u8>, to: Vec<u8> },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise { sreg: Register, dreg: Register, len: u32, mask: Vec<u8>, xor: Vec<u8> },
    /// A shift, or an operation between registers.
    BitwiseOther { sreg: Register, dreg: Register, len: u32 },
    /// From or to network byte order.
    Byteorder { sreg: Register, dreg: Register, len: u32, size: u32 },
    /// A test whether a set has the register; a map's value goes into `dreg`, or is the verdict.
    Lookup { set: String, sreg: Register, dreg: Option<Register>, verdict: bool, inverted: bool },
    /// An entry of a set made, refreshed or deleted by the packet.
    Dynset {
        set: String,
        delete: bool,
        sreg: Register,
        timeout_ms: Option<u64>,
        expressions: Vec<Expression>,
    },
    /// Something of the packet's route or socket, which is the connection's: fib, rt, socket, xfrm, tunnel.
    OfConnection { name: String, len: u32, dreg: Option<Register> },
    /// A fingerprint of the sender's system, of SYN packets alone.
    Osf { dreg: Register },
    /// A hash of a register; a symmetric one is of the 5-tuple and has no source.
    Hash { sreg: Option<(Register, u32)>, dreg: Register },
    /// A number for each packet.
    Numgen { dreg: Register },
    /// `limit`.
    Limit,
    /// `quota`.
    Quota,
    /// `ct count`.
    ConnLimit,
    /// `counter`.
    Counter,
    /// `last`.
    Last,
    /// `log`.
    Log,
    /// `queue`.
    Queue,
    /// `dup to`.
    Dup,
    /// `fwd to`.
    Fwd,
    /// A named object; by a map's value, the map tells its kind.
    Object { kind: Option<ObjectKind>, map: Option<(String, Register)> },
    /// `flow add`.
    FlowAdd { table: String },
    /// `nat`, `masq`, `redir`.
    Nat,
    /// `reject`.
    Reject,
    /// `tproxy`.
    Tproxy,
    /// `synproxy`.
    Synproxy,
    /// `notrack`.
    Notrack,
    /// A match of xtables, by iptables-nft.
    Match { name: String, revision: u32, info: Vec<u8> },
    /// A target of xtables, by iptables-nft.
    Target { name: String, info: Vec<u8> },
    /// One that this version does not know, by its name.
    Other { name: String },
}
