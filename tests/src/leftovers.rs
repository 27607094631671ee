//! What laboratories leave when they are killed, and who takes it away.
//!
//! The names of namespaces and directories begin with the id of the process that made them: what belongs to a
//! dead process is deleted by the next laboratory, and a signal makes a process delete its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

use crate::{LabError, Result};

/// Where `ip netns` keeps the names of namespaces.
pub(crate) const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "flylab";

/// What the names of this process's namespaces and directories begin with.
pub(crate) fn prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// A directory that goes away when it is dropped, or when its process is killed.
///
/// # Errors
/// When it can't be made.
pub fn directory() -> Result<TempDir> {
    sweep_once();
    tempfile::Builder::new().prefix(&prefix()).tempdir().map_err(LabError::io("make a directory"))
}

/// Deletes a namespace.
pub(crate) fn delete_namespace(name: &str) {
    // Nothing to be done about a failure; the next run's sweep tries again.
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// Deletes what dead laboratories have left, and sees to it that a signal leaves nothing.
pub(crate) fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        sweep(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                sweep(|owner| owner == std::process::id());
                // Children die with their threads.
                std::process::exit(128 + signal);
            }
        });
    });
}

/// Deletes what belongs to the processes that are `meant`.
fn sweep(meant: impl Fn(u32) -> bool) {
    for path in owned(Path::new(NAMESPACES), &meant) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            delete_namespace(name);
        }
    }
    for path in owned(&std::env::temp_dir(), &meant) {
        // It may be another user's.
        let _ = std::fs::remove_dir_all(path);
    }
}

fn owned(directory: &Path, meant: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let owner = |path: &Path| path.file_name().and_then(|name| name.to_str()).and_then(owner_of);
    entries.map(|entry| entry.path()).filter(|path| owner(path).is_some_and(&meant)).collect()
}

fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(owner_of(&format!("{}3-gw", prefix())), Some(std::process::id()));
        assert_eq!(owner_of("flylab12-x"), Some(12));
        for other in ["flylab", "flylabX-1", "flylab12", "home"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
