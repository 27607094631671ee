//! What came of reading the configuration again.

use serde::{Deserialize, Serialize};

/// An order to read the configuration again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadState {
    /// Its number.
    pub number: u64,
    /// What came of it; null: it is under way.
    pub report: Option<ReloadReport>,
}

/// What came of reading the configuration again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadReport {
    /// In a word.
    pub outcome: ReloadOutcome,
    /// The file; null: the gateway was started with `--port`.
    pub file: Option<String>,
    /// What changes at run time: it was taken over if the outcome is `applied`.
    pub changed: Vec<ReloadChange>,
    /// What takes a restart, and was not taken over.
    pub restart: Vec<ReloadChange>,
    /// What went wrong.
    pub error: Option<String>,
    /// What is worth knowing besides.
    pub notices: Vec<String>,
}

/// In a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ReloadOutcome {
    /// What changes at run time was taken over.
    Applied,
    /// Nothing differs.
    #[default]
    Unchanged,
    /// Nothing was to be changed.
    Checked,
    /// Something takes a restart: nothing was changed.
    Refused,
    /// Something went wrong: nothing was changed, or `error` says what was.
    Failed,
}

/// A key whose value differs; a port that comes or goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReloadChange {
    /// As in `flows.reprove_every`, `port.wan0` or `port.wan0.device`.
    pub key: String,
    /// As it ran until now; null: not set, or no such port.
    pub old: Option<String>,
    /// As the file has it.
    pub new: Option<String>,
    /// Why it takes a restart; null if it does not.
    pub why: Option<String>,
}
