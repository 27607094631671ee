//! The rules of one port.

use std::time::Duration;

use dataplane::dpdk::flow_rule::{FlowError, FlowId, FlowRule, FlowRules};
use dataplane::dpdk::hairpin::Hairpin;
use dataplane::flow::{Key, Mark};
use dataplane::hardware::model::Nic;
use dataplane::hardware::probe::{Capabilities, Marks, Probe, Unreachable};
use dataplane::hardware::scheduler::{Order, Policy, Scheduler};
use dataplane::hardware::{Domain, Egress, Fields, Form, HardwareFlow, Tier, Ttl, encode, print};

use super::under_way::UnderWay;
use super::{Name, cannot};
use crate::api::HardwareAudit;

/// A port's rules, and who may have one.
#[derive(Debug)]
pub(in crate::gateway) struct PortRules {
    /// DPDK's number of the port.
    pub(in crate::gateway) id: u16,
    /// None where none are made: they keep hold of the device, which could not be taken away.
    rules: Option<FlowRules>,
    pub(in crate::gateway) capabilities: Capabilities,
    pub(in crate::gateway) scheduler: Scheduler<Name>,
    pub(in crate::gateway) under_way: UnderWay,
    /// Rules that stand for all flows.
    guards: Vec<FlowId>,
    /// In which rules are made; none if none are.
    form: Option<Form>,
    /// How packets are marked; none where they are not.
    marks: Option<Marks>,
    /// Nobody has seen a mark of this port yet.
    on_trial: bool,
    /// The most rules, but for a trial.
    most: usize,
    site: Option<Site>,
    pub(in crate::gateway) waits: PortWaits,
    /// What differed since the start.
    pub(in crate::gateway) differences: HardwareAudit,
}

/// How long control waited for a NIC.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::gateway) struct PortWaits {
    /// The longest time in one go: for a rule to go, for orders to be taken, or for counters.
    pub(in crate::gateway) longest: Duration,
    /// Rules that had not gone when patience ended.
    pub(in crate::gateway) overran: u64,
}

impl PortWaits {
    /// It was so long once more.
    pub(super) fn took(&mut self, time: Duration) {
        self.longest = self.longest.max(time);
    }
}

/// What a port has to be probed with.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) mac: [u8; 6],
    /// The port that canaries leave by.
    pub(super) egress: u16,
    pub(super) queues: Vec<u16>,
    pub(super) hairpins: Vec<Hairpin>,
}

impl Site {
    /// What finds out about the port of this number.
    pub(super) fn probe<'a>(&self, port: u16, rules: &'a FlowRules) -> Probe<'a> {
        let Self { mac, egress, queues, hairpins } = self.clone();
        Probe { rules, port, mac, egress, queues, hairpins }
    }
}

/// Why a port has few rules.
const TRIAL: &str =
    "no packet could be sent into the port: one flow is marked, and others are when its marks have come";

impl PortRules {
    /// A port on which rules are made if they were proved to do what they should.
    pub(super) fn new(id: u16, rules: FlowRules, mut capabilities: Capabilities, policy: Policy) -> Self {
        let (form, guards) = settle(id, &rules, &mut capabilities);
        let under_way = UnderWay::new(rules.queues());
        let policy = under_way.within(policy);
        // A mark that is wrong does no harm, so that it needs no canary.
        let marks = capabilities.marks.clone();
        let on_trial = marks.is_some() && !capabilities.proved;
        let rules = (form.is_some() || marks.is_some()).then_some(rules);
        let mut port = Self {
            id,
            rules,
            guards,
            capabilities,
            scheduler: Scheduler::new(policy),
            under_way,
            form,
            marks,
            on_trial: false,
            most: policy.capacity,
            site: None,
            waits: PortWaits::default(),
            differences: HardwareAudit::default(),
        };
        if on_trial {
            port.put_on_trial();
        }
        port
    }

    /// Nobody has seen a mark yet: there is one rule until one has come.
    pub(super) fn put_on_trial(&mut self) {
        self.on_trial = true;
        self.scheduler.set_capacity(1);
        self.capabilities.findings.insert(0, TRIAL.to_owned());
    }

    /// As if a rule that marks could not send to one queue alone.
    #[cfg(test)]
    pub(super) fn marks_by_hash(&mut self) {
        if let Some(marks) = &mut self.marks {
            marks.to_one = false;
        }
    }

    /// Whether nobody has seen a mark of this port yet.
    pub(super) const fn is_on_trial(&self) -> bool {
        self.on_trial
    }

    /// Workers have found so many flows by marks of this port.
    pub(super) fn marks_came(&mut self, found: u64) {
        if self.on_trial && found > 0 {
            self.on_trial = false;
            self.scheduler.set_capacity(self.most);
            self.capabilities.proved = true;
            self.capabilities.findings.retain(|finding| finding != TRIAL);
        }
    }

    /// It can be probed once more.
    pub(super) fn at(mut self, site: Site) -> Self {
        self.site = Some(site);
        self
    }

    /// A port has gone away for good, and DPDK may give its number to another: no hairpin queue leads there any more, and
    /// canaries leave by `other`.
    pub(super) fn forget(&mut self, gone: u16, other: u16) {
        if let Some(form) = &mut self.form {
            form.hairpins.retain(|hairpin| hairpin.to != gone);
        }
        if let Some(site) = &mut self.site {
            site.hairpins.retain(|hairpin| hairpin.to != gone);
            if site.egress == gone {
                site.egress = other;
            }
        }
    }

    /// Rules that stand for all flows.
    pub(super) fn guards(&self) -> &[FlowId] {
        &self.guards
    }

    /// Removes all rules, finds out once more what the port can do, and makes the guards again. An error says that rules may
    /// still be there, and that all is as it was.
    pub(super) fn remake(&mut self, model: Option<&Nic>) -> Result<(), FlowError> {
        let Some(rules) = &self.rules else { return Err(cannot("the port carries no flows")) };
        rules.flush()?;
        self.under_way.clear();
        if let Some(site) = &self.site {
            let probe = site.probe(self.id, rules);
            self.capabilities = match model {
                Some(mut nic) => probe.run(&mut nic),
                None => probe.run(&mut Unreachable),
            };
        }
        (self.form, self.guards) = settle(self.id, rules, &mut self.capabilities);
        if self.form.is_none() {
            self.rules = None;
            let what = "the NIC lost its rules, and was found to be able to less than at start: restart Flyover to have it probed again";
            self.capabilities.findings.insert(0, what.to_owned());
        }
        Ok(())
    }

    /// The rules, while some are made.
    pub(super) fn rules(&self) -> Result<&FlowRules, FlowError> {
        self.rules.as_ref().ok_or_else(|| cannot("the port carries no flows"))
    }

    /// Whether flows can go in.
    pub(in crate::gateway) const fn carries(&self) -> bool {
        self.form.is_some()
    }

    /// Whether packets of hot flows are marked.
    pub(in crate::gateway) const fn marks(&self) -> bool {
        self.marks.is_some()
    }

    /// Whether each rule is for packets with one TTL.
    pub(super) fn for_one_ttl(&self) -> bool {
        self.form.as_ref().is_some_and(|form| !form.is_guarded())
    }

    /// The device went away, and its rules with it.
    pub(super) fn gone(&mut self) {
        self.rules = None;
        self.under_way.clear();
        self.guards.clear();
        if self.form.take().is_some() | self.marks.take().is_some() {
            self.capabilities.findings.insert(0, "the device is gone".to_owned());
        }
    }

    /// Begins to make a direction's rule; whether it is made already.
    pub(super) fn begin_create(&mut self, name: Name, rule: &FlowRule) -> Result<(FlowId, bool), FlowError> {
        let rules = self.rules.as_ref().ok_or_else(|| cannot("the port carries no flows"))?;
        let begun = self.under_way.create(rules, name, rule);
        if let Some(refused) = self.under_way.fell_back() {
            let what = format!("rules are made one by one: through a queue the NIC refuses them: {refused}");
            tracing::warn!(
                port = self.id,
                refused,
                "the NIC refuses rules through queues: they are made one by one"
            );
            self.capabilities.findings.push(what);
        }
        begun
    }

    /// Begins to remove a direction's rule; whether it is gone already.
    pub(super) fn begin_destroy(&mut self, name: Name, rule: FlowId) -> Result<bool, FlowError> {
        let rules = self.rules.as_ref().ok_or_else(|| cannot("the port carries no flows"))?;
        self.under_way.destroy(rules, name, rule)
    }

    /// The NIC is to begin with what it was told.
    pub(super) fn push(&mut self) {
        if let Some(rules) = &self.rules {
            self.under_way.push(rules);
        }
    }

    /// What the NIC is done with.
    pub(super) fn pull(&mut self, now: u64) -> Vec<(Order<Name>, Result<(), FlowError>)> {
        self.rules.as_ref().map(|rules| self.under_way.pull(rules, now)).unwrap_or_default()
    }

    /// The rule of a direction whose packets come in with this TTL, as `ids` number the gateway's ports for DPDK.
    pub(super) fn rule(&self, flow: HardwareFlow, ids: &[u16], ttl: u8) -> Result<FlowRule, FlowError> {
        let Some(form) = &self.form else { return Err(cannot("the port carries no flows")) };
        if matches!(flow.key, Key::V6(_)) && !self.capabilities.ipv6 {
            return Err(cannot("the port carries no IPv6"));
        }
        let tagged = !flow.tags.is_empty() || !flow.new_tags.is_empty();
        if tagged && !self.capabilities.tags {
            return Err(cannot("the port changes no VLAN tags"));
        }
        let flow = numbered(flow, ids)?;
        if !form.reaches(flow.egress) {
            return Err(cannot("no hairpin queue leads to the port by which it leaves"));
        }
        Ok(encode::carry(&flow, form, ttl_for(form, ttl)?))
    }

    /// The rule that marks a direction's packets, for testpmd.
    pub(super) fn mark_printed(
        &self,
        flow: HardwareFlow,
        mark: Mark,
        worker: u16,
    ) -> Result<String, FlowError> {
        self.mark_rule(flow, mark, worker).map(|rule| print::testpmd(self.id, &rule))
    }

    /// The rule that marks a direction's packets, which the worker of this number receives.
    pub(super) fn mark_rule(
        &self,
        mut flow: HardwareFlow,
        mark: Mark,
        worker: u16,
    ) -> Result<FlowRule, FlowError> {
        let Some(Marks { queues, to_one }) = &self.marks else {
            return Err(cannot("the port marks no packets"));
        };
        (flow.port, flow.egress) = (self.id, self.id);
        // The queue by which its packets come now; a port that takes no single one spreads them as before.
        let own = queues.get(usize::from(worker)).map(std::slice::from_ref);
        let queues = own.filter(|_| *to_one).unwrap_or(queues);
        Ok(encode::mark(&flow, mark.to_bits(), queues))
    }

    /// Guards and rule of a direction for testpmd; on a port that carries none, as others would take them.
    pub(super) fn printed(&self, flow: HardwareFlow, ids: &[u16], ttl: u8) -> Result<Vec<String>, FlowError> {
        let form = self.form.clone().unwrap_or(Form {
            domain: Domain::Transfer,
            group: 1,
            fields: Fields::Modify,
            egress: Egress::RepresentedPort,
            integrity: false,
            queues: vec![0],
            hairpins: Vec::new(),
            age_s: None,
        });
        let mut rules = encode::guards(&form, self.id);
        rules.push(encode::carry(&numbered(flow, ids)?, &form, ttl_for(&form, ttl)?));
        Ok(rules.iter().map(|rule| print::testpmd(self.id, rule)).collect())
    }
}

/// Makes the guards of a port into which flows may go; the form in which they go, and the guards.
fn settle(id: u16, rules: &FlowRules, capabilities: &mut Capabilities) -> (Option<Form>, Vec<FlowId>) {
    let usable = capabilities.tier == Tier::Full && capabilities.proved;
    let form = capabilities.form.clone().filter(|_| usable);
    let mut guards = Vec::new();
    let form = form.filter(|form| {
        let mut made = encode::guards(form, id).into_iter();
        let outcome = made.try_for_each(|guard| rules.create(&guard).map(|id| guards.push(id)));
        if let Err(error) = &outcome {
            capabilities.findings.insert(0, format!("guards: {error}"));
        }
        outcome.is_ok()
    });
    if form.is_none() && capabilities.form.is_some() {
        // Nothing of it is to stay; what can't be removed was found by the probe.
        let _ = rules.flush();
        guards.clear();
    }
    (form, guards)
}

/// What a rule of this form does to the TTL of packets that come in with `ttl`.
fn ttl_for(form: &Form, ttl: u8) -> Result<Ttl, FlowError> {
    match (form.is_guarded(), ttl) {
        (true, _) => Ok(Ttl::Decrement),
        (false, 0 | 1) => Err(cannot("its packets end here: their TTL is up")),
        (false, ttl) => Ok(Ttl::Exact(ttl)),
    }
}

/// With DPDK's numbers of ports.
fn numbered(mut flow: HardwareFlow, ids: &[u16]) -> Result<HardwareFlow, FlowError> {
    let id = |port: u16| ids.get(usize::from(port)).copied().ok_or_else(|| cannot("there is no such port"));
    (flow.port, flow.egress) = (id(flow.port)?, id(flow.egress)?);
    Ok(flow)
}

impl Drop for PortRules {
    /// No rule stays behind.
    fn drop(&mut self) {
        let Some(rules) = &self.rules else { return };
        self.under_way.drain(rules);
        if let Err(error) = rules.flush() {
            tracing::error!(%error, port = self.id, "rules may have stayed in the NIC: reset it, or unbind and bind it");
        }
    }
}
