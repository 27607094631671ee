//! `flyover hardware` for people.

use std::io::{self, Write};

use super::format::count;
use super::table::{Align, Table};
use crate::api::{DirectionRules, PortHardware};

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
        ("DIRECTIONS", Right),
        ("WAITING", Right),
        ("PUT OFF", Right),
        ("LEAVING", Right),
        ("CAPACITY", Right),
    ]);
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for port in ports {
        let directions = &port.directions;
        table.row(vec![
            port.name.clone(),
            port.driver.clone(),
            port.tier.clone(),
            word(port.used),
            word(port.ipv6),
            word(port.vlan),
            count(directions.hardware),
            count(directions.waiting),
            count(directions.put_off),
            count(directions.leaving),
            if port.used { count(directions.capacity) } else { "-".to_owned() },
        ]);
    }
    table.flush(out)?;
    for port in ports {
        for finding in &port.findings {
            writeln!(out, "{}: {finding}", port.name)?;
        }
    }
    Ok(())
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
    use crate::api::HardwareDirections;

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
            ..PortHardware::default()
        };
        let none = PortHardware {
            name: "lan0".to_owned(),
            findings: vec!["no rules".to_owned()],
            ..PortHardware::default()
        };
        let told = text(|out| ports(out, &[used, none]));
        let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["wan0", "model", "full", "yes", "no", "no", "1,234", "0", "0", "0", "4,096"]);
        assert_eq!(lines[2].last(), Some(&"-"));
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
