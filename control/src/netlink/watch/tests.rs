//! Messages built by netlink-packet-route, an encoder that is not ours, and bytes that nobody would send.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoBridge, InfoData, InfoKind, LinkFlags, LinkInfo, LinkLayerType, Prop};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourState};
use netlink_packet_route::route::RouteProtocol;
use nix::libc;
use proptest::prelude::*;

use super::*;
use crate::netlink::neighbour;

fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn items(bytes: &[u8]) -> Vec<Item> {
    Messages::new(bytes).filter_map(|message| parse_route(&message)).collect()
}

fn macs() -> impl Strategy<Value = Option<[u8; 6]>> {
    any::<Option<[u8; 6]>>()
}

fn ips() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).into()),
    ]
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

proptest! {
    #[test]
    fn a_link_is_read(
        ifindex in 1u32.., name in "[a-z][a-z0-9.]{0,14}", altnames in proptest::collection::vec("[a-z]{1,20}", 0..3),
        up: bool, carrier: bool, mtu: u32, mac in macs(), master in any::<Option<u32>>(), lower in any::<Option<u32>>(), kind in 0..4, deleted: bool,
    ) {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.flags.set(LinkFlags::Up, up);
        message.header.flags.set(LinkFlags::Running, carrier);
        message.attributes.push(LinkAttribute::IfName(name.clone()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.extend(master.map(LinkAttribute::Controller));
        message.attributes.extend(lower.map(LinkAttribute::Link));
        let (ppp, filters_vlans) = (kind == 1, kind == 2);
        message.header.link_layer_type = if ppp { LinkLayerType::Ppp } else { LinkLayerType::Ether };
        if kind > 1 {
            let info = LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(filters_vlans)]));
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), info]));
        }
        message.attributes.push(LinkAttribute::PropList(altnames.iter().cloned().map(Prop::AltIfName).collect()));
        let lower = lower.filter(|lower| *lower != 0 && *lower != ifindex);
        let running = up && carrier;
        let expected =
            Link { ifindex, name, altnames, up, running, mtu, mac, master, lower, ppp, filters_vlans };
        let message = if deleted { RouteNetlinkMessage::DelLink(message) } else { RouteNetlinkMessage::NewLink(message) };
        let [Item::Link { link, deleted: gone }] = &items(&bytes(message))[..] else { panic!("no link") };
        prop_assert_eq!((link, *gone), (&expected, deleted));
    }

    #[test]
    fn an_address_is_read(ifindex: u32, prefix: u8, local in ips(), peer in proptest::option::of(ips())) {
        let peer = peer.filter(|peer| peer.is_ipv4() == local.is_ipv4());
        let mut message = AddressMessage::default();
        message.header.family = family(local);
        message.header.prefix_len = prefix;
        message.header.index = ifindex;
        message.attributes.push(AddressAttribute::Address(peer.unwrap_or(local)));
        message.attributes.extend(peer.map(|_| AddressAttribute::Local(local)));
        let read = items(&bytes(RouteNetlinkMessage::NewAddress(message)));
        let [Item::Address { address, added: true }] = read[..] else { panic!("{read:?}") };
        prop_assert_eq!(address, Address { ifindex, address: local, prefix });
    }

    #[test]
    fn a_neighbour_is_read(ifindex: u32, address in ips(), mac in macs(), state in 0usize..9, deleted: bool, ours: bool) {
        use NeighbourState as State;
        let (state, usable) = [
            (State::None, false), (State::Incomplete, false), (State::Failed, false),
            (State::Reachable, true), (State::Stale, true), (State::Delay, true),
            (State::Probe, true), (State::Permanent, true), (State::Noarp, true),
        ][state];
        let usable = usable && !deleted;
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = ifindex;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        if ours {
            message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(neighbour::PROTOCOL)));
        }
        // An administrator may have asked for the same.
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let message = if deleted {
            RouteNetlinkMessage::DelNeighbour(message)
        } else {
            RouteNetlinkMessage::NewNeighbour(message)
        };
        let read = items(&bytes(message));
        if address.is_multicast() {
            prop_assert!(read.is_empty());
        } else {
            let [Item::Neighbour { neighbour, deleted: gone }] = read[..] else { panic!("{read:?}") };
            // Permanent or without ARP; or managed by somebody else.
            let fixed = !deleted && (matches!(state, State::Permanent | State::Noarp) || !ours);
            let expected =
                Neighbour { ifindex, address, mac: mac.filter(|_| usable), usable, kept: ours && !deleted, fixed };
            prop_assert_eq!((neighbour, gone), (expected, deleted));
        }
    }

    #[test]
    fn any_bytes_are_survived(
        kind in prop_oneof![16u16..130, Just(0x0a0f)], payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let message = Message { kind, flags: 0, sequence: 0, port: 0, payload: &payload };
        let _ = (parse_route(&message), parse_netfilter(&message));
        items(&payload);
    }

    #[test]
    fn replacing_tells_just_the_differences(before in states(), after in states()) {
        let mut known = Known::new(&before);
        known.replace(&after);
        prop_assert_eq!(&known, &Known::new(&after));
        prop_assert_eq!(known.replace(&after), []);
    }
}

/// Few interfaces, addresses and neighbours, so that two states often share some.
fn states() -> impl Strategy<Value = InitialState> {
    let mtus = proptest::collection::btree_map(0u32..4, 1500u32..1502, 0..4);
    let hosts = || proptest::collection::btree_map((0u32..4, 1u8..5), 0u8..3, 0..8);
    (mtus, hosts(), hosts()).prop_map(|(mtus, addresses, neighbours)| InitialState {
        links: mtus.into_iter().map(|(ifindex, mtu)| link(ifindex, mtu)).collect(),
        addresses: addresses
            .into_keys()
            .map(|(ifindex, host)| Address {
                ifindex,
                address: Ipv4Addr::new(10, 0, host, 1).into(),
                prefix: 24,
            })
            .collect(),
        neighbours: neighbours
            .into_iter()
            .map(|((ifindex, host), mac)| Neighbour {
                ifindex,
                address: Ipv4Addr::new(10, 0, 0, host).into(),
                mac: Some([mac; 6]),
                usable: true,
                kept: false,
                fixed: false,
            })
            .collect(),
    })
}

fn link(ifindex: u32, mtu: u32) -> Link {
    let name = format!("v{ifindex}");
    Link {
        ifindex,
        name,
        altnames: vec![],
        up: true,
        running: true,
        mtu,
        mac: None,
        master: None,
        lower: None,
        ppp: false,
        filters_vlans: false,
    }
}

#[test]
fn bridges_and_proxies_are_no_neighbours() {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2; 6]));
    let read = items(&bytes(RouteNetlinkMessage::NewNeighbour(message.clone())));
    assert!(matches!(read[..], [Item::Coarse(Kind::Fdb)]), "{read:?}");
    message.header.family = AddressFamily::Inet;
    message.header.flags = netlink_packet_route::neighbour::NeighbourFlags::Proxy;
    message.attributes.push(NeighbourAttribute::Destination(Ipv4Addr::LOCALHOST.into()));
    assert!(items(&bytes(RouteNetlinkMessage::NewNeighbour(message))).is_empty());
}

#[test]
fn only_a_new_generation_is_a_ruleset_change() {
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
    let payload = [0, 0, 0, 9, 8, 0, 1, 0, 0, 0, 0, 5, 8, 0, 2, 0, 0, 0, 0, 77];
    let message = |kind| Message { kind, flags: 0, sequence: 0, port: 3, payload: &payload };
    let read = parse_netfilter(&message(kind | 15));
    assert!(matches!(read, Some(Item::Ruleset { generation: 5, port: 3, pid: 77 })), "{read:?}");
    assert!(parse_netfilter(&message(kind | 6)).is_none());
}
