//! What scripts rely on: the shapes of the JSON.

use std::net::SocketAddrV4;

use lab::process::mortal;
use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service};
use lab::topology::SERVER;
use lab::{Lab, Plane, Result, gateway};
use serde_json::Value;

#[test]
fn json_has_the_promised_keys() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let Some(flyover) = lab.flyover() else { return Ok(()) };

    let status = flyover.status()?;
    let flows = ["candidate", "software", "probing", "hardware", "closing", "capacity"];
    let packets = ["fast", "hardware", "punted", "from_kernel", "dropped"];
    let conntrack = ["events", "overruns", "resyncs", "refreshes"];
    for (group, keys) in [("flows", &flows[..]), ("packets", &packets), ("conntrack", &conntrack)] {
        for key in keys {
            status.counter(&format!("{group}.{key}"))?;
        }
    }
    // Every packet is counted once: the sums by reason are the totals, in one answer.
    for (total, by_reason) in
        [("packets.punted", "punted_by_reason"), ("packets.dropped", "dropped_by_reason")]
    {
        let reasons = status.0.get(by_reason).and_then(Value::as_object).expect(by_reason);
        let sum: u64 = reasons.values().map(|count| count.as_u64().expect("a number")).sum();
        assert_eq!(sum, status.counter(total)?, "{by_reason}");
        assert!(reasons.values().any(|count| count.as_u64() == Some(0)), "zeros are included: {reasons:?}");
    }
    let ports = status.0.get("ports").and_then(Value::as_array).expect("ports");
    assert_eq!(ports.len(), 2);

    let flow = flyover.flow("tcp", pair.source_port())?.expect("the connection");
    for key in ["why", "state", "proto", "in_port", "out_port"] {
        assert!(flow.0.get(key).is_some_and(Value::is_string), "{key}: {flow:?}");
    }
    for pointer in ["/packets/orig", "/packets/reply", "/bytes/orig", "/bytes/reply", "/age_s", "/idle_s"] {
        assert!(flow.0.pointer(pointer).is_some_and(Value::is_number), "{pointer}: {flow:?}");
    }
    assert_eq!((flow.in_port(), flow.0.get("out_port").and_then(Value::as_str)), ("lan0", Some("wan0")));

    for command in ["ports", "stats"] {
        let text = flyover.ask(&[command, "--json"])?;
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{command}: {text}");
    }
    for command in ["status", "ports", "flows", "stats"] {
        assert!(!flyover.ask(&[command])?.trim().is_empty(), "a table for people: {command}");
    }
    pair.finish()
}

#[test]
fn the_socket_option_stands_before_or_after_the_subcommand() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).build()?;
    let Some(flyover) = lab.flyover() else { return Ok(()) };
    let mut before = mortal(gateway::binary()?);
    before.arg("--socket").arg(flyover.socket()).args(["status", "--json"]);
    let output = lab.gateway().command("flyover", before)?;
    assert!(output.status.success(), "{output:?}");
    flyover.ask(&["status", "--json"])?;
    Ok(())
}
