//! What the package carries beside the binary is what the binary takes: the configurations, the unit's command.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use control::cli::Arguments;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of another machine's NICs and namespaces can't pass; what `check` says of the file itself has an exit code of its
/// own, and a namespace that isn't there is told along with that.
fn takes(config: &Path) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_flyover")).arg("check").arg("-c").arg(config).output();
    let output = output.map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0 | 1) => Ok(()),
        _ if told.contains("there is no such namespace") => Ok(()),
        _ => Err(told),
    }
}

#[test]
fn the_configurations_that_come_along_have_no_fault_nor_what_is_commented_out_in_them() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let files = std::fs::read_dir(configs()).expect("configs").flatten().map(|entry| entry.path());
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(files.iter().any(|path| path.ends_with("flyover.toml")), "{files:?}");
    for path in files {
        takes(&path).unwrap_or_else(|fault| panic!("{fault}"));
        let is_setting = |line: &str| {
            let key = line.split_once(" = ").map(|(key, _)| key);
            key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        };
        let uncommented = |line: &str| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting.to_owned(),
            _ => line.to_owned(),
        };
        let text = read(&path).lines().map(uncommented).collect::<Vec<_>>().join("\n");
        let whole = directory.path().join("whole.toml");
        std::fs::write(&whole, text).expect("written");
        takes(&whole).unwrap_or_else(|fault| panic!("{}, uncommented: {fault}", path.display()));
    }
}

#[test]
fn what_the_unit_starts_is_a_command_line() {
    let unit = read(&configs().join("systemd/flyover.service"));
    let commands: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    let [command] = commands.as_slice() else { panic!("{commands:?}") };
    let arguments = Arguments::try_parse_from(command.split_whitespace());
    arguments.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(command.contains("/etc/flyover/flyover.toml"), "where the package puts the file: {command}");
}
