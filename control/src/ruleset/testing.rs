//! Rulesets for tests of what follows from them.

use super::expression::Expression;
use super::model::{Chain, Family, Flowtable, Hook, HookPoint, Rule, Ruleset, Table};
use super::{Judgement, UserFlowtable};

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
    let hook = Hook {
        point: HookPoint::Forward,
        priority: 0,
        devices: Vec::new(),
        kind: "filter".to_owned(),
        drops: false,
    };
    let rules = vec![Rule { handle: 3, expressions: Vec::from_iter(added.then_some(add)), comment: None }];
    table.chains.push(Chain { name: "forward".to_owned(), handle: 2, hook: Some(hook), rules });
    let judgement = Judgement::new(&Ruleset { tables: vec![table], ..Ruleset::default() }, &[]);
    assert_eq!(
        judgement.flowtables().iter().map(|ft: &UserFlowtable| judgement.is_added_to(ft)).collect::<Vec<_>>(),
        [added]
    );
    judgement
}
