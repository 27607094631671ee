//! A gateway at rest does not burn a core.

use std::thread;
use std::time::{Duration, Instant};

use lab::rules::HOME_ROUTER;
use lab::{Lab, Plane, Result};

#[test]
fn at_rest_less_than_three_percent_of_a_core() -> Result<()> {
    const MEASURE: Duration = Duration::from_secs(5);
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    // Start-up and the first ARP exchange are no rest.
    thread::sleep(Duration::from_secs(2));
    let process = gateway.process()?;
    let (before, started) = (process.cpu_ticks()?, Instant::now());
    thread::sleep(MEASURE);
    let ticks = process.cpu_ticks()? - before;
    let share = ticks as f64 / (started.elapsed().as_secs_f64() * 100.0);
    println!("{:.1} % of a core", share * 100.0);
    assert!(share < 0.03, "{:.1} % of a core", share * 100.0);
    Ok(())
}
