//! The JSON documents. Keys are stable: they are added to, not renamed.

use std::net::IpAddr;

use dataplane::flow::{FiveTuple, TCP, UDP};
use dataplane::packet::{DropReason, PuntReason};
use serde::{Deserialize, Serialize};

use super::counters::ByReason;
use super::hardware::MarkCounts;

/// `flyover status`: the gateway at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Status {
    /// Flyover's version.
    pub version: String,
    /// Twins exist and are attached, conntrack's dump is in, and workers poll.
    pub ready: bool,
    /// Seconds since start.
    pub uptime_s: u64,
    /// What `policy.accelerate` comes to with the ruleset as it is, in words.
    pub policy: String,
    /// The file that the configuration was read from; none if ports were given on the command line.
    pub config_file: Option<String>,
    /// Raised by every announced change of the kernel's state.
    pub epoch: u64,
    /// Whether packet memory is in hugepages.
    pub hugepages: bool,
    /// The hardware path: `none`, or what carries flows.
    pub hardware: String,
    /// Connections by state.
    pub flows: FlowCounts,
    /// Packets since start, each counted once by the path that it took.
    pub packets: PacketCounts,
    /// Packets that NICs have marked.
    #[serde(default)]
    pub marks: MarkCounts,
    /// Packets given to the kernel, by reason.
    pub punted_by_reason: ByReason<PuntReason>,
    /// Packets dropped, by reason.
    pub dropped_by_reason: ByReason<DropReason>,
    /// The event stream from conntrack.
    pub conntrack: ConntrackCounts,
    /// How flows proved themselves again after changes.
    pub revalidation: RevalidationCounts,
    /// What of the ruleset packets past the kernel do not meet.
    pub ruleset: RulesetInfo,
    /// Workers, in the order of the configuration.
    pub workers: Vec<WorkerStatus>,
    /// Ports, in the order of the configuration.
    pub ports: Vec<PortStatus>,
    /// Collectors of flow records, in the order of the configuration.
    #[serde(default)]
    pub ipfix: Vec<CollectorStatus>,
    /// What an operator should know of, a sentence each.
    pub notices: Vec<String>,
}

/// What of the ruleset packets past the kernel do not meet, by the names that `flyover check` has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RulesetInfo {
    /// Must see each packet, and keeps its connections in the kernel.
    pub keeps: Vec<String>,
    /// Sees fewer packets, and that is all.
    pub warns: Vec<String>,
    /// Flowtables of the user's.
    pub flowtables: Vec<FlowtableInfo>,
    /// How it stands with Flyover's own table: `installed`, `not_needed`, `off`, `foreign`, or `failed: ...`.
    pub own_table: String,
}

/// A flowtable of the user's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FlowtableInfo {
    /// The table's family.
    pub family: String,
    /// The table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its devices.
    pub devices: Vec<String>,
    /// `flags offload`.
    pub offload: bool,
    /// Whether a rule that packets of running connections come to adds to it.
    pub added_to: bool,
}

/// What became of the flow records for a collector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CollectorStatus {
    /// Its address and port.
    pub collector: String,
    /// Records that were sent.
    pub records: u64,
    /// The messages that they were in, and those with templates alone.
    pub messages: u64,
    /// Records that could not be sent.
    pub lost: u64,
    /// Records that wait to be sent.
    pub waiting: u64,
    /// What goes wrong, if something does.
    pub error: Option<String>,
}

/// How flows proved themselves again after changes of the kernel's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RevalidationCounts {
    /// Directions that had packets and could not prove themselves in time: they went back to the kernel.
    pub missed: u64,
    /// Seconds since the last of them; none if there was none.
    pub last_missed_s: Option<f64>,
}

/// Connections by state; one whose directions differ counts as its slower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FlowCounts {
    /// Waiting for the kernel's proof.
    pub candidate: u64,
    /// Carried by workers.
    pub software: u64,
    /// Carried by workers, and about to prove themselves again.
    pub probing: u64,
    /// Carried by a NIC.
    pub hardware: u64,
    /// Given back to the kernel after a FIN, RST or SYN.
    pub closing: u64,
    /// Connections that the table holds.
    pub capacity: u64,
}

/// Packets by the path that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PacketCounts {
    /// Forwarded by workers.
    pub fast: u64,
    /// Forwarded by NICs.
    pub hardware: u64,
    /// Given to the kernel.
    pub punted: u64,
    /// Sent on behalf of the kernel.
    pub from_kernel: u64,
    /// Dropped.
    pub dropped: u64,
}

/// The event stream from conntrack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConntrackCounts {
    /// Events received.
    pub events: u64,
    /// Times that the socket overran (ENOBUFS).
    pub overruns: u64,
    /// Dumps taken to catch up.
    pub resyncs: u64,
    /// Entries whose timeout was refreshed.
    pub refreshes: u64,
}

/// A worker at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WorkerStatus {
    /// Its core.
    pub core: u16,
    /// Share of the last second in which it worked on packets, 0 to 100.
    pub busy_percent: f64,
    /// Share of the last second that it slept for want of packets, 0 to 100.
    pub sleeping_percent: f64,
    /// Packets received from ports since start.
    pub packets: u64,
}

/// `flyover ports`: a port and its twin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PortStatus {
    /// The twin's name.
    pub name: String,
    /// The DPDK device, with arguments.
    pub device: String,
    /// The DPDK driver.
    pub driver: String,
    /// Namespace of a vdev's wire side.
    pub netns: Option<String>,
    /// MAC address, as `02:00:00:00:00:01`.
    pub mac: String,
    /// MTU in bytes of L3.
    pub mtu: u16,
    /// Whether the port has carrier.
    pub link_up: bool,
    /// Whether the twin is administratively up.
    pub admin_up: bool,
    /// Link speed in Mbit/s, where the driver knows one.
    pub speed_mbps: Option<u32>,
    /// Receive and transmit queues.
    pub queues: u16,
    /// Received from the wire.
    pub rx: PortCounters,
    /// Sent to the wire.
    pub tx: PortCounters,
    /// How the twin's frames are carried: `tap` or `vhost-net`.
    pub twin_io: String,
    /// The twin, as the kernel counts it.
    pub twin: TwinCounters,
}

/// One direction of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PortCounters {
    /// Packets.
    pub packets: u64,
    /// Bytes of L2 without FCS.
    pub bytes: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that the NIC had no room for; 0 for transmission.
    pub missed: u64,
}

/// A twin's packets from the kernel's point of view, as `ip -s link` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TwinCounters {
    /// Packets that the kernel received: punted ones.
    pub rx_packets: u64,
    /// Bytes that the kernel received.
    pub rx_bytes: u64,
    /// Packets that the kernel sent.
    pub tx_packets: u64,
    /// Bytes that the kernel sent.
    pub tx_bytes: u64,
}

/// `flyover flows`: one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FlowInfo {
    /// `tcp` or `udp`.
    pub proto: String,
    /// The direction that opened the connection, as the gateway receives it.
    pub orig: TupleInfo,
    /// The answering direction, as the gateway receives it.
    pub reply: TupleInfo,
    /// State of the slower direction.
    pub state: FlowState,
    /// Why it is in that state.
    pub why: String,
    /// Packets that took the fast path.
    pub packets: PerDirection,
    /// Bytes of L3 that took the fast path.
    pub bytes: PerDirection,
    /// Port where the original direction comes in, once known.
    pub in_port: Option<String>,
    /// Port where the original direction goes out, once known.
    pub out_port: Option<String>,
    /// Seconds since Flyover knows the connection.
    pub age_s: f64,
    /// Seconds since its last packet on the fast path.
    pub idle_s: f64,
}

/// Where a connection's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// To the kernel, until it proves both directions.
    Candidate,
    /// Over the fast path.
    Software,
    /// Over the fast path, a probe outstanding.
    Probing,
    /// In the NIC.
    Hardware,
    /// To the kernel, since it closes.
    Closing,
}

impl FlowState {
    /// Every state.
    pub const ALL: &'static [Self] =
        &[Self::Candidate, Self::Software, Self::Probing, Self::Hardware, Self::Closing];

    /// The state as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Software => "software",
            Self::Probing => "probing",
            Self::Hardware => "hardware",
            Self::Closing => "closing",
        }
    }
}

/// Addresses and ports of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TupleInfo {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

impl From<&FiveTuple> for TupleInfo {
    fn from(tuple: &FiveTuple) -> Self {
        Self { src: tuple.src, dst: tuple.dst, sport: tuple.sport, dport: tuple.dport }
    }
}

/// The name of an IP protocol in [`FlowInfo::proto`].
pub fn proto_name(proto: u8) -> String {
    match proto {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// A count for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PerDirection {
    /// The direction that opened the connection.
    pub orig: u64,
    /// The answering one.
    pub reply: u64,
}

impl PerDirection {
    /// Both together.
    pub const fn both(self) -> u64 {
        self.orig.wrapping_add(self.reply)
    }
}

/// `flyover stats`: counters by worker and by punt thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stats {
    /// Sum over workers.
    pub packets: PacketCounts,
    /// Sum over workers.
    #[serde(default)]
    pub marks: MarkCounts,
    /// Sum over workers.
    pub punted_by_reason: ByReason<PuntReason>,
    /// Sum over workers and punt threads.
    pub dropped_by_reason: ByReason<DropReason>,
    /// Workers, in the order of the configuration.
    pub workers: Vec<WorkerStats>,
    /// Punt threads.
    pub punt: Vec<PuntStats>,
    /// The lives of flows.
    pub tracker: TrackerCounts,
    /// Packet buffers.
    #[serde(default)]
    pub buffers: BufferCounts,
}

/// Packet buffers, of all pools together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BufferCounts {
    /// As many there are.
    pub total: u64,
    /// In the rings of ports, and with packets that are on their way.
    pub in_use: u64,
}

/// What happened to flows, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrackerCounts {
    /// Conntrack entries that were looked at: events, dumps and answers.
    pub entries: u64,
    /// Proofs that were taken.
    pub proofs: u64,
    /// Proofs that came too late: something had changed since.
    pub stale_proofs: u64,
    /// Directions that went back because the kernel did not forward their probe.
    pub not_forwarded: u64,
    /// Directions that went back because their packets flew and none of them proved it in time.
    pub deadline_missed: u64,
    /// Announced changes: rules, routes, neighbours, links, addresses.
    pub changes: u64,
    /// Connections that found no room in the flow table, and stay in the kernel.
    pub table_full: u64,
    /// 5-tuples without an entry that conntrack was asked for.
    pub asked: u64,
    /// The same, but too many at a time: not asked for.
    pub unasked: u64,
}

/// Counters of one worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WorkerStats {
    /// Its core.
    pub core: u16,
    /// Packets by path.
    pub packets: PacketCounts,
    /// Packets that NICs have marked.
    #[serde(default)]
    pub marks: MarkCounts,
    /// Packets given to the kernel.
    pub punted_by_reason: ByReason<PuntReason>,
    /// Packets dropped.
    pub dropped_by_reason: ByReason<DropReason>,
    /// Rounds over all queues.
    pub polls: u64,
    /// Rounds that found nothing.
    pub empty_polls: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Share of the last second in which it worked on packets, 0 to 100.
    pub busy_percent: f64,
    /// What its stages take.
    pub cycles_per_packet: StageCycles,
}

/// Cycles a packet that a worker's stages take, of the time-stamp counter: means over one round in 16 since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StageCycles {
    /// Receiving, with the driver.
    pub receive: f64,
    /// Parsing and sorting.
    pub parse: f64,
    /// Looking up, deciding and rewriting.
    pub decide: f64,
    /// Sending, with the driver, and giving to the kernel.
    pub send: f64,
}

/// Counters of one punt thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PuntStats {
    /// Its number, from 0.
    pub thread: u16,
    /// Packets written to twins.
    pub to_kernel: u64,
    /// Of these, control traffic.
    pub control: u64,
    /// Packets read from twins.
    pub from_kernel: u64,
    /// Packets dropped, by reason.
    pub dropped_by_reason: ByReason<DropReason>,
}
