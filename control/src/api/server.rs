//! The serving side, for the control thread's mio loop: it never blocks and holds little.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::flow::FiveTuple;
use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::capture::{CaptureHead, CaptureRequest};
use super::connection::{Connection, Next};
use super::events::EventPage;
use super::explanation::Explanation;
use super::hardware::{DirectionRules, PortHardware};
use super::protocol::{self, FlowFilter, FlowPage, Reply};
use super::reload::ReloadState;
use super::types::{PortStatus, Stats, Status};

/// Most clients at a time; one more takes the place of the one that has been silent longest.
pub const MAX_CLIENTS: usize = 32;
/// Connections that the kernel queues before it makes clients wait.
const BACKLOG: i32 = 16;
/// How long another starter may take between looking at a socket and taking its place.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What the gateway answers. Called on the control thread: each call takes well below a millisecond.
pub trait Handler {
    /// The gateway at a glance.
    fn status(&self) -> Status;
    /// Ports, in the order of the configuration.
    fn ports(&self) -> Vec<PortStatus>;
    /// Counters.
    fn stats(&self) -> Stats;
    /// At most `limit` flows from `cursor` on that match. May give fewer, even none, and a `next`, so that
    /// a filter that matches little doesn't hold the control thread; flows that come and go between two
    /// pages may be missed, none that stays is given twice or missed.
    fn flows(&self, cursor: u64, limit: usize, filter: &FlowFilter) -> FlowPage;
    /// Where the connection with this tuple is, and why.
    fn explain(&self, tuple: &FiveTuple) -> Explanation;
    /// At most `limit` events after the one with this number.
    fn events(&self, after: u64, limit: usize) -> EventPage;
    /// What ports' hardware can do, and does.
    fn hardware(&self) -> Vec<PortHardware>;
    /// The rules of the connection with this tuple, by direction; none if there is no such connection.
    fn rules(&self, tuple: &FiveTuple) -> Vec<DirectionRules>;
    /// Takes the order to read the configuration again, which is done later.
    ///
    /// # Errors
    /// Why it can't be.
    fn reload(&self, check: bool, partial: bool) -> Result<ReloadState, String>;
    /// What has become of the order with this number.
    ///
    /// # Errors
    /// When nobody knows any more.
    fn reloaded(&self, number: u64) -> Result<ReloadState, String>;
}

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another instance listens.
    #[error("{}: socket in use by a running flyover; stop it, or choose another with --socket PATH", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{}: exists and is not a socket; remove it, or choose another path with --socket PATH", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: can't make the API socket: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// The API socket and its clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, so that only this one is removed.
    identity: Option<(u64, u64)>,
    first_token: usize,
    connections: Vec<Option<Connection>>,
    captures: Vec<CaptureClient>,
}

/// A client that wants packets, and is served elsewhere from here on.
#[derive(Debug)]
pub struct CaptureClient {
    /// What it wants.
    pub request: CaptureRequest,
    /// The connection, on which nothing was written yet.
    stream: std::os::unix::net::UnixStream,
}

impl CaptureClient {
    /// Says why not, and ends the connection.
    pub fn refuse(mut self, why: String) {
        // Whoever does not even take a line need not know.
        let _ = self.stream.write_all(&protocol::line(&Reply::<()>::Error(why)));
    }

    /// Says what is to come; gives the connection, on which records follow. It blocks from here on.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn begin(mut self, head: &CaptureHead) -> io::Result<std::os::unix::net::UnixStream> {
        self.stream.write_all(&protocol::line(&Reply::Ok(head)))?;
        self.stream.set_nonblocking(false)?;
        Ok(self.stream)
    }

    /// The process that asks, as the kernel knows it.
    pub fn process(&self) -> Option<i32> {
        let peer = nix::sys::socket::getsockopt(&self.stream, nix::sys::socket::sockopt::PeerCredentials);
        peer.ok().map(|peer| peer.pid())
    }
}

impl Server {
    /// Listens at `path` with mode 0660. Refuses if somebody listens there; takes the place of a socket that
    /// a dead process left behind.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |error| BindError::Io { path: path.to_owned(), error };
        let _lock = lock_directory(path).map_err(failed)?;
        make_room(path)?;
        let listener = listen(path).map_err(failed)?;
        let identity = fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let connections = std::iter::repeat_with(|| None).take(MAX_CLIENTS).collect();
        let captures = Vec::new();
        Ok(Self { listener, path: path.to_owned(), identity, first_token: 0, connections, captures })
    }

    /// Enters the listener into a poll. The server uses the tokens `first..first + 1 + MAX_CLIENTS`.
    pub fn register(&mut self, registry: &Registry, first: usize) -> io::Result<()> {
        self.first_token = first;
        registry.register(&mut self.listener, Token(first), Interest::READABLE)
    }

    /// The tokens whose events are for [`Self::handle`].
    pub fn tokens(&self) -> Range<usize> {
        self.first_token..self.first_token + 1 + MAX_CLIENTS
    }

    /// Does what an event asks for, without blocking. Failures concern one client and close it.
    pub fn handle(&mut self, registry: &Registry, token: Token, handler: &dyn Handler) {
        if token.0 == self.first_token {
            self.accept(registry, handler);
        } else if let Some(index) = token.0.checked_sub(self.first_token + 1) {
            self.drive(registry, index, handler);
        }
    }

    /// Clients that want packets since this was asked last.
    pub fn captures(&mut self) -> Vec<CaptureClient> {
        std::mem::take(&mut self.captures)
    }

    /// Clients at present.
    pub fn clients(&self) -> usize {
        self.connections.iter().flatten().count()
    }

    fn accept(&mut self, registry: &Registry, handler: &dyn Handler) {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "API: can't accept a client");
                    return;
                }
            };
            let index = self.free_slot();
            let token = Token(self.first_token + 1 + index);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = registry.register(&mut stream, token, interest) {
                tracing::warn!(%error, "API: can't poll a client");
                continue;
            }
            if let Some(slot) = self.connections.get_mut(index) {
                *slot = Some(Connection::new(stream));
            }
            self.drive(registry, index, handler);
        }
    }

    /// A free slot, or that of the client that has been silent longest.
    fn free_slot(&mut self) -> usize {
        let since = |slot: &Option<Connection>| slot.as_ref().map(Connection::last_active);
        let oldest = self.connections.iter().enumerate().min_by_key(|(_, slot)| since(slot));
        oldest.map_or(0, |(index, _)| index)
    }

    fn drive(&mut self, registry: &Registry, index: usize, handler: &dyn Handler) {
        let Some(slot) = self.connections.get_mut(index) else { return };
        let Some(connection) = slot else { return };
        let token = Token(self.first_token + 1 + index);
        match connection.drive(handler) {
            Next::Wait => {}
            // Registering again makes epoll report the socket once more: other events get their turn first.
            // One with many answers unread isn't writable to epoll: it is reported when the client reads.
            Next::Again => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                if registry.reregister(connection.stream(), token, interest).is_err() {
                    *slot = None;
                }
            }
            // Closing the descriptor takes it out of the poll.
            Next::Close => *slot = None,
            Next::Capture(request) => {
                let Some(mut stream) = slot.take().map(Connection::into_stream) else { return };
                if registry.deregister(&mut stream).is_ok() {
                    self.captures.push(CaptureClient { request, stream: OwnedFd::from(stream).into() });
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok().map(|meta| (meta.dev(), meta.ino()));
        if now.is_some() && now == self.identity {
            // Nothing is lost if it stays: the next start takes a dead socket's place.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes starters take turns, so that two don't both find the same dead socket. Leaves no file behind.
fn lock_directory(path: &Path) -> io::Result<Flock<File>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = File::open(directory.unwrap_or(Path::new(".")))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, nix::Error::EWOULDBLOCK)) if Instant::now() < deadline => file = again,
            Err((_, error)) => return Err(error.into()),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Removes a dead socket; refuses if it lives, or if it is none.
fn make_room(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Io { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // Non-blocking: a gateway whose backlog is full is alive, and must not hang its successor.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(BindError::InUse { path: path.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Nobody can connect before the mode is set: that takes a socket that listens.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from_std(OwnedFd::from(socket).into()))
}
