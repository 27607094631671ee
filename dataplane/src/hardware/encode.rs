//! Rules of flows, in the form that a port can.
//!
//! Packets begin in group 0. There a jump lets through to the flows' group only what asks to be forwarded and nothing
//! else: IPv4 without options, no fragment, TCP with ACK and without FIN, SYN and RST, UDP. What is not let through goes to software,
//! since no rule is for it. That a TTL is above 1 can't be asked for by one mask, so two rules of higher priority send the
//! others to software. A port without groups has all of that in each flow's rule, which then is for one TTL.

use std::fmt;

use super::rule::{HardwareFlow, TagChanges};
use crate::dpdk::flow_rule::layout::{self, Field, ModifyField, Operation};
use crate::dpdk::flow_rule::{ActionKind, FlowAttr, FlowRule, ItemKind, Parts};
use crate::dpdk::hairpin::Hairpin;
use crate::flow::{Key, Key4, Key6, TCP, UDP};
use crate::packet::tcp::{ACK, FIN, RST, SYN};
use crate::packet::wire::ETHER_IPV4;

/// Where rules stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// On the port that packets come in by.
    Ingress,
    /// On the switch inside of the NIC, for all of its ports.
    Transfer,
}

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fields {
    /// By an action of its own: SET_IPV4_SRC, SET_TP_DST, DEC_TTL.
    Set,
    /// By MODIFY_FIELD.
    Modify,
}

/// What is done to the TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ttl {
    /// It goes down by one, whatever it is.
    Decrement,
    /// The rule is for this TTL, and writes one less.
    Exact(u8),
}

/// How packets are sent to another port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Egress {
    /// PORT_ID.
    PortId,
    /// REPRESENTED_PORT.
    RepresentedPort,
    /// QUEUE, to a hairpin queue whose peer is a queue of that port: in the ingress domain.
    Hairpin,
}

/// The form of rules that a port can.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Form {
    /// Where rules stand.
    pub domain: Domain,
    /// The group of the flows' rules, behind guards in group 0; 0 for a port without groups.
    pub group: u32,
    /// How fields are written.
    pub fields: Fields,
    /// How packets are sent on.
    pub egress: Egress,
    /// Whether the NIC itself checks lengths and checksums, and what is wrong goes to software.
    pub integrity: bool,
    /// Receive queues of software, for guards in the ingress domain.
    pub queues: Vec<u16>,
    /// Hairpin queues of the port, by the port that they lead to.
    pub hairpins: Vec<Hairpin>,
    /// Seconds after which a rule without packets counts as aged; none where ages are not asked for.
    pub age_s: Option<u32>,
}

impl Form {
    fn attr(&self, group: u32, priority: u32) -> FlowAttr {
        let transfer = self.domain == Domain::Transfer;
        FlowAttr { group, priority, ingress: !transfer, egress: false, transfer }
    }

    /// Whether rules stand behind guards. Those that don't have to be for [one TTL](Ttl::Exact).
    pub fn is_guarded(&self) -> bool {
        self.group > 0
    }

    /// Whether packets can be sent on to this port.
    pub fn reaches(&self, port: u16) -> bool {
        self.egress != Egress::Hairpin || self.hairpin(port).is_some()
    }

    fn hairpin(&self, port: u16) -> Option<u16> {
        self.hairpins.iter().find(|hairpin| hairpin.to == port).map(|hairpin| hairpin.queue)
    }
}

impl Form {
    /// Where its rules stand, in words.
    pub const fn place(&self) -> &'static str {
        match self.domain {
            Domain::Transfer => "rules of the switch (transfer)",
            Domain::Ingress => "rules of the port (ingress)",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = match self.fields {
            Fields::Set => "set actions",
            Fields::Modify => "modify_field",
        };
        let egress = match self.egress {
            Egress::PortId => "port_id",
            Egress::RepresentedPort => "represented_port",
            Egress::Hairpin => "hairpin queues",
        };
        let guards = if self.is_guarded() { "groups" } else { "without groups" };
        let integrity = if self.integrity { ", integrity" } else { "" };
        write!(f, "{}, {guards}{integrity}, {fields}, {egress}", self.place())
    }
}

/// The rules of group 0 for a port, in the order in which they have to be made: those that send to software, then the
/// jumps. None for a port without groups.
pub fn guards(form: &Form, port: u16) -> Vec<FlowRule> {
    if !form.is_guarded() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for ttl in [0, 1] {
        let mut ipv4 = Pattern::ipv4();
        ipv4.exactly(8, &[ttl]);
        let mut ipv6 = Pattern::ipv6();
        ipv6.exactly(7, &[ttl]);
        for ip in [ipv4, ipv6] {
            let mut rule = start(form, form.attr(0, 0), port);
            Pattern::eth().add_to(&mut rule);
            ip.add_to(&mut rule);
            to_software(form, &mut rule, port);
            rules.push(rule);
        }
    }
    for proto in [TCP, UDP] {
        for ip in [fit_ipv4(proto), fit_ipv6(proto)] {
            let mut rule = start(form, form.attr(0, 1), port);
            Pattern::eth().add_to(&mut rule);
            ip.add_to(&mut rule);
            fit_l4(proto).add_to(&mut rule);
            if form.integrity {
                integrity(ip.kind).add_to(&mut rule);
            }
            rule.action(ActionKind::JUMP, Some(&form.group.to_ne_bytes()));
            rules.push(rule);
        }
    }
    rules
}

/// The rule that carries a flow, to a port that the form [reaches](Form::reaches). `ttl` must be exact where the form has
/// no guards.
pub fn carry(flow: &HardwareFlow, form: &Form, ttl: Ttl) -> FlowRule {
    let mut rule = start(form, form.attr(form.group, 0), flow.port);
    let exact = match ttl {
        Ttl::Exact(ttl) => Some(ttl),
        Ttl::Decrement => None,
    };
    match_flow(&mut rule, flow, !form.is_guarded(), exact);
    if form.integrity && !form.is_guarded() {
        integrity(ip_kind(flow)).add_to(&mut rule);
    }
    change_tags(&mut rule, flow);
    match form.fields {
        Fields::Set => set_fields(&mut rule, flow, ttl),
        Fields::Modify => modify_fields(&mut rule, flow, ttl),
    }
    rule.action(ActionKind::COUNT, Some(&[0; 4]));
    if let Some(seconds) = form.age_s {
        // 24 bits, and no context.
        rule.action(ActionKind::AGE, Some(&(seconds & 0x00ff_ffff).to_ne_bytes()));
    }
    match form.egress {
        Egress::PortId => {
            let id = [[0; 4], u32::from(flow.egress).to_ne_bytes()].concat();
            rule.action(ActionKind::PORT_ID, Some(&id))
        }
        Egress::RepresentedPort => {
            rule.action(ActionKind::REPRESENTED_PORT, Some(&flow.egress.to_ne_bytes()))
        }
        Egress::Hairpin => {
            // A port that can't be reached has none, and no NIC this one.
            let queue = form.hairpin(flow.egress).unwrap_or(u16::MAX);
            rule.action(ActionKind::QUEUE, Some(&queue.to_ne_bytes()))
        }
    };
    rule
}

/// The rule that marks a flow's packets for software, which receives them from one of these queues. It has no guards:
/// software looks at marked packets all the same. Many NICs have marks of 24 bits.
pub fn mark(flow: &HardwareFlow, mark: u32, queues: &[u16]) -> FlowRule {
    let mut rule = FlowRule::new(FlowAttr { ingress: true, ..FlowAttr::default() });
    match_flow(&mut rule, flow, false, None);
    rule.action(ActionKind::MARK, Some(&mark.to_ne_bytes()));
    match queues {
        [queue] => rule.action(ActionKind::QUEUE, Some(&queue.to_ne_bytes())),
        _ => rule.rss(queues),
    };
    rule
}

/// A rule for packets that come in by this port.
fn start(form: &Form, attr: FlowAttr, port: u16) -> FlowRule {
    let mut rule = FlowRule::new(attr);
    if form.domain == Domain::Transfer {
        let parts = Parts { spec: Some(&port.to_ne_bytes()), last: None, mask: Some(&[0xff; 2]) };
        rule.item(ItemKind::REPRESENTED_PORT, &parts);
    }
    rule
}

fn to_software(form: &Form, rule: &mut FlowRule, port: u16) {
    match form.domain {
        Domain::Ingress => rule.rss(&form.queues),
        Domain::Transfer => rule.action(ActionKind::PORT_REPRESENTOR, Some(&port.to_ne_bytes())),
    };
}

/// An item's values, and the bits that matter.
struct Pattern {
    kind: ItemKind,
    spec: [u8; 44],
    mask: [u8; 44],
    /// Upper ends of ranges; all other fields are 0, which means that they have none.
    last: Option<[u8; 44]>,
}

impl Pattern {
    fn new(kind: ItemKind) -> Self {
        Self { kind, spec: [0; 44], mask: [0; 44], last: None }
    }

    fn eth() -> Self {
        Self::new(ItemKind::ETH)
    }

    fn ipv4() -> Self {
        Self::new(ItemKind::IPV4)
    }

    fn ipv6() -> Self {
        Self::new(ItemKind::IPV6)
    }

    /// Asks for these bytes.
    fn exactly(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.masked(at, bytes, &[0xff; 16])
    }

    /// Asks for these bits.
    fn masked(&mut self, at: usize, bytes: &[u8], mask: &[u8]) -> &mut Self {
        let places = self.spec.iter_mut().zip(&mut self.mask).skip(at);
        for ((spec, masked), (byte, mask)) in places.zip(bytes.iter().zip(mask)) {
            (*spec, *masked) = (byte & mask, *mask);
        }
        self
    }

    /// Asks for a number in a range.
    fn within(&mut self, at: usize, [least, most]: [u16; 2]) -> &mut Self {
        let last = self.last.get_or_insert([0; 44]);
        last[at..at + 2].copy_from_slice(&most.to_be_bytes());
        self.exactly(at, &least.to_be_bytes())
    }

    /// Adds the item; one that asks for nothing has no contents, since what no driver reads none can refuse.
    fn add_to(&self, rule: &mut FlowRule) {
        let asks = self.mask.iter().any(|byte| *byte != 0);
        let content = |bytes| asks.then_some(bytes);
        rule.item(
            self.kind,
            &Parts {
                spec: content(&self.spec[..]),
                last: self.last.as_ref().map(|last| &last[..]),
                mask: content(&self.mask[..]),
            },
        );
    }
}

/// IPv4 without options, and no fragment.
fn fit_ipv4(proto: u8) -> Pattern {
    let mut ip = Pattern::ipv4();
    ip.exactly(0, &[0x45]).masked(6, &[0, 0], &[0x3f, 0xff]).exactly(9, &[proto]);
    ip
}

/// IPv6 without extension headers.
fn fit_ipv6(proto: u8) -> Pattern {
    let mut ip = Pattern::ipv6();
    ip.exactly(6, &[proto]);
    layout::set_flag(&mut ip.mask, layout::IPV6_HAS_FRAGMENT);
    ip
}

/// TCP with ACK and without FIN, SYN and RST, or UDP.
fn fit_l4(proto: u8) -> Pattern {
    let mut l4 = Pattern::new(l4_kind(proto));
    if proto == TCP {
        l4.masked(13, &[ACK], &[FIN | SYN | RST | ACK]);
    }
    l4
}

/// Lengths and checksums are right.
fn integrity(ip: ItemKind) -> Pattern {
    let mut item = Pattern::new(ItemKind::INTEGRITY);
    let checksum = (ip == ItemKind::IPV4).then_some(layout::INTEGRITY_IPV4_CHECKSUM_OK);
    let flags =
        [layout::INTEGRITY_L3_OK, layout::INTEGRITY_L4_OK, layout::INTEGRITY_L4_CHECKSUM_OK].into_iter();
    for flag in flags.chain(checksum) {
        layout::set_flag(&mut item.spec, flag);
        layout::set_flag(&mut item.mask, flag);
    }
    item
}

/// Where IP headers have the packet's length.
const IPV4_LENGTH: usize = 2;
const IPV6_LENGTH: usize = 4;
/// Lengths of headers.
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;
const UDP_HEADER: u16 = 8;

/// Items for a flow's packets; `alone` says that no guard stands before the rule.
fn match_flow(rule: &mut FlowRule, flow: &HardwareFlow, alone: bool, ttl: Option<u8>) {
    let ether_type = flow.ether_type();
    let mut types = flow.tags.iter().map(|(tpid, _)| *tpid).chain([ether_type]);
    let mut next = || types.next().unwrap_or(ether_type).to_be_bytes();
    let mut eth = Pattern::eth();
    eth.exactly(0, &flow.to).exactly(12, &next()).add_to(rule);
    for (_, tci) in &flow.tags {
        Pattern::new(ItemKind::VLAN).exactly(0, &tci.to_be_bytes()).exactly(2, &next()).add_to(rule);
    }
    let proto = flow.key.proto();
    let mut ip = match (flow.key, alone) {
        (Key::V4(_), true) => fit_ipv4(proto),
        (Key::V6(_), true) => fit_ipv6(proto),
        (Key::V4(_), false) => Pattern::ipv4(),
        (Key::V6(_), false) => Pattern::ipv6(),
    };
    let ports = match flow.key {
        Key::V4(Key4 { src, dst, ports, .. }) => {
            ip.exactly(9, &[proto]).exactly(12, &src.to_ne_bytes()).exactly(16, &dst.to_ne_bytes());
            ttl.map(|ttl| ip.exactly(8, &[ttl]));
            flow.longest.map(|longest| ip.within(IPV4_LENGTH, [IPV4_HEADER, longest]));
            ports
        }
        Key::V6(Key6 { src, dst, ports, .. }) => {
            ip.exactly(6, &[proto]).exactly(8, &octets(src)).exactly(24, &octets(dst));
            ttl.map(|ttl| ip.exactly(7, &[ttl]));
            // Without the header; with none but a UDP header it is the shortest.
            let payload = |longest: u16| [UDP_HEADER, longest.saturating_sub(IPV6_HEADER)];
            flow.longest.map(|longest| ip.within(IPV6_LENGTH, payload(longest)));
            ports
        }
    };
    ip.add_to(rule);
    let mut l4 = if alone { fit_l4(proto) } else { Pattern::new(l4_kind(proto)) };
    l4.exactly(0, &ports.to_ne_bytes()).add_to(rule);
}

fn ip_kind(flow: &HardwareFlow) -> ItemKind {
    if flow.ether_type() == ETHER_IPV4 { ItemKind::IPV4 } else { ItemKind::IPV6 }
}

fn l4_kind(proto: u8) -> ItemKind {
    if proto == TCP { ItemKind::TCP } else { ItemKind::UDP }
}

fn octets(words: [u64; 2]) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&words[0].to_ne_bytes());
    octets[8..].copy_from_slice(&words[1].to_ne_bytes());
    octets
}

fn change_tags(rule: &mut FlowRule, flow: &HardwareFlow) {
    let set = |rule: &mut FlowRule, tci: u16, id: bool, priority: bool| {
        if id {
            rule.action(ActionKind::OF_SET_VLAN_VID, Some(&(tci & 0x0fff).to_be_bytes()));
        }
        if priority {
            rule.action(ActionKind::OF_SET_VLAN_PCP, Some(&[(tci >> 13) as u8]));
        }
    };
    match flow.tag_changes() {
        TagChanges::None => {}
        TagChanges::Rewrite { from, to } => {
            set(rule, to, (from ^ to) & 0x0fff != 0, from >> 13 != to >> 13);
        }
        TagChanges::Pushes { pop, push } => {
            for _ in 0..pop {
                rule.action(ActionKind::OF_POP_VLAN, None);
            }
            for (tpid, tci) in push {
                rule.action(ActionKind::OF_PUSH_VLAN, Some(&tpid.to_be_bytes()));
                set(rule, tci, true, true);
            }
        }
    }
}

/// What is written besides tags and TTL: only what changes, as the kernel leaves the checksum alone where nothing does.
struct Changes {
    addresses: [Option<Address>; 2],
    ports: [Option<[u8; 2]>; 2],
}

enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Changes {
    fn of(flow: &HardwareFlow) -> Self {
        let (addresses, ports) = match (flow.key, flow.leaves_as) {
            (Key::V4(old), Key::V4(new)) => {
                let change = |old: u32, new: u32| (old != new).then(|| Address::V4(new.to_ne_bytes()));
                ([change(old.src, new.src), change(old.dst, new.dst)], [old.ports, new.ports])
            }
            (Key::V6(old), Key::V6(new)) => {
                let change = |old, new| (old != new).then(|| Address::V6(octets(new)));
                ([change(old.src, new.src), change(old.dst, new.dst)], [old.ports, new.ports])
            }
            // A flow of two families is not made.
            (Key::V4(_), Key::V6(_)) | (Key::V6(_), Key::V4(_)) => ([None, None], [0, 0]),
        };
        let [[a, b, c, d], [e, f, g, h]] = ports.map(u32::to_ne_bytes);
        let port = |old: [u8; 2], new| (old != new).then_some(new);
        Self { addresses, ports: [port([a, b], [e, f]), port([c, d], [g, h])] }
    }
}

fn set_fields(rule: &mut FlowRule, flow: &HardwareFlow, ttl: Ttl) {
    let [to, from] = flow.macs;
    rule.action(ActionKind::SET_MAC_DST, Some(&to)).action(ActionKind::SET_MAC_SRC, Some(&from));
    let changes = Changes::of(flow);
    let kinds4 = [ActionKind::SET_IPV4_SRC, ActionKind::SET_IPV4_DST];
    let kinds6 = [ActionKind::SET_IPV6_SRC, ActionKind::SET_IPV6_DST];
    for ((address, kind4), kind6) in changes.addresses.iter().zip(kinds4).zip(kinds6) {
        match address {
            Some(Address::V4(address)) => rule.action(kind4, Some(address)),
            Some(Address::V6(address)) => rule.action(kind6, Some(address)),
            None => continue,
        };
    }
    for (port, kind) in changes.ports.iter().zip([ActionKind::SET_TP_SRC, ActionKind::SET_TP_DST]) {
        if let Some(port) = port {
            rule.action(kind, Some(port));
        }
    }
    match ttl {
        Ttl::Decrement => rule.action(ActionKind::DEC_TTL, None),
        Ttl::Exact(ttl) => rule.action(ActionKind::SET_TTL, Some(&[ttl.wrapping_sub(1)])),
    };
}

fn modify_fields(rule: &mut FlowRule, flow: &HardwareFlow, ttl: Ttl) {
    let [to, from] = flow.macs;
    let mut modify = |modify: ModifyField| {
        rule.action(ActionKind::MODIFY_FIELD, Some(&modify.bytes()));
    };
    modify(ModifyField::set(Field::MacDst, &to));
    modify(ModifyField::set(Field::MacSrc, &from));
    let changes = Changes::of(flow);
    let fields4 = [Field::Ipv4Src, Field::Ipv4Dst];
    let fields6 = [Field::Ipv6Src, Field::Ipv6Dst];
    for ((address, field4), field6) in changes.addresses.iter().zip(fields4).zip(fields6) {
        match address {
            Some(Address::V4(address)) => modify(ModifyField::set(field4, address)),
            Some(Address::V6(address)) => modify(ModifyField::set(field6, address)),
            None => {}
        }
    }
    let fields = match flow.key.proto() {
        TCP => [Field::TcpSrc, Field::TcpDst],
        _ => [Field::UdpSrc, Field::UdpDst],
    };
    for (port, field) in changes.ports.iter().zip(fields) {
        if let Some(port) = port {
            modify(ModifyField::set(field, port));
        }
    }
    let field = if flow.ether_type() == ETHER_IPV4 { Field::Ipv4Ttl } else { Field::Ipv6HopLimit };
    modify(match ttl {
        Ttl::Decrement => ModifyField::new(Operation::Subtract, field, &[1]),
        Ttl::Exact(ttl) => ModifyField::set(field, &[ttl.wrapping_sub(1)]),
    });
}
