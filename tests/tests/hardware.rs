//! Hot flows in the NIC, which is a model here: workers see nothing of them, and they are what they would be without it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use dataplane::packet::wire::{ETHER_SERVICE_VLAN, ETHER_VLAN};
use lab::carries::same_bytes;
use lab::change::{GRACE, REVALIDATE_WITHIN, udp_pair, until_quiet};
use lab::leg::{Laid, Leg};
use lab::rules::ROUTED;
use lab::status::Status;
use lab::tcp::{Pair, Service, Way};
use lab::topology::{CLIENT, GATEWAY_LAN, SERVER, SERVER6};
use lab::wrapping::Wrapping;
use lab::{Gateway, Lab, LabBuilder, Result, conntrack, model_nic, turn, udp, wait};

/// Bytes of a datagram that fills a packet of 1500 bytes.
const LONGEST: usize = 1500 - 20 - 8;
/// Packets of a connection that are sent while the NIC has it.
const PINGS: u64 = 300;

/// With `LAB_MODEL_QUEUES=false` rules are made one by one.
fn lab() -> LabBuilder {
    lab_with(std::env::var("LAB_MODEL_QUEUES").map_or(true, |queues| queues != "false"))
}

/// `queues`: rules go through queues.
fn lab_with(queues: bool) -> LabBuilder {
    model_nic::lab()
        .config("hardware.model", &format!("queues = {queues}"))
        .config("flows", "revalidate_within = \"1s\"")
}

/// The connection's state as `flows` shows it.
fn state(gateway: &Gateway, proto: &str, port: u16) -> Result<String> {
    Ok(gateway.flow(proto, port)?.map(|flow| flow.state().to_owned()).unwrap_or_default())
}

/// Sends until the NIC carries the connection.
fn until_in_hardware(lab: &Lab, proto: &str, port: u16, mut ping: impl FnMut() -> Result<()>) -> Result<()> {
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    wait::until_true(wait::PATIENCE, "the connection to be in the NIC", || {
        let sent = (0..20).try_for_each(|_| ping());
        sent.is_ok() && state(gateway, proto, port).is_ok_and(|state| state == "hardware")
    })
    .inspect_err(|_| {
        let tuple = |flow: lab::status::Flow| flow.original();
        if let Ok(Some(ends)) = gateway.flow(proto, port).map(|flow| flow.and_then(tuple)) {
            let (from, to) = (ends.source.to_string(), ends.destination.to_string());
            println!("{}", gateway.ask(&["explain", proto, &from, &to]).unwrap_or_default());
        }
    })
}

/// Packets by workers, NIC and kernel.
fn counted(status: &Status) -> Result<[u64; 3]> {
    Ok([
        status.counter("packets.fast")?,
        status.counter("packets.hardware")?,
        status.counter("packets.punted")?,
    ])
}

/// Counters of rules are read twice a second.
fn settled(gateway: &Gateway) -> Result<[u64; 3]> {
    std::thread::sleep(Duration::from_millis(1200));
    counted(&gateway.status()?)
}

#[test]
fn workers_see_nothing_of_what_the_nic_carries() -> Result<()> {
    let _turn = turn::take();
    // Once in, it stays in for as long as the test lasts.
    let lab = lab().config("flows", "reprove_every = \"10m\"").build()?;
    let pair = udp_pair(&lab, 5000)?;
    // The kernel is shown a packet of its third second, by which it knows a stream.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        pair.ping(1)?;
    }
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let before = lab.flyover().map(settled).transpose()?;
    let mut seen_from = None;
    for token in 0..PINGS {
        // Every byte of it comes back, from the address that NAT gave it.
        let from = pair.ping(token)?;
        assert_eq!(*seen_from.get_or_insert(from), from);
    }
    let (Some(gateway), Some(before)) = (lab.flyover(), before) else { return Ok(()) };
    let after = settled(gateway)?;
    let [fast, hardware, punted] = [0, 1, 2].map(|n| after[n] - before[n]);
    assert_eq!((fast, hardware), (0, 2 * PINGS), "and {punted} punted");
    assert_eq!(gateway.status()?.counter("flows.hardware")?, 1);
    // Counted once, wherever it was.
    let flow = gateway.flow("udp", pair.source_port())?.expect("it is known");
    assert!(flow.packets() >= 2 * PINGS, "{flow:?}");
    Ok(())
}

#[test]
fn a_transfer_arrives_and_its_end_is_the_kernels() -> Result<()> {
    // By each end once, and with the NIC told in each way.
    for reset in [false, true] {
        let _turn = turn::take();
        let lab = lab_with(reset).build()?;
        model_nic::arrives_and_ends(
            &lab,
            reset,
            |pair| until_in_hardware(&lab, "tcp", pair.source_port(), || pair.ping(1)),
            |gateway| {
                let [fast, hardware, _] = settled(gateway)?;
                assert!(hardware > 10 * fast, "{fast} by workers, {hardware} by the NIC");
                Ok(())
            },
        )?;
    }
    Ok(())
}

#[test]
fn what_the_ruleset_forbids_leaves_the_nic() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().build()?;
    let pair = udp_pair(&lab, 5000)?;
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    lab.gateway().nft("insert rule inet filter forward udp dport 5000 drop")?;
    let took = until_quiet(std::slice::from_ref(&stream))?;
    assert!(took <= REVALIDATE_WITHIN + GRACE, "{took:?}");
    // What is allowed again comes back, into the NIC, too.
    let list = lab.gateway().run("nft -a list chain inet filter forward")?;
    let handle =
        list.split("udp dport 5000 drop # handle ").nth(1).and_then(|rest| rest.split_whitespace().next());
    lab.gateway()
        .run(&format!("nft delete rule inet filter forward handle {}", handle.expect("a handle")))?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    wait::until_true(wait::PATIENCE, "the stream to be in the NIC again", || {
        state(gateway, "udp", pair.source_port()).is_ok_and(|state| state == "hardware")
    })?;
    stream.finish();
    Ok(())
}

#[test]
fn flows_prove_themselves_again_from_the_nic() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().config("flows", "reprove_every = \"2s\"").build()?;
    let pair = udp_pair(&lab, 5000)?;
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let probes = |status: &Status| status.counter("punted_by_reason.probe");
    let before = probes(&gateway.status()?)?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    let carried = counted(&gateway.status()?)?[1];
    wait::until_true(wait::PATIENCE, "proofs, and the NIC to go on in between", || {
        gateway.status().is_ok_and(|status| {
            let hardware = counted(&status).map_or(0, |counted| counted[1]);
            probes(&status).is_ok_and(|now| now >= before + 6) && hardware > carried + 500
        })
    })?;
    let (sent, answered) = stream.finish();
    assert!(sent - answered <= sent / 50, "{answered} of {sent} were answered");
    Ok(())
}

#[test]
fn rules_can_be_tried_by_hand() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, 5000)?;
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let from = format!("{}:{}", IpAddr::from(CLIENT), pair.source_port());
    let told = gateway.ask(&["hardware", "--rules", "udp", &from, &format!("{SERVER}:5000")])?;
    assert!(told.contains("# original direction, in by lan0"), "{told}");
    assert!(told.contains("flow create ") && told.contains(&format!("src is {CLIENT}")), "{told}");
    let table = gateway.ask(&["hardware"])?;
    assert!(table.lines().any(|line| line.starts_with("wan0") && line.contains("full")), "{table}");
    Ok(())
}

#[test]
fn a_nic_without_groups_carries_packets_of_one_ttl() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()
        .config("hardware.model", "groups = false")
        .config("flows", "reprove_every = \"10m\"")
        .build()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    // Packets come with another TTL from here on: with a rule for those.
    for ttl in [64, 50] {
        lab.client().sysctl("net.ipv4.ip_default_ttl", &ttl.to_string())?;
        let before = lab.flyover().map(settled).transpose()?;
        until_in_hardware(&lab, "tcp", pair.source_port(), || pair.ping(1))?;
        let transfer = pair.transfer(Way::Up, 5_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
        let (Some(gateway), Some(before)) = (lab.flyover(), before) else { continue };
        let after = settled(gateway)?;
        let [fast, hardware, _] = [0, 1, 2].map(|n| after[n] - before[n]);
        assert!(hardware > 5 * fast, "TTL {ttl}: {fast} by workers, {hardware} by the NIC");
    }
    pair.finish()
}

#[test]
fn hairpin_queues_carry_where_there_is_no_other_way() -> Result<()> {
    let _turn = turn::take();
    let lab = lab()
        .config("hardware.model", "hairpin = true")
        .config("flows", "reprove_every = \"10m\"")
        .build()?;
    let service = Service::listen(lab.server(), SERVER, 80)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 80), &service)?;
    until_in_hardware(&lab, "tcp", pair.source_port(), || pair.ping(1))?;
    let before = lab.flyover().map(settled).transpose()?;
    for way in [Way::Up, Way::Down] {
        let transfer = pair.transfer(way, 10_000_000)?;
        assert_eq!(transfer.sent, transfer.received);
    }
    if let (Some(gateway), Some(before)) = (lab.flyover(), before) {
        let after = settled(gateway)?;
        let [fast, hardware, _] = [0, 1, 2].map(|n| after[n] - before[n]);
        assert!(hardware > 10 * fast, "{fast} by workers, {hardware} by the NIC");
        // Two ports with a queue each for software: what leaves by the other port goes to queue 1 or 2.
        let from = format!("{CLIENT}:{}", pair.source_port());
        let told = gateway.ask(&["hardware", "--rules", "tcp", &from, &format!("{SERVER}:80")])?;
        let carry: Vec<&str> =
            told.lines().filter(|line| line.contains(" dec_ttl ") || line.contains("ttl op")).collect();
        let to_queue = |line: &&str| {
            line.ends_with(" / queue index 1 / end") || line.ends_with(" / queue index 2 / end")
        };
        assert!(carry.iter().all(to_queue), "{told}");
        let table = gateway.ask(&["hardware"])?;
        assert!(table.contains("modify_field, hairpin queues"), "{table}");
    }
    pair.finish()
}

#[test]
fn a_nic_that_can_carry_nothing_is_left_alone() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().config("hardware.model", "tier = \"none\"").build()?;
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    (0..PINGS).try_for_each(|token| pair.ping(token).map(drop))?;
    assert_eq!(state(gateway, "udp", pair.source_port())?, "software");
    let told = gateway.ask(&["hardware"])?;
    assert!(told.lines().any(|line| line.starts_with("wan0") && line.contains("none")), "{told}");
    Ok(())
}

#[test]
fn what_could_be_too_long_to_leave_stays_with_workers_of_a_nic_that_does_not_compare_lengths() -> Result<()> {
    let _turn = turn::take();
    // Nobody sends more than the MTU allows.
    let lab = lab().config("hardware.model", "lengths = false").config("hardware", "oversize = 0").build()?;
    let pair = udp_pair(&lab, 5000)?;
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping(1).map(drop))?;
    // Packets of 1500 bytes can come, and are to be fragmented from here on.
    lab.gateway().run("ip route add 198.51.100.10/32 dev wan0 mtu 1400")?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let from = format!("{CLIENT}:{}", pair.source_port());
    let mut told = String::new();
    wait::until_true(wait::PATIENCE, "the direction to stay with workers", || {
        let sent = (0..20).try_for_each(|token| pair.ping(token).map(drop));
        told = gateway.ask(&["explain", "udp", &from, &format!("{SERVER}:5000")]).unwrap_or_default();
        sent.is_ok() && told.contains("only 1400 are known to leave in one piece")
    })?;
    // The other direction has another way.
    assert_ne!(state(gateway, "udp", pair.source_port())?, "hardware", "{told}");
    Ok(())
}

#[test]
fn a_nic_that_lets_in_more_than_can_leave_has_no_flows_if_it_does_not_compare_lengths() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().config("hardware.model", "lengths = false").build()?;
    let pair = udp_pair(&lab, 5000)?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let from = format!("{CLIENT}:{}", pair.source_port());
    wait::until_true(wait::PATIENCE, "explain to say why", || {
        let sent = (0..20).try_for_each(|token| pair.ping(token).map(drop));
        let told = gateway.ask(&["explain", "udp", &from, &format!("{SERVER}:5000")]).unwrap_or_default();
        let why = "packets of up to 1508 bytes can come in, and only 1500 are known to leave in one piece";
        sent.is_ok() && told.contains(why)
    })?;
    assert_eq!(state(gateway, "udp", pair.source_port())?, "software");
    Ok(())
}

/// Datagrams that a host has put together of fragments.
fn reassembled(host: &lab::Namespace) -> Result<u64> {
    let told = host.run("cat /proc/net/snmp")?;
    let mut lines = told.lines().filter_map(|line| line.strip_prefix("Ip: ")).map(str::split_whitespace);
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.zip(values).find(|(name, _)| *name == "ReasmOKs").expect("it is counted");
    Ok(found.1.parse().expect("a number"))
}

#[test]
fn packets_longer_than_the_mtu_are_fragmented_as_without_a_nic() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().config("flows", "reprove_every = \"10m\"").build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    // As a NIC lets them in that has room for two tags. They may be fragmented.
    lab.client().run("ip link set eth0 mtu 1508")?;
    lab.client().sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
    let pair = udp_pair(&lab, 5000)?;
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping_of(1, LONGEST).map(drop))?;
    for longer in [4, 8] {
        let before = (reassembled(lab.server())?, settled(gateway)?);
        for token in 0..20 {
            pair.ping_of(token, LONGEST + longer)?;
        }
        assert_eq!(reassembled(lab.server())? - before.0, 20, "{longer} bytes more");
        let punted = settled(gateway)?[2] - before.1[2];
        assert!(punted >= 20, "{longer} bytes more: {punted} punted");
    }
    // What fits is the NIC's.
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping_of(1, LONGEST).map(drop))?;
    let before = settled(gateway)?;
    (0..PINGS).try_for_each(|token| pair.ping_of(token, LONGEST).map(drop))?;
    let after = settled(gateway)?;
    assert!(after[1] - before[1] >= PINGS, "{before:?} {after:?}");
    Ok(())
}

#[test]
fn an_entry_lives_as_long_as_the_nic_has_packets_of_it() -> Result<()> {
    let _turn = turn::take();
    // Were it not refreshed, it would end after these seconds.
    let lab = lab().config("flows", "reprove_every = \"10m\"").build()?;
    for setting in ["udp_timeout", "udp_timeout_stream"] {
        lab.gateway().sysctl(&format!("net.netfilter.nf_conntrack_{setting}"), "5")?;
    }
    if let Some(gateway) = lab.flyover() {
        // The timeouts are read with the configuration.
        gateway.process()?.signal(nix::sys::signal::Signal::SIGHUP)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let pair = udp_pair(&lab, 5000)?;
    until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping(1).map(drop))?;
    pair.ping(1)?;
    let before = conntrack::find(lab.gateway(), "udp", pair.source_port())?.expect("an entry");
    let stream = udp::Stream::start(&pair, Duration::from_millis(5), true)?;
    std::thread::sleep(Duration::from_secs(12));
    let (sent, answered) = stream.finish();
    let after = conntrack::find(lab.gateway(), "udp", pair.source_port())?.expect("it lives");
    assert_eq!((before.id, sent), (after.id, answered));
    if let Some(gateway) = lab.flyover() {
        let [fast, hardware, punted] = settled(gateway)?;
        assert!(hardware > 10 * (fast + punted), "{fast} by workers, {hardware} by the NIC, {punted} punted");
    }
    Ok(())
}

#[test]
fn ipv6_goes_into_the_nic_too() -> Result<()> {
    let _turn = turn::take();
    let lab = lab().rules(ROUTED).ipv6().build()?;
    let service = Service::listen(lab.server(), SERVER6, 80)?;
    let to = SocketAddr::from((SERVER6, 80));
    let pair = Pair::open(lab.client(), None, to, &service)?;
    until_in_hardware(&lab, "tcp", pair.source_port(), || pair.ping(1))?;
    let transfer = pair.transfer(Way::Up, 10_000_000)?;
    assert_eq!(transfer.sent, transfer.received);
    pair.finish()
}

#[test]
fn the_nic_takes_tags_off_and_puts_them_on() -> Result<()> {
    const VLAN: Wrapping = Wrapping { tags: &[(ETHER_VLAN, 10)], pppoe: None };
    const QINQ: Wrapping = Wrapping { tags: &[(ETHER_SERVICE_VLAN, 200), (ETHER_VLAN, 300)], pppoe: None };
    for wrapping in [VLAN, QINQ] {
        let _turn = turn::take();
        let lab = lab().rules(ROUTED).build()?;
        let inside =
            Laid { twin: "lan0", name: "inside", gateway: GATEWAY_LAN, address: CLIENT, wrapping, mtu: 1500 };
        let mut server = Leg::plain(&lab, "wan0", SERVER)?;
        let client = Leg::wrapped(&lab, &inside)?;
        let pair = same_bytes(&lab, &client, &mut server)?;
        // No route says how long packets may be by an interface that is not built on the twin as far as the kernel knows: the
        // longest that can come are seen to leave.
        until_in_hardware(&lab, "udp", pair.source_port(), || pair.ping_of(1, LONGEST).map(drop))?;
        let Some(gateway) = lab.flyover() else { continue };
        let before = settled(gateway)?;
        (0..PINGS).try_for_each(|token| pair.ping(token).map(drop))?;
        let after = settled(gateway)?;
        assert!(after[1] - before[1] >= PINGS, "{before:?} {after:?}");
    }
    Ok(())
}

#[test]
fn rules_choose_what_may_go_into_the_nic() -> Result<()> {
    const MARKED: &str = "
        table inet hardware {
          chain forward {
            type filter hook forward priority 10;
            udp dport 5001 ct mark set ct mark or 0x20000
          }
        }";
    let _turn = turn::take();
    let lab = lab().config("hardware", "mark = \"0x20000/0x20000\"").build()?;
    lab.gateway().nft(MARKED)?;
    let (other, marked) = (udp_pair(&lab, 5000)?, udp_pair(&lab, 5001)?);
    until_in_hardware(&lab, "udp", marked.source_port(), || marked.ping(1).map(drop))?;
    (0..PINGS).try_for_each(|token| other.ping(token).map(drop))?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert_ne!(state(gateway, "udp", other.source_port())?, "hardware");
    // The mark is taken away: back to workers, where it flies on.
    lab.gateway().nft("flush chain inet hardware forward")?;
    lab.gateway().nft("add rule inet hardware forward udp dport 5001 ct mark set ct mark and 0xfffdffff")?;
    wait::until_true(wait::PATIENCE, "the connection to leave the NIC", || {
        let sent = (0..20).try_for_each(|token| marked.ping(token).map(drop));
        sent.is_ok() && state(gateway, "udp", marked.source_port()).is_ok_and(|state| state == "software")
    })
}
