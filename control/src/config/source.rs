//! The text of a configuration, and how a place in it is named.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::MAX_FILE;
use super::error::{ConfigError, Place, Problem};

/// Where values come from: a file, or an option on the command line.
pub(super) enum Source<'a> {
    File { path: &'a Path, text: &'a str },
    PortOption(&'a str),
}

/// Reads a configuration file, at most [`MAX_FILE`] bytes of it.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let fault = |problem| ConfigError { place: Place::File(path.to_owned()), problem: Box::new(problem) };
    let unreadable = |error| fault(Problem::Read { error });
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(fault(Problem::TooLong { limit: MAX_FILE }));
    }
    String::from_utf8(bytes).map_err(|_| fault(Problem::NotText))
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self::File { path, text }
    }

    /// A fault of the source as a whole.
    pub(super) fn fault(&self, problem: Problem) -> ConfigError {
        let place = match *self {
            Self::File { path, .. } => Place::File(path.to_owned()),
            Self::PortOption(option) => Place::PortOption(option.to_owned()),
        };
        ConfigError { place, problem: Box::new(problem) }
    }

    /// A fault at a byte range.
    pub(super) fn fault_at(&self, span: &Range<usize>, problem: Problem) -> ConfigError {
        match *self {
            Self::File { path, text } => {
                let (line, column) = position(text, span.start);
                let place = Place::Line { path: path.to_owned(), line, column };
                ConfigError { place, problem: Box::new(problem) }
            }
            Self::PortOption(_) => self.fault(problem),
        }
    }

    /// The text of a byte range.
    pub(super) fn text(&self, span: &Range<usize>) -> Option<&'a str> {
        match *self {
            Self::File { text, .. } => text.get(span.clone()),
            Self::PortOption(_) => None,
        }
    }

    /// Where something was seen before, in a few words.
    pub(super) fn earlier(&self, span: &Range<usize>) -> String {
        match *self {
            Self::File { text, .. } => format!("line {}", position(text, span.start).0),
            Self::PortOption(option) => format!("--port {option}"),
        }
    }

    /// The last table header before a byte offset, as it was written.
    pub(super) fn table(&self, offset: usize) -> Option<String> {
        let Self::File { text, .. } = *self else { return None };
        let header = |line: &str| -> Option<String> {
            let line = line.trim_start();
            let end = line.rfind(']').filter(|_| line.starts_with('['))?;
            line.get(..=end).map(str::to_owned)
        };
        // The line of the offset counts too: the fault may be in the header itself.
        let end = text.get(offset..)?.find('\n').map_or(text.len(), |length| offset + length);
        text.get(..end)?.lines().rev().find_map(header)
    }

    /// The key whose value begins at a byte offset, where both are on one line.
    pub(super) fn key(&self, offset: usize) -> Option<&'a str> {
        let Self::File { text, .. } = *self else { return None };
        let line = text.get(..offset)?.rsplit('\n').next()?;
        let (key, _) = line.split_once('=')?;
        Some(key.trim()).filter(|key| !key.is_empty() && !key.starts_with('#'))
    }
}

/// Line and column from 1 of a byte offset; one beyond the end, or inside a character, is taken back.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "a\nbä = 1\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, 4), (2, 2), "inside of ä");
        assert_eq!(position(text, 5), (2, 3));
        assert_eq!(position(text, 999), (3, 1));
    }

    #[test]
    fn the_enclosing_table_and_key_are_found() {
        let text = "[[port]]\nname = 1\n[flows] # here\nx = [\n 2 ]";
        let source = Source::new(Path::new("x"), text);
        assert_eq!(source.table(10).as_deref(), Some("[[port]]"));
        assert_eq!(source.table(text.len()).as_deref(), Some("[flows]"));
        assert_eq!(source.key(text.find('1').unwrap_or(0)), Some("name"));
        assert_eq!(source.key(0), None);
    }
}
