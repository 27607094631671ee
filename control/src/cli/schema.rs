//! The schemas of `docs/schema`: made from the types, and compared with what is there.

use std::path::PathBuf;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use super::findings::Document;
use super::flows::Rated;
use crate::api::{
    DirectionRules, EventInfo, Explanation, PortHardware, PortStatus, ReloadReport, Stats, Status,
};

/// A document's schema, as it is written.
fn schema<T: JsonSchema>(title: &str) -> Schema {
    let mut schema =
        SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema
}

/// The schemas by the names of their files.
fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("status", schema::<Status>("flyover status --json")),
        ("ports", schema::<Vec<PortStatus>>("flyover ports --json")),
        ("flows", schema::<Vec<Rated>>("flyover flows --json")),
        ("stats", schema::<Stats>("flyover stats --json")),
        ("hardware", schema::<Vec<PortHardware>>("flyover hardware --json")),
        ("rules", schema::<Vec<DirectionRules>>("flyover hardware --rules PROTO SRC DST --json")),
        ("explain", schema::<Explanation>("flyover explain PROTO SRC DST --json")),
        ("events", schema::<Vec<EventInfo>>("flyover events --json")),
        ("event", schema::<EventInfo>("flyover events --follow --json, a line")),
        ("reload", schema::<ReloadReport>("flyover reload --json")),
        ("check", schema::<Document<'_>>("flyover check --json, flyover doctor --json")),
    ]
}

/// With `UPDATE=1` it writes them.
#[test]
fn committed_schemas_are_those_of_the_types() {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema"));
    let update = std::env::var_os("UPDATE").is_some();
    let mut names: Vec<String> = Vec::new();
    for (name, schema) in all() {
        let path = directory.join(format!("{name}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).expect("JSON"));
        if update {
            std::fs::write(&path, &text).expect("written");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{} is not what the types say: make schemas", path.display());
        names.push(format!("{name}.json"));
    }
    let found = std::fs::read_dir(&directory).expect("docs/schema").flatten();
    let mut found: Vec<String> =
        found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names, "nothing else lies in docs/schema");
}
