//! What changes in the kernel without a word: flows meet it when they prove themselves again, each `reprove_every`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab::change::{GRACE, measured, udp_pair, until_quiet_within};
use lab::rules::ROUTED;
use lab::topology::{CLIENT, SERVER};
use lab::{Lab, Plane, Result, udp, wait};

const PORT: u16 = 5000;
const REPROVE_EVERY: Duration = Duration::from_secs(3);

fn lab(rules: &str) -> Result<Lab> {
    Lab::builder(Plane::under_test())
        .rules(rules)
        .config("flows", "revalidate_within = \"1s\"")
        .config("flows", &format!("reprove_every = \"{}s\"", REPROVE_EVERY.as_secs()))
        .build()
}

fn flying(lab: &Lab) -> Result<(udp::Pair, udp::Stream)> {
    let pair = udp_pair(lab, PORT)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    let stream = udp::Stream::start(&pair, Duration::from_millis(2), true)?;
    wait::until_true(wait::PATIENCE, "the stream", || stream.received() > 50)?;
    Ok((pair, stream))
}

/// The stream stops, and comes back, to fly, once what forbade it is gone.
fn stops_and_comes_back(
    lab: &Lab,
    forbid: impl FnOnce() -> Result<()>,
    allow: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (pair, stream) = flying(lab)?;
    forbid()?;
    until_quiet_within(REPROVE_EVERY + GRACE, std::slice::from_ref(&stream))?;
    if let Some(gateway) = lab.flyover() {
        let flow = gateway.flow("udp", pair.source_port())?;
        assert!(flow.as_ref().is_none_or(|flow| !flow.flies()), "{flow:?}");
    }
    let (before, since) = (stream.received(), Instant::now());
    allow()?;
    wait::until_true(wait::PATIENCE, "the stream again", || stream.received() > before + 50)?;
    if let Some(gateway) = lab.flyover() {
        wait::until_true(wait::PATIENCE, "the stream to fly again", || {
            gateway.flow("udp", pair.source_port()).is_ok_and(|flow| flow.is_some_and(|flow| flow.flies()))
        })?;
        measured("it flew again after", since.elapsed());
    }
    Ok(())
}

/// A set that packets fill: by a knock on another port.
#[test]
fn a_packet_puts_an_element_into_a_set() -> Result<()> {
    let lab = lab("
        table inet filter {
          set blocked { type ipv4_addr; flags dynamic,timeout; }
          chain forward {
            type filter hook forward priority filter; policy drop;
            udp dport 9 add @blocked { ip saddr timeout 10m }
            ip saddr @blocked udp dport 5000 drop
            ct state established,related accept
            ct state new accept
          }
        }")?;
    let knock = udp::bind(lab.client(), CLIENT, 0)?;
    stops_and_comes_back(
        &lab,
        || knock.send_to(b"knock", (SERVER, 9)).map(drop).map_err(lab::LabError::io("knock")),
        || lab.gateway().nft("flush set inet filter blocked"),
    )
}

/// Rules of the iptables of old are none of nftables', which alone tells of its changes. The tool (Debian: iptables) is
/// no part of what the other tests need.
#[test]
fn a_legacy_iptables_rule() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|at| at.join("xtables-legacy-multi")).find(|at| at.is_file());
    let Some(tool) = found.as_ref().and_then(|tool: &PathBuf| tool.to_str()) else {
        println!("SKIPPED: there is no xtables-legacy-multi here; apt-get install iptables");
        return Ok(());
    };
    let lab = lab(ROUTED)?;
    let rule = |what: &str| {
        let line = format!("{tool} iptables -w {what} FORWARD -p udp --dport {PORT} -j DROP");
        lab.gateway().run(&line).map(drop)
    };
    stops_and_comes_back(&lab, || rule("-A"), || rule("-D"))
}
