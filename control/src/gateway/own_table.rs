//! Flyover's own nftables table, kept in place for as long as it is needed and the gateway runs.
//!
//! Whoever flushes the ruleset flushes it, too: each reading of the ruleset tells what is there. Once it is there
//! it stays to the end, also if the user's ruleset makes the kernel track connections by now: to remove it would
//! have every flow prove itself again, for nothing, and a ruleset that goes may come back without it.

use crate::config::Accelerate;
use crate::nft::{self, NftError};
use crate::ruleset::{Judgement, OwnTable as Found};

/// Milliseconds between two installations, in case something takes it away each time.
const PACE: u64 = 1000;
/// Milliseconds after which it is tried again where it failed.
const RETRY: u64 = 30_000;

/// How it stands with the table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// The user's ruleset asks for tracking itself, or what selects flows does.
    NotNeeded,
    /// It is there.
    Installed,
    /// It is needed, and a table of somebody else's has its name.
    Foreign,
    /// It is needed, and could not be installed.
    Failed(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct OwnTable {
    /// `--no-nft`: never installed, nor removed.
    off: bool,
    needed: bool,
    standing: Standing,
    /// There is something of Flyover's.
    present: bool,
    /// Not installed again before.
    rested_at: u64,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Rest(Standing),
    Install,
}

const fn step(needed: bool, found: Found) -> Step {
    match (found, needed) {
        (Found::Intact, _) => Step::Rest(Standing::Installed),
        (_, false) => Step::Rest(Standing::NotNeeded),
        (Found::Foreign, true) => Step::Rest(Standing::Foreign),
        (Found::Absent | Found::Incomplete, true) => Step::Install,
    }
}

impl OwnTable {
    pub(super) const fn new(off: bool) -> Self {
        Self { off, needed: false, standing: Standing::NotNeeded, present: false, rested_at: 0 }
    }

    /// Sees to it after the ruleset was read. Gives the time at which it is to be read again, if it is.
    pub(super) fn follow(&mut self, now: u64, accelerate: Accelerate, judgement: &Judgement) -> Option<u64> {
        self.needed = judgement.needs_own_table(accelerate);
        if self.off {
            return None;
        }
        self.present = matches!(judgement.own_table(), Found::Intact | Found::Incomplete);
        match step(self.needed, judgement.own_table()) {
            Step::Rest(standing) => self.stands(standing),
            Step::Install if now < self.rested_at => return Some(self.rested_at),
            Step::Install => {
                return self.tried(now, nft::install(judgement.own_table(), judgement.generation()));
            }
        }
        None
    }

    /// Takes note of how an installation went.
    fn tried(&mut self, now: u64, outcome: Result<(), NftError>) -> Option<u64> {
        match outcome {
            Ok(()) => {
                (self.present, self.rested_at) = (true, now + PACE);
                self.stands(Standing::Installed);
                None
            }
            // The change is announced, and read.
            Err(NftError::Changed) => None,
            Err(error) => {
                self.stands(Standing::Failed(error.to_string()));
                Some(now + RETRY)
            }
        }
    }

    fn stands(&mut self, standing: Standing) {
        if standing != self.standing {
            standing.log();
            self.standing = standing;
        }
    }

    /// For `status`.
    pub(super) fn word(&self) -> String {
        match &self.standing {
            _ if self.off => "off".to_owned(),
            Standing::NotNeeded => "not_needed".to_owned(),
            Standing::Installed => "installed".to_owned(),
            Standing::Foreign => "foreign".to_owned(),
            Standing::Failed(why) => format!("failed: {why}"),
        }
    }

    /// What an operator should know of it.
    pub(super) fn notice(&self) -> Option<String> {
        if self.off {
            return self.needed.then(|| {
                "nothing in the ruleset makes the kernel track all connections, and --no-nft keeps Flyover from \
                 installing its table: those that are not tracked stay in the kernel; `flyover check` tells the line \
                 to type"
                    .to_owned()
            });
        }
        self.standing.trouble()
    }
}

impl Standing {
    fn trouble(&self) -> Option<String> {
        match self {
            Self::NotNeeded | Self::Installed => None,
            Self::Foreign => Some(
                "the table inet flyover is not as Flyover makes it, and is left alone; nothing else makes the kernel \
                 track all connections, and those that are not tracked stay in the kernel. If nobody needs it: nft \
                 delete table inet flyover. Else have your own ruleset ask for tracking: `flyover check` tells the \
                 line to type"
                    .to_owned(),
            ),
            Self::Failed(why) => Some(format!(
                "nothing in the ruleset makes the kernel track all connections, and Flyover's table could not be \
                 installed, so that those that are not tracked stay in the kernel: {why}"
            )),
        }
    }

    fn log(&self) {
        match self.trouble() {
            Some(trouble) => tracing::warn!("{trouble}"),
            None if *self == Self::Installed => {
                tracing::info!(
                    "the table inet flyover is there: the kernel tracks connections because of it"
                );
            }
            None => tracing::info!("the table inet flyover is gone, and not needed"),
        }
    }
}

impl Drop for OwnTable {
    /// However the gateway ends, unless it is killed: then its successor finds the table.
    fn drop(&mut self) {
        if self.present
            && let Err(error) = nft::remove()
        {
            tracing::warn!(
                "the table inet flyover stays: {error}; to remove it: nft delete table inet flyover"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::netlink::NetlinkError;
    use crate::netlink::testing::{in_namespace, run};
    use crate::ruleset;

    fn judgement() -> Judgement {
        Judgement::new(&ruleset::read().expect("read"), &[])
    }

    #[test]
    fn it_is_installed_only_where_it_is_needed_and_missing() {
        assert_eq!(step(true, Found::Absent), Step::Install);
        assert_eq!(step(true, Found::Incomplete), Step::Install);
        assert_eq!(step(true, Found::Intact), Step::Rest(Standing::Installed));
        assert_eq!(step(true, Found::Foreign), Step::Rest(Standing::Foreign));
        assert_eq!(step(false, Found::Absent), Step::Rest(Standing::NotNeeded));
        assert_eq!(step(false, Found::Foreign), Step::Rest(Standing::NotNeeded));
        assert_eq!(step(false, Found::Intact), Step::Rest(Standing::Installed), "it stays to the end");
    }

    #[test]
    fn what_selects_by_mark_or_flowtable_asks_for_tracking_itself() {
        let nothing = Judgement::default();
        for (accelerate, needs) in [
            (Accelerate::Auto, true),
            (Accelerate::Established, true),
            (Accelerate::Marked, false),
            (Accelerate::Flowtable, false),
        ] {
            assert_eq!(nothing.needs_own_table(accelerate), needs, "{accelerate:?}");
        }
    }

    #[test]
    fn what_fails_is_told_and_tried_again() {
        let refused = |source| {
            let doing = "install the table inet flyover".to_owned();
            Err(NftError::from(NetlinkError::Refused { doing, source, message: String::new() }))
        };
        let mut own = OwnTable::new(false);
        assert_eq!(own.tried(5, refused(Errno::ERESTART)), None, "somebody else's change is announced");
        assert_eq!((own.word().as_str(), own.notice()), ("not_needed", None));
        assert_eq!(own.tried(5, refused(Errno::EPERM)), Some(5 + RETRY));
        assert!(own.word().starts_with("failed: the kernel refused to install the table inet flyover: "));
        assert!(own.notice().is_some_and(|notice| notice.contains("CAP_NET_ADMIN")));
        assert_eq!(own.tried(9, Ok(())), None);
        assert_eq!((own.word().as_str(), own.notice()), ("installed", None));
        std::mem::forget(own);
    }

    #[test]
    fn it_follows_the_ruleset_and_goes_with_the_gateway() {
        in_namespace(|| {
            let list = || run("nft list tables");
            let mut own = OwnTable::new(false);
            let mut follow = |now| own.follow(now, Accelerate::Auto, &judgement());
            assert_eq!(follow(0), None);
            assert_eq!(list(), "table inet flyover\n");
            let generation = judgement().generation();
            assert_eq!(follow(100), None, "its own change");
            assert_eq!(judgement().generation(), generation, "changes nothing");
            run("nft flush ruleset");
            assert_eq!(follow(200), Some(PACE), "not twice within a second");
            assert_eq!(list(), "");
            assert_eq!(follow(PACE), None);
            assert_eq!(list(), "table inet flyover\n");
            run("nft add table ip mine");
            run("nft add chain ip mine c");
            run("nft add rule ip mine c ct state new");
            assert_eq!(follow(3000), None);
            assert_eq!(own.word(), "installed", "one that is there stays");
            // Another process takes over, and this one ends.
            let mut successor = OwnTable::new(false);
            successor.follow(0, Accelerate::Marked, &judgement());
            assert_eq!(successor.word(), "installed");
            std::mem::forget(own);
            // Parts of it go, too.
            run("nft flush table inet flyover");
            successor.follow(4000, Accelerate::Marked, &judgement());
            assert_eq!(successor.word(), "not_needed");
            drop(successor);
            assert_eq!(list(), "table ip mine\n");
        });
    }

    #[test]
    fn a_ruleset_that_tracks_needs_none() {
        in_namespace(|| {
            let follow = |no_nft| {
                let mut own = OwnTable::new(no_nft);
                own.follow(0, Accelerate::Established, &judgement());
                (own.word(), own.notice().is_some(), run("nft list tables"))
            };
            let rule = "add chain inet t c; add rule inet t c ct state new";
            run("nft add table inet t");
            assert_eq!(follow(true), ("off".to_owned(), true, "table inet t\n".to_owned()));
            let installed = "table inet t\ntable inet flyover\n".to_owned();
            assert_eq!(follow(false), ("installed".to_owned(), false, installed));
            rule.split("; ").for_each(|command| _ = run(&format!("nft {command}")));
            assert_eq!(follow(false), ("not_needed".to_owned(), false, "table inet t\n".to_owned()));
            assert_eq!(follow(true), ("off".to_owned(), false, "table inet t\n".to_owned()));
            run("nft delete table inet t");
            run("nft add table inet flyover");
            assert_eq!(follow(false), ("foreign".to_owned(), true, "table inet flyover\n".to_owned()));
        });
    }
}
