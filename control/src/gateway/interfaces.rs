//! The host's interfaces, as they concern ports: what is built on a twin, and what follows from that.

use std::collections::{HashMap, HashSet};

use super::offload::PortLengths;
use crate::netlink::watch::Link;
use crate::tracker::Interfaces;

/// Interfaces by index.
pub(super) type Links = HashMap<u32, Link>;

/// An interface and all that is built on it: bridges, bonds, VLANs.
pub(super) fn above(ifindex: u32, links: &Links) -> HashSet<u32> {
    let mut found = HashSet::from([ifindex]);
    let mut next = vec![ifindex];
    while let Some(below) = next.pop() {
        let master = links.get(&below).and_then(|link| link.master);
        let upper = links.values().filter(|link| link.lower == Some(below)).map(|link| link.ifindex);
        for link in upper.chain(master) {
            if found.insert(link) {
                next.push(link);
            }
        }
    }
    found
}

/// Names under which rules may know ports, whose twins are given in the order of the ports.
pub(super) fn names(twins: &[u32], links: &Links) -> Interfaces {
    let named = |twin: &u32| {
        let above = above(*twin, links);
        let mut names: Vec<String> =
            above.iter().filter_map(|link| links.get(link)).map(|link| link.name.clone()).collect();
        names.sort_unstable();
        names
    };
    Interfaces(twins.iter().map(named).collect())
}

/// How long packets of ports can be, of which the twin and what can come in are given.
pub(super) fn lengths(ports: &[(u32, u16)], links: &Links) -> Vec<PortLengths> {
    let mtu = |link: &u32| links.get(link).map_or(0, |link| link.mtu);
    let of = |(twin, may_come): &(u32, u16)| PortLengths {
        may_come: *may_come,
        may_leave_by: above(*twin, links).iter().map(|link| (*link, mtu(link).min(mtu(twin)))).collect(),
    };
    ports.iter().map(of).collect()
}
