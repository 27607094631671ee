//! What `flyover explain` says of a connection.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{Gateway, LabError, Result};

/// The answer of `flyover explain --json`.
#[derive(Clone, Debug)]
pub struct Explained(pub Value);

impl Explained {
    /// Asks for the connection of which this is a packet, as it comes to the gateway.
    ///
    /// # Errors
    /// When nobody answers, or no JSON.
    pub fn ask(
        gateway: &Gateway,
        protocol: &str,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
    ) -> Result<Self> {
        let (from, to) = (from.into().to_string(), to.into().to_string());
        let text = gateway.ask(&["explain", protocol, &from, &to, "--json"])?;
        let json = serde_json::from_str(&text).map_err(|error| LabError::Shape {
            what: "explain --json".to_owned(),
            text: format!("{error}: {text}"),
        })?;
        Ok(Self(json))
    }

    /// `flyover`, `kernel` or `nowhere`: who knows it.
    pub fn known(&self) -> &str {
        self.text("/known")
    }

    /// Why its packets go where they go.
    pub fn why(&self) -> &str {
        self.text("/why")
    }

    /// What can be done, the lines joined.
    pub fn advice(&self) -> String {
        let lines = self.0.pointer("/advice").and_then(Value::as_array).into_iter().flatten();
        lines.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }

    /// What else is to be seen of the directions, the lines joined.
    pub fn notes(&self) -> String {
        let directions = self.0.pointer("/directions").and_then(Value::as_array).into_iter().flatten();
        let notes = directions.filter_map(|direction| direction.get("notes")?.as_array()).flatten();
        notes.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The state in `flows`, empty where Flyover does not know the connection.
    pub fn state(&self) -> &str {
        self.text("/connection/state")
    }

    /// conntrack's zone, where it has the connection.
    pub fn zone(&self) -> Option<u64> {
        self.0.pointer("/conntrack/zone").and_then(Value::as_u64)
    }

    /// A string by its JSON pointer, empty where there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}
