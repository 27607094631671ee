//! Rulesets for tests of what follows from them.

use super::Judgement;
use super::expression::{Comparison, Expression, Register};
use super::model::{Chain, Family, Flowtable, Hook, HookPoint, Rule, Ruleset, Table};

/// `table inet t` with the flowtable `ft` of these devices and, if `added`, a rule of the forward chain that adds every
/// connection to it.
pub(crate) fn with_flowtable(devices: &[&str], added: bool) -> Judgement {
    let mut table = Table::new(Family::Inet, "t".to_owned());
    table.flowtables.push(Flowtable {
        name: "ft".to_owned(),
        handle: 1,
        priority: 0,
        devices: devices.iter().map(|device| (*device).to_owned()).collect(),
        offload: false,
        counter: false,
    });
    let add = Expression::FlowAdd { table: "ft".to_owned() };
    let judgement = judged(table, Vec::from_iter(added.then_some(add)));
    assert_eq!(
        judgement.flowtables().iter().map(|ft| judgement.is_added_to(ft)).collect::<Vec<_>>(),
        [added]
    );
    judgement
}

/// A rule of the forward chain: `iifname NAME quota ...`.
pub(crate) fn with_quota_from(interface: &str) -> Judgement {
    const IIFNAME: u32 = 6;
    let mut name = interface.as_bytes().to_vec();
    name.resize(16, 0);
    let rule = vec![
        Expression::Meta { key: IIFNAME, dreg: Register(4) },
        Expression::Compare { sreg: Register(4), op: Comparison::Equal, value: name },
        Expression::Quota,
    ];
    judged(Table::new(Family::Inet, "t".to_owned()), rule)
}

fn judged(mut table: Table, expressions: Vec<Expression>) -> Judgement {
    let hook = Hook {
        point: HookPoint::Forward,
        priority: 0,
        devices: Vec::new(),
        kind: "filter".to_owned(),
        drops: false,
    };
    let rules = vec![Rule { handle: 3, expressions, comment: None }];
    table.chains.push(Chain { name: "forward".to_owned(), handle: 2, hook: Some(hook), rules });
    Judgement::new(&Ruleset { tables: vec![table], ..Ruleset::default() }, &[])
}
