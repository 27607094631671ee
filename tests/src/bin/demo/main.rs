//! `make demo`: real connections carried past the kernel, in network namespaces, in less than two minutes.
#![forbid(unsafe_code)]

mod progress;
mod traffic;

use std::io::Write;
use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::thread;

use lab::rules::SHIPPED;
use lab::tcp::{Pair, Service, Way};
use lab::topology::SERVER;
use lab::{Lab, LabError, Meter, Plane, Result};

use crate::progress::Progress;

/// What the throughput is measured with: some seconds on taps.
const MEASURED_BYTES: u64 = 100_000_000;

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nobody else to tell when this fails.
            let _ = writeln!(std::io::stderr(), "demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<bool> {
    println!("Three namespaces:  client ── lan0 [ gateway ] wan0 ── server");
    println!(
        "The gateway's ruleset: configs/nft/home-router.nft, with masquerade and a port forward; IPv6 is routed"
    );
    println!("Starting Flyover on two net_tap ports, without hugepages and without a NIC ...");
    let lab = Lab::builder(Plane::Flyover).ipv6().rules(SHIPPED).quiet().build()?;
    let gateway = lab.flyover().ok_or_else(|| LabError::Missing("Flyover".to_owned()))?;
    println!(
        "Ready. Files up and down and through the port forward, {} more connections, UDP with and without answers, \
         and IPv6:\n",
        traffic::MANY
    );

    let meter = Meter::start(&lab, gateway)?;
    let carried = thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic::run(&lab));
        let mut progress = Progress::start(gateway)?;
        while !traffic.is_finished() {
            progress.line(gateway)?;
        }
        traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let share = meter.share(&lab, gateway)?;
    let flown = carried.flown(gateway)?;
    let flown6 = carried.flown6(gateway)?;
    let one_way = carried.one_way_share(gateway)?;
    let losses = carried.losses();
    carried.close()?;

    println!("\nMeasuring throughput, one TCP connection down: Flyover, then the kernel alone ...");
    let by_flyover = throughput(&lab)?;
    drop(lab);
    let by_kernel = throughput(&Lab::builder(Plane::KernelOnly).rules(SHIPPED).quiet().build()?)?;

    let well = losses.differing + losses.differing6 == 0 && flown > 0 && flown6 == 2 && one_way > 0.5;
    println!();
    row("connections carried past the kernel", &format!("{flown} of {}", losses.connections));
    row("packets past the kernel, by Flyover's counters", &percent(share.by_flyover()));
    row("packets past the kernel, by the twins' counters", &percent(share.by_kernel()));
    row("files whose SHA-256 is equal", &format!("{} of {}", losses.files - losses.differing, losses.files));
    row("UDP datagrams that arrived", &format!("{} of {}", losses.udp_arrived, losses.udp_sent));
    row(
        "one-way UDP (no answers): datagrams that arrived",
        &format!("{} of {}", losses.one_way_arrived, losses.one_way_sent),
    );
    row("one-way UDP: packets past the kernel", &percent(one_way));
    row("IPv6 connections past the kernel", &format!("{flown6} of 2"));
    row("IPv6: files whose SHA-256 is equal", &format!("{} of 1", 1 - losses.differing6));
    row("IPv6: UDP datagrams that arrived", &format!("{} of {}", losses.udp6_arrived, losses.udp6_sent));
    row("throughput, Flyover on taps (not NICs)", &gigabits(by_flyover));
    row("throughput, kernel alone on veth (not NICs)", &gigabits(by_kernel));
    println!(
        "\nA tap costs Flyover a system call for each packet and side; veth costs the kernel next to nothing.\n\
         These two show that the path works, not how fast it is: that takes a NIC that DPDK drives."
    );
    if !well {
        println!("\nThis is not as it should be: see above.");
    }
    Ok(well)
}

/// What one TCP connection carries down, in bits per second.
fn throughput(lab: &Lab) -> Result<f64> {
    let service = Service::listen(lab.server(), SERVER, 4000)?;
    let pair = Pair::open(lab.client(), None, SocketAddrV4::new(SERVER, 4000), &service)?;
    lab.until_flying("tcp", pair.source_port(), || pair.ping(1))?;
    let transfer = pair.transfer(Way::Down, MEASURED_BYTES)?;
    Ok(transfer.rate())
}

fn row(what: &str, value: &str) {
    println!("  {what:<50} {value:>16}");
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn gigabits(rate: f64) -> String {
    format!("{:.2} Gbit/s", rate / 1e9)
}
