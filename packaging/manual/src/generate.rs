//! Manual pages and completions, from the command line as clap knows it: nothing is listed here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use control::cli::Arguments;

/// Where commands of administrators are.
pub(crate) const SECTION: &str = "8";

/// Writes `man/*.8` and a file for each shell.
pub(crate) fn all(directory: &Path) -> io::Result<()> {
    let pages = directory.join("man");
    fs::create_dir_all(&pages)?;
    pages_of(&commands(), &pages)?;
    for (shell, name) in
        [(Shell::Bash, "flyover.bash"), (Shell::Zsh, "_flyover"), (Shell::Fish, "flyover.fish")]
    {
        let mut file = File::create(directory.join(name))?;
        clap_complete::generate(shell, &mut Arguments::command(), "flyover", &mut file);
        file.flush()?;
    }
    Ok(())
}

/// `flyover`, with the full name of each subcommand in it.
pub(crate) fn commands() -> Command {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

fn pages_of(command: &Command, directory: &Path) -> io::Result<()> {
    let shown: Vec<_> = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).collect();
    shown.iter().try_for_each(|subcommand| pages_of(subcommand, directory))?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let version = command.get_version().unwrap_or_default();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(SECTION)
        .source(format!("Flyover {version}"))
        .manual("Flyover");
    let mut page = File::create(directory.join(format!("{name}.{SECTION}")))?;
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if !shown.is_empty() {
        man.render_subcommands_section(&mut page)?;
    }
    if command.get_after_long_help().or_else(|| command.get_after_help()).is_some() {
        man.render_extra_section(&mut page)?;
    }
    tail(name).to_writer(&mut page)?;
    page.flush()
}

/// What every page ends with.
fn tail(name: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman("0 well; 1 failed; 2 wrong usage, or a fault in the configuration.")]);
    roff.control("SH", ["FILES"]);
    for (path, what) in [
        ("/etc/flyover/flyover.toml", "the configuration that flyover.service reads"),
        ("/run/flyover.sock", "the API socket of a running gateway"),
    ] {
        roff.control("TP", []);
        roff.text([bold(path)]);
        roff.text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let mut see = Vec::new();
    if name != "flyover" {
        see.extend([bold("flyover"), roman(format!("({SECTION}), "))]);
    }
    see.extend([bold("nft"), roman("(8), "), bold("conntrack"), roman("(8), ")]);
    see.push(roman("the operator's guide in /usr/share/doc/flyover/docs"));
    roff.text(see);
    roff
}
