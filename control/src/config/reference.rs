//! The configuration reference of docs/configuration.md, made from the types that the file is read into.

use std::fmt::Write as _;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::keys::{KEYS, PORT_KEYS, When};
use super::raw::{
    RawApi, RawFlows, RawHardware, RawIpfix, RawLog, RawMetrics, RawModel, RawPolicy, RawPort, RawWorkers,
};

/// More allowed values than this are listed by their names alone.
const TOLD: usize = 5;

/// Every table of the file, in Markdown.
pub fn reference() -> String {
    let mut text = String::new();
    section::<RawPort>(&mut text, "[[port]]");
    section::<RawWorkers>(&mut text, "[workers]");
    section::<RawFlows>(&mut text, "[flows]");
    section::<RawPolicy>(&mut text, "[policy]");
    section::<RawHardware>(&mut text, "[hardware]");
    section::<RawModel>(&mut text, "[hardware.model]");
    section::<RawApi>(&mut text, "[api]");
    section::<RawMetrics>(&mut text, "[metrics]");
    section::<RawIpfix>(&mut text, "[ipfix]");
    section::<RawLog>(&mut text, "[log]");
    text
}

fn section<T: JsonSchema>(text: &mut String, header: &str) {
    let schema = schema::<T>();
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "## `{header}`\n\n{}\n\n| key | type | default | at run time | meaning |\n|---|---|---|---|---|\n",
        words(&schema)
    );
    let table = header.trim_matches(['[', ']']);
    for (name, key) in keys(&schema) {
        let kind = kind(key);
        let default = default(key, required(&schema).any(|required| required == name));
        let change = at_run_time(&format!("{table}.{name}"));
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | {change} | {} |", meaning(key));
    }
    text.push('\n');
}

/// Whether a reload takes a key over, by its name with that of its table.
fn at_run_time(key: &str) -> &'static str {
    let when = match key.strip_prefix("port.") {
        Some(key) => PORT_KEYS.iter().find(|known| known.name == key).map(|key| key.when),
        None => KEYS.iter().find(|known| known.name == key).map(|key| key.when),
    };
    match when {
        Some(When::AtRunTime) => "yes",
        Some(When::PortAnew) => "port anew",
        Some(When::Restart(..) | When::PortRestart(_)) => "no",
        None => "",
    }
}

fn schema<T: JsonSchema>() -> Value {
    let inline = |settings: &mut SchemaSettings| settings.inline_subschemas = true;
    SchemaSettings::draft2020_12().with(inline).into_generator().into_root_schema_for::<T>().to_value()
}

/// The keys of a table, what must be given first, and no tables in it.
fn keys(schema: &Value) -> Vec<(&str, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let all = properties.into_iter().flat_map(Map::iter).map(|(name, key)| (name.as_str(), key));
    let mut keys: Vec<_> = all.filter(|(_, key)| key.get("properties").is_none()).collect();
    keys.sort_by_key(|(name, _)| !required(schema).any(|required| required == *name));
    keys
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn kind(key: &Value) -> String {
    if let Some(text) = key.get("x-type").and_then(Value::as_str) {
        return text.to_owned();
    }
    if !values(key).is_empty() {
        return "string, one of those on the right".to_owned();
    }
    match (key.get("type").and_then(Value::as_str), key.get("minimum"), key.get("maximum")) {
        (Some("integer"), Some(least), Some(most)) => format!("integer, {least} to {most}"),
        (Some("array"), ..) => match key.get("items") {
            Some(items) if !values(items).is_empty() => "list of strings, of those on the right".to_owned(),
            Some(items) => format!("list of {}s", kind(items)),
            None => "list".to_owned(),
        },
        (Some(kind), ..) => kind.to_owned(),
        (None, ..) => String::new(),
    }
}

fn default(key: &Value, required: bool) -> String {
    match (told_default(key), key.get("x-default").and_then(Value::as_str)) {
        _ if required => "must be given".to_owned(),
        (Some(value), _) => format!("`{value}`"),
        (None, words) => words.unwrap_or_default().to_owned(),
    }
}

/// Not that of an optional field of the type, which says nothing.
fn told_default(key: &Value) -> Option<&Value> {
    key.get("default").filter(|value| !value.is_null())
}

fn meaning(key: &Value) -> String {
    let mut text = words(key);
    let values = match key.get("items") {
        Some(items) => values(items),
        None => values(key),
    };
    if values.len() > TOLD {
        let names: Vec<_> = values.iter().map(|(name, _)| format!("`{name}`")).collect();
        let _ = write!(text, " One of {}", names.join(", "));
    } else {
        for (name, meaning) in values {
            let _ = write!(text, "<br>`{name}`: {meaning}");
        }
    }
    text
}

/// The values that a key takes, as they are written, and what they mean.
fn values(key: &Value) -> Vec<(&Value, String)> {
    let choices = key.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    choices.filter_map(|choice| Some((choice.get("const")?, words(choice)))).collect()
}

fn words(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::raw::Raw;
    use super::super::{Config, Machine};
    use super::*;

    const BEGIN: &str =
        "<!-- made from control/src/config/raw.rs: UPDATE=1 cargo test -p flyover --lib reference -->\n\n";
    const END: &str = "<!-- made until here -->\n";

    #[test]
    fn the_page_is_what_the_types_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = std::fs::read_to_string(&path).expect("docs/configuration.md");
        let (before, rest) = page.split_once(BEGIN).expect("where the reference begins");
        let (made, after) = rest.split_once(END).expect("where it ends");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", reference())).expect("written");
        } else {
            assert!(
                made == reference(),
                "docs/configuration.md is old: UPDATE=1 cargo test -p flyover --lib reference"
            );
        }
    }

    #[test]
    fn every_table_and_key_is_there_with_its_meaning() {
        let text = reference();
        let all = schema::<Raw>();
        let tables = all.get("properties").and_then(Value::as_object).expect("tables");
        for (name, table) in tables {
            assert!(text.contains(&format!("[{name}]")), "{name} is missing");
            let table = table.get("items").unwrap_or(table);
            for (key, schema) in keys(table) {
                assert!(text.contains(&format!("| `{key}` |")), "{name}.{key} is missing");
                assert!(!words(schema).is_empty() && !kind(schema).is_empty(), "{name}.{key} says nothing");
                let must = required(table).any(|required| required == key);
                assert!(!default(schema, must).is_empty(), "{name}.{key} has no default");
            }
        }
    }

    /// Sets one key, below a port of the least.
    fn config(table: &str, key: &str, value: &str) -> Result<Config, String> {
        let line = if key.is_empty() { String::new() } else { format!("{key} = {value}\n") };
        let port = "[[port]]\nname = \"wan0\"\ndevice = \"0000:3b:00.0\"\n";
        let text = match table {
            "port" => format!("{port}{line}"),
            "ipfix" => format!("{port}[ipfix]\ncollectors = [\"192.0.2.1:4739\"]\n{line}"),
            _ => format!("{port}[{table}]\n{line}"),
        };
        let machine = Machine { cores: vec![0, 1], netns: "/nonexistent".into() };
        Config::parse(Path::new("gw.toml"), &text, &machine).map_err(|error| error.to_string())
    }

    fn each(mut look: impl FnMut(&str, &str, &Value)) {
        let tables = [
            ("port", schema::<RawPort>()),
            ("workers", schema::<RawWorkers>()),
            ("flows", schema::<RawFlows>()),
            ("policy", schema::<RawPolicy>()),
            ("hardware", schema::<RawHardware>()),
            ("hardware.model", schema::<RawModel>()),
            ("api", schema::<RawApi>()),
            ("metrics", schema::<RawMetrics>()),
            ("ipfix", schema::<RawIpfix>()),
            ("log", schema::<RawLog>()),
        ];
        for (table, schema) in &tables {
            keys(schema).into_iter().for_each(|(name, key)| look(table, name, key));
        }
    }

    #[test]
    fn what_is_told_as_the_default_is_the_default() {
        let mut told = 0;
        each(|table, name, key| {
            let Some(default) = told_default(key) else { return };
            assert_eq!(config(table, name, &default.to_string()), config(table, "", ""), "{table}.{name}");
            told += 1;
        });
        assert!(told > 10, "{told}");
    }

    #[test]
    fn what_is_told_as_allowed_is_allowed_and_nothing_beside() {
        each(|table, name, key| {
            for (value, _) in values(key) {
                assert!(config(table, name, &value.to_string()).is_ok(), "{table}.{name} = {value}");
            }
            let bound = |bound| key.get(bound).and_then(Value::as_i64);
            let (Some(least), Some(most)) = (bound("minimum"), bound("maximum")) else { return };
            for inside in [least, most] {
                let told = config(table, name, &inside.to_string());
                assert!(told.is_ok(), "{table}.{name} = {inside}: {told:?}");
            }
            for outside in [least - 1, most + 1] {
                assert!(config(table, name, &outside.to_string()).is_err(), "{table}.{name} = {outside}");
            }
        });
    }
}
