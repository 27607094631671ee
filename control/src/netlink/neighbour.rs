//! Neighbours that the kernel must go on probing although it sends nothing to them itself.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use nix::errno::Errno;
use nix::libc;

use super::NetlinkError;
use super::route::{RouteSocket, family};

/// The origin (NDA_PROTOCOL) that kept neighbours bear, so that a later process knows those of an earlier one. Not among
/// those of linux/rtnetlink.h (RTPROT_*) or iproute2's.
pub(super) const PROTOCOL: u8 = 70;

/// Asks the kernel to keep neighbours, and to stop keeping them.
///
/// All of them are lost when the last descriptor of a twin closes: keep them again after a restart.
#[derive(Debug)]
pub struct Neighbours {
    socket: RouteSocket,
}

impl Neighbours {
    /// Opens a socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: RouteSocket::open()? })
    }

    /// Makes a neighbour managed (NTF_EXT_MANAGED): the kernel resolves it and probes it ever after. It is
    /// also marked as learned from outside, which exempts it from garbage collection. What the kernel
    /// knows of it stays.
    pub fn keep(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = neighbour(ifindex, address, NeighbourFlags::ExtLearned);
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        self.socket.change(
            || format!("keep the neighbour {address} of interface {ifindex}"),
            RouteNetlinkMessage::NewNeighbour(message),
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        )
    }

    /// Makes it an ordinary neighbour again, with what the kernel knows of it: it becomes stale and is
    /// forgotten when nobody needs it. One that is not there is no error.
    pub fn release(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        // NTF_USE leaves state and MAC alone, and lets the flags be replaced.
        let message = neighbour(ifindex, address, NeighbourFlags::Use);
        let released = self.socket.change(
            || format!("release the neighbour {address} of interface {ifindex}"),
            RouteNetlinkMessage::NewNeighbour(message),
            libc::NLM_F_REPLACE,
        );
        match released {
            Err(error) if matches!(error.code(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(()),
            other => other,
        }
    }
}

fn neighbour(ifindex: u32, address: IpAddr, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::None;
    message.header.flags = flags;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::testing::{eventually, in_namespace, run};

    #[test]
    fn a_kept_neighbour_is_resolved_and_released_it_is_ordinary() {
        in_namespace(|| {
            run("ip link add v0 type veth peer name v1");
            run("ip link set v0 up");
            run("ip link set v1 up");
            run("ip addr add 10.0.0.1/24 dev v0");
            let ifindex = nix::net::if_::if_nametoindex("v0").expect("index");
            let mut neighbours = Neighbours::open().expect("socket");
            let answered: IpAddr = "10.0.0.2".parse().expect("address");
            let address6: IpAddr = "fd00::2".parse().expect("address");
            let show = || run("ip neigh show nud all dev v0 to 10.0.0.2");

            run("ip neigh replace 10.0.0.2 dev v0 lladdr 02:00:00:00:00:02 nud reachable");
            neighbours.keep(ifindex, answered).expect("kept");
            let line = show();
            assert!(line.contains("managed") && line.contains("extern_learn"), "{line}");
            assert!(line.contains("02:00:00:00:00:02 "), "what was known stays: {line}");

            neighbours.keep(ifindex, address6).expect("kept");
            eventually("the kernel probes by itself", || {
                run("ip neigh show nud all dev v0 to fd00::2").contains("managed extern_learn INCOMPLETE")
            });

            neighbours.release(ifindex, answered).expect("released");
            let line = show();
            assert!(!line.contains("managed") && !line.contains("extern_learn"), "{line}");
            assert!(line.contains("02:00:00:00:00:02 "), "{line}");
            run("ip neigh del 10.0.0.2 dev v0");
            neighbours.release(ifindex, answered).expect("gone is no error");

            let refused = neighbours.keep(4711, answered).expect_err("no such interface").to_string();
            assert!(refused.starts_with("the kernel refused to keep the neighbour 10.0.0.2 of"), "{refused}");
        });
    }
}
