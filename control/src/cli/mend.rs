//! What `flyover doctor --fix` does about findings, and what became of it.

use std::io::{self, Write};

use serde::Serialize;

use super::findings::{Finding, Severity};
use crate::host::Host;

/// Something that can be done while everything runs, and undone: it is gone when the machine starts anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    /// Sets something.
    Set {
        /// Its name.
        setting: String,
        /// Its file.
        path: String,
        /// What it should be.
        value: String,
    },
    /// Loads a module of the kernel.
    Load(&'static str),
}

impl Mend {
    /// A setting below `/proc/sys`, by its name with dots. Names of interfaces have none here.
    pub(super) fn sysctl(name: &str, value: u64) -> Self {
        let path = format!("proc/sys/{}", name.replace('.', "/"));
        Self::Set { setting: name.to_owned(), path, value: value.to_string() }
    }

    fn setting(&self) -> String {
        match self {
            Self::Set { setting, .. } => setting.clone(),
            Self::Load(module) => format!("module {module}"),
        }
    }

    fn wanted(&self) -> String {
        match self {
            Self::Set { value, .. } => value.clone(),
            Self::Load(_) => LOADED.to_owned(),
        }
    }

    fn state(&self, host: &Host<'_>) -> Option<String> {
        match self {
            Self::Set { path, .. } => host.read(path),
            Self::Load(module) => {
                let there = host.has(&format!("sys/module/{}", module.replace('-', "_")));
                Some(if there { LOADED } else { "not loaded" }.to_owned())
            }
        }
    }

    fn act(&self, host: &Host<'_>) -> Result<(), String> {
        match self {
            Self::Set { path, value, .. } => host.write(path, value).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "can't write {value} to /{path}: {error}; run as root, outside of a container or namespace"
                ),
                _ => format!("can't write {value} to /{path}: {error}"),
            }),
            Self::Load(module) => host.run(&["modprobe", module]).map(drop),
        }
    }
}

const LOADED: &str = "loaded";

/// What became of one thing that was to be mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Fix {
    /// The finding's `check`.
    check: &'static str,
    /// What was set.
    setting: String,
    /// What it was.
    before: Option<String>,
    /// What it is; with `--dry-run` what it would be.
    after: Option<String>,
    /// Whether it is as it should be.
    done: bool,
    /// Why it is not.
    error: Option<String>,
}

impl Fix {
    fn of(check: &'static str, mend: &Mend, host: &Host<'_>, dry: bool) -> Self {
        let (setting, before) = (mend.setting(), mend.state(host));
        if dry {
            let after = Some(mend.wanted());
            return Self { check, setting, before, after, done: false, error: None };
        }
        let outcome = mend.act(host);
        let after = mend.state(host);
        let done = after.as_deref() == Some(mend.wanted().as_str());
        let short = || format!("the kernel made it less than {}", mend.wanted());
        let error = outcome.err().or_else(|| (!done).then(short));
        Self { check, setting, before, after, done, error }
    }
}

/// Mends what can be: errors and warnings, not notes. With `dry` it only says what it would do.
pub(super) fn mend(host: &Host<'_>, findings: &[Finding], dry: bool) -> Vec<Fix> {
    let mut fixes: Vec<Fix> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.fixable) {
        for mend in &finding.mends {
            // Two findings may ask for the same.
            if fixes.iter().all(|fix| fix.setting != mend.setting()) {
                fixes.push(Fix::of(finding.check, mend, host, dry));
            }
        }
    }
    fixes
}

/// Says of each finding that is still there why it is.
pub(super) fn explain(findings: &mut [Finding], fixes: &[Fix]) {
    for finding in findings.iter_mut().filter(|finding| finding.severity != Severity::Note) {
        let failed = fixes.iter().find(|fix| fix.check == finding.check && fix.error.is_some());
        finding.left = Some(match failed {
            Some(fix) if finding.fixable => {
                format!("{}: {}", fix.setting, fix.error.clone().unwrap_or_default())
            }
            _ if finding.fixable => "only --fix without --dry-run does it".to_owned(),
            _ => whose(finding.check).to_owned(),
        });
    }
}

/// Why a finding is left to the operator.
fn whose(check: &str) -> &'static str {
    match check {
        "config" | "numa" => "the configuration says so: it is for you to change",
        "privileges" => "it depends on how this process was started",
        "twin" | "device" | "offloads" => {
            "others may use the interface: whether it changes is for you to say"
        }
        "forwarding" | "rp_filter" => "it decides what the kernel lets through: that is policy, and yours",
        "ruleset" | "tracking" | "flowtable" | "iptables" | "qdisc" => {
            "rules and qdiscs are policy, and yours"
        }
        "iommu" | "isolation" | "nohz" => {
            "it takes another command line of the kernel, and a restart of the machine"
        }
        "nic" => "it takes hands: the slot, the firmware",
        _ => "it can't be mended while the machine runs, or not from here",
    }
}

/// For people.
pub(super) fn write(out: &mut dyn Write, fixes: &[Fix], dry: bool) -> io::Result<()> {
    let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    for fix in fixes {
        let did = match (dry, fix.done) {
            (true, _) => "would set",
            (false, true) => "set",
            (false, false) => "failed",
        };
        write!(out, "{did}: {}: {} -> {}", fix.setting, told(&fix.before), told(&fix.after))?;
        match &fix.error {
            Some(error) => writeln!(out, "; {error}")?,
            None => writeln!(out)?,
        }
    }
    if fixes.iter().any(|fix| fix.done) {
        writeln!(
            out,
            "until the machine starts anew: what should stay belongs into /etc/sysctl.d, /etc/modules-load.d or a unit"
        )?;
    }
    Ok(())
}
