//! Every command, whatever it is called, has what the package carries for it.

use std::path::Path;
use std::process::{Command, Output};

use super::generate;

fn generated() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    generate::all(directory.path()).expect("written");
    directory
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// `flyover` and everything below it that is shown.
fn shown(command: &clap::Command) -> Vec<&clap::Command> {
    let below = command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    std::iter::once(command).chain(below.flat_map(shown)).collect()
}

#[test]
fn every_command_has_a_page_that_names_its_options_and_renders_without_a_warning() {
    let (directory, commands) = (generated(), generate::commands());
    let commands = shown(&commands);
    assert!(commands.len() > 5, "{}", commands.len());
    for command in commands {
        let name = command.get_display_name().unwrap_or("flyover");
        let page = directory.path().join("man").join(format!("{name}.8"));
        let (output, warnings) = run(Command::new("man")
            .env("MANPAGER", "cat")
            .env("MANWIDTH", "160")
            .env("LC_ALL", "C.UTF-8")
            .args(["--warnings", "--encoding=ascii", "--local-file"])
            .arg(&page));
        assert!(output.status.success() && warnings.is_empty(), "{name}: {warnings}");
        let text = String::from_utf8_lossy(&output.stdout);
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        let options: Vec<_> = options.filter_map(|option| option.get_long()).collect();
        assert!(options.contains(&"help"), "{name}: {options:?}");
        for option in options {
            assert!(text.contains(&format!("--{option}")), "{name} --{option}:\n{text}");
        }
        for heading in ["NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "FILES", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == heading), "{name}: {heading}:\n{text}");
        }
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = generated();
    let script = directory.path().join("flyover.bash");
    let (output, said) = run(Command::new("bash").arg("-n").arg(&script));
    assert!(output.status.success() && said.is_empty(), "{said}");
    let complete = |words: &str| {
        let line = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _flyover flyover \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let (output, said) = run(Command::new("bash").arg("-c").arg(line));
        assert!(output.status.success(), "{words}: {said}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found = complete("flyover stat");
    found.sort();
    assert_eq!(found, ["stats", "status"]);
    assert_eq!(complete("flyover status --js"), ["--json"]);
    for command in shown(&generate::commands()).into_iter().skip(1) {
        let name = command.get_name();
        let path = command.get_bin_name().unwrap_or(name);
        assert!(complete(path).iter().any(|word| word == name), "{path}");
    }
}

#[test]
fn the_other_shells_know_every_command() {
    let (directory, commands) = (generated(), generate::commands());
    for file in ["_flyover", "flyover.fish"] {
        let script = read(&directory.path().join(file));
        for command in shown(&commands) {
            assert!(script.contains(command.get_name()), "{file}: {}", command.get_name());
        }
    }
}
