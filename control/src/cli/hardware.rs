//! `flyover hardware` for people.

use std::io::{self, Write};

use super::format::count;
use super::style::Tone;
use super::table::{Align, Cell, Table};
use crate::api::{DirectionRules, HardwareAudit, PortHardware};

use Align::{Left, Right};

/// Ports in a table, then what was found.
pub(super) fn ports(out: &mut dyn Write, ports: &[PortHardware]) -> io::Result<()> {
    let mut table = Table::new(&[
        ("PORT", Left),
        ("DRIVER", Left),
        ("TIER", Left),
        ("USED", Left),
        ("IPV6", Left),
        ("VLAN", Left),
        ("QUEUES", Left),
        ("DIRECTIONS", Right),
        ("WAITING", Right),
        ("PUT OFF", Right),
        ("LEAVING", Right),
        ("CAPACITY", Right),
        ("BY MARK", Right),
    ]);
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for port in ports {
        let directions = &port.directions;
        table.row(vec![
            port.name.clone().into(),
            port.driver.clone().into(),
            Cell::toned(tone(&port.tier), &*port.tier),
            word(port.used).into(),
            word(port.ipv6).into(),
            word(port.vlan).into(),
            word(port.queues).into(),
            count(directions.hardware).into(),
            count(directions.waiting).into(),
            count(directions.put_off).into(),
            count(directions.leaving).into(),
            if port.used { count(directions.capacity) } else { "-".to_owned() }.into(),
            count(port.marks.found).into(),
        ]);
    }
    table.flush(out)?;
    for port in ports {
        if let Some(form) = &port.form {
            writeln!(out, "{}: by {form}", port.name)?;
        }
        if port.marks.missed > 0 {
            let (name, missed) = (&port.name, count(port.marks.missed));
            writeln!(out, "{name}: {missed} marks were old or wrong: their packets were looked up")?;
        }
        for finding in &port.findings {
            writeln!(out, "{}: {finding}", port.name)?;
        }
        for finding in mended(port) {
            writeln!(out, "{}: {finding}", port.name)?;
        }
    }
    Ok(())
}

/// A tier's colour.
fn tone(tier: &str) -> Tone {
    match tier {
        "full" => Tone::Hardware,
        "assist" => Tone::Good,
        _ => Tone::Faint,
    }
}

/// What did not agree, and what the NIC let wait, if anything.
fn mended(port: &PortHardware) -> Vec<String> {
    let HardwareAudit { looks: _, lost, extra, orphaned, outdated, failing, remade } = port.audit;
    let told = [
        (lost, "rules were lost by the NIC, and made again"),
        (extra, "rules were nobody's, and removed"),
        (orphaned, "rules had no flow any more, and were removed"),
        (outdated, "rules said something else than the flow table, and were made anew"),
        (failing, "rules could not be read or took no packets: their flows are kept out for a while"),
        (remade, "times the NIC had lost everything, and all rules were made anew"),
        (port.waits.overran, "rules did not go as fast as they should have"),
    ];
    told.iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{} {what}", count(*number)))
        .collect()
}

/// Lines for testpmd, by direction.
pub(super) fn rules(out: &mut dyn Write, directions: &[DirectionRules]) -> io::Result<()> {
    if directions.is_empty() {
        return writeln!(out, "Flyover has no such connection");
    }
    for (name, direction) in ["original", "reply"].iter().zip(directions) {
        match (&direction.port, &direction.why) {
            (Some(port), None) => writeln!(out, "# {name} direction, in by {port}")?,
            (_, why) => writeln!(out, "# {name} direction: {}", why.as_deref().unwrap_or("not known"))?,
        }
        direction.rules.iter().try_for_each(|rule| writeln!(out, "{rule}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{HardwareDirections, MarkCounts};

    fn text(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn ports_and_what_was_found() {
        let directions =
            HardwareDirections { hardware: 1234, capacity: 4096, ..HardwareDirections::default() };
        let used = PortHardware {
            name: "wan0".to_owned(),
            driver: "model".to_owned(),
            tier: "full".to_owned(),
            used: true,
            directions,
            queues: true,
            form: Some("rules of the port (ingress), groups, set actions, port_id".to_owned()),
            marks: MarkCounts { found: 7, missed: 2 },
            audit: HardwareAudit { looks: 9000, lost: 1200, ..HardwareAudit::default() },
            ..PortHardware::default()
        };
        let none = PortHardware {
            name: "lan0".to_owned(),
            findings: vec!["no rules".to_owned()],
            ..PortHardware::default()
        };
        let told = text(|out| ports(out, &[used, none]));
        let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            ["wan0", "model", "full", "yes", "no", "no", "yes", "1,234", "0", "0", "0", "4,096", "7"]
        );
        assert_eq!(lines[2][lines[2].len() - 2..], ["-", "0"]);
        assert!(
            told.contains("\nwan0: by rules of the port (ingress), groups, set actions, port_id\n"),
            "{told}"
        );
        assert!(told.contains("\nwan0: 2 marks were old or wrong: their packets were looked up\n"), "{told}");
        assert!(told.contains("\nwan0: 1,200 rules were lost by the NIC, and made again\n"), "{told}");
        assert!(told.ends_with("lan0: no rules\n"), "{told}");
    }

    #[test]
    fn rules_by_direction() {
        let known = DirectionRules {
            port: Some("lan0".to_owned()),
            rules: vec!["flow create 0".to_owned()],
            why: None,
        };
        let not = DirectionRules { why: Some("not proved".to_owned()), ..DirectionRules::default() };
        let told = text(|out| rules(out, &[known, not]));
        assert_eq!(told, "# original direction, in by lan0\nflow create 0\n# reply direction: not proved\n");
        assert_eq!(text(|out| rules(out, &[])), "Flyover has no such connection\n");
    }
}
