//! A collector of flow records that is not ours: nfcapd, read with nfdump.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::process::{Process, mortal};
use crate::{LabError, Namespace, Result, wait};

/// nfcapd, in a namespace.
#[derive(Debug)]
pub struct Collector {
    namespace: Namespace,
    directory: PathBuf,
    process: Process,
}

/// A record as `nfdump -o raw` shows it, by its own names.
#[derive(Clone, Debug)]
pub struct Record(HashMap<String, String>);

impl Collector {
    /// Listens, and writes what it gets every two seconds, which is its least.
    ///
    /// # Errors
    /// When it does not.
    pub fn listen(namespace: &Namespace, at: SocketAddr, directory: &std::path::Path) -> Result<Self> {
        let directory = directory.join(format!("flows-{}", at.port()));
        std::fs::create_dir_all(&directory).map_err(LabError::io("make a directory for flows"))?;
        let family = if at.is_ipv4() { "-4" } else { "-6" };
        let mut command = mortal("nfcapd");
        command.args([family, "-t", "2", "-p", &at.port().to_string(), "-w"]).arg(&directory);
        let process = namespace.start(&format!("nfcapd-{}", at.port()), command, &directory)?;
        wait::until_true(wait::PATIENCE, "nfcapd to listen", || {
            let listening = namespace.run(&format!("ss -Hluna sport = :{}", at.port()));
            listening.is_ok_and(|lines| !lines.trim().is_empty())
        })?;
        Ok(Self { namespace: namespace.clone(), directory, process })
    }

    /// What it has written so far, oldest first.
    ///
    /// # Errors
    /// When nfdump fails.
    pub fn records(&self) -> Result<Vec<Record>> {
        let is_whole = |name: &str| name.strip_prefix("nfcapd.").is_some_and(|time| time.starts_with('2'));
        let files = std::fs::read_dir(&self.directory).map_err(LabError::io("list flows"))?;
        let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| is_whole(name)).collect();
        names.sort_unstable();
        let mut records = Vec::new();
        for name in names {
            let path = self.directory.join(name);
            let text = self.namespace.run(&format!("nfdump -r {} -o raw", path.display()))?;
            records.extend(text.split("Flow Record:").skip(1).map(Record::parse));
        }
        Ok(records)
    }

    /// The records that are wanted, once there are such as `are_all` says.
    ///
    /// # Errors
    /// When they don't come.
    pub fn wait_for(
        &self,
        what: &str,
        wanted: impl Fn(&Record) -> bool,
        mut are_all: impl FnMut(&[Record]) -> bool,
    ) -> Result<Vec<Record>> {
        // Two seconds for nfcapd to write, and what a busy machine adds.
        wait::until(2 * wait::PATIENCE, what, || {
            let mut records = self.records().ok()?;
            records.retain(&wanted);
            are_all(&records).then_some(records)
        })
        .inspect_err(|_| println!("nfcapd: {}\n{:#?}", self.process.errors(), self.records()))
    }
}

impl Record {
    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
    }

    /// A field by nfdump's name; empty where it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The number with which a field begins, decimal or 0x.
    pub fn number(&self, name: &str) -> Option<u64> {
        let word = self.text(name).split([' ', ':']).next()?;
        match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        }
    }

    /// Address and port of an end: `src`, `dst`, `src xlt`, `dst xlt`.
    pub fn end(&self, of: &str) -> Option<SocketAddr> {
        let address = if of.ends_with("xlt") { format!("{of} ip") } else { format!("{of} addr") };
        let address: IpAddr = self.text(&address).parse().ok()?;
        Some(SocketAddr::new(address, u16::try_from(self.number(&format!("{of} port"))?).ok()?))
    }

    /// Packets and bytes, there and back.
    pub fn counts(&self) -> [[u64; 2]; 2] {
        let count = |name: &str| self.number(name).unwrap_or(0);
        [[count("in packets"), count("in bytes")], [count("out packets"), count("out bytes")]]
    }
}

/// What several records add up to.
pub fn total(records: &[Record]) -> [[u64; 2]; 2] {
    let mut total = [[0; 2]; 2];
    for record in records {
        for (sum, part) in total.as_flattened_mut().iter_mut().zip(record.counts().as_flattened()) {
            *sum += part;
        }
    }
    total
}
