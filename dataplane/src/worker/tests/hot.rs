//! Directions with many packets are told of.

use super::*;
use crate::flow::{TCP, UDP};
use crate::worker::{Hot, Told};

#[test]
fn a_direction_is_told_of_with_the_ttl_that_its_packets_come_in_with() {
    for (version, ttl) in [(Version::V4, 64), (Version::V4, 255), (Version::V6, 64), (Version::V6, 2)] {
        let mut rig = Rig::new();
        rig.worker.carrier.link.hot = Hot::every(4);
        let (busy, quiet) = (
            rig.connect_over(version, UDP, EntryState::Software),
            rig.connect_over(version, TCP, EntryState::Software),
        );
        // One by one and in a burst; with a tag, whose packets are made ready another way.
        let frame = |number: u16| busy.frame(number).with(|f| f.ttl = ttl);
        rig.arrive(0, &[frame(1)]);
        rig.arrive(0, &[quiet.frame(2)]);
        rig.rounds();
        assert_eq!(rig.link().hot.pop(), None);
        rig.arrive(0, &[frame(3), frame(4), frame(5), frame(6)]);
        rig.rounds();
        assert_eq!(rig.link().hot.pop(), Some(Told { flow: busy.flows[0], ttl, worker: 0 }));
        assert_eq!(rig.link().hot.pop(), None);
        assert_eq!(rig.sent(1).len(), 6);
        rig.finish();
    }
}

#[test]
fn the_ip_header_is_found_behind_tags() {
    let mut rig = Rig::new();
    rig.worker.carrier.link.hot = Hot::every(1);
    let connection = rig.connect(UDP, EntryState::Software);
    let header = [2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 0x81, 0, 0, 7, 8, 0];
    let egress =
        Egress { port: 1, header: header.into_iter().collect(), mtu: 1500, pppoe_length: None, dscp: None };
    let adjacency = rig.adjacencies.acquire(&egress).expect("room");
    let slot = connection.flows[0].slot;
    let context = rig.link().table.entry(slot).context();
    rig.writer.set_forwarding(slot, context, adjacency, 0);
    rig.arrive(0, &[connection.frame(1).with(|f| f.ttl = 99)]);
    rig.rounds();
    assert_eq!(rig.link().hot.pop(), Some(Told { flow: connection.flows[0], ttl: 99, worker: 0 }));
    assert_eq!(rig.sent(1).len(), 1);
    rig.finish();
}
