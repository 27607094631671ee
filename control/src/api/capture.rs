//! Asking for packets: after the reply the connection carries [records](dataplane::capture::Record) until it ends.

use serde::{Deserialize, Serialize};

/// Which packets, and what of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// The filter, as libpcap compiles it for Ethernet: 16 hexadecimal digits an instruction (code, jt, jf, k). Empty:
    /// everything.
    pub program: String,
    /// Where packets are looked at: `rx`, `tx`, `punt`, `drop`, and `decisions`.
    pub points: Vec<String>,
    /// By which ports they come or leave; empty: by any.
    pub ports: Vec<String>,
    /// So many bytes of each, at the most.
    pub bytes: u16,
    /// So many packets of each worker; none for all of them.
    pub packets: Option<u32>,
}

/// What a gateway that is about to send records says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureHead {
    /// Of the gateway: records are understood by the same version alone.
    pub version: String,
    /// Names of the ports by their number in records; empty where there is no port. Those that come later have none.
    pub ports: Vec<String>,
    /// When the clock of records began: nanoseconds since 1970.
    pub epoch_ns: u64,
}
