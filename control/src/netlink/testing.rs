//! Network namespaces for tests: one a test, gone with the thread that made it.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network namespace of its own, where commands that it starts run too.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            panic!("this test needs a network namespace, hence root (CAP_SYS_ADMIN): {error}");
        }
        run("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command, words separated by spaces, and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| {
        panic!("this test needs '{program}' (iproute2, nftables, conntrack): {error}")
    });
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "'{command}' failed: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Repeats `done` until it is true, for five seconds at most.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
