//! Network namespaces of a test's own, without names and gone with it.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

/// Runs the test binary again inside a user namespace, where an ordinary user may make network namespaces and taps.
/// Gives whether the caller is that other run, or privileged itself, and so has to do the work.
pub(crate) fn privileged(test: &str) -> bool {
    if geteuid().is_root() {
        return true;
    }
    let exe = env::current_exe().expect("path of the test binary");
    let status = Command::new("unshare")
        .arg("-Urn")
        .arg(exe)
        .args(["--exact", test, "--nocapture"])
        .arg0("unshare")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{test} in a user namespace: {status}");
    false
}

/// A network namespace that lives as long as this.
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        let ns = Self(made.join().expect("thread"));
        ns.ip("link set lo up");
        ns
    }

    /// Runs something inside.
    pub(crate) fn run<R: Send>(&self, call: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enters the namespace");
                call()
            });
            inside.join().expect("thread")
        })
    }

    /// Runs `ip` inside and gives what it printed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run(|| ip(arguments))
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Runs `ip` in the thread's namespace and gives what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of the interfaces of the thread's namespace.
pub(crate) fn interfaces() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").expect("the device table");
    table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Polls until something is there, or a deadline has passed.
pub(crate) fn wait_for<T>(within: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(there) = poll() {
            return Some(there);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
