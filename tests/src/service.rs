//! What systemd does for a service of type notify with `FileDescriptorStoreMax=`, as far as Flyover uses it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::process::mortal;
use crate::{LabError, Result};

/// The most descriptors of one message (SCM_MAX_FD is 253).
const DESCRIPTORS: usize = 16;
/// Descriptors that are passed on lie above those that the service finds them at.
const ABOVE: i32 = 100;

/// A service manager with a descriptor store.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
    stored: BTreeMap<String, OwnedFd>,
    told: Vec<String>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Listens in this directory.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn listen(directory: &Path) -> Result<Self> {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).map_err(LabError::io(format!("bind {}", path.display())))?;
        socket.set_nonblocking(true).map_err(LabError::io("set a socket non-blocking".to_owned()))?;
        Ok(Self { socket, path, stored: BTreeMap::new(), told: Vec::new(), watchdog: None })
    }

    /// Hears what the service has said since.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn hear(&mut self) -> Result<()> {
        loop {
            let mut text = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut text)];
            let len = match recvmsg(&self.socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message.bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(LabError::io("hear the service".to_owned())(error.into())),
            };
            let descriptors: Vec<OwnedFd> = ancillary
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default()).into_owned();
            self.take(&text, descriptors);
        }
    }

    fn take(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored").to_owned();
        if value("FDSTORE") == Some("1") {
            self.stored.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
        }
        if value("FDSTOREREMOVE") == Some("1") {
            self.stored.remove(&name);
        }
        self.told.extend(text.lines().map(str::to_owned));
    }

    /// The names of what is stored.
    pub fn stored(&self) -> Vec<&str> {
        self.stored.keys().map(String::as_str).collect()
    }

    /// All lines that the service has said.
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// From the next start on, the service is to say that it lives, as `WatchdogSec=` has it.
    pub fn set_watchdog(&mut self, within: Duration) {
        self.watchdog = Some(within);
    }

    /// Starts `program` as the service: with the socket, and with what is stored from descriptor 3 on. `sh` becomes the
    /// program, so that the process id stays the same.
    ///
    /// # Errors
    /// When a descriptor can't be passed on. They are open until the second value is dropped.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<(Command, Vec<OwnedFd>)> {
        let failed = |error: rustix::io::Errno| LabError::io("pass a descriptor on".to_owned())(error.into());
        let mut script = String::new();
        let mut passed = Vec::new();
        for (place, descriptor) in self.stored.values().enumerate() {
            let copy = fcntl_dupfd_cloexec(descriptor, ABOVE).map_err(failed)?;
            fcntl_setfd(&copy, FdFlags::empty()).map_err(failed)?;
            script.push_str(&format!("exec {}<&{1} {1}<&-; ", place + 3, copy.as_raw_fd()));
            passed.push(copy);
        }
        script.push_str("export LISTEN_PID=$$; exec \"$0\" \"$@\"");
        let mut command = mortal("bash");
        command.arg("-c").arg(script).arg(program.as_ref());
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", self.stored.len().to_string());
        command.env("LISTEN_FDNAMES", self.stored().join(":"));
        if let Some(within) = self.watchdog {
            command.env("WATCHDOG_USEC", within.as_micros().to_string());
        }
        Ok((command, passed))
    }
}
