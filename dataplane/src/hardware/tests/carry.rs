//! Flows from the flow table, their rules, and how those are printed.

use super::*;
use crate::flow::{
    AdjacencyTable, ContextTable, Egress as Adjacent, EntryView, FlowTable, Placement, TableConfig, flags,
};
use crate::packet::tcp::{ACK, FIN, RST, SYN};

fn tcp() -> Frame {
    Frame::tcp("10.0.0.2:4000", "192.0.2.9:80")
}

fn tcp_out() -> Frame {
    let out = Frame::tcp("192.0.2.1:50000", "192.0.2.9:80");
    out.with(|f| (f.dst_mac, f.src_mac) = ([2, 0, 0, 0, 1, 2], [2, 0, 0, 0, 1, 1]))
}

fn udp6() -> Frame {
    Frame::udp("[fd00::2]:4000", "[2001:db8::9]:53")
}

#[test]
fn flows_are_taken_from_the_table() {
    let placement = Placement { huge_pages: false, numa_node: None };
    let config = TableConfig { placement, ipv6_share: 100, ..TableConfig::new(8) };
    let (table, mut writer) = FlowTable::create(config).expect("memory");
    let (adjacencies, mut egress) = AdjacencyTable::create(8, table.qsbr(), placement).expect("memory");
    let (contexts, mut ingress) = ContextTable::create(table.qsbr(), placement).expect("memory");
    let (frame, out) = (tcp().vlan(0x6007), tcp_out().vlan(0x2009));
    let reply = Key::from_tuple(&out.tuple.inverted()).expect("one family");
    let orig = Key::from_tuple(&frame.tuple).expect("one family");
    let [flow, _] = writer.insert_pair(&orig, &reply, 0).expect("room");
    let entry = table.entry(table.resolve(flow).expect("an entry"));
    let lengths = Lengths { may_come: 1500, may_leave: 1500, compared: false };
    let derive = |lengths| HardwareFlow::derive(entry, &contexts, &adjacencies, lengths);
    assert_eq!(derive(lengths), Err(Unfit::Unproved));

    let header = L2Header::learn(&out.build()).expect("IP");
    let adjacent = |pppoe_length, dscp| Adjacent {
        port: OUT,
        header: header.bytes().iter().copied().collect(),
        mtu: 1500,
        pppoe_length,
        dscp,
    };
    let context = ingress.acquire(&context(&frame.build())).expect("room");
    let mut learn = |adjacent: &Adjacent, flags| {
        let id = egress.acquire(adjacent).expect("room");
        entry.status().set_forwarding(context, id, flags);
    };
    learn(&adjacent(Some(16), None), 0);
    assert_eq!(derive(lengths), Err(Unfit::Pppoe));
    learn(&adjacent(None, Some(46)), 0);
    assert_eq!(derive(lengths), Err(Unfit::Dscp));
    learn(&adjacent(None, None), flags::BRIDGED);
    assert_eq!(derive(lengths), Err(Unfit::Bridged));
    learn(&adjacent(None, None), 0);
    let long = Lengths { may_come: 9000, may_leave: 9000, compared: false };
    assert_eq!(derive(long), Err(Unfit::TooLong(Lengths { may_leave: 1500, ..long })));
    let unproved = Lengths { may_come: 1500, may_leave: 1000, compared: false };
    assert_eq!(derive(unproved), Err(Unfit::TooLong(unproved)));
    // A NIC that compares lengths gives what is longer to software.
    let longest = |lengths| derive(lengths).map(|flow| flow.longest);
    assert_eq!(longest(Lengths { compared: true, ..long }), Ok(Some(1500)));
    assert_eq!(longest(Lengths { compared: true, ..unproved }), Ok(Some(1000)));
    assert_eq!(longest(Lengths { compared: true, ..lengths }), Ok(None));
    let tiny = Lengths { may_leave: 67, compared: true, ..lengths };
    assert_eq!(longest(tiny), Err(Unfit::TooLong(tiny)));

    let derived = derive(lengths).expect("it can be carried");
    let (expected, _) = super::flow(&frame, &out).expect("it can be carried");
    assert_eq!(derived, expected);
    assert_eq!((derived.port, derived.egress), (IN, OUT));
    assert_eq!(
        (&derived.tags[..], &derived.new_tags[..]),
        (&[(0x8100, 0x6007)][..], &[(0x8100, 0x2009)][..])
    );
    assert_eq!(derived.leaves_as.tuple(), out.tuple);
}

#[test]
fn some_flows_no_rule_carries() {
    let unfit = |frame: &Frame, out: &Frame| flow(frame, out).expect_err("no rule carries it");
    assert_eq!(unfit(&tcp().pppoe(1), &tcp_out()), Unfit::Pppoe);
    assert_eq!(unfit(&tcp(), &tcp_out().pppoe(1)), Unfit::Header);
    assert_eq!(unfit(&tcp(), &Frame::udp("192.0.2.1:1", "192.0.2.9:2")), Unfit::Protocol);
    assert_eq!(unfit(&tcp(), &Frame::tcp("[fd00::2]:1", "[fd00::3]:2")), Unfit::Protocol);
    // A DEI bit stays where it is, but can't be put on.
    assert_eq!(unfit(&tcp(), &tcp_out().vlan(0x1007)), Unfit::Dei);
    assert_eq!(unfit(&tcp().vlan(7), &tcp_out().vlan(0x1007)), Unfit::Dei);
    assert!(flow(&tcp().vlan(0x1007), &tcp_out().vlan(0x1009)).is_ok());
}

#[test]
fn guards_send_to_software_what_workers_would_not_carry() {
    let frame = tcp().payload(b"hello");
    let (flow, _) = flow(&frame, &tcp_out()).expect("it can be carried");
    let forms =
        [plain_form(), form(Domain::Transfer, 2, Fields::Modify), form(Domain::Ingress, 0, Fields::Set)];
    for form in
        forms.into_iter().flat_map(|form| [true, false].map(|integrity| Form { integrity, ..form.clone() }))
    {
        let (nic, rules) = nic();
        install(&rules, &flow, &form, 64);
        let outcome = |frame: &Frame| nic.process(IN, &mut frame.build());
        assert_eq!(outcome(&frame), Outcome::Sent(OUT));
        let mut punted: Vec<Frame> =
            [FIN | ACK, SYN, SYN | ACK, RST, RST | ACK, 0].map(|flags| frame.clone().flags(flags)).into();
        punted.extend([0, 1].map(|ttl| frame.clone().with(|f| f.ttl = ttl)));
        punted.extend([0x2000, 0x2001, 0x0001, 0x1fff].map(|bits| frame.clone().with(|f| f.fragment = bits)));
        punted.push(frame.clone().with(|f| f.options = vec![1; 4]));
        for frame in punted {
            assert_eq!(outcome(&frame), TO_SOFTWARE, "{form:?} {frame:?}");
        }
        // What a NIC checks only if it is asked to.
        let bad = [
            frame.clone().with(|f| f.faults.ip_checksum_error = 1),
            frame.clone().with(|f| f.faults.l4_checksum_error = 1),
            frame.clone().with(|f| f.faults.data_offset = Some(4)),
        ];
        for frame in bad {
            assert_eq!(outcome(&frame) == TO_SOFTWARE, form.integrity, "{form:?} {frame:?}");
        }
    }
}

#[test]
fn ipv6_guards() {
    let frame = udp6().payload(b"hello");
    let (flow, _) = flow(&frame, &frame).expect("it can be carried");
    let (nic, rules) = nic();
    install(&rules, &flow, &plain_form(), 64);
    let outcome = |frame: &Frame| nic.process(IN, &mut frame.build());
    assert_eq!(outcome(&frame), Outcome::Sent(OUT));
    for number in [0, 43, 44, 60] {
        let extended = frame.clone().with(|f| f.extensions = vec![(number, vec![0; 8])]);
        assert_eq!(outcome(&extended), TO_SOFTWARE, "{number}");
    }
    for ttl in [0, 1] {
        assert_eq!(outcome(&frame.clone().with(|f| f.ttl = ttl)), TO_SOFTWARE);
    }
}

#[test]
fn a_rule_alone_is_for_one_ttl() {
    let (flow, _) = flow(&tcp(), &tcp_out()).expect("it can be carried");
    let (nic, rules) = nic();
    let form = form(Domain::Ingress, 0, Fields::Modify);
    assert!(encode::guards(&form, IN).is_empty());
    install(&rules, &flow, &form, 64);
    for ttl in 0..=255 {
        let mut packet = tcp().with(|f| f.ttl = ttl).build();
        let outcome = nic.process(IN, &mut packet);
        assert_eq!(outcome == Outcome::Sent(OUT), ttl == 64);
        assert_eq!(packet[22], if ttl == 64 { 63 } else { ttl });
    }
}

#[test]
fn marks_are_for_software() {
    let (flow, _) = flow(&tcp(), &tcp_out()).expect("it can be carried");
    for (queues, queue) in [(&[1][..], Some(1)), (&[0, 1], None)] {
        let (nic, rules) = nic_with(Knobs { tier: Tier::Assist, ..Knobs::default() });
        rules.create(&encode::mark(&flow, 0x12_3456, queues)).expect("the model marks");
        let before = tcp().build();
        let mut packet = before.clone();
        let marked = Outcome::Software { mark: Some(0x12_3456), queue };
        assert_eq!((nic.process(IN, &mut packet), packet), (marked, before));
        assert_eq!(nic.process(IN, &mut udp6().build()), TO_SOFTWARE);
        assert_eq!(nic.stats().marked, 1);
    }
}

#[test]
fn rules_are_printed_as_testpmd_takes_them() {
    let (frame, out) = (tcp().vlan(0x6007), tcp_out().service_vlan(0x2009));
    let (flow, _) = flow(&frame, &out).expect("it can be carried");
    let form = plain_form();
    assert_eq!(
        print::testpmd(IN, &encode::carry(&flow, &form, Ttl::Decrement)),
        "flow create 3 group 1 ingress pattern eth dst is 02:00:00:00:00:01 type is 0x8100 / \
         vlan tci is 0x6007 inner_type is 0x800 / ipv4 proto is 6 src is 10.0.0.2 dst is 192.0.2.9 / \
         tcp src is 4000 dst is 80 / end \
         actions of_pop_vlan / of_push_vlan ethertype 0x88a8 / of_set_vlan_vid vlan_vid 9 / \
         of_set_vlan_pcp vlan_pcp 1 / set_mac_dst mac_addr 02:00:00:00:01:02 / \
         set_mac_src mac_addr 02:00:00:00:01:01 / set_ipv4_src ipv4_addr 192.0.2.1 / set_tp_src port 50000 / \
         dec_ttl / count / age timeout 30 / port_id id 5 / end"
    );
    let modify = Form { integrity: false, ..super::form(Domain::Transfer, 0, Fields::Modify) };
    let (flow, _) = super::flow(&udp6(), &udp6().with(|f| f.tuple.dport = 5353)).expect("it can be carried");
    assert_eq!(
        print::testpmd(IN, &encode::carry(&flow, &modify, Ttl::Exact(64))),
        "flow create 3 transfer pattern represented_port ethdev_port_id is 3 / \
         eth dst is 02:00:00:00:00:01 type is 0x86dd / \
         ipv6 proto is 17 hop is 64 src is fd00::2 dst is 2001:db8::9 has_frag_ext is 0 / \
         udp src is 4000 dst is 53 / end \
         actions modify_field op set dst_type mac_dst src_type value src_value 020000000001 width 48 / \
         modify_field op set dst_type mac_src src_type value src_value 020000000002 width 48 / \
         modify_field op set dst_type udp_port_dst src_type value src_value 14e9 width 16 / \
         modify_field op set dst_type ipv6_hoplimit src_type value src_value 3f width 8 / \
         count / age timeout 30 / represented_port ethdev_port_id 5 / end"
    );
    let guards: Vec<String> = encode::guards(&form, IN).iter().map(|rule| print::testpmd(IN, rule)).collect();
    assert_eq!(
        guards[0],
        "flow create 3 ingress pattern eth / ipv4 ttl is 0 / end actions rss queues 0 1 end / end"
    );
    assert_eq!(
        guards[4],
        "flow create 3 priority 1 ingress pattern eth / \
         ipv4 version_ihl is 0x45 fragment_offset spec 0x0 fragment_offset mask 0x3fff proto is 6 / \
         tcp flags spec 0x10 flags mask 0x17 / integrity level is 0 value spec 0x6c value mask 0x6c / end \
         actions jump group 1 / end"
    );
    assert_eq!(guards.len(), 8);
    assert_eq!(
        print::testpmd(IN, &encode::mark(&flow, 77, &[1])),
        "flow create 3 ingress pattern eth dst is 02:00:00:00:00:01 type is 0x86dd / \
         ipv6 proto is 17 src is fd00::2 dst is 2001:db8::9 / udp src is 4000 dst is 53 / end \
         actions mark id 77 / queue index 1 / end"
    );
}
