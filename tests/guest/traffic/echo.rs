//! The service: sends back what it gets, over TCP and UDP, on every address.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Outcome, PATIENCE};

const CHUNK: usize = 64 * 1024;

/// Serves until killed. Says so on standard output when it listens.
pub(crate) fn serve(port: Option<String>) -> Outcome<bool> {
    let port: u16 = port.ok_or("serve at which port?")?.parse()?;
    let listener = TcpListener::from(bound(Type::STREAM, Protocol::TCP, port)?);
    let datagrams = UdpSocket::from(bound(Type::DGRAM, Protocol::UDP, port)?);
    println!("listening");
    thread::spawn(move || echo_datagrams(&datagrams));
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            // The client sees it when this fails.
            let _ = echo_stream(stream);
        });
    }
    Ok(true)
}

/// A socket for IPv6 and IPv4 alike.
fn bound(kind: Type, protocol: Protocol, port: u16) -> Outcome<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
    if kind == Type::STREAM {
        socket.listen(64)?;
    }
    Ok(socket)
}

fn echo_stream(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(3 * PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; CHUNK];
    loop {
        // An ICMP error for an earlier answer shows up here; the next datagram is not concerned.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
        }
    }
}
