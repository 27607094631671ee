//! What the gateway tells about itself.

use dataplane::dpdk::Mempool;
use dataplane::flow::{Counter, FiveTuple, Key, MarkCount, Snapshot};
use dataplane::packet::DropReason;
use dataplane::worker::{Stage, StageCosts};

use super::ports::GatewayPort;
use super::rules;
use super::state::{State, WorkerView, policy};
use crate::api::{
    BufferCounts, ByReason, ConntrackCounts, DirectionRules, EventPage, Explanation, FlowCounts, FlowFilter,
    FlowInfo, FlowPage, FlowState, FlowtableInfo, Handler, MarkCounts, PacketCounts, PerDirection,
    PortCounters, PortHardware, PortStatus, PuntStats, ReloadState, RevalidationCounts, RulesetInfo,
    StageCycles, Stats, Status, TrackerCounts, TupleInfo, TwinCounters, WorkerStats, WorkerStatus,
    proto_name,
};
use crate::config::Accelerate;
use crate::ruleset::UserFlowtable;
use crate::tracker::{ConnectionView, Policy};

/// What the punt thread drops, by reason.
const PUNT_DROPS: [DropReason; 3] =
    [DropReason::TwinFull, DropReason::FromKernelRingFull, DropReason::NoMbuf];

impl Handler for State {
    fn status(&self) -> Status {
        let counted = self.counted();
        let counts = self.tracker.counts();
        let carried = self.carried();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: self.ready,
            uptime_s: self.clock.millis() / 1000,
            policy: self.policy_words(),
            config_file: self.config_file.as_ref().map(|path| path.display().to_string()),
            epoch: u64::from(self.tracker.epoch()),
            hugepages: self.hugepages,
            hardware: self.hardware_words(),
            flows: FlowCounts {
                candidate: u64::from(counts.candidate),
                software: u64::from(counts.software).saturating_sub(carried),
                probing: u64::from(counts.probing),
                hardware: carried,
                closing: u64::from(counts.closing),
                capacity: u64::from(self.config.flows.capacity),
            },
            packets: self.packets(&counted),
            marks: marks(&counted.marked),
            punted_by_reason: ByReason::from_counts(&self.punted()),
            dropped_by_reason: self.dropped(&counted),
            conntrack: ConntrackCounts {
                events: self.conntrack.events,
                overruns: self.conntrack.overruns,
                resyncs: self.conntrack.resyncs,
                refreshes: self.tracker.stats().refreshes,
            },
            revalidation: RevalidationCounts {
                missed: self.shortfall.missed,
                last_missed_s: self.shortfall.age(self.clock.millis()).map(|age| age as f64 / 1000.0),
            },
            workers: self.workers.iter().map(worker_status).collect(),
            ports: self.ports(),
            ruleset: RulesetInfo {
                keeps: rules::names(self.rules.judgement(), true),
                warns: rules::names(self.rules.judgement(), false),
                flowtables: self.flowtables(),
                own_table: self.own_table.word(),
            },
            ipfix: self.collectors(),
            notices: self.notices(),
        }
    }

    fn ports(&self) -> Vec<PortStatus> {
        let twins = &self.punt.twins;
        let info = |(number, port)| Some(port_status(port, twins.get(number)?));
        self.in_order().into_iter().filter_map(info).collect()
    }

    fn stats(&self) -> Stats {
        let counted = self.counted();
        Stats {
            packets: self.packets(&counted),
            marks: marks(&counted.marked),
            punted_by_reason: ByReason::from_counts(&self.punted()),
            dropped_by_reason: self.dropped(&counted),
            workers: self.workers.iter().map(worker_stats).collect(),
            punt: vec![self.punt_stats()],
            buffers: self.buffers(),
            tracker: self.tracker_counts(),
        }
    }

    fn flows(&self, cursor: u64, limit: usize, filter: &FlowFilter) -> FlowPage {
        let now = self.clock.millis();
        let cursor = usize::try_from(cursor).unwrap_or(usize::MAX);
        let wanted = |view: &ConnectionView| filter.matches(&self.flow_info(view));
        let (views, next) = self.tracker.page(now, cursor, limit, &self.plane, wanted);
        let flows = views.iter().map(|view| self.flow_info(view)).collect();
        FlowPage { flows, next: next.map(|cursor| cursor as u64) }
    }

    fn explain(&self, tuple: &FiveTuple) -> Explanation {
        self.explanation(tuple)
    }

    fn events(&self, after: u64, limit: usize) -> EventPage {
        self.log.journal().after(after, limit)
    }

    fn hardware(&self) -> Vec<PortHardware> {
        self.hardware_info()
    }

    fn rules(&self, tuple: &FiveTuple) -> Vec<DirectionRules> {
        self.rules_of(tuple)
    }

    fn reload(&self, check: bool, partial: bool) -> Result<ReloadState, String> {
        self.desk.order(check, partial)
    }

    fn reloaded(&self, number: u64) -> Result<ReloadState, String> {
        self.desk.told(number)
    }
}

impl State {
    /// Ports with their numbers, in the order of the configuration.
    pub(super) fn in_order(&self) -> Vec<(usize, &GatewayPort)> {
        let place = |port: &GatewayPort| self.config.ports.iter().position(|p| p.name == port.config.name);
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_by_key(|(_, port)| place(port));
        ports
    }

    fn buffers(&self) -> BufferCounts {
        let sum = |of: fn(&Mempool) -> u32| self.pools.iter().map(|pool| u64::from(of(pool))).sum();
        BufferCounts { total: sum(Mempool::size), in_use: sum(Mempool::in_use) }
    }

    fn policy_words(&self) -> String {
        match self.config.policy.accelerate {
            Accelerate::Marked => {
                let mark = self.config.policy.mark;
                format!("marked: connections whose conntrack mark is {:#x}/{:#x}", mark.value, mark.mask)
            }
            mode => {
                let what = match policy(&self.config, self.rules.judgement()) {
                    Policy::Flowtable => self.selected_words(),
                    _ => "every connection that the ruleset lets through".to_owned(),
                };
                format!("{}: {what}", mode.name())
            }
        }
    }

    /// What flowtables select.
    fn selected_words(&self) -> String {
        let judgement = self.rules.judgement();
        let word = |flowtable: &UserFlowtable| {
            let UserFlowtable { family, table, name, devices, .. } = flowtable;
            let added = if judgement.is_added_to(flowtable) { "" } else { "; no rule adds to it" };
            format!("flowtable {name} of {family} {table} (devices {}{added})", devices.join(", "))
        };
        let words: Vec<String> = judgement.flowtables().iter().map(word).collect();
        if words.is_empty() {
            return "nothing, since the ruleset has no flowtable".to_owned();
        }
        format!("what is added to {}", words.join(", "))
    }

    fn flowtables(&self) -> Vec<FlowtableInfo> {
        let judgement = self.rules.judgement();
        let info = |flowtable: &UserFlowtable| FlowtableInfo {
            family: flowtable.family.name().to_owned(),
            table: flowtable.table.clone(),
            name: flowtable.name.clone(),
            devices: flowtable.devices.clone(),
            offload: flowtable.offload,
            added_to: judgement.is_added_to(flowtable),
        };
        judgement.flowtables().iter().map(info).collect()
    }

    /// What the configuration has to say, and what has happened lately.
    fn notices(&self) -> Vec<String> {
        let now = self.clock.millis();
        let within = self.config.flows.revalidate_within;
        self.config
            .notices
            .iter()
            .cloned()
            .chain(self.rules.notices())
            .chain(self.own_table.notice())
            .chain(self.shortfall.notice(now, within))
            .chain(self.watchdog.notice(now))
            .chain(self.export_notices())
            .collect()
    }

    /// What the kernel was given, by reason: what workers handed on and the twins took.
    fn punted(&self) -> Vec<u64> {
        self.punt.punted.iter().map(Counter::get).collect()
    }

    fn packets(&self, counted: &Snapshot) -> PacketCounts {
        PacketCounts {
            fast: counted.fast.packets,
            hardware: self.plane.offload.totals().0,
            punted: self.punted().iter().sum(),
            from_kernel: counted.from_kernel.packets,
            dropped: counted.dropped_total() + PUNT_DROPS.iter().map(|r| self.punt.dropped(*r)).sum::<u64>(),
        }
    }

    fn dropped(&self, counted: &Snapshot) -> ByReason<DropReason> {
        let mut dropped = ByReason::from_counts(&counted.dropped);
        for reason in PUNT_DROPS {
            dropped.add(reason, self.punt.dropped(reason));
        }
        dropped
    }

    fn tracker_counts(&self) -> TrackerCounts {
        let stats = self.tracker.stats();
        TrackerCounts {
            entries: stats.entries,
            proofs: stats.proofs,
            stale_proofs: stats.stale_proofs,
            not_forwarded: stats.not_forwarded,
            deadline_missed: stats.deadline_missed,
            changes: stats.changes,
            table_full: stats.table_full,
            asked: stats.asked,
            unasked: stats.unasked,
        }
    }

    fn punt_stats(&self) -> PuntStats {
        let mut dropped_by_reason = ByReason::default();
        for reason in PUNT_DROPS {
            dropped_by_reason.add(reason, self.punt.dropped(reason));
        }
        let twins = &self.punt.twins;
        PuntStats {
            thread: 0,
            to_kernel: twins.iter().map(|twin| twin.to_kernel.packets.get()).sum(),
            control: self.punt.control.get(),
            from_kernel: twins.iter().map(|twin| twin.from_kernel.packets.get()).sum(),
            dropped_by_reason,
        }
    }

    pub(super) fn port_name(&self, index: u16) -> Option<String> {
        self.ports.get(usize::from(index)).map(|port| port.config.name.clone())
    }

    pub(super) fn flow_info(&self, view: &ConnectionView) -> FlowInfo {
        let ports = view.orig.ports.or_else(|| view.reply.ports.map(|(ingress, egress)| (egress, ingress)));
        let tuple = |tuple: &FiveTuple| TupleInfo::from(tuple);
        let seconds = |millis: u64| millis as f64 / 1000.0;
        let pair = |count: fn(&crate::tracker::DirectionCounters) -> u64| PerDirection {
            orig: count(&view.orig.counters),
            reply: count(&view.reply.counters),
        };
        let state = FlowState::ALL.iter().copied().find(|state| state.name() == view.state);
        let flow = |tuple: &FiveTuple| Key::from_tuple(tuple).and_then(|key| self.plane.flow(&key));
        let in_nic = state == Some(FlowState::Software)
            && flow(&view.orig.tuple).is_some_and(|orig| self.is_carried(orig));
        FlowInfo {
            proto: proto_name(view.orig.tuple.proto),
            orig: tuple(&view.orig.tuple),
            reply: tuple(&view.reply.tuple),
            state: if in_nic { FlowState::Hardware } else { state.unwrap_or(FlowState::Candidate) },
            why: if in_nic { "the NIC carries it".to_owned() } else { view.why.text().to_owned() },
            packets: pair(|counters| counters.packets),
            bytes: pair(|counters| counters.bytes),
            in_port: ports.and_then(|(ingress, _)| self.port_name(ingress)),
            out_port: ports.and_then(|(_, egress)| self.port_name(egress)),
            age_s: seconds(view.age),
            idle_s: seconds(view.idle.unwrap_or(view.age)),
        }
    }
}

fn worker_status(worker: &WorkerView) -> WorkerStatus {
    let (busy_percent, sleeping_percent) = (worker.shares.busy, worker.shares.sleeping);
    let counted = Snapshot::of([&*worker.counters]);
    let packets = counted.fast.packets + counted.punted_total() + counted.dropped_total();
    WorkerStatus { core: worker.core, busy_percent, sleeping_percent, packets }
}

fn worker_stats(worker: &WorkerView) -> WorkerStats {
    let counted = Snapshot::of([&*worker.counters]);
    WorkerStats {
        core: worker.core,
        packets: PacketCounts {
            fast: counted.fast.packets,
            hardware: 0,
            punted: counted.punted_total(),
            from_kernel: counted.from_kernel.packets,
            dropped: counted.dropped_total(),
        },
        marks: marks(&counted.marked),
        punted_by_reason: ByReason::from_counts(&counted.punted),
        dropped_by_reason: ByReason::from_counts(&counted.dropped),
        polls: worker.activity.polls.get(),
        empty_polls: worker.activity.empty_polls.get(),
        sleeps: worker.activity.sleeps.get(),
        busy_percent: worker.shares.busy,
        cycles_per_packet: stage_cycles(&worker.activity.stages),
    }
}

/// A MAC address in words.
pub(super) fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Those of some ports.
pub(super) fn marks(ports: &[MarkCount]) -> MarkCounts {
    let sum = |of: fn(&MarkCount) -> u64| ports.iter().map(of).sum();
    MarkCounts { found: sum(|count| count.found), missed: sum(|count| count.missed) }
}

fn stage_cycles(stages: &StageCosts) -> StageCycles {
    let [receive, parse, decide, send] =
        Stage::ALL.map(|stage| (stages.cycles_per_packet(stage) * 10.0).round() / 10.0);
    StageCycles { receive, parse, decide, send }
}

fn port_status(port: &GatewayPort, twin: &dataplane::punt::TwinCounters) -> PortStatus {
    // A driver that can't tell says nothing.
    let stats = port.port.as_ref().and_then(|port| port.stats().ok()).unwrap_or_default();
    let link = port.link();
    PortStatus {
        name: port.config.name.clone(),
        device: port.config.device.to_string(),
        driver: port.driver.clone(),
        netns: port.config.netns.clone(),
        mac: mac(port.mac),
        mtu: u16::try_from(port.mtu).unwrap_or(u16::MAX),
        link_up: link.is_some_and(|link| link.up),
        admin_up: port.admin_up,
        // DPDK's word for an unknown speed is the highest number there is.
        speed_mbps: link.map(|link| link.speed_mbps).filter(|speed| (1..u32::MAX).contains(speed)),
        queues: port.queues,
        rx: PortCounters {
            packets: stats.ipackets,
            bytes: stats.ibytes,
            errors: stats.ierrors,
            missed: stats.imissed + stats.rx_nombuf,
        },
        tx: PortCounters { packets: stats.opackets, bytes: stats.obytes, errors: stats.oerrors, missed: 0 },
        twin_io: port.twin_io.name().to_owned(),
        twin: TwinCounters {
            rx_packets: twin.to_kernel.packets.get(),
            rx_bytes: twin.to_kernel.bytes.get(),
            tx_packets: twin.from_kernel.packets.get(),
            tx_bytes: twin.from_kernel.bytes.get(),
        },
    }
}
