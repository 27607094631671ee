//! `flyover explain` tells of any connection where it is, and why not further.

use std::net::{SocketAddr, SocketAddrV4};

use lab::rules::HOME_ROUTER;
use lab::tcp::{Pair, Service};
use lab::topology::{CLIENT, GATEWAY_LAN, SERVER};
use lab::{Gateway, Lab, Plane, Result, turn, udp, wait};
use serde_json::Value;

fn explain(gateway: &Gateway, proto: &str, from: SocketAddr, to: SocketAddr) -> Result<Value> {
    let text = gateway.ask(&["explain", proto, &from.to_string(), &to.to_string(), "--json"])?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

#[test]
fn every_connection_is_explained() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let to = SocketAddrV4::new(SERVER, 80);
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, to, &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let from = SocketAddr::from((CLIENT, pair.source_port()));
    let found = explain(gateway, "tcp", from, to.into())?;
    assert_eq!(text(&found, "/known"), "flyover", "{found}");
    assert_eq!(text(&found, "/connection/state"), "software", "{found}");
    assert_eq!(
        [text(&found, "/directions/0/in_port"), text(&found, "/directions/0/out_port")],
        ["lan0", "wan0"],
        "{found}"
    );
    assert_eq!(
        text(&found, "/directions/0/next_hop"),
        lab::raw::mac(lab.server(), lab::topology::HOST_INTERFACE)?
            .map(|byte| format!("{byte:02x}"))
            .join(":"),
        "{found}"
    );
    assert_eq!(text(&found, "/conntrack/tcp_state"), "ESTABLISHED", "{found}");
    // By a packet of the other direction too, as the gateway receives it.
    let seen = pair.seen_source()?;
    let back = explain(gateway, "tcp", to.into(), seen)?;
    assert_eq!(back.pointer("/connection/orig"), found.pointer("/connection/orig"));
    let told = gateway.ask(&["explain", "tcp", &from.to_string(), &to.to_string()])?;
    assert!(told.starts_with("software: the kernel forwarded a packet"), "{told}");

    pair.finish()?;
    wait::until_true(wait::PATIENCE, "the close to be explained", || {
        explain(gateway, "tcp", from, to.into())
            .is_ok_and(|found| text(&found, "/conntrack/tcp_state") == "TIME_WAIT")
    })?;
    let found = explain(gateway, "tcp", from, to.into())?;
    assert!(text(&found, "/why").contains("FIN"), "{found}");

    // The gateway's own.
    let own = udp::bind(lab.gateway(), GATEWAY_LAN, 7000)?;
    let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddrV4::new(GATEWAY_LAN, 7000), own)?;
    pair.ping(1)?;
    let from = SocketAddr::from((CLIENT, pair.source_port()));
    let found = explain(gateway, "udp", from, SocketAddr::from((GATEWAY_LAN, 7000)))?;
    assert_eq!([text(&found, "/known"), text(&found, "/why")], ["kernel", "it begins or ends on this host"]);

    // Nobody's.
    let found = explain(gateway, "udp", from, SocketAddr::from((SERVER, 9)))?;
    assert_eq!(text(&found, "/known"), "nowhere", "{found}");
    assert!(found.get("connection").is_some_and(Value::is_null), "{found}");
    Ok(())
}

#[test]
fn a_bad_question_is_refused_with_what_would_be_right() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    for (words, told, code) in [
        (["explain", "icmp", "192.0.2.1:1", "192.0.2.2:2"], "tcp, udp", 2),
        (["explain", "tcp", "192.0.2.1", "192.0.2.2:2"], "192.0.2.1:443 or [2001:db8::1]:443", 2),
        (["explain", "tcp", "192.0.2.1:1", "[fd00::1]:2"], "different address families", 1),
    ] {
        let output = gateway.flyover(&words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains(told), "{errors}");
        assert_eq!(output.status.code(), Some(code), "{errors}");
    }
    Ok(())
}
