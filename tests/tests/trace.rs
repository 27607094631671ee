//! `flyover trace`: the steps of packets, as text and as JSON, on a gateway with traffic.

use std::net::SocketAddr;
use std::time::Duration;

use lab::captured::Looking;
use lab::change::udp_pair;
use lab::rules::HOME_ROUTER;
use lab::topology::{CLIENT, GATEWAY_WAN, SERVER};
use lab::{Lab, Plane, Result, model_nic, turn, udp, wait};
use serde_json::Value;

fn lab() -> Result<Lab> {
    Lab::builder(Plane::under_test()).rules(HOME_ROUTER).config("flows", "reprove_every = \"10m\"").build()
}

fn packets(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Sends until a trace has ended, and gives what it printed.
fn traced(lab: &Lab, arguments: &[&str], mut ping: impl FnMut() -> Result<()>) -> Result<String> {
    let gateway = lab.flyover().expect("Flyover");
    let mut looking = Looking::start(lab, gateway, arguments)?;
    for _ in 0..20 {
        ping()?;
    }
    let looked = looking.ended()?;
    assert!(looked.status.success(), "{looked:?}");
    Ok(looked.output)
}

#[test]
fn a_packet_that_flies_tells_each_step() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let ping = || pair.ping(2).map(drop);
    let client = SocketAddr::from((CLIENT, pair.source_port())).to_string();
    let output =
        traced(&lab, &["trace", "-n", "4", "--json", "udp src port", &pair.source_port().to_string()], ping)?;
    let all = packets(&output);
    assert_eq!(all.len(), 4, "{output}");
    for (nth, packet) in all.iter().enumerate() {
        assert_eq!(packet["packet"], nth as u64 + 1, "{packet}");
        let texts = ["in_port", "out_port", "from", "lookup", "decision"]
            .map(|key| packet[key].as_str().unwrap_or(""));
        assert_eq!(texts, ["lan0", "wan0", "wire", "hit", "fly"], "{packet}");
        assert_eq!(
            (&packet["entry"]["state"], &packet["entry"]["ingress"]),
            (&"software".into(), &"same".into())
        );
        assert!(packet["entry"]["proved_length"].as_u64() >= Some(92), "{packet}");
        assert_eq!(packet["frame"]["dst"], SERVER.to_string(), "{packet}");
        let rewritten = packet["rewritten"].as_array().expect("a list");
        let of = |field: &str| rewritten.iter().find(|change| change["field"] == field).expect("rewritten");
        assert_eq!(of("source")["before"], client, "{packet}");
        assert!(
            of("source")["after"].as_str().expect("text").starts_with(&GATEWAY_WAN.to_string()),
            "{packet}"
        );
        assert_eq!((&of("ttl")["before"], &of("ttl")["after"]), (&"64".into(), &"63".into()), "{packet}");
        assert!(packet["took_us"].as_f64() > Some(0.0), "{packet}");
    }
    let text = traced(&lab, &["trace", "-n", "1", "udp src port 5000"], || pair.ping(3).map(drop))?;
    for line in [
        "wan0, queue 0, 106 bytes",
        "   looked up  found",
        "   entry      software; it came in as proved",
        "   decided    it flies",
        "   rewritten  destination ",
        "   sent       lan0, 106 bytes",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    Ok(())
}

#[test]
fn what_goes_to_the_kernel_and_what_it_sends_are_told() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    // The first packets of a connection: there is no entry yet.
    let server = udp::bind(lab.server(), SERVER, 5000)?;
    let pair = udp::Pair::open(lab.client(), CLIENT, SocketAddr::from((SERVER, 5000)), server)?;
    let output =
        traced(&lab, &["trace", "-n", "2", "--json", "udp dst port 5000"], || pair.ping(1).map(drop))?;
    let all = packets(&output);
    let [came, left] = &all[..] else { panic!("{output}") };
    assert_eq!((&came["decision"], &came["reason"]), (&"punt".into(), &"no_flow".into()), "{came}");
    assert_eq!((&came["lookup"], &came["ring"]), (&"miss".into(), &"transit".into()), "{came}");
    assert_eq!((&came["entry"], &came["out_port"]), (&Value::Null, &Value::Null), "{came}");
    assert_eq!((&left["from"], &left["decision"]), (&"kernel".into(), &"send".into()), "{left}");
    assert_eq!((&left["in_port"], &left["out_port"]), (&Value::Null, &"wan0".into()), "{left}");
    assert_eq!(left["frame"]["src"], GATEWAY_WAN.to_string(), "{left}");

    // What can't be carried at all.
    let text = traced(&lab, &["trace", "-n", "2", "arp"], || {
        lab.client().run("ip neigh flush all")?;
        pair.ping(2).map(drop)
    })?;
    assert!(text.contains("not to be carried: arp"), "{text}");
    assert!(text.contains("decided    to the kernel: arp: ARP is the kernel's"), "{text}");
    Ok(())
}

#[test]
fn a_trace_of_nothing_ends_in_time() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let output = gateway.flyover(&["trace", "--timeout", "0.2", "udp port 9"])?;
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("0 packets of 10"), "{output:?}");
    let output = gateway.ask(&["trace", "--timeout", "0.2", "--json", "udp port 9"])?;
    assert_eq!(output, "");
    Ok(())
}

#[test]
fn what_the_nic_carries_is_traced_and_goes_back() -> Result<()> {
    let _turn = turn::take();
    let lab = model_nic::lab().config("flows", "reprove_every = \"10m\"").build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    let state = |wanted: &str| {
        wait::until_true(wait::PATIENCE, &format!("the connection to be {wanted}"), || {
            let sent = (0..20).try_for_each(|token| pair.ping(token).map(drop));
            let flow = gateway.flow("udp", pair.source_port());
            sent.is_ok() && flow.is_ok_and(|flow| flow.is_some_and(|flow| flow.state() == wanted))
        })
    };
    state("hardware")?;
    let mut looking = Looking::start(&lab, gateway, &["trace", "-n", "30", "--json", "udp port 5000"])?;
    for token in 0..200 {
        pair.ping(token)?;
    }
    let looked = looking.ended()?;
    let all = packets(&looked.output);
    assert_eq!(all.len(), 30, "{looked:?}");
    assert!(all.iter().any(|packet| packet["decision"] == "fly"), "{looked:?}");
    state("hardware")
}

#[test]
fn a_trace_under_load_costs_no_packet() -> Result<()> {
    const DATAGRAMS: u64 = 12_000;
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping_of(1, 1000).map(drop))?;
    let mut tallies = Vec::new();
    // As in capture.rs.
    for _ in 0..3 {
        let before = gateway.status()?;
        let mut looking = Looking::start(&lab, gateway, &["trace", "-n", "2000", "--json"])?;
        let tally = pair.one_way(DATAGRAMS, 1000, Duration::from_secs(4))?;
        let looked = looking.ended()?;
        let after = gateway.status()?;
        assert_eq!(packets(&looked.output).len(), 2000);
        assert_eq!(after.counter("packets.dropped")? - before.counter("packets.dropped")?, 0, "{tally:?}");
        if tally.lost() == 0 {
            assert_eq!(tally.reordered, 0, "{tally:?}");
            return Ok(());
        }
        tallies.push(tally);
    }
    panic!("packets were lost each time: {tallies:?}");
}
