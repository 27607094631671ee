//! A TCP connection that gets back what it sends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::args::Args;
use crate::{Outcome, PATIENCE, pattern};

const CHUNK: usize = 32 * 1024;
const WARM_EVERY: Duration = Duration::from_millis(20);

/// Connects, warms up, sends all bytes while checking what comes back, and closes. Prints a line.
pub(crate) fn run(args: &Args) -> Outcome<bool> {
    let pattern = pattern();
    let mut stream = connect(args)?;
    let warm_until = Instant::now() + args.warm;
    let mut warmed = 0;
    while Instant::now() < warm_until {
        let message = pattern.get(..100).unwrap_or_default();
        let mut answer = vec![0; message.len()];
        stream.write_all(message)?;
        stream.read_exact(&mut answer)?;
        if answer != message {
            return Err("a small message came back damaged".into());
        }
        warmed += 1;
        thread::sleep(WARM_EVERY);
    }
    let started = Instant::now();
    let mut writer = stream.try_clone()?;
    let bytes = args.bytes;
    let source = pattern.clone();
    let sender = thread::spawn(move || send(&mut writer, &source, bytes));
    receive(&mut stream, &pattern, bytes)?;
    sender.join().map_err(|_| "the sender panicked")??;
    let elapsed = started.elapsed();
    if args.reset {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    } else {
        stream.shutdown(Shutdown::Write)?;
        if stream.read(&mut [0; 1])? != 0 {
            return Err("more came back than was sent".into());
        }
    }
    println!("ok bytes={bytes} warmed={warmed} seconds={:.1}", elapsed.as_secs_f64());
    Ok(true)
}

fn connect(args: &Args) -> Outcome<TcpStream> {
    let (domain, any) = match args.server.is_ipv4() {
        true => (Domain::IPV4, "0.0.0.0"),
        false => (Domain::IPV6, "::"),
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if args.tos != 0 {
        match args.server.is_ipv4() {
            true => socket.set_tos_v4(args.tos)?,
            false => socket.set_tclass_v6(args.tos)?,
        }
    }
    if args.source != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&std::net::SocketAddr::new(any.parse()?, args.source).into())?;
    }
    socket.connect_timeout(&args.server.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn send(stream: &mut TcpStream, pattern: &[u8], bytes: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let from = (done % pattern.len() as u64) as usize;
        let rest = pattern.get(from..).unwrap_or_default();
        let most = usize::try_from(bytes - done).unwrap_or(CHUNK).min(CHUNK);
        let chunk = rest.get(..most).unwrap_or(rest);
        stream.write_all(chunk)?;
        done += chunk.len() as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, pattern: &[u8], bytes: u64) -> Outcome<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0_u64;
    while done < bytes {
        let length = stream.read(&mut buffer).map_err(|e| format!("after {done} of {bytes} bytes: {e}"))?;
        if length == 0 {
            return Err(format!("closed after {done} of {bytes} bytes").into());
        }
        let from = (done % pattern.len() as u64) as usize;
        let expected = pattern.iter().cycle().skip(from);
        if buffer.iter().take(length).zip(expected).any(|(got, sent)| got != sent) {
            return Err(format!("damaged within {length} bytes after byte {done}").into());
        }
        done += length as u64;
    }
    Ok(())
}
