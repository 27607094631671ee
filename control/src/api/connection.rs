//! One client of the API server: a request at a time, one reply in memory.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use dataplane::flow::{FiveTuple, TCP, UDP};
use mio::net::UnixStream;
use serde::Serialize;

use super::capture::CaptureRequest;
use super::protocol::{self, MAX_PAGE, MAX_REQUEST, Reply, Request};
use super::server::Handler;

/// Steps (a request, or a read) that a client gets before others have their turn.
const STEPS: usize = 16;

/// What is to be done with a client after its turn.
pub(super) enum Next {
    /// Nothing until its socket is ready.
    Wait,
    /// It has more to do: another turn, after the others.
    Again,
    /// Close it.
    Close,
    /// It wants packets: hand it over.
    Capture(CaptureRequest),
}

/// What a step has led to.
enum Step {
    On,
    Done,
    Capture(CaptureRequest),
}

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// The client sends no more.
    ended: bool,
    /// To be closed when the output is out.
    closing: bool,
    last_active: Instant,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        let last_active = Instant::now();
        Self { stream, input, output, sent: 0, ended: false, closing: false, last_active }
    }

    pub(super) fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Nothing waits to be written: the next request is taken only then.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    pub(super) fn last_active(&self) -> Instant {
        self.last_active
    }

    /// Goes on where the client was. The next request is taken only when the last reply is out, so that a
    /// client that doesn't read holds one reply and no more.
    pub(super) fn drive(&mut self, handler: &dyn Handler) -> Next {
        for _ in 0..STEPS {
            match self.step(handler) {
                Ok(Step::On) => {}
                Ok(Step::Done) => return Next::Close,
                Ok(Step::Capture(request)) => return Next::Capture(request),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Next::Close,
            }
        }
        Next::Again
    }

    fn step(&mut self, handler: &dyn Handler) -> io::Result<Step> {
        self.flush()?;
        if self.closing {
            return Ok(Step::Done);
        }
        if let Some(line) = self.take_line() {
            if !line.iter().all(u8::is_ascii_whitespace) {
                match answer(&line, handler) {
                    Answer::Reply(reply) => self.output = reply,
                    Answer::Capture(request) => return Ok(Step::Capture(request)),
                }
            }
            return Ok(Step::On);
        }
        if self.input.len() >= MAX_REQUEST {
            self.output = error(format!("a request has at most {MAX_REQUEST} bytes"));
            self.closing = true;
            return Ok(Step::On);
        }
        if self.ended {
            return Ok(Step::Done);
        }
        let mut buffer = [0; MAX_REQUEST];
        let room = MAX_REQUEST - self.input.len();
        let length = self.stream.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
        self.ended = length == 0;
        self.last_active = Instant::now();
        Ok(Step::On)
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                length => self.sent += length,
            }
            self.last_active = Instant::now();
        }
        self.output = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// The next request without its newline; what a client sent last needs none.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.input.drain(..=end).collect();
            line.pop();
            return Some(line);
        }
        (self.ended && !self.input.is_empty()).then(|| std::mem::take(&mut self.input))
    }
}

enum Answer {
    Reply(Vec<u8>),
    Capture(CaptureRequest),
}

fn answer(line: &[u8], handler: &dyn Handler) -> Answer {
    Answer::Reply(match protocol::request(line) {
        Ok(Request::Capture(request)) => return Answer::Capture(request),
        Ok(Request::Status {}) => ok(handler.status()),
        Ok(Request::Ports {}) => ok(handler.ports()),
        Ok(Request::Stats {}) => ok(handler.stats()),
        Ok(Request::Flows { limit: 0, .. }) => error("limit must be at least 1".to_owned()),
        Ok(Request::Flows { cursor, limit, filter }) => {
            ok(handler.flows(cursor, limit.min(MAX_PAGE), &filter))
        }
        Ok(Request::Explain { proto, src, dst }) => match tuple(&proto, src, dst) {
            Ok(tuple) => ok(handler.explain(&tuple)),
            Err(message) => error(message),
        },
        Ok(Request::Events { after, limit }) => ok(handler.events(after, limit.min(MAX_PAGE))),
        Ok(Request::Hardware {}) => ok(handler.hardware()),
        Ok(Request::Rules { proto, src, dst }) => match tuple(&proto, src, dst) {
            Ok(tuple) => ok(handler.rules(&tuple)),
            Err(message) => error(message),
        },
        Ok(Request::Reload { check, partial }) => handler.reload(check, partial).map_or_else(error, ok),
        Ok(Request::Reloaded { number }) => handler.reloaded(number).map_or_else(error, ok),
        Err(message) => error(message),
    })
}

fn tuple(proto: &str, src: SocketAddr, dst: SocketAddr) -> Result<FiveTuple, String> {
    let proto = match proto {
        "tcp" => TCP,
        "udp" => UDP,
        other => return Err(format!("{other}: the protocol must be tcp or udp")),
    };
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(format!("{src} and {dst} are of different address families"));
    }
    Ok(FiveTuple { proto, src: src.ip(), dst: dst.ip(), sport: src.port(), dport: dst.port() })
}

fn ok<T: Serialize>(document: T) -> Vec<u8> {
    protocol::line(&Reply::Ok(document))
}

fn error(message: String) -> Vec<u8> {
    protocol::line(&Reply::<()>::Error(message))
}
