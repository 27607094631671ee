//! Flyover's own table, as it is found in the ruleset. [`crate::nft`] makes it.

use std::ffi::CStr;

use super::expression::{Comparison, Expression, Register, Verdict};
use super::model::{Chain, Family, Hook, HookPoint, Table};

/// Name of the table, whose family is inet.
pub(crate) const TABLE: &CStr = c"flyover";
/// The table's comment: what tells it from another of its name. At most 127 bytes, or nft can't load what it lists.
pub(crate) const COMMENT: &CStr =
    c"made by flyover: has the kernel track connections, so that they can be carried; removed when flyover ends";
/// Its only chain, a base chain at `forward`.
pub(crate) const CHAIN: &CStr = c"forward";
/// Behind filters, which have 0.
pub(crate) const PRIORITY: i32 = 10;

/// What stands under the name of Flyover's own table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnTable {
    /// Nothing.
    #[default]
    Absent,
    /// The table as Flyover makes it, by this process or an earlier one.
    Intact,
    /// Parts of it, as `nft flush table` leaves.
    Incomplete,
    /// A table of somebody else's, or one of Flyover's that somebody has put something else into.
    Foreign,
}

impl OwnTable {
    pub(super) fn among(tables: &[Table]) -> Self {
        tables.iter().find(|table| has_name(table)).map_or(Self::Absent, Self::of)
    }

    fn of(table: &Table) -> Self {
        let Table { dormant, comment, chains, sets, flowtables, objects, .. } = table;
        let bare = !dormant && sets.is_empty() && flowtables.is_empty() && objects.is_empty();
        if !bare || comment.as_ref().map(String::as_bytes) != Some(COMMENT.to_bytes()) {
            return Self::Foreign;
        }
        match chains.as_slice() {
            [] => Self::Incomplete,
            [chain] => Self::of_chain(chain),
            _ => Self::Foreign,
        }
    }

    fn of_chain(chain: &Chain) -> Self {
        if chain.name.as_bytes() != CHAIN.to_bytes() || chain.hook != Some(hook()) {
            return Self::Foreign;
        }
        match chain.rules.as_slice() {
            [] => Self::Incomplete,
            [rule] if rule.expressions == expressions() => Self::Intact,
            _ => Self::Foreign,
        }
    }
}

/// Whether a table is Flyover's own, in whole or in part.
pub(super) fn is_own(table: &Table) -> bool {
    has_name(table) && OwnTable::of(table) != OwnTable::Foreign
}

fn has_name(table: &Table) -> bool {
    table.family == Family::Inet && table.name.as_bytes() == TABLE.to_bytes()
}

fn hook() -> Hook {
    let (point, kind) = (HookPoint::Forward, "filter".to_owned());
    Hook { point, priority: PRIORITY, devices: Vec::new(), kind, drops: false }
}

/// `ct state established,related accept`
fn expressions() -> [Expression; 4] {
    const STATE: u32 = 0;
    const ESTABLISHED_RELATED: u32 = 2 | 4;
    const NONE: u32 = 0;
    let register = Register(0);
    let bytes = |number: u32| number.to_ne_bytes().to_vec();
    [
        Expression::Ct { key: STATE, direction: None, dreg: register },
        Expression::Bitwise {
            sreg: register,
            dreg: register,
            len: 4,
            mask: bytes(ESTABLISHED_RELATED),
            xor: bytes(NONE),
        },
        Expression::Compare { sreg: register, op: Comparison::NotEqual, value: bytes(NONE) },
        Expression::Verdict(Verdict::Accept),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::model::{Rule, Ruleset};

    fn own() -> Table {
        let rule = Rule { handle: 3, expressions: expressions().to_vec(), comment: None };
        let text = |text: &CStr| text.to_str().expect("ASCII").to_owned();
        let chain = Chain { name: text(CHAIN), handle: 1, hook: Some(hook()), rules: vec![rule] };
        let comment = Some(text(COMMENT));
        Table { chains: vec![chain], comment, ..Table::new(Family::Inet, text(TABLE)) }
    }

    /// Our table with a change to it.
    fn but(change: impl FnOnce(&mut Table)) -> OwnTable {
        let mut table = own();
        change(&mut table);
        OwnTable::among(&[Table::new(Family::Inet, "filter".to_owned()), table])
    }

    #[test]
    fn it_is_ours_by_its_comment_and_all_that_is_in_it() {
        assert_eq!(but(|_| {}), OwnTable::Intact);
        assert_eq!(but(|table| table.chains.clear()), OwnTable::Incomplete);
        assert_eq!(but(|table| table.chains[0].rules.clear()), OwnTable::Incomplete);
        assert_eq!(but(|table| table.name.push('s')), OwnTable::Absent);
        assert_eq!(but(|table| table.family = Family::Ip), OwnTable::Absent);

        let foreign: [fn(&mut Table); 9] = [
            |table| table.comment = None,
            |table| table.comment = Some("flyover".to_owned()),
            |table| table.dormant = true,
            |table| table.chains.extend_from_within(..),
            |table| table.chains[0].name.push('2'),
            |table| table.chains[0].hook = None,
            |table| table.chains[0].hook = Some(Hook { drops: true, ..hook() }),
            |table| table.chains[0].rules.extend_from_within(..),
            |table| table.chains[0].rules[0].expressions.truncate(1),
        ];
        for (number, change) in foreign.into_iter().enumerate() {
            assert_eq!(but(change), OwnTable::Foreign, "{number}");
        }
    }

    #[test]
    fn only_what_is_not_ours_counts_as_asking_for_tracking() {
        let tracks = |table: Table| Ruleset { tables: vec![table], ..Ruleset::default() }.tracks();
        assert_eq!(tracks(own()), (false, false));
        assert_eq!(tracks(Table { comment: None, ..own() }), (true, true));
    }

    #[test]
    fn the_comment_is_one_that_nft_can_load() {
        let comment = COMMENT.to_str().expect("ASCII");
        assert!(comment.len() < 128 && comment.is_ascii() && !comment.contains(['"', '\\']));
    }
}
