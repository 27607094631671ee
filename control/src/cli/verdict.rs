//! What of a gateway's status is not as it should be: what an operator reads first.

use dataplane::packet::DropReason;

use super::format::count;
use crate::api::{PortStatus, Status};

/// As many packets in a thousand may get lost before it is told.
const LOST: u64 = 1;
/// The flow table, in per cent, from which on it is nearly full.
const NEARLY_FULL: u64 = 95;
/// So many connections wait, and none flies: no chance any more.
const STUCK: u64 = 10;
/// Of the last second: a worker that has no time left.
const BUSY: f64 = 95.0;
/// The kernel drops these too: the sender's fault.
const SENDERS: [DropReason; 2] = [DropReason::BadIpHeader, DropReason::ImplausibleClose];

/// What is wrong, a sentence each with what to look at or to type; nothing if all is well. What the gateway itself has to
/// say, its notices, is not repeated.
pub(super) fn faults(status: &Status) -> Vec<String> {
    let mut found = Vec::new();
    if !status.ready {
        found.push(
            "not ready: a twin, conntrack's dump or a worker is not there yet; `flyover events` tells what happens"
                .to_owned(),
        );
    }
    found.extend(status.ports.iter().filter_map(port));
    found.extend(drops(status));
    let busy = status.workers.iter().filter(|worker| worker.busy_percent >= BUSY);
    found.extend(busy.map(|worker| {
        format!("the worker on core {} has no time left: more cores, [workers] cores", worker.core)
    }));
    found.extend(flows(status));
    found
}

fn port(port: &PortStatus) -> Option<String> {
    let PortStatus { name, rx, .. } = port;
    if !port.admin_up {
        return Some(format!("{name} is administratively down; ip link set {name} up"));
    }
    if !port.link_up {
        return Some(format!("{name} has no carrier: cable, transceiver, or the other side"));
    }
    let lost = rx.missed + rx.errors;
    (lost > 0 && lost.saturating_mul(1000) > rx.packets.saturating_mul(LOST)).then(|| {
        let (missed, errors) = (count(rx.missed), count(rx.errors));
        format!("{name} did not take in {missed} packets for want of room, and {errors} with errors, since the start")
    })
}

fn drops(status: &Status) -> Option<String> {
    let packets = &status.packets;
    let all = packets.fast + packets.hardware + packets.punted + packets.dropped;
    let ours = || status.dropped_by_reason.iter().filter(|(reason, _)| !SENDERS.contains(reason));
    let dropped: u64 = ours().map(|(_, packets)| packets).sum();
    let (worst, most) = ours().max_by_key(|(_, packets)| *packets)?;
    (dropped.saturating_mul(1000) > all.saturating_mul(LOST)).then(|| {
        let (dropped, most) = (count(dropped), count(most));
        format!("{dropped} packets were dropped since the start, {most} of them for {}", worst.name())
    })
}

fn flows(status: &Status) -> Option<String> {
    let flows = &status.flows;
    let flying = flows.software + flows.probing + flows.hardware;
    let used = flying + flows.candidate + flows.closing;
    if flows.capacity > 0 && used.saturating_mul(100) >= flows.capacity.saturating_mul(NEARLY_FULL) {
        let (used, room) = (count(used), count(flows.capacity));
        return Some(format!(
            "the flow table is nearly full, {used} of {room}: new connections stay in the kernel; [flows] capacity"
        ));
    }
    (flying == 0 && flows.candidate >= STUCK).then(|| {
        let waiting = count(flows.candidate);
        format!("no connection flies, and {waiting} wait for the kernel's proof; `flyover flows` tells why")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkerStatus;

    fn well() -> Status {
        let mut port = PortStatus { name: "wan0".to_owned(), link_up: true, ..PortStatus::default() };
        port.admin_up = true;
        port.rx.packets = 1_000_000;
        let mut status = Status { ready: true, ports: vec![port], ..Status::default() };
        status.workers = vec![WorkerStatus { core: 1, busy_percent: 50.0, ..WorkerStatus::default() }];
        (status.flows.capacity, status.flows.software, status.flows.candidate) = (1000, 900, 20);
        status.packets.fast = 1_000_000;
        status
    }

    /// One thing goes wrong, and that one is told.
    #[test]
    fn each_fault_is_told_alone() {
        assert_eq!(faults(&well()), [""; 0]);
        type Spoil = fn(&mut Status);
        let faulty: [(&str, Spoil); 9] = [
            ("not ready", |status| status.ready = false),
            ("ip link set wan0 up", |status| {
                (status.ports[0].admin_up, status.ports[0].link_up) = (false, false);
            }),
            ("wan0 has no carrier", |status| status.ports[0].link_up = false),
            ("1,001 packets for want of room", |status| status.ports[0].rx.missed = 1001),
            ("900 with errors", |status| {
                (status.ports[0].rx.missed, status.ports[0].rx.errors) = (900, 900);
            }),
            ("2,010 packets were dropped since the start, 2,000 of them for tx_queue_full", |status| {
                status.dropped_by_reason.add(DropReason::TxQueueFull, 2000);
                status.dropped_by_reason.add(DropReason::TwinFull, 10);
            }),
            ("core 1 has no time left", |status| status.workers[0].busy_percent = 99.5),
            ("nearly full, 970 of 1,000", |status| status.flows.candidate = 70),
            ("no connection flies, and 20 wait", |status| status.flows.software = 0),
        ];
        for (expected, change) in faulty {
            let mut status = well();
            change(&mut status);
            let found = faults(&status);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn what_is_a_senders_fault_or_very_little_is_none() {
        let mut status = well();
        status.dropped_by_reason.add(DropReason::BadIpHeader, 500_000);
        status.dropped_by_reason.add(DropReason::TxQueueFull, 900);
        (status.ports[0].rx.missed, status.flows.candidate) = (900, 40);
        assert_eq!(faults(&status), [""; 0]);
        // Nothing has had a packet yet.
        assert_eq!(faults(&Status { ready: true, ..Status::default() }), [""; 0]);
    }
}
