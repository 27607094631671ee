//! Which rules the packets of a running connection come to: an abstract interpretation of the ruleset.
//!
//! Every base chain is begun anew, with any packet that Flyover could carry. What is known grows by each test
//! that is understood and shrinks where ways meet; a test that is not understood may hold or not. So each
//! rule's state is too large at worst, never too small.

use std::collections::{BTreeMap, BTreeSet};

use super::concern::{Concern, Stage};
use super::expression::{Expression, ObjectKind, Verdict};
use super::field::{self, Field, IPV4, IPV6, TCP};
use super::found::{Found, Spot, Warning, What};
use super::loads::Scene;
use super::model::{Chain, Family, Hook, HookPoint, Ruleset, Table};
use super::ranges::Ranges;
use super::state::State;
use super::writes::overwrite;
use super::xtables;

/// Rules gone through, counted once for each way to them, before the ways are no longer told apart.
const BUDGET: usize = 200_000;
/// The kernel's NFT_JUMP_STACK_SIZE.
const DEPTH: usize = 16;

/// Priorities of linux/netfilter_ipv4.h.
const CONNTRACK: i32 = -200;
const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;

/// A rule that adds to a flowtable, and when.
#[derive(Debug)]
pub(super) struct Addition {
    pub(super) spot: Spot,
    pub(super) flowtable: String,
    pub(super) concern: Concern,
}

/// What the walk brought.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) found: Found,
    pub(super) additions: Vec<Addition>,
    /// Rules that set the mark of running connections, and which of its bits.
    pub(super) marking: BTreeMap<Spot, u32>,
}

/// Goes through a ruleset.
pub(super) fn walk(ruleset: &Ruleset) -> Outcome {
    walk_within(ruleset, BUDGET)
}

pub(super) fn walk_within(ruleset: &Ruleset, budget: usize) -> Outcome {
    let outcome = turn(ruleset, budget, false);
    // One rule's mark stays. Where several set the same bits, a packet may meet any of theirs on its way.
    let (mut set, mut disputed) = (0, 0);
    for bits in outcome.marking.values() {
        disputed |= set & bits;
        set |= bits;
    }
    if disputed != 0 { turn(ruleset, budget, true) } else { outcome }
}

fn turn(ruleset: &Ruleset, budget: usize, marks_change: bool) -> Outcome {
    let mut walk = Walk { ruleset, outcome: Outcome::default(), left: budget };
    for (index, table) in ruleset.tables.iter().enumerate().filter(|(_, table)| !table.dormant) {
        for (at, chain) in table.chains.iter().enumerate() {
            if let Some(hook) = &chain.hook
                && let Some((scene, state)) = scene(table.family, hook)
            {
                let scene = Scene { marks_change, ..scene };
                let device = matches!(hook.point, HookPoint::Ingress | HookPoint::Egress);
                if device && (hook.drops || !chain.rules.is_empty()) {
                    let spot = Spot { table: index, chain: at, rule: None };
                    let concern = Concern::new(&state, &scene.stages, &ruleset.interfaces);
                    walk.outcome.found.add(spot, What::Warns(Warning::Netdev), concern);
                }
                walk.base(index, table, chain, scene, &state);
            }
        }
    }
    walk.outcome
}

/// What packets of a running, forwarded connection come to a base chain; `None`: none do.
fn scene(family: Family, hook: &Hook) -> Option<(Scene, State)> {
    use HookPoint::*;
    // Only a connection's first packet sees these.
    if hook.kind == "nat" {
        return None;
    }
    let before = |priority: i32, stage, then| match hook.priority.cmp(&priority) {
        std::cmp::Ordering::Less => vec![stage],
        std::cmp::Ordering::Equal => vec![stage, then],
        std::cmp::Ordering::Greater => vec![then],
    };
    let stages = match (family, hook.point) {
        (Family::Arp | Family::Other(_), _) | (_, Other(_)) => return None,
        // Routed and bridged packets come here, before and after.
        (Family::Bridge, _) => vec![Stage::Arriving, Stage::Routed, Stage::Leaving],
        (_, Input | Output) => return None,
        (_, Ingress) => vec![Stage::Arriving],
        (_, Prerouting) => before(NAT_DST, Stage::Arriving, Stage::Routed),
        (_, Forward) => vec![Stage::Routed],
        (_, Postrouting) => before(NAT_SRC, Stage::Routed, Stage::Leaving),
        (_, Egress) => vec![Stage::Leaving],
    };
    let untracked = Ranges::one(field::STATE_INVALID);
    let tracked =
        [field::STATE_NEW, field::STATE_RELATED, field::STATE_ESTABLISHED].map(|state| (state, state));
    let tracked = Ranges::of(tracked);
    let states = match (family, hook.point) {
        (Family::Bridge, _) | (_, Egress) => untracked.or(&tracked),
        (_, Ingress) => untracked,
        (_, Prerouting) if hook.priority < CONNTRACK => untracked,
        (_, Prerouting) if hook.priority == CONNTRACK => untracked.or(&tracked),
        _ => tracked,
    };
    let mut state = State::default().narrowed(Field::CtState, &states)?;
    match family {
        Family::Ip => state = state.narrowed(Field::Nfproto, &Ranges::one(IPV4))?,
        Family::Ip6 => state = state.narrowed(Field::Nfproto, &Ranges::one(IPV6))?,
        _ => {}
    }
    let devices = field::names(hook.devices.iter().map(String::as_str));
    match hook.point {
        Ingress => state = state.narrowed(Field::Iif, &devices)?,
        Egress => state = state.narrowed(Field::Oif, &devices)?,
        _ => {}
    }
    Some((Scene { family, point: hook.point, stages, marks_change: false }, state))
}

pub(super) struct Walk<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) outcome: Outcome,
    left: usize,
}

/// Where the walk is, within one base chain.
pub(super) struct Here<'a> {
    pub(super) scene: Scene,
    pub(super) index: usize,
    pub(super) table: &'a Table,
    /// What has an effect beyond counting and logging, by chain.
    acts: BTreeMap<&'a str, bool>,
    /// Chains that were jumped into.
    stack: Vec<&'a str>,
    /// Ways are told apart no longer: jumps are not followed, every chain is gone through once.
    flat: bool,
}

impl<'a> Walk<'a> {
    fn base(&mut self, index: usize, table: &'a Table, chain: &'a Chain, scene: Scene, state: &State) {
        let acts = acting_chains(table);
        let mut here = Here { scene, index, table, acts, stack: Vec::new(), flat: false };
        self.chain(&mut here, chain, state.clone());
        if self.left == 0 {
            here.flat = true;
            let base_chains = |other: &&Chain| other.hook.is_none() || other.name == chain.name;
            for other in table.chains.iter().filter(base_chains) {
                for at in 0..other.rules.len() {
                    self.rule(&mut here, other, at, state.clone());
                }
            }
        }
    }

    /// Goes through a chain; what comes out at its end or returns.
    pub(super) fn chain(&mut self, here: &mut Here<'a>, chain: &'a Chain, state: State) -> Option<State> {
        if here.stack.len() >= DEPTH || here.stack.contains(&chain.name.as_str()) {
            return Some(state);
        }
        here.stack.push(&chain.name);
        let (mut state, mut returned) = (Some(state), None);
        for at in 0..chain.rules.len() {
            let Some(before) = state.take() else { break };
            if !here.flat {
                self.left = self.left.saturating_sub(1);
            }
            if self.left == 0 {
                state = Some(before);
                break;
            }
            let mut flow = self.rule(here, chain, at, before);
            let written = chain.rules.get(at).into_iter().flat_map(|rule| &rule.expressions);
            for expression in written {
                [&mut flow.on, &mut flow.back]
                    .into_iter()
                    .flatten()
                    .for_each(|state| overwrite(expression, state));
            }
            state = flow.on;
            returned = State::join(returned, flow.back);
        }
        here.stack.pop();
        State::join(state, returned)
    }

    /// What a verdict makes of the packets of a state.
    pub(super) fn verdict(&mut self, here: &mut Here<'a>, verdict: &Verdict, state: State) -> Flow {
        match verdict {
            Verdict::Accept | Verdict::Drop | Verdict::Queue => Flow::END,
            Verdict::Continue | Verdict::Other(_) => Flow { on: Some(state), back: None },
            Verdict::Return => Flow { on: None, back: Some(state) },
            Verdict::Jump(name) => Flow { on: self.into(here, name, state), back: None },
            Verdict::Goto(name) => Flow { on: None, back: self.into(here, name, state) },
        }
    }

    fn into(&mut self, here: &mut Here<'a>, name: &str, state: State) -> Option<State> {
        match here.table.chain(name) {
            Some(chain) if !here.flat => self.chain(here, chain, state),
            _ => Some(state),
        }
    }

    pub(super) fn add(&mut self, here: &Here<'a>, spot: Spot, what: What, state: &State) {
        // TCP flies once it is established, and not before.
        if state.get(Field::L4Proto) == Ranges::one(TCP) && !Here::is_running(state) {
            return;
        }
        let concern = Concern::new(state, &here.scene.stages, &self.ruleset.interfaces);
        self.outcome.found.add(spot, what, concern);
    }
}

impl Here<'_> {
    /// Whether packets of a running connection are among those of a state.
    pub(super) fn is_running(state: &State) -> bool {
        let running =
            Ranges::of([field::STATE_INVALID, field::STATE_ESTABLISHED].map(|state| (state, state)));
        !state.get(Field::CtState).and(&running).is_empty()
    }

    /// Whether any of these has an effect beyond counting, logging and choosing what follows.
    pub(super) fn act(&self, expressions: &[Expression]) -> bool {
        expressions.iter().any(|expression| acts(expression, self.table, &self.acts))
    }

    pub(super) fn verdict_acts(&self, verdict: &Verdict) -> bool {
        verdict_acts(verdict, &self.acts)
    }
}

/// Where packets go after a rule.
#[derive(Debug)]
pub(super) struct Flow {
    /// To the next rule.
    pub(super) on: Option<State>,
    /// Out of the chain, back to where it was jumped from.
    pub(super) back: Option<State>,
}

impl Flow {
    pub(super) const END: Self = Self { on: None, back: None };
}

/// Which chains do more than count and log. Chains that are not known yet are taken not to: so chains are gone
/// over until nothing changes.
fn acting_chains(table: &Table) -> BTreeMap<&str, bool> {
    let mut known: BTreeMap<&str, bool> = BTreeMap::new();
    // Most chains act by their own rules; the rest needs as many turns as jumps are deep.
    loop {
        let acting: BTreeSet<&str> = table
            .chains
            .iter()
            .filter(|chain| !known.contains_key(chain.name.as_str()))
            .filter(|chain| {
                chain.rules.iter().any(|rule| rule.expressions.iter().any(|one| acts(one, table, &known)))
            })
            .map(|chain| chain.name.as_str())
            .collect();
        if acting.is_empty() {
            return known;
        }
        known.extend(acting.into_iter().map(|name| (name, true)));
    }
}

fn verdict_acts(verdict: &Verdict, acting: &BTreeMap<&str, bool>) -> bool {
    match verdict {
        Verdict::Continue => false,
        Verdict::Jump(name) => acting.get(name.as_str()).copied().unwrap_or(false),
        // What does not come back misses the rules behind it.
        Verdict::Accept
        | Verdict::Drop
        | Verdict::Queue
        | Verdict::Return
        | Verdict::Goto(_)
        | Verdict::Other(_) => true,
    }
}

fn acts(expression: &Expression, table: &Table, acting: &BTreeMap<&str, bool>) -> bool {
    const NFTRACE: u32 = 12;
    match expression {
        Expression::Verdict(verdict) => verdict_acts(verdict, acting),
        Expression::Lookup { set, verdict: true, .. } => table.set(set).is_none_or(|set| {
            set.elements.as_ref().is_none_or(|elements| {
                let verdicts = elements.iter().filter_map(|element| element.verdict.as_ref());
                verdicts.into_iter().any(|verdict| verdict_acts(verdict, acting))
            })
        }),
        Expression::MetaSet { key, .. } => *key != NFTRACE,
        Expression::Object { kind, map } => {
            let kind = kind.or_else(|| table.set(&map.as_ref()?.0)?.object);
            // Counters count, and limits and quotas only let the rule go on or not.
            !matches!(
                kind,
                Some(ObjectKind::Counter | ObjectKind::Limit | ObjectKind::Quota | ObjectKind::ConnLimit)
            )
        }
        Expression::Target { name, info } => {
            !matches!(xtables::target(name, info), xtables::Target::Logs | xtables::Target::Nothing)
        }
        Expression::CtSet { .. }
        | Expression::PayloadWrite { .. }
        | Expression::ExthdrWrite { .. }
        | Expression::Dynset { .. }
        | Expression::Queue
        | Expression::Dup
        | Expression::Fwd
        | Expression::Nat
        | Expression::Reject
        | Expression::Tproxy
        | Expression::Synproxy
        | Expression::Notrack
        | Expression::Other { .. } => true,
        // What is added to a flowtable goes past the rules in the kernel, too.
        Expression::FlowAdd { .. } => false,
        Expression::Payload { .. }
        | Expression::Exthdr { .. }
        | Expression::Meta { .. }
        | Expression::Ct { .. }
        | Expression::Immediate { .. }
        | Expression::Compare { .. }
        | Expression::Range { .. }
        | Expression::Bitwise { .. }
        | Expression::BitwiseOther { .. }
        | Expression::Byteorder { .. }
        | Expression::Lookup { .. }
        | Expression::OfConnection { .. }
        | Expression::Osf { .. }
        | Expression::Hash { .. }
        | Expression::Numgen { .. }
        | Expression::Limit
        | Expression::Quota
        | Expression::ConnLimit
        | Expression::Counter
        | Expression::Last
        | Expression::Log
        | Expression::Match { .. } => false,
    }
}
