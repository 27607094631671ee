//! The asking side: blocking, with a timeout.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::capture::{Record, What};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use socket2::{Domain, SockAddr, Socket, Type};

use super::capture::{CaptureHead, CaptureRequest};
use super::protocol::{MAX_REPLY, Reply, Request};

/// How long a gateway may take for any step of an answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no gateway is running at {}: {error}; start one with `flyover run -c FILE`, \
         or name the socket of another with --socket PATH", path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The socket's mode doesn't let this user in.
    #[error("{}: permission denied; ask as root or as a member of the socket's group", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The gateway takes too long.
    #[error("{}: no answer within {} s: the gateway is overloaded or stopped", path.display(), TIMEOUT.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("{}: the connection to the gateway broke: {error}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The answer isn't what this version expects.
    #[error("{}: can't read the gateway's answer: {error}; is it another version of flyover?", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What doesn't fit.
        error: serde_json::Error,
    },
    /// Records of packets aren't what this version expects.
    #[error("{}: the gateway is another version of flyover: restart it, or use its own flyover", path.display())]
    OtherVersion {
        /// The socket.
        path: PathBuf,
    },
    /// The gateway refuses the request.
    #[error("the gateway refuses: {0}")]
    Refused(String),
}

impl ClientError {
    /// Whether it may go away by itself: the gateway is started again, or has less to do.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::Broken { .. } | Self::Timeout { .. })
    }
}

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the gateway that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = connect(path).map_err(|error| fault(path, error))?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks and gives the answer as the gateway wrote it.
    pub fn ask_raw(&mut self, request: &Request) -> Result<Box<RawValue>, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.garbled(error))?;
        line.push(b'\n');
        let answer = self.exchange(&line).map_err(|error| fault(&self.path, error))?;
        match serde_json::from_slice(&answer).map_err(|error| self.garbled(error))? {
            Reply::Ok(document) => Ok(document),
            Reply::Error(message) => Err(ClientError::Refused(message)),
        }
    }

    /// Asks and reads the answer.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let document = self.ask_raw(request)?;
        self.read(&document)
    }

    /// Reads an answer, or a part of one.
    pub fn read<T: DeserializeOwned>(&self, document: &RawValue) -> Result<T, ClientError> {
        serde_json::from_str(document.get()).map_err(|error| self.garbled(error))
    }

    /// Asks for packets; gives what the gateway says of them, and where they come from.
    pub fn capture(mut self, request: CaptureRequest) -> Result<(CaptureHead, RecordStream), ClientError> {
        let head = self.ask(&Request::Capture(request))?;
        let Self { path, stream } = self;
        stream.get_ref().set_read_timeout(Some(PACE)).map_err(|error| fault(&path, error))?;
        Ok((head, RecordStream { path, stream, buffer: Vec::new(), at: 0 }))
    }

    fn exchange(&mut self, line: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.get_mut().write_all(line)?;
        let mut answer = Vec::new();
        self.stream.by_ref().take(MAX_REPLY).read_until(b'\n', &mut answer)?;
        if answer.last() == Some(&b'\n') { Ok(answer) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn garbled(&self, error: serde_json::Error) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), error }
    }
}

/// How long one wait for a record lasts.
const PACE: Duration = Duration::from_millis(50);

/// Records of packets, as they come.
#[derive(Debug)]
pub struct RecordStream {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    /// What has come; taken up to `at`.
    buffer: Vec<u8>,
    at: usize,
}

/// What has come.
#[derive(Debug)]
pub enum Told<'a> {
    /// A record.
    Record(Record<'a>),
    /// Nothing for a moment.
    Nothing,
    /// No more will.
    End,
}

impl RecordStream {
    /// The next record, which is waited for a moment.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no record.
    pub fn told(&mut self) -> Result<Told<'_>, ClientError> {
        loop {
            let waiting = self.buffer.get(self.at..).unwrap_or_default();
            match Record::read(waiting) {
                Err(_) => return Err(ClientError::OtherVersion { path: self.path.clone() }),
                // Read once more below: the borrow may not outlive this turn.
                Ok(Some((_, len))) => {
                    let from = self.at;
                    self.at += len;
                    let record = self.buffer.get(from..).map(Record::read);
                    return Ok(match record {
                        Some(Ok(Some((record, _)))) if record.what != What::End => Told::Record(record),
                        _ => Told::End,
                    });
                }
                Ok(None) => {}
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.stream.fill_buf() {
                // The gateway says so when it ends well.
                Ok([]) => return Err(fault(&self.path, ErrorKind::UnexpectedEof.into())),
                Ok(more) => {
                    self.buffer.extend_from_slice(more);
                    let len = more.len();
                    self.stream.consume(len);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(Told::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(fault(&self.path, error)),
            }
        }
    }

    /// Asks for the end: what is under way still comes.
    pub fn finish(&self) {
        // A gateway that is gone has ended already.
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }
}

/// With a send timeout a connect doesn't wait for ever on a full backlog either (unix(7)).
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

fn fault(path: &Path, error: io::Error) -> ClientError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
            ClientError::NotRunning { path, error }
        }
        ErrorKind::PermissionDenied => ClientError::Denied { path },
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout { path },
        _ => ClientError::Broken { path, error },
    }
}
