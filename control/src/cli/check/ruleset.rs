//! The running ruleset, as far as it concerns connections that fly: what of it needs to see each packet, what asks
//! for connection tracking, flowtables; and what else the kernel does with packets that leave.

use serde::Serialize;

use super::{Finding, Severity, finding, flowtable};
use crate::config::Config;
use crate::netlink::qdisc::{self, Qdisc};
use crate::ruleset::{self, Judgement, OwnTable, ReadError, Warning, What};

/// The rule or chain of a finding, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleReference {
    /// What it is: a name that `accept_loss` takes, or of what is only warned of.
    pub construct: &'static str,
    /// The table's family.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; null for a chain as a whole.
    pub handle: Option<u64>,
    /// Whether connections stay in the kernel because of it.
    pub keeps: bool,
    /// Whether `accept_loss` names it.
    pub accepted: bool,
    /// Whether only one-way UDP streams come to it.
    pub one_way: bool,
}

/// What the kernel has.
pub(super) struct Kernel {
    pub(super) judgement: Result<Judgement, ReadError>,
    /// Queueing disciplines by the name of their interface.
    pub(super) qdiscs: Vec<(String, String)>,
    /// Tables of legacy iptables.
    pub(super) legacy: Vec<String>,
}

impl Kernel {
    /// Of this process's network namespace.
    pub(super) fn read(config: &Config) -> Self {
        let judgement = ruleset::read().map(|ruleset| Judgement::new(&ruleset, &config.policy.accept_loss));
        let named = |qdisc: Qdisc| {
            let name = nix::net::if_::if_indextoname(qdisc.ifindex).ok()?;
            Some((name.to_string_lossy().into_owned(), qdisc.kind))
        };
        let qdiscs = qdisc::qdiscs().unwrap_or_default().into_iter().filter_map(named).collect();
        let lists = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
        let legacy = lists.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let mut legacy: Vec<String> =
            legacy.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        legacy.sort_unstable();
        legacy.dedup();
        Self { judgement, qdiscs, legacy }
    }

    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        let mut found = Vec::new();
        match &self.judgement {
            Ok(judgement) => {
                found.extend(self.tracking(judgement, config));
                found.extend(judgement.findings().iter().filter_map(of_rule));
                found.extend(flowtable::findings(config, judgement));
            }
            Err(error) => found.push(finding(
                Severity::Warning,
                "ruleset",
                format!("the ruleset could not be read: {error}"),
                "what in it must see each packet (queue, quota, limit ...) is not known",
                Some("nft list ruleset  (as root; shows what there is)"),
            )),
        }
        found.extend(self.iptables());
        found.extend(self.qdiscs.iter().filter_map(|(name, kind)| of_qdisc(config, name, kind)));
        found
    }

    /// The kernel tracks connections only while something asks for it.
    fn tracking(&self, judgement: &Judgement, config: &Config) -> Option<Finding> {
        const BY_HAND: &str = "nft 'table inet tracking { chain forward { type filter hook forward priority 0; ct state established,related accept; }; }'";
        // Legacy rules may, too.
        if !self.legacy.is_empty() {
            return None;
        }
        let (severity, what) = match judgement.tracks() {
            (true, true) => return None,
            (false, false) => (Severity::Warning, "connections"),
            (true, false) => (Severity::Note, "IPv6 connections"),
            (false, true) => (Severity::Note, "IPv4 connections"),
        };
        let mut what =
            format!("nothing in the ruleset makes the kernel track {what}: no `ct`, no NAT, no flowtable");
        let mut fix = BY_HAND.to_owned();
        let own = judgement.needs_own_table(config.policy.accelerate).then_some(judgement.own_table());
        let (severity, why) = match own {
            None => (severity, "Flyover carries connections that the kernel tracks, and finds none"),
            Some(OwnTable::Foreign) => {
                what.push_str("; and the table inet flyover is not as Flyover makes it");
                fix = format!("nft delete table inet flyover  (if nobody needs it); else {BY_HAND}");
                (
                    severity,
                    "Flyover has the kernel track them by a table of this name, and leaves another's alone",
                )
            }
            Some(_) => {
                fix.push_str("  (with --no-nft alone; else there is nothing to do)");
                (
                    Severity::Note,
                    "Flyover carries connections that the kernel tracks: while it runs it has the table inet flyover, \
                     which asks for that",
                )
            }
        };
        Some(finding(severity, "tracking", what, why, Some(&fix)))
    }

    fn iptables(&self) -> Option<Finding> {
        let tables = self.legacy.join(", ");
        (!tables.is_empty()).then(|| {
            finding(
                Severity::Note,
                "iptables",
                format!("legacy iptables has tables ({tables}), which are not read"),
                "what in them must see each packet is not known, and changes in them are noticed up to 30 s late",
                Some("iptables-legacy-save | iptables-nft-restore  (moves the rules to nftables)"),
            )
        })
    }
}

fn of_rule(found: &ruleset::Finding) -> Option<Finding> {
    let name = found.what.name();
    let one_way = found.concerns_one_way_alone();
    let (severity, what) = match found.what {
        What::Keeps(_) if found.accepted => {
            (Severity::Note, format!("{name}, which accept_loss names: its connections fly"))
        }
        What::Keeps(_) if one_way => {
            (Severity::Note, format!("{name} keeps one-way UDP streams in the kernel"))
        }
        What::Keeps(_) if found.concerns_everything() => {
            (Severity::Warning, format!("{name} keeps every connection in the kernel"))
        }
        What::Keeps(_) => {
            (Severity::Warning, format!("{name} keeps the connections that it can see in the kernel"))
        }
        // Of every rule that accepts new connections.
        What::Warns(Warning::Log | Warning::Counter) if one_way => return None,
        What::Warns(Warning::Netdev) => (Severity::Warning, "a chain at a device".to_owned()),
        What::Warns(Warning::Log | Warning::Counter) => {
            (Severity::Warning, format!("{name} of running connections"))
        }
    };
    let location = &found.location;
    let comment = location.comment.as_ref().map(|comment| format!(" ({comment})")).unwrap_or_default();
    let what = format!("{location}{comment}: {what}");
    let rule = RuleReference {
        construct: name,
        family: location.family.name(),
        table: location.table.clone(),
        chain: location.chain.clone(),
        handle: location.handle,
        keeps: found.keeps(),
        accepted: found.accepted,
        one_way,
    };
    let remedy = found.remedy();
    let finding = finding(severity, "ruleset", what, found.differs(), Some(&remedy));
    Some(Finding { rule: Some(rule), ..finding })
}

fn of_qdisc(config: &Config, name: &str, kind: &str) -> Option<Finding> {
    let twin = config.ports.iter().any(|port| port.name == name);
    let severity = if twin { Severity::Warning } else { Severity::Note };
    if Qdisc::only_queues(kind) {
        return None;
    }
    if Qdisc::only_filters(kind) {
        return Some(finding(
            severity,
            "qdisc",
            format!("{name}: a {kind} qdisc, where tc's filters and BPF programs attach"),
            "packets of accelerated connections do not pass them",
            Some(&format!("tc filter show dev {name} ingress  (shows what is there)")),
        ));
    }
    Some(finding(
        severity,
        "qdisc",
        format!("{name}: a {kind} qdisc shapes what leaves"),
        "accelerated connections leave past it, at full speed and without its order of precedence",
        Some(&format!(
            "tc qdisc del dev {name} root  (or keep what it shapes in the kernel: accelerate = \"marked\" under [policy])"
        )),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Accelerate, Machine};
    use crate::netlink::testing::{in_namespace, run};

    fn config(accept_loss: &str) -> Config {
        let machine = Machine { cores: vec![0], netns: std::path::PathBuf::new() };
        let text = format!(
            "[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\n[policy]\naccept_loss = [{accept_loss}]\n"
        );
        Config::parse(std::path::Path::new("gw.toml"), &text, &machine).expect("valid")
    }

    fn kernel(accept_loss: &str) -> Kernel {
        Kernel { legacy: Vec::new(), ..Kernel::read(&config(accept_loss)) }
    }

    fn nft(ruleset: &str) {
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), format!("flush ruleset\n{ruleset}")).expect("written");
        run(&format!("nft -f {}", path.path().display()));
    }

    /// Severity, check, and what, of each.
    fn told(kernel: &Kernel, accept_loss: &str) -> Vec<(Severity, &'static str, String)> {
        let found = kernel.findings(&config(accept_loss));
        found.into_iter().map(|finding| (finding.severity, finding.check, finding.what)).collect()
    }

    #[test]
    fn rules_that_must_see_each_packet_are_told_by_their_place() {
        in_namespace(|| {
            nft("table inet fw { chain forward { type filter hook forward priority 0;
                limit rate over 9/second drop comment \"slow\"
                ct state established accept
                counter log
                limit rate 9/second accept
            }; }");
            let found = kernel("").findings(&config(""));
            let [one, two] = found.as_slice() else { panic!("{found:#?}") };
            let rule = one.rule.as_ref().expect("a rule");
            assert_eq!((one.severity, one.check, rule.construct), (Severity::Warning, "ruleset", "limit"));
            assert_eq!((rule.family, rule.table.as_str(), rule.chain.as_str()), ("inet", "fw", "forward"));
            let handle = rule.handle.expect("a handle");
            assert!(rule.keeps && !rule.accepted && !rule.one_way);
            assert_eq!(
                one.what,
                format!("inet fw forward handle {handle} (slow): limit keeps every connection in the kernel")
            );
            let fix = one.fix.as_ref().expect("a fix");
            let line = format!("nft replace rule inet fw forward handle {handle} ct state new ...");
            assert!(fix.contains(&line), "{fix}");
            assert!(fix.ends_with("or accept_loss = [\"limit\"] under [policy]"), "{fix}");
            assert_eq!(two.severity, Severity::Note);
            assert!(
                two.rule.as_ref().is_some_and(|rule| rule.one_way && rule.construct == "limit"),
                "{two:?}"
            );
            let found = told(&kernel("\"limit\""), "\"limit\"");
            assert!(found.iter().all(|(severity, ..)| *severity == Severity::Note), "{found:?}");
            // The line that is proposed does what it says.
            run(&line.replace("...", "limit rate over 9/second drop"));
            let found = kernel("").findings(&config(""));
            assert!(found.iter().all(|finding| finding.severity == Severity::Note), "{found:?}");
        });
    }

    #[test]
    fn without_tracking_nothing_flies() {
        in_namespace(|| {
            let tracking = |ruleset: &str, accelerate| {
                nft(ruleset);
                let mut config = config("");
                config.policy.accelerate = accelerate;
                let found = kernel("").findings(&config);
                let [tracking] = found.as_slice() else { panic!("{found:#?}") };
                assert_eq!(tracking.check, "tracking");
                (tracking.severity, tracking.what.clone(), tracking.fix.clone().expect("a fix"))
            };
            let (severity, _, by_hand) = tracking("", Accelerate::Marked);
            assert_eq!(severity, Severity::Warning, "nothing is marked without `ct mark set`");
            let (severity, what, fix) = tracking("", Accelerate::Auto);
            assert_eq!(severity, Severity::Note, "Flyover's table does it");
            assert!(fix.starts_with(&by_hand) && fix.contains("--no-nft"), "{fix}");
            crate::nft::install(OwnTable::Absent, 0).expect("installed");
            let installed = kernel("").findings(&config(""));
            assert_eq!(installed.first().map(|found| found.what.clone()), Some(what), "while a gateway runs");
            let (severity, what, fix) = tracking("table inet flyover { }", Accelerate::Auto);
            assert_eq!(severity, Severity::Warning);
            assert!(what.ends_with("; and the table inet flyover is not as Flyover makes it"), "{what}");
            assert!(fix.starts_with("nft delete table inet flyover  (") && fix.ends_with(&by_hand), "{fix}");
            // The line that is proposed does what it says, and is that of the documentation.
            assert!(include_str!("../../../../docs/policy.md").contains(&by_hand), "{by_hand}");
            nft(by_hand.trim_start_matches("nft ").trim_matches('\''));
            assert_eq!(told(&kernel(""), ""), []);
            nft(
                "table ip t { chain c { type filter hook forward priority 0; ct state established accept; }; }",
            );
            assert_eq!(
                told(&kernel(""), "").first().map(|found| (found.0, found.1)),
                Some((Severity::Note, "tracking"))
            );
        });
    }

    #[test]
    fn shapers_and_device_chains_are_warned_of() {
        let judgement = || Ok(Judgement::default());
        let qdiscs = [("wan0", "fq_codel"), ("wan0", "cake"), ("ppp0", "htb"), ("wan0", "clsact")];
        let qdiscs = qdiscs.map(|(name, kind)| (name.to_owned(), kind.to_owned())).to_vec();
        let kernel = Kernel { judgement: judgement(), qdiscs, legacy: vec!["filter".to_owned()] };
        let found: Vec<_> =
            told(&kernel, "").into_iter().map(|(severity, check, _)| (severity, check)).collect();
        assert_eq!(
            found,
            [
                (Severity::Note, "iptables"),
                (Severity::Warning, "qdisc"),
                (Severity::Note, "qdisc"),
                (Severity::Warning, "qdisc")
            ]
        );
    }
}
