//! `flyover explain` for people.

use std::io::{self, Write};

use super::flows::tone;
use super::format::{bytes, count, seconds, tuple};
use super::style::{Tone, paint};
use crate::api::{DirectionInfo, Explanation, PuntedInfo, Whereabouts};

/// A sentence on where it is, then what is known, then what can be done.
pub(super) fn show(out: &mut dyn Write, found: &Explanation) -> io::Result<()> {
    let (tone, place) = match (found.known, &found.connection) {
        (Whereabouts::Flyover, Some(flow)) => (tone(flow.state), flow.state.name()),
        (Whereabouts::Nowhere, _) => (Tone::Bad, "unknown"),
        (Whereabouts::Kernel | Whereabouts::Flyover, _) => (Tone::Warn, "in the kernel"),
    };
    writeln!(out, "{}: {}", paint(tone, place), found.why)?;
    for (name, direction) in ["original", "reply"].iter().zip(&found.directions) {
        show_direction(out, name, direction)?;
    }
    if let Some(entry) = &found.conntrack {
        let state = entry.tcp_state.as_deref().map(|state| format!(", {state}")).unwrap_or_default();
        let timeout = entry.timeout_s.map(|left| format!(", {left} s left")).unwrap_or_default();
        writeln!(
            out,
            "\n{}   id {}{state}{timeout}, mark {:#x}, zone {}",
            paint(Tone::Head, "conntrack"),
            entry.id,
            entry.mark,
            entry.zone
        )?;
        writeln!(out, "            {} and back {}", tuple(&entry.orig), tuple(&entry.reply))?;
    }
    for advice in &found.advice {
        writeln!(out, "\n{}       {advice}", paint(Tone::Head, "to do"))?;
    }
    Ok(())
}

fn show_direction(out: &mut dyn Write, name: &str, direction: &DirectionInfo) -> io::Result<()> {
    let DirectionInfo { state, why, proved_length, .. } = direction;
    writeln!(out, "\n{} {}", paint(Tone::Head, &format!("{name:<11}")), tuple(&direction.tuple))?;
    writeln!(out, "            {state} for {}: {why}", seconds(direction.since_s))?;
    if let (Some(from), Some(to), Some(next_hop)) =
        (&direction.in_port, &direction.out_port, &direction.next_hop)
    {
        writeln!(
            out,
            "            in {from}, out {to} to {next_hop}; packets of up to {proved_length} bytes fly, longer ones \
             prove themselves first"
        )?;
    }
    writeln!(
        out,
        "            {} packets, {} past the kernel",
        count(direction.packets),
        bytes(direction.bytes)
    )?;
    for note in &direction.notes {
        writeln!(out, "            {note}")?;
    }
    for PuntedInfo { reason, packets, why } in &direction.punted {
        writeln!(out, "            {} to the kernel, {reason}: {why}", count(*packets))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ConntrackInfo, TupleInfo};

    fn ends() -> TupleInfo {
        let address = |text: &str| text.parse().expect("address");
        TupleInfo { src: address("192.0.2.1"), dst: address("192.0.2.2"), sport: 1, dport: 80 }
    }

    fn shown(explanation: &Explanation) -> String {
        let mut out = Vec::new();
        show(&mut out, explanation).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_connection_in_the_kernel_says_why_and_what_to_do() {
        let text = shown(&Explanation {
            known: Whereabouts::Kernel,
            why: "a conntrack helper reads its packets".to_owned(),
            advice: vec!["take it off".to_owned()],
            conntrack: Some(ConntrackInfo {
                id: 7,
                orig: ends(),
                reply: ends(),
                tcp_state: Some("ESTABLISHED".to_owned()),
                timeout_s: Some(90),
                mark: 0x10,
                zone: 0,
            }),
            ..Explanation::default()
        });
        assert!(text.starts_with("in the kernel: a conntrack helper reads its packets\n"), "{text}");
        assert!(text.contains("id 7, ESTABLISHED, 90 s left, mark 0x10, zone 0\n"), "{text}");
        assert!(text.ends_with("to do       take it off\n"), "{text}");
    }

    #[test]
    fn each_direction_is_told() {
        let direction = DirectionInfo {
            tuple: ends(),
            state: "software".to_owned(),
            why: "proved".to_owned(),
            since_s: 3.0,
            packets: 12,
            bytes: 2048,
            in_port: Some("lan0".to_owned()),
            out_port: Some("wan0".to_owned()),
            next_hop: Some("02:00:00:00:00:01".to_owned()),
            proved_length: 1500,
            punted: vec![PuntedInfo {
                reason: "fragment".to_owned(),
                packets: 1234,
                why: "a fragment".to_owned(),
            }],
            notes: vec!["leaves past a tbf qdisc".to_owned()],
        };
        let unproved = DirectionInfo { in_port: None, state: "candidate".to_owned(), ..direction.clone() };
        let text = shown(&Explanation { directions: vec![direction, unproved], ..Explanation::default() });
        assert!(
            text.contains("original    192.0.2.1:1 > 192.0.2.2:80\n            software for 3.0s: proved\n"),
            "{text}"
        );
        assert!(
            text.contains("in lan0, out wan0 to 02:00:00:00:00:01; packets of up to 1500 bytes fly"),
            "{text}"
        );
        assert!(text.contains("            leaves past a tbf qdisc\n"), "{text}");
        assert!(text.contains("            1,234 to the kernel, fragment: a fragment\n"), "{text}");
        assert!(text.contains("reply       192.0.2.1:1 > 192.0.2.2:80\n            candidate for"), "{text}");
        assert_eq!(text.matches("in lan0").count(), 1, "{text}");
    }
}
