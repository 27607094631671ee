//! Conntrack told to do otherwise: packets that are not tracked, zones, and addresses that stand in several of them.

use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use lab::change::{self, GRACE, REVALIDATE_WITHIN, is_udp_to, last_of_the_old_way, udp_pair};
use lab::raw::{self, Wire};
use lab::rules::{HOME_ROUTER, ROUTED};
use lab::topology::{CLIENT, GATEWAY_LAN, GATEWAY_OTHER, GATEWAY_WAN, HOST_INTERFACE, SERVER};
use lab::{Explained, Lab, LabError, Plane, Result, conntrack, udp, wait};

const PORT: u16 = 5000;
const FREE: u16 = 5001;

/// Port 5000 is not tracked.
const NOTRACK: &str = "
table inet raw {
  chain prerouting {
    type filter hook prerouting priority raw;
    udp dport 5000 notrack
    udp sport 5000 notrack
  }
}
";

/// What is not tracked is let through, too.
const UNTRACKED: &str = "insert rule inet filter forward ct state untracked accept";

fn flies(lab: &Lab, pair: &udp::Pair) -> Result<bool> {
    let Some(gateway) = lab.flyover() else { return Ok(false) };
    Ok(gateway.flow("udp", pair.source_port())?.is_some_and(|flow| flow.flies()))
}

/// Packets that are not tracked go through as they are, past NAT, and stay in the kernel; others fly beside them.
#[test]
fn what_is_not_tracked_stays() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    lab.gateway().nft(NOTRACK)?;
    lab.gateway().nft(UNTRACKED)?;
    let (untracked, tracked) = (udp_pair(&lab, PORT)?, udp_pair(&lab, FREE)?);
    lab.until_flying("udp", tracked.source_port(), || tracked.ping(0).map(drop))?;
    for token in 1..100 {
        assert_eq!(untracked.ping(token)?.ip(), IpAddr::V4(CLIENT));
        assert_eq!(tracked.ping(token)?.ip(), IpAddr::V4(GATEWAY_WAN));
    }
    assert_eq!(conntrack::find(lab.gateway(), "udp", untracked.source_port())?, None);
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert!(gateway.flow("udp", untracked.source_port())?.is_none());
    assert!(gateway.flow("udp", tracked.source_port())?.is_some_and(|flow| flow.packets() >= 190));
    let found = Explained::ask(gateway, "udp", (CLIENT, untracked.source_port()), (SERVER, PORT))?;
    assert_eq!((found.known(), found.why()), ("nowhere", "conntrack has no such connection"), "{found:?}");
    assert!(found.advice().contains("notrack"), "{found:?}");
    Ok(())
}

/// From then on packets leave as they came, without NAT.
#[test]
fn a_rule_not_to_track_reaches_a_translated_connection_that_flies() -> Result<()> {
    let lab = change::lab(HOME_ROUTER).build()?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(2), true)?;
    let wire = Wire::open(lab.server(), HOST_INTERFACE)?;
    let translated = |frame: &[u8]| is_udp_to(frame, PORT) && frame[26..30] == GATEWAY_WAN.octets();
    wait::until_true(wait::PATIENCE, "the stream", || {
        wire.receive(Duration::from_millis(10))
            .is_ok_and(|frame| frame.is_some_and(|frame| translated(&frame)))
    })?;
    last_of_the_old_way(&wire, translated, || lab.gateway().nft(NOTRACK))?;
    let before = stream.received();
    wait::until_true(wait::PATIENCE, "the stream to go on untranslated", || {
        stream.received() > before + 100
    })?;
    assert!(!flies(&lab, &pair)?);
    Ok(())
}

/// Without NAT packets leave the same, but conntrack is not to see them, nor to be kept from forgetting the connection.
#[test]
fn a_rule_not_to_track_takes_a_routed_connection_out_of_the_air() -> Result<()> {
    let lab = change::lab(ROUTED).build()?;
    lab.gateway().nft(UNTRACKED)?;
    let (pair, free) = (udp_pair(&lab, PORT)?, udp_pair(&lab, FREE)?);
    for pair in [&pair, &free] {
        lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    }
    lab.gateway().nft(NOTRACK)?;
    let mut token = 2;
    wait::until_true(REVALIDATE_WITHIN + GRACE, "the connection to be the kernel's", || {
        token += 1;
        pair.ping(token).is_ok() && flies(&lab, &pair).is_ok_and(|flies| !flies)
    })?;
    lab.until_flying("udp", free.source_port(), || free.ping(token).map(drop))?;
    assert!(!flies(&lab, &pair)?);
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let found = Explained::ask(gateway, "udp", (CLIENT, pair.source_port()), (SERVER, PORT))?;
    assert!(found.why().starts_with("notrack in inet raw prerouting handle "), "{found:?}");
    Ok(())
}

const ZONE: &str =
    "table inet zones { chain prerouting { type filter hook prerouting priority raw; ct zone set 7; }; }";

/// A connection whose directions are both in one zone is like any other, and is found in its zone.
#[test]
fn one_zone_for_both_directions_flies() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).rules(ROUTED).build()?;
    lab.gateway().nft(
        "table inet zones { chain prerouting { type filter hook prerouting priority raw; ct zone set 7; }; }",
    )?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let before = lab.flyover().map(|gateway| gateway.flow("udp", pair.source_port())).transpose()?.flatten();
    for token in 0..100 {
        pair.ping(token)?;
    }
    let entries = lab.gateway().run("conntrack -L -p udp -w 7")?;
    assert!(entries.contains(&format!("sport={}", pair.source_port())), "{entries}");
    let (Some(gateway), Some(before)) = (lab.flyover(), before) else { return Ok(()) };
    let flow = gateway.flow("udp", pair.source_port())?.expect("the connection's entry");
    assert!(flow.packets() - before.packets() >= 190, "{flow:?}");
    let found = Explained::ask(gateway, "udp", (CLIENT, pair.source_port()), (SERVER, PORT))?;
    assert_eq!((found.state(), found.zone()), ("software", Some(7)), "{found:?}");
    Ok(())
}

/// Two tenants with the same addresses behind `lan0` and `opt0`, told apart by a zone for what they send and by a mark
/// for the way back.
const TENANTS: &str = "
table inet tenants {
  chain raw {
    type filter hook prerouting priority raw;
    iifname lan0 ct original zone set 1
    iifname opt0 ct original zone set 2
  }
  chain marks {
    type filter hook prerouting priority mangle;
    iifname lan0 ct mark set 1
    iifname opt0 ct mark set 2
    meta mark set ct mark
  }
}
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname wan0 masquerade
  }
}
";

/// The same addresses and ports behind two ports of the gateway: each gets what is its own.
#[test]
fn tenants_with_the_same_addresses_do_not_mix() -> Result<()> {
    let lab = Lab::builder(Plane::under_test()).third_port().rules(TENANTS).build()?;
    tenants(&lab)?;
    let server = udp::bind(lab.server(), SERVER, PORT)?;
    let share = |socket: &UdpSocket| socket.try_clone().map_err(LabError::io("share a socket"));
    let to = SocketAddrV4::new(SERVER, PORT);
    let mut pairs = Vec::new();
    for host in [lab.client(), lab.other()] {
        let client = udp::bind(host, CLIENT, 6000)?;
        client.connect(to).map_err(LabError::io("connect"))?;
        pairs.push(udp::Pair { client, server: share(&server)? });
    }
    let seen = [pairs[0].ping(1)?, pairs[1].ping(2)?];
    assert_ne!(seen[0], seen[1], "the server tells them apart");
    for token in 10..200 {
        // Each answer comes to the one who asked, and goes by the one's translation.
        assert_eq!(pairs[0].ping(2 * token)?, seen[0]);
        assert_eq!(pairs[1].ping(2 * token + 1)?, seen[1]);
    }
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    assert!(gateway.flows()?.is_empty(), "{:?}", gateway.flows()?);
    let found = Explained::ask(gateway, "udp", (CLIENT, 6000), to)?;
    assert_eq!(
        (found.known(), found.why()),
        ("kernel", "its directions lie in different conntrack zones"),
        "{found:?}"
    );
    Ok(())
}

/// Both hosts have the client's address; each is reached by its own table of routes.
fn tenants(lab: &Lab) -> Result<()> {
    let gateway = lab.gateway();
    for name in ["all", "lan0", "opt0", "wan0"] {
        gateway.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
    }
    gateway.run(&format!("ip address add {GATEWAY_LAN}/32 dev opt0"))?;
    for (mark, twin) in [(1, "lan0"), (2, "opt0")] {
        gateway.run(&format!("ip route add {CLIENT}/32 dev {twin} table {}", 100 + mark))?;
        gateway.run(&format!(
            "ip rule add fwmark {mark} iif wan0 lookup {} priority {}",
            100 + mark,
            100 + mark
        ))?;
    }
    let other = lab.other();
    other.run(&format!("ip address add {CLIENT}/32 dev {HOST_INTERFACE}"))?;
    other.run(&format!("ip route replace default via {GATEWAY_OTHER} src {CLIENT}"))?;
    Ok(())
}

/// The running connection begins anew in the zone, as in the kernel alone: packets go on, and fly once its former entry,
/// of the same addresses, is gone.
#[test]
fn a_rule_gives_a_connection_that_flies_a_zone() -> Result<()> {
    let lab = change::lab(ROUTED).build()?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    lab.gateway().nft(ZONE)?;
    let listed = |zone: u16| {
        let entries = lab.gateway().run(&format!("conntrack -L -p udp -w {zone}"))?;
        Ok::<_, LabError>(entries.contains(&format!("sport={}", pair.source_port())))
    };
    let mut token = 2;
    wait::until_true(REVALIDATE_WITHIN + GRACE, "the connection to be tracked in its zone", || {
        token += 1;
        pair.ping(token).is_ok() && listed(7).unwrap_or(false)
    })?;
    let kernel = || -> Result<bool> {
        token += 1;
        pair.ping(token)?;
        Ok(!flies(&lab, &pair)?)
    };
    both_in_the_kernel(kernel)?;
    lab.gateway().run(&format!("conntrack -D -p udp -w 0 --sport {}", pair.source_port()))?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    assert!(listed(7)?);
    Ok(())
}

fn both_in_the_kernel(mut kernel: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until_true(wait::PATIENCE, "what has an entry in two zones to be the kernel's", || {
        kernel().unwrap_or(false)
    })
}

/// Each of two ports a zone of its own, and the second a way of its own.
const TWO_ZONES: &str = "
table inet zones {
  chain prerouting {
    type filter hook prerouting priority raw;
    iifname opt0 ct zone set 2 return
    ct zone set 1
  }
}
";

/// The same 5-tuple lives in two zones, without NAT. One flies, until the other begins: then conntrack's entries can't be
/// told apart by a packet's addresses, and both are the kernel's. When one ends the other flies again.
#[test]
fn a_five_tuple_in_two_zones_is_the_kernels() -> Result<()> {
    let lab = change::lab(ROUTED).third_port().build()?;
    lab.gateway().nft(TWO_ZONES)?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;

    // What comes in by opt0 leaves by opt0, to a next hop that has the wire's MAC address.
    let wire = Wire::open(lab.other(), HOST_INTERFACE)?;
    let macs = (wire.mac, raw::mac(lab.gateway(), "opt0")?);
    let hop = "203.0.113.20";
    let lladdr = wire.mac.map(|byte| format!("{byte:02x}")).join(":");
    for name in ["all", "opt0"] {
        lab.gateway().sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
        lab.gateway().sysctl(&format!("net.ipv4.conf.{name}.send_redirects"), "0")?;
    }
    lab.gateway().run(&format!("ip neigh replace {hop} lladdr {lladdr} dev opt0 nud permanent"))?;
    lab.gateway().run(&format!("ip route add default via {hop} dev opt0 table 200"))?;
    lab.gateway().run("ip rule add iif opt0 lookup 200 priority 200")?;
    let (client, server) = ((CLIENT, pair.source_port()), (SERVER, PORT));
    let mut foreign = udp::datagram(7, 64);
    foreign[0] = b'F';
    let back_and_forth = || -> Result<()> {
        for (from, to) in [(client, server), (server, client)] {
            wire.send(&raw::udp_frame(macs, from, to, &foreign)?)?;
            wait::until_true(wait::PATIENCE, "the other tenant's frame", || {
                let frame = wire.receive(Duration::from_millis(10)).ok().flatten();
                // Received, not sent: from the gateway.
                frame.is_some_and(|frame| frame[6..12] == macs.1 && frame.ends_with(&foreign))
            })?;
        }
        Ok(())
    };
    let mut token = 2;
    both_in_the_kernel(|| {
        back_and_forth()?;
        token += 1;
        pair.ping(token)?;
        Ok(!flies(&lab, &pair)?)
    })?;
    for zone in [1, 2] {
        let entries = lab.gateway().run(&format!("conntrack -L -p udp -w {zone}"))?;
        assert!(entries.contains(&format!("sport={}", pair.source_port())), "{entries}");
    }
    let stream = udp::Stream::start(&pair, Duration::from_millis(2), true)?;
    for _ in 0..200 {
        back_and_forth()?;
        assert!(!flies(&lab, &pair)?);
    }
    assert_eq!((stream.foreign(), stream.duplicated()), (0, 0), "the other tenant's datagrams");
    assert!(stream.received() > 0);
    drop(stream);
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let found = Explained::ask(gateway, "udp", client, server)?;
    assert_eq!(
        (found.known(), found.why()),
        ("kernel", "its addresses and ports stand in two conntrack zones"),
        "{found:?}"
    );
    lab.gateway().run("conntrack -D -p udp -w 2")?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    Ok(())
}

/// Timeouts of the ruleset's own: 12 s for UDP that is answered, in place of two minutes.
const TIMEOUTS: &str = r#"
table ip timeouts {
  ct timeout short { protocol udp; l3proto ip; policy = { unreplied : 8, replied : 12 }; }
  chain prerouting {
    type filter hook prerouting priority filter;
    udp dport 5000 ct timeout set "short"
  }
}
"#;

/// An entry that flew ends when it would have ended without.
#[test]
fn a_timeout_of_the_rulesets_own_holds() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(12);
    /// For the seconds that conntrack counts in, and for a busy machine.
    const MORE: Duration = Duration::from_secs(8);
    let lab = Lab::builder(Plane::under_test()).rules(ROUTED).build()?;
    lab.gateway().nft(TIMEOUTS)?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    // Long enough to be a stream.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        pair.ping(2)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.until_flying("udp", pair.source_port(), || pair.ping(3).map(drop))?;
    let last = Instant::now();
    wait::until_true(TIMEOUT + MORE, "the entry to end", || {
        conntrack::find(lab.gateway(), "udp", pair.source_port()).is_ok_and(|entry| entry.is_none())
    })?;
    let took = last.elapsed();
    assert!(took > TIMEOUT - Duration::from_secs(2), "{took:?}");
    Ok(())
}
