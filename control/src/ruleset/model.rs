//! A ruleset as the kernel holds it: tables, chains, rules, sets, flowtables, objects.

use std::fmt;

use super::expression::{Expression, ObjectKind, Verdict};
use super::own::{self, OwnTable};

/// `NFPROTO_*`: the family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// ARP.
    Arp,
    /// One device's ingress or egress.
    Netdev,
    /// What goes over bridges.
    Bridge,
    /// IPv6.
    Ip6,
    /// A family that this version does not know.
    Other(u8),
}

impl Family {
    /// The family of a number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Inet,
            2 => Self::Ip,
            3 => Self::Arp,
            5 => Self::Netdev,
            7 => Self::Bridge,
            10 => Self::Ip6,
            other => Self::Other(other),
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
            Self::Other(number) => number,
        }
    }

    /// As nft writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
            Self::Other(_) => "unknown",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where packets meet a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookPoint {
    /// As they come from the device, before anything of the IP layer.
    Ingress,
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
    /// As they go to the device.
    Egress,
    /// One that this version does not know, or that no packet of IP meets.
    Other(u32),
}

impl HookPoint {
    /// The hook of a number, which depends on the family (`enum nf_inet_hooks`, `enum nf_dev_hooks`).
    pub const fn from_number(family: Family, number: u32) -> Self {
        match (family, number) {
            (Family::Netdev, 0) => Self::Ingress,
            (Family::Netdev, 1) => Self::Egress,
            (Family::Netdev | Family::Arp | Family::Other(_), other) => Self::Other(other),
            (_, 0) => Self::Prerouting,
            (_, 1) => Self::Input,
            (_, 2) => Self::Forward,
            (_, 3) => Self::Output,
            (_, 4) => Self::Postrouting,
            (Family::Inet, 5) => Self::Ingress,
            (_, other) => Self::Other(other),
        }
    }
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where.
    pub point: HookPoint,
    /// Order among those of the same hook, the least first.
    pub priority: i32,
    /// Devices, of netdev and inet ingress chains; a trailing `*` stands for any rest.
    pub devices: Vec<String>,
    /// `filter`, `nat`, `route`.
    pub kind: String,
    /// Packets at the chain's end are dropped.
    pub drops: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: String,
    /// Its chains see no packets (`flags dormant`).
    pub dormant: bool,
    /// The comment, of its maker.
    pub comment: Option<String>,
    /// Chains in the kernel's order.
    pub chains: Vec<Chain>,
    /// Sets and maps.
    pub sets: Vec<Set>,
    /// Flowtables.
    pub flowtables: Vec<Flowtable>,
    /// Named objects.
    pub objects: Vec<Object>,
}

impl Table {
    /// A table without anything in it.
    pub const fn new(family: Family, name: String) -> Self {
        Self {
            family,
            name,
            dormant: false,
            comment: None,
            chains: Vec::new(),
            sets: Vec::new(),
            flowtables: Vec::new(),
            objects: Vec::new(),
        }
    }

    /// A chain by its name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// A set or map by its name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Handle.
    pub handle: u64,
    /// Of a base chain.
    pub hook: Option<Hook>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The handle by which nft changes and deletes it.
    pub handle: u64,
    /// Its expressions in order.
    pub expressions: Vec<Expression>,
    /// The user's comment.
    pub comment: Option<String>,
}

/// A set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Name; of anonymous ones as `__set0`.
    pub name: String,
    /// `enum nft_set_flags`.
    pub flags: u32,
    /// Length of a key in bytes.
    pub key_len: u32,
    /// Kind of a map's objects.
    pub object: Option<ObjectKind>,
    /// Time that an element lives unless it says otherwise.
    pub timeout_ms: Option<u64>,
    /// What every element carries.
    pub expressions: Vec<Expression>,
    /// Elements; `None` if there are more than are looked at.
    pub elements: Option<Vec<Element>>,
}

impl Set {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    const OBJECT: u32 = 0x40;

    /// Elements are starts and ends of intervals.
    pub const fn has_intervals(&self) -> bool {
        self.flags & Self::INTERVAL != 0
    }

    /// Elements have values.
    pub const fn is_map(&self) -> bool {
        self.flags & (Self::MAP | Self::OBJECT) != 0
    }

    /// Elements go without the kernel telling.
    pub const fn expires(&self) -> bool {
        self.flags & Self::TIMEOUT != 0
    }

    /// Makes one element of an interval's start and end, which the kernel keeps apart: a start holds up to the
    /// next key of either kind, or to the greatest.
    pub(super) fn close_intervals(&mut self) {
        let Some(elements) = self.elements.as_mut().filter(|_| self.flags & Self::INTERVAL != 0) else {
            return;
        };
        if elements.iter().any(|element| element.key_end.is_some()) {
            return;
        }
        // Where one ends and another starts at the same key, the start counts.
        elements.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
        let mut next: Option<&[u8]> = None;
        let mut ends = Vec::with_capacity(elements.len());
        for element in elements.iter().rev() {
            ends.push(next.map_or_else(|| vec![0xff; element.key.len()], before));
            if !element.catch_all {
                next = Some(&element.key);
            }
        }
        for (element, end) in elements.iter_mut().rev().zip(ends) {
            element.key_end = (!element.catch_all).then_some(end);
        }
        elements.retain(|element| {
            element.catch_all
                || !element.interval_end && element.key_end.as_ref().is_some_and(|end| *end >= element.key)
        });
    }

    /// Packets add elements, of which the kernel tells nobody.
    pub const fn is_dynamic(&self) -> bool {
        self.flags & Self::EVAL != 0
    }
}

/// The number before one, both in network byte order; before zero there is zero.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    if key.iter().all(|byte| *byte == 0) {
        return key;
    }
    for byte in key.iter_mut().rev() {
        let borrows = *byte == 0;
        *byte = byte.wrapping_sub(1);
        if !borrows {
            break;
        }
    }
    key
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, components padded to 32 bits each; of an interval its first.
    pub key: Vec<u8>,
    /// The last key of an interval, component by component.
    pub key_end: Option<Vec<u8>>,
    /// As the kernel gives it: the key is the first that is not in the interval before it. What is read has
    /// none of these: intervals are closed.
    pub interval_end: bool,
    /// Stands for every key that no other element has.
    pub catch_all: bool,
    /// The value in a map of verdicts.
    pub verdict: Option<Verdict>,
}

/// A flowtable of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flowtable {
    /// Name.
    pub name: String,
    /// Handle.
    pub handle: u64,
    /// Priority at ingress.
    pub priority: i32,
    /// Its devices.
    pub devices: Vec<String>,
    /// `flags offload`: flows may go into the NIC.
    pub offload: bool,
    /// `counter`.
    pub counter: bool,
}

/// A named object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: ObjectKind,
    /// Handle.
    pub handle: u64,
}

/// All that nftables holds in a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The generation that it was read at.
    pub generation: u32,
    /// Tables.
    pub tables: Vec<Table>,
    /// Names of interfaces by index, since rules may have either.
    pub interfaces: Vec<(u32, String)>,
}

impl Ruleset {
    /// Every flowtable with its table.
    pub fn flowtables(&self) -> impl Iterator<Item = (&Table, &Flowtable)> {
        self.tables.iter().flat_map(|table| table.flowtables.iter().map(move |flowtable| (table, flowtable)))
    }

    /// What stands under the name of Flyover's own table.
    pub fn own_table(&self) -> OwnTable {
        OwnTable::among(&self.tables)
    }

    /// For which of IPv4 and IPv6 something in the user's ruleset makes the kernel track connections. Flyover's own
    /// table does not count: it is there for want of such a thing.
    pub fn tracks(&self) -> (bool, bool) {
        let (mut v4, mut v6) = (false, false);
        for table in self.tables.iter().filter(|table| !own::is_own(table)) {
            let tracks = table
                .chains
                .iter()
                .flat_map(|chain| &chain.rules)
                .flat_map(|rule| &rule.expressions)
                .any(Expression::tracks)
                || table.sets.iter().flat_map(|set| &set.expressions).any(Expression::tracks)
                || table.objects.iter().any(|object| object.kind.tracks());
            let bridged = table.family == Family::Bridge;
            v4 |= tracks && (bridged || matches!(table.family, Family::Inet | Family::Ip));
            v6 |= tracks && (bridged || matches!(table.family, Family::Inet | Family::Ip6));
        }
        (v4, v6)
    }
}

impl ObjectKind {
    const fn tracks(self) -> bool {
        matches!(
            self,
            Self::CtHelper | Self::ConnLimit | Self::CtTimeout | Self::CtExpectation | Self::Synproxy
        )
    }
}

impl Expression {
    /// Whether the kernel tracks connections because of it (it calls `nf_ct_netns_get` when it is added).
    fn tracks(&self) -> bool {
        match self {
            Self::Ct { .. }
            | Self::CtSet { .. }
            | Self::ConnLimit
            | Self::FlowAdd { .. }
            | Self::Nat
            | Self::Notrack
            | Self::Synproxy => true,
            Self::Object { kind, .. } => kind.is_some_and(ObjectKind::tracks),
            Self::Dynset { expressions, .. } => expressions.iter().any(Self::tracks),
            Self::Match { name, .. } => matches!(
                name.as_str(),
                "conntrack"
                    | "state"
                    | "connmark"
                    | "connbytes"
                    | "connlimit"
                    | "connlabel"
                    | "helper"
                    | "cluster"
            ),
            Self::Target { name, .. } => matches!(
                name.as_str(),
                "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" | "CT" | "CONNMARK" | "SYNPROXY"
            ),
            _ => false,
        }
    }
}
