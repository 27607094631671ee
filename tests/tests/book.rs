//! README and docs hold what they promise: commands run, links lead somewhere, examples are read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::book::{self, Page};
use lab::{LabError, Namespace, Result, gateway, leftovers};

/// Languages of blocks, and what is done with them here.
const LANGUAGES: [&str; 9] = ["", "sh", "console", "test", "toml", "nft", "json", "yaml", "mermaid"];

#[test]
fn links_lead_somewhere() -> Result<()> {
    let broken = book::broken(&book::pages()?);
    assert!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

#[test]
fn every_page_is_in_the_summary() -> Result<()> {
    let pages = book::pages()?;
    let summary = Page::read(PathBuf::from("docs/SUMMARY.md"))?;
    let listed: BTreeSet<PathBuf> =
        summary.links.iter().map(|link| Path::new("docs").join(&link.target)).collect();
    let there = pages.iter().map(|page| &page.path);
    let missing: Vec<_> = there
        .filter(|path| path.starts_with("docs") && !path.ends_with("SUMMARY.md") && !listed.contains(*path))
        .collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
    Ok(())
}

#[test]
fn each_block_says_how_it_is_run() -> Result<()> {
    let mut faults = Vec::new();
    for page in book::pages()? {
        for piece in &page.pieces {
            let mut fault =
                |what: &str| faults.push(format!("{}:{}: {what}", page.path.display(), piece.line));
            if !LANGUAGES.contains(&piece.language.as_str()) {
                fault("a block of no known language");
            }
            match (&piece.terms, piece.commands()) {
                (None, Some(_)) => fault("commands without a comment that says how the test runs them"),
                (Some(Err(why)), _) => fault(why),
                (Some(Ok(_)), None) => fault("a comment for commands, and none follow"),
                (Some(Ok(_)), Some(text)) if text.trim().is_empty() => fault("no command begins with `$ `"),
                _ => {}
            }
            if piece.language.is_empty() && piece.text.lines().any(|line| line.starts_with("$ ")) {
                fault("commands in a block that isn't `sh` or `console`");
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// Commands in the text are named, not run: subcommand and options must be those that there are.
#[test]
fn commands_in_the_text_exist() -> Result<()> {
    let mut faults = Vec::new();
    for page in book::pages()? {
        for code in &page.code {
            let mut words = code.text.split_whitespace();
            let known = match (words.next(), words.next()) {
                (Some("flyover"), Some(command)) if command.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    has_options(command, &words.collect::<Vec<_>>())?
                }
                (Some("make"), Some(target)) => has_target(target)?,
                _ => true,
            };
            if !known {
                faults.push(format!("{}:{}: {}", page.path.display(), code.line, code.text));
            }
        }
    }
    assert!(faults.is_empty(), "no such command, option or target: {faults:#?}");
    Ok(())
}

fn has_options(command: &str, words: &[&str]) -> Result<bool> {
    let help = Command::new(gateway::binary()?).args([command, "--help"]).output();
    let help = help.map_err(LabError::io("flyover --help"))?;
    let text = String::from_utf8_lossy(&help.stdout);
    let mut options = words.iter().filter_map(|word| {
        let option = word.split('=').next()?.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        option.starts_with('-').then_some(option)
    });
    let known = |option: &str| {
        text.split(|c: char| c.is_whitespace() || ",[=".contains(c)).any(|word| word == option)
    };
    Ok(help.status.success() && options.all(known))
}

fn has_target(target: &str) -> Result<bool> {
    let makefile = book::root().join("Makefile");
    let text = std::fs::read_to_string(makefile).map_err(LabError::io("read the Makefile"))?;
    Ok(text.lines().any(|line| line.split(':').next() == Some(target)))
}

/// An example that is a part of a configuration is completed by a port.
#[test]
fn configurations_and_rulesets_are_read() -> Result<()> {
    let directory = leftovers::directory()?;
    let namespace = Namespace::new("book")?;
    let mut faults = Vec::new();
    for page in book::pages()? {
        for piece in &page.pieces {
            let read = match piece.language.as_str() {
                "toml" => reads_toml(directory.path(), &piece.text),
                "nft" => reads_rules(&namespace, &piece.text),
                "json" => serde_json::from_str::<serde_json::Value>(&piece.text)
                    .map(drop)
                    .map_err(|error| LabError::Shape { what: "JSON".to_owned(), text: error.to_string() }),
                _ => Ok(()),
            };
            if let Err(error) = read {
                faults.push(format!("{}:{}: {error}", page.path.display(), piece.line));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

fn reads_toml(directory: &Path, text: &str) -> Result<()> {
    let path = directory.join("example.toml");
    let port =
        if text.contains("[[port]]") { "" } else { "[[port]]\nname = \"wan0\"\ndevice = \"net_null0\"\n" };
    std::fs::write(&path, format!("{port}{text}")).map_err(LabError::io("write an example"))?;
    let output = Command::new(gateway::binary()?).args(["check", "-c"]).arg(&path).output();
    let output = output.map_err(LabError::io("flyover check"))?;
    // What this machine lacks is another matter: 1.
    if output.status.code() != Some(2) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(LabError::Shape { what: "a configuration".to_owned(), text })
}

/// What is right, and what the kernel merely has no module for, which nft says otherwise than a fault.
fn reads_rules(namespace: &Namespace, text: &str) -> Result<()> {
    match namespace.feed("nft -c -f -", &completed(text)) {
        Err(LabError::Command { stderr, .. }) if stderr.contains("process rule: No such file") => Ok(()),
        read => read.map(drop),
    }
}

/// Rules without their chain are put into one.
fn completed(rules: &str) -> String {
    if rules.trim_start().starts_with("table") {
        return rules.to_owned();
    }
    format!("table inet book {{\nchain forward {{\ntype filter hook forward priority 0;\n{rules}\n}}\n}}\n")
}

/// A test for each page, so that each can be run alone and shows its name.
macro_rules! pages {
    ($($name:ident: $path:literal,)+) => {
        /// The pages below.
        const RUN: &[&str] = &[$($path),+];
        $(#[test]
        fn $name() -> Result<()> {
            book::run(&Page::read(PathBuf::from($path))?)
        })+
    };
}

pages! {
    commands_of_the_readme: "README.md",
    commands_of_get_started: "docs/get-started.md",
    commands_of_the_guide: "docs/operators-guide.md",
    commands_of_troubleshooting: "docs/troubleshooting.md",
    commands_of_tuning: "docs/tuning.md",
    commands_of_policy: "docs/policy.md",
    commands_of_packaging: "docs/packaging.md",
    commands_of_flow_records: "docs/ipfix.md",
    commands_of_oracle: "docs/oracle.md",
    commands_of_guest: "docs/guest.md",
}

#[test]
fn no_page_with_commands_is_left_out() -> Result<()> {
    let pages = book::pages()?;
    let with_commands: BTreeSet<&Path> =
        pages.iter().filter(|page| page.has_commands()).map(|page| page.path.as_path()).collect();
    assert_eq!(with_commands, RUN.iter().map(Path::new).collect());
    Ok(())
}
