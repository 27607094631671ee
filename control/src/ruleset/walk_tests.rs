//! The walk over rulesets made by hand: what the kernels at hand do not have, and what no user would write.

use super::expression::{Expression, Register, Verdict};
use super::found::{Spot, What};
use super::model::{Chain, Element, Family, Hook, HookPoint, Rule, Ruleset, Set, Table};
use super::walk::walk_within;
use crate::config::Construct;

fn rule(expressions: Vec<Expression>) -> Rule {
    Rule { handle: 1, expressions, comment: None }
}

fn chain(name: &str, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), handle: 1, hook: None, rules }
}

fn forward(rules: Vec<Rule>) -> Chain {
    let hook = Hook {
        point: HookPoint::Forward,
        priority: 0,
        devices: Vec::new(),
        kind: "filter".to_owned(),
        drops: true,
    };
    Chain { hook: Some(hook), ..chain("forward", rules) }
}

fn ruleset(chains: Vec<Chain>, sets: Vec<Set>) -> Ruleset {
    let table = Table { chains, sets, ..Table::new(Family::Inet, "t".to_owned()) };
    Ruleset { tables: vec![table], ..Ruleset::default() }
}

const ENOUGH: usize = 10_000;

fn found(ruleset: &Ruleset, budget: usize) -> Vec<(usize, Option<usize>, What)> {
    let found = walk_within(ruleset, budget).found.into_iter();
    found.map(|((Spot { chain, rule, .. }, what), _)| (chain, rule, what)).collect()
}

fn jump(name: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(name.to_owned()))
}

const QUEUE: What = What::Keeps(Construct::Queue);
const UNKNOWN: What = What::Keeps(Construct::Unknown);

#[test]
fn queues_are_found_by_expression_and_by_verdict() {
    for queue in [Expression::Queue, Expression::Verdict(Verdict::Queue)] {
        let one = ruleset(vec![forward(vec![rule(vec![queue]), rule(vec![Expression::Quota])])], Vec::new());
        // The queue ends the chain: the quota is not come to.
        assert_eq!(found(&one, ENOUGH), [(0, Some(0), QUEUE)]);
    }
    let target = Expression::Target { name: "NFQUEUE".to_owned(), info: Vec::new() };
    assert_eq!(
        found(&ruleset(vec![forward(vec![rule(vec![target])])], Vec::new()), ENOUGH),
        [(0, Some(0), QUEUE)]
    );
}

#[test]
fn what_is_not_known_keeps_and_may_let_through() {
    let other = Expression::Other { name: "novelty".to_owned() };
    let accept = Expression::Verdict(Verdict::Accept);
    let one =
        ruleset(vec![forward(vec![rule(vec![other, accept]), rule(vec![Expression::Queue])])], Vec::new());
    assert_eq!(found(&one, ENOUGH), [(0, Some(0), UNKNOWN), (0, Some(1), QUEUE)]);
}

#[test]
fn what_is_added_to_a_flowtable_is_told_with_its_matches() {
    let tcp = vec![
        Expression::Meta { key: 16, dreg: Register(0) },
        Expression::Compare { sreg: Register(0), op: super::expression::Comparison::Equal, value: vec![6] },
        Expression::FlowAdd { table: "ft".to_owned() },
    ];
    let bytes = vec![
        Expression::Ct { key: 15, direction: None, dreg: Register(0) },
        Expression::Compare {
            sreg: Register(0),
            op: super::expression::Comparison::Greater,
            value: vec![0; 8],
        },
        Expression::FlowAdd { table: "ft".to_owned() },
    ];
    let one = ruleset(vec![forward(vec![rule(tcp), rule(bytes)])], Vec::new());
    let outcome = walk_within(&one, ENOUGH);
    assert_eq!(outcome.additions.len(), 2);
    assert!(outcome.additions.iter().all(|addition| addition.flowtable == "ft"));
    // The kernel shows no more packets to the rules, once a connection is in the flowtable: nothing is lost.
    assert_eq!(found(&one, ENOUGH), []);
}

#[test]
fn chains_that_go_in_circles_end() {
    let one = ruleset(
        vec![
            forward(vec![rule(vec![jump("a")]), rule(vec![Expression::Queue])]),
            chain("a", vec![rule(vec![jump("b")])]),
            chain("b", vec![rule(vec![jump("a")]), rule(vec![jump("missing")])]),
        ],
        Vec::new(),
    );
    assert_eq!(found(&one, ENOUGH), [(0, Some(1), QUEUE)]);
}

#[test]
fn ways_beyond_counting_are_no_longer_told_apart() {
    // Twelve chains, each of which jumps to the next four times: 4^12 ways to the queue at the end.
    let mut chains = vec![forward(vec![rule(vec![jump("c0")])])];
    for n in 0..12 {
        let next = format!("c{}", n + 1);
        chains.push(chain(&format!("c{n}"), (0..4).map(|_| rule(vec![jump(&next)])).collect()));
    }
    chains.push(chain("c12", vec![rule(vec![Expression::Limit, Expression::Verdict(Verdict::Drop)])]));
    let limit = (13, Some(0), What::Keeps(Construct::Limit));
    assert_eq!(found(&ruleset(chains.clone(), Vec::new()), ENOUGH), [limit]);
    // Nothing but the flat turn.
    assert_eq!(found(&ruleset(chains, Vec::new()), 0), [limit]);
}

#[test]
fn a_map_whose_verdicts_are_not_known_leads_anywhere() {
    let map = |elements| Set {
        name: "m".to_owned(),
        flags: 0x8,
        key_len: 4,
        object: None,
        timeout_ms: None,
        expressions: Vec::new(),
        elements,
    };
    let lookup = Expression::Lookup {
        set: "m".to_owned(),
        sreg: Register(0),
        dreg: None,
        verdict: true,
        inverted: false,
    };
    let chains = || {
        let mark = Expression::Meta { key: 3, dreg: Register(0) };
        vec![
            forward(vec![rule(vec![mark, lookup.clone()]), rule(vec![Expression::Dup])]),
            chain("a", vec![rule(vec![Expression::Queue])]),
        ]
    };
    let dup = (0, Some(1), What::Keeps(Construct::Dup));
    assert_eq!(found(&ruleset(chains(), vec![map(None)]), ENOUGH), [dup, (1, Some(0), QUEUE)]);
    assert_eq!(found(&ruleset(chains(), vec![map(Some(Vec::new()))]), ENOUGH), [dup]);
    let to_a = Element {
        key: vec![0; 4],
        key_end: None,
        interval_end: false,
        catch_all: false,
        verdict: Some(Verdict::Goto("a".to_owned())),
    };
    let found = found(&ruleset(chains(), vec![map(Some(vec![to_a]))]), ENOUGH);
    assert_eq!(found, [dup, (1, Some(0), QUEUE)]);
}

#[test]
fn a_syn_proxy_takes_tcp_for_itself_alone() {
    let rules = || vec![rule(vec![Expression::Synproxy]), rule(vec![Expression::Queue])];
    assert_eq!(found(&ruleset(vec![forward(rules())], Vec::new()), ENOUGH), [(0, Some(1), QUEUE)]);
}
