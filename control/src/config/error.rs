//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The first fault of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub problem: Box<Problem>,
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file as a whole.
    File(PathBuf),
    /// At a line and column of a file, both from 1, columns in characters.
    Line {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// In a `--port` option.
    PortOption(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Line { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::PortOption(option) => write!(f, "--port {option}"),
        }
    }
}

/// A fault, with what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file can't be read.
    #[error("can't read the configuration: {error}{}", read_hint(.error))]
    Read {
        /// What the system said.
        error: io::Error,
    },
    /// The file is longer than any configuration.
    #[error("longer than {limit} bytes: not a configuration")]
    TooLong {
        /// The limit in bytes.
        limit: u64,
    },
    /// The file isn't text.
    #[error("not UTF-8 text")]
    NotText,
    /// Not TOML.
    #[error("bad TOML: {message}")]
    Syntax {
        /// What the parser said.
        message: String,
    },
    /// A key that doesn't exist.
    #[error("unknown key `{key}`{}{}; the keys here are {}", within(.table), meant(.near), valid.join(", "))]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// The header of its table as it was written, if it is in one.
        table: Option<String>,
        /// The valid key that looks most like it.
        near: Option<String>,
        /// All valid keys.
        valid: Vec<String>,
    },
    /// A key that must be there.
    #[error("`{key}` is missing{}: {right}", within(.table))]
    Missing {
        /// The key.
        key: String,
        /// The header of its table.
        table: Option<String>,
        /// What to write.
        right: String,
    },
    /// A value of another type than the key takes.
    #[error("{}{found}, but {expected} is needed", of_key(.key))]
    WrongType {
        /// The key, where it could be told.
        key: Option<String>,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// A value that can't be right.
    #[error("{key} = {value}: {right}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value as it was written.
        value: String,
        /// What would be right.
        right: String,
    },
    /// A value that will mean something in a later version.
    #[error("{key} = {value} isn't supported by this version: {right}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// The value as it was written.
        value: String,
        /// What to do instead.
        right: String,
    },
    /// Something that must be unique is there twice.
    #[error("{key} = {value}: {first} has it already; {right}")]
    Duplicate {
        /// The key.
        key: &'static str,
        /// The value as it was written.
        value: String,
        /// Where it was first.
        first: String,
        /// Why it must be unique, or what to do.
        right: &'static str,
    },
    /// No port at all.
    #[error("no port: a gateway needs at least one [[port]] with a name and a device")]
    NoPort,
    /// More ports than there can be.
    #[error("{count} ports: a gateway has {most} at the most")]
    TooManyPorts {
        /// As many were given.
        count: usize,
        /// As many there can be.
        most: usize,
    },
    /// A `--port` option that isn't `NAME=DEVICE`.
    #[error("write NAME=DEVICE, as in --port wan0=0000:3b:00.0 or --port wan0=net_tap0,iface=uplink")]
    NotNameAndDevice,
}

fn read_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; give the path of a TOML file with -c, or ports with --port NAME=DEVICE",
        io::ErrorKind::PermissionDenied => "; run as a user who may read it",
        _ => "",
    }
}

fn within(table: &Option<String>) -> String {
    table.as_ref().map_or(String::new(), |table| format!(" in {table}"))
}

fn meant(near: &Option<String>) -> String {
    near.as_ref().map_or(String::new(), |near| format!(" (did you mean `{near}`?)"))
}

fn of_key(key: &Option<String>) -> String {
    key.as_ref().map_or(String::new(), |key| format!("{key}: "))
}

/// The candidate that looks most like `word`, if any looks like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let similarity = |candidate| {
        // One slip of the finger in a short word leaves little that is equal: it counts more than likeness.
        let slip = word.len() > 2 && strsim::damerau_levenshtein(&word, candidate) == 1;
        strsim::jaro_winkler(&word, candidate) + if slip { 1.0 } else { 0.0 }
    };
    candidates
        .into_iter()
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
