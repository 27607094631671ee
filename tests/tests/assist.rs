//! Hot flows whose packets the NIC, which is a model here, marks with where their entry is: workers skip the lookup, and
//! all else is what it is without such a NIC.

use std::net::SocketAddr;
use std::time::Duration;

use dataplane::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};
use lab::carries::same_bytes;
use lab::change::{GRACE, REVALIDATE_WITHIN, udp_pair, until_quiet};
use lab::leg::{Laid, Leg};
use lab::rules::ROUTED;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, GATEWAY_LAN, SERVER, SERVER6};
use lab::wrapping::Wrapping;
use lab::{Gateway, Lab, LabBuilder, Result, model_nic, turn, udp, wait};

/// Packets of a connection that are sent while they are marked.
const PINGS: u64 = 300;

fn lab(tier: &str) -> LabBuilder {
    model_nic::lab()
        .config("hardware.model", &format!("tier = \"{tier}\""))
        .config("flows", "revalidate_within = \"1s\"")
}

/// Packets whose lookup was skipped.
fn found(gateway: &Gateway) -> Result<u64> {
    gateway.status()?.counter("marks.found")
}

/// Sends until packets are found by their marks.
fn until_marked(lab: &Lab, mut ping: impl FnMut() -> Result<()>) -> Result<()> {
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    wait::until_true(wait::PATIENCE, "packets to be found by their marks", || {
        let before = found(gateway);
        let sent = (0..20).try_for_each(|_| ping());
        sent.is_ok() && before.is_ok_and(|before| found(gateway).is_ok_and(|now| now >= before + 10))
    })
    .inspect_err(|_| {
        println!("{}", gateway.ask(&["hardware"]).unwrap_or_default());
        println!("{}", gateway.ask(&["stats"]).unwrap_or_default());
    })
}

#[test]
fn lookups_are_skipped_and_counted_and_nothing_else_is_different() -> Result<()> {
    let mut arrived = Vec::new();
    for tier in ["assist", "none"] {
        let _turn = turn::take();
        // Once marked, it is for as long as the test lasts.
        let lab = lab(tier).config("flows", "reprove_every = \"10m\"").build()?;
        let pair = udp_pair(&lab, 5000)?;
        if tier == "assist" {
            until_marked(&lab, || pair.ping(1).map(drop))?;
        } else {
            (0..60).try_for_each(|_| pair.ping(1).map(drop))?;
        }
        let before = lab.flyover().map(Gateway::status).transpose()?;
        let seen = (0..PINGS).map(|token| pair.ping(token).map(|from| from.ip()));
        arrived.push(seen.collect::<Result<Vec<_>>>()?);
        let (Some(gateway), Some(before)) = (lab.flyover(), before) else { continue };
        let after = gateway.status()?;
        let grown = |key| -> Result<u64> { Ok(after.counter(key)? - before.counter(key)?) };
        assert!(grown("packets.fast")? >= 2 * PINGS, "workers carry both directions");
        let found = grown("marks.found")?;
        assert!(if tier == "assist" { found >= 2 * PINGS } else { found == 0 }, "{found} by their marks");
        assert_eq!(after.counter("marks.missed")?, 0);
        let flow = gateway.flow("udp", pair.source_port())?;
        assert_eq!(flow.map(|flow| flow.state().to_owned()).as_deref(), Some("software"));
        let from = format!("{CLIENT}:{}", pair.source_port());
        let told = gateway.ask(&["explain", "udp", &from, &format!("{SERVER}:5000")])?;
        assert_eq!(told.contains("the NIC marks its packets"), tier == "assist", "{told}");
        let shown = gateway.ask(&["hardware"])?;
        assert!(shown.contains(tier), "{shown}");
    }
    assert_eq!(arrived[0], arrived[1], "from the gateway's address, as without marks");
    Ok(())
}

#[test]
fn a_transfer_arrives_and_its_end_is_the_kernels() -> Result<()> {
    for reset in [false, true] {
        let _turn = turn::take();
        let lab = lab("assist").build()?;
        model_nic::arrives_and_ends(
            &lab,
            reset,
            |pair| until_marked(&lab, || pair.ping(1)),
            |gateway| {
                let status = gateway.status()?;
                let (fast, found) = (status.counter("packets.fast")?, status.counter("marks.found")?);
                assert!(2 * found > fast, "{found} of {fast} packets were found by their marks");
                Ok(())
            },
        )?;
    }
    Ok(())
}

#[test]
fn what_the_ruleset_forbids_is_forbidden_to_marked_packets() -> Result<()> {
    let _turn = turn::take();
    let lab = lab("assist").build()?;
    let pair = udp_pair(&lab, 5000)?;
    until_marked(&lab, || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    lab.gateway().nft("insert rule inet filter forward udp dport 5000 drop")?;
    let took = until_quiet(std::slice::from_ref(&stream))?;
    assert!(took <= REVALIDATE_WITHIN + GRACE, "{took:?}");
    stream.finish();
    if let Some(gateway) = lab.flyover() {
        assert_eq!(gateway.status()?.counter("marks.missed")?, 0);
    }
    Ok(())
}

#[test]
fn ipv6_is_marked_too() -> Result<()> {
    let _turn = turn::take();
    let lab = lab("assist").rules(ROUTED).ipv6().build()?;
    let service = Service::listen(lab.server(), SERVER6, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddr::from((SERVER6, 80)), &service)?;
    until_marked(&lab, || pair.ping(1))?;
    let transfer = pair.transfer(Way::Up, 10_000_000)?;
    assert_eq!(transfer.sent, transfer.received);
    pair.finish()
}

#[test]
fn tagged_packets_are_marked_too() -> Result<()> {
    const VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 10)], pppoe: None };
    const QINQ: Wrapping = Wrapping { tags: &[(ETHER_SERVICE_VLAN, 200), (ETHER_VLAN, 300)], pppoe: None };
    for wrapping in [VLAN, QINQ] {
        let _turn = turn::take();
        let lab = lab("assist").rules(ROUTED).build()?;
        let inside =
            Laid { twin: "lan0", name: "inside", gateway: GATEWAY_LAN, address: CLIENT, wrapping, mtu: 1500 };
        let mut server = Leg::plain(&lab, "wan0", SERVER)?;
        let client = Leg::wrapped(&lab, &inside)?;
        let pair = same_bytes(&lab, &client, &mut server)?;
        until_marked(&lab, || pair.ping(1).map(drop))?;
        let Some(gateway) = lab.flyover() else { continue };
        let before = found(gateway)?;
        (0..PINGS).try_for_each(|token| pair.ping(token).map(drop))?;
        assert!(found(gateway)? >= before + 2 * PINGS, "both directions, the tagged one and the other");
    }
    Ok(())
}
