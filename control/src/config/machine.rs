//! What a configuration is checked against: the machine's cores and network namespaces.

use std::path::PathBuf;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The part of the machine that a configuration speaks of.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Cores that this process may run on, ascending.
    pub cores: Vec<u16>,
    /// Directory of the named network namespaces.
    pub netns: PathBuf,
}

impl Machine {
    /// This machine, as this process may use it.
    pub fn this() -> Self {
        Self { cores: affinity(), netns: PathBuf::from("/run/netns") }
    }

    /// Every core but the first, which is left to the kernel and the control thread; on one core, that one.
    pub fn default_workers(&self) -> Vec<u16> {
        match self.cores.as_slice() {
            [_, rest @ ..] if !rest.is_empty() => rest.to_vec(),
            cores => cores.to_vec(),
        }
    }

    /// The cores as people write them: `0-3, 6`.
    pub fn cores_text(&self) -> String {
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for &core in &self.cores {
            match runs.last_mut() {
                Some((_, end)) if end.checked_add(1) == Some(core) => *end = core,
                _ => runs.push((core, core)),
            }
        }
        let text =
            |&(from, to): &(u16, u16)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        runs.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

fn affinity() -> Vec<u16> {
    let all = 0..CpuSet::count();
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => all
            .filter(|&core| set.is_set(core).unwrap_or(false))
            .filter_map(|core| u16::try_from(core).ok())
            .collect(),
        // Only where a seccomp filter forbids the call, or with more cores than a CpuSet holds.
        Err(_) => {
            let count = std::thread::available_parallelism().map_or(1, usize::from);
            (0..u16::try_from(count).unwrap_or(u16::MAX)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: &[u16]) -> Machine {
        Machine { cores: cores.to_vec(), netns: PathBuf::new() }
    }

    #[test]
    fn workers_leave_the_first_core_alone_if_there_is_another() {
        assert_eq!(machine(&[0, 1, 5]).default_workers(), [1, 5]);
        assert_eq!(machine(&[3]).default_workers(), [3]);
    }

    #[test]
    fn runs_of_cores_are_written_short() {
        assert_eq!(machine(&[0, 1, 2, 5, 7, 8]).cores_text(), "0-2, 5, 7-8");
        assert_eq!(machine(&[4]).cores_text(), "4");
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!Machine::this().cores.is_empty());
    }
}
