//! One rule, expression by expression.

use super::evaluate::{self, Split};
use super::expression::{Expression, ObjectKind, Register, Verdict};
use super::field::{self, Field, Run};
use super::found::{Spot, Warning, What};
use super::loads::{self, Load};
use super::model::{Chain, Element, Set};
use super::ranges::Ranges;
use super::registers::{Loaded, Registers};
use super::state::State;
use super::walk::{Addition, Flow, Here, Walk};
use super::writes;
use super::xtables::{self, Target};
use crate::config::Construct;
use crate::ruleset::concern::Concern;

/// An element that a set forgets sooner than this, in milliseconds, needs packets more often than Flyover shows
/// them to the kernel: twice the default of `flows.reprove_every`, and as much again for what is late.
const SHORT_LIVED_MS: u64 = 120_000;

/// A rule while it is gone through.
struct Progress {
    spot: Spot,
    /// What came to the rule.
    before: State,
    /// What has passed so far.
    passed: State,
    /// What has not, as long as a single test says it.
    failed: Failed,
    registers: Registers,
    /// Constructs of tests, by the position behind them: they matter if the rest of the rule does.
    pending: Vec<(usize, Construct)>,
}

/// What did not pass the tests of a rule.
enum Failed {
    /// There was no test: nothing.
    Nothing,
    /// One test, all of whose failures are these.
    These(State),
    /// Anything that came.
    Any,
}

impl Progress {
    /// What goes past the rule because it does not match.
    fn unmatched(&self) -> Option<State> {
        match &self.failed {
            Failed::Nothing => None,
            Failed::These(state) => Some(state.clone()),
            Failed::Any => Some(self.before.clone()),
        }
    }

    /// Takes a test's outcome; `false`: nothing passes.
    fn apply(&mut self, split: Split) -> bool {
        let Some(yes) = split.yes else { return false };
        if let Some(no) = split.no {
            self.failed = match self.failed {
                Failed::Nothing => Failed::These(no),
                Failed::These(_) | Failed::Any => Failed::Any,
            };
        }
        self.passed = yes;
        true
    }

    /// A test whose outcome is not in the packet.
    fn inexact(&mut self) {
        self.failed = Failed::Any;
    }
}

/// What an expression makes of the rule.
enum Step {
    /// On with the next.
    Next,
    /// Nothing passes: the rule is over, and does nothing.
    Fails,
    /// The rule is over.
    Ends(Flow),
}

impl<'a> Walk<'a> {
    /// Goes through a rule with what comes to it.
    pub(super) fn rule(&mut self, here: &mut Here<'a>, chain: &'a Chain, at: usize, state: State) -> Flow {
        let pass = Flow { on: Some(state.clone()), back: None };
        let Some(rule) = chain.rules.get(at) else { return pass };
        let Some(chain_at) = here.table.chains.iter().position(|other| other.name == chain.name) else {
            return pass;
        };
        let mut progress = Progress {
            spot: Spot { table: here.index, chain: chain_at, rule: Some(at) },
            before: state.clone(),
            passed: state,
            failed: Failed::Nothing,
            registers: Registers::default(),
            pending: Vec::new(),
        };
        for (position, expression) in rule.expressions.iter().enumerate() {
            let rest = rule.expressions.get(position + 1..).unwrap_or_default();
            match self.expression(here, &mut progress, expression, position, rest) {
                Step::Next => {}
                Step::Fails => return pass,
                Step::Ends(flow) => {
                    self.settle(here, &progress, &rule.expressions);
                    return Flow { on: State::join(progress.unmatched(), flow.on), back: flow.back };
                }
            }
        }
        self.settle(here, &progress, &rule.expressions);
        pass
    }

    /// Tells of the constructs on which what the rule does depends.
    fn settle(&mut self, here: &Here<'a>, progress: &Progress, expressions: &[Expression]) {
        for (behind, construct) in &progress.pending {
            if here.act(expressions.get(*behind..).unwrap_or_default()) {
                self.add(here, progress.spot, What::Keeps(*construct), &progress.passed);
            }
        }
    }

    fn expression(
        &mut self,
        here: &mut Here<'a>,
        progress: &mut Progress,
        expression: &'a Expression,
        position: usize,
        rest: &[Expression],
    ) -> Step {
        if let Some(family) = loads::family_of(expression) {
            let ranges = Ranges::one(family);
            if progress.passed.get(Field::Nfproto) != ranges {
                let Some(passed) = progress.passed.narrowed(Field::Nfproto, &ranges) else {
                    return Step::Fails;
                };
                progress.passed = passed;
                progress.inexact();
            }
        }
        let untracked = Ranges::one(field::STATE_INVALID);
        let states = progress.passed.get(Field::CtState);
        if loads::needs_entry(expression) && !states.and(&untracked).is_empty() {
            if states == untracked {
                return Step::Fails;
            }
            progress.inexact();
        }
        match loads::load(expression, &here.scene, &progress.passed, &mut progress.registers) {
            Load::Done => return Step::Next,
            Load::Breaks => return Step::Fails,
            Load::NotOne => {}
        }
        let keep = |walk: &mut Self, here: &Here<'a>, progress: &Progress, construct| {
            walk.add(here, progress.spot, What::Keeps(construct), &progress.passed);
        };
        let warn = |walk: &mut Self, here: &Here<'a>, progress: &Progress, warning| {
            walk.add(here, progress.spot, What::Warns(warning), &progress.passed);
        };
        match expression {
            Expression::Compare { sreg, op, value } => {
                let split = match progress.registers.one(*sreg, value.len()) {
                    Some(loaded) => evaluate::compare(&progress.passed, &loaded, *op, value),
                    None => Split::unknown(&progress.passed),
                };
                test(progress, split, *sreg, value.len(), position)
            }
            Expression::Range { sreg, inverted, from, to } => {
                let split = match progress.registers.one(*sreg, from.len()) {
                    Some(loaded) => {
                        evaluate::between(&progress.passed, &loaded, from, to).inverted(*inverted)
                    }
                    None => Split::unknown(&progress.passed),
                };
                test(progress, split, *sreg, from.len(), position)
            }
            Expression::Lookup { set, sreg, dreg, verdict, inverted } => {
                let set = here.table.set(set);
                let len = set.map_or(4, |set| set.key_len as usize);
                if *verdict {
                    return self.verdict_map(here, progress, set, *sreg, len);
                }
                let parts = progress.registers.parts(*sreg, len);
                let split = match (set, set.and_then(|set| set.elements.as_ref()), parts) {
                    (Some(set), Some(elements), Some(parts)) => {
                        let elements: Vec<&Element> = elements.iter().collect();
                        evaluate::lookup(&progress.passed, &parts, set, &elements).inverted(*inverted)
                    }
                    _ => Split::unknown(&progress.passed),
                };
                if let Some(dreg) = dreg {
                    // A value for each key: as different as the keys are.
                    let constructs = constructs(progress, *sreg, len);
                    let field = constructs.first().map_or(Field::PerConnection, |one| Field::PerPacket(*one));
                    progress.registers.load(*dreg, Loaded::new(vec![Run::whole(field, 4)]));
                    if set.is_some_and(|set| set.is_dynamic()) {
                        progress.inexact();
                    }
                    return test_of(progress, split, constructs, position);
                }
                test(progress, split, *sreg, len, position)
            }
            Expression::Match { name, revision, info } => {
                let (split, constructs) = xtables::test(name, *revision, info, &progress.passed);
                test_of(progress, split, constructs, position)
            }
            Expression::Limit => self.counted(here, progress, Construct::Limit, rest),
            Expression::ConnLimit => self.counted(here, progress, Construct::CtCount, rest),
            Expression::Quota => {
                progress.inexact();
                keep(self, here, progress, Construct::Quota);
                Step::Next
            }
            Expression::Object { kind, map } => {
                let kind = kind.or_else(|| here.table.set(&map.as_ref()?.0)?.object);
                if map.is_some() {
                    progress.inexact();
                }
                match kind {
                    Some(ObjectKind::Counter) => warn(self, here, progress, Warning::Counter),
                    Some(ObjectKind::Quota) => {
                        progress.inexact();
                        keep(self, here, progress, Construct::Quota);
                    }
                    Some(ObjectKind::Limit) => return self.counted(here, progress, Construct::Limit, rest),
                    Some(ObjectKind::ConnLimit) => {
                        return self.counted(here, progress, Construct::CtCount, rest);
                    }
                    Some(ObjectKind::Other(_)) | None => keep(self, here, progress, Construct::Unknown),
                    // Of the connection, and set by its first packet.
                    Some(_) => {}
                }
                Step::Next
            }
            Expression::Dynset { set, delete, sreg, timeout_ms, expressions } => {
                let set = here.table.set(set);
                self.update(here, progress, set, *sreg, expressions, rest);
                let timeout = timeout_ms.or_else(|| set?.timeout_ms);
                if !delete && timeout.is_some_and(|timeout| timeout < SHORT_LIVED_MS) {
                    keep(self, here, progress, Construct::Set);
                }
                progress.inexact();
                Step::Next
            }
            Expression::Counter | Expression::Last => {
                warn(self, here, progress, Warning::Counter);
                Step::Next
            }
            Expression::Log => {
                warn(self, here, progress, Warning::Log);
                Step::Next
            }
            Expression::Queue | Expression::Verdict(Verdict::Queue) => {
                keep(self, here, progress, Construct::Queue);
                Step::Ends(Flow::END)
            }
            Expression::Dup => {
                keep(self, here, progress, Construct::Dup);
                Step::Next
            }
            Expression::MetaSet { sreg, .. } | Expression::CtSet { sreg, .. } => {
                for construct in constructs(progress, *sreg, 4) {
                    if here.act(std::slice::from_ref(expression)) {
                        keep(self, here, progress, construct);
                    }
                }
                self.marks(progress, expression);
                writes::overwrite(expression, &mut progress.passed);
                Step::Next
            }
            Expression::PayloadWrite { base, offset, len, sreg } => {
                let source = progress.registers.any(*sreg);
                for construct in writes::written(*base, *offset, *len, source, &progress.passed) {
                    keep(self, here, progress, construct);
                }
                writes::overwrite(expression, &mut progress.passed);
                Step::Next
            }
            Expression::ExthdrWrite { op, kind } => {
                // The maximum segment size, of SYN packets alone.
                if (*op, *kind) != (1, 2) {
                    keep(self, here, progress, Construct::TcpOption);
                }
                Step::Next
            }
            Expression::FlowAdd { table } => {
                let concern = Concern::new(&progress.passed, &here.scene.stages, &self.ruleset.interfaces);
                let addition = Addition { spot: progress.spot, flowtable: table.clone(), concern };
                self.outcome.additions.push(addition);
                Step::Next
            }
            Expression::Reject | Expression::Fwd => Step::Ends(Flow::END),
            // Takes TCP for itself, and nothing else.
            Expression::Synproxy if progress.passed.get(Field::L4Proto) == Ranges::one(field::TCP) => {
                Step::Ends(Flow::END)
            }
            Expression::Synproxy => {
                progress.inexact();
                Step::Next
            }
            Expression::Verdict(verdict) => {
                if matches!(verdict, Verdict::Other(_)) {
                    keep(self, here, progress, Construct::Unknown);
                    progress.inexact();
                }
                Step::Ends(self.verdict(here, verdict, progress.passed.clone()))
            }
            Expression::Target { name, info } => {
                match xtables::target(name, info) {
                    Target::Drops => return Step::Ends(Flow::END),
                    Target::Queues => {
                        keep(self, here, progress, Construct::Queue);
                        return Step::Ends(Flow::END);
                    }
                    Target::Copies => keep(self, here, progress, Construct::Dup),
                    Target::Logs => warn(self, here, progress, Warning::Log),
                    Target::PerPacket(construct) => keep(self, here, progress, construct),
                    Target::Untracks if progress.passed.may_be_untracked() => {
                        keep(self, here, progress, Construct::Notrack);
                    }
                    Target::Untracks => {}
                    Target::Changes | Target::Nothing => {}
                }
                self.marks(progress, expression);
                // Some end the packet's way, some do not.
                progress.inexact();
                Step::Next
            }
            Expression::Other { .. } => {
                keep(self, here, progress, Construct::Unknown);
                progress.inexact();
                Step::Next
            }
            // Behind conntrack it does nothing.
            Expression::Notrack if progress.passed.may_be_untracked() => {
                keep(self, here, progress, Construct::Notrack);
                Step::Next
            }
            // What is left are loads, and what concerns first packets alone or those that never fly.
            _ => Step::Next,
        }
    }

    /// Notes a rule that sets the mark of running connections.
    fn marks(&mut self, progress: &Progress, expression: &Expression) {
        let bits = writes::marked_bits(expression, &progress.registers);
        if bits != 0 && Here::is_running(&progress.passed) {
            *self.outcome.marking.entry(progress.spot).or_default() |= bits;
        }
    }

    /// A test that counts packets. It matters if what follows does more than count and log.
    fn counted(
        &mut self,
        here: &Here<'a>,
        progress: &mut Progress,
        construct: Construct,
        rest: &[Expression],
    ) -> Step {
        progress.inexact();
        if here.act(rest) {
            self.add(here, progress.spot, What::Keeps(construct), &progress.passed);
        }
        Step::Next
    }

    /// An element made or refreshed, with what it carries.
    fn update(
        &mut self,
        here: &Here<'a>,
        progress: &mut Progress,
        set: Option<&Set>,
        sreg: Register,
        expressions: &[Expression],
        rest: &[Expression],
    ) {
        let of_set = set.map(|set| set.expressions.as_slice()).unwrap_or_default();
        for expression in expressions.iter().chain(of_set) {
            let what = match expression {
                Expression::Limit if here.act(rest) => What::Keeps(Construct::Limit),
                Expression::ConnLimit if here.act(rest) => What::Keeps(Construct::CtCount),
                Expression::Quota => What::Keeps(Construct::Quota),
                Expression::Counter | Expression::Last => What::Warns(Warning::Counter),
                Expression::Limit | Expression::ConnLimit => continue,
                _ => What::Keeps(Construct::Unknown),
            };
            self.add(here, progress.spot, what, &progress.passed);
        }
        let len = set.map_or(4, |set| set.key_len as usize);
        for construct in constructs(progress, sreg, len) {
            self.add(here, progress.spot, What::Keeps(construct), &progress.passed);
        }
    }

    /// A map of verdicts: each is followed with those whose keys lead to it.
    fn verdict_map(
        &mut self,
        here: &mut Here<'a>,
        progress: &mut Progress,
        set: Option<&'a Set>,
        sreg: Register,
        len: usize,
    ) -> Step {
        let constructs = constructs(progress, sreg, len);
        let Some((set, elements)) = set.and_then(|set| Some((set, set.elements.as_ref()?))) else {
            return self.any_verdict(here, progress, &constructs);
        };
        let parts = progress.registers.parts(sreg, len);
        let split = |state: &State, elements: &[&Element]| match &parts {
            Some(parts) => evaluate::lookup(state, parts, set, elements),
            None => Split::unknown(state),
        };
        let mut verdicts: Vec<(&Verdict, Vec<&Element>)> = Vec::new();
        let mut others = None;
        for element in elements {
            let Some(verdict) = &element.verdict else { continue };
            if element.catch_all {
                others = Some(verdict);
                continue;
            }
            match verdicts.iter_mut().find(|(known, _)| *known == verdict) {
                Some((_, keys)) => keys.push(element),
                None => verdicts.push((verdict, vec![element])),
            }
        }
        let state = progress.passed.clone();
        let keys: Vec<&Element> = elements.iter().filter(|element| !element.catch_all).collect();
        let known = split(&state, &keys);
        let spot = progress.spot;
        let mut flow = Flow::END;
        let mut ways = 0;
        let mut acting = false;
        let mut follow = |walk: &mut Self, here: &mut Here<'a>, verdict: &Verdict, state: State| {
            acting |= here.verdict_acts(verdict);
            ways += 1;
            if *verdict == Verdict::Queue {
                walk.add(here, spot, What::Keeps(Construct::Queue), &state);
            }
            let after = walk.verdict(here, verdict, state);
            flow.on = State::join(flow.on.take(), after.on);
            flow.back = State::join(flow.back.take(), after.back);
        };
        for (verdict, keys) in verdicts {
            if let Some(yes) = split(&state, &keys).yes {
                follow(self, here, verdict, yes);
            }
        }
        match (others, known.no) {
            (Some(verdict), Some(no)) => follow(self, here, verdict, no),
            (None, Some(no)) => {
                ways += 1;
                let failed = std::mem::replace(&mut progress.failed, Failed::Any);
                progress.failed = match failed {
                    Failed::Nothing => Failed::These(no),
                    Failed::These(_) | Failed::Any => Failed::Any,
                };
            }
            (_, None) => {}
        }
        if ways > 1 && acting {
            for construct in constructs {
                self.add(here, spot, What::Keeps(construct), &state);
            }
        }
        Step::Ends(flow)
    }

    /// A map whose verdicts are not known: to any chain, and past all of them.
    fn any_verdict(
        &mut self,
        here: &mut Here<'a>,
        progress: &mut Progress,
        constructs: &[Construct],
    ) -> Step {
        for construct in constructs {
            self.add(here, progress.spot, What::Keeps(*construct), &progress.passed);
        }
        let table = here.table;
        for chain in table.chains.iter().filter(|chain| chain.hook.is_none()) {
            self.verdict(here, &Verdict::Jump(chain.name.clone()), progress.passed.clone());
        }
        progress.inexact();
        Step::Ends(Flow { on: Some(progress.passed.clone()), back: Some(progress.passed.clone()) })
    }
}

/// The constructs of what `len` bytes of a register hold.
fn constructs(progress: &Progress, sreg: Register, len: usize) -> Vec<Construct> {
    match progress.registers.parts(sreg, len) {
        Some(parts) => evaluate::constructs(&parts),
        None => evaluate::constructs(progress.registers.any(sreg)),
    }
}

fn test(progress: &mut Progress, split: Split, sreg: Register, len: usize, position: usize) -> Step {
    let constructs = constructs(progress, sreg, len);
    test_of(progress, split, constructs, position)
}

fn test_of(progress: &mut Progress, split: Split, constructs: Vec<Construct>, position: usize) -> Step {
    if split.depends() {
        progress.pending.extend(constructs.into_iter().map(|construct| (position + 1, construct)));
    }
    if progress.apply(split) { Step::Next } else { Step::Fails }
}
