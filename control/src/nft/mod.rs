//! Flyover's own nftables table, which has the kernel track connections where nothing in the user's ruleset does:
//!
//! ```text
//! table inet flyover {
//!     comment "made by flyover: ..."
//!     chain forward {
//!         type filter hook forward priority 10; policy accept;
//!         ct state established,related accept
//!     }
//! }
//! ```
//!
//! Nothing depends on the verdict: both are accept, and end this base chain alone. It is made and removed in one
//! transaction each, and each holds for the generation of the ruleset that was looked at: if anybody has changed
//! anything since, the kernel does nothing. So another's table is never touched, whoever makes one when.

#[cfg(test)]
mod kernel_tests;
mod message;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::libc;

use crate::netlink::NetlinkError;
use crate::netlink::message::{Messages, error_number};
use crate::netlink::receive::{Received, Receiver};
use crate::ruleset::{self, OwnTable, ReadError};

/// Times that removing begins again because the ruleset changed meanwhile.
const ATTEMPTS: usize = 10;
/// The longest answer: an error, with the request that it is about.
const DATAGRAM: usize = 8 << 10;

/// Why the table could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// Nothing was done.
    #[error("the ruleset has changed since it was read")]
    Changed,
    /// nf_tables, or its `ct`, is neither in the kernel nor to be loaded.
    #[error("{0}; it has no nf_tables with connection tracking: try 'modprobe -a nf_tables nft_ct'")]
    Missing(NetlinkError),
    /// The socket failed, or the kernel refused.
    #[error(transparent)]
    Netlink(NetlinkError),
    /// It is not known what there is to remove.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<NetlinkError> for NftError {
    fn from(error: NetlinkError) -> Self {
        match error.code() {
            Some(Errno::ERESTART) => Self::Changed,
            Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::ENOENT) => Self::Missing(error),
            _ => Self::Netlink(error),
        }
    }
}

/// Installs the table in this network namespace, whole, if the ruleset is still of the generation at which `found`
/// was under its name. Another's table is left alone, and so is one that is there.
pub fn install(found: OwnTable, generation: u32) -> Result<(), NftError> {
    let replace = match found {
        OwnTable::Absent => false,
        OwnTable::Incomplete => true,
        OwnTable::Intact | OwnTable::Foreign => return Ok(()),
    };
    Ok(commit(&message::installation(generation, replace), "install the table inet flyover")?)
}

/// Removes the table, if it is there and Flyover's; tells whether it was.
pub fn remove() -> Result<bool, NftError> {
    for _ in 0..ATTEMPTS {
        let ruleset = ruleset::read()?;
        if matches!(ruleset.own_table(), OwnTable::Absent | OwnTable::Foreign) {
            return Ok(false);
        }
        let removal = message::removal(ruleset.generation);
        match commit(&removal, "remove the table inet flyover").map_err(NftError::from) {
            Err(NftError::Changed) => {}
            outcome => return outcome.map(|()| true),
        }
    }
    Err(NftError::Changed)
}

/// Has the kernel carry out a transaction: all of it, or nothing.
fn commit(transaction: &[u8], doing: &'static str) -> Result<(), NetlinkError> {
    let socket =
        Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::system("open a netfilter netlink socket"))?;
    let mut receiver = Receiver::bind(socket, DATAGRAM)?;
    receiver.send(transaction, doing)?;
    // The kernel has answered by now: with the first error, or with an acknowledgement of each message. A commit
    // that fails is told of beside these.
    let (mut acknowledged, mut failed) = (false, None);
    receiver.drain(usize::MAX, |received| {
        let Received::Datagram(datagram) = received else { return };
        let errors = Messages::new(datagram).filter(|message| i32::from(message.kind) == libc::NLMSG_ERROR);
        for error in errors.filter_map(|message| error_number(message.payload)) {
            match error {
                0 => acknowledged = true,
                error => _ = failed.get_or_insert(error),
            }
        }
    })?;
    match failed {
        Some(error) => Err(NetlinkError::Refused {
            doing: doing.to_owned(),
            source: Errno::from_raw(error),
            message: String::new(),
        }),
        None if acknowledged => Ok(()),
        None => Err(NetlinkError::Malformed(doing)),
    }
}
