//! The third gateway: a NIC that carries flows by rules.
//!
//! Of every direction that may be in a NIC there is a rule, derived from the flow table, encoded for a driver and
//! carried out by the [model](dataplane::hardware::model), once for each way to write fields and each place for rules, by
//! hairpin queues too, and once more as on a NIC without groups, where a rule is for one TTL.
//! What the NIC sends has to be what the worker and the kernel sent for the same packet, but for padding, which a NIC
//! leaves where it is; what it gives to software has to be as it came in, and must not be a packet that the rule is
//! there to carry.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use dataplane::dpdk::flow_rule::{FlowEngine, FlowError, FlowId, FlowRules};
use dataplane::dpdk::hairpin::{self, HairpinPort};
use dataplane::flow::{EntryState, Key};
use dataplane::hardware::model::{Knobs, Nic, Outcome};
use dataplane::hardware::{Domain, Egress, Fields, Form, HardwareFlow, Lengths, Ttl, Unfit, encode};
use dataplane::packet::wire::{ETHER_IPV4, ETHER_SERVICE_VLAN, ETHER_VLAN, be16};
use dataplane::packet::{Headers, Ingress, parse};

use super::OracleError;
use super::compare::{Finding, Mismatch};
use super::frames::{Input, has_bad_checksum};
use super::kernel::Opened;
use super::links::PORTS;
use super::plane::FastPath;

/// MTUs that the port which packets come in by may have. The longest with which a rule may carry the direction is taken.
const PORT_MTUS: [u16; 2] = [9000, 1500];

/// Where rules stand and how they write fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    domain: Domain,
    fields: Fields,
    /// Behind guards in group 0, or in group 0 without them, for one TTL.
    group: u32,
    /// To other ports by hairpin queues.
    hairpin: bool,
}

const WAYS: [Way; 8] = [
    Way { domain: Domain::Ingress, fields: Fields::Set, group: 1, hairpin: false },
    Way { domain: Domain::Ingress, fields: Fields::Modify, group: 1, hairpin: false },
    Way { domain: Domain::Transfer, fields: Fields::Set, group: 1, hairpin: false },
    Way { domain: Domain::Transfer, fields: Fields::Modify, group: 1, hairpin: false },
    Way { domain: Domain::Ingress, fields: Fields::Modify, group: 0, hairpin: false },
    Way { domain: Domain::Transfer, fields: Fields::Set, group: 0, hairpin: false },
    Way { domain: Domain::Ingress, fields: Fields::Set, group: 0, hairpin: true },
    Way { domain: Domain::Ingress, fields: Fields::Modify, group: 1, hairpin: true },
];

/// What a rule for one TTL is for while packets come with one that no rule is for.
const USUAL_TTL: u8 = 64;

impl Way {
    fn form(self) -> Form {
        let egress = match (self.domain, self.hairpin) {
            (_, true) => Egress::Hairpin,
            (Domain::Ingress, false) => Egress::PortId,
            (Domain::Transfer, false) => Egress::RepresentedPort,
        };
        let Self { domain, fields, group, hairpin: _ } = self;
        let (queues, hairpins) = (vec![0], Vec::new());
        Form { domain, group, fields, egress, integrity: true, queues, hairpins, age_s: Some(30) }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = match self.domain {
            Domain::Ingress => "ingress",
            Domain::Transfer => "transfer",
        };
        let fields = match self.fields {
            Fields::Set => "SET actions",
            Fields::Modify => "MODIFY_FIELD",
        };
        let guards = if self.group == 0 { "without groups" } else { "behind guards" };
        let hairpin = if self.hairpin { ", hairpin queues" } else { "" };
        write!(f, "{domain}, {fields}, {guards}{hairpin}")
    }
}

/// What the NIC did with a packet, the same in each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It carried it.
    Carried,
    /// It gave it to software, though it was made for a direction that has a rule.
    Software,
    /// It was made for a direction without a rule, and software has it.
    NoRule,
    /// It is longer than what comes in by a port with the MTU that the direction's rule relies on.
    TooLong,
}

/// NICs with the rules of one set of connections.
#[derive(Debug)]
pub struct Hardware {
    nics: Vec<Card>,
    /// By what packets come in with.
    rules: HashMap<Key, Rule>,
    /// Directions that have no rule, by the reason.
    pub unfit: BTreeMap<&'static str, u64>,
}

/// A direction that has a rule.
#[derive(Debug)]
struct Rule {
    context: Ingress,
    flow: HardwareFlow,
    /// The longest packet that comes in.
    longest: u16,
}

/// A NIC.
#[derive(Debug)]
struct Card {
    way: Way,
    form: Form,
    nic: Arc<Nic>,
    /// By port.
    rules: Vec<FlowRules>,
}

impl Card {
    /// With the guards of its ports, and, if it has such, the rule of each direction.
    fn new<'a>(way: Way, flows: impl Iterator<Item = &'a HardwareFlow>) -> Result<Self, OracleError> {
        let ports: Vec<u16> = (0..PORTS as u16).collect();
        let knobs = Knobs { groups: way.group + 1, hairpin: way.hairpin, ..Knobs::default() };
        let nic = Nic::new(&ports, 1, knobs);
        let mut form = way.form();
        if way.hairpin {
            let between: Vec<_> =
                ports.iter().map(|id| HairpinPort { id: *id, rx_queues: 1, tx_queues: 1 }).collect();
            // Those of all ports have the same numbers.
            form.hairpins = hairpin::set_up(&*nic, &between)?.swap_remove(0);
        }
        let of = |port: &u16| FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, *port);
        let card = Self { way, form, rules: ports.iter().map(of).collect(), nic };
        for (port, rules) in ports.into_iter().zip(&card.rules) {
            for guard in encode::guards(&card.form, port) {
                rules.create(&guard)?;
            }
        }
        if card.form.is_guarded() {
            for flow in flows {
                card.create(flow, Ttl::Decrement)?;
            }
        }
        Ok(card)
    }

    fn create(&self, flow: &HardwareFlow, ttl: Ttl) -> Result<Option<FlowId>, FlowError> {
        let rules = self.rules.get(usize::from(flow.port));
        rules.map(|rules| rules.create(&encode::carry(flow, &self.form, ttl))).transpose()
    }

    /// What it does with a packet, of this direction as far as anybody can tell.
    fn process(&self, port: u16, frame: &mut Vec<u8>, rule: Option<&Rule>) -> Result<Outcome, FlowError> {
        let Some(Rule { flow, .. }) = rule.filter(|_| !self.form.is_guarded()) else {
            return Ok(self.nic.process(port, frame));
        };
        // The rule of the moment: as it would have been made for this packet.
        let ttl = Ttl::Exact(ttl(frame).filter(|ttl| *ttl > 1).unwrap_or(USUAL_TTL));
        let id = self.create(flow, ttl)?;
        let outcome = self.nic.process(port, frame);
        if let (Some(rules), Some(id)) = (self.rules.get(usize::from(flow.port)), id) {
            rules.destroy(id)?;
        }
        Ok(outcome)
    }
}

impl Hardware {
    /// NICs with a rule for each direction that may have one.
    ///
    /// # Errors
    /// When the model refuses a rule.
    pub fn new(fast: &FastPath, opened: &[Opened]) -> Result<Self, OracleError> {
        let (mut rules, mut unfit) = (HashMap::new(), BTreeMap::new());
        for (number, one) in opened.iter().enumerate() {
            // One that proves itself, or closes, has been taken out.
            if one.connection.state != EntryState::Software || !fast.has(number) {
                continue;
            }
            for way in 0..2 {
                let with = |may_come, compared| {
                    let lengths = Lengths { may_come, may_leave: one.proved_length(way), compared };
                    fast.hardware_flow(number, way, lengths)
                };
                // Of every other connection rules compare lengths.
                let compared = number % 2 == 1;
                let longest = PORT_MTUS.into_iter().find_map(|mtu| Some((with(mtu, compared)?.ok()?, mtu)));
                match longest {
                    Some((flow, longest)) => {
                        rules.insert(flow.key, Rule { context: one.contexts[way], flow, longest });
                    }
                    None => {
                        let shortest = with(PORT_MTUS[1], compared).and_then(Result::err);
                        *unfit.entry(shortest.map_or("not in the flow table", name)).or_default() += 1;
                    }
                }
            }
        }
        let nic = |way| Card::new(way, rules.values().map(|rule| &rule.flow));
        let nics = WAYS.into_iter().map(nic).collect::<Result<_, OracleError>>()?;
        Ok(Self { nics, rules, unfit })
    }

    /// Directions that have a rule.
    pub fn directions(&self) -> usize {
        self.rules.len()
    }

    /// Shows each NIC a packet of which is known what worker and kernel make of it.
    ///
    /// # Errors
    /// When a NIC refuses a rule.
    pub fn judge(
        &self,
        opened: &Opened,
        input: &Input,
        finding: &Finding,
    ) -> Result<Result<Verdict, Mismatch>, OracleError> {
        let headers = parse(&input.frame, input.port).ok();
        let made_for = Key::from_tuple(&opened.tuples[input.way]);
        // What nobody can read belongs to whom it was made for.
        let key = headers.as_ref().map(|headers| headers.key).or(made_for);
        let rule = key.and_then(|key| self.rules.get(&key));
        if rule.is_some_and(|rule| l3_length(&input.frame) > usize::from(rule.longest)) {
            return Ok(Ok(Verdict::TooLong));
        }
        // A worker does not look at L4 checksums; a NIC does, and gives what is wrong to software.
        let is_for_it = |headers: &Headers| {
            let fits = |rule: &Rule| rule.flow.longest.is_none_or(|longest| headers.l3_len <= longest);
            let comes_in = rule.is_some_and(|rule| headers.ingress == rule.context && fits(rule));
            comes_in && !has_bad_checksum(&input.frame, headers)
        };
        let expected = match (finding, headers.filter(is_for_it)) {
            (Finding::Equal { egress, frame }, Some(headers)) => {
                let padding = input.frame.get(headers.frame_len()..).unwrap_or_default();
                Some((egress.port(), [frame, padding].concat()))
            }
            _ => None,
        };
        for card in &self.nics {
            let mut frame = input.frame.clone();
            let outcome = card.process(input.port, &mut frame, rule)?;
            let right = match (outcome, &expected) {
                (Outcome::Sent(port), Some((to, bytes))) => port == *to && frame == *bytes,
                (Outcome::Software { mark: None, queue: None }, None) => frame == input.frame,
                _ => false,
            };
            if !right {
                let (way, finding) = (card.way, Box::new(finding.clone()));
                return Ok(Err(Mismatch::Nic { way, outcome, frame, expected, finding }));
            }
        }
        let has_rule = made_for.is_some_and(|key| self.rules.contains_key(&key));
        Ok(Ok(match expected {
            Some(_) => Verdict::Carried,
            None if has_rule => Verdict::Software,
            None => Verdict::NoRule,
        }))
    }
}

/// What a frame has behind its Ethernet header and up to two tags.
fn l3_length(frame: &[u8]) -> usize {
    frame.len().saturating_sub(l3(frame))
}

/// Behind the Ethernet header and up to two tags.
fn l3(frame: &[u8]) -> usize {
    let is_tag = |at: &usize| matches!(be16(frame, *at), Some(ETHER_VLAN | ETHER_SERVICE_VLAN));
    14 + 4 * [12, 16].into_iter().take_while(is_tag).count()
}

/// TTL or hop limit.
pub fn ttl(frame: &[u8]) -> Option<u8> {
    let l3 = l3(frame);
    let is_ipv4 = be16(frame, l3.checked_sub(2)?)? == ETHER_IPV4;
    frame.get(l3 + if is_ipv4 { 8 } else { 7 }).copied()
}

/// The reason in a word or two, for the report.
fn name(unfit: Unfit) -> &'static str {
    match unfit {
        Unfit::Bridged => "bridged",
        Unfit::Pppoe => "PPPoE",
        Unfit::TooLong(_) => "a packet may come in that is too long to leave",
        Unfit::Unproved => "not proved",
        Unfit::Dscp => "DSCP",
        Unfit::Header => "L2 header",
        Unfit::Protocol => "protocol",
        Unfit::Dei => "DEI",
    }
}
