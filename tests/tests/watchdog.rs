//! The service manager's watchdog is fed while all threads of the dataplane go on, and only then.

use std::time::Duration;

use lab::process::Held;
use lab::status::Status;
use lab::{Gateway, Lab, Plane, Result, turn, wait};

const FED: &str = "WATCHDOG=1";
const WITHIN: Duration = Duration::from_secs(2);

fn told(gateway: &mut Gateway, line: impl Fn(&str) -> bool) -> usize {
    gateway.service().map_or(0, |service| service.told().iter().filter(|told| line(told)).count())
}

fn notices(status: &Status) -> Vec<String> {
    let notices = status.0.get("notices").and_then(|notices| notices.as_array());
    notices.into_iter().flatten().filter_map(|notice| Some(notice.as_str()?.to_owned())).collect()
}

/// Fed at rest, when all threads sleep for as long as they may.
#[test]
fn a_thread_that_stands_still_starves_the_watchdog_and_is_named() -> Result<()> {
    let _turn = turn::take();
    let mut lab = Lab::builder(Plane::under_test()).config("workers", "idle_sleep = \"400ms\"").build()?;
    let Some(gateway) = lab.flyover_mut() else { return Ok(()) };
    gateway.stop()?;
    gateway.serve_with_watchdog(WITHIN)?;
    gateway.start()?;
    wait::until_true(wait::PATIENCE, "the watchdog to be fed five times", || {
        told(gateway, |line| line == FED) >= 5
    })?;
    assert_eq!(told(gateway, |line| line.starts_with("STATUS=")), 0, "no thread was late");

    for (thread, called) in [("worker-", "the worker on core"), ("punt", "the punt thread")] {
        let held = Held::hold(gateway.process()?, thread)?;
        let complaint = format!("STATUS={called}");
        wait::until_true(wait::PATIENCE, &complaint, || told(gateway, |l| l.starts_with(&complaint)) == 1)?;
        let before = told(gateway, |line| line == FED);
        // Longer than a service manager would have waited.
        wait::until_true(wait::PATIENCE, "a notice of some seconds", || {
            let notices = gateway.status().map(|status| notices(&status)).unwrap_or_default();
            let begins = |text: &String| text.starts_with(called);
            let lasts = |text: &String| (4..9).any(|s| text.contains(&format!("no round for {s} s")));
            notices.iter().any(|text| begins(text) && lasts(text))
        })?;
        assert_eq!(told(gateway, |line| line == FED), before, "{called} stands still");
        let events = gateway.ask(&["events", "--level", "error"])?;
        assert!(events.contains(called), "{events}");

        drop(held);
        wait::until_true(wait::PATIENCE, "the watchdog to be fed again", || {
            told(gateway, |line| line == FED) > before
        })?;
        assert!(told(gateway, |line| line == "STATUS=") >= 1, "told that it is over");
        let left = notices(&gateway.status()?);
        assert!(!left.iter().any(|text| text.starts_with(called)), "{left:?}");
    }
    gateway.stop()?;
    Ok(())
}
