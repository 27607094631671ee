//! What can go wrong between Flyover and the kernel's netlink.

use std::io;

use nix::errno::Errno;

/// A netlink socket or request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A system call on the socket failed.
    #[error("cannot {doing}: {}{}", .source.desc(), remedy(*.source))]
    System {
        /// What was being done, as in "cannot ...".
        doing: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {doing}: {}{}{}", .source.desc(), text(.message), remedy(*.source))]
    Refused {
        /// What was asked, as in "refused to ...".
        doing: String,
        /// The kernel's error.
        source: Errno,
        /// The kernel's own explanation; empty if it gave none.
        message: String,
    },
    /// A dump is under way on this socket; the kernel runs one at a time.
    #[error("a dump is already under way on this socket")]
    DumpUnderWay,
    /// Source and destination are of different families, or the protocol has no ports.
    #[error("{0} cannot be a conntrack tuple: TCP or UDP, and addresses of one family, are needed")]
    NotATuple(String),
    /// An answer did not have the form that the kernel's headers give it.
    #[error("the kernel's answer to '{0}' could not be understood")]
    Malformed(&'static str),
}

impl NetlinkError {
    /// Wraps the error of a system call.
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { doing, source: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw) }
    }

    /// Wraps an error number.
    pub(crate) fn errno(doing: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::System { doing, source }
    }

    /// The system's error number, where there is one.
    pub fn code(&self) -> Option<Errno> {
        match self {
            Self::System { source, .. } | Self::Refused { source, .. } => Some(*source),
            _ => None,
        }
    }
}

fn text(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "; run as root, or with CAP_NET_ADMIN in the user namespace that owns this network namespace"
        }
        Errno::EPROTONOSUPPORT => {
            "; the kernel has no such netlink: try 'modprobe -a nf_conntrack nf_conntrack_netlink'"
        }
        _ => "",
    }
}
