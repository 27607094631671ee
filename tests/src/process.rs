//! Child processes that never outlive the laboratory.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{LabError, Result, wait};

/// A command that the kernel kills when the thread that started it ends.
///
/// `setpriv` sets PR_SET_PDEATHSIG and then becomes the program, so the process id stays the same.
pub fn mortal(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program.as_ref());
    command
}

/// A running child, killed when dropped. Its output goes to files.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Process {
    /// Starts `command` in the calling thread's namespace, writing its output to `NAME.out` and `NAME.err` in
    /// `directory`.
    ///
    /// # Errors
    /// When the files or the process can't be made.
    pub(crate) fn start(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let output = directory.join(format!("{name}.out"));
        let errors = directory.join(format!("{name}.err"));
        let create =
            |path: &Path| File::create(path).map_err(LabError::io(format!("create {}", path.display())));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&output)?)
            .stderr(create(&errors)?)
            .spawn()
            .map_err(LabError::io(format!("start {name}")))?;
        Ok(Self { name: name.to_owned(), child, output, errors })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone and has been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(|_| LabError::Missing("a process id".to_owned()))?;
        kill(Pid::from_raw(pid), signal)
            .map_err(io::Error::from)
            .map_err(LabError::io(format!("send {signal} to {}", self.name)))
    }

    /// The exit status, if the process has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it has not after `deadline`; it runs on.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait::until(deadline, &what, || self.child.try_wait().ok().flatten())
    }

    /// What the process has written to standard output so far.
    pub fn output(&self) -> String {
        read_lossy(&self.output)
    }

    /// What the process has written to standard error so far.
    pub fn errors(&self) -> String {
        read_lossy(&self.errors)
    }

    /// The user and system time that the process and its threads have used, in clock ticks (1/100 s).
    ///
    /// # Errors
    /// When /proc has no such process.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.id());
        let stat = std::fs::read_to_string(&path).map_err(LabError::io(format!("read {path}")))?;
        // The command's name may hold spaces and parentheses: count from behind the last one, where `state` stands.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let mut field = || fields.next().and_then(|text| text.parse::<u64>().ok());
        match (field(), field()) {
            (Some(user), Some(system)) => Ok(user + system),
            _ => Err(LabError::Shape { what: path, text: stat }),
        }
    }
}

/// A thread of a process that stands still while the others go on, until dropped. To be dropped by the thread that made it.
#[derive(Debug)]
pub struct Held(Pid);

impl Held {
    /// Holds the first thread whose name begins with this.
    ///
    /// # Errors
    /// When there is none, or the kernel does not let it be traced.
    pub fn hold(process: &Process, name: &str) -> Result<Self> {
        let tasks = format!("/proc/{}/task", process.id());
        let of_name = |entry: std::fs::DirEntry| {
            let found = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            found.starts_with(name).then(|| Pid::from_raw(id))
        };
        let entries = std::fs::read_dir(&tasks).map_err(LabError::io(format!("read {tasks}")))?;
        let thread = entries.flatten().find_map(of_name);
        let thread = thread.ok_or_else(|| LabError::Missing(format!("a thread {name} in {tasks}")))?;
        let failed = |error: Errno| LabError::io(format!("hold the thread {name}"))(error.into());
        ptrace::attach(thread).map_err(failed)?;
        let held = Self(thread);
        waitpid(thread, Some(WaitPidFlag::__WALL)).map_err(failed)?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Fails only when it is gone.
        let _ = ptrace::detach(self.0, None);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only when the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
