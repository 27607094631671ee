//! The book: README and docs, as tests read them.
//!
//! What a page has its reader type stands in fenced blocks of `sh`, or of `console` behind `$ `. A comment before each
//! says how the test runs it: `<!-- run -->` just so, with what must differ and why behind it ([`Terms`]). A comment
//! `<!-- test` holds commands that the test alone runs at that place: the hosts of the page's network, above all.

mod links;
mod stage;
mod terms;

use std::ops::Range;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

pub use links::{Link, broken};
pub use stage::run;
pub use terms::Terms;

use crate::{LabError, Result};

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Its path from the repository's root.
    pub path: PathBuf,
    /// Fenced blocks and comments for tests, in the page's order.
    pub pieces: Vec<Piece>,
    /// Code in the text: what stands between backticks.
    pub code: Vec<Code>,
    /// Links and pictures.
    pub links: Vec<Link>,
    /// What a link may name behind its `#`.
    pub anchors: Vec<String>,
}

/// A fenced block, or a comment for tests.
#[derive(Debug)]
pub struct Piece {
    /// Where it begins.
    pub line: usize,
    /// The block's language; empty where it says none, `test` of a comment for tests.
    pub language: String,
    /// What is in it.
    pub text: String,
    /// What the comment before it says.
    pub terms: Option<std::result::Result<Terms, String>>,
}

/// Code in the text.
#[derive(Debug)]
pub struct Code {
    /// Where.
    pub line: usize,
    /// What.
    pub text: String,
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// README and every page of docs, decisions included.
///
/// # Errors
/// When a page can't be read.
pub fn pages() -> Result<Vec<Page>> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for directory in ["docs", "docs/adr"] {
        let entries = std::fs::read_dir(root().join(directory)).map_err(LabError::io(directory))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let pages = names.filter(|name| Path::new(name).extension().is_some_and(|ext| ext == "md"));
        paths.extend(pages.map(|name| Path::new(directory).join(name)));
    }
    paths.sort();
    paths.into_iter().map(Page::read).collect()
}

impl Page {
    /// Reads a page, by its path from the repository's root.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(path: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(root().join(&path))
            .map_err(LabError::io(format!("read {}", path.display())))?;
        Ok(Self::parse(path, &text))
    }

    fn parse(path: PathBuf, source: &str) -> Self {
        let line =
            |range: &Range<usize>| source.get(..range.start).unwrap_or_default().matches('\n').count() + 1;
        let mut page = Self { path, ..Self::default() };
        let mut heading: Option<String> = None;
        let mut block: Option<Piece> = None;
        let mut comment = String::new();
        for (event, range) in Parser::new_ext(source, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::HtmlBlock) => comment.clear(),
                Event::Html(html) => comment.push_str(&html),
                Event::End(TagEnd::HtmlBlock) => {
                    let commands =
                        comment.trim().strip_prefix("<!-- test\n").and_then(|rest| rest.strip_suffix("-->"));
                    page.pieces.extend(commands.map(|text| Piece {
                        line: line(&range),
                        language: "test".to_owned(),
                        text: text.to_owned(),
                        terms: Some(Ok(Terms::default())),
                    }));
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(info) => info.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    let terms = Terms::of_comment(&comment);
                    block = Some(Piece { line: line(&range), language, text: String::new(), terms });
                }
                Event::End(TagEnd::CodeBlock) => {
                    page.pieces.extend(block.take());
                    comment.clear();
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = links::anchor(&heading.take().unwrap_or_default());
                    page.anchors.push(links::unlike(&page.anchors, &anchor));
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link { line: line(&range), target: dest_url.to_string() });
                }
                // A comment speaks of the block that comes next, and of nothing further down.
                Event::Start(_) => comment.clear(),
                Event::Text(text) => match (&mut block, &mut heading) {
                    (Some(block), _) => block.text.push_str(&text),
                    (None, Some(heading)) => heading.push_str(&text),
                    (None, None) => {}
                },
                Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                    page.code.push(Code { line: line(&range), text: text.to_string() });
                }
                _ => {}
            }
        }
        page
    }

    /// Whether the test has anything to run on it.
    pub fn has_commands(&self) -> bool {
        self.pieces.iter().any(|piece| piece.commands().is_some())
    }
}

impl Piece {
    /// What is to be run.
    pub fn commands(&self) -> Option<String> {
        match self.language.as_str() {
            "sh" | "test" => Some(self.text.clone()),
            "console" => {
                let lines = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
                Some(lines.map(|line| format!("{line}\n")).collect())
            }
            _ => None,
        }
    }
}
