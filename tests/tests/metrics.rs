//! Metrics of a running gateway, as Prometheus gets them.

use lab::change::udp_pair;
use lab::rules::HOME_ROUTER;
use lab::{Lab, Plane, Result, turn, wait};

/// Loopback of the gateway's namespace.
const LISTEN: &str = "127.0.0.1:9477";

/// The value of a sample.
fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn what_is_scraped_is_what_status_shows() -> Result<()> {
    let _turn = turn::take();
    let lab = Lab::builder(Plane::under_test())
        .rules(HOME_ROUTER)
        .config("metrics", &format!("listen = \"{LISTEN}\""))
        .build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    lab.gateway().run("ip link set lo up")?;
    let get = |path: &str| lab.gateway().run(&format!("curl -sS --max-time 20 http://{LISTEN}{path}"));
    wait::until_true(wait::PATIENCE, "the gateway to be well", || {
        get("/healthz").is_ok_and(|answer| answer == "ready\n")
    })?;
    let pair = udp_pair(&lab, 5000)?;
    lab.until_flying("udp", pair.source_port(), || pair.ping(1).map(drop))?;
    (0..50).try_for_each(|token| pair.ping(token).map(drop))?;
    // Other packets, such as those for neighbours, come at any time: between two equal answers there were none.
    wait::until_true(wait::PATIENCE, "both to say the same", || {
        let (Ok(before), Ok(text), Ok(after)) = (gateway.status(), get("/metrics"), gateway.status()) else {
            return false;
        };
        ["fast", "punted", "from_kernel", "dropped"].iter().all(|path| {
            let counter = |status: &lab::status::Status| status.counter(&format!("packets.{path}")).ok();
            let scraped = sample(&text, &format!("flyover_packets_total{{path=\"{path}\"}}"));
            counter(&before) == counter(&after) && scraped == counter(&after).map(|count| count as f64)
        })
    })?;
    let text = get("/metrics")?;
    assert!(sample(&text, "flyover_packets_total{path=\"fast\"}") >= Some(100.0), "{text}");
    assert_eq!(sample(&text, "flyover_ready"), Some(1.0), "{text}");
    let port = sample(&text, "flyover_port_packets_total{port=\"lan0\",direction=\"receive\"}");
    assert!(port >= Some(50.0), "{text}");
    Ok(())
}

#[test]
fn an_address_that_is_taken_is_told_before_anything_changes() -> Result<()> {
    let _turn = turn::take();
    // None of the gateway's addresses.
    let built = Lab::builder(Plane::under_test())
        .rules(HOME_ROUTER)
        .config("metrics", "listen = \"203.0.113.77:9477\"")
        .build();
    if Plane::under_test() == Plane::KernelOnly {
        return Ok(());
    }
    let told = built.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("metrics.listen = \"203.0.113.77:9477\": can't listen there"), "{told}");
    Ok(())
}
