//! The kernel's settings under `/proc/sys`, of the network namespace of the calling thread.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Reading failed.
    #[error("cannot read {}: {source}{}", .path.display(), remedy(.path, .source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write '{value}' to {}: {source}{}", .path.display(), remedy(.path, .source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The content is not what was expected.
    #[error("{} holds '{content}', which is not a number in its range", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
}

fn remedy(path: &std::path::Path, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound if path.to_string_lossy().contains("nf_conntrack") => {
            "; connection tracking is not loaded in this kernel: try 'modprobe nf_conntrack'"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; run as root, with a writable /proc/sys"
        }
        _ => "",
    }
}

/// A setting, by its name with dots (`net.ipv4.ip_forward`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl(pub &'static str);

/// Whether conntrack sends events: 0 never, 1 always, 2 (the default) for entries made while there is a
/// listener. With 2, what is older than Flyover never says that it ends.
pub const CONNTRACK_EVENTS: Sysctl = Sysctl("net.netfilter.nf_conntrack_events");
/// Whether conntrack counts packets and bytes, in entries that are made from then on.
pub const CONNTRACK_ACCT: Sysctl = Sysctl("net.netfilter.nf_conntrack_acct");
/// Most entries that the kernel keeps.
pub const CONNTRACK_MAX: Sysctl = Sysctl("net.netfilter.nf_conntrack_max");
/// Whether TCP windows are left unchecked for every connection.
pub const TCP_BE_LIBERAL: Sysctl = Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal");
/// Seconds that an established TCP connection may be silent.
pub const TCP_TIMEOUT_ESTABLISHED: Sysctl = Sysctl("net.netfilter.nf_conntrack_tcp_timeout_established");
/// The same in FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT and CLOSE.
pub const TCP_TIMEOUTS_CLOSING: [Sysctl; 5] = [
    Sysctl("net.netfilter.nf_conntrack_tcp_timeout_fin_wait"),
    Sysctl("net.netfilter.nf_conntrack_tcp_timeout_close_wait"),
    Sysctl("net.netfilter.nf_conntrack_tcp_timeout_last_ack"),
    Sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait"),
    Sysctl("net.netfilter.nf_conntrack_tcp_timeout_close"),
];
/// Seconds after which a UDP flow without a stream ends.
pub const UDP_TIMEOUT: Sysctl = Sysctl("net.netfilter.nf_conntrack_udp_timeout");
/// Seconds after which a UDP stream (assured) ends.
pub const UDP_TIMEOUT_STREAM: Sysctl = Sysctl("net.netfilter.nf_conntrack_udp_timeout_stream");
/// Seconds without packets after which the kernel takes a TCP connection out of its flowtable.
pub const FLOWTABLE_TCP_TIMEOUT: Sysctl = Sysctl("net.netfilter.nf_flowtable_tcp_timeout");
/// The same for UDP.
pub const FLOWTABLE_UDP_TIMEOUT: Sysctl = Sysctl("net.netfilter.nf_flowtable_udp_timeout");
/// Whether IPv4 is forwarded.
pub const IPV4_FORWARD: Sysctl = Sysctl("net.ipv4.ip_forward");
/// Whether IPv6 is forwarded.
pub const IPV6_FORWARD: Sysctl = Sysctl("net.ipv6.conf.all.forwarding");

impl Sysctl {
    /// The file of this setting.
    pub fn path(self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.0.replace('.', "/"))
    }

    /// Reads a number.
    pub fn read<T: FromStr>(self) -> Result<T, SysctlError> {
        let path = self.path();
        match std::fs::read_to_string(&path) {
            Err(source) => Err(SysctlError::Read { path, source }),
            Ok(content) => match content.trim().parse() {
                Ok(value) => Ok(value),
                Err(_) => Err(SysctlError::Content { path, content: content.trim().into() }),
            },
        }
    }

    /// Writes a number.
    pub fn write(self, value: impl Display) -> Result<(), SysctlError> {
        let (path, value) = (self.path(), value.to_string());
        std::fs::write(&path, &value).map_err(|source| SysctlError::Write { path, value, source })
    }

    /// Writes a number unless it is there already, and returns the one that was.
    pub fn replace(self, value: u64) -> Result<u64, SysctlError> {
        let old = self.read()?;
        if old != value {
            self.write(value)?;
        }
        Ok(old)
    }
}

/// Conntrack's timeouts and limits that the life of a flow depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConntrackSettings {
    /// `nf_conntrack_max`, entries.
    pub max: u32,
    /// `nf_conntrack_tcp_be_liberal`.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_tcp_timeout_established`, seconds.
    pub tcp_timeout_established: u32,
    /// The same in FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT and CLOSE.
    pub tcp_timeouts_closing: [u32; 5],
    /// `nf_conntrack_udp_timeout`, seconds.
    pub udp_timeout: u32,
    /// `nf_conntrack_udp_timeout_stream`, seconds.
    pub udp_timeout_stream: u32,
}

impl ConntrackSettings {
    /// Reads them all.
    pub fn read() -> Result<Self, SysctlError> {
        let mut tcp_timeouts_closing = [0; 5];
        for (timeout, setting) in tcp_timeouts_closing.iter_mut().zip(TCP_TIMEOUTS_CLOSING) {
            *timeout = setting.read()?;
        }
        Ok(Self {
            max: CONNTRACK_MAX.read()?,
            tcp_be_liberal: TCP_BE_LIBERAL.read::<u8>()? != 0,
            tcp_timeout_established: TCP_TIMEOUT_ESTABLISHED.read()?,
            tcp_timeouts_closing,
            udp_timeout: UDP_TIMEOUT.read()?,
            udp_timeout_stream: UDP_TIMEOUT_STREAM.read()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::in_namespace;

    #[test]
    fn settings_are_read_written_and_put_back() {
        in_namespace(|| {
            let settings = ConntrackSettings::read().expect("settings");
            assert_eq!(settings.tcp_timeout_established, 432_000);
            assert_eq!(settings.tcp_timeouts_closing, [120, 60, 30, 120, 10]);
            assert_eq!((settings.udp_timeout, settings.udp_timeout_stream), (30, 120));
            assert!(settings.max > 0 && !settings.tcp_be_liberal);
            let old = CONNTRACK_EVENTS.replace(1).expect("written");
            assert_eq!(old, 2);
            assert_eq!(CONNTRACK_EVENTS.replace(old).expect("put back"), 1);
            assert_eq!(CONNTRACK_EVENTS.read::<u8>().expect("read"), 2);
        });
    }

    #[test]
    fn errors_name_path_cause_and_remedy() {
        let missing = Sysctl("net.netfilter.nf_conntrack_no_such").read::<u32>().expect_err("missing");
        let text = missing.to_string();
        assert!(text.contains("/proc/sys/net/netfilter/nf_conntrack_no_such"), "{text}");
        assert!(text.contains("No such file") && text.contains("modprobe"), "{text}");
        let content = Sysctl("kernel.ostype").read::<u32>().expect_err("no number").to_string();
        assert_eq!(content, "/proc/sys/kernel/ostype holds 'Linux', which is not a number in its range");
        let refused = IPV4_FORWARD.write("abc").expect_err("refused").to_string();
        assert!(refused.contains("cannot write 'abc' to /proc/sys/net/ipv4/ip_forward"), "{refused}");
    }
}
