//! A gateway whose NIC is a model with flow rules: what tests of the hardware path have in common.

use std::net::SocketAddrV4;

use serde_json::Value;

use crate::rules::HOME_ROUTER;
use crate::tcp::{Pair, Service, Way};
use crate::topology::SERVER;
use crate::{Gateway, Lab, LabBuilder, Plane, Result, wait};

/// A laboratory with such a gateway, which finds 20 packets a second hot.
pub fn lab() -> LabBuilder {
    Lab::builder(Plane::under_test())
        .rules(HOME_ROUTER)
        .config("hardware", "offload = \"model\"")
        .config("hardware", "hot = 20")
}

/// Directions with a rule, on all ports.
///
/// # Errors
/// When the gateway does not answer.
///
/// # Panics
/// When what it answers is no JSON.
pub fn rules(gateway: &Gateway) -> Result<u64> {
    let told: Value = serde_json::from_str(&gateway.ask(&["hardware", "--json"])?).expect("JSON");
    let ports = told.as_array().into_iter().flatten();
    Ok(ports.filter_map(|port| port.pointer("/directions/hardware")?.as_u64()).sum())
}

/// A connection over TCP arrives whole both ways once it is hot, and ends as the kernel's connections do, its rules gone.
/// `until_hot` sends until it is, `moved` looks at what has carried the transfers.
///
/// # Errors
/// When traffic fails.
///
/// # Panics
/// When something differs.
pub fn arrives_and_ends(
    lab: &Lab,
    reset: bool,
    until_hot: impl FnOnce(&Pair) -> Result<()>,
    moved: impl FnOnce(&Gateway) -> Result<()>,
) -> Result<()> {
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    let port = pair.source_port();
    until_hot(&pair)?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 20_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
    }
    lab.flyover().map(moved).transpose()?;
    if reset {
        pair.reset(Way::Up)?;
    } else {
        pair.finish()?;
    }
    let expected = if reset { "CLOSE" } else { "TIME_WAIT" };
    wait::until_true(wait::PATIENCE, "the end to be seen by the kernel", || {
        let port = format!("sport={port} ");
        let listed = lab.gateway().run("conntrack -L -p tcp");
        listed.is_ok_and(|all| all.lines().any(|line| line.contains(&port) && line.contains(expected)))
    })?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    wait::until_true(wait::PATIENCE, "the rules to go", || rules(gateway).is_ok_and(|rules| rules == 0))
}
