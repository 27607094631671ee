//! What changes in the kernel reaches connections that fly: in time, and those that still belong come back.

use std::time::{Duration, Instant};

use lab::change::{
    GRACE, REVALIDATE_WITHIN, is_udp_to, lab, last_of_the_old_way, measured, udp_pair, udp_pair_to,
    until_quiet, until_quiet_within,
};
use lab::raw::{Wire, mac};
use lab::rules::{HOME_ROUTER, ROUTED};
use lab::topology::{CLIENT6, HOST_INTERFACE, OTHER, SERVER, SERVER6};
use lab::{Lab, LabBuilder, Namespace, Result, udp, wait};

const PORT: u16 = 5000;
const PACE: Duration = Duration::from_millis(2);
/// A network behind the server, or behind the host on the third port.
const BEHIND: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 9, 0, 1);

/// A stream that flies.
fn flying(lab: &Lab, pair: &udp::Pair, answered: bool) -> Result<udp::Stream> {
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(pair, PACE, answered)?;
    goes_on(&stream)?;
    Ok(stream)
}

fn goes_on(stream: &udp::Stream) -> Result<()> {
    let before = stream.received();
    wait::until_true(wait::PATIENCE, "the stream to go on", || stream.received() > before + 50)
}

fn flies_again(lab: &Lab, pair: &udp::Pair) -> Result<()> {
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    wait::until_true(wait::PATIENCE, "the stream to fly again", || {
        gateway.flow("udp", pair.source_port()).is_ok_and(|flow| flow.is_some_and(|flow| flow.flies()))
    })
}

/// What stopped it is over: the stream goes on, by itself, and flies.
fn comes_back(lab: &Lab, stream: &udp::Stream, pair: &udp::Pair) -> Result<()> {
    let since = Instant::now();
    goes_on(stream)?;
    flies_again(lab, pair)?;
    measured("50 packets had arrived and it flew after", since.elapsed());
    Ok(())
}

fn has_stopped(lab: &Lab, pair: &udp::Pair) -> Result<()> {
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let flow = gateway.flow("udp", pair.source_port())?;
    assert!(flow.as_ref().is_none_or(|flow| !flow.flies()), "{flow:?}");
    Ok(())
}

/// A laboratory in which [`BEHIND`] is behind the server as well as behind the third port's host.
fn two_ways() -> Result<Lab> {
    two_ways_of(lab(ROUTED))
}

fn two_ways_of(lab: LabBuilder) -> Result<Lab> {
    let lab = lab.third_port().build()?;
    for host in [lab.server(), lab.other()] {
        host.run("ip link set lo up")?;
        host.run(&format!("ip address add {BEHIND}/32 dev lo"))?;
        host.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    }
    Ok(lab)
}

/// A stream to [`BEHIND`] moves from the server's wire to the third port's with the change.
fn moves(
    lab: &Lab,
    before: &[&str],
    change: impl FnOnce(&Namespace, &udp::Pair) -> Result<()>,
) -> Result<()> {
    for line in before {
        lab.gateway().run(line)?;
    }
    let pair = udp_pair_to(lab, BEHIND, PORT)?;
    let _stream = flying(lab, &pair, true)?;
    let old = Wire::open(lab.server(), HOST_INTERFACE)?;
    let new = Wire::open(lab.other(), HOST_INTERFACE)?;
    last_of_the_old_way(&old, |frame| is_udp_to(frame, PORT), || change(lab.gateway(), &pair))?;
    wait::until_true(wait::PATIENCE, "packets on the new way", || {
        new.receive(Duration::from_millis(100)).is_ok_and(|f| f.is_some_and(|f| is_udp_to(&f, PORT)))
    })?;
    if let Some(gateway) = lab.flyover() {
        wait::until_true(wait::PATIENCE, "the stream to fly the new way", || {
            let flow = gateway.flow("udp", pair.source_port());
            flow.is_ok_and(|flow| flow.is_some_and(|flow| flow.out_port() == Some("opt0")))
        })?;
    }
    Ok(())
}

fn run(line: &str) -> impl FnOnce(&Namespace, &udp::Pair) -> Result<()> + '_ {
    move |gateway, _| gateway.run(line).map(drop)
}

#[test]
fn a_route_moves_to_another_port() -> Result<()> {
    let via_server = format!("ip route add {BEHIND}/32 via {SERVER}");
    let via_other = format!("ip route replace {BEHIND}/32 via {OTHER}");
    moves(&two_ways()?, &[&via_server], run(&via_other))
}

#[test]
fn a_policy_rule_sends_it_elsewhere() -> Result<()> {
    let via_server = format!("ip route add {BEHIND}/32 via {SERVER}");
    let table = format!("ip route add default via {OTHER} table 100");
    let rule = format!("ip rule add ipproto udp dport {PORT} lookup 100");
    moves(&two_ways()?, &[&via_server, &table], run(&rule))
}

/// Policy routing by a conntrack mark, which a packet of another kind sets: the mark changes, nothing else.
#[test]
fn a_mark_sends_it_elsewhere() -> Result<()> {
    // Lengths keep a connection in the kernel, unless the user accepts that most of its packets are not looked at.
    let lab = two_ways_of(lab(ROUTED).config("policy", "accept_loss = [\"length\"]"))?;
    lab.gateway().nft(
        "table ip restore {
           chain pre {
             type filter hook prerouting priority mangle;
             meta length > 500 ct mark set 7
             meta mark set ct mark
           }
         }",
    )?;
    let via_server = format!("ip route add {BEHIND}/32 via {SERVER}");
    let table = format!("ip route add default via {OTHER} table 100");
    moves(&lab, &[&via_server, &table, "ip rule add fwmark 7 lookup 100"], |_, pair| {
        pair.client.send(&[0; 600]).map(drop).map_err(lab::LabError::io("send a longer datagram"))
    })
}

#[test]
fn a_nexthop_object_leads_elsewhere_and_goes_away() -> Result<()> {
    let lab = two_ways()?;
    let first = format!("ip nexthop add id 1 via {SERVER} dev wan0");
    let route = format!("ip route add {BEHIND}/32 nhid 1");
    let other = format!("ip nexthop replace id 1 via {OTHER} dev opt0");
    moves(&lab, &[&first, &route], run(&other))?;
    let pair = udp_pair_to(&lab, BEHIND, PORT + 1)?;
    let source = udp::Stream::start(&pair, PACE, false)?;
    let wire = Wire::open(lab.other(), HOST_INTERFACE)?;
    wait::until_true(wait::PATIENCE, "the second stream", || {
        wire.receive(Duration::from_millis(100)).is_ok_and(|f| f.is_some_and(|f| is_udp_to(&f, PORT + 1)))
    })?;
    let delete = || lab.gateway().run("ip nexthop del id 1").map(drop);
    last_of_the_old_way(&wire, |frame| is_udp_to(frame, PORT + 1), delete)?;
    drop(source);
    Ok(())
}

/// The server takes another MAC address and tells of it, as a virtual router does that takes over.
#[test]
fn a_neighbour_moves_to_another_mac() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    let old = mac(lab.server(), HOST_INTERFACE)?;
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    lab.server().sysctl(&format!("net.ipv4.conf.{HOST_INTERFACE}.arp_notify"), "1")?;
    // The kernel believes no announcement within a second of the last.
    lab.gateway().sysctl("net.ipv4.neigh.wan0.locktime", "0")?;
    let to_old = |frame: &[u8]| frame.get(..6) == Some(&old[..]) && is_udp_to(frame, PORT);
    let change =
        || lab.server().run(&format!("ip link set {HOST_INTERFACE} address 02:aa:bb:cc:dd:ee")).map(drop);
    last_of_the_old_way(&wire, to_old, change)?;
    comes_back(&lab, &stream, &pair)
}

/// The same in IPv6, by an unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
#[test]
fn an_ipv6_neighbour_moves_to_another_mac() -> Result<()> {
    let lab = lab(ROUTED).ipv6().build()?;
    let server = udp::bind(lab.server(), SERVER6, PORT)?;
    let pair = udp::Pair::open(lab.client(), CLIENT6, std::net::SocketAddr::from((SERVER6, PORT)), server)?;
    let stream = flying(&lab, &pair, true)?;
    let old = mac(lab.server(), HOST_INTERFACE)?;
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    lab.server().sysctl(&format!("net.ipv6.conf.{HOST_INTERFACE}.ndisc_notify"), "1")?;
    let to_old = |frame: &[u8]| {
        frame.get(..6) == Some(&old[..])
            && frame.get(12..14) == Some(&[0x86, 0xdd])
            && frame.get(56..58) == Some(&PORT.to_be_bytes())
    };
    let change =
        || lab.server().run(&format!("ip link set {HOST_INTERFACE} address 02:aa:bb:cc:dd:ee")).map(drop);
    last_of_the_old_way(&wire, to_old, change)?;
    comes_back(&lab, &stream, &pair)
}

/// Nobody answers for the server's address any more. The kernel itself sends nothing to it, and would not notice.
#[test]
fn a_neighbour_dies() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    for (what, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
        ("interval_probe_time_ms", "1000"),
    ] {
        lab.gateway().sysctl(&format!("net.ipv4.neigh.wan0.{what}"), value)?;
    }
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, false)?;
    if lab.flyover().is_some() {
        wait::until_true(wait::PATIENCE, "the neighbour to be managed", || {
            lab.gateway().run(&format!("ip neigh show {SERVER}")).is_ok_and(|line| line.contains("managed"))
        })?;
    }
    lab.server().run(&format!("ip link set {HOST_INTERFACE} arp off"))?;
    // Reachable for up to 1.5 s, a second's delay, three probes a second apart, and once more with the managed probe.
    until_quiet_within(Duration::from_secs(15), &[stream])?;
    has_stopped(&lab, &pair)
}

/// An operator's static entry is not made an ordinary one, which this server would not answer for.
#[test]
fn a_permanent_neighbour_stays_so() -> Result<()> {
    let mut lab = lab(HOME_ROUTER).build()?;
    let address = mac(lab.server(), HOST_INTERFACE)?.map(|byte| format!("{byte:02x}")).join(":");
    lab.gateway().run(&format!("ip neigh replace {SERVER} lladdr {address} dev wan0 nud permanent"))?;
    lab.server().sysctl(&format!("net.ipv4.conf.{HOST_INTERFACE}.arp_ignore"), "8")?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    let permanent = |lab: &Lab| {
        let line = lab.gateway().run(&format!("ip neigh show {SERVER}"))?;
        assert!(line.contains(&address) && line.contains("PERMANENT") && !line.contains("managed"), "{line}");
        Ok::<(), lab::LabError>(())
    };
    // Neighbours are looked at every two seconds.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        permanent(&lab)?;
        goes_on(&stream)?;
    }
    flies_again(&lab, &pair)?;
    drop(stream);
    if let Some(gateway) = lab.flyover_mut() {
        gateway.stop()?;
    }
    permanent(&lab)
}

/// The kernel ends what was masqueraded behind an address that goes away.
#[test]
fn an_address_goes_away() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.gateway().run("ip address del 198.51.100.1/24 dev wan0")?;
    until_quiet(&[stream])?;
    has_stopped(&lab, &pair)
}

#[test]
fn a_twin_goes_down_and_up() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.gateway().run("ip link set lan0 down")?;
    until_quiet(std::slice::from_ref(&stream))?;
    has_stopped(&lab, &pair)?;
    lab.gateway().run("ip link set lan0 up")?;
    comes_back(&lab, &stream, &pair)
}

#[test]
fn a_cable_is_pulled_and_plugged() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.server().run(&format!("ip link set {HOST_INTERFACE} down"))?;
    until_quiet(std::slice::from_ref(&stream))?;
    lab.server().run(&format!("ip link set {HOST_INTERFACE} up"))?;
    lab.server().run("ip route replace default via 198.51.100.1")?;
    comes_back(&lab, &stream, &pair)
}

#[test]
fn the_ruleset_is_loaded_anew_and_nobody_notices() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    for _ in 0..5 {
        lab.gateway().nft(&format!("flush ruleset\n{HOME_ROUTER}"))?;
        goes_on(&stream)?;
    }
    flies_again(&lab, &pair)?;
    let (sent, received) = stream.finish();
    assert_eq!(sent, received);
    Ok(())
}

/// Streams are let through by a set alone.
const BY_SET: &str = "
table inet filter {
  set allowed { type inet_service; flags timeout; }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    udp dport @allowed accept
    udp sport @allowed accept
  }
}
";

#[test]
fn a_set_element_is_removed() -> Result<()> {
    let lab = lab(BY_SET).build()?;
    lab.gateway().nft(&format!("add element inet filter allowed {{ {PORT} }}"))?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.gateway().nft(&format!("delete element inet filter allowed {{ {PORT} }}"))?;
    until_quiet(&[stream])?;
    has_stopped(&lab, &pair)
}

/// Nobody announces that an element's time is over: every flow proves itself again from time to time.
#[test]
fn a_set_element_expires_in_silence() -> Result<()> {
    const LIFE: Duration = Duration::from_secs(6);
    const REPROVE_EVERY: Duration = Duration::from_secs(2);
    let lab = Lab::builder(lab::Plane::under_test())
        .rules(BY_SET)
        .config("flows", "revalidate_within = \"1s\"")
        .config("flows", &format!("reprove_every = \"{}s\"", REPROVE_EVERY.as_secs()))
        .build()?;
    lab.gateway()
        .nft(&format!("add element inet filter allowed {{ {PORT} timeout {}s }}", LIFE.as_secs()))?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    until_quiet_within(LIFE + REPROVE_EVERY + GRACE, &[stream])?;
    has_stopped(&lab, &pair)
}

#[test]
fn forwarding_is_switched_off_and_on() -> Result<()> {
    let lab = lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.gateway().sysctl("net.ipv4.ip_forward", "0")?;
    until_quiet(std::slice::from_ref(&stream))?;
    has_stopped(&lab, &pair)?;
    lab.gateway().sysctl("net.ipv4.ip_forward", "1")?;
    comes_back(&lab, &stream, &pair)
}

#[test]
fn an_xfrm_policy_blocks_it() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.gateway()
        .run(&format!("ip xfrm policy add dst {SERVER}/32 proto udp dport {PORT} dir fwd action block"))?;
    until_quiet(&[stream])?;
    has_stopped(&lab, &pair)
}

/// The twin's address is the gateway's; that of the host at the other end of the wire stays what it is.
#[test]
fn a_twin_gets_another_mac() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    let hosts =
        || Ok::<_, lab::LabError>([mac(lab.client(), HOST_INTERFACE)?, mac(lab.server(), HOST_INTERFACE)?]);
    let before = hosts()?;
    for (number, twin) in ["lan0", "wan0"].into_iter().enumerate() {
        lab.gateway().run(&format!("ip link set {twin} address 02:aa:bb:cc:dd:0{number}"))?;
        lab.host(twin).run(&format!("ip neigh flush dev {HOST_INTERFACE}"))?;
        comes_back(&lab, &stream, &pair)?;
    }
    assert_eq!(hosts()?, before);
    Ok(())
}

/// A twin is known by its index: another name is no change.
#[test]
fn a_twin_gets_another_name() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    lab.gateway().run("ip link set wan0 name uplink")?;
    std::thread::sleep(REVALIDATE_WITHIN);
    comes_back(&lab, &stream, &pair)?;
    let (sent, received) = stream.finish();
    assert_eq!(sent, received);
    Ok(())
}

/// Without its twin a port has no way to the kernel: it is made again, the others go on meanwhile. Whoever deleted it has
/// taken its addresses and routes too; when they are back, so are the flows.
#[test]
fn a_twin_is_deleted_and_made_again() -> Result<()> {
    let mut lab = lab(ROUTED).third_port().build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    let before = mac(lab.gateway(), "wan0")?;
    lab.gateway().run("ip link del wan0")?;
    until_quiet(std::slice::from_ref(&stream))?;
    has_stopped(&lab, &pair)?;
    let server = udp::bind(lab.other(), OTHER, PORT)?;
    let to = std::net::SocketAddrV4::new(OTHER, PORT);
    let other = udp::Pair::open(lab.client(), lab::topology::CLIENT, to, server)?;
    lab.until_flying("udp", other.source_port(), || other.ping(2).map(drop))?;
    wait::until_true(wait::PATIENCE, "the twin to be made again", || lab.gateway().has_interface("wan0"))?;
    assert_eq!(mac(lab.gateway(), "wan0")?, before);
    lab.gateway().run("ip address add 198.51.100.1/24 dev wan0")?;
    lab.gateway().run("ip link set wan0 up")?;
    comes_back(&lab, &stream, &pair)?;
    drop(stream);
    let gateway = lab.flyover_mut().expect("Flyover forwards");
    let told = gateway.process()?.errors();
    assert!(told.contains("twin was deleted") && told.contains("was made again"), "{told}");
    assert_eq!(gateway.stop()?.code(), Some(0));
    Ok(())
}

/// Something else has the twin's name meanwhile: it is told, and made when the name is free. The wait costs no core.
#[test]
fn a_twin_whose_name_is_taken_is_made_when_it_is_free() -> Result<()> {
    let lab = lab(ROUTED).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let pair = udp_pair(&lab, PORT)?;
    let stream = flying(&lab, &pair, true)?;
    for line in ["ip link set wan0 name former", "ip link add wan0 type bridge", "ip link del former"] {
        lab.gateway().run(line)?;
    }
    let process = gateway.process()?;
    wait::until_true(wait::PATIENCE, "it to be told", || {
        process.errors().contains("carries nothing meanwhile")
    })?;
    let before = process.cpu_ticks()?;
    std::thread::sleep(Duration::from_secs(2));
    let ticks = process.cpu_ticks()? - before;
    assert!(ticks < 100, "{ticks} hundredths of a second of 200, with a stream that is lost");
    lab.gateway().run("ip link del wan0")?;
    wait::until_true(wait::PATIENCE, "the twin", || {
        lab.gateway().run("ip -d link show wan0").is_ok_and(|text| text.contains("tun type tap"))
    })?;
    lab.gateway().run("ip address replace 198.51.100.1/24 dev wan0")?;
    lab.gateway().run("ip link set wan0 up")?;
    comes_back(&lab, &stream, &pair)
}
