//! A configuration that can't be run gives one clear error, and leaves nothing behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use lab::process::mortal;
use lab::{LabError, Namespace, Result, gateway, leftovers, wait};
use tempfile::TempDir;

/// A namespace for the gateway and one for a host, and what is in them.
struct Bench {
    namespace: Namespace,
    host: Namespace,
    directory: TempDir,
}

#[derive(Debug, PartialEq, Eq)]
struct Inventory {
    interfaces: Vec<String>,
    host_interfaces: Vec<String>,
    files: BTreeSet<String>,
}

impl Bench {
    fn new() -> Result<Self> {
        let directory = leftovers::directory()?;
        Ok(Self { namespace: Namespace::new("gw")?, host: Namespace::new("host")?, directory })
    }

    fn inventory(&self) -> Result<Inventory> {
        let names = |path: &Path| -> BTreeSet<String> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect()
        };
        Ok(Inventory {
            interfaces: self.namespace.interfaces()?,
            host_interfaces: self.host.interfaces()?,
            files: names(self.directory.path()),
        })
    }

    /// A `[[port]]` on a tap.
    fn port(&self, name: &str, device: &str) -> String {
        format!("[[port]]\nname = {name:?}\ndevice = {device:?}\nnetns = {:?}\n", self.host.name())
    }

    fn api(&self) -> String {
        format!("[api]\nsocket = {:?}\n", self.directory.path().join("flyover.sock"))
    }

    /// Runs `flyover run` on this text.
    fn run(&self, config: &str) -> Result<Output> {
        let path = self.directory.path().join("flyover.toml");
        std::fs::write(&path, config).map_err(LabError::io("write the configuration"))?;
        self.run_file(&path)
    }

    fn run_file(&self, path: &Path) -> Result<Output> {
        // Should it be accepted after all, `timeout` ends it with 124.
        let mut command = mortal("timeout");
        command.args(["20", &gateway::binary()?.display().to_string(), "run", "-c"]).arg(path);
        self.namespace.command("flyover run", command)
    }

    /// It must fail with 1 or 2, say `word` in one error, and leave everything as it was.
    fn refuses(&self, config: &str, word: &str) -> Result<()> {
        std::fs::write(self.directory.path().join("flyover.toml"), config)
            .map_err(LabError::io("write the configuration"))?;
        let before = self.inventory()?;
        let output = self.run(config)?;
        refused(&output, word);
        self.is_as_it_was(&before)
    }

    /// Taps go away with the last descriptor, which the kernel may close a moment after the process.
    fn is_as_it_was(&self, before: &Inventory) -> Result<()> {
        let same = || self.inventory().is_ok_and(|now| now == *before);
        let waited = wait::until_true(Duration::from_secs(3), "nothing to be left behind", same);
        assert!(waited.is_ok(), "before: {before:?}, after: {:?}", self.inventory()?);
        Ok(())
    }
}

fn refused(output: &Output, word: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(matches!(code, Some(1 | 2)), "exit {code:?}: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(errors.contains(word), "no {word:?} in: {errors}");
    // DPDK has its say beside it, behind `EAL:` and the names of drivers; an error may go on over lines.
    let said: Vec<&str> = errors.lines().filter(|line| line.starts_with("flyover: ")).collect();
    assert_eq!(said.len(), 1, "one error: {errors}");
    assert!(output.stdout.is_empty(), "errors belong on standard error");
}

#[test]
fn unknown_key() -> Result<()> {
    let bench = Bench::new()?;
    let port = bench.port("wan0", "net_tap0,iface=eth0");
    let api = bench.api();
    bench.refuses(&format!("{port}colour = \"blue\"\n{api}"), "colour")?;
    bench.refuses(&format!("{port}{api}[flows]\ncapcity = 5\n"), "capcity")
}

#[test]
fn unknown_device() -> Result<()> {
    let bench = Bench::new()?;
    let good = bench.port("lan0", "net_tap0,iface=eth0");
    let bad = bench.port("wan0", "net_nosuch0");
    bench.refuses(&format!("{good}{bad}{}", bench.api()), "net_nosuch0")?;
    let bad = "[[port]]\nname = \"wan0\"\ndevice = \"0000:ff:1f.7\"\n";
    bench.refuses(&format!("{good}{bad}{}", bench.api()), "0000:ff:1f.7")
}

#[test]
fn unknown_namespace() -> Result<()> {
    let bench = Bench::new()?;
    let port = "[[port]]\nname = \"wan0\"\ndevice = \"net_tap0,iface=eth0\"\nnetns = \"nowhere\"\n";
    bench.refuses(&format!("{port}{}", bench.api()), "nowhere")
}

#[test]
fn name_in_use() -> Result<()> {
    let bench = Bench::new()?;
    bench.namespace.run("ip link add wan0 type veth peer name other")?;
    let good = bench.port("lan0", "net_tap0,iface=eth0");
    let bad = bench.port("wan0", "net_tap1,iface=eth1");
    bench.refuses(&format!("{good}{bad}{}", bench.api()), "wan0")
}

#[test]
fn duplicate_port() -> Result<()> {
    let bench = Bench::new()?;
    let first = bench.port("wan0", "net_tap0,iface=eth0");
    let same_name = bench.port("wan0", "net_tap1,iface=eth1");
    bench.refuses(&format!("{first}{same_name}{}", bench.api()), "wan0")?;
    let same_device = bench.port("lan0", "net_tap0,iface=eth1");
    bench.refuses(&format!("{first}{same_device}{}", bench.api()), "net_tap0")
}

#[test]
fn missing_file_and_no_file_and_no_toml() -> Result<()> {
    let bench = Bench::new()?;
    let missing = bench.directory.path().join("missing.toml");
    let before = bench.inventory()?;
    refused(&bench.run_file(&missing)?, "missing.toml");
    refused(&bench.run_file(bench.directory.path())?, &bench.directory.path().display().to_string());
    bench.is_as_it_was(&before)?;
    bench.refuses("this is no TOML", "flyover.toml")?;
    bench.refuses("", "port")
}

#[test]
fn usage_is_exit_code_2() -> Result<()> {
    let bench = Bench::new()?;
    for arguments in [&["fly"][..], &["run", "--no-such-option"], &[]] {
        let mut command = mortal(gateway::binary()?);
        command.args(arguments);
        let output = bench.namespace.command("flyover", command)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn a_query_without_an_instance_is_exit_code_1() -> Result<()> {
    let bench = Bench::new()?;
    let mut command = mortal(gateway::binary()?);
    command.args(["status", "--json", "--socket"]).arg(bench.directory.path().join("nobody.sock"));
    let output = bench.namespace.command("flyover status", command)?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("nobody.sock") && output.stdout.is_empty(), "{output:?}");
    Ok(())
}
