//! Datagrams as fast as they come back: always a window of them on the way, each checked, and their order too.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::{Outcome, pattern};

/// Without an answer for so long what was on the way is lost.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// Sequence number at the start of each datagram.
const HEADER: usize = 4;

/// Sends `count` datagrams of `size` bytes, `window` at a time; prints what became of them.
pub(crate) fn run(args: &Args) -> Outcome<bool> {
    let any = if args.server.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let socket = UdpSocket::bind(format!("{any}:{}", args.source))?;
    socket.connect(args.server)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    let filling: Vec<u8> = pattern().into_iter().cycle().take(args.size.saturating_sub(HEADER)).collect();
    let (mut sent, mut outstanding) = (0_u32, 0_u32);
    let (mut echoed, mut damaged, mut overtaken) = (0_u32, 0_u32, 0_u32);
    let mut last = None;
    let mut answer = vec![0; args.size + 1];
    let started = Instant::now();
    while sent < args.count || outstanding > 0 {
        while sent < args.count && outstanding < args.window {
            let mut datagram = sent.to_be_bytes().to_vec();
            datagram.extend_from_slice(&filling);
            // Refused for an ICMP error of an earlier one: lost, as on the wire.
            if socket.send(&datagram).is_ok() {
                outstanding += 1;
            }
            sent += 1;
        }
        let Ok(length) = socket.recv(&mut answer) else {
            outstanding = 0;
            continue;
        };
        outstanding = outstanding.saturating_sub(1);
        let Some((sequence, rest)) = answer.get(..length).and_then(|all| all.split_first_chunk::<HEADER>())
        else {
            damaged += 1;
            continue;
        };
        if rest == filling {
            echoed += 1;
        } else {
            damaged += 1;
        }
        let sequence = u32::from_be_bytes(*sequence);
        overtaken += u32::from(last.is_some_and(|last| sequence < last));
        last = Some(sequence);
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("sent={sent} echoed={echoed} damaged={damaged} overtaken={overtaken} seconds={seconds:.2}");
    Ok(echoed == args.count && damaged == 0 && overtaken == 0)
}
