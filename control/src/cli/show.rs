//! Tables of status, ports and stats for people.

use std::io::{self, Write};

use super::format::{bytes, count, seconds, speed};
use super::style::{Tone, paint};
use super::table::{Align, Cell, Table};
use super::verdict;
use crate::api::{
    ByReason, CollectorStatus, MarkCounts, PacketCounts, PortStatus, Reason, StageCycles, Stats, Status,
};

use Align::{Left, Right};

/// `flyover status`
pub(super) fn status(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    headline(out, status)?;
    let hugepages = if status.hugepages { "hugepages" } else { "no hugepages" };
    let Status { policy, epoch, hardware, .. } = status;
    writeln!(out, "policy {policy}, epoch {epoch}, {hugepages}, hardware path: {hardware}")?;
    writeln!(out, "own nft table: {}", own_table(&status.ruleset.own_table))?;
    let flows = &status.flows;
    writeln!(out, "\n{}, of {} at most", head("connections"), count(flows.capacity))?;
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
    packets(out, &status.packets)?;
    reasons(out, "punted", &status.punted_by_reason)?;
    reasons(out, "dropped", &status.dropped_by_reason)?;
    let conntrack = &status.conntrack;
    writeln!(out, "\n{}", head("conntrack"))?;
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

/// Whether all is well, and what is not: at a glance, and in full.
fn headline(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    let ready = if status.ready { paint(Tone::Good, "ready") } else { paint(Tone::Bad, "not ready") };
    let faults = verdict::faults(status);
    let verdict = match faults.len() + status.notices.len() {
        0 => paint(Tone::Good, "all is well"),
        1 => paint(Tone::Warn, "one thing to look at"),
        many => paint(Tone::Warn, &format!("{many} things to look at")),
    };
    let up = seconds(status.uptime_s as f64);
    writeln!(out, "flyover {}: {ready}, up {up}; {verdict}", status.version)?;
    for fault in faults {
        writeln!(out, "{} {fault}", paint(Tone::Bad, "look:"))?;
    }
    for notice in &status.notices {
        writeln!(out, "{} {notice}", paint(Tone::Warn, "note:"))?;
    }
    Ok(())
}

/// By path, with the share of those that came in; what the kernel sends came in before, or is its own.
fn packets(out: &mut dyn Write, packets: &PacketCounts) -> io::Result<()> {
    let PacketCounts { fast, hardware, punted, from_kernel, dropped } = *packets;
    let all = fast + hardware + punted + dropped;
    let share = |part: u64| match all {
        0 => String::new(),
        all => format!("{:.1} %", 100.0 * part as f64 / all as f64),
    };
    writeln!(out, "\n{}", head("packets"))?;
    let mut table = Table::bare(&[Left, Right, Right]);
    for (name, packets, share) in [
        ("fast", fast, share(fast)),
        ("hardware", hardware, share(hardware)),
        ("punted", punted, share(punted)),
        ("from kernel", from_kernel, String::new()),
        ("dropped", dropped, share(dropped)),
    ] {
        table.row(vec![format!("  {name}"), count(packets), share]);
    }
    table.flush(out)
}

fn head(text: &str) -> String {
    paint(Tone::Head, text)
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
        table.row([to.collector.clone()].into_iter().chain(numbers).collect::<Vec<_>>());
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
    let up = |up: bool| if up { Cell::toned(Tone::Good, "up") } else { Cell::toned(Tone::Bad, "down") };
    let plain = |text: &str| Cell::from(text.to_owned());
    // Nothing was lost: nothing to see.
    let lost = |number: u64| match number {
        0 => Cell::from(count(0)),
        some => Cell::toned(Tone::Bad, count(some)),
    };
    for port in ports {
        let (rx, tx, twin) = (&port.rx, &port.tx, &port.twin);
        let netns = port.netns.as_ref().map_or(String::new(), |name| format!(" (netns {name})"));
        let device = format!("{}{netns}", port.device);
        let head = vec![
            plain(&port.name),
            plain(&port.driver),
            up(port.link_up),
            up(port.admin_up),
            speed(port.speed_mbps).into(),
            plain(&port.mac),
            port.mtu.to_string().into(),
            port.queues.to_string().into(),
        ];
        let line = |head: Vec<Cell>, name: &str, numbers: [Option<u64>; 4], device: String| {
            let [packets, octets, errors, missed] = numbers;
            let mut cells = head;
            cells.push(plain(name));
            cells.push(packets.map(count).unwrap_or_default().into());
            cells.push(octets.map(bytes).unwrap_or_default().into());
            cells.push(errors.map_or_else(|| plain(""), lost));
            cells.push(missed.map_or_else(|| plain(""), lost));
            cells.push(device.into());
            cells
        };
        let blank = || vec![plain(""); head.len()];
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
    writeln!(out, "\n{}", head("flows"))?;
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
        writeln!(out, "\n{}", head("packets marked by NICs"))?;
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
    writeln!(out, "\n{}", head(&format!("{title}, by reason")))?;
    numbers(out, &found)
}
