//! A packet's way for people.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::frame::Frame;
use super::packet::{Entry, Traced};

/// Writes one packet: a line on where and when, and a line a step.
pub(super) fn write(out: &mut dyn Write, packet: &Traced) -> io::Result<()> {
    let Traced { packet: number, time, length, worker, .. } = packet;
    match &packet.in_port {
        Some(port) => writeln!(out, "{number}  {time}  {port}, queue {worker}, {length} bytes")?,
        None => writeln!(out, "{number}  {time}  from the kernel, {length} bytes")?,
    }
    step(out, "frame", &frame(&packet.frame))?;
    if let Some(refused) = packet.refused {
        step(out, "parsed", &format!("not to be carried: {refused}"))?;
    }
    if let Some(lookup) = packet.lookup {
        let found = match lookup {
            "miss" => "no entry has its 5-tuple".to_owned(),
            "mark" => "found by the mark that the NIC gave it, without a lookup".to_owned(),
            _ => "found".to_owned(),
        };
        step(out, "looked up", &found)?;
    }
    if let Some(found) = &packet.entry {
        step(out, "entry", &entry(found, packet.frame.l3_length))?;
    }
    if packet.held {
        step(
            out,
            "held",
            "it waits: earlier packets of its direction are still on their way through the kernel",
        )?;
    }
    let why = |text: &str| match (packet.reason, packet.why) {
        (Some(reason), Some(why)) => format!("{text}: {reason}: {why}"),
        _ => text.to_owned(),
    };
    match packet.decision {
        "fly" => step(out, "decided", "it flies")?,
        "punt" => step(out, "decided", &why("to the kernel"))?,
        "drop" => step(out, "dropped", &why("it goes no further"))?,
        _ => {}
    }
    for change in &packet.rewritten {
        let [before, after] =
            [&change.before, &change.after].map(|text| if text.is_empty() { "none" } else { text });
        step(out, "rewritten", &format!("{} {before} -> {after}", change.field))?;
    }
    let took = packet.took_us.map(|us| format!(", after {us:.1} us")).unwrap_or_default();
    if let Some(ring) = packet.ring {
        step(out, "punted", &format!("by the {ring} ring{took}"))?;
    }
    if let Some(event) = packet.event {
        step(out, "", event)?;
    }
    if let (Some(port), Some(bytes)) = (&packet.out_port, packet.out_length) {
        step(out, "sent", &format!("{port}, {bytes} bytes{took}"))?;
    }
    if packet.took_us.is_none() {
        step(out, "then", "no more was seen of it")?;
    }
    Ok(())
}

fn step(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    writeln!(out, "   {name:<10} {text}")
}

fn frame(frame: &Frame) -> String {
    let mut text = frame.proto.clone();
    match (frame.src, frame.dst, frame.sport, frame.dport) {
        (Some(src), Some(dst), Some(sport), Some(dport)) => {
            let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
            text.push_str(&format!(" {src} > {dst}"));
        }
        (Some(src), Some(dst), ..) => text.push_str(&format!(" {src} > {dst}")),
        _ => {}
    }
    if let Some(flags) = &frame.tcp_flags {
        text.push_str(&format!(" [{flags}]"));
    }
    if let (Some(ttl), Some(length)) = (frame.ttl, frame.l3_length) {
        text.push_str(&format!(", TTL {ttl}, {length} bytes from the IP header on"));
    }
    text.push_str(&format!(", {} > {}", frame.src_mac, frame.dst_mac));
    for vlan in &frame.vlans {
        text.push_str(&format!(", VLAN {vlan}"));
    }
    if let Some(session) = frame.pppoe {
        text.push_str(&format!(", PPPoE session {session}"));
    }
    text
}

fn entry(entry: &Entry, length: Option<u32>) -> String {
    let Entry { state, proved_length, .. } = entry;
    let came = match (entry.ingress, &entry.proved_ingress) {
        ("same", _) => "it came in as proved".to_owned(),
        ("other", Some(place)) => format!("it came in elsewhere than proved ({place})"),
        _ => "where its packets come in is not proved".to_owned(),
    };
    let longer = length.is_some_and(|length| length > u32::from(*proved_length));
    let fits = if longer { ": this one is longer" } else { "" };
    format!("{state}; {came}; proved up to {proved_length} bytes{fits}")
}

#[cfg(test)]
mod tests {
    use super::super::frame::Change;
    use super::*;

    fn text(packet: &Traced) -> String {
        let mut out = Vec::new();
        write(&mut out, packet).expect("written");
        String::from_utf8(out).expect("text")
    }

    fn packet() -> Traced {
        let [src, dst] = [[10, 0, 0, 1], [192, 0, 2, 1]].map(|address| Some(address.into()));
        Traced {
            packet: 1,
            time: "2026-01-01T00:00:00.000000001Z".to_owned(),
            from: "wire",
            in_port: Some("lan0".to_owned()),
            length: 98,
            frame: Frame {
                proto: "udp".to_owned(),
                src,
                dst,
                sport: Some(1000),
                dport: Some(53),
                ttl: Some(64),
                l3_length: Some(84),
                vlans: vec![10],
                ..Frame::default()
            },
            lookup: Some("hit"),
            entry: Some(Entry {
                state: "software",
                ingress: "same",
                proved_ingress: None,
                proved_length: 80,
            }),
            took_us: Some(1.25),
            ..Traced::default()
        }
    }

    #[test]
    fn each_step_has_a_line() {
        let change = |field, before: &str, after: &str| Change {
            field,
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let flown = text(&Traced {
            decision: "fly",
            held: true,
            rewritten: vec![change("ttl", "64", "63"), change("vlans", "10", "")],
            out_port: Some("wan0".to_owned()),
            out_length: Some(94),
            ..packet()
        });
        assert!(flown.starts_with("1  2026-01-01T00:00:00.000000001Z  lan0, queue 0, 98 bytes\n"), "{flown}");
        for line in [
            "   frame      udp 10.0.0.1:1000 > 192.0.2.1:53, TTL 64, 84 bytes from the IP header on",
            "   looked up  found\n",
            "   entry      software; it came in as proved; proved up to 80 bytes: this one is longer\n",
            "   held       ",
            "   decided    it flies\n",
            "   rewritten  ttl 64 -> 63\n",
            "   rewritten  vlans 10 -> none\n",
            "   sent       wan0, 94 bytes, after 1.2 us\n",
        ] {
            assert!(flown.contains(line), "{line:?} in {flown}");
        }
    }

    #[test]
    fn a_reason_says_why() {
        let (reason, why) = (Some("no_flow"), Some("its 5-tuple is of no connection in the table"));
        let punted = text(&Traced {
            decision: "punt",
            reason,
            why,
            lookup: Some("miss"),
            entry: None,
            ring: Some("transit"),
            ..packet()
        });
        assert!(punted.contains("   looked up  no entry has its 5-tuple\n"), "{punted}");
        assert!(punted.contains("   decided    to the kernel: no_flow: its 5-tuple is of"), "{punted}");
        assert!(punted.contains("   punted     by the transit ring, after 1.2 us\n"), "{punted}");
        let dropped = text(&Traced { decision: "drop", reason: Some("no_port"), why, ..packet() });
        assert!(dropped.contains("   dropped    it goes no further: no_port: "), "{dropped}");
        let unknown = text(&Traced { decision: "unknown", took_us: None, ..packet() });
        assert!(unknown.ends_with("   then       no more was seen of it\n"), "{unknown}");
    }
}
