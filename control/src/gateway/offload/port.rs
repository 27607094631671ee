//! The rules of one port.

use dataplane::dpdk::flow_rule::{FlowError, FlowId, FlowRules};
use dataplane::flow::Key;
use dataplane::hardware::probe::Capabilities;
use dataplane::hardware::scheduler::{Policy, Scheduler};
use dataplane::hardware::{Domain, Egress, Fields, Form, HardwareFlow, Tier, Ttl, encode, print};

use super::{Name, cannot};

/// A port's rules, and who may have one.
#[derive(Debug)]
pub(in crate::gateway) struct PortRules {
    /// DPDK's number of the port.
    pub(in crate::gateway) id: u16,
    /// None where none are made: they keep hold of the device, which could not be taken away.
    rules: Option<FlowRules>,
    pub(in crate::gateway) capabilities: Capabilities,
    pub(in crate::gateway) scheduler: Scheduler<Name>,
    /// In which rules are made; none if none are.
    form: Option<Form>,
}

impl PortRules {
    /// A port on which rules are made if they were proved to do what they should.
    pub(super) fn new(id: u16, rules: FlowRules, mut capabilities: Capabilities, policy: Policy) -> Self {
        let usable = capabilities.tier == Tier::Full && capabilities.proved;
        let form = capabilities.form.clone().filter(|_| usable);
        let guarded =
            |form: &Form| encode::guards(form, id).iter().try_for_each(|guard| rules.create(guard).map(drop));
        let form = form.filter(|form| {
            let outcome = guarded(form);
            if let Err(error) = &outcome {
                capabilities.findings.insert(0, format!("guards: {error}"));
            }
            outcome.is_ok()
        });
        if form.is_none() && capabilities.form.is_some() {
            // Nothing of it is to stay; what can't be removed was found by the probe.
            let _ = rules.flush();
        }
        let rules = form.is_some().then_some(rules);
        Self { id, rules, capabilities, scheduler: Scheduler::new(policy), form }
    }

    /// The rules, while some are made.
    pub(super) fn rules(&self) -> Result<&FlowRules, FlowError> {
        self.rules.as_ref().ok_or_else(|| cannot("the port carries no flows"))
    }

    /// Whether flows can go in.
    pub(in crate::gateway) const fn carries(&self) -> bool {
        self.form.is_some()
    }

    /// Whether each rule is for packets with one TTL.
    pub(super) fn for_one_ttl(&self) -> bool {
        self.form.as_ref().is_some_and(|form| !form.is_guarded())
    }

    /// The device went away, and its rules with it.
    pub(super) fn gone(&mut self) {
        self.rules = None;
        if self.form.take().is_some() {
            self.capabilities.findings.insert(0, "the device is gone".to_owned());
        }
    }

    /// Makes the rule of a direction whose packets come in with this TTL, as `ids` number the gateway's ports for DPDK.
    pub(super) fn carry(&self, flow: HardwareFlow, ids: &[u16], ttl: u8) -> Result<FlowId, FlowError> {
        let Some(form) = &self.form else { return Err(cannot("the port carries no flows")) };
        if matches!(flow.key, Key::V6(_)) && !self.capabilities.ipv6 {
            return Err(cannot("the port carries no IPv6"));
        }
        let tagged = !flow.tags.is_empty() || !flow.new_tags.is_empty();
        if tagged && !self.capabilities.tags {
            return Err(cannot("the port changes no VLAN tags"));
        }
        self.rules()?.create(&encode::carry(&numbered(flow, ids)?, form, ttl_for(form, ttl)?))
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
            age_s: None,
        });
        let mut rules = encode::guards(&form, self.id);
        rules.push(encode::carry(&numbered(flow, ids)?, &form, ttl_for(&form, ttl)?));
        Ok(rules.iter().map(|rule| print::testpmd(self.id, rule)).collect())
    }
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
        if let Some(Err(error)) = self.rules.as_ref().map(FlowRules::flush) {
            tracing::error!(%error, port = self.id, "rules may have stayed in the NIC: reset it, or unbind and bind it");
        }
    }
}
