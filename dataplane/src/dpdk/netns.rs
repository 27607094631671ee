//! Doing something in another network namespace.

use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Where `ip netns add NAME` puts a namespace.
const NAMED: &str = "/var/run/netns";

/// A network namespace, kept open.
#[derive(Debug)]
pub(super) struct Netns(File);

impl Netns {
    /// Opens a namespace by its path, or, where there is no slash in it, by the name that `ip netns` knows.
    pub(super) fn open(path_or_name: &Path) -> io::Result<Self> {
        let is_path = path_or_name.as_os_str().as_encoded_bytes().contains(&b'/');
        let path: PathBuf = if is_path { path_or_name.into() } else { Path::new(NAMED).join(path_or_name) };
        File::open(path).map(Self)
    }
}

/// Runs `call` in a namespace, or right here if there is none.
///
/// A thread that ends afterwards enters the namespace. So the caller's own never changes, and there is no way back that
/// might fail.
pub(super) fn within<R: Send>(netns: Option<&Netns>, call: impl FnOnce() -> R + Send) -> io::Result<R> {
    let Some(Netns(file)) = netns else { return Ok(call()) };
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            Ok(call())
        })?;
        visitor.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
