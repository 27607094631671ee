//! What a NIC's PMD does with frames: `guest-nic PCI-ADDRESS PEER NETNS`, where the NIC is bound to vfio-pci, and the
//! kernel's interface PEER in the named network namespace is at the other end of its wire.
//!
//! Prints a line a fact: `ok` and `FAILED` for what must be so, `note` for what differs from NIC to NIC.
#![forbid(unsafe_code)]

mod bench;
mod frames;
mod rules;

use std::error::Error;
use std::process::ExitCode;

use bench::{Bench, Got};
use frames::{Frame, Spoilt};
use lab::report::{self, Report};

const BROADCAST: [u8; 6] = [0xff; 6];
const GROUP: [u8; 6] = [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03];
const STRANGER: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0x01];
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0xff, 0x02];
const FLOWS: u16 = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [nic, peer, netns] = words.as_slice() else {
        println!("FAILED: usage: guest-nic PCI-ADDRESS PEER NETNS");
        return ExitCode::from(2);
    };
    report::exit(run(nic, peer, netns))
}

fn run(nic: &str, peer: &str, netns: &str) -> Result<bool, Box<dyn Error>> {
    let mut report = Report::default();
    let mut bench = Bench::open(nic, peer, netns)?;
    let info = bench.nic().info()?;
    report.note("driver", &info.driver);
    report.note("queues", &format!("{} receive, {} transmit", info.max_rx_queues, info.max_tx_queues));
    report.note("MTU", &format!("{} to {}", info.min_mtu, info.max_mtu));
    report.note("receive offloads", &info.rx_offloads.join(" "));
    report.note("transmit offloads", &info.tx_offloads.join(" "));
    report.note("RSS", if info.rss { "yes" } else { "no" });
    addresses(&mut report, &mut bench)?;
    contents(&mut report, &mut bench)?;
    spreading(&mut report, &mut bench)?;
    rules::rules(&mut report, &mut bench)?;
    Ok(report.well)
}

/// Whose frames are heard.
fn addresses(report: &mut Report, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let own = bench.nic().mac()?;
    report.must("hears its own address", bench.heard(own, own)?);
    report.must("hears broadcasts", bench.heard(BROADCAST, own)?);
    report.must("does not hear a stranger's address", !bench.heard(STRANGER, own)?);
    bench.nic().set_promiscuous(true)?;
    report.must("does when promiscuous", bench.heard(STRANGER, own)?);
    bench.nic().set_promiscuous(false)?;
    report.must("does not any more", !bench.heard(STRANGER, own)?);
    let strange_group = bench.heard(GROUP, own)?;
    report.note("a group that nobody asked for", if strange_group { "is heard" } else { "is not heard" });
    match bench.nic().set_allmulticast(true) {
        Ok(()) => report.must("hears any group when told to", bench.heard(GROUP, own)?),
        Err(error) => report.note("all groups", &error.to_string()),
    }
    match bench.nic().set_mac(OTHER) {
        Ok(()) => {
            report.must("hears a new address", bench.heard(OTHER, OTHER)?);
            report.must("and its old one no more", !bench.heard(own, OTHER)?);
            bench.nic().set_mac(own)?;
            report.must("hears its old address again", bench.heard(own, own)?);
        }
        Err(error) => report.note("another address", &error.to_string()),
    }
    Ok(())
}

/// What a frame is like when it arrives.
fn contents(report: &mut Report, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let own = bench.nic().mac()?;
    let plain = Frame::to(own);
    for (name, frame) in [
        ("UDP", plain.udp(1, 300)?),
        ("TCP", plain.tcp(2, 300)?),
        ("UDP over IPv6", plain.udp6(3, 300)?),
        ("the shortest frame", plain.udp(4, 0)?),
        ("the longest frame", plain.udp(5, 1472)?),
        ("a VLAN tag", plain.vlan(6, 300)?),
        ("two VLAN tags", plain.two_vlans(7, 300)?),
    ] {
        let got = bench.one(&frame)?;
        report.must(&format!("{name} arrives byte for byte"), got.as_ref().is_some_and(|got| got.is(&frame)));
        if let Some(got) = got {
            report.must(&format!("{name} is not called bad"), !got.ip_bad && !got.l4_bad);
        }
        let back = bench.back(&frame)?;
        report.must(&format!("{name} leaves byte for byte"), back);
    }
    let verdict = |got: Option<Got>| match got {
        None => "dropped by the NIC",
        Some(got) if got.ip_bad => "called bad (IP)",
        Some(got) if got.l4_bad => "called bad (L4)",
        Some(_) => "not noticed",
    };
    let ip = bench.one(&plain.spoilt(Spoilt::Ip)?)?;
    report.note("a wrong IPv4 header checksum is", verdict(ip));
    let l4 = bench.one(&plain.spoilt(Spoilt::L4)?)?;
    report.note("a wrong UDP checksum is", verdict(l4));
    Ok(())
}

/// How flows are spread over queues.
fn spreading(report: &mut Report, bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    if bench.queues() < 2 {
        report.note("several receive queues", "none");
        return Ok(());
    }
    let frames = flows(bench)?;
    let (first, second) = (bench.all(&frames)?, bench.all(&frames)?);
    let of = |got: &[Got], queue| got.iter().filter(|got| got.queue == queue).count();
    report.must("all flows arrive", first.len() == frames.len() && second.len() == frames.len());
    report.note("flows by queue", &format!("{} and {}", of(&first, 0), of(&first, 1)));
    let hashes = first.iter().filter(|got| got.hash.is_some()).count();
    report.note("packets with the hash", &format!("{hashes} of {}", first.len()));
    let same = |got: &Got| second.iter().any(|other| other.bytes == got.bytes && other.queue == got.queue);
    report.must("a flow stays on its queue", first.iter().all(same));
    Ok(())
}

/// A frame of each of many flows.
fn flows(bench: &Bench) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let plain = Frame::to(bench.nic().mac()?);
    (0..FLOWS).map(|flow| plain.udp(100 + flow, 60)).collect()
}

/// How many of these flows come in by each queue.
fn spread(bench: &mut Bench) -> Result<Vec<usize>, Box<dyn Error>> {
    let frames = flows(bench)?;
    let got = bench.all(&frames)?;
    let of = |queue: usize| got.iter().filter(|got| usize::from(got.queue) == queue).count();
    Ok((0..bench.queues()).map(of).collect())
}
