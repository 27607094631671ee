//! SIGKILL under traffic, and a start.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lab::rules::HOME_ROUTER;
use lab::topology::Device;
use lab::{Lab, LabError, Plane, Result, conntrack};

use crate::crowd::Crowd;
use crate::row;

pub(crate) fn measure(connections: u32, rate: u32) -> Result<bool> {
    println!(
        "{connections} UDP connections, {rate} datagrams a second and their answers; on veth, by net_af_packet"
    );
    let mut lab = Lab::builder(Plane::Flyover).device(Device::AfPacket).rules(HOME_ROUTER).quiet().build()?;
    let crowd = Crowd::start(&lab, connections, rate)?;
    let first = crowd.until_flying(&lab, connections)?;
    let before = ids(&lab)?;
    crowd.gaps();
    std::thread::sleep(Duration::from_secs(3));
    let (usual, loss_before) = (crowd.gaps(), crowd.counted());
    let gateway = lab.flyover_mut().ok_or_else(|| LabError::Missing("Flyover".to_owned()))?;
    let killed = Instant::now();
    gateway.kill()?;
    gateway.start()?;
    let ready = killed.elapsed();
    let again = crowd.until_flying(&lab, connections)?;
    std::thread::sleep(Duration::from_secs(1));
    let (gaps, loss_after) = (crowd.gaps(), crowd.counted());
    let after = ids(&lab)?;
    let lost = (loss_after.0 - loss_before.0).saturating_sub(loss_after.1 - loss_before.1);

    println!("\nbefore");
    row("95 of 100 connections fly after, s", seconds(first));
    row("longest time without any datagram, s", seconds(usual.longest));
    row("longest time without one of the same connection, s", seconds(usual.longest_each));
    println!("\nover kill -9 and start");
    row("from SIGKILL until ready, s", seconds(ready));
    row("from ready until 95 of 100 fly again, s", seconds(again));
    row("longest time without any datagram, s", seconds(gaps.longest));
    row("longest time without one of the same connection, s", seconds(gaps.longest_each));
    row("datagrams lost on the way up", lost);
    row("that is, of what was sent from SIGKILL until ready, %", share(lost, rate, ready));
    row(
        "conntrack entries with the same id",
        format!("{} of {}", before.intersection(&after).count(), before.len()),
    );
    Ok(before.is_subset(&after))
}

fn ids(lab: &Lab) -> Result<BTreeSet<u64>> {
    Ok(conntrack::list(lab.gateway())?
        .iter()
        .filter(|entry| entry.original.destination_port == 5000)
        .map(|entry| entry.id)
        .collect())
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

fn share(lost: u64, rate: u32, time: Duration) -> String {
    format!("{:.1}", 100.0 * lost as f64 / (f64::from(rate) * time.as_secs_f64()))
}
