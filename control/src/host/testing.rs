//! A made-up machine: files in a temporary directory, programs that print what a test says.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Host, System};

/// What the kernel does when something is written, after the write.
type Reaction = Box<dyn Fn(&Machine, &str, &str)>;

/// A machine in a temporary directory.
pub(crate) struct Machine {
    directory: tempfile::TempDir,
    programs: RefCell<HashMap<String, Result<String, String>>>,
    refused: RefCell<Vec<String>>,
    /// Every write, as path and text.
    pub(crate) writes: RefCell<Vec<(String, String)>>,
    /// Every program that was run.
    pub(crate) ran: RefCell<Vec<String>>,
    reaction: RefCell<Option<Reaction>>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("temporary directory"),
            programs: RefCell::default(),
            refused: RefCell::default(),
            writes: RefCell::default(),
            ran: RefCell::default(),
            reaction: RefCell::default(),
        }
    }

    pub(crate) fn host(&self) -> Host<'_> {
        Host::new(self.directory.path(), self)
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, text).expect("file");
    }

    pub(crate) fn directory(&self, path: &str) {
        fs::create_dir_all(self.directory.path().join(path)).expect("directories");
    }

    /// A link in place of whatever was there.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        let _ = fs::remove_file(&path);
        symlink(target, path).expect("link");
    }

    pub(crate) fn remove(&self, path: &str) {
        let path = self.directory.path().join(path);
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What a command line prints from now on.
    pub(crate) fn prints(&self, line: &str, text: &str) {
        self.programs.borrow_mut().insert(line.to_owned(), Ok(text.to_owned()));
    }

    /// Writing this file fails from now on.
    pub(crate) fn refuses(&self, path: &str) {
        self.refused.borrow_mut().push(path.to_owned());
    }

    /// What happens when a file is written or, as `run COMMAND...`, when a program is run.
    pub(crate) fn reacts(&self, reaction: impl Fn(&Self, &str, &str) + 'static) {
        *self.reaction.borrow_mut() = Some(Box::new(reaction));
    }

    fn react(&self, what: &str, text: &str) {
        if let Some(reaction) = self.reaction.borrow().as_ref() {
            reaction(self, what, text);
        }
    }
}

impl System for Machine {
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let line = words.join(" ");
        self.ran.borrow_mut().push(line.clone());
        self.react("run", &line);
        let programs = self.programs.borrow();
        programs.get(&line).cloned().unwrap_or_else(|| Err(format!("{line}: not here")))
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let name = path.strip_prefix(self.directory.path()).expect("under the root").display().to_string();
        if self.refused.borrow().contains(&name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        fs::File::options().write(true).open(path)?;
        fs::write(path, text)?;
        self.writes.borrow_mut().push((name.clone(), text.to_owned()));
        self.react(&name, text);
        Ok(())
    }

    fn index_of(&self, interface: &str) -> Option<u32> {
        self.directory.path().join(format!("sys/class/net/{interface}")).exists().then_some(7)
    }
}
