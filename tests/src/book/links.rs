//! Links from page to page, and to files of the repository.

use std::path::{Component, Path, PathBuf};

use super::{Page, root};

/// A link or a picture.
#[derive(Debug)]
pub struct Link {
    /// Where.
    pub line: usize,
    /// What it names.
    pub target: String,
}

/// The anchor of a heading, as GitHub and mdBook make it.
pub(super) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then_some(c),
    });
    kept.collect::<String>().to_lowercase()
}

/// The same with a number, if a heading before it has the same words.
pub(super) fn unlike(others: &[String], anchor: &str) -> String {
    let numbered = |n: usize| if n == 0 { anchor.to_owned() } else { format!("{anchor}-{n}") };
    (0..).map(numbered).find(|name| !others.contains(name)).unwrap_or_default()
}

/// What is wrong with the links of these pages.
pub fn broken(pages: &[Page]) -> Vec<String> {
    let mut found = Vec::new();
    for page in pages {
        for link in page.links.iter().filter(|link| !link.target.contains("://")) {
            if let Some(why) = fault(pages, page, &link.target) {
                found.push(format!("{}:{}: {}: {why}", page.path.display(), link.line, link.target));
            }
        }
    }
    found
}

fn fault(pages: &[Page], page: &Page, target: &str) -> Option<&'static str> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        page.path.clone()
    } else {
        resolve(page.path.parent().unwrap_or(Path::new("")), file)
    };
    if !root().join(&path).exists() {
        return Some("there is no such file");
    }
    let is_page = path.extension().is_some_and(|ext| ext == "md");
    if is_page && page.path.starts_with("docs") && !path.starts_with("docs") {
        return Some("a page of the book can't link to a page outside of docs: the book hasn't got it");
    }
    if anchor.is_empty() {
        return None;
    }
    match pages.iter().find(|page| page.path == path) {
        Some(page) if page.anchors.iter().any(|name| name == anchor) => None,
        Some(_) => Some("the page has no such heading"),
        None => Some("only pages have headings"),
    }
}

fn resolve(directory: &Path, file: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in directory.join(file).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_the_renderers() {
        assert_eq!(anchor("Why packets go to the kernel"), "why-packets-go-to-the-kernel");
        assert_eq!(anchor("`flyover check`"), "flyover-check");
        assert_eq!(anchor("[hardware], [api], [metrics]"), "hardware-api-metrics");
        let seen = vec!["limits".to_owned()];
        assert_eq!(unlike(&seen, "limits"), "limits-1");
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let page = |path: &str, text: &str| Page::parse(PathBuf::from(path), text);
        let pages = [
            page("docs/metrics.md", "# Metrics\n\n[a](json.md) [b](#names) [c](#metrics) [d](nowhere.md)\n"),
            page(
                "docs/json.md",
                "# JSON\n\n[e](metrics.md#metrics) [f](metrics.md#nowhere) [g](../README.md)\n",
            ),
        ];
        let found = broken(&pages);
        let names = |name: &str| found.iter().filter(|line| line.contains(name)).count();
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!(names(": #names:") + names("nowhere.md:") + names("#nowhere:") + names("README.md:"), 4);
    }
}
