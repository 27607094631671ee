//! What a flow record costs the control thread, without and with sending.
//!
//! `cargo run --release --package flyover --example ipfix_cost`

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

use control::ipfix::{Accounts, Exporter, ExporterConfig, Moment};
use control::tracker::{Account, Carried, DirectionAccount};
use dataplane::flow::{FiveTuple, UDP};

const CONNECTIONS: u32 = 1_000_000;
const ROUNDS: u64 = 11;

fn account(index: u32, packets: u64) -> Account {
    let [client, server, gateway] = [0x0a00_0000 | index, 0xc000_0201, 0xc633_6401].map(Ipv4Addr::from);
    let orig = FiveTuple { proto: UDP, src: client.into(), dst: server.into(), sport: 4000, dport: 53 };
    let reply = FiveTuple { proto: UDP, src: server.into(), dst: gateway.into(), sport: 53, dport: 4000 };
    let carried = [Carried { packets, bytes: packets * 114, header: 14 }, Carried::default()];
    let direction = |tuple| DirectionAccount { tuple, carried, last_seen: 1, ports: Some((0, 1)) };
    Account { index, id: index, born: 1, orig: direction(orig), reply: direction(reply) }
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// Nanoseconds a record of `CONNECTIONS` that have all carried something; `send` gets every message.
fn measure(mut send: impl FnMut(&[u8])) -> f64 {
    let mut accounts = Accounts::new(60_000);
    let mut exporter = Exporter::new(ExporterConfig {
        domain: 1,
        process: 1,
        message_size: 1400,
        template_interval: 60_000,
        nat_events: false,
    });
    let round = |round: u64| {
        let moment = Moment { now: round * 60_000, unix_ms: round * 60_000 };
        let started = Instant::now();
        for index in 0..CONNECTIONS {
            if let Some(record) = accounts.interim(moment, &account(index, round), |port| port.into()) {
                exporter.flow(moment, &record);
            }
            while let Some(message) = exporter.next() {
                send(message);
                exporter.sent(moment.now);
            }
        }
        started.elapsed().as_nanos() as f64 / f64::from(CONNECTIONS)
    };
    median((1..=ROUNDS).map(round).collect())
}

fn main() -> std::io::Result<()> {
    // Nobody reads: what finds no room is dropped by the kernel, at the same cost to the sender.
    let collector = UdpSocket::bind("127.0.0.1:0")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let to = collector.local_addr()?;
    let made = measure(|message| {
        std::hint::black_box(message);
    });
    let sent = measure(|message| drop(socket.send_to(message, to)));
    println!(
        "{CONNECTIONS} connections, {ROUNDS} rounds, median: {made:.0} ns a record, {sent:.0} ns sent over loopback"
    );
    Ok(())
}
