//! What was found, counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use dataplane::packet::{DropReason, PuntReason};

use super::classes::Classes;
use super::compare::{Answer, Exception, Finding};
use super::connection::Connection;
use super::frames::Input;
use super::links::Link;

/// Reasons that a packet alone does not bring about on a port without hardware: they take a NIC's flag, a buffer of
/// several segments, or time.
const NOT_BY_A_PACKET: [PuntReason; 4] =
    [PuntReason::BadChecksum, PuntReason::HoldFull, PuntReason::HoldTimeout, PuntReason::Segmented];

/// So many packets reach everything that there is to reach.
const ENOUGH: u64 = 50_000;

/// Counts of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Packets sent through both gateways.
    pub packets: u64,
    /// Packets that were sent again in bursts, and came out the same.
    pub in_bursts: u64,
    /// Sets of connections.
    pub worlds: u64,
    /// Connections.
    pub connections: u64,
    /// Differences that must not be.
    pub mismatches: u64,
    /// Frames that the kernel sent of its own accord.
    pub chatter: u64,
    /// Connections are bridged too: the kernel has br_netfilter.
    bridged: bool,
    /// The longest frame that flew.
    pub longest: usize,
    equal: u64,
    punted: BTreeMap<PuntReason, BTreeMap<Option<Answer>, u64>>,
    dropped: BTreeMap<DropReason, u64>,
    exceptions: BTreeMap<Exception, u64>,
    /// By kind: all, and those that flew.
    kinds: BTreeMap<&'static str, (u64, u64)>,
    /// Packets that flew, by family, protocol and NAT.
    flown: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    ways: BTreeMap<(Link, Link), u64>,
    /// What the NIC did.
    pub(super) classes: Classes,
}

impl Report {
    /// Nothing yet.
    pub fn new(bridged: bool) -> Self {
        Self { bridged, ..Self::default() }
    }

    /// Counts a finding.
    pub fn count(&mut self, connection: &Connection, input: &Input, finding: &Finding) {
        self.packets += 1;
        let kind = self.kinds.entry(input.kind).or_default();
        kind.0 += 1;
        match finding {
            Finding::Equal { egress, .. } => {
                kind.1 += 1;
                self.equal += 1;
                self.longest = self.longest.max(input.frame.len());
                let which = (connection.family(), connection.protocol(), connection.nat());
                *self.flown.entry(which).or_default() += 1;
                let ingress = if *egress == connection.to { connection.from } else { connection.to };
                *self.ways.entry((ingress, *egress)).or_default() += 1;
            }
            Finding::Punted { reason, kernel } => {
                *self.punted.entry(*reason).or_default().entry(*kernel).or_default() += 1;
            }
            Finding::Dropped(reason) => *self.dropped.entry(*reason).or_default() += 1,
            Finding::Exception(exception) => *self.exceptions.entry(*exception).or_default() += 1,
            Finding::Mismatch(_) => self.mismatches += 1,
        }
    }

    /// What a run of this length should have reached and did not.
    pub fn missing(&self) -> Vec<String> {
        if self.packets < ENOUGH {
            return Vec::new();
        }
        let mut missing = Vec::new();
        for reason in PuntReason::ALL.iter().filter(|reason| !NOT_BY_A_PACKET.contains(reason)) {
            if !self.punted.contains_key(reason) {
                missing.push(format!("no packet was punted for {}", reason.name()));
            }
        }
        if !self.dropped.contains_key(&DropReason::BadIpHeader) {
            missing.push("no packet was dropped for bad_ip_header".to_owned());
        }
        for exception in [Exception::BadL4Checksum, Exception::ImplausibleClose] {
            if !self.exceptions.contains_key(&exception) {
                missing.push(format!("no exception: {}", exception.name()));
            }
        }
        let nat: BTreeSet<_> = self.flown.keys().map(|(_, _, nat)| *nat).collect();
        for family in ["ip", "ip6"] {
            for protocol in ["tcp", "udp"] {
                let own = |nat: &&&str| family == "ip6" || **nat != "npt";
                for nat in nat.iter().filter(own) {
                    if !self.flown.contains_key(&(family, protocol, *nat)) {
                        missing.push(format!("nothing flew: {family} {protocol}, NAT {nat}"));
                    }
                }
            }
        }
        if nat.len() != 8 {
            missing.push(format!("of 8 kinds of NAT there were {nat:?}"));
        }
        for link in Link::all().filter(|link| self.bridged || !link.is_bridged()) {
            if !self.ways.keys().any(|(from, _)| *from == link)
                || !self.ways.keys().any(|(_, to)| *to == link)
            {
                missing.push(format!("nothing flew from and to {link}"));
            }
        }
        missing.extend(self.classes.missing());
        missing
    }

    /// Prints the report, after a run that took so long.
    pub fn print(&self, took: Duration) {
        println!("{self}");
        let seconds = took.as_secs_f64();
        println!("{} packets in {seconds:.1} s, {:.0} a second", self.packets, self.packets as f64 / seconds);
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, count: u64) -> fmt::Result {
    writeln!(f, "  {what:<52} {count:>12}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sent through both gateways")?;
        row(f, "packets", self.packets)?;
        row(f, "connections", self.connections)?;
        row(f, "flew, and equal byte for byte", self.equal)?;
        row(f, "of these once more in bursts, and equal again", self.in_bursts)?;
        let bridged =
            self.ways.iter().filter(|((from, _), _)| from.is_bridged()).map(|(_, count)| count).sum();
        row(
            f,
            if self.bridged { "of these bridged" } else { "of these bridged (no br_netfilter here)" },
            bridged,
        )?;
        row(f, "longest that flew, in bytes", self.longest as u64)?;

        writeln!(
            f,
            "\npunted, unmodified {:>37} {:>9} {:>9} {:>9}",
            "all", "forwarded", "answered", "nothing"
        )?;
        for (reason, answers) in &self.punted {
            let of = |answer| answers.get(&Some(answer)).copied().unwrap_or_default();
            let all: u64 = answers.values().sum();
            let (forwarded, answered, nothing) =
                (of(Answer::Forwarded), of(Answer::Answered), of(Answer::Nothing));
            let name = reason.name();
            writeln!(f, "  {name:<42} {all:>11} {forwarded:>9} {answered:>9} {nothing:>9}")?;
        }
        writeln!(f, "  (the last three: what the kernel did with those that it was shown)")?;

        writeln!(f, "\ndropped, and the kernel sends nothing either")?;
        for (reason, count) in &self.dropped {
            row(f, reason.name(), *count)?;
        }
        writeln!(f, "\nexceptions, as stated in the design")?;
        for (exception, count) in &self.exceptions {
            row(f, exception.name(), *count)?;
        }
        writeln!(f, "\nkinds of packets {:>48} {:>12}", "all", "flew")?;
        for (kind, (all, flew)) in &self.kinds {
            writeln!(f, "  {kind:<52} {all:>10} {flew:>12}")?;
        }
        writeln!(f, "\nflew, by NAT {:>31} {:>10} {:>10} {:>10}", "ip tcp", "ip udp", "ip6 tcp", "ip6 udp")?;
        let nat: BTreeSet<_> = self.flown.keys().map(|(_, _, nat)| *nat).collect();
        for nat in nat {
            let of = |family, protocol| self.flown.get(&(family, protocol, nat)).copied().unwrap_or_default();
            let (a, b, c, d) = (of("ip", "tcp"), of("ip", "udp"), of("ip6", "tcp"), of("ip6", "udp"));
            writeln!(f, "  {nat:<31} {a:>10} {b:>10} {c:>10} {d:>10}")?;
        }
        write!(f, "\n{}", self.classes)?;
        writeln!(f)?;
        row(f, "frames of the kernel's own, left out", self.chatter)?;
        row(f, "mismatches", self.mismatches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_that_reached_nothing_says_so() {
        let mut report = Report::new(true);
        report.packets = ENOUGH - 1;
        assert!(report.missing().is_empty());
        report.packets = ENOUGH;
        let missing = report.missing().join("\n");
        for part in [
            "for martian",
            "for closing",
            "bad_ip_header",
            "implausible",
            "kinds of NAT",
            "right-bridge",
            "NIC carried none: TTL 2",
            "NIC carried none: ip6 tcp, NAT npt",
            "to software: FIN",
        ] {
            assert!(missing.contains(part), "{part} in {missing}");
        }
        assert!(!missing.contains("segmented"));
    }
}
