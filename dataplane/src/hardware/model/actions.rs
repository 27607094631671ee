//! What actions the model NIC takes, and in which order.

use super::check::{Limits, Pattern, refuse, unsupported};
use super::rule::{Fate, Layer, Place, Step};
use crate::dpdk::flow_rule::layout::{Field, ModifyField, Operation};
use crate::dpdk::flow_rule::{ActionKind, ErrorKind, FlowError, RawAction, RuleView};

const MOST_ACTIONS: usize = 24;

/// What a rule does with a packet.
pub(super) struct Actions {
    pub(super) steps: Vec<Step>,
    pub(super) mark: Option<u32>,
    pub(super) counts: bool,
    pub(super) age_s: Option<u32>,
    pub(super) fate: Fate,
}

/// Checks the actions of a rule whose pattern is known.
pub(super) fn actions(
    view: &RuleView<'_>,
    place: Place,
    pattern: &Pattern,
    limits: &Limits<'_>,
) -> Result<Actions, FlowError> {
    if !view.ends()[1] || view.actions().len() > MOST_ACTIONS {
        return refuse(ErrorKind::ActionCount, "the actions have no end, or are too many");
    }
    let mut list = List {
        place,
        pattern,
        limits,
        tags: pattern.tags,
        stage: Stage::Pop,
        seen: Vec::new(),
        modifies: None,
        needs_id: false,
        done: Actions { steps: Vec::new(), mark: None, counts: false, age_s: None, fate: Fate::Drop },
        fate: None,
    };
    for action in view.actions().iter().filter(|action| action.kind != ActionKind::VOID) {
        list.add(action)?;
    }
    let Some(fate) = list.fate else {
        return refuse(ErrorKind::Action, "no action says where packets go");
    };
    if matches!(fate, Fate::Jump(_)) && !list.done.steps.is_empty() {
        return unsupported(ErrorKind::Action, "packets can't be changed before a jump");
    }
    if list.done.mark.is_some() && !matches!(fate, Fate::Software(_)) {
        return refuse(ErrorKind::Action, "a mark is for packets that go to software");
    }
    if list.needs_id {
        return refuse(ErrorKind::Action, "a tag that is put on needs a VLAN id");
    }
    Ok(Actions { fate, ..list.done })
}

/// The order of actions.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stage {
    Pop,
    Push,
    Change,
    Note,
    Fate,
}

/// The actions so far.
struct List<'a> {
    place: Place,
    pattern: &'a Pattern,
    limits: &'a Limits<'a>,
    /// Tags that the packet has by now, as far as the pattern says.
    tags: u8,
    stage: Stage,
    /// What must not come twice.
    seen: Vec<Once>,
    /// Whether fields are changed by MODIFY_FIELD: all or none.
    modifies: Option<bool>,
    /// A tag was put on that has no VLAN id yet.
    needs_id: bool,
    done: Actions,
    fate: Option<Fate>,
}

/// What no rule does twice.
#[derive(Clone, Copy, PartialEq)]
enum Once {
    Kind(ActionKind),
    /// Destination or source MAC, address, port.
    Mac(bool),
    Address(bool),
    Port(bool),
    Ttl,
}

impl List<'_> {
    fn add(&mut self, action: &RawAction<'_>) -> Result<(), FlowError> {
        let kind = action.kind;
        let conf = action.conf;
        if conf.is_none() && kind != ActionKind::RSS && kind.size().is_some_and(|size| size > 0) {
            return refuse(ErrorKind::ActionConf, "an action is not configured");
        }
        let conf = conf.unwrap_or_default();
        match kind {
            ActionKind::OF_POP_VLAN | ActionKind::OF_PUSH_VLAN => self.tag(kind, conf),
            ActionKind::OF_SET_VLAN_VID | ActionKind::OF_SET_VLAN_PCP => self.change_tag(kind, conf),
            ActionKind::COUNT | ActionKind::AGE | ActionKind::MARK => self.note(kind, conf),
            ActionKind::MODIFY_FIELD => self.modify(conf),
            ActionKind::JUMP
            | ActionKind::QUEUE
            | ActionKind::RSS
            | ActionKind::DROP
            | ActionKind::PORT_ID
            | ActionKind::REPRESENTED_PORT
            | ActionKind::PORT_REPRESENTOR => self.go(action, conf),
            _ => self.set(kind, conf),
        }
    }

    fn reach(&mut self, stage: Stage) -> Result<(), FlowError> {
        if stage < self.stage {
            return refuse(ErrorKind::Action, "actions are not in the order in which they are carried out");
        }
        self.stage = stage;
        Ok(())
    }

    fn once(&mut self, what: Once) -> Result<(), FlowError> {
        if self.seen.contains(&what) {
            return refuse(ErrorKind::Action, "an action comes twice");
        }
        self.seen.push(what);
        Ok(())
    }

    fn tag(&mut self, kind: ActionKind, conf: &[u8]) -> Result<(), FlowError> {
        if kind == ActionKind::OF_POP_VLAN {
            self.reach(Stage::Pop)?;
            if self.tags == 0 {
                return refuse(ErrorKind::Action, "there is no tag to take off");
            }
            self.tags -= 1;
            self.done.steps.push(Step::Pop);
            return Ok(());
        }
        self.reach(Stage::Push)?;
        let tpid = u16::from_be_bytes(fixed(conf)?);
        if ![0x8100, 0x88a8].contains(&tpid) {
            return refuse(ErrorKind::ActionConf, "no such TPID");
        }
        if self.tags >= 2 {
            return unsupported(ErrorKind::Action, "more than two tags");
        }
        if self.needs_id {
            return refuse(ErrorKind::Action, "a tag that is put on needs a VLAN id");
        }
        self.tags += 1;
        self.needs_id = true;
        self.seen.retain(|seen| {
            ![Once::Kind(ActionKind::OF_SET_VLAN_VID), Once::Kind(ActionKind::OF_SET_VLAN_PCP)].contains(seen)
        });
        self.done.steps.push(Step::Push(tpid));
        Ok(())
    }

    fn change_tag(&mut self, kind: ActionKind, conf: &[u8]) -> Result<(), FlowError> {
        self.reach(Stage::Push)?;
        self.once(Once::Kind(kind))?;
        if self.tags == 0 {
            return refuse(ErrorKind::Action, "there is no tag to change");
        }
        let step = if kind == ActionKind::OF_SET_VLAN_VID {
            self.needs_id = false;
            Step::VlanId(u16::from_be_bytes(fixed(conf)?))
        } else {
            let [priority] = fixed(conf)?;
            Step::Priority(priority)
        };
        if matches!(step, Step::VlanId(0x1000..) | Step::Priority(8..)) {
            return refuse(ErrorKind::ActionConf, "a VLAN id has 12 bits, a priority 3");
        }
        self.done.steps.push(step);
        Ok(())
    }

    fn note(&mut self, kind: ActionKind, conf: &[u8]) -> Result<(), FlowError> {
        self.reach(Stage::Note)?;
        self.once(Once::Kind(kind))?;
        let word = u32::from_ne_bytes(fixed(conf)?);
        match kind {
            ActionKind::COUNT => self.done.counts = true,
            ActionKind::AGE => {
                if word == 0 || word >> 24 != 0 {
                    return refuse(ErrorKind::ActionConf, "a timeout is 1 to 2^24 - 1 seconds");
                }
                self.done.age_s = Some(word);
            }
            _ => {
                if self.place.port.is_none() {
                    return refuse(ErrorKind::Action, "packets of the switch can't be marked");
                }
                if word >> 24 != 0 {
                    return refuse(ErrorKind::ActionConf, "a mark has 24 bits");
                }
                self.done.mark = Some(word);
            }
        }
        Ok(())
    }

    fn set(&mut self, kind: ActionKind, conf: &[u8]) -> Result<(), FlowError> {
        let step = match kind {
            ActionKind::SET_MAC_DST => Step::Mac { source: false, mac: fixed(conf)? },
            ActionKind::SET_MAC_SRC => Step::Mac { source: true, mac: fixed(conf)? },
            ActionKind::SET_IPV4_SRC => Step::Address4 { source: true, address: fixed(conf)? },
            ActionKind::SET_IPV4_DST => Step::Address4 { source: false, address: fixed(conf)? },
            ActionKind::SET_IPV6_SRC => Step::Address6 { source: true, address: fixed(conf)? },
            ActionKind::SET_IPV6_DST => Step::Address6 { source: false, address: fixed(conf)? },
            ActionKind::SET_TP_SRC => Step::Port { source: true, port: fixed(conf)? },
            ActionKind::SET_TP_DST => Step::Port { source: false, port: fixed(conf)? },
            ActionKind::DEC_TTL => Step::TtlLess(1),
            ActionKind::SET_TTL => Step::Ttl(fixed::<1>(conf)?[0]),
            _ => return unsupported(ErrorKind::Action, "this action is not supported"),
        };
        self.change(step, false)
    }

    fn modify(&mut self, conf: &[u8]) -> Result<(), FlowError> {
        let Some(modify) = ModifyField::read(conf) else {
            return unsupported(ErrorKind::ActionConf, "this field, operation or source is not supported");
        };
        if (modify.level, modify.offset, modify.width) != (0, 0, modify.field.width()) {
            return unsupported(ErrorKind::ActionConf, "fields are changed as a whole");
        }
        let value = &modify.value;
        let is_ttl = matches!(modify.field, Field::Ipv4Ttl | Field::Ipv6HopLimit);
        if modify.operation != Operation::Set && !is_ttl {
            return unsupported(ErrorKind::ActionConf, "only a TTL is counted up or down");
        }
        let l4 = match modify.field {
            Field::TcpSrc | Field::TcpDst => Some(Layer::Tcp),
            Field::UdpSrc | Field::UdpDst => Some(Layer::Udp),
            _ => self.pattern.l4,
        };
        let ip = match modify.field {
            Field::Ipv4Ttl => Some(Layer::Ipv4),
            Field::Ipv6HopLimit => Some(Layer::Ipv6),
            _ => self.pattern.ip,
        };
        if l4 != self.pattern.l4 || ip != self.pattern.ip {
            return refuse(ErrorKind::ActionConf, "the pattern does not have this field");
        }
        let step = match (modify.field, modify.operation) {
            (Field::MacDst, _) => Step::Mac { source: false, mac: fixed(value)? },
            (Field::MacSrc, _) => Step::Mac { source: true, mac: fixed(value)? },
            (Field::Ipv4Src, _) => Step::Address4 { source: true, address: fixed(value)? },
            (Field::Ipv4Dst, _) => Step::Address4 { source: false, address: fixed(value)? },
            (Field::Ipv6Src, _) => Step::Address6 { source: true, address: fixed(value)? },
            (Field::Ipv6Dst, _) => Step::Address6 { source: false, address: fixed(value)? },
            (Field::TcpSrc | Field::UdpSrc, _) => Step::Port { source: true, port: fixed(value)? },
            (Field::TcpDst | Field::UdpDst, _) => Step::Port { source: false, port: fixed(value)? },
            (Field::Ipv4Ttl | Field::Ipv6HopLimit, Operation::Set) => Step::Ttl(value[0]),
            (Field::Ipv4Ttl | Field::Ipv6HopLimit, Operation::Add) => Step::TtlLess(value[0].wrapping_neg()),
            (Field::Ipv4Ttl | Field::Ipv6HopLimit, Operation::Subtract) => Step::TtlLess(value[0]),
        };
        self.change(step, true)
    }

    /// A change of the packet, by MODIFY_FIELD or an action of its own.
    fn change(&mut self, step: Step, modifies: bool) -> Result<(), FlowError> {
        self.reach(Stage::Change)?;
        if *self.modifies.get_or_insert(modifies) != modifies {
            return unsupported(ErrorKind::Action, "MODIFY_FIELD and actions of the old kind do not mix");
        }
        let there = match step {
            Step::Address4 { .. } => self.pattern.ip == Some(Layer::Ipv4),
            Step::Address6 { .. } => self.pattern.ip == Some(Layer::Ipv6),
            Step::Port { .. } => self.pattern.l4.is_some(),
            Step::TtlLess(_) | Step::Ttl(_) => self.pattern.ip.is_some(),
            _ => true,
        };
        if !there {
            return refuse(ErrorKind::Action, "the pattern does not have what an action changes");
        }
        match step {
            Step::Mac { source, .. } => self.once(Once::Mac(source)),
            Step::Address4 { source, .. } | Step::Address6 { source, .. } => self.once(Once::Address(source)),
            Step::Port { source, .. } => self.once(Once::Port(source)),
            _ => self.once(Once::Ttl),
        }?;
        self.done.steps.push(step);
        Ok(())
    }

    fn go(&mut self, action: &RawAction<'_>, conf: &[u8]) -> Result<(), FlowError> {
        if self.fate.is_some() {
            return refuse(ErrorKind::Action, "packets go to one place only");
        }
        self.reach(Stage::Fate)?;
        let (on_switch, limits) = (self.place.port.is_none(), self.limits);
        let is_queue = |queue: &u16| *queue < limits.queues;
        self.fate = Some(match action.kind {
            ActionKind::DROP => Fate::Drop,
            ActionKind::JUMP => {
                let group = u32::from_ne_bytes(fixed(conf)?);
                if group <= self.place.group || group >= limits.groups {
                    return refuse(
                        ErrorKind::ActionConf,
                        "a jump leads to a later group, of which there are few",
                    );
                }
                Fate::Jump(group)
            }
            ActionKind::QUEUE | ActionKind::RSS if on_switch => {
                return refuse(ErrorKind::Action, "the switch has no receive queues");
            }
            ActionKind::QUEUE => self.queue(u16::from_ne_bytes(fixed(conf)?))?,
            ActionKind::RSS if action.queues.is_empty() || !action.queues.iter().all(is_queue) => {
                return refuse(ErrorKind::ActionConf, "there is no such receive queue");
            }
            ActionKind::RSS => Fate::Software(None),
            ActionKind::PORT_ID | ActionKind::REPRESENTED_PORT if limits.hairpins.is_some() => {
                return unsupported(ErrorKind::Action, "packets go to another port by hairpin queues alone");
            }
            ActionKind::PORT_REPRESENTOR if !on_switch => {
                return refuse(ErrorKind::Action, "a port's representor is reached through the switch alone");
            }
            ActionKind::PORT_REPRESENTOR => {
                self.port(u16::from_ne_bytes(fixed(conf)?))?;
                Fate::Software(None)
            }
            ActionKind::PORT_ID => {
                let [flags, id] = [conf.get(..4), conf.get(4..)].map(Option::unwrap_or_default);
                if flags != [0; 4] {
                    return refuse(ErrorKind::ActionConf, "flags of a port are set");
                }
                let id = u16::try_from(u32::from_ne_bytes(fixed(id)?)).unwrap_or(u16::MAX);
                Fate::Port(self.port(id)?)
            }
            _ => Fate::Port(self.port(u16::from_ne_bytes(fixed(conf)?))?),
        });
        Ok(())
    }

    /// What is sent to a receive queue: one of software's, or one whose peer sends it on.
    fn queue(&self, queue: u16) -> Result<Fate, FlowError> {
        if queue < self.limits.queues {
            return Ok(Fate::Software(Some(queue)));
        }
        let end = self.place.port.map(|port| (port, queue));
        match end.zip(self.limits.hairpins).and_then(|(end, hairpins)| hairpins.leads_to(end)) {
            Some(to) => Ok(Fate::Port(to?)),
            None => refuse(ErrorKind::ActionConf, "there is no such receive queue"),
        }
    }

    fn port(&self, id: u16) -> Result<u16, FlowError> {
        if self.limits.ports.contains(&id) {
            return Ok(id);
        }
        refuse(ErrorKind::ActionConf, "there is no such port")
    }
}

/// The first bytes of a configuration.
fn fixed<const N: usize>(conf: &[u8]) -> Result<[u8; N], FlowError> {
    match conf.first_chunk() {
        Some(bytes) => Ok(*bytes),
        None => refuse(ErrorKind::ActionConf, "an action is not configured"),
    }
}
