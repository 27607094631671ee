//! Network namespaces that go away with the laboratory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

use crate::leftovers::{self, NAMESPACES};
use crate::process::{Process, mortal};
use crate::{LabError, Result};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace under `/run/netns`, with a thread that lives in it. Deleted with its last clone.
///
/// Sockets, threads and children that this thread makes are in the namespace, and stay there.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes a namespace whose name ends in `role`, with loopback up and IPv6 off, so that nothing but what a
    /// test sends is on the wire.
    ///
    /// # Errors
    /// When `ip netns add` fails, which it does without CAP_SYS_ADMIN.
    pub fn new(role: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        leftovers::sweep_once();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}-{role}", leftovers::prefix());
        checked("ip netns add", Command::new("ip").args(["netns", "add", &name]).output())?;
        let (jobs, queue) = channel::<Job>();
        let (entered_tx, entered) = channel();
        let path = Path::new(NAMESPACES).join(&name);
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let result = File::open(&path)
                    .and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
                let inside = result.is_ok();
                if entered_tx.send(result).is_ok() && inside {
                    queue.into_iter().for_each(|job| job());
                }
            })
            .map_err(LabError::io("start a thread"))?;
        // Made before anything else can fail, so that the namespace is deleted then too.
        let namespace = Self(Arc::new(Inner { name: name.clone(), jobs: Some(jobs), thread: Some(thread) }));
        entered
            .recv()
            .map_err(|_| LabError::Missing(format!("the thread of {name}")))?
            .map_err(LabError::io(format!("enter {name}")))?;
        namespace.run("ip link set lo up")?;
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        Ok(namespace)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a closure inside, on the namespace's own thread: keep it short.
    ///
    /// # Panics
    /// When the closure does.
    pub fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result_tx, result) = channel();
        let job: Job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            // The receiver waits below.
            let _ = result_tx.send(result);
        });
        let sent = self.0.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        assert!(sent, "the thread of {} has ended", self.0.name);
        match result.recv() {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => panic!("the thread of {} has ended", self.0.name),
        }
    }

    /// Starts a thread inside.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.inside(move || thread::spawn(job))
    }

    /// Runs a command line, split at spaces, and returns its output.
    ///
    /// # Errors
    /// When it can't be started or ends with an error.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.output(line)?;
        checked(line, Ok(output))
    }

    /// Runs a command line, split at spaces, however it ends.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn output(&self, line: &str) -> Result<Output> {
        let mut words = line.split_whitespace();
        let mut command = mortal(words.next().unwrap_or_default());
        command.args(words);
        self.command(line, command)
    }

    /// Runs a prepared command, however it ends.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn command(&self, what: &str, mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.inside(move || command.spawn()).map_err(LabError::io(what))?;
        child.wait_with_output().map_err(LabError::io(what))
    }

    /// Runs a command line, split at spaces, with `input` on its standard input.
    ///
    /// # Errors
    /// When it can't be started or ends with an error.
    pub fn feed(&self, line: &str, input: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = mortal(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.inside(move || command.spawn()).map_err(LabError::io(line))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(LabError::io(format!("write to {line}")))?;
        }
        checked(line, child.wait_with_output())
    }

    /// Loads an nft ruleset or a batch of nft commands, as one transaction.
    ///
    /// # Errors
    /// When nft refuses it.
    pub fn nft(&self, batch: &str) -> Result<()> {
        self.feed("nft -f -", batch).map(drop)
    }

    /// Sets a sysctl of this namespace. Its name may be written with dots.
    ///
    /// # Errors
    /// When the kernel has no such sysctl or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let (what, value) = (format!("set {name} to {value}"), value.to_owned());
        self.inside(move || std::fs::write(path, value)).map_err(LabError::io(what))
    }

    /// Starts a process inside that dies with this namespace's thread.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, name: &str, command: Command, directory: &Path) -> Result<Process> {
        let (name, directory) = (name.to_owned(), directory.to_owned());
        self.inside(move || Process::start(&name, command, &directory))
    }

    /// The names of the interfaces inside.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let text = self.run("ip -o link show")?;
        let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
        Ok(text.lines().filter_map(name).collect())
    }

    /// Whether an interface of this name exists inside.
    pub fn has_interface(&self, name: &str) -> bool {
        self.interfaces().is_ok_and(|names| names.iter().any(|other| other == name))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The channel's end ends the thread, whose end kills its children.
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        leftovers::delete_namespace(&self.name);
    }
}

fn checked(what: &str, output: io::Result<Output>) -> Result<String> {
    let output = output.map_err(LabError::io(what))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Command {
        command: what.to_owned(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
