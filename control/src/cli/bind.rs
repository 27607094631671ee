//! `flyover bind` and `flyover unbind`.

use std::io::{self, Write};

use serde::Serialize;

use super::args::{BindArguments, UnbindArguments};
use super::table::{Align, Table};
use crate::host::Host;
use crate::nics::{self, BindError, Bound, Holder, Nic, Situation, Wish};

/// A NIC, for programs.
#[derive(Serialize)]
struct Row {
    address: String,
    id: String,
    name: Option<String>,
    driver: Option<String>,
    held_by: &'static str,
    interfaces: Vec<String>,
    numa_node: Option<u32>,
    iommu_group: Option<String>,
    former_driver: Option<String>,
    opened_by: Vec<String>,
    /// What it carries without which the machine may not be reached.
    management: Option<String>,
    can: &'static str,
    why: Option<String>,
}

impl Row {
    fn of(host: &Host<'_>, nic: Nic, situation: &Situation) -> Self {
        let opened_by = nic.opened_by(host);
        let management = situation.management(&nic);
        let management = management.map(|(interface, why)| format!("{interface}: {why}"));
        let (can, why) = match nic.holder() {
            Holder::Shared => ("use", Some("it stays with its kernel driver, which DPDK shares".to_owned())),
            Holder::UserSpace if opened_by.is_empty() => ("unbind", None),
            Holder::UserSpace => ("nothing", Some(format!("in use by {}", opened_by.join(", ")))),
            Holder::Kernel | Holder::Nobody => match nics::plan(host, &nic, &Wish::default(), situation) {
                Ok(()) => ("bind", None),
                Err(error) => ("nothing", Some(error.to_string())),
            },
        };
        Self {
            address: nic.address.to_string(),
            held_by: nic.holder().name(),
            id: nic.id,
            name: nic.name,
            driver: nic.driver,
            interfaces: nic.interfaces,
            numa_node: nic.numa_node,
            iommu_group: nic.iommu_group,
            former_driver: nic.former,
            opened_by,
            management,
            can,
            why,
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let interfaces = if self.interfaces.is_empty() { "-".to_owned() } else { self.interfaces.join(", ") };
        // The reason alone: what to do about it is told when it is tried.
        let reason = |why: &str| {
            let why = why.split_once("stays with its kernel driver: ").map_or(why, |(_, reason)| reason);
            why.split(". ").next().unwrap_or_default().to_owned()
        };
        let can = match &self.why {
            Some(why) => format!("{}: {}", self.can, reason(why)),
            None => self.can.to_owned(),
        };
        vec![
            self.address.clone(),
            or_dash(&self.driver),
            interfaces,
            self.numa_node.map_or("-".to_owned(), |node| node.to_string()),
            self.name.clone().unwrap_or_else(|| self.id.clone()),
            can,
        ]
    }
}

/// What became of one device, for programs.
#[derive(Serialize)]
struct Outcome {
    device: String,
    address: Option<String>,
    before: Option<String>,
    after: Option<String>,
    changed: bool,
    notes: Vec<String>,
    error: Option<String>,
}

impl Outcome {
    fn of(device: &str, result: &Result<Bound, BindError>) -> Self {
        let device = device.to_owned();
        match result {
            Ok(bound) => Self {
                device,
                address: Some(bound.nic.address.to_string()),
                before: bound.nic.driver.clone(),
                after: bound.after.clone(),
                changed: bound.changed(),
                notes: bound.notes.clone(),
                error: None,
            },
            Err(error) => Self {
                device,
                address: None,
                before: None,
                after: None,
                changed: false,
                notes: Vec::new(),
                error: Some(error.to_string()),
            },
        }
    }
}

/// Lists the NICs.
pub(super) fn status(out: &mut dyn Write, host: &Host<'_>, json: bool) -> io::Result<()> {
    let situation = Situation::read(host);
    let rows = Nic::all(host).into_iter().map(|nic| Row::of(host, nic, &situation));
    let rows: Vec<Row> = rows.collect();
    if json {
        serde_json::to_writer(&mut *out, &rows)?;
        return writeln!(out);
    }
    let left = ["ADDRESS", "DRIVER", "INTERFACE", "NUMA", "DEVICE", "CAN"].map(|title| (title, Align::Left));
    let mut table = Table::new(&left);
    rows.iter().for_each(|row| table.row(row.cells()));
    table.flush(out)
}

/// Takes NICs; gives what became of each that failed.
pub(super) fn bind(
    out: &mut dyn Write,
    host: &Host<'_>,
    arguments: &BindArguments,
) -> io::Result<Vec<BindError>> {
    let situation = Situation::read(host);
    let wish = Wish { driver: &arguments.driver, force: arguments.force, lose: &arguments.lose };
    each(out, &arguments.devices, arguments.output.json, |device| {
        nics::bind(host, Nic::named(host, device)?, &wish, &situation)
    })
}

/// Gives NICs back; gives what became of each that failed.
pub(super) fn unbind(
    out: &mut dyn Write,
    host: &Host<'_>,
    arguments: &UnbindArguments,
) -> io::Result<Vec<BindError>> {
    each(out, &arguments.devices, arguments.output.json, |device| {
        nics::give_back(host, Nic::named(host, device)?, arguments.driver.as_deref())
    })
}

/// One after the other, each told as it is done.
fn each(
    out: &mut dyn Write,
    devices: &[String],
    json: bool,
    act: impl Fn(&str) -> Result<Bound, BindError>,
) -> io::Result<Vec<BindError>> {
    let (mut outcomes, mut failed) = (Vec::new(), Vec::new());
    for device in devices {
        let result = act(device);
        outcomes.push(Outcome::of(device, &result));
        match result {
            Ok(bound) if !json => writeln!(out, "{bound}")?,
            Ok(_) => {}
            Err(error) => failed.push(error),
        }
    }
    if json {
        serde_json::to_writer(&mut *out, &outcomes)?;
        writeln!(out)?;
    }
    Ok(failed)
}
