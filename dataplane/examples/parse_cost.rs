//! Counts what parsing and rewriting cost: run it twice under `valgrind --tool=callgrind` with different
//! numbers of rounds, and the difference is the cost of the rounds.
//!
//! `valgrind --tool=callgrind target/release/examples/parse_cost LANE STAGE ROUNDS`, where LANE is `udp4`,
//! `tcp4`, `udp6`, `tcp6` or `vlan4`, and STAGE is `none` (the loop alone), `parse` or `rewrite`.

use std::hint::black_box;
use std::process::ExitCode;

use dataplane::flow::Key;
use dataplane::packet::{Rewrite4, Rewrite6, checksum, parse};

/// A frame with a right IP header checksum.
fn frame(lane: &str) -> Option<Vec<u8>> {
    let v4 = lane.ends_with('4');
    let (proto, l4): (u8, Vec<u8>) = if lane.starts_with("tcp") {
        (6, [[3, 232, 0, 80], [0; 4], [0, 0, 0, 9], [0x50, 0x10, 2, 0], [1, 2, 0, 0]].concat())
    } else {
        (17, [[3, 232, 0, 53], [0, 26, 1, 2]].concat())
    };
    let l4 = [l4, vec![7; if proto == 6 { 6 } else { 18 }]].concat();
    let length = if v4 { 20 + l4.len() } else { l4.len() } as u8;
    let mut ip = if v4 {
        vec![0x45, 0, 0, length, 0, 1, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 1, 192, 0, 2, 2]
    } else {
        let mut ip = vec![0x60, 0, 0, 0, 0, length, proto, 64];
        for last in [1, 2] {
            ip.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        ip
    };
    if v4 {
        let check = checksum::compute(&ip);
        ip[10..12].copy_from_slice(&check.to_ne_bytes());
    }
    let ether_type: &[u8] = match lane {
        "udp4" | "tcp4" => &[8, 0],
        "udp6" | "tcp6" => &[0x86, 0xdd],
        "vlan4" => &[0x81, 0, 0, 5, 8, 0],
        _ => return None,
    };
    Some([&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], ether_type, &ip, &l4].concat())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lane, stage, rounds] = arguments.as_slice() else { return ExitCode::from(2) };
    let (Some(frame), Ok(rounds)) = (frame(lane), rounds.parse::<usize>()) else { return ExitCode::from(2) };
    let Ok(mut headers) = parse(&frame, 1) else { return ExitCode::FAILURE };
    let l3 = usize::from(headers.l3);
    let (parses, rewrites) = (stage == "parse", stage == "rewrite");
    let rewrite4 = Rewrite4 { src: 1, dst: 2, ports: 3, ip_delta: 4, l4_delta: 5, decrement_ttl: true };
    let rewrite6 = Rewrite6 { src: [1; 2], dst: [2; 2], ports: 3, l4_delta: 5, decrement_ttl: true };
    let mut template = frame;
    for _ in 0..rounds {
        let frame: &mut [u8] = black_box(&mut template);
        if parses {
            if let Ok(parsed) = parse(frame, 1) {
                headers = parsed;
            }
            black_box(&mut headers);
        }
        if rewrites {
            let done = match headers.key {
                Key::V4(_) => black_box(&rewrite4).apply(&mut frame[l3..]),
                Key::V6(_) => black_box(&rewrite6).apply(&mut frame[l3..]),
            };
            black_box(done);
        }
    }
    ExitCode::SUCCESS
}
