//! Why DPDK refused: its error number, and what its drivers logged meanwhile.

use std::fmt;

use nix::errno::Errno;

/// The reason DPDK gives for a refusal.
///
/// Drivers often return a bare -1 and tell the reason in their log alone, so the error lines that were logged during
/// the call belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The error number. `EPERM` may only mean a bare -1.
    pub errno: Errno,
    /// The error lines logged during the call, each without its newline.
    pub log: Vec<String>,
}

impl Cause {
    /// From a DPDK return value, which is a negative error number.
    pub(super) fn from_return(ret: i32, mut log: Vec<String>) -> Self {
        // What EAL adds to any failed probe says less than the driver did before.
        let says_nothing = |line: &String| {
            line.starts_with("EAL: Failed to attach device") || line.starts_with("EAL: Driver cannot attach")
        };
        if !log.iter().all(says_nothing) {
            log.retain(|line| !says_nothing(line));
        }
        Self { errno: Errno::from_raw(ret.saturating_abs()), log }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.log.is_empty() {
            return f.write_str(self.errno.desc());
        }
        if self.errno != Errno::EPERM {
            write!(f, "{}: ", self.errno.desc())?;
        }
        f.write_str(&self.log.join("; "))
    }
}
