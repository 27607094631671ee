//! What the kernel knows of an interface that may be a tap.
//!
//! TUNSETIFF answers EINVAL for several reasons, and lets a second process into a multi-queue tap. One RTM_GETLINK
//! tells which case it is (linux/if_link.h: IFLA_INFO_KIND, IFLA_TUN_*).

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// What an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A tap.
    Tap {
        /// Made with IFF_MULTI_QUEUE.
        multi_queue: bool,
        /// Descriptors attached to it.
        queues: u32,
    },
    /// Anything else.
    Other,
}

/// Looks an interface of the thread's network namespace up; `None` if there is none.
pub(super) fn interface(name: &str) -> io::Result<Option<Kind>> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &request(name), MsgFlags::empty())?;
    // A link message is well below this; the kernel's own limit for one answer is 32 KiB.
    let mut answer = vec![0; 32 * 1024];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    parse(answer.get(..len).unwrap_or_default())
}

fn request(name: &str) -> Vec<u8> {
    let attribute = 4 + name.len() + 1;
    let len = NLMSG_HEADER + IFINFOMSG + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(len);
    // Names are at most 15 bytes long here: neither length can overflow.
    message.extend_from_slice(&(len as u32).to_ne_bytes());
    message.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message.resize(NLMSG_HEADER + IFINFOMSG, 0);
    message.extend_from_slice(&(attribute as u16).to_ne_bytes());
    message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message.extend_from_slice(name.as_bytes());
    message.resize(len, 0);
    message
}

fn parse(answer: &[u8]) -> io::Result<Option<Kind>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (header, body) = answer.split_at_checked(NLMSG_HEADER).ok_or_else(malformed)?;
    match u16_at(header, 4) {
        Some(NLMSG_ERROR) => {
            let errno = body.first_chunk().map(|code| i32::from_ne_bytes(*code)).ok_or_else(malformed)?;
            match Errno::from_raw(errno.saturating_neg()) {
                Errno::ENODEV => Ok(None),
                errno => Err(errno.into()),
            }
        }
        Some(RTM_NEWLINK) => Ok(Some(kind(body.get(IFINFOMSG..).ok_or_else(malformed)?))),
        _ => Err(malformed()),
    }
}

fn kind(link: &[u8]) -> Kind {
    let Some(info) = attribute(link, IFLA_LINKINFO) else { return Kind::Other };
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let byte = |wanted| attribute(data, wanted).and_then(|value| value.first().copied());
    let number = |wanted| attribute(data, wanted)?.first_chunk().map(|value| u32::from_ne_bytes(*value));
    let is_tun =
        attribute(info, IFLA_INFO_KIND).is_some_and(|kind| kind.strip_suffix(&[0]).unwrap_or(kind) == b"tun");
    if !is_tun || byte(IFLA_TUN_TYPE).map(i32::from) != Some(libc::IFF_TAP) {
        return Kind::Other;
    }
    let multi_queue = byte(IFLA_TUN_MULTI_QUEUE) == Some(1);
    // The kernel tells of queues for multi-queue taps alone; for the others TUNSETIFF says EBUSY.
    let queues = number(IFLA_TUN_NUM_QUEUES).unwrap_or(0);
    let disabled = number(IFLA_TUN_NUM_DISABLED_QUEUES).unwrap_or(0);
    Kind::Tap { multi_queue, queues: queues.saturating_add(disabled) }
}

/// The payload of the first attribute of a type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        let this = attributes.get(4..len)?;
        if u16_at(attributes, 2)? & NLA_TYPE_MASK == wanted {
            return Some(this);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|value| u16::from_ne_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_answers_are_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[0; 15]).is_err());
        assert_eq!(kind(&[1, 2, 3]), Kind::Other);
        // An attribute shorter than its header, and one longer than the message.
        assert_eq!(attribute(&[3, 0, 1, 0], 1), None);
        assert_eq!(attribute(&[9, 0, 1, 0, 5], 1), None);
    }

    #[test]
    fn loopback_is_not_a_tap() -> io::Result<()> {
        assert_eq!(interface("lo")?, Some(Kind::Other));
        assert_eq!(interface("no-such-link")?, None);
        Ok(())
    }
}
