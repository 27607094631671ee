//! What a port can do, found out and not believed.
//!
//! Drivers say that they take rules which they then refuse to make, and NICs take rules which they then carry out wrongly.
//! So canary rules are made, hit, counted and removed, form by form from the best one down, and what comes out is compared
//! byte for byte with what a worker would send. A port that lets nobody send packets into it is found out as far as that
//! goes, and [`Capabilities::proved`] says so.

mod canary;

use std::fmt;

use super::model::{Nic, Outcome};
use super::{Domain, Egress, Fields, Form, Tier, encode};
use crate::dpdk::flow_rule::{FlowError, FlowId, FlowRule, FlowRules};
use crate::dpdk::hairpin::Hairpin;
use canary::Canary;

/// What became of a canary packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It left by a port.
    Left(u16, Vec<u8>),
    /// It came to software, perhaps with a mark.
    Software(Option<u32>, Vec<u8>),
    /// It is gone.
    Nowhere,
}

/// Sends canary packets into a port, as if they came from its wire.
pub trait Injector {
    /// What became of a packet; none if none can be sent into this port.
    fn inject(&mut self, port: u16, frame: &[u8]) -> Option<Seen>;
}

/// For ports that nobody can send packets into: most real ones, without a cable from port to port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unreachable;

impl Injector for Unreachable {
    fn inject(&mut self, _port: u16, _frame: &[u8]) -> Option<Seen> {
        None
    }
}

impl Injector for &Nic {
    fn inject(&mut self, port: u16, frame: &[u8]) -> Option<Seen> {
        let mut packet = frame.to_vec();
        Some(match self.process(port, &mut packet) {
            Outcome::Sent(port) => Seen::Left(port, packet),
            Outcome::Software { mark, .. } => Seen::Software(mark, packet),
            Outcome::Dropped => Seen::Nowhere,
        })
    }
}

/// How a port's rules mark packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Its receive queues.
    pub queues: Vec<u16>,
    /// Whether a rule can send to one of them; else it sends to all of them, by the port's hash.
    pub to_one: bool,
}

/// What a port can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The tier.
    pub tier: Tier,
    /// The form of its rules; none below tier full.
    pub form: Option<Form>,
    /// How packets are marked; none but at tier assist.
    pub marks: Option<Marks>,
    /// Whether canary packets were sent through canary rules. Without that rules were made and removed, and no more.
    pub proved: bool,
    /// Whether IPv6 flows can be carried.
    pub ipv6: bool,
    /// Whether VLAN tags can be taken off, put on and changed.
    pub tags: bool,
    /// Whether rules compare lengths, so that packets that are too long to leave go to software.
    pub lengths: bool,
    /// Whether a rule tells how long it has had no packet.
    pub ages: bool,
    /// Why it is no more, and what else was found, in words.
    pub findings: Vec<String>,
}

impl Capabilities {
    /// A port into which nothing goes, and why.
    pub fn nothing(findings: Vec<String>) -> Self {
        Self {
            tier: Tier::None,
            form: None,
            marks: None,
            proved: true,
            ipv6: false,
            tags: false,
            lengths: false,
            ages: false,
            findings,
        }
    }

    /// Many forms fail for one reason: it is told once.
    fn note(&mut self, finding: String) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Why the tier is not full, or what full lacks: the most telling finding.
    pub fn why(&self) -> &str {
        self.findings.first().map_or("", String::as_str)
    }
}

/// The port to be probed.
#[derive(Clone, Debug)]
pub struct Probe<'a> {
    /// Its rules.
    pub rules: &'a FlowRules,
    /// Its id.
    pub port: u16,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The port that canaries leave by.
    pub egress: u16,
    /// Its receive queues.
    pub queues: Vec<u16>,
    /// Its hairpin queues.
    pub hairpins: Vec<Hairpin>,
}

/// A rule is given so many packets to begin, or cease, to match.
const PATIENCE: usize = 8;

/// Why a form will not do.
enum Unusable {
    /// A rule was refused.
    Refused(FlowError),
    /// Rules do what they should not.
    Wrong(String),
    /// Rules can't be removed: no more are made on such a port.
    Stuck(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the NIC refuses: {error}"),
            Self::Wrong(what) | Self::Stuck(what) => f.write_str(what),
        }
    }
}

impl From<FlowError> for Unusable {
    fn from(error: FlowError) -> Self {
        Self::Refused(error)
    }
}

impl Probe<'_> {
    /// Finds out what the port can do. All rules made are removed again, if the port lets them go.
    pub fn run(&self, injector: &mut dyn Injector) -> Capabilities {
        let mut found = Capabilities::nothing(Vec::new());
        for form in self.forms() {
            match self.try_form(&form, &Canary::ipv4(self), injector, &mut found) {
                Ok(()) => match self.extras(&form, injector, &mut found) {
                    Ok(()) => {
                        (found.tier, found.form) = (Tier::Full, Some(form));
                        return found;
                    }
                    Err(what) => return stuck(what),
                },
                Err(Unusable::Stuck(what)) => return stuck(what),
                Err(why @ Unusable::Refused(_)) => found.note(format!("{}: {why}", form.place())),
                Err(why) => found.note(format!("{form}: {why}")),
            }
        }
        found.proved = true;
        for queues in [self.queues.get(..1).unwrap_or_default(), &self.queues] {
            match self.assist(queues, injector, &mut found) {
                Ok(()) => {
                    found.tier = Tier::Assist;
                    found.marks = Some(Marks { queues: self.queues.clone(), to_one: queues.len() == 1 });
                    return found;
                }
                Err(Unusable::Stuck(what)) => return stuck(what),
                Err(why) => found.note(format!("marks: {why}")),
            }
        }
        // What every form met says more than the forms.
        if let Some(same) = common_reason(&found.findings) {
            found.findings = vec![same];
        }
        found
    }

    /// Forms, the best first: behind guards before alone, checked by the NIC before not, on the switch before on the port,
    /// to another port by its name before by a hairpin queue.
    fn forms(&self) -> Vec<Form> {
        let mut forms = Vec::new();
        for (group, integrity) in [(1, true), (1, false), (0, true), (0, false)] {
            for domain in [Domain::Transfer, Domain::Ingress] {
                let by_hairpin = domain == Domain::Ingress && !self.hairpins.is_empty();
                let by_name = [Egress::RepresentedPort, Egress::PortId];
                let ways = [&by_name[..], if by_hairpin { &[Egress::Hairpin] } else { &[] }];
                for fields in [Fields::Modify, Fields::Set] {
                    for egress in ways.into_iter().flatten() {
                        let (queues, hairpins) = (self.queues.clone(), self.hairpins.clone());
                        let (egress, age_s) = (*egress, Some(1 << 16));
                        forms.push(Form {
                            domain,
                            group,
                            fields,
                            egress,
                            integrity,
                            queues,
                            hairpins,
                            age_s,
                        });
                    }
                }
            }
        }
        forms.retain(|form| form.reaches(self.egress));
        forms
    }

    /// Whether a flow is carried, and all that must not be is not.
    fn try_form(
        &self,
        form: &Form,
        canary: &Canary,
        injector: &mut dyn Injector,
        found: &mut Capabilities,
    ) -> Result<(), Unusable> {
        let mut rules = Made::new(self.rules);
        // Before the guards: a driver is asked for those only if it takes what they are there for. That of igb takes them
        // for rules that choose the queues of all packets, which it can't remove, and spreads none from then on.
        let made = rules.make(&canary.rule(form));
        let guarded = made.and_then(|rule| {
            let guards = encode::guards(form, self.port);
            guards.iter().try_for_each(|guard| rules.make(guard).map(drop)).map(|()| rule)
        });
        let outcome = guarded.and_then(|rule| self.carry(rule, &mut rules, canary, injector, found));
        // The guards go, whatever has happened.
        match (outcome, rules.remove_all()) {
            (Err(Unusable::Stuck(what)), _) | (_, Err(Unusable::Stuck(what))) => Err(Unusable::Stuck(what)),
            (outcome, removed) => outcome.and(removed),
        }
    }

    /// Hits a canary's rule, and removes it.
    fn carry(
        &self,
        rule: FlowId,
        rules: &mut Made<'_>,
        canary: &Canary,
        injector: &mut dyn Injector,
        found: &mut Capabilities,
    ) -> Result<(), Unusable> {
        found.proved = injector.inject(self.port, &canary.frame).is_some();
        if found.proved {
            self.hit(rule, canary, injector)?;
        }
        found.ages = self.rules.age(rule).is_ok_and(|age| age.idle_s.is_some() || age.aged);
        rules.remove(rule)?;
        if found.proved && !self.settles(injector, &canary.frame, |seen| is_untouched(seen, &canary.frame)) {
            return Err(Unusable::Stuck("a rule that was removed still takes packets".to_owned()));
        }
        Ok(())
    }

    fn hit(&self, rule: FlowId, canary: &Canary, injector: &mut dyn Injector) -> Result<(), Unusable> {
        let wrong = |what: &str| Err(Unusable::Wrong(what.to_owned()));
        let left = |seen: &Seen| matches!(seen, Seen::Left(port, _) if *port == self.egress);
        if !self.settles(injector, &canary.frame, left) {
            return wrong("a rule is made and takes no packets");
        }
        let before = self.rules.count(rule, false)?.packets;
        match injector.inject(self.port, &canary.frame) {
            Some(Seen::Left(_, frame)) if frame == canary.expected => {}
            Some(Seen::Left(_, frame)) if canary.differs_in_checksum(&frame) => {
                return wrong("packets leave with a wrong checksum");
            }
            _ => return wrong("packets leave with wrong bytes"),
        }
        let after = self.rules.count(rule, false)?.packets;
        if before.zip(after).is_none_or(|(before, after)| after != before + 1) {
            return wrong("packets are not counted, so nobody could tell whether a flow lives");
        }
        for (what, frame) in &canary.to_software {
            if !injector.inject(self.port, frame).is_some_and(|seen| is_untouched(&seen, frame)) {
                return Err(Unusable::Wrong(format!("{what} does not go to software")));
            }
        }
        Ok(())
    }

    /// Whether packets are treated so before patience ends.
    fn settles(&self, injector: &mut dyn Injector, frame: &[u8], wanted: impl Fn(&Seen) -> bool) -> bool {
        (0..PATIENCE).any(|_| injector.inject(self.port, frame).is_some_and(|seen| wanted(&seen)))
    }

    /// What a port of tier full need not be able to. An error says that a rule can't be removed.
    fn extras(
        &self,
        form: &Form,
        injector: &mut dyn Injector,
        found: &mut Capabilities,
    ) -> Result<(), String> {
        let ages = found.ages;
        let mut tried = |canaries: &[Canary]| {
            canaries.iter().try_for_each(|canary| self.try_form(form, canary, injector, found))
        };
        let [ipv6, tags] = [vec![Canary::ipv6(self)], Canary::tagged(self)].map(|canaries| tried(&canaries));
        let mut limited = vec![Canary::ipv4(self).no_longer()];
        // Of a NIC that carries none it is no lack.
        limited.extend(ipv6.is_ok().then(|| Canary::ipv6(self).no_longer()));
        let lengths = tried(&limited);
        found.ages = ages;
        if !found.proved {
            let what = "no packet could be sent into the port: rules are made and removed, and nobody has seen them work";
            found.findings.push(what.to_owned());
        }
        if !ages {
            found.findings.push("rules do not tell how long they have had no packet".to_owned());
        }
        for (outcome, what, can) in [
            (ipv6, "IPv6", &mut found.ipv6),
            (tags, "VLAN tags", &mut found.tags),
            (lengths, "lengths", &mut found.lengths),
        ] {
            match outcome {
                Ok(()) => *can = true,
                Err(Unusable::Stuck(what)) => return Err(what),
                Err(why) => found.findings.push(format!("{what}: {why}")),
            }
        }
        Ok(())
    }

    /// Whether packets are marked.
    fn assist(
        &self,
        queues: &[u16],
        injector: &mut dyn Injector,
        found: &mut Capabilities,
    ) -> Result<(), Unusable> {
        let (canary, mark) = (Canary::ipv4(self), 0x5a_5a5a);
        let mut rules = Made::new(self.rules);
        let rule = rules.make(&encode::mark(&canary.flow, mark, queues))?;
        found.proved = injector.inject(self.port, &canary.frame).is_some();
        let marked = |seen: &Seen| *seen == Seen::Software(Some(mark), canary.frame.clone());
        let marks = !found.proved || self.settles(injector, &canary.frame, marked);
        rules.remove(rule)?;
        if !marks {
            return Err(Unusable::Wrong("a rule is made and marks no packets".to_owned()));
        }
        if found.proved && !self.settles(injector, &canary.frame, |seen| is_untouched(seen, &canary.frame)) {
            return Err(Unusable::Stuck("a rule that was removed still marks packets".to_owned()));
        }
        Ok(())
    }
}

/// Rules that were made and not yet removed.
struct Made<'a> {
    rules: &'a FlowRules,
    ids: Vec<FlowId>,
}

impl<'a> Made<'a> {
    fn new(rules: &'a FlowRules) -> Self {
        Self { rules, ids: Vec::new() }
    }

    fn make(&mut self, rule: &FlowRule) -> Result<FlowId, Unusable> {
        let id = self.rules.create(rule)?;
        self.ids.push(id);
        Ok(id)
    }

    fn remove(&mut self, id: FlowId) -> Result<(), Unusable> {
        self.ids.retain(|made| *made != id);
        self.rules.destroy(id).map_err(|error| Unusable::Stuck(format!("a rule can't be removed: {error}")))
    }

    /// Removes what is left, the last first; all that goes, even if some does not.
    fn remove_all(&mut self) -> Result<(), Unusable> {
        let mut outcome = Ok(());
        while let Some(id) = self.ids.pop() {
            outcome = outcome.and(self.remove(id));
        }
        outcome
    }
}

fn is_untouched(seen: &Seen, frame: &[u8]) -> bool {
    matches!(seen, Seen::Software(None, same) if same == frame)
}

/// A port whose rules do not go gets none.
fn stuck(what: String) -> Capabilities {
    Capabilities { findings: vec![what], ..Capabilities::nothing(Vec::new()) }
}

/// What all findings end with, if they do.
fn common_reason(findings: &[String]) -> Option<String> {
    let reason = |finding: &String| finding.split_once(": ").map(|(_, reason)| reason.to_owned());
    let first = reason(findings.first()?)?;
    findings.iter().all(|finding| reason(finding).as_ref() == Some(&first)).then_some(first)
}
