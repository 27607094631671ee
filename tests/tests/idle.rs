//! A gateway at rest does not burn a core.

use std::thread;
use std::time::{Duration, Instant};

use lab::rules::HOME_ROUTER;
use lab::{Lab, Plane, Result};

#[test]
fn at_rest_less_than_three_percent_of_a_core() -> Result<()> {
    const MEASURE: Duration = Duration::from_secs(5);
    const LOOKS: u32 = 6;
    let lab = Lab::builder(Plane::under_test()).rules(HOME_ROUTER).build()?;
    let Some(gateway) = lab.flyover() else { return Ok(()) };
    // Start-up and the first ARP exchange are no rest.
    thread::sleep(Duration::from_secs(2));
    let process = gateway.process()?;
    // What else runs on the machine, and shares its caches and its host, makes each wake-up dearer: the quietest look counts.
    // A gateway that burns a core does so at each of them.
    let mut least = f64::INFINITY;
    for _ in 0..LOOKS {
        let (before, started) = (process.cpu_ticks()?, Instant::now());
        thread::sleep(MEASURE);
        let ticks = process.cpu_ticks()? - before;
        least = least.min(ticks as f64 / (started.elapsed().as_secs_f64() * 100.0));
        println!("{:.1} % of a core at least", least * 100.0);
        if least < 0.03 {
            return Ok(());
        }
    }
    panic!("{:.1} % of a core", least * 100.0);
}
