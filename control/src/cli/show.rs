//! Tables of status, ports and stats for people.

use std::io::{self, Write};

use super::format::{bytes, count, seconds, speed};
use super::table::{Align, Table};
use crate::api::{ByReason, CollectorStatus, MarkCounts, PortStatus, Reason, StageCycles, Stats, Status};

use Align::{Left, Right};

/// `flyover status`
pub(super) fn status(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    let ready = if status.ready { "ready" } else { "not ready" };
    writeln!(out, "flyover {}: {ready}, up {}", status.version, seconds(status.uptime_s as f64))?;
    let hugepages = if status.hugepages { "hugepages" } else { "no hugepages" };
    let Status { policy, epoch, hardware, .. } = status;
    writeln!(out, "policy {policy}, epoch {epoch}, {hugepages}, hardware path: {hardware}")?;
    writeln!(out, "own nft table: {}", own_table(&status.ruleset.own_table))?;
    for notice in &status.notices {
        writeln!(out, "note: {notice}")?;
    }
    let flows = &status.flows;
    writeln!(out, "\nconnections, of {} at most", count(flows.capacity))?;
    numbers(
        out,
        &[
            ("software", flows.software),
            ("probing", flows.probing),
            ("hardware", flows.hardware),
            ("candidate", flows.candidate),
            ("closing", flows.closing),
        ],
    )?;
    let packets = &status.packets;
    writeln!(out, "\npackets")?;
    numbers(
        out,
        &[
            ("fast", packets.fast),
            ("hardware", packets.hardware),
            ("punted", packets.punted),
            ("from kernel", packets.from_kernel),
            ("dropped", packets.dropped),
        ],
    )?;
    reasons(out, "punted", &status.punted_by_reason)?;
    reasons(out, "dropped", &status.dropped_by_reason)?;
    let conntrack = &status.conntrack;
    writeln!(out, "\nconntrack")?;
    numbers(
        out,
        &[
            ("events", conntrack.events),
            ("overruns", conntrack.overruns),
            ("resyncs", conntrack.resyncs),
            ("refreshes", conntrack.refreshes),
        ],
    )?;
    collectors(out, &status.ipfix)?;
    writeln!(out)?;
    let mut workers =
        Table::new(&[("WORKER CORE", Right), ("BUSY", Right), ("SLEEPING", Right), ("PACKETS", Right)]);
    for worker in &status.workers {
        let percent = |value: f64| format!("{value:.0} %");
        workers.row(vec![
            worker.core.to_string(),
            percent(worker.busy_percent),
            percent(worker.sleeping_percent),
            count(worker.packets),
        ]);
    }
    workers.flush(out)?;
    writeln!(out)?;
    ports(out, &status.ports)
}

/// What became of flow records.
fn collectors(out: &mut dyn Write, collectors: &[CollectorStatus]) -> io::Result<()> {
    if collectors.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&[
        ("FLOW RECORDS FOR", Left),
        ("SENT", Right),
        ("LOST", Right),
        ("WAITING", Right),
        ("MESSAGES", Right),
    ]);
    for to in collectors {
        let numbers = [to.records, to.lost, to.waiting, to.messages].map(count);
        table.row([to.collector.clone()].into_iter().chain(numbers).collect());
    }
    table.flush(out)
}

/// What has the kernel track connections, after the word that programs get.
fn own_table(word: &str) -> &str {
    match word {
        "installed" => "inet flyover, which has the kernel track connections",
        "not_needed" => "not needed",
        "off" => "off, by --no-nft",
        "foreign" => "not installed: inet flyover is there, and not Flyover's",
        // Its notice tells the rest.
        failed if failed.starts_with("failed") => "could not be installed",
        other => other,
    }
}

/// `flyover ports`
pub(super) fn ports(out: &mut dyn Write, ports: &[PortStatus]) -> io::Result<()> {
    let mut table = Table::new(&[
        ("PORT", Left),
        ("DRIVER", Left),
        ("LINK", Left),
        ("ADMIN", Left),
        ("SPEED", Right),
        ("MAC", Left),
        ("MTU", Right),
        ("QUEUES", Right),
        ("", Left),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("ERRORS", Right),
        ("MISSED", Right),
        ("DEVICE", Left),
    ]);
    let up = |up: bool| if up { "up" } else { "down" }.to_owned();
    for port in ports {
        let (rx, tx, twin) = (&port.rx, &port.tx, &port.twin);
        let netns = port.netns.as_ref().map_or(String::new(), |name| format!(" (netns {name})"));
        let device = format!("{}{netns}", port.device);
        let head = vec![
            port.name.clone(),
            port.driver.clone(),
            up(port.link_up),
            up(port.admin_up),
            speed(port.speed_mbps),
            port.mac.clone(),
            port.mtu.to_string(),
            port.queues.to_string(),
        ];
        let line = |head: Vec<String>, name: &str, numbers: [Option<u64>; 4], device: String| {
            let [packets, octets, errors, missed] = numbers;
            let mut cells = head;
            cells.push(name.to_owned());
            cells.push(packets.map(count).unwrap_or_default());
            cells.push(octets.map(bytes).unwrap_or_default());
            cells.push(errors.map(count).unwrap_or_default());
            cells.push(missed.map(count).unwrap_or_default());
            cells.push(device);
            cells
        };
        let blank = || vec![String::new(); head.len()];
        let blanks = [blank(), blank(), blank()];
        let [second, third, fourth] = blanks;
        table.row(line(
            head,
            "rx",
            [Some(rx.packets), Some(rx.bytes), Some(rx.errors), Some(rx.missed)],
            device,
        ));
        table.row(line(
            second,
            "tx",
            [Some(tx.packets), Some(tx.bytes), Some(tx.errors), None],
            String::new(),
        ));
        let to_kernel = [Some(twin.rx_packets), Some(twin.rx_bytes), None, None];
        table.row(line(third, "to kernel", to_kernel, String::new()));
        let from_kernel = [Some(twin.tx_packets), Some(twin.tx_bytes), None, None];
        table.row(line(fourth, "from kernel", from_kernel, String::new()));
    }
    table.flush(out)
}

/// `flyover stats`
pub(super) fn stats(out: &mut dyn Write, stats: &Stats) -> io::Result<()> {
    let mut workers = Table::new(&[
        ("WORKER CORE", Right),
        ("FAST", Right),
        ("PUNTED", Right),
        ("FROM KERNEL", Right),
        ("DROPPED", Right),
        ("POLLS", Right),
        ("EMPTY", Right),
        ("SLEEPS", Right),
        ("BUSY", Right),
    ]);
    for worker in &stats.workers {
        let packets = &worker.packets;
        workers.row(vec![
            worker.core.to_string(),
            count(packets.fast),
            count(packets.punted),
            count(packets.from_kernel),
            count(packets.dropped),
            count(worker.polls),
            count(worker.empty_polls),
            count(worker.sleeps),
            format!("{:.0} %", worker.busy_percent),
        ]);
    }
    workers.flush(out)?;
    writeln!(out)?;
    let mut stages = Table::new(&[
        ("CYCLES A PACKET, CORE", Right),
        ("RECEIVE", Right),
        ("PARSE", Right),
        ("DECIDE", Right),
        ("SEND", Right),
        ("TOGETHER", Right),
    ]);
    for worker in &stats.workers {
        let StageCycles { receive, parse, decide, send } = worker.cycles_per_packet;
        let cycles = [receive, parse, decide, send, receive + parse + decide + send];
        let cells = cycles.map(|cycles| format!("{cycles:.0}"));
        stages.row([worker.core.to_string()].into_iter().chain(cells).collect());
    }
    stages.flush(out)?;
    writeln!(out)?;
    let mut punt = Table::new(&[
        ("PUNT THREAD", Right),
        ("TO KERNEL", Right),
        ("CONTROL", Right),
        ("FROM KERNEL", Right),
        ("DROPPED", Right),
    ]);
    for thread in &stats.punt {
        punt.row(vec![
            thread.thread.to_string(),
            count(thread.to_kernel),
            count(thread.control),
            count(thread.from_kernel),
            count(thread.dropped_by_reason.total()),
        ]);
    }
    punt.flush(out)?;
    let tracker = &stats.tracker;
    writeln!(out, "\nflows")?;
    let told = [
        ("conntrack entries looked at", tracker.entries),
        ("proofs", tracker.proofs),
        ("proofs that came too late", tracker.stale_proofs),
        ("announced changes", tracker.changes),
        ("directions whose probe the kernel did not forward", tracker.not_forwarded),
        ("directions not proved in time", tracker.deadline_missed),
        ("connections without room in the flow table", tracker.table_full),
        ("unknown 5-tuples asked for", tracker.asked),
        ("unknown 5-tuples too many to ask for", tracker.unasked),
    ];
    numbers(out, &told)?;
    let marks = &stats.marks;
    if *marks != MarkCounts::default() {
        writeln!(out, "\npackets marked by NICs")?;
        let told =
            [("found by their mark", marks.found), ("looked up, the mark was old or wrong", marks.missed)];
        numbers(out, &told)?;
    }
    reasons(out, "punted", &stats.punted_by_reason)?;
    reasons(out, "dropped", &stats.dropped_by_reason)
}

/// Names and numbers, one a line.
fn numbers(out: &mut dyn Write, numbers: &[(&str, u64)]) -> io::Result<()> {
    let names = numbers.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let values = numbers.iter().map(|(_, value)| count(*value).len()).max().unwrap_or(0);
    for (name, value) in numbers {
        writeln!(out, "  {name:<names$}  {:>values$}", count(*value))?;
    }
    Ok(())
}

/// Reasons that counted anything, the most frequent first.
fn reasons<R: Reason>(out: &mut dyn Write, title: &str, counts: &ByReason<R>) -> io::Result<()> {
    let mut found: Vec<(&str, u64)> =
        counts.iter().filter(|(_, packets)| *packets > 0).map(|(reason, n)| (reason.name(), n)).collect();
    if found.is_empty() {
        return Ok(());
    }
    found.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
    writeln!(out, "\n{title}, by reason")?;
    numbers(out, &found)
}
