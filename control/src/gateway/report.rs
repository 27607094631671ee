//! What the gateway tells about itself.

use dataplane::packet::{DropReason, PuntReason};

use super::ports::GatewayPort;
use super::state::State;
use crate::api::{
    ByReason, ConntrackCounts, FlowCounts, FlowFilter, FlowInfo, FlowPage, FlowState, Handler, PacketCounts,
    PerDirection, PortCounters, PortStatus, PuntStats, Stats, Status, TupleInfo, TwinCounters, WorkerStats,
    WorkerStatus,
};
use crate::tracker::ConnectionView;
