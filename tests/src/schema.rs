//! Whether an answer of Flyover's is what `docs/schema` says.
//!
//! The schemas use a part of JSON Schema, which is looked at here in full; a keyword that is not known is a fault, not
//! something to be passed over. Stricter than the standard in one thing: a key that the schema does not name is a fault,
//! since it is documented nowhere.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::{LabError, Result};

/// What says nothing of whether a document is right.
const REMARKS: [&str; 6] = ["$schema", "$defs", "title", "description", "format", "default"];

/// A schema of `docs/schema`.
#[derive(Clone, Debug)]
pub struct Schema {
    name: String,
    root: Value,
}

impl Schema {
    /// Reads `docs/schema/NAME.json`.
    ///
    /// # Errors
    /// When it is not there, or no JSON.
    pub fn read(name: &str) -> Result<Self> {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema"));
        let path = path.join(format!("{name}.json"));
        let what = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(LabError::io(format!("read {what}")))?;
        let root =
            serde_json::from_str(&text).map_err(|error| LabError::Shape { what, text: error.to_string() })?;
        Ok(Self { name: name.to_owned(), root })
    }

    /// Reads a document that is to be what the schema says.
    ///
    /// # Errors
    /// With all that is not.
    pub fn parse(&self, text: &str) -> Result<Value> {
        let shape = |why: String| LabError::Shape {
            what: format!("against docs/schema/{}.json", self.name),
            text: why,
        };
        let document = serde_json::from_str(text).map_err(|error| shape(format!("{error}: {text}")))?;
        let faults = self.faults(&document);
        if faults.is_empty() { Ok(document) } else { Err(shape(format!("{}\n{text}", faults.join("\n")))) }
    }

    fn faults(&self, document: &Value) -> Vec<String> {
        let mut look = Look { root: &self.root, faults: Vec::new() };
        look.at("", &self.root, document);
        look.faults
    }
}

/// A look at a document.
struct Look<'a> {
    root: &'a Value,
    faults: Vec<String>,
}

impl Look<'_> {
    fn fault(&mut self, place: &str, why: impl std::fmt::Display) {
        self.faults.push(format!("{}: {why}", if place.is_empty() { "/" } else { place }));
    }

    /// Whether a value fits a schema, with nothing noted.
    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut look = Look { root: self.root, faults: Vec::new() };
        look.at("", schema, value);
        look.faults.is_empty()
    }

    fn at(&mut self, place: &str, schema: &Value, value: &Value) {
        let Some(schema) = schema.as_object() else {
            // `true` is right for anything.
            return if schema != &Value::Bool(true) {
                self.fault(place, "no schema");
            };
        };
        for (keyword, what) in schema {
            match keyword.as_str() {
                "type" => self.kind(place, what, value),
                "const" if value != what => self.fault(place, format!("{value} is not {what}")),
                "const" => {}
                "enum" if !list(what).contains(value) => {
                    self.fault(place, format!("{value} is none of {what}"));
                }
                "enum" => {}
                "minimum" | "maximum" => self.bound(place, keyword == "minimum", what, value),
                "properties" | "additionalProperties" => {}
                "required" => self.required(place, what, value),
                "items" => {
                    for (at, item) in list(value).iter().enumerate() {
                        self.at(&format!("{place}/{at}"), what, item);
                    }
                }
                "$ref" => {
                    match what.as_str().and_then(|path| self.root.pointer(path.trim_start_matches('#'))) {
                        Some(there) => self.at(place, there, value),
                        None => self.fault(place, format!("{what} leads nowhere")),
                    }
                }
                "anyOf" | "oneOf" => {
                    let fitting = list(what).iter().filter(|one| self.fits(one, value)).count();
                    if fitting == 0 || (keyword == "oneOf" && fitting > 1) {
                        self.fault(place, format!("{value} fits {fitting} of {what}"));
                    }
                }
                remark if REMARKS.contains(&remark) => {}
                other => self.fault(place, format!("the schema says {other}, which is not looked at")),
            }
        }
        self.keys(place, schema, value);
    }

    fn kind(&mut self, place: &str, what: &Value, value: &Value) {
        let is = |kind: &Value| match kind.as_str().unwrap_or_default() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        };
        if !(is(what) || list(what).iter().any(is)) {
            self.fault(place, format!("{value} is no {what}"));
        }
    }

    fn bound(&mut self, place: &str, least: bool, what: &Value, value: &Value) {
        let (Some(bound), Some(number)) = (what.as_f64(), value.as_f64()) else { return };
        if (least && number < bound) || (!least && number > bound) {
            self.fault(place, format!("{value} is beyond {what}"));
        }
    }

    fn required(&mut self, place: &str, what: &Value, value: &Value) {
        for key in list(what).iter().filter_map(Value::as_str) {
            if value.is_object() && value.get(key).is_none() {
                self.fault(place, format!("{key} is missing"));
            }
        }
    }

    /// Each key by its own schema, or by that of all the others.
    fn keys(&mut self, place: &str, schema: &Map<String, Value>, value: &Value) {
        let others = schema.get("additionalProperties");
        let named = schema.get("properties");
        if others.is_none() && named.is_none() {
            return;
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            let place = format!("{place}/{key}");
            match named.and_then(|named| named.get(key)).or(others) {
                Some(schema) => self.at(&place, schema, value),
                None => self.fault(&place, "is not in the schema"),
            }
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_fault_is_found() {
        let root = json!({
            "type": "object",
            "required": ["name", "count"],
            "properties": {
                "name": { "type": ["string", "null"], "description": "a remark" },
                "count": { "type": "integer", "minimum": 0 },
                "state": { "oneOf": [{ "const": "up" }, { "const": "down" }] },
                "list": { "type": "array", "items": { "$ref": "#/$defs/thing" } },
                "fields": { "type": "object", "additionalProperties": { "type": "string" } },
                "either": { "anyOf": [{ "$ref": "#/$defs/thing" }, { "type": "null" }] },
            },
            "$defs": { "thing": { "type": "object", "properties": { "a": { "enum": [1, 2] } } } },
        });
        let schema = Schema { name: "test".to_owned(), root };
        let right = json!({
            "name": null, "count": 3, "state": "up", "list": [{ "a": 1 }, {}], "fields": { "x": "y" }, "either": null,
        });
        assert_eq!(schema.faults(&right), [""; 0]);
        for (pointer, wrong, expected) in [
            ("/name", json!(1), "/name: 1 is no"),
            ("/count", json!(-1), "/count: -1 is beyond 0"),
            ("/count", json!(1.5), "/count: 1.5 is no"),
            ("/state", json!("left"), "/state: \"left\" fits 0 of"),
            ("/list/0/a", json!(3), "/list/0/a: 3 is none of"),
            ("/list/1", json!({ "b": 1 }), "/list/1/b: is not in the schema"),
            ("/fields/x", json!(1), "/fields/x: 1 is no"),
            ("/either", json!({ "a": 7 }), "/either: {\"a\":7} fits 0 of"),
            ("", json!({ "name": "x" }), "/: count is missing"),
            ("", json!([]), "/: [] is no"),
        ] {
            let mut document = right.clone();
            *document.pointer_mut(pointer).expect("a place") = wrong;
            let faults = schema.faults(&document);
            assert!(faults.len() == 1 && faults[0].starts_with(expected), "{expected}: {faults:?}");
        }
        let unknown = Schema { root: json!({ "pattern": "x" }), ..schema };
        assert!(unknown.faults(&json!("x"))[0].contains("pattern"), "no keyword is passed over");
    }
}
