//! DPDK's log: to standard error, or, during a call that may fail, into that call's error.
//!
//! Left alone, DPDK 22.11 logs to standard output, which belongs to the program's own answers.

use std::cell::RefCell;
use std::ffi::c_char;
use std::io::{self, Write};
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

/// Enough for the reason of a failure; a driver that logs in a loop must not fill the memory.
const CAPTURE_MAX: usize = 4096;

/// Whether the user asked for more than errors.
static VERBOSE: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CAPTURE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Sends everything that DPDK logs here. Call before `rte_eal_init`, which logs already.
pub(super) fn redirect(quiet: bool) {
    VERBOSE.store(!quiet, Ordering::Relaxed);
    let level = if quiet { sys::RTE_LOG_ERR } else { sys::RTE_LOG_DEBUG };
    // SAFETY: `write` has the signature that the shim calls; the stream it makes is never closed, and DPDK takes NULL
    // (no memory for a stream) as "the default stream".
    unsafe {
        sys::rte_openlog_stream(sys::shim_log_open(Some(write)));
        sys::rte_log_set_global_level(level);
    }
}

/// Runs a DPDK call and gives what it logged on this thread, if it failed.
///
/// Drivers also log errors on the way to success, such as net_tap's when the kernel lacks a qdisc that only rte_flow
/// needs. Those are for who asked for more than errors.
pub(super) fn capture(call: impl FnOnce() -> i32) -> (i32, Vec<String>) {
    CAPTURE.set(Some(Vec::new()));
    let ret = call();
    let text = CAPTURE.take().unwrap_or_default();
    if ret >= 0 {
        if VERBOSE.load(Ordering::Relaxed) {
            to_stderr(&text);
        }
        return (ret, Vec::new());
    }
    let text = String::from_utf8_lossy(&text);
    (ret, text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

unsafe extern "C" fn write(text: *const c_char, len: usize) {
    // SAFETY: the C library calls this with the bytes that were written to the stream.
    let text = unsafe { slice::from_raw_parts(text.cast::<u8>(), len) };
    let captured = CAPTURE.try_with(|capture| {
        let Ok(mut capture) = capture.try_borrow_mut() else { return false };
        let Some(captured) = capture.as_mut() else { return false };
        let room = CAPTURE_MAX.saturating_sub(captured.len());
        captured.extend_from_slice(text.get(..room).unwrap_or(text));
        true
    });
    if !captured.unwrap_or(false) {
        to_stderr(text);
    }
}

fn to_stderr(text: &[u8]) {
    // Nothing can be done about a closed standard error.
    let _ = io::stderr().write_all(text);
}
