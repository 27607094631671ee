//! The flowtables of the running ruleset, and whether what they say is what the configuration makes of them.

use serde::Serialize;

use super::{Finding, Severity, finding};
use crate::config::{Accelerate, Config};
use crate::ruleset::{Judgement, UserFlowtable};

/// A flowtable, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FlowtableReference {
    /// The table's family.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its devices.
    pub devices: Vec<String>,
    /// `flags offload`.
    pub offload: bool,
}

pub(super) fn findings(config: &Config, judgement: &Judgement) -> Vec<Finding> {
    let all = judgement.flowtables();
    let selects = matches!(config.policy.accelerate, Accelerate::Auto | Accelerate::Flowtable);
    let idle = selects && !all.iter().any(|flowtable| judgement.is_added_to(flowtable));
    let mut found: Vec<Finding> = all.iter().map(|flowtable| one(flowtable, judgement, idle)).collect();
    if all.is_empty() && config.policy.accelerate == Accelerate::Flowtable {
        found.push(finding(
            Severity::Warning,
            "flowtable",
            "the ruleset has no flowtable".to_owned(),
            "accelerate = \"flowtable\" carries what flowtables select: nothing",
            Some("accelerate = \"auto\" under [policy]  (carries all that the ruleset lets through until there is one)"),
        ));
    }
    found
}

/// `idle`: flowtables select, and nothing is added to any.
fn one(flowtable: &UserFlowtable, judgement: &Judgement, idle: bool) -> Finding {
    let UserFlowtable { family, table, name, devices, offload, .. } = flowtable;
    let flags = if *offload { "; flags offload" } else { "" };
    let what = format!("flowtable {name} of {family} {table}: devices {}{flags}", devices.join(", "));
    let add =
        format!("nft insert rule {family} {table} CHAIN meta l4proto '{{ tcp, udp }}' flow add @{name}");
    let (severity, why, fix) = if judgement.is_added_to(flowtable) {
        let why = "rules add connections to it, which the kernel then forwards past its chains; Flyover asks the rules \
                   all the same";
        (Severity::Note, why, None)
    } else if idle {
        let why = "no rule adds running connections to it, so that nothing is selected, and nothing flies";
        let fix = format!(
            "{add}  (CHAIN: its chain at the forward hook); or accelerate = \"established\" under [policy]"
        );
        (Severity::Warning, why, Some(fix))
    } else {
        (Severity::Note, "no rule adds running connections to it", None)
    };
    let reference = FlowtableReference {
        family: family.name(),
        table: table.clone(),
        name: name.clone(),
        devices: devices.clone(),
        offload: *offload,
    };
    let finding = finding(severity, "flowtable", what, why, fix.as_deref());
    Finding { flowtable: Some(reference), ..finding }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;
    use crate::ruleset::testing::with_flowtable;

    fn told(accelerate: &str, judgement: &Judgement) -> Vec<Severity> {
        let machine = Machine { cores: vec![0], netns: std::path::PathBuf::new() };
        let text = format!(
            "[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\n[policy]\naccelerate = \"{accelerate}\"\n"
        );
        let config = Config::parse(std::path::Path::new("gw.toml"), &text, &machine).expect("valid");
        findings(&config, judgement).iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn what_selects_nothing_is_warned_of() {
        let (used, unused) = (with_flowtable(&["wan0"], true), with_flowtable(&["wan0"], false));
        for (accelerate, with, without, none) in [
            ("auto", Severity::Note, Severity::Warning, None),
            ("flowtable", Severity::Note, Severity::Warning, Some(Severity::Warning)),
            ("established", Severity::Note, Severity::Note, None),
        ] {
            assert_eq!(told(accelerate, &used), [with], "{accelerate}");
            assert_eq!(told(accelerate, &unused), [without], "{accelerate}");
            assert_eq!(told(accelerate, &Judgement::default()), Vec::from_iter(none), "{accelerate}");
        }
    }

    #[test]
    fn it_is_named_with_its_devices_and_what_adds_to_it() {
        let machine = Machine { cores: vec![0], netns: std::path::PathBuf::new() };
        let text = "[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\n";
        let config = Config::parse(std::path::Path::new("gw.toml"), text, &machine).expect("valid");
        let found = findings(&config, &with_flowtable(&["wan0", "lan0"], false));
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(one.what, "flowtable ft of inet t: devices wan0, lan0");
        let fix = one.fix.as_deref().expect("a fix");
        assert!(
            fix.starts_with("nft insert rule inet t CHAIN meta l4proto '{ tcp, udp }' flow add @ft"),
            "{fix}"
        );
        assert_eq!(one.flowtable.as_ref().map(|ft| (ft.name.as_str(), ft.offload)), Some(("ft", false)));
    }
}
