//! What a fuzzer runs, and what is run again of what it found.
//!
//! Each function takes any bytes and panics where something is not as it must be. `tests/fuzz/corpus` has inputs for each;
//! [`replay`] runs these as an ordinary test.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

pub use crate::capture::fuzz::filter;
pub use crate::hardware::fuzz::{carried, rules};
pub use crate::packet::fuzz::{parsed, rewritten};

/// Where corpora are, from the directory of a crate of the workspace.
const CORPORA: &str = "../tests/fuzz/corpus";

/// Runs a target on its seeds and on its corpus: every input, whatever one of them does.
///
/// With `FUZZ_SEEDS=1` in the environment the seeds are first written into the corpus, for a fuzzer to begin with.
///
/// # Panics
///
/// With the names of the inputs that made the target panic; and if there is no corpus.
pub fn replay(crate_directory: &str, name: &str, target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let directory = Path::new(crate_directory).join(CORPORA).join(name);
    if std::env::var_os("FUZZ_SEEDS").is_some() {
        write(&directory, seeds);
    }
    let mut inputs = read(&directory);
    inputs.extend(seeds.iter().enumerate().map(|(at, seed)| (format!("seed {at}").into(), seed.clone())));
    let fails = |input: &Vec<u8>| panic::catch_unwind(|| target(input)).is_err();
    let failed: Vec<_> = inputs.iter().filter(|(_, input)| fails(input)).map(|(path, _)| path).collect();
    assert!(failed.is_empty(), "{name} panicked on {failed:?}");
}

fn read(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!(!paths.is_empty(), "{} is empty", directory.display());
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
}

fn write(directory: &Path, seeds: &[Vec<u8>]) {
    fs::create_dir_all(directory).expect("a directory");
    for (at, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("seed-{at:02}")), seed).expect("written");
    }
}
