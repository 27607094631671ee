//! Datagrams, one after the other, each of which must come back as it was sent.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::args::Args;
use crate::{Outcome, pattern};

/// How long an answer may take: a lost one is counted, and the next one sent.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
const WARM_EVERY: Duration = Duration::from_millis(20);
/// Sequence number at the start of each datagram.
const HEADER: usize = 4;

/// Warms up with small datagrams, then sends `count` of `size` bytes; prints what became of them.
pub(crate) fn run(args: &Args) -> Outcome<bool> {
    let any = if args.server.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let socket = UdpSocket::bind(format!("{any}:{}", args.source))?;
    socket.connect(args.server)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    if args.tos != 0 {
        match args.server.is_ipv4() {
            true => SockRef::from(&socket).set_tos_v4(args.tos)?,
            false => SockRef::from(&socket).set_tclass_v6(args.tos)?,
        }
    }
    let pattern = pattern();
    let mut sequence = 0_u32;
    let mut talk = |size: usize| {
        let mut datagram = sequence.to_be_bytes().to_vec();
        datagram.extend(pattern.iter().cycle().take(size.saturating_sub(HEADER)));
        sequence += 1;
        exchange(&socket, &datagram)
    };
    let warm_until = Instant::now() + args.warm;
    while Instant::now() < warm_until {
        talk(64)?;
        thread::sleep(WARM_EVERY);
    }
    let (mut echoed, mut damaged) = (0, 0);
    for _ in 0..args.count {
        match talk(args.size)? {
            Answer::Same => echoed += 1,
            Answer::Damaged => damaged += 1,
            Answer::None => {}
        }
    }
    println!("sent={} echoed={echoed} damaged={damaged}", args.count);
    Ok(echoed == args.count)
}

enum Answer {
    Same,
    Damaged,
    None,
}

fn exchange(socket: &UdpSocket, datagram: &[u8]) -> Outcome<Answer> {
    // Refused for its size, or by an ICMP error for the one before: it's lost, as on the wire.
    if socket.send(datagram).is_err() {
        thread::sleep(WARM_EVERY);
        return Ok(Answer::None);
    }
    let mut answer = vec![0; datagram.len() + 1];
    let until = Instant::now() + ANSWER_WITHIN;
    while Instant::now() < until {
        match socket.recv(&mut answer) {
            Ok(length) if answer.get(..length) == Some(datagram) => return Ok(Answer::Same),
            // An answer that came too late for its own turn.
            Ok(length) if answer.get(..HEADER) != datagram.get(..HEADER) && length >= HEADER => {}
            Ok(_) => return Ok(Answer::Damaged),
            Err(_) => return Ok(Answer::None),
        }
    }
    Ok(Answer::None)
}
