//! The third gateway: a NIC that carries flows by rules.
//!
//! Of every direction that may be in a NIC there is a rule, derived from the flow table, encoded for a driver and
//! carried out by the [model](dataplane::hardware::model), once for each way to write fields and each place for rules.
//! What the NIC sends has to be what the worker and the kernel sent for the same packet, but for padding, which a NIC
//! leaves where it is; what it gives to software has to be as it came in, and must not be a packet that the rule is
//! there to carry.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use dataplane::dpdk::flow_rule::{FlowEngine, FlowRules};
use dataplane::flow::{EntryState, Key};
use dataplane::hardware::model::{Knobs, Nic, Outcome};
use dataplane::hardware::{Domain, Egress, Fields, Form, Lengths, Ttl, Unfit, encode};
use dataplane::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};
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
}

const WAYS: [Way; 4] = [
    Way { domain: Domain::Ingress, fields: Fields::Set },
    Way { domain: Domain::Ingress, fields: Fields::Modify },
    Way { domain: Domain::Transfer, fields: Fields::Set },
    Way { domain: Domain::Transfer, fields: Fields::Modify },
];

impl Way {
    fn form(self) -> Form {
        let egress = match self.domain {
            Domain::Ingress => Egress::PortId,
            Domain::Transfer => Egress::RepresentedPort,
        };
        let Self { domain, fields } = self;
        Form { domain, group: 1, fields, egress, integrity: true, queues: vec![0], age_s: Some(30) }
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
        write!(f, "{domain}, {fields}")
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
    nics: Vec<(Way, Arc<Nic>)>,
    /// What a rule is there for, and the longest packet that comes in.
    rules: HashMap<Key, (Ingress, u16)>,
    /// Directions that have no rule, by the reason.
    pub unfit: BTreeMap<&'static str, u64>,
}

impl Hardware {
    /// NICs with a rule for each direction that may have one.
    ///
    /// # Errors
    /// When the model refuses a rule.
    pub fn new(fast: &FastPath, opened: &[Opened]) -> Result<Self, OracleError> {
        let (mut rules, mut unfit, mut flows) = (HashMap::new(), BTreeMap::new(), Vec::new());
        for (number, one) in opened.iter().enumerate() {
            // One that proves itself, or closes, has been taken out.
            if one.connection.state != EntryState::Software || !fast.has(number) {
                continue;
            }
            for way in 0..2 {
                let with = |may_come| {
                    let lengths = Lengths { may_come, may_leave: one.proved_length(way) };
                    Some((fast.hardware_flow(number, way, lengths)?, may_come))
                };
                let mut tried = PORT_MTUS.into_iter().filter_map(with);
                let first = tried.next();
                match first.into_iter().chain(tried).find_map(|(flow, mtu)| Some((flow.ok()?, mtu))) {
                    Some((flow, may_come)) => {
                        rules.insert(flow.key, (one.contexts[way], may_come));
                        flows.push(flow);
                    }
                    None => {
                        let shortest = with(PORT_MTUS[1]).and_then(|(flow, _)| flow.err());
                        *unfit.entry(shortest.map_or("not in the flow table", name)).or_default() += 1;
                    }
                }
            }
        }
        let nic = |way: Way| {
            let ports: Vec<u16> = (0..PORTS as u16).collect();
            let nic = Nic::new(&ports, 1, Knobs::default());
            let form = way.form();
            for port in ports {
                let rules = FlowRules::of_engine(Arc::clone(&nic) as Arc<dyn FlowEngine>, port);
                let guards = encode::guards(&form, port).into_iter();
                let own = flows.iter().filter(|flow| flow.port == port);
                for rule in guards.chain(own.map(|flow| encode::carry(flow, &form, Ttl::Decrement))) {
                    rules.create(&rule)?;
                }
            }
            Ok((way, nic))
        };
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
    /// What a NIC does otherwise.
    pub fn judge(&self, opened: &Opened, input: &Input, finding: &Finding) -> Result<Verdict, Mismatch> {
        let headers = parse(&input.frame, input.port).ok();
        let made_for = Key::from_tuple(&opened.tuples[input.way]);
        // What nobody can read belongs to whom it was made for.
        let key = headers.as_ref().map(|headers| headers.key).or(made_for);
        let rule = key.and_then(|key| self.rules.get(&key));
        if rule.is_some_and(|(_, longest)| l3_length(&input.frame) > usize::from(*longest)) {
            return Ok(Verdict::TooLong);
        }
        // A worker does not look at L4 checksums; a NIC does, and gives what is wrong to software.
        let is_for_it = |headers: &Headers| {
            let comes_in = rule.is_some_and(|(context, _)| headers.ingress == *context);
            comes_in && !has_bad_checksum(&input.frame, headers)
        };
        let expected = match (finding, headers.filter(is_for_it)) {
            (Finding::Equal { egress, frame }, Some(headers)) => {
                let padding = input.frame.get(headers.frame_len()..).unwrap_or_default();
                Some((egress.port(), [frame, padding].concat()))
            }
            _ => None,
        };
        for (way, nic) in &self.nics {
            let mut frame = input.frame.clone();
            let outcome = nic.process(input.port, &mut frame);
            let right = match (outcome, &expected) {
                (Outcome::Sent(port), Some((to, bytes))) => port == *to && frame == *bytes,
                (Outcome::Software { mark: None, queue: None }, None) => frame == input.frame,
                _ => false,
            };
            if !right {
                let (way, expected) = (*way, expected.clone());
                return Err(Mismatch::Nic {
                    way,
                    outcome,
                    frame,
                    expected,
                    finding: Box::new(finding.clone()),
                });
            }
        }
        let has_rule = made_for.is_some_and(|key| self.rules.contains_key(&key));
        Ok(match expected {
            Some(_) => Verdict::Carried,
            None if has_rule => Verdict::Software,
            None => Verdict::NoRule,
        })
    }
}

/// What a frame has behind its Ethernet header and up to two tags.
fn l3_length(frame: &[u8]) -> usize {
    let is_tag = |at: usize| {
        let kind = frame.get(at..at + 2).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
        matches!(kind, Some(ETHER_VLAN | ETHER_SERVICE_VLAN))
    };
    let tags = [12, 16].into_iter().take_while(|at| is_tag(*at)).count();
    frame.len().saturating_sub(14 + 4 * tags)
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
