//! The machine as files under a root and the programs that it runs, so that tests can make one up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[cfg(test)]
pub(crate) mod testing;

/// What the machine does when it is told to.
pub trait System {
    /// Runs a program and gives what it prints; else what it says of its failure.
    fn run(&self, words: &[&str]) -> Result<String, String>;
    /// Writes to a file that is there.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
    /// The index of an interface in this process's network namespace.
    fn index_of(&self, interface: &str) -> Option<u32>;
}

/// A machine.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    root: &'a Path,
    system: &'a dyn System,
}

impl Host<'static> {
    /// This machine.
    pub fn this() -> Self {
        Self { root: Path::new("/"), system: &This }
    }
}

/// Paths are relative to the root: `sys/class/net`.
impl<'a> Host<'a> {
    /// A machine under another root.
    pub fn new(root: &'a Path, system: &'a dyn System) -> Self {
        Self { root, system }
    }

    /// Where a file is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Whether a file or directory is there.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// What a file says, without blanks around it.
    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// The number in a file.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// What a file holds that is not all text, such as an environment.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// The last part of where a link leads: a device's driver, its IOMMU group.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// What is in a directory, in order.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Writes to a file that is there.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        self.system.write(&self.path(path), text)
    }

    /// Runs a program and gives what it prints; else what it says of its failure.
    pub fn run(&self, words: &[&str]) -> Result<String, String> {
        self.system.run(words)
    }

    /// The index of an interface in this process's network namespace.
    pub fn index_of(&self, interface: &str) -> Option<u32> {
        self.system.index_of(interface)
    }
}

struct This;

impl System for This {
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let Some((program, arguments)) = words.split_first() else { return Err("nothing to run".to_owned()) };
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return String::from_utf8(output.stdout).map_err(|error| format!("{program}: {error}"));
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(if said.is_empty() { format!("{program}: {}", output.status) } else { said })
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // Not created: what is not there is no setting.
        let mut file = fs::File::options().write(true).open(path)?;
        io::Write::write_all(&mut file, text.as_bytes())
    }

    fn index_of(&self, interface: &str) -> Option<u32> {
        nix::net::if_::if_nametoindex(interface).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_why() {
        let host = Host::this();
        assert_eq!(host.run(&["echo", "a", "b"]).as_deref(), Ok("a b\n"));
        let error = host.run(&["/nonexistent/program"]).expect_err("no program");
        assert!(error.starts_with("/nonexistent/program: No such file"), "{error}");
        let error = host.run(&["ls", "/nonexistent/file"]).expect_err("no file");
        assert!(error.contains("/nonexistent/file"), "{error}");
        assert!(host.run(&["false"]).expect_err("fails").contains("exit status: 1"));
    }

    #[test]
    fn writing_creates_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let host = Host { root: directory.path(), ..Host::this() };
        assert!(host.write("setting", "1").is_err());
        assert!(!host.has("setting"));
        fs::write(host.path("setting"), "0\n").expect("file");
        host.write("setting", "1").expect("written");
        assert_eq!(host.number("setting"), Some(1));
    }
}
