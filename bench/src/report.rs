//! Results: rows, as JSON for programs and as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::measure::Cost;

/// Cycles a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Cycles {
    /// Median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// One figure beside its peer's.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is measured.
    pub name: String,
    /// Connections in the table; half as many as entries.
    pub connections: u64,
    /// TSC cycles a packet, or an operation.
    pub cycles_per_packet: Cycles,
    /// What it is compared with.
    pub peer: Option<String>,
    /// The peer's median.
    pub peer_cycles: Option<f64>,
    /// Ours divided by the peer's.
    pub ratio: Option<f64>,
    /// Further medians of the same run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub yardsticks: BTreeMap<String, f64>,
    /// TSC cycles a dependent addition during the turns that count.
    pub clean: f64,
    /// Whether all these turns were undisturbed.
    pub undisturbed: bool,
    /// What the table's memory is made of.
    pub pages: String,
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Row {
    /// A row without a peer.
    pub fn new(name: &str, connections: u64, cost: &Cost) -> Self {
        let [median, min, max] = [cost.median, cost.min, cost.max].map(round);
        Self {
            name: name.to_owned(),
            connections,
            cycles_per_packet: Cycles { median, min, max },
            peer: None,
            peer_cycles: None,
            ratio: None,
            yardsticks: BTreeMap::new(),
            clean: 0.0,
            undisturbed: true,
            pages: String::new(),
        }
    }

    /// Adds the peer.
    pub fn set_peer(&mut self, peer: &str, cycles: f64) {
        self.peer = Some(peer.to_owned());
        self.peer_cycles = Some(round(cycles));
        self.ratio = Some((self.cycles_per_packet.median / cycles.max(0.01) * 1000.0).round() / 1000.0);
    }
}

/// Everything of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// TSC cycles a dependent addition: median over the rows. 0.71 on the development machines when clean.
    pub clean: f64,
    /// The processor.
    pub processor: String,
    /// The TSC's rate.
    pub tsc_mhz: u64,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// Of these rows.
    pub fn new(rows: Vec<Row>) -> Self {
        let mut cleans: Vec<f64> = rows.iter().map(|row| row.clean).collect();
        let clean = (crate::measure::median(&mut cleans) * 1000.0).round() / 1000.0;
        let tsc_mhz = dataplane::dpdk::tsc_hz() / 1_000_000;
        Self { clean, processor: crate::machine::processor(), tsc_mhz, rows }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} at {} MHz (TSC); a dependent addition takes {:.2} cycles\n{:<38} {:>9} {:>9} {:>8} {:>8}  {:<24}{:>8}{:>7}  also\n",
            self.processor,
            self.tsc_mhz,
            self.clean,
            "name",
            "flows",
            "cycles",
            "min",
            "max",
            "peer",
            "cycles",
            "ratio"
        );
        for row in &self.rows {
            let Cycles { median, min, max } = row.cycles_per_packet;
            let _ = write!(
                text,
                "{:<38} {:>9} {median:>9.1} {min:>8.1} {max:>8.1}  {:<24}",
                row.name,
                row.connections,
                row.peer.as_deref().unwrap_or("-")
            );
            if let (Some(cycles), Some(ratio)) = (row.peer_cycles, row.ratio) {
                let _ = write!(text, "{cycles:>8.1}{ratio:>7.2}");
            }
            for (name, cycles) in &row.yardsticks {
                let _ = write!(text, "  {name} {cycles:.1}");
            }
            let _ = writeln!(text, "{}", if row.undisturbed { "" } else { "  (disturbed)" });
        }
        text
    }
}
