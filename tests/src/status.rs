//! What `flyover status --json` and `flyover flows --json` say.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::{LabError, Result};

/// The answer of `flyover status --json`.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// Whether twins, dump and workers are there.
    pub fn ready(&self) -> bool {
        self.0.get("ready").and_then(Value::as_bool).unwrap_or(false)
    }

    /// A counter by its path, such as `packets.fast`.
    ///
    /// # Errors
    /// [`LabError::Shape`] when status has no such number: the contract is broken.
    pub fn counter(&self, path: &str) -> Result<u64> {
        let pointer = format!("/{}", path.replace('.', "/"));
        self.0.pointer(&pointer).and_then(Value::as_u64).ok_or_else(|| LabError::Shape {
            what: format!("status has no number {path}"),
            text: self.0.to_string(),
        })
    }

    /// How it stands with Flyover's own table.
    pub fn own_table(&self) -> &str {
        self.0.pointer("/ruleset/own_table").and_then(Value::as_str).unwrap_or_default()
    }
}

/// One direction of a connection: where its packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Direction {
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
}

/// A connection in the answer of `flyover flows --json`.
#[derive(Clone)]
pub struct Flow(pub Value);

impl Flow {
    /// `tcp` or `udp`.
    pub fn protocol(&self) -> &str {
        self.text("proto")
    }

    /// The state of its slower direction.
    pub fn state(&self) -> &str {
        self.text("state")
    }

    /// The name of the port on which the original direction comes in, empty when not known.
    pub fn in_port(&self) -> &str {
        self.text("in_port")
    }

    /// The name of the port through which it leaves, while that is known.
    pub fn out_port(&self) -> Option<&str> {
        self.0.get("out_port").and_then(Value::as_str)
    }

    /// The first packet's direction, before NAT.
    pub fn original(&self) -> Option<Direction> {
        self.direction("orig")
    }

    /// The other direction, as the kernel expects it.
    pub fn reply(&self) -> Option<Direction> {
        self.direction("reply")
    }

    /// Packets past the kernel, both directions.
    pub fn packets(&self) -> u64 {
        self.sum("packets")
    }

    /// Bytes past the kernel, both directions.
    pub fn bytes(&self) -> u64 {
        self.sum("bytes")
    }

    /// Bytes past the kernel, of the original direction and of the other.
    pub fn bytes_each_way(&self) -> [u64; 2] {
        ["/bytes/orig", "/bytes/reply"].map(|at| self.0.pointer(at).and_then(Value::as_u64).unwrap_or(0))
    }

    /// Whether packets go over the fast path, in software or in the NIC.
    pub fn flies(&self) -> bool {
        matches!(self.state(), "software" | "probing" | "hardware")
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn sum(&self, key: &str) -> u64 {
        let part = |side| self.0.pointer(&format!("/{key}/{side}")).and_then(Value::as_u64).unwrap_or(0);
        part("orig") + part("reply")
    }

    fn direction(&self, key: &str) -> Option<Direction> {
        let tuple = self.0.get(key)?;
        let address = |name| tuple.get(name)?.as_str()?.parse::<IpAddr>().ok();
        let port = |name| tuple.get(name)?.as_u64().and_then(|port| u16::try_from(port).ok());
        Some(Direction {
            source: SocketAddr::new(address("src")?, port("sport")?),
            destination: SocketAddr::new(address("dst")?, port("dport")?),
        })
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Reads the list that `flyover flows --json` prints.
///
/// # Errors
/// [`LabError::Shape`] when it is no list of objects with `proto`, `orig`, `reply` and `state`.
pub fn parse_flows(text: &str) -> Result<Vec<Flow>> {
    let shape = |text: String| LabError::Shape { what: "flows --json".to_owned(), text };
    let json: Value = serde_json::from_str(text).map_err(|e| shape(format!("{e}: {text}")))?;
    let list = json.as_array().ok_or_else(|| shape(text.to_owned()))?;
    let flows: Vec<Flow> = list.iter().cloned().map(Flow).collect();
    for flow in &flows {
        let complete = !flow.protocol().is_empty() && !flow.state().is_empty();
        if !complete || flow.original().is_none() || flow.reply().is_none() {
            return Err(shape(flow.0.to_string()));
        }
    }
    Ok(flows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_connection() {
        let flows = parse_flows(
            r#"[{"proto":"tcp","orig":{"src":"192.168.1.10","dst":"198.51.100.10","sport":4000,"dport":80},
                "reply":{"src":"198.51.100.10","dst":"198.51.100.1","sport":80,"dport":4000},
                "state":"software","why":"","packets":{"orig":3,"reply":4},"bytes":{"orig":1,"reply":2},
                "in_port":"lan0","out_port":"wan0","age_s":1,"idle_s":0}]"#,
        )
        .expect("a list");
        assert_eq!((flows[0].packets(), flows[0].bytes(), flows[0].flies()), (7, 3, true));
        assert_eq!(flows[0].reply().map(|d| d.destination), "198.51.100.1:4000".parse().ok());
    }

    #[test]
    fn a_broken_contract_is_an_error() {
        assert!(parse_flows("{}").is_err());
        assert!(parse_flows(r#"[{"proto":"tcp"}]"#).is_err());
        assert!(Status(serde_json::json!({"packets": {"fast": 1}})).counter("packets.punted").is_err());
    }
}
