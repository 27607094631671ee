//! Flyover's own nftables table: there where nothing else has the kernel track connections, for as long as the gateway
//! runs, and nobody else's table is touched for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::change::{lab, udp_pair};
use lab::rules::ROUTED;
use lab::topology::{CLIENT6, SERVER6};
use lab::{Gateway, Lab, Namespace, Result, conntrack, udp, wait};

const PORT: u16 = 5000;
const OURS: &str = "table inet flyover";

/// Tables of a user's in whose listing each byte counts, and that ask for no tracking.
const USERS: &str = "
table inet filter {
  comment \"mine\"
  set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.7.1-192.168.7.9 }; }
  chain other { }
  chain forward {
    type filter hook forward priority 10; policy accept;
    ip saddr @s ip daddr 10.1.1.1 counter packets 7 bytes 700 jump other comment \"x\"
  }
}
table ip flyover { chain forward { }; }
table netdev n { chain in { type filter hook ingress device lo priority 7; }; }
";

/// What tells the user of it, in status and in the ruleset.
fn stands(lab: &Lab, word: &str) -> Result<()> {
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let is_there = word == "installed";
    wait::until_true(wait::PATIENCE, &format!("own_table to be {word}"), || {
        gateway.status().is_ok_and(|status| status.own_table() == word)
            && ruleset(lab.gateway()).is_ok_and(|all| is_whole(&all) == is_there)
    })
}

/// All that there is, with the handles that the kernel gave.
fn ruleset(namespace: &Namespace) -> Result<String> {
    namespace.run("nft -a list ruleset")
}

/// Flyover's table is there, with all that belongs to it.
fn is_whole(ruleset: &str) -> bool {
    let ours = ruleset.split_once(OURS).map(|(_, from)| from.split("\n}").next().unwrap_or_default());
    ours.is_some_and(|ours| {
        [
            "comment \"made by flyover",
            "hook forward priority filter + 10",
            "ct state established,related accept",
        ]
        .iter()
        .all(|part| ours.contains(part))
    })
}

/// The same without Flyover's table.
fn users(namespace: &Namespace) -> Result<String> {
    let all = ruleset(namespace)?;
    if !all.contains(OURS) {
        return Ok(all);
    }
    let ours = namespace.run(&format!("nft -a list {OURS}"))?;
    assert!(all.contains(&ours), "{all}");
    Ok(all.replace(&ours, ""))
}

fn flyover(lab: &mut Lab) -> &mut Gateway {
    lab.flyover_mut().expect("Flyover forwards")
}

fn notice(lab: &Lab, begins: &str) -> Result<bool> {
    let status = lab.flyover().expect("Flyover forwards").status()?;
    let notices = status.0.get("notices").and_then(|notices| notices.as_array()).cloned().unwrap_or_default();
    Ok(notices.iter().any(|notice| notice.as_str().is_some_and(|text| text.starts_with(begins))))
}

#[test]
fn without_a_ruleset_connections_are_carried() -> Result<()> {
    let lab = lab("").ipv6().build()?;
    stands(&lab, "installed")?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let server = udp::bind(lab.server(), SERVER6, PORT)?;
    let pair6 = udp::Pair::open(lab.client(), CLIENT6, SocketAddr::from((SERVER6, PORT)), server)?;
    lab.until_flying("udp", pair6.source_port(), || pair6.ping(1).map(drop))?;

    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let told = gateway.ask(&["status"])?;
    assert!(told.contains("own nft table: inet flyover, which has the kernel track connections"), "{told}");
    // What it does to the ruleset is a change, too, and leads to no other.
    let (mut epoch, mut since) = (gateway.status()?.counter("epoch")?, Instant::now());
    wait::until_true(wait::PATIENCE, "a second without changes", || {
        let now = gateway.status().and_then(|status| status.counter("epoch")).unwrap_or_default();
        if now != epoch {
            (epoch, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    })
}

/// `nft flush ruleset` and `nft -f` take it away, and a ruleset without tracking brings it back. What flies goes on.
#[test]
fn it_comes_back_after_a_flush_and_a_reload() -> Result<()> {
    let lab = lab("").build()?;
    stands(&lab, "installed")?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let id = || -> Result<Option<u64>> {
        Ok(conntrack::find(lab.gateway(), "udp", pair.source_port())?.map(|entry| entry.id))
    };
    let before = id()?;
    assert!(lab.flyover().is_none() || before.is_some());
    let stream = udp::Stream::start(&pair, Duration::from_millis(2), true)?;
    let goes_on = || {
        let received = stream.received();
        wait::until_true(wait::PATIENCE, "the stream to go on", || stream.received() > received + 50)
    };
    for (commands, word) in [
        ("flush ruleset", "installed"),
        (&*format!("flush ruleset\n{USERS}"), "installed"),
        (&*format!("flush ruleset\n{ROUTED}"), "not_needed"),
        ("delete table inet filter", "installed"),
        ("delete table inet flyover", "installed"),
        ("flush table inet flyover", "installed"),
        // What is there stays to the end.
        (ROUTED, "installed"),
    ] {
        // With the kernel alone there is no such table.
        if lab.flyover().is_some() || !commands.contains("flyover") {
            lab.gateway().nft(commands)?;
        }
        stands(&lab, word)?;
        goes_on()?;
        // The kernel alone begins to track it with the first ruleset that asks for it.
        assert!(lab.flyover().is_none() || id()? == before, "{commands}");
    }
    if let Some(gateway) = lab.flyover() {
        wait::until_true(wait::PATIENCE, "the stream to fly again", || {
            gateway.flow("udp", pair.source_port()).is_ok_and(|flow| flow.is_some_and(|flow| flow.flies()))
        })?;
        assert!(gateway.ask(&["status"])?.contains("own nft table: inet flyover"));
    }
    let (sent, received) = stream.finish();
    assert_eq!(sent, received);
    Ok(())
}

#[test]
fn other_tables_stay_as_they_are_to_the_byte() -> Result<()> {
    let mut lab = lab(USERS).build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    flyover(&mut lab).stop()?;
    let before = ruleset(lab.gateway())?;
    assert!(before.contains("packets 7 bytes 700") && !before.contains(OURS), "{before}");
    lab.restart()?;
    stands(&lab, "installed")?;
    assert_eq!(users(lab.gateway())?, before);
    lab.gateway().nft("delete table inet flyover")?;
    stands(&lab, "installed")?;
    assert_eq!(users(lab.gateway())?, before);
    flyover(&mut lab).stop()?;
    assert_eq!(ruleset(lab.gateway())?, before);
    Ok(())
}

#[test]
fn a_successor_takes_over_what_a_killed_gateway_leaves() -> Result<()> {
    let mut lab = lab("").build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    stands(&lab, "installed")?;
    let before = ruleset(lab.gateway())?;
    flyover(&mut lab).kill()?;
    assert_eq!(ruleset(lab.gateway())?, before, "tracking goes on while nobody runs");
    lab.restart()?;
    stands(&lab, "installed")?;
    assert_eq!(ruleset(lab.gateway())?, before, "the very same, by its handle");
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    flyover(&mut lab).stop()?;
    assert_eq!(ruleset(lab.gateway())?, "", "with SIGTERM it goes");

    // One that may not have a table does not touch it either.
    lab.restart()?;
    stands(&lab, "installed")?;
    let before = ruleset(lab.gateway())?;
    flyover(&mut lab).kill()?;
    flyover(&mut lab).set_options(&["--no-nft"]);
    lab.restart()?;
    flyover(&mut lab).stop()?;
    assert_eq!(ruleset(lab.gateway())?, before);
    Ok(())
}

#[test]
fn with_no_nft_the_lines_are_written_by_hand() -> Result<()> {
    let mut lab = lab("").build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    flyover(&mut lab).stop()?;
    flyover(&mut lab).set_options(&["--no-nft"]);
    lab.restart()?;
    stands(&lab, "off")?;
    assert!(notice(&lab, "nothing in the ruleset makes the kernel track all connections, and --no-nft")?);
    let pair = udp_pair(&lab, PORT)?;
    for token in 0..20 {
        pair.ping(token)?;
    }
    assert!(flyover(&mut lab).flow("udp", pair.source_port())?.is_none(), "who tracks it?");
    // As docs/policy.md has them.
    lab.gateway().nft(
        "table inet tracking { chain forward { type filter hook forward priority 0; ct state established,related accept; }; }",
    )?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    assert_eq!(flyover(&mut lab).status()?.own_table(), "off");
    wait::until_true(wait::PATIENCE, "the notice to go", || {
        notice(&lab, "nothing in").is_ok_and(|told| !told)
    })?;
    flyover(&mut lab).stop()?;
    assert!(ruleset(lab.gateway())?.starts_with("table inet tracking "));
    Ok(())
}

#[test]
fn a_table_of_its_name_that_is_not_its_own_is_left_alone() -> Result<()> {
    let mut lab = lab("").build()?;
    if lab.flyover().is_none() {
        return Ok(());
    }
    lab.gateway().nft("flush ruleset; table inet flyover { chain mine { counter; }; }")?;
    let before = ruleset(lab.gateway())?;
    wait::until_true(wait::PATIENCE, "own_table to be foreign", || {
        flyover(&mut lab).status().is_ok_and(|status| status.own_table() == "foreign")
    })?;
    assert!(notice(&lab, "the table inet flyover is not as Flyover makes it, and is left alone")?);
    let told = flyover(&mut lab).ask(&["status"])?;
    assert!(
        told.contains("own nft table: not installed: inet flyover is there, and not Flyover's"),
        "{told}"
    );
    flyover(&mut lab).stop()?;
    assert_eq!(ruleset(lab.gateway())?, before);
    lab.restart()?;
    assert_eq!(flyover(&mut lab).status()?.own_table(), "foreign");
    assert_eq!(ruleset(lab.gateway())?, before);
    // What the notice says to type does it.
    lab.gateway().nft("delete table inet flyover")?;
    stands(&lab, "installed")?;
    let pair = udp_pair(&lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop)).map(drop)
}
