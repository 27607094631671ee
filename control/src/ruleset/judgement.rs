//! What a ruleset means for acceleration: what was found, and which connections it keeps in the kernel.

use std::collections::BTreeSet;
use std::fmt;

use super::concern::{Concern, ConnectionView};
use super::found::{Spot, What};
use super::model::{Family, Ruleset};
use super::own::OwnTable;
use super::walk;
use super::words;
use crate::config::{Accelerate, Construct};

/// Where something is in the ruleset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `None`: the chain as a whole.
    pub handle: Option<u64>,
    /// The rule's comment.
    pub comment: Option<String>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)?;
        match self.handle {
            Some(handle) => write!(f, " handle {handle}"),
            None => Ok(()),
        }
    }
}

/// Something in the ruleset that packets past the kernel do not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// Where it is.
    pub location: Location,
    /// The user accepts that it sees fewer packets.
    pub accepted: bool,
    concerns: Vec<Concern>,
}

impl Finding {
    /// Whether it keeps connections in the kernel.
    pub const fn keeps(&self) -> bool {
        matches!(self.what, What::Keeps(_)) && !self.accepted
    }

    /// Whether it can concern a connection.
    pub fn concerns(&self, view: &ConnectionView<'_>) -> bool {
        self.concerns.iter().any(|concern| concern.covers(view))
    }

    /// Whether it can concern any connection, as far as its rule's matches are understood.
    pub fn concerns_everything(&self) -> bool {
        self.concerns.iter().any(Concern::is_everything)
    }

    /// Whether only connections that nobody has answered come there: one-way UDP streams.
    pub fn concerns_one_way_alone(&self) -> bool {
        self.concerns.iter().all(Concern::is_one_way)
    }

    /// What would differ for the user if these flows went past the kernel.
    pub const fn differs(&self) -> &'static str {
        words::differs(self.what)
    }

    /// The lines, of nft or of the configuration, that change it.
    pub fn remedy(&self) -> String {
        words::remedy(self.what, &self.location)
    }
}

/// As a reason: "limit in inet fw forward handle 12".
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.what.name(), self.location)?;
        match &self.location.comment {
            Some(comment) => write!(f, " ({comment})"),
            None => Ok(()),
        }
    }
}

/// A flowtable of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFlowtable {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its devices.
    pub devices: Vec<String>,
    /// `flags offload`: its flows may go into the NIC.
    pub offload: bool,
    /// `counter`.
    pub counter: bool,
}

/// A rule that adds connections to a flowtable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowAddition {
    /// The rule.
    pub location: Location,
    /// The flowtable, of the same table.
    pub flowtable: String,
    concern: Concern,
}

impl FlowAddition {
    /// Whether it may add a connection: its matches let packets of it through, as far as they are understood.
    pub fn concerns(&self, view: &ConnectionView<'_>) -> bool {
        self.concern.covers(view)
    }
}

/// What a ruleset means for acceleration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    generation: u32,
    findings: Vec<Finding>,
    /// Those that keep connections, by position; what concerns everything is first.
    keeping: Vec<usize>,
    flowtables: Vec<UserFlowtable>,
    additions: Vec<FlowAddition>,
    tracks: (bool, bool),
    own_table: OwnTable,
}

impl Judgement {
    /// Judges a ruleset. What `accept_loss` names keeps no connection.
    pub fn new(ruleset: &Ruleset, accept_loss: &[Construct]) -> Self {
        let outcome = walk::walk(ruleset);
        let found = outcome.found.into_iter().filter_map(|((spot, what), concerns)| {
            let accepted = matches!(what, What::Keeps(construct) if accept_loss.contains(&construct));
            Some(Finding { what, location: locate(ruleset, spot)?, accepted, concerns })
        });
        let findings: Vec<Finding> = found.collect();
        let mut keeping: Vec<usize> =
            (0..findings.len()).filter(|at| findings.get(*at).is_some_and(Finding::keeps)).collect();
        keeping.sort_by_key(|at| !findings.get(*at).is_some_and(Finding::concerns_everything));
        let flowtables = ruleset.flowtables().map(|(table, flowtable)| UserFlowtable {
            family: table.family,
            table: table.name.clone(),
            name: flowtable.name.clone(),
            devices: flowtable.devices.clone(),
            offload: flowtable.offload,
            counter: flowtable.counter,
        });
        let mut additions: Vec<FlowAddition> = Vec::new();
        for addition in outcome.additions {
            let Some(location) = locate(ruleset, addition.spot) else { continue };
            let addition =
                FlowAddition { location, flowtable: addition.flowtable, concern: addition.concern };
            if !additions.contains(&addition) {
                additions.push(addition);
            }
        }
        Self {
            generation: ruleset.generation,
            keeping,
            flowtables: flowtables.collect(),
            additions,
            tracks: ruleset.tracks(),
            own_table: ruleset.own_table(),
            findings,
        }
    }

    /// The ruleset's generation.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Why a connection must stay in the kernel; `None`: nothing in the ruleset says so.
    ///
    /// The answer may change when the connection's mark or status does, or when more becomes known of where
    /// its packets come in and go out. A connection that is not kept without interfaces is not kept with them.
    pub fn keeps(&self, view: &ConnectionView<'_>) -> Option<&Finding> {
        let keeping = self.keeping.iter().filter_map(|at| self.findings.get(*at));
        keeping.into_iter().find(|finding| finding.concerns(view))
    }

    /// Whether anything keeps any connection.
    pub fn keeps_any(&self) -> bool {
        !self.keeping.is_empty()
    }

    /// All that was found, accepted or not, by table, chain and rule.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The user's flowtables.
    pub fn flowtables(&self) -> &[UserFlowtable] {
        &self.flowtables
    }

    /// Rules that packets of running connections come to, and that add to a flowtable.
    pub fn additions(&self) -> &[FlowAddition] {
        &self.additions
    }

    /// Whether a `flow add` rule that packets of running connections come to adds to a flowtable.
    pub fn is_added_to(&self, flowtable: &UserFlowtable) -> bool {
        self.additions.iter().any(|addition| {
            let Location { family, table, .. } = &addition.location;
            (*family, table, &addition.flowtable) == (flowtable.family, &flowtable.table, &flowtable.name)
        })
    }

    /// Whether any `flow add` may select a connection.
    pub fn may_be_added(&self, view: &ConnectionView<'_>) -> bool {
        self.additions.iter().any(|addition| addition.concerns(view))
    }

    /// Whether its flowtables select the same connections as another's, wherever their rules stand.
    pub fn selects_as(&self, other: &Self) -> bool {
        fn rule(addition: &FlowAddition) -> (Family, &str, &str, &Concern) {
            let Location { family, table, .. } = &addition.location;
            (*family, table, &addition.flowtable, &addition.concern)
        }
        self.flowtables == other.flowtables
            && self.additions.iter().map(rule).eq(other.additions.iter().map(rule))
    }

    /// Whether something in the user's ruleset makes the kernel track connections, for IPv4 and IPv6.
    pub const fn tracks(&self) -> (bool, bool) {
        self.tracks
    }

    /// What stands under the name of Flyover's own table.
    pub const fn own_table(&self) -> OwnTable {
        self.own_table
    }

    /// Whether connections are to be selected that nothing in the user's ruleset may have the kernel track. A rule that
    /// sets the mark, and one with `flow add`, ask for tracking themselves.
    pub fn needs_own_table(&self, accelerate: Accelerate) -> bool {
        let leaves_it_to_the_ruleset = match accelerate {
            Accelerate::Established => true,
            Accelerate::Auto => self.flowtables.is_empty(),
            Accelerate::Marked | Accelerate::Flowtable => false,
        };
        leaves_it_to_the_ruleset && self.tracks != (true, true)
    }

    /// The names of what keeps connections, each once.
    pub fn constructs(&self) -> Vec<Construct> {
        let found =
            self.findings.iter().filter(|finding| finding.keeps()).filter_map(|finding| match finding.what {
                What::Keeps(construct) => Some(construct),
                What::Warns(_) => None,
            });
        found.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn locate(ruleset: &Ruleset, spot: Spot) -> Option<Location> {
    let table = ruleset.tables.get(spot.table)?;
    let chain = table.chains.get(spot.chain)?;
    let rule = match spot.rule {
        Some(at) => Some(chain.rules.get(at)?),
        None => None,
    };
    Some(Location {
        family: table.family,
        table: table.name.clone(),
        chain: chain.name.clone(),
        handle: rule.map(|rule| rule.handle),
        comment: rule.and_then(|rule| rule.comment.clone()),
    })
}
