//! The Environment Abstraction Layer: DPDK's start and end in this process.

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dpdk_sys as sys;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::error::Cause;
use super::{log, thread};

/// Memory without hugepages when the options name none. DPDK's own default of 64 MB holds no useful pool.
const DEFAULT_MEMORY_MB: u32 = 256;

/// Where DPDK's memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages if enough of them are free, else ordinary pages.
    #[default]
    Auto,
    /// Ordinary pages: slower by TLB misses, and hardware NICs can't use them.
    Off,
    /// Hugepages, or an error.
    On,
}

/// How to start DPDK.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// Where memory comes from.
    pub hugepages: Hugepages,
    /// Memory in MB: reserved at the start, and without hugepages also the limit (256 if not said).
    pub memory_mb: Option<u32>,
    /// MB that are had besides without hugepages, where they cost nothing until they are used.
    pub spare_mb: u32,
    /// PCI addresses to probe; with none the PCI bus is left alone.
    pub pci_allow: Vec<String>,
    /// Tells the files of one DPDK process from another's.
    pub file_prefix: String,
    /// The CPU that EAL takes as its main core. By default those that the calling thread may run on.
    pub main_core: Option<usize>,
    /// Log errors alone, else what DPDK logs by default. Either goes to standard error.
    pub quiet: bool,
    /// Further EAL arguments, as on a DPDK program's command line.
    pub extra: Vec<String>,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            hugepages: Hugepages::Auto,
            memory_mb: None,
            spare_mb: 0,
            pci_allow: Vec::new(),
            file_prefix: "flyover".to_owned(),
            main_core: None,
            quiet: true,
            extra: Vec::new(),
        }
    }
}

/// Why DPDK did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// DPDK starts once in the life of a process, and does not start again after its end.
    #[error("DPDK was started in this process already")]
    AlreadyInitialised,
    /// An option holds a NUL byte.
    #[error("the EAL argument {0:?} holds a NUL byte")]
    Argument(String),
    /// The calling thread's CPU affinity can't be read or set.
    #[error("the CPU affinity of this thread: {0}")]
    Affinity(Errno),
    /// `rte_eal_init` refused.
    #[error("DPDK does not start: {0}")]
    Init(Cause),
}

/// DPDK, started. Pools, ports and queues keep it up until the last of them is dropped.
#[derive(Debug)]
pub struct Eal {
    running: Arc<Running>,
}

/// Whoever holds this may call into DPDK.
#[derive(Debug)]
pub(super) struct Running {
    hugepages: bool,
    // DPDK keeps pointers into its arguments.
    _arguments: Vec<CString>,
}

struct State {
    started: bool,
    running: Weak<Running>,
}

static STATE: Mutex<State> = Mutex::new(State { started: false, running: Weak::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// DPDK, if it runs.
pub(super) fn running() -> Option<Arc<Running>> {
    state().running.upgrade()
}

impl Eal {
    /// Starts DPDK. The calling thread becomes EAL's main core and keeps the CPU affinity that it has.
    pub fn init(options: &EalOptions) -> Result<Self, EalError> {
        let mut state = state();
        if state.started {
            return Err(EalError::AlreadyInitialised);
        }
        let affinity = sched_getaffinity(Pid::from_raw(0)).map_err(EalError::Affinity)?;
        let hugepages = match options.hugepages {
            Hugepages::On => true,
            Hugepages::Off => false,
            Hugepages::Auto => {
                free_hugepage_mb() >= u64::from(options.memory_mb.unwrap_or(DEFAULT_MEMORY_MB))
            }
        };
        let arguments = arguments(options, hugepages, &affinity)
            .into_iter()
            .map(|argument| CString::new(argument.clone()).map_err(|_| EalError::Argument(argument)))
            .collect::<Result<Vec<_>, _>>()?;

        log::redirect(options.quiet);
        let mut argv: Vec<*mut c_char> = arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        let argc = c_int::try_from(argv.len()).map_err(|_| EalError::Argument("(too many)".to_owned()))?;
        argv.push(std::ptr::null_mut());
        let mut errno = 0;
        let (ret, lines) = log::capture(|| {
            // SAFETY: argv holds argc NUL-terminated strings and a NULL. EAL permutes the array, which dies after the
            // call, and may keep the strings, which `Running` owns. It does not write to them.
            let ret = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
            // SAFETY: reads this thread's rte_errno.
            errno = unsafe { sys::shim_errno() };
            ret
        });
        // EAL pins the calling thread to its main core, failed or not.
        let restored = sched_setaffinity(Pid::from_raw(0), &affinity);
        if ret < 0 {
            // EAL may have kept pointers into them before it failed.
            std::mem::forget(arguments);
            return Err(match Errno::from_raw(errno) {
                Errno::EALREADY => EalError::AlreadyInitialised,
                _ => EalError::Init(Cause::from_return(errno, lines)),
            });
        }
        thread::count_main_core();
        let running = Arc::new(Running { hugepages, _arguments: arguments });
        state.started = true;
        state.running = Arc::downgrade(&running);
        drop(state);
        restored.map_err(EalError::Affinity)?;
        Ok(Self { running })
    }

    /// Whether memory comes from hugepages.
    pub fn uses_hugepages(&self) -> bool {
        self.running.hugepages
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: EAL was initialised, and no pool, port, queue or thread registration is left: each holds `Running`.
        // Pools with packets still out are never dropped, so no Mbuf outlives the memory either.
        unsafe {
            sys::rte_eal_cleanup();
        }
    }
}

fn arguments(options: &EalOptions, hugepages: bool, affinity: &CpuSet) -> Vec<String> {
    let cpus = match options.main_core {
        Some(core) => core.to_string(),
        None => {
            let allowed = (0..CpuSet::count()).filter(|cpu| affinity.is_set(*cpu).unwrap_or(false));
            format!("({})", allowed.map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(","))
        }
    };
    let mut arguments = vec![
        "flyover".to_owned(),
        // One EAL core: workers are threads of our own, registered when they start.
        format!("--lcores=0@{cpus}"),
        "--no-telemetry".to_owned(),
        "--no-shconf".to_owned(),
        "--iova-mode=va".to_owned(),
        format!("--file-prefix={}", options.file_prefix),
    ];
    if hugepages {
        arguments.push("--in-memory".to_owned());
        arguments.extend(options.memory_mb.iter().flat_map(|mb| ["-m".to_owned(), mb.to_string()]));
    } else {
        // `--in-memory` is refused here, and not needed.
        arguments.push("--no-huge".to_owned());
        arguments.push("-m".to_owned());
        let memory_mb = options.memory_mb.unwrap_or(DEFAULT_MEMORY_MB);
        arguments.push(memory_mb.saturating_add(options.spare_mb).to_string());
    }
    if options.pci_allow.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    arguments.extend(options.pci_allow.iter().flat_map(|address| ["-a".to_owned(), address.clone()]));
    arguments.extend(options.extra.iter().cloned());
    arguments
}

/// Free hugepages of every size, in MB, less those that other processes have mapped and not touched yet.
fn free_hugepage_mb() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let kb = sizes.flatten().filter_map(|size| {
        let name = size.file_name();
        let kb: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free = number_in(&size.path().join("free_hugepages"))?;
        let promised = number_in(&size.path().join("resv_hugepages"))?;
        Some(kb.saturating_mul(free.saturating_sub(promised)))
    });
    kb.fold(0, u64::saturating_add) / 1024
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
