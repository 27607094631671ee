//! Answers of the API as metrics, in OpenMetrics' text format.
//!
//! Names and labels are documented in docs/metrics.md; they are added to, not renamed. Labels take their values from closed
//! lists and from the configuration, so that their number is bounded.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use crate::api::{
    ByReason, CollectorStatus, PortHardware, PortStatus, Reason, Stats, Status, WorkerStats, WorkerStatus,
};

/// What the gateway answered.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// To `status`.
    pub status: Status,
    /// To `stats`.
    pub stats: Stats,
    /// To `hardware`.
    pub hardware: Vec<PortHardware>,
}

/// The metrics as text, for `application/openmetrics-text; version=1.0.0`.
pub fn render(scrape: Scrape) -> String {
    let mut registry = Registry::with_prefix("flyover");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = text::encode(&mut text, &registry);
    text
}

/// Values of one metric, each with its labels.
type Values<'a, T> = Vec<(Vec<(&'static str, &'a str)>, T)>;

/// Writes metrics, one after the other.
struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    /// A metric with one value.
    fn one<M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        metric: &M,
    ) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, unit, M::TYPE)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.one(name, help, None, &ConstCounter::new(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        self.one(name, help, None, &ConstGauge::new(value))
    }

    /// A metric with labels.
    fn family<T>(
        &mut self,
        (name, help, unit): (&str, &str, Option<&Unit>),
        kind: MetricType,
        values: Values<'_, T>,
        encode: impl Fn(T, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in values {
            encode(value, metric.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, values: Values<'_, u64>) -> fmt::Result {
        let encode = |value, metric: MetricEncoder<'_>| ConstCounter::new(value).encode(metric);
        self.family((name, help, None), MetricType::Counter, values, encode)
    }

    fn bytes(&mut self, name: &str, help: &str, values: Values<'_, u64>) -> fmt::Result {
        let encode = |value, metric: MetricEncoder<'_>| ConstCounter::new(value).encode(metric);
        self.family((name, help, Some(&Unit::Bytes)), MetricType::Counter, values, encode)
    }

    fn gauges(&mut self, name: &str, help: &str, values: Values<'_, i64>) -> fmt::Result {
        let encode = |value, metric: MetricEncoder<'_>| ConstGauge::new(value).encode(metric);
        self.family((name, help, None), MetricType::Gauge, values, encode)
    }

    fn ratios(&mut self, name: &str, help: &str, values: Values<'_, f64>) -> fmt::Result {
        let encode = |value, metric: MetricEncoder<'_>| ConstGauge::new(value).encode(metric);
        self.family((name, help, None), MetricType::Gauge, values, encode)
    }

    fn by_reason<R: Reason>(&mut self, name: &str, help: &str, counts: &ByReason<R>) -> fmt::Result {
        let values = counts.iter().map(|(reason, packets)| (vec![("reason", reason.name())], packets));
        self.counters(name, help, values.collect())
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        self.gateway(&mut metrics)?;
        self.packets(&mut metrics)?;
        self.kernel(&mut metrics)?;
        self.ports(&mut metrics)?;
        self.workers(&mut metrics)?;
        self.hardware(&mut metrics)?;
        self.ipfix(&mut metrics)
    }
}

impl Scrape {
    fn gateway(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let Self { status, .. } = self;
        let version = vec![(vec![("version", status.version.as_str())], 1)];
        metrics.gauges("build_info", "Version of the running gateway", version)?;
        metrics.gauge(
            "ready",
            "1: twins are attached, conntrack is read, workers poll",
            i64::from(status.ready),
        )?;
        let uptime = ConstGauge::new(signed(status.uptime_s));
        metrics.one("uptime", "Time since the gateway started", Some(&Unit::Seconds), &uptime)?;
        metrics.gauge(
            "notices",
            "Sentences under notices in flyover status",
            signed(status.notices.len() as u64),
        )?;
        metrics.gauge(
            "ruleset_kept_constructs",
            "Kinds of rules that keep their connections in the kernel",
            signed(status.ruleset.keeps.len() as u64),
        )?;
        let flows = &status.flows;
        let by_state = [
            ("candidate", flows.candidate),
            ("software", flows.software),
            ("probing", flows.probing),
            ("hardware", flows.hardware),
            ("closing", flows.closing),
        ];
        let by_state = by_state.map(|(state, count)| (vec![("state", state)], signed(count)));
        metrics.gauges("flows", "Connections by the state of their slower direction", by_state.into())?;
        metrics.gauge("flows_capacity", "Connections that the flow table holds", signed(flows.capacity))
    }

    fn packets(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let Self { status, .. } = self;
        let packets = &status.packets;
        let by_path = [
            ("fast", packets.fast),
            ("hardware", packets.hardware),
            ("punted", packets.punted),
            ("from_kernel", packets.from_kernel),
            ("dropped", packets.dropped),
        ];
        let by_path = by_path.map(|(path, count)| (vec![("path", path)], count));
        metrics.counters("packets", "Packets, each counted once by the path that it took", by_path.into())?;
        metrics.by_reason("punted_packets", "Packets given to the kernel", &status.punted_by_reason)?;
        metrics.by_reason("dropped_packets", "Packets dropped", &status.dropped_by_reason)
    }

    fn kernel(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let (conntrack, tracker) = (&self.status.conntrack, &self.stats.tracker);
        let counters = [
            ("conntrack_events", "Events received from conntrack", conntrack.events),
            ("conntrack_overruns", "Times that events were lost and read again", conntrack.overruns),
            ("conntrack_resyncs", "Dumps of conntrack taken to catch up", conntrack.resyncs),
            ("conntrack_refreshes", "Entries whose timeout was refreshed", conntrack.refreshes),
            (
                "revalidation_missed",
                "Directions that had packets and could not prove themselves in time after a change",
                self.status.revalidation.missed,
            ),
            ("changes", "Announced changes of rules, routes, neighbours, links, addresses", tracker.changes),
            ("proofs", "Packets that the kernel was seen forwarding", tracker.proofs),
            ("proofs_stale", "Proofs that came too late, since something had changed", tracker.stale_proofs),
            (
                "not_forwarded",
                "Directions that went back since the kernel did not forward their probe",
                tracker.not_forwarded,
            ),
            ("table_full", "Connections that found no room in the flow table", tracker.table_full),
        ];
        counters.into_iter().try_for_each(|(name, help, value)| metrics.counter(name, help, value))
    }

    fn ports(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let ports = &self.status.ports;
        let gauges = |value: fn(&PortStatus) -> i64| {
            ports.iter().map(|port| (vec![("port", port.name.as_str())], value(port))).collect()
        };
        metrics.gauges("port_link_up", "1: the port has carrier", gauges(|port| i64::from(port.link_up)))?;
        metrics.gauges("port_admin_up", "1: the twin is up", gauges(|port| i64::from(port.admin_up)))?;
        metrics.gauges(
            "port_speed_mbps",
            "Link speed in Mbit/s; 0 where the driver knows none",
            gauges(|port| i64::from(port.speed_mbps.unwrap_or(0))),
        )?;
        // Receive and transmit of port and twin; the twin as the kernel sees it.
        let both = |pick: fn(&PortStatus) -> [u64; 2]| -> Values<'_, u64> {
            let values = ports.iter().flat_map(move |port| {
                let label = |direction| vec![("port", port.name.as_str()), ("direction", direction)];
                let [rx, tx] = pick(port);
                [(label("receive"), rx), (label("transmit"), tx)]
            });
            values.collect()
        };
        metrics.counters(
            "port_packets",
            "Packets on the wire",
            both(|port| [port.rx.packets, port.tx.packets]),
        )?;
        metrics.bytes(
            "port",
            "Bytes of L2 without FCS on the wire",
            both(|port| [port.rx.bytes, port.tx.bytes]),
        )?;
        metrics.counters(
            "port_errors",
            "Packets with errors",
            both(|port| [port.rx.errors, port.tx.errors]),
        )?;
        metrics.counters(
            "port_missed",
            "Packets that the NIC had no room for",
            both(|port| [port.rx.missed, port.tx.missed]),
        )?;
        metrics.counters(
            "twin_packets",
            "Packets that the kernel received from and sent to the twin",
            both(|port| [port.twin.rx_packets, port.twin.tx_packets]),
        )?;
        metrics.bytes(
            "twin",
            "Bytes that the kernel received from and sent to the twin",
            both(|port| [port.twin.rx_bytes, port.twin.tx_bytes]),
        )
    }

    fn workers(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let status: Vec<(String, _)> =
            self.status.workers.iter().map(|worker| (worker.core.to_string(), worker)).collect();
        let share = |value: fn(&WorkerStatus) -> f64| {
            status
                .iter()
                .map(|(core, worker)| (vec![("core", core.as_str())], value(worker) / 100.0))
                .collect()
        };
        metrics.ratios("worker_busy_ratio", "Share of time at work on packets", share(|w| w.busy_percent))?;
        metrics.ratios("worker_sleeping_ratio", "Share of time asleep", share(|w| w.sleeping_percent))?;
        let stats: Vec<(String, _)> =
            self.stats.workers.iter().map(|worker| (worker.core.to_string(), worker)).collect();
        let counts = |value: fn(&WorkerStats) -> u64| {
            stats.iter().map(|(core, worker)| (vec![("core", core.as_str())], value(worker))).collect()
        };
        metrics.counters("worker_polls", "Rounds over all queues", counts(|w| w.polls))?;
        metrics.counters("worker_empty_polls", "Rounds that found nothing", counts(|w| w.empty_polls))?;
        metrics.counters("worker_sleeps", "Times that the worker slept", counts(|w| w.sleeps))?;
        let mut cycles: Values<'_, f64> = Vec::new();
        for (core, worker) in &stats {
            let stages = &worker.cycles_per_packet;
            let stages = [
                ("receive", stages.receive),
                ("parse", stages.parse),
                ("decide", stages.decide),
                ("send", stages.send),
            ];
            cycles
                .extend(stages.map(|(stage, mean)| (vec![("core", core.as_str()), ("stage", stage)], mean)));
        }
        metrics.ratios("worker_cycles_per_packet", "Mean cycles a packet since the start, by stage", cycles)
    }

    fn ipfix(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let counts = |value: fn(&CollectorStatus) -> u64| -> Values<'_, u64> {
            let collectors = self.status.ipfix.iter();
            collectors.map(|to| (vec![("collector", to.collector.as_str())], value(to))).collect()
        };
        metrics.counters("ipfix_records", "Flow records and NAT events sent", counts(|to| to.records))?;
        metrics.counters("ipfix_lost_records", "Flow records not sent", counts(|to| to.lost))?;
        metrics.counters("ipfix_messages", "Messages sent to a collector", counts(|to| to.messages))?;
        let waiting = counts(|to| to.waiting).into_iter().map(|(labels, count)| (labels, signed(count)));
        metrics.gauges("ipfix_waiting_records", "Flow records that wait to be sent", waiting.collect())
    }

    fn hardware(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let tiers = self.hardware.iter().map(|port| {
            (vec![("port", port.name.as_str()), ("tier", port.tier.as_str())], i64::from(port.used))
        });
        metrics.gauges("hardware_used", "1: flows are put into the port's NIC", tiers.collect())?;
        let mut directions: Values<'_, i64> = Vec::new();
        for port in &self.hardware {
            let counts = &port.directions;
            let states = [
                ("hardware", counts.hardware),
                ("waiting", counts.waiting),
                ("put_off", counts.put_off),
                ("leaving", counts.leaving),
            ];
            directions.extend(
                states.map(|(state, n)| (vec![("port", port.name.as_str()), ("state", state)], signed(n))),
            );
        }
        metrics.gauges("hardware_directions", "Directions by where the hardware path has them", directions)
    }
}
