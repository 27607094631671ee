//! What the NIC carried and what it left to software, by what is peculiar about a packet.

use std::collections::BTreeMap;
use std::fmt;

use dataplane::flow::UDP;
use dataplane::packet::{DropReason, Headers, PuntReason, parse, tcp};

use super::compare::{Exception, Finding};
use super::frames::{Input, has_bad_checksum};
use super::hardware::{Hardware, Verdict, ttl};
use super::kernel::Opened;
use super::links::Link;

/// What no NIC may carry: packets of each of these have to be seen, and all of them in software.
const FOR_SOFTWARE: [&str; 12] = [
    "fragment",
    "IPv4 options",
    "IPv6 extension headers",
    "TTL 0",
    "TTL 1",
    "FIN",
    "SYN",
    "RST",
    "wrong IPv4 header checksum",
    "wrong L4 checksum",
    "wrong lengths or flags",
    "another port, MAC, VLAN or session",
];

/// What a NIC has to carry.
const FOR_THE_NIC: [&str; 18] = [
    "TTL 2",
    "TTL 255",
    "padding",
    "UDP without a checksum",
    "TCP options",
    "PSH, URG, ECE, CWR",
    "longer than 1500 bytes",
    "0 tags to 0",
    "0 tags to 1",
    "0 tags to 2",
    "1 tag to 0",
    "1 tag to 1",
    "1 tag to 2",
    "2 tags to 0",
    "2 tags to 1",
    "2 tags to 2",
    "a priority on the tag",
    "back out of the same port",
];

const NAT: [&str; 8] =
    ["none", "snat", "snat to port", "dnat", "dnat to port", "snat and dnat", "masquerade", "npt"];

/// Packets, by whether the NIC carried them.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    carried: u64,
    software: u64,
}

/// Counts of a run.
#[derive(Debug, Default)]
pub(super) struct Classes {
    directions: u64,
    unfit: BTreeMap<&'static str, u64>,
    all: Count,
    too_long: u64,
    by_class: BTreeMap<&'static str, Count>,
    /// By NAT, family and protocol.
    by_nat: BTreeMap<(&'static str, &'static str, &'static str), u64>,
}

impl Classes {
    /// Counts the rules of a set of connections.
    pub(super) fn world(&mut self, hardware: &Hardware) {
        self.directions += hardware.directions() as u64;
        for (why, count) in &hardware.unfit {
            *self.unfit.entry(why).or_default() += count;
        }
    }

    /// Counts a packet.
    pub(super) fn count(&mut self, opened: &Opened, input: &Input, finding: &Finding, verdict: Verdict) {
        let carried = match verdict {
            Verdict::Carried => true,
            Verdict::Software => false,
            Verdict::TooLong => {
                self.too_long += 1;
                return;
            }
            Verdict::NoRule => return,
        };
        let add = |count: &mut Count| {
            count.carried += u64::from(carried);
            count.software += u64::from(!carried);
        };
        add(&mut self.all);
        let mut classes = Vec::new();
        if carried {
            let one = &opened.connection;
            *self.by_nat.entry((one.nat(), one.family(), one.protocol())).or_default() += 1;
            ordinary(opened, input, &mut classes);
        } else {
            peculiar(input, finding, &mut classes);
        }
        classes.into_iter().for_each(|class| add(self.by_class.entry(class).or_default()));
    }

    /// What a long run should have reached and did not.
    pub(super) fn missing(&self) -> Vec<String> {
        let count = |class: &'static str| self.by_class.get(class).copied().unwrap_or_default();
        let mut missing = Vec::new();
        for class in FOR_THE_NIC.into_iter().filter(|&class| count(class).carried == 0) {
            missing.push(format!("the NIC carried none: {class}"));
        }
        for class in FOR_SOFTWARE.into_iter().filter(|&class| count(class).software == 0) {
            missing.push(format!("the NIC gave none to software: {class}"));
        }
        for (nat, family, protocol) in nat_cells() {
            if !self.by_nat.contains_key(&(nat, family, protocol)) {
                missing.push(format!("the NIC carried none: {family} {protocol}, NAT {nat}"));
            }
        }
        missing
    }
}

/// Every kind of NAT with every family and protocol that it is for.
fn nat_cells() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let of = |nat| ["ip", "ip6"].map(move |family| ["tcp", "udp"].map(move |proto| (nat, family, proto)));
    let all = NAT.into_iter().flat_map(move |nat| of(nat).into_iter().flatten());
    all.filter(|(nat, family, _)| *nat != "npt" || *family == "ip6")
}

/// What is peculiar about a packet that can be carried.
fn ordinary(opened: &Opened, input: &Input, classes: &mut Vec<&'static str>) {
    let Ok(headers) = parse(&input.frame, input.port) else { return };
    let tags = [ingress(opened, input.way), opened.egress[input.way]].map(|link| link.wrapping().tags.len());
    classes.push(match tags {
        [0, 0] => "0 tags to 0",
        [0, 1] => "0 tags to 1",
        [0, _] => "0 tags to 2",
        [1, 0] => "1 tag to 0",
        [1, 1] => "1 tag to 1",
        [1, _] => "1 tag to 2",
        [_, 0] => "2 tags to 0",
        [_, 1] => "2 tags to 1",
        [_, _] => "2 tags to 2",
    });
    let packet = headers.packet(&input.frame);
    let ttl = packet.get(if opened.connection.tuple.src.is_ipv4() { 8 } else { 7 });
    let udp_checksum = input.frame.get(headers.l4() + 6..headers.l4() + 8);
    let tcp_offset = input.frame.get(headers.l4() + 12).map(|byte| byte >> 4);
    let (is_udp, is_tcp) = (headers.key.proto() == UDP, headers.key.proto() != UDP);
    let has = [
        (ttl == Some(&2), "TTL 2"),
        (ttl == Some(&255), "TTL 255"),
        (input.frame.len() > headers.frame_len(), "padding"),
        (is_udp && udp_checksum == Some(&[0, 0]), "UDP without a checksum"),
        (is_tcp && tcp_offset > Some(5), "TCP options"),
        (is_tcp && headers.tcp_flags & !tcp::ACK != 0, "PSH, URG, ECE, CWR"),
        (packet.len() > 1500, "longer than 1500 bytes"),
        (tags[0] > 0 && input.frame.get(14).is_some_and(|byte| byte >> 5 != 0), "a priority on the tag"),
        (opened.egress[input.way].port() == input.port, "back out of the same port"),
    ];
    classes.extend(has.into_iter().filter(|(has, _)| *has).map(|(_, class)| class));
}

/// Why a packet is for software.
fn peculiar(input: &Input, finding: &Finding, classes: &mut Vec<&'static str>) {
    let headers = parse(&input.frame, input.port).ok();
    let bad = |headers: &Headers| has_bad_checksum(&input.frame, headers);
    let reason = match finding {
        Finding::Punted { reason, .. } => *reason,
        Finding::Dropped(DropReason::BadIpHeader) => {
            classes.push("wrong IPv4 header checksum");
            return;
        }
        Finding::Exception(Exception::ImplausibleClose) => PuntReason::TcpControl,
        Finding::Exception(Exception::BadL4Checksum) | Finding::Equal { .. } => {
            classes.extend(headers.as_ref().is_some_and(bad).then_some("wrong L4 checksum"));
            return;
        }
        Finding::Dropped(_) | Finding::Mismatch(_) => return,
    };
    match reason {
        PuntReason::Fragment => classes.push("fragment"),
        PuntReason::IpOptions => classes.push("IPv4 options"),
        PuntReason::ExtensionHeader => classes.push("IPv6 extension headers"),
        PuntReason::Malformed => classes.push("wrong lengths or flags"),
        PuntReason::IngressContext => classes.push("another port, MAC, VLAN or session"),
        PuntReason::Ttl => classes.push(if ttl(&input.frame) == Some(0) { "TTL 0" } else { "TTL 1" }),
        PuntReason::TcpControl => {
            let flags = headers.map_or(0, |headers| headers.tcp_flags);
            let of = [(tcp::FIN, "FIN"), (tcp::SYN, "SYN"), (tcp::RST, "RST")];
            classes.extend(of.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| name));
        }
        _ => {}
    }
}

fn ingress(opened: &Opened, way: usize) -> Link {
    if way == 0 { opened.connection.from } else { opened.connection.to }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the NIC {:>48} {:>12}", "carried", "software")?;
        let row = |f: &mut fmt::Formatter<'_>, what, count: Count| {
            writeln!(f, "  {what:<43} {:>10} {:>12}", count.carried, count.software)
        };
        row(f, "packets of directions that have a rule", self.all)?;
        for class in FOR_THE_NIC.iter().chain(&FOR_SOFTWARE) {
            row(f, class, self.by_class.get(class).copied().unwrap_or_default())?;
        }
        writeln!(f, "  {:<43} {:>10}", "longer than what comes in, and not shown", self.too_long)?;
        writeln!(f, "\ndirections with a rule {:>33}", self.directions)?;
        for (why, count) in &self.unfit {
            writeln!(f, "  without: {why:<55} {count:>10}")?;
        }
        writeln!(
            f,
            "\ncarried, by NAT {:>28} {:>10} {:>10} {:>10}",
            "ip tcp", "ip udp", "ip6 tcp", "ip6 udp"
        )?;
        for nat in NAT {
            let of = |family, proto| self.by_nat.get(&(nat, family, proto)).copied().unwrap_or_default();
            let (a, b, c, d) = (of("ip", "tcp"), of("ip", "udp"), of("ip6", "tcp"), of("ip6", "udp"));
            writeln!(f, "  {nat:<31} {a:>10} {b:>10} {c:>10} {d:>10}")?;
        }
        Ok(())
    }
}
