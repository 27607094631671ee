//! Where the way to the kernel is too crowded for flows to prove themselves in time after a change, policy wins.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::change::{GRACE, REVALIDATE_WITHIN, lab, udp_pair};
use lab::raw::{self, Wire};
use lab::rules::ROUTED;
use lab::topology::{CLIENT, HOST_INTERFACE, SERVER};
use lab::{Result, turn, udp, wait};

/// [`ROUTED`] with so many rules that the kernel needs some milliseconds for each packet.
fn slow_rules() -> String {
    let mut rules = "flush ruleset\ntable inet filter {\n  chain forward {\n    \
                     type filter hook forward priority filter; policy drop;\n"
        .to_owned();
    for port in 0..20_000_u32 {
        // Writing to a string can't fail.
        let _ = writeln!(rules, "    tcp dport {} drop", port % 1000 + 1);
    }
    rules + "    ct state established,related accept\n    ct state new accept\n  }\n}\n"
}

/// Few packets a second pass a slow ruleset, and far more come of connections that nobody knows. The flows of before go
/// back to the kernel by the deadline, `status` says how many, and all is well when the crowd has gone.
#[test]
fn flows_that_find_no_room_go_back_and_status_says_so() -> Result<()> {
    const STREAMS: u16 = 40;
    let _turn = turn::take();
    let lab = lab(ROUTED).build()?;
    lab.gateway().nft(&slow_rules())?;
    let pairs = (0..STREAMS).map(|n| udp_pair(&lab, 5000 + n)).collect::<Result<Vec<_>>>()?;
    for pair in &pairs {
        lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    }
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    let streams = pairs
        .iter()
        .map(|pair| udp::Stream::start(pair, Duration::from_millis(20), false))
        .collect::<Result<Vec<_>>>()?;
    assert_eq!(
        gateway.status()?.0.pointer("/revalidation"),
        Some(&serde_json::json!({"missed": 0, "last_missed_s": null}))
    );
    assert!(!gateway.ask(&["status"])?.contains("no room on the way"));

    let wire = Wire::open(lab.client(), HOST_INTERFACE)?;
    let to_gateway = raw::mac(lab.gateway(), "lan0")?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let frame =
                |port: u16| raw::udp_frame((wire.mac, to_gateway), (CLIENT, port), (SERVER, 9), b"crowd");
            let frames: Vec<_> = (1..=1000).filter_map(|port| frame(port).ok()).collect();
            while !stop.load(Ordering::Relaxed) {
                // A wire that is full takes no more for the moment.
                let _ = frames.iter().try_for_each(|frame| wire.send(frame));
            }
        });
        let outcome = (|| {
            wait::until_true(wait::PATIENCE, "the crowd", || {
                gateway
                    .status()
                    .is_ok_and(|s| s.counter("dropped_by_reason.punt_ring_full").is_ok_and(|n| n > 0))
            })?;
            lab.gateway().nft("add table inet other")?;
            wait::until_true(REVALIDATE_WITHIN + GRACE, "directions to miss their deadline", || {
                gateway.status().is_ok_and(|s| s.counter("revalidation.missed").is_ok_and(|n| n > 0))
            })
        })();
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    let status = gateway.status()?;
    let last = status.0.pointer("/revalidation/last_missed_s").and_then(serde_json::Value::as_f64);
    assert!(last.is_some_and(|seconds| seconds < 60.0), "{status:?}");
    let told = gateway.ask(&["status"])?;
    assert!(
        told.contains("had no room on the way to the kernel to prove themselves within 1s of a change"),
        "{told}"
    );
    // Without the crowd they fly again, rules and all.
    wait::until_true(wait::PATIENCE, "all streams to fly again", || {
        gateway.flows().is_ok_and(|flows| {
            let up = |flow: &&lab::status::Flow| flow.flies() && flow.protocol() == "udp";
            flows.iter().filter(up).count() >= usize::from(STREAMS)
        })
    })?;
    drop(streams);
    Ok(())
}
