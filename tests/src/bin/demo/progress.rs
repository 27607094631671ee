//! A line a second of what Flyover does.

use std::thread;
use std::time::{Duration, Instant};

use lab::{Gateway, Result};

/// What the last line was made of.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    last: Sample,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    fast: u64,
    punted: u64,
    cpu_ticks: u64,
}

impl Progress {
    /// Takes the first sample and prints the heading.
    pub(crate) fn start(gateway: &Gateway) -> Result<Self> {
        println!(
            "{:>6}  {:>7}  {:>9}  {:>16}  {:>12}  {:>7}",
            "time", "flying", "candidate", "past the kernel", "through it", "CPU"
        );
        Ok(Self { started: Instant::now(), last: Sample::take(gateway)? })
    }

    /// Waits a second and prints a line.
    pub(crate) fn line(&mut self, gateway: &Gateway) -> Result<()> {
        thread::sleep(Duration::from_secs(1));
        let now = Sample::take(gateway)?;
        let status = gateway.status()?;
        let seconds = (now.at - self.last.at).as_secs_f64();
        let rate = |count: u64| count as f64 / seconds;
        println!(
            "{:>4} s  {:>7}  {:>9}  {:>10.0} pkt/s  {:>6.0} pkt/s  {:>5.0} %",
            self.started.elapsed().as_secs(),
            status.counter("flows.software")?
                + status.counter("flows.probing")?
                + status.counter("flows.hardware")?,
            status.counter("flows.candidate")?,
            rate(now.fast - self.last.fast),
            rate(now.punted - self.last.punted),
            // A tick is a hundredth of a second: ticks a second are per cent of a core.
            rate(now.cpu_ticks - self.last.cpu_ticks),
        );
        self.last = now;
        Ok(())
    }
}

impl Sample {
    fn take(gateway: &Gateway) -> Result<Self> {
        let status = gateway.status()?;
        Ok(Self {
            at: Instant::now(),
            fast: status.counter("packets.fast")? + status.counter("packets.hardware")?,
            punted: status.counter("packets.punted")?,
            cpu_ticks: gateway.process()?.cpu_ticks()?,
        })
    }
}
