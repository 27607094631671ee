//! Where the kernel would send a packet: for explanations only. What flies goes where the kernel was seen to send it.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use nix::libc;

use super::NetlinkError;
use super::message::{Attributes, Message, ne32};
use super::route::{RouteSocket, family};

/// The interface by which a packet to an address leaves, as far as the destination alone decides: rules that look at
/// sources, marks and interfaces are not followed.
///
/// # Errors
/// When there is no route (ENETUNREACH and the like), or the socket fails.
pub fn egress(to: IpAddr) -> Result<u32, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = family(to);
    let (address, bits) = match to {
        IpAddr::V4(to) => (RouteAddress::Inet(to), 32),
        IpAddr::V6(to) => (RouteAddress::Inet6(to), 128),
    };
    request.header.destination_prefix_length = bits;
    request.attributes.push(RouteAttribute::Destination(address));
    let doing = || format!("look up the route to {to}");
    RouteSocket::open()?.ask(doing, RouteNetlinkMessage::GetRoute(request), parse)
}

/// `struct rtmsg` and its attributes.
fn parse(message: &Message<'_>) -> Option<u32> {
    const HEADER: usize = 12;
    const OIF: u16 = 4;
    if message.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let (_, oif) = Attributes(message.payload.get(HEADER..)?).find(|(kind, _)| *kind == OIF)?;
    ne32(oif)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::netlink::testing::{in_namespace, run};

    #[test]
    fn routes_are_asked_for() {
        in_namespace(|| {
            run("ip link add v0 type veth peer name v1");
            run("ip link set v0 up");
            run("ip address add 192.0.2.1/24 dev v0");
            run("ip address add 2001:db8::1/64 dev v0 nodad");
            let v0 = nix::net::if_::if_nametoindex("v0").expect("v0");
            for to in ["192.0.2.9", "2001:db8::9"] {
                assert_eq!(egress(to.parse().expect("address")).expect("a route"), v0, "{to}");
            }
            for to in ["198.51.100.1", "2001:db8:1::1"] {
                let error = egress(to.parse().expect("address")).expect_err("no route");
                assert_eq!(error.code(), Some(Errno::ENETUNREACH), "{error}");
                assert!(error.to_string().contains(to), "{error}");
            }
        });
    }
}
