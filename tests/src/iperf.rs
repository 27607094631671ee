//! iperf3, and what it measured.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::process::mortal;
use crate::{Lab, LabError, Namespace, Result, wait};

/// A run of iperf3 between two namespaces.
#[derive(Clone, Debug)]
pub struct Iperf {
    port: u16,
    seconds: u32,
    udp: bool,
    reverse: bool,
    bitrate: Option<String>,
    streams: u32,
    length: Option<u32>,
}

/// What iperf3 measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// UDP datagrams sent.
    pub packets: u64,
    /// UDP datagrams lost.
    pub lost: u64,
    /// UDP datagrams that came after a later one.
    pub out_of_order: u64,
}

impl Iperf {
    /// TCP, as fast as it goes.
    pub fn tcp(port: u16, seconds: u32) -> Self {
        Self { port, seconds, udp: false, reverse: false, bitrate: None, streams: 1, length: None }
    }

    /// UDP at a bit rate such as `20M`.
    pub fn udp(port: u16, seconds: u32, bitrate: &str) -> Self {
        Self { udp: true, bitrate: Some(bitrate.to_owned()), ..Self::tcp(port, seconds) }
    }

    /// At a bit rate such as `20M`, for each stream.
    pub fn bitrate(mut self, bitrate: &str) -> Self {
        self.bitrate = Some(bitrate.to_owned());
        self
    }

    /// The server sends.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// As many streams at once.
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = streams;
        self
    }

    /// Bytes a write.
    pub fn length(mut self, length: u32) -> Self {
        self.length = Some(length);
        self
    }

    /// Runs it from the laboratory's client to its server at `to`.
    ///
    /// # Errors
    /// When either side fails or prints no JSON.
    pub fn run(&self, lab: &Lab, to: Ipv4Addr) -> Result<Measured> {
        self.run_between(lab, lab.client(), lab.server(), to)
    }

    /// Runs it between two namespaces.
    ///
    /// # Errors
    /// When either side fails or prints no JSON.
    pub fn run_between(
        &self,
        lab: &Lab,
        client: &Namespace,
        server: &Namespace,
        to: Ipv4Addr,
    ) -> Result<Measured> {
        let port = self.port.to_string();
        let mut command = mortal("iperf3");
        command.args(["-s", "-1", "-p", &port]);
        let _server = server.start(&format!("iperf3-server-{port}"), command, lab.directory())?;
        wait::until_true(wait::PATIENCE, "iperf3 to listen", || {
            server.run(&format!("ss -Htln sport = :{port}")).is_ok_and(|lines| !lines.trim().is_empty())
        })?;
        let mut command = mortal("iperf3");
        command.args(["-J", "-c", &to.to_string(), "-p", &port, "-t", &self.seconds.to_string()]);
        command.args(["-P", &self.streams.to_string()]);
        if self.udp {
            command.arg("-u");
        }
        if self.reverse {
            command.arg("-R");
        }
        if let Some(bitrate) = &self.bitrate {
            command.args(["-b", bitrate]);
        }
        if let Some(length) = self.length {
            command.args(["-l", &length.to_string()]);
        }
        let mut process = client.start(&format!("iperf3-client-{port}"), command, lab.directory())?;
        process.wait(Duration::from_secs(u64::from(self.seconds)) + 2 * wait::PATIENCE)?;
        self.read(&process.output())
    }

    fn read(&self, text: &str) -> Result<Measured> {
        let shape = |text: String| LabError::Shape { what: "iperf3".to_owned(), text };
        let json: Value = serde_json::from_str(text).map_err(|e| shape(format!("{e}: {text}")))?;
        if let Some(error) = json.get("error") {
            return Err(shape(error.to_string()));
        }
        let end = json.get("end").ok_or_else(|| shape(text.to_owned()))?;
        let count = |pointer: &str| end.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let bits = |pointer: &str| end.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
        if !self.udp {
            return Ok(Measured {
                bits_per_second: bits("/sum_received/bits_per_second"),
                retransmits: count("/sum_sent/retransmits"),
                ..Measured::default()
            });
        }
        let streams = end.get("streams").and_then(Value::as_array).ok_or_else(|| shape(text.to_owned()))?;
        let out_of_order = |stream: &Value| stream.pointer("/udp/out_of_order").and_then(Value::as_u64);
        Ok(Measured {
            bits_per_second: bits("/sum/bits_per_second"),
            packets: count("/sum/packets"),
            lost: count("/sum/lost_packets"),
            out_of_order: streams.iter().filter_map(out_of_order).sum(),
            retransmits: 0,
        })
    }
}
