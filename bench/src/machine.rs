//! How the machine is: huge pages, priority, and whether others slow it down.

use std::fs;
use std::path::PathBuf;

/// Additions of one measurement of [`dependent_add`]: some 20 us.
const ADDITIONS: u64 = 1 << 15;

/// TSC cycles an addition that depends on the one before. On the development machines 0.71 when nobody else uses the
/// core or its sibling, 1.1 to 1.4 in bad minutes.
#[allow(unsafe_code)]
pub fn dependent_add() -> f64 {
    let start = dataplane::dpdk::tsc();
    let mut sum = start;
    for _ in 0..ADDITIONS / 16 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: adds to a register.
        unsafe {
            std::arch::asm!(
                ".rept 16", "add {sum}, 1", ".endr", sum = inout(reg) sum, options(nomem, nostack, pure)
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        for _ in 0..16 {
            sum = std::hint::black_box(sum + 1);
        }
    }
    std::hint::black_box(sum);
    (dataplane::dpdk::tsc() - start) as f64 / ADDITIONS as f64
}

/// Gives the calling thread precedence over other builds, where it may.
#[allow(unsafe_code)]
pub fn take_precedence() {
    // SAFETY: changes a number of this process; refusal costs steadiness only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
}

/// Puts the calling thread on one CPU; refusal costs steadiness only.
#[allow(unsafe_code)]
pub fn pin(cpu: usize) {
    // SAFETY: an all-zero cpu_set_t is empty; CPU_SET writes inside it for numbers below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu % libc::CPU_SETSIZE as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// CPUs that are online.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// 2 MiB pages that were reserved, given back when dropped.
#[derive(Debug)]
pub struct HugePages {
    added: u64,
}

fn number(name: &str) -> Option<u64> {
    fs::read_to_string(PathBuf::from(POOL).join(name)).ok()?.trim().parse().ok()
}

fn set_pages(pages: u64) -> bool {
    fs::write(PathBuf::from(POOL).join("nr_hugepages"), pages.to_string()).is_ok()
}

impl HugePages {
    /// Sees to it that so many MiB of 2 MiB pages are free, if it may.
    pub fn reserve(mib: u64) -> Self {
        let (Some(free), Some(all)) = (number("free_hugepages"), number("nr_hugepages")) else {
            return Self { added: 0 };
        };
        let missing = (mib / 2).saturating_sub(free);
        for _ in 0..8 {
            if missing == 0 || !set_pages(all + missing) {
                break;
            }
            if Self::free(mib) {
                break;
            }
            // Memory lies in pieces too small, much of it as the cache of files: moves them together. Best effort.
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        }
        Self { added: number("nr_hugepages").unwrap_or(all).saturating_sub(all) }
    }

    /// Whether so many MiB are free.
    pub fn free(mib: u64) -> bool {
        number("free_hugepages").unwrap_or(0) >= mib / 2
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Some(all) = number("nr_hugepages").filter(|_| self.added > 0) {
            set_pages(all.saturating_sub(self.added));
        }
    }
}

/// The processor's name.
pub fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}
