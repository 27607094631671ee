//! The file as it is written, by TOML's types and with the place of each value.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Problem, nearest};
use super::source::Source;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) port: Vec<Spanned<RawPort>>,
    pub(super) workers: RawWorkers,
    pub(super) flows: RawFlows,
    pub(super) policy: RawPolicy,
    pub(super) hardware: RawHardware,
    pub(super) api: RawApi,
    pub(super) metrics: RawMetrics,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPort {
    pub(super) name: Spanned<String>,
    pub(super) device: Spanned<String>,
    pub(super) netns: Option<Spanned<String>>,
    pub(super) queues: Option<Spanned<i64>>,
    pub(super) descriptors: Option<Spanned<i64>>,
    pub(super) mtu: Option<Spanned<i64>>,
    pub(super) twin_io: Option<Spanned<String>>,
    pub(super) bind: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorkers {
    pub(super) cores: Option<Spanned<Vec<Spanned<i64>>>>,
    pub(super) idle_sleep: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFlows {
    pub(super) capacity: Option<Spanned<i64>>,
    pub(super) revalidate_within: Option<Spanned<String>>,
    pub(super) reprove_every: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    pub(super) accelerate: Option<Spanned<String>>,
    pub(super) accept_loss: Vec<Spanned<String>>,
    pub(super) mark: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHardware {
    pub(super) offload: Option<Spanned<String>>,
    pub(super) hot: Option<Spanned<i64>>,
    pub(super) mark: Option<Spanned<String>>,
    pub(super) model: RawModel,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    pub(super) tier: Option<Spanned<String>>,
    pub(super) capacity: Option<Spanned<i64>>,
    pub(super) queues: Option<bool>,
    pub(super) groups: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApi {
    pub(super) socket: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    pub(super) listen: Option<Spanned<String>>,
}

/// Reads TOML into its shape; says what is wrong in the words of the file.
pub(super) fn parse(source: &Source<'_>) -> Result<Raw, ConfigError> {
    let Source::File { text, .. } = *source else { return Ok(Raw::default()) };
    toml::from_str(text).map_err(|error| {
        let problem = explain(source, &error);
        match error.span() {
            Some(span) => source.fault_at(&span, problem),
            None => source.fault(problem),
        }
    })
}

/// Serde tells its errors apart by their words alone; what isn't recognised is passed on as it is.
fn explain(source: &Source<'_>, error: &toml::de::Error) -> Problem {
    let message = error.message();
    let span = error.span().unwrap_or(0..0);
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown_key(source, &span, rest);
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        let key = key.trim_matches('`').to_owned();
        let right = match key.as_str() {
            "device" => r#"add device = "0000:3b:00.0" (a PCI address) or "net_tap0,iface=uplink" (a vdev)"#,
            _ => r#"add name = "wan0", the name of the twin interface"#,
        };
        return Problem::Missing { key, table: source.table(span.start), right: right.to_owned() };
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        return Problem::WrongType {
            key: source.key(span.start).map(str::to_owned),
            found: found.to_owned(),
            expected: type_name(expected).to_owned(),
        };
    }
    Problem::Syntax { message: message.replace('\n', ", ") }
}

fn unknown_key(source: &Source<'_>, span: &Range<usize>, rest: &str) -> Problem {
    let mut words = rest.split('`').skip(1).step_by(2);
    let key = words.next().unwrap_or(rest).to_owned();
    let valid: Vec<String> = words.map(str::to_owned).collect();
    let near = nearest(&key, valid.iter().map(String::as_str)).map(str::to_owned);
    // A table that doesn't exist is its own header: naming it twice would only confuse.
    let table = source.table(span.start).filter(|header| header.trim_matches(['[', ']', ' ']) != key);
    Problem::UnknownKey { key, table, near, valid }
}

fn type_name(expected: &str) -> &str {
    match expected {
        "i64" => "a whole number",
        "a string" => "a string in quotes",
        "a sequence" => "a list in [ ]",
        text if text.starts_with("struct RawPort") => "a [[port]] table",
        text if text.starts_with("struct ") => "a table",
        other => other,
    }
}
