//! A page's commands, run from top to bottom.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::{Page, Piece, root};
use crate::process::{Process, mortal};
use crate::{LabError, Result, gateway, leftovers};

/// For a page. Its longest command is an iperf3 of ten seconds.
const WITHIN: Duration = Duration::from_secs(180);

/// Runs what a page has its reader type, in one shell, in a network, a /run and an /etc of its own, where
/// tests/book/stand-in stands in for what a block's terms name. Fails with all that was said, up to what failed.
///
/// # Errors
/// When a command of the page does not do well.
pub fn run(page: &Page) -> Result<()> {
    let directory = leftovers::directory()?;
    let script = write(page, directory.path())?;
    let mut command = mortal("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", "bash"]).arg(script);
    command.current_dir(directory.path().join("flyover")).stdin(Stdio::null());
    let mut shell = Process::start("page", command, directory.path())?;
    let ended = shell.wait(WITHIN);
    let said = || format!("{}\n{}", shell.output(), shell.errors());
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(LabError::Command {
            command: format!("the commands of {}", page.path.display()),
            status: status.to_string(),
            stderr: said(),
        }),
        Err(error) => Err(LabError::Missing(format!("{error}; until then:\n{}", said()))),
    }
}

/// Lays out what the shell finds, and the script that it runs.
fn write(page: &Page, directory: &Path) -> Result<PathBuf> {
    let checkout = directory.join("flyover");
    let commands = directory.join("bin");
    for made in ["target/release", "target/debug", "tests/guest"]
        .map(|name| checkout.join(name))
        .iter()
        .chain([&commands])
    {
        fs::create_dir_all(made).map_err(LabError::io(format!("make {}", made.display())))?;
    }
    let link =
        |from: &Path, to: PathBuf| symlink(from, &to).map_err(LabError::io(format!("make {}", to.display())));
    for name in ["Makefile", "configs", "docs", "tests/book", "tests/in-userns", "tests/guest/nics"] {
        link(&root().join(name), checkout.join(name))?;
    }
    let stand_in = root().join("tests/book/stand-in");
    for name in ["target/release/flyover", "target/debug/oracle", "tests/guest/guest"] {
        link(&stand_in, checkout.join(name))?;
    }
    let text = fs::read_to_string(&stand_in).map_err(LabError::io("read tests/book/stand-in"))?;
    // Its branches stand at the line's beginning: `apt-get | make)`.
    let branches = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    for name in branches.filter_map(|line| line.strip_suffix(')')).flat_map(|line| line.split(" | ")) {
        link(&stand_in, commands.join(name))?;
    }

    let mut script = format!(
        "export BOOK_DIRECTORY={directory:?} BOOK_ROOT={:?} BOOK_FLYOVER={:?}\n. {:?}\n",
        root(),
        gateway::binary()?,
        root().join("tests/book/begin")
    );
    for (number, piece) in page.pieces.iter().enumerate() {
        let Some(commands) = piece.commands() else { continue };
        let path = directory.join(format!("piece{number}"));
        fs::write(&path, commands).map_err(LabError::io(format!("write {}", path.display())))?;
        let _ = writeln!(script, "{}\n. {path:?}", before(page, piece));
    }
    script.push_str("place=end\n");
    let path = directory.join("script");
    fs::write(&path, script).map_err(LabError::io(format!("write {}", path.display())))?;
    Ok(path)
}

/// What the shell is told before a piece.
fn before(page: &Page, piece: &Piece) -> String {
    let mut text = format!("place={}:{}", page.path.display(), piece.line);
    if let Some(Ok(terms)) = &piece.terms {
        let seconds = terms.at_most.map(|time| time.as_secs().to_string()).unwrap_or_default();
        let in_place = if piece.language == "test" { "all".to_owned() } else { terms.in_place_of.join(" ") };
        let _ = write!(text, " BOOK_SECONDS={seconds} BOOK_IN_PLACE_OF={in_place:?}");
    }
    text
}
