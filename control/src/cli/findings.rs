//! Findings: what is, why it matters, and the command that mends it.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::check::{FlowtableReference, RuleReference};
use super::mend::{Fix, Mend};
use super::style::{Tone, paint};
use crate::config::ConfigError;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The gateway can't run.
    Error,
    /// It runs, but not as it should.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }

    const fn tone(self) -> Tone {
        match self {
            Self::Error => Tone::Bad,
            Self::Warning => Tone::Warn,
            Self::Note => Tone::Faint,
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name of what was looked at.
    pub check: &'static str,
    /// What is.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The command that mends it, where there is one.
    pub fix: Option<String>,
    /// Whether `flyover doctor --fix` mends it.
    pub fixable: bool,
    /// After `--fix`: why it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// What `--fix` does.
    #[serde(skip)]
    pub(crate) mends: Vec<Mend>,
    /// The rule that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleReference>,
    /// The flowtable that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flowtable: Option<FlowtableReference>,
}

impl Finding {
    /// One about nothing in particular.
    pub(super) fn new(
        severity: Severity,
        check: &'static str,
        what: String,
        why: &str,
        fix: Option<&str>,
    ) -> Self {
        Self {
            severity,
            check,
            what,
            why: why.to_owned(),
            fix: fix.map(str::to_owned),
            fixable: false,
            left: None,
            mends: Vec::new(),
            rule: None,
            flowtable: None,
        }
    }

    /// A configuration that can't be used.
    pub(super) fn config(error: &ConfigError) -> Self {
        let why = "the gateway doesn't start with it";
        Self::new(Severity::Error, "config", error.to_string(), why, None)
    }

    /// What `--fix` does about it. Notes stay as they are.
    pub(super) fn mended_by(self, mends: Vec<Mend>) -> Self {
        let fixable = self.severity != Severity::Note && !mends.is_empty();
        Self { fixable, mends, ..self }
    }
}

/// What was found of a configuration and this machine; and of `doctor` what was mended.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Document<'a> {
    /// No finding is an `error`.
    ok: bool,
    /// The worst first.
    findings: &'a [Finding],
    /// With `--fix`: nothing was done, only said.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    /// With `--fix`: what was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    fixes: Option<&'a [Fix]>,
}

/// Writes the JSON document.
pub(super) fn write_json(out: &mut dyn Write, ok: bool, findings: &[Finding]) -> io::Result<()> {
    write_document(out, &Document { ok, findings, dry_run: None, fixes: None })
}

/// Writes the doctor's JSON document.
pub(super) fn write_doctor_json(
    out: &mut dyn Write,
    ok: bool,
    findings: &[Finding],
    fixes: &[Fix],
    dry: bool,
) -> io::Result<()> {
    write_document(out, &Document { ok, findings, dry_run: Some(dry), fixes: Some(fixes) })
}

fn write_document(out: &mut dyn Write, document: &Document<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    writeln!(out)
}

/// Writes findings and a last line that sums them up.
pub(super) fn write_all(out: &mut dyn Write, name: &Path, findings: &[Finding]) -> io::Result<()> {
    write(out, findings)?;
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let verdict = if errors == 0 { "can run" } else { "can't run" };
    writeln!(out, "{}: {verdict}; errors: {errors}, warnings: {warnings}", name.display())
}

/// Writes findings for people.
pub(super) fn write(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    for finding in findings {
        let severity = finding.severity;
        writeln!(out, "{}: {}", paint(severity.tone(), severity.name()), finding.what)?;
        writeln!(out, "  {} {}", paint(Tone::Faint, "why:"), finding.why)?;
        if let Some(fix) = &finding.fix {
            writeln!(out, "  {} {fix}", paint(Tone::Good, "fix:"))?;
        }
        if let Some(left) = &finding.left {
            writeln!(out, "  left: {left}")?;
        }
    }
    Ok(())
}
