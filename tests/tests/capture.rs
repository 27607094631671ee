//! `flyover capture`: what tshark sees of packets at each point, on a gateway with traffic.

use std::net::SocketAddr;
use std::time::Duration;

use dataplane::flow::{FiveTuple, UDP};
use dataplane::packet::testing::Frame;
use lab::captured::{self, Looking, Seen};
use lab::change::udp_pair;
use lab::raw::{self, Wire};
use lab::rules::HOME_ROUTER;
use lab::topology::{CLIENT, GATEWAY_WAN, HOST_INTERFACE, SERVER};
use lab::{Gateway, Lab, Plane, Result, model_nic, turn, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

const PINGS: u64 = 20;

fn lab() -> Result<Lab> {
    Lab::builder(Plane::under_test()).rules(HOME_ROUTER).config("flows", "reprove_every = \"10m\"").build()
}

fn by<'a>(seen: &'a [Seen], interface: &str) -> Vec<&'a Seen> {
    seen.iter().filter(|seen| seen.interface == interface).collect()
}

/// Whether all packets of an interface go from here to there.
fn all(seen: &[Seen], interface: &str, from: SocketAddr, to: SocketAddr) -> bool {
    let (from, to) = (from.to_string(), to.to_string());
    by(seen, interface).iter().all(|seen| seen.source == from && seen.destination == to)
}

#[test]
fn both_sides_of_nat_are_seen_of_what_passes_on_one() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    let stranger = udp_pair(&lab, 5001)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let file = captured::file(&lab);
    let path = file.display().to_string();
    // The client's address is nowhere on the other side.
    let filter = format!("src host {CLIENT} and udp port 5000");
    let looking = Looking::start(&lab, gateway, &["capture", "-w", &path, &filter])?;
    let mut public = None;
    for token in 0..PINGS {
        public = Some(pair.ping(token)?);
        stranger.ping(token)?;
    }
    let looked = looking.interrupt()?;
    assert!(looked.status.success(), "{looked:?}");
    assert!(looked.output.is_empty() && looked.errors.contains("captured in"), "{looked:?}");
    let seen = captured::read(&file)?;
    let (client, server) = (SocketAddr::from((CLIENT, pair.source_port())), SocketAddr::from((SERVER, 5000)));
    let public = public.expect("pings");
    assert_eq!(public.ip(), GATEWAY_WAN);
    assert_eq!(by(&seen, "lan0 rx").len() as u64, PINGS, "{seen:?}");
    assert_eq!(by(&seen, "wan0 tx").len() as u64, PINGS, "{seen:?}");
    assert_eq!(seen.len() as u64, 2 * PINGS, "{seen:?}");
    assert!(all(&seen, "lan0 rx", client, server) && all(&seen, "wan0 tx", public, server), "{seen:?}");
    let direction =
        |interface, of: u8| by(&seen, interface).iter().all(|seen| seen.direction.ends_with(&of.to_string()));
    assert!(direction("lan0 rx", 1) && direction("wan0 tx", 2), "{seen:?}");
    // A packet's number is the same wherever it is seen.
    let numbers =
        |interface| by(&seen, interface).into_iter().map(|seen| seen.comment.clone()).collect::<Vec<_>>();
    assert_eq!(numbers("lan0 rx"), numbers("wan0 tx"));

    // The way back, by the address on the outside; as JSON, some of it, some bytes of each, one port.
    let filter = format!("dst host {GATEWAY_WAN} and udp");
    let arguments =
        ["capture", "-w", &path, "--json", "-c", "5", "-s", "60", "-i", "lan0", "--points", "rx,tx", &filter];
    let mut looking = Looking::start(&lab, gateway, &arguments)?;
    for token in 0..PINGS {
        pair.ping(token)?;
    }
    let looked = looking.ended()?;
    let told: Value = serde_json::from_str(&looked.output).expect("JSON alone");
    assert!(told["packets"] == 5 && told["points"]["rx"] == 0, "{told}");
    assert_eq!(told["packets"], told["points"]["tx"], "{told}");
    let seen = captured::read(&file)?;
    assert!(seen.len() == 5 && all(&seen, "lan0 tx", server, client), "{seen:?}");
    assert_eq!(by(&seen, "lan0 tx").len(), seen.len(), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.lengths == "106 60"), "{seen:?}");
    Ok(())
}

#[test]
fn what_goes_to_the_kernel_what_it_sends_and_what_is_dropped_say_why() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    // So that both ends know their neighbours.
    pair.ping(1)?;
    let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
    let macs = (wire.mac, raw::mac(lab.gateway(), "lan0")?);
    let looking = Looking::start(&lab, gateway, &["capture", "-w", "-", "udp", "port", "7777"])?;
    let (src, dst) = (CLIENT.into(), SERVER.into());
    let mut frame = Frame::of(FiveTuple { proto: UDP, src, dst, sport: 7777, dport: 9 });
    (frame.src_mac, frame.dst_mac) = macs;
    // One that the kernel answers, one that it forwards, one that it would drop without a trace.
    frame.ttl = 1;
    wire.send(&frame.build())?;
    frame.ttl = 9;
    wire.send(&frame.build())?;
    frame.faults.ip_checksum_error = 1;
    wire.send(&frame.build())?;
    wait::until_true(wait::PATIENCE, "the packets to be captured", || {
        captured::read(&lab.directory().join("looking.out")).is_ok_and(|seen| {
            ["lan0 drop", "wan0 tx"].iter().all(|interface| !by(&seen, interface).is_empty())
        })
    })?;
    let looked = looking.interrupt()?;
    assert!(looked.status.success(), "{}", looked.errors);
    let seen = captured::read(&lab.directory().join("looking.out"))?;
    let comments =
        |interface| by(&seen, interface).into_iter().map(|seen| seen.comment.as_str()).collect::<Vec<_>>();
    let [expired, unknown] = comments("lan0 punt")[..] else { panic!("{seen:?}") };
    assert!(expired.contains("to the kernel: ttl: "), "{expired}");
    assert!(unknown.contains("to the kernel: "), "{unknown}");
    let [dropped] = comments("lan0 drop")[..] else { panic!("{seen:?}") };
    assert!(dropped.contains("dropped: bad_ip_header: "), "{dropped}");
    let sent = comments("wan0 tx");
    assert!(sent.len() == 1 && sent[0].contains("from the kernel"), "{seen:?}");
    assert_eq!(by(&seen, "wan0 tx")[0].source, format!("{GATEWAY_WAN}:7777"), "{seen:?}");
    assert_eq!(by(&seen, "lan0 rx").len(), 3, "{seen:?}");
    Ok(())
}

/// Sends until the connection is where it should be.
fn until_state(gateway: &Gateway, pair: &lab::udp::Pair, wanted: &str) -> Result<()> {
    wait::until_true(wait::PATIENCE, &format!("the connection to be {wanted}"), || {
        let sent = (0..20).try_for_each(|token| pair.ping(token).map(drop));
        let flow = gateway.flow("udp", pair.source_port());
        sent.is_ok() && flow.is_ok_and(|flow| flow.is_some_and(|flow| flow.state() == wanted))
    })
}

#[test]
fn what_the_nic_carries_is_captured_and_goes_back() -> Result<()> {
    let _turn = turn::take();
    let lab = model_nic::lab().config("flows", "reprove_every = \"10m\"").build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let (pair, other) = (udp_pair(&lab, 5000)?, udp_pair(&lab, 5001)?);
    until_state(gateway, &pair, "hardware")?;
    until_state(gateway, &other, "hardware")?;
    let file = captured::file(&lab);
    let path = file.display().to_string();
    let looking = Looking::start(&lab, gateway, &["capture", "-w", &path, "udp port 5000"])?;
    // Soon, not at once: the NIC has to let go.
    until_state(gateway, &pair, "software")?;
    for token in 0..PINGS {
        pair.ping(token)?;
        other.ping(token)?;
    }
    let flow = gateway.flow("udp", other.source_port())?.expect("it is known");
    assert_eq!(flow.state(), "hardware", "nobody asked for this one");
    let from = SocketAddr::from((CLIENT, pair.source_port())).to_string();
    let told = gateway.ask(&["explain", "udp", &from, &format!("{SERVER}:5000")])?;
    assert!(told.contains("kept out of the NIC: its packets are captured"), "{told}");
    assert!(looking.interrupt()?.status.success());
    let seen = captured::read(&file)?;
    for interface in ["lan0 rx", "wan0 tx", "wan0 rx", "lan0 tx"] {
        assert!(by(&seen, interface).len() as u64 >= PINGS, "{interface}: {seen:?}");
    }
    until_state(gateway, &pair, "hardware")?;

    // Also when whoever captures is gone without a word.
    let mut looking = Looking::start(&lab, gateway, &["capture", "-w", &path, "udp port 5000"])?;
    until_state(gateway, &pair, "software")?;
    looking.process().signal(Signal::SIGKILL)?;
    looking.ended()?;
    until_state(gateway, &pair, "hardware")
}

#[test]
fn a_capture_that_can_not_be_had_says_why() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let path = captured::file(&lab).display().to_string();
    let refused = |arguments: &[&str], code: i32, words: &[&str]| -> Result<()> {
        let output = gateway.flyover(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(words.iter().all(|word| errors.contains(word)), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        Ok(())
    };
    refused(&["capture", "-w", &path, "hots 10.0.0.1"], 2, &["`hots 10.0.0.1`", "man pcap-filter"])?;
    refused(&["trace", "udp port ssl"], 2, &["`udp port ssl`"])?;
    refused(&["capture", "-w", &path, "-i", "dmz0"], 1, &["dmz0: no such port; there are ", "lan0"])?;
    refused(&["capture", "-w", "-", "--json"], 2, &["standard output"])?;
    refused(&["capture", "-w", "/nowhere/at.all"], 1, &["/nowhere/at.all"])?;
    assert!(!captured::file(&lab).exists());
    let looking = Looking::start(&lab, gateway, &["capture", "-w", &path])?;
    let process = format!("by process {}", looking.process().id());
    refused(&["capture", "-w", &path], 1, &["captured or traced already", &process])?;
    refused(&["trace"], 1, &["captured or traced already", &process])?;
    assert!(looking.interrupt()?.status.success());
    // Nobody looks any more: not even until the next one may.
    for _ in 0..5 {
        let told = gateway.ask(&["capture", "-w", &path, "--json", "--duration", "0.05"])?;
        assert!(told.starts_with("{\"packets\":"), "{told}");
    }
    Ok(())
}

#[test]
fn a_client_that_takes_nothing_loses_records_and_no_packet() -> Result<()> {
    const DATAGRAMS: u64 = 8000;
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping_of(1, 1400).map(drop))?;
    let path = captured::file(&lab).display().to_string();
    // Not where they are punted: the one of the third second is, to show the kernel that it is a stream.
    let of = ["capture", "-w", &path, "--points", "rx,tx", "udp port 5000"];
    let looking = Looking::start(&lab, gateway, &of)?;
    looking.process().signal(Signal::SIGSTOP)?;
    // Each is in the ring twice, and the ring is full after 1,400 of them.
    let tally = pair.one_way(DATAGRAMS, 1400, Duration::from_secs(4))?;
    looking.process().signal(Signal::SIGCONT)?;
    let looked = looking.interrupt()?;
    assert!(looked.status.success(), "{looked:?}");
    assert!(looked.errors.contains("came faster than they could be written"), "{looked:?}");
    // What the capture's end says was lost, and what it has, is all that there was.
    let seen = captured::read(&captured::file(&lab))?.len() as u64;
    let number = |text: &str| text.replace(',', "").parse::<u64>().unwrap_or(0);
    let lost = looked.errors.lines().find(|line| line.contains("came faster")).expect("a line");
    let lost = number(lost.split(' ').nth(1).unwrap_or_default());
    assert_eq!(tally.lost(), 0, "{tally:?}, {lost} lost in the capture");
    assert_eq!(seen + lost, 2 * DATAGRAMS, "{looked:?}");
    Ok(())
}

#[test]
fn a_capture_of_everything_costs_no_packet_at_half_load() -> Result<()> {
    const DATAGRAMS: u64 = 12_000;
    const SPAN: Duration = Duration::from_secs(4);
    let _turn = turn::take();
    let lab = lab()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping_of(1, 1000).map(drop))?;
    let path = captured::file(&lab).display().to_string();
    let mut tallies = Vec::new();
    // A busy machine may keep a thread of the test from running for as long as a socket's buffer lasts.
    for _ in 0..3 {
        let before = gateway.status()?;
        let looking = Looking::start(&lab, gateway, &["capture", "-w", &path, "--json"])?;
        let tally = pair.one_way(DATAGRAMS, 1000, SPAN)?;
        let looked = looking.interrupt()?;
        let after = gateway.status()?;
        let more = |counter: &str| -> Result<u64> { Ok(after.counter(counter)? - before.counter(counter)?) };
        assert_eq!(more("packets.dropped")?, 0, "{tally:?}");
        assert!(more("packets.fast")? + more("packets.punted")? >= tally.received, "{tally:?}");
        let told: Value = serde_json::from_str(&looked.output).expect("JSON");
        if tally.lost() == 0 {
            assert_eq!(tally.reordered, 0, "{tally:?}");
            let captured = told["packets"].as_u64().unwrap_or(0) + told["lost"].as_u64().unwrap_or(0);
            assert!(captured >= 2 * DATAGRAMS, "{told}");
            return Ok(());
        }
        tallies.push(tally);
    }
    panic!("packets were lost each time: {tallies:?}");
}
