//! Where the kernel would send a packet, and how long it may be. What flies goes where the kernel was seen to send it; what
//! is asked here is for explanations, and for what a frame does not show.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use nix::libc;

use super::NetlinkError;
use super::message::{Attributes, Message, ne32};
use super::route::{RouteSocket, family};

/// What a route says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface by which packets leave.
    pub ifindex: u32,
    /// The route's own MTU, if it has one.
    pub mtu: Option<u32>,
}

/// The way of a packet to an address, as far as the destination alone decides: rules that look at sources, marks and
/// interfaces are not followed.
///
/// # Errors
/// When there is no route (ENETUNREACH and the like), or the socket fails.
pub fn egress(to: IpAddr) -> Result<Way, NetlinkError> {
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
fn parse(message: &Message<'_>) -> Option<Way> {
    const HEADER: usize = 12;
    const OIF: u16 = 4;
    const METRICS: u16 = 8;
    const METRIC_MTU: u16 = 2;
    if message.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let (mut ifindex, mut mtu) = (None, None);
    for (kind, value) in Attributes(message.payload.get(HEADER..)?) {
        match kind {
            OIF => ifindex = ne32(value),
            METRICS => {
                let metric = Attributes(value).find(|(kind, _)| *kind == METRIC_MTU);
                mtu = metric.and_then(|(_, value)| ne32(value));
            }
            _ => {}
        }
    }
    Some(Way { ifindex: ifindex?, mtu })
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
                let way = egress(to.parse().expect("address")).expect("a route");
                assert_eq!(way, Way { ifindex: v0, mtu: None }, "{to}");
            }
            run("ip route add 203.0.113.0/24 via 192.0.2.9 mtu 1400");
            run("ip -6 route add 2001:db8:7::/64 via 2001:db8::9 mtu lock 1300");
            for (to, mtu) in [("203.0.113.1", 1400), ("2001:db8:7::1", 1300)] {
                let way = egress(to.parse().expect("address")).expect("a route");
                assert_eq!(way, Way { ifindex: v0, mtu: Some(mtu) }, "{to}");
            }
            for to in ["198.51.100.1", "2001:db8:1::1"] {
                let error = egress(to.parse().expect("address")).expect_err("no route");
                assert_eq!(error.code(), Some(Errno::ENETUNREACH), "{error}");
                assert!(error.to_string().contains(to), "{error}");
            }
        });
    }
}
