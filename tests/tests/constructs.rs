//! What in the ruleset must see each packet goes on seeing it, and only that stays in the kernel.

use std::net::{SocketAddr, SocketAddrV4};

use lab::change::{GRACE, REVALIDATE_WITHIN, lab, udp_pair};
use lab::rules::HOME_ROUTER;
use lab::topology::{CLIENT, SERVER};
use lab::{Gateway, Lab, Result, udp, wait};
use serde_json::Value;

const PINGS: u64 = 40;

/// A quota for what goes to one port.
const QUOTA: &str = "insert rule inet filter forward udp dport 5000 counter quota over 100 mbytes drop";

fn flies(lab: &Lab, pair: &udp::Pair) -> Result<bool> {
    let Some(gateway) = lab.flyover() else { return Ok(false) };
    Ok(gateway.flow("udp", pair.source_port())?.is_some_and(|flow| flow.flies()))
}

/// The ruleset that was just changed is known: until then, and no longer than `revalidate_within`, what is forwarded flies.
fn until_read(lab: &Lab) -> Result<()> {
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    wait::until_true(REVALIDATE_WITHIN + GRACE, "the ruleset to be read", || {
        gateway.ask(&["status", "--json"]).is_ok_and(|status| status.contains("\"quota\""))
    })
}

/// Packets that the first rule with a counter has seen.
fn counted(lab: &Lab) -> Result<u64> {
    let list = lab.gateway().run("nft list chain inet filter forward")?;
    let number = list.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
    Ok(number.and_then(|number| number.parse().ok()).expect("a rule with a counter"))
}

fn explained(gateway: &Gateway, pair: &udp::Pair, port: u16) -> Result<Value> {
    let from = SocketAddr::from((CLIENT, pair.source_port())).to_string();
    let to = SocketAddr::from(SocketAddrV4::new(SERVER, port)).to_string();
    let text = gateway.ask(&["explain", "udp", &from, &to, "--json"])?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Of two connections the one to port 5001 flies, and the rule sees all of the other, to port 5000.
fn every_packet_is_counted_beside_one_that_flies(lab: &Lab) -> Result<udp::Pair> {
    let (limited, free) = (udp_pair(lab, 5000)?, udp_pair(lab, 5001)?);
    lab.until_flying("udp", free.source_port(), || free.ping(1).map(drop))?;
    let before = counted(lab)?;
    for token in 0..PINGS {
        limited.ping(token)?;
    }
    assert_eq!(counted(lab)? - before, PINGS);
    Ok(limited)
}

#[test]
fn a_quota_sees_every_packet_of_its_connections_and_the_others_fly() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    lab.gateway().nft(QUOTA)?;
    until_read(&lab)?;
    let limited = every_packet_is_counted_beside_one_that_flies(&lab)?;
    assert!(!flies(&lab, &limited)?);

    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let found = explained(gateway, &limited, 5000)?;
    let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    assert_eq!(text("/known"), "kernel", "{found}");
    assert!(text("/why").starts_with("quota in inet filter forward handle "), "{found}");
    assert!(text("/advice/0").contains("accept_loss"), "{found}");
    let status: Value = serde_json::from_str(&gateway.ask(&["status", "--json"])?).expect("JSON");
    assert_eq!(status.pointer("/ruleset/keeps/0").and_then(Value::as_str), Some("quota"), "{status}");
    let told = gateway.ask(&["status"])?;
    assert!(told.contains("quota in inet filter forward handle "), "{told}");
    Ok(())
}

#[test]
fn a_rule_for_another_interface_keeps_nothing() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    // In one transaction, so that what is read has both.
    let quota = ["iifname wan0 udp dport 5001", "iifname lan0 udp dport 5000"]
        .map(|rule| format!("insert rule inet filter forward {rule} counter quota over 100 mbytes drop"));
    lab.gateway().nft(&quota.join("; "))?;
    until_read(&lab)?;
    let limited = every_packet_is_counted_beside_one_that_flies(&lab)?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert!(!flies(&lab, &limited)?);
    let found = explained(gateway, &limited, 5000)?;
    let why = found.pointer("/directions/0/why").and_then(Value::as_str).unwrap_or("");
    assert_eq!(why, "a rule for an interface on its way must see each of its packets", "{found}");
    Ok(())
}

#[test]
fn a_rule_that_comes_takes_its_connections_out_of_the_air_and_they_return_when_it_goes() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    let (limited, free) = (udp_pair(&lab, 5000)?, udp_pair(&lab, 5001)?);
    for pair in [&limited, &free] {
        lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    }
    lab.gateway().nft(QUOTA)?;
    until_read(&lab)?;
    let mut token = 2;
    wait::until_true(REVALIDATE_WITHIN + GRACE, "the connection to come back to the kernel", || {
        token += 1;
        limited.ping(token).is_ok() && flies(&lab, &limited).is_ok_and(|flies| !flies)
    })?;
    let before = counted(&lab)?;
    for token in 0..PINGS {
        limited.ping(token)?;
    }
    assert_eq!(counted(&lab)? - before, PINGS);
    assert!(!flies(&lab, &limited)?);
    lab.until_flying("udp", free.source_port(), || free.ping(token).map(drop))?;

    lab.gateway().nft("flush chain inet filter forward; add rule inet filter forward ct state vmap { established : accept, new : accept }")?;
    lab.until_flying("udp", limited.source_port(), || limited.ping(token).map(drop))?;
    Ok(())
}

#[test]
fn what_the_user_accepts_by_name_flies() -> Result<()> {
    let lab = lab(HOME_ROUTER).config("policy", "accept_loss = [\"quota\"]").build()?;
    lab.gateway().nft(QUOTA)?;
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    Ok(())
}

#[test]
fn the_doctor_looks_at_what_runs() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    lab.gateway().nft(QUOTA)?;
    until_read(&lab)?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    // With the configuration of the gateway that answers, which is no file of the one who asks.
    let told: Value = serde_json::from_str(&gateway.ask(&["doctor", "--json"])?).expect("JSON");
    assert_eq!(told.pointer("/ok"), Some(&Value::Bool(true)), "{told}");
    let findings = told.pointer("/findings").and_then(Value::as_array).cloned().unwrap_or_default();
    let quota = findings.iter().find(|found| found.pointer("/rule/construct") == Some(&"quota".into()));
    let fix = quota.and_then(|found| found.get("fix")?.as_str()).unwrap_or_default();
    assert!(fix.contains("accept_loss = [\"quota\"]"), "{told}");
    assert!(gateway.ask(&["doctor"])?.contains("quota"), "{told}");
    Ok(())
}
