//! Cases that were a mismatch once, or are easy to get wrong: replayed before everything else.

use dataplane::packet::{DropReason, PuntReason};

/// What must become of a case. That both gateways agree is asked of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It flies.
    Flies,
    /// It is punted.
    Punted(PuntReason),
    /// It is dropped.
    Dropped(DropReason),
}

/// A case with a name.
#[derive(Clone, Copy, Debug)]
pub struct Regression {
    /// What it shows.
    pub name: &'static str,
    /// What must become of it.
    pub expected: Expected,
    /// The case, as [`Case`](super::Case) prints it.
    pub line: &'static str,
}

/// All of them.
pub const REGRESSIONS: &[Regression] = &[
    Regression {
        name: "a UDP datagram over IPv6 without a checksum stays without one",
        expected: Expected::Flies,
        line: "proto=udp src=[2001:db8:1::7]:5000 dst=[2001:db8:2::9]:80 snat=[2001:db8:3::1]:6000 \
               from=left to=right priority=0 length=65535 state=software refuse_longer=false verify=true \
               port=0 \
               frame=02000000000a02000000010086dd600000000010114020010db800010000000000000000000720010db800\
               020000000000000000000913880050001000007061796c6f616421",
    },
    Regression {
        name: "an IPv4 header checksum of zero in its other form",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024d48440004011ffffc6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "an IPv4 header checksum of zero in its other form, translated",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 snat=192.0.2.1:6000 from=left to=right \
               priority=0 length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024d48440004011ffffc6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a TCP checksum of zero in its other form",
        expected: Expected::Flies,
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000028000140004006d48ac6336407cb00710913880050000003e900\
               0007d150100200ffff27fe",
    },
    Regression {
        name: "a TCP checksum of zero in its other form, through NAT that changes no sum",
        expected: Expected::Flies,
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 snat=198.51.99.7:5256 from=left to=right \
               priority=0 length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000028000140004006d48ac6336407cb00710913880050000003e900\
               0007d150100200ffff27fe",
    },
    Regression {
        name: "a UDP datagram shorter than its packet",
        expected: Expected::Punted(PuntReason::Malformed),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d483c6336407cb00710913880050000cc86470\
               61796c6f616421",
    },
    Regression {
        name: "a UDP length of zero",
        expected: Expected::Punted(PuntReason::Malformed),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d483c6336407cb007109138800500000c87070\
               61796c6f616421",
    },
    Regression {
        name: "a TCP header longer than its packet",
        expected: Expected::Punted(PuntReason::Malformed),
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000028000140004006d48ac6336407cb00710913880050000003e900\
               0007d16010020017fe0000",
    },
    Regression {
        name: "a flag combination that conntrack calls INVALID",
        expected: Expected::Punted(PuntReason::Malformed),
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000028000140004006d48ac6336407cb00710913880050000003e900\
               0007d150000200280e0000",
    },
    Regression {
        name: "ECE, CWR, PSH, URG and reserved bits",
        expected: Expected::Flies,
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000028000140004006d48ac6336407cb00710913880050000003e900\
               0007d15ff80200180d0009",
    },
    Regression {
        name: "the reserved flag of IPv4",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a0200000001000800450000240001800040119483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "padding goes",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f61642170616464696e6770616464696e6770616464696e6770616464696e67",
    },
    Regression {
        name: "from PPPoE into two tags, with padding",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left-pppoe to=right-qinq priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a0200000001008864110012340026002145000024000140004011d483c6336407cb00710913\
               8800500010c8607061796c6f61642170616464696e67",
    },
    Regression {
        name: "out of two tags into PPPoE in a tag",
        expected: Expected::Flies,
        line: "proto=tcp src=[2001:db8:1::7]:5000 dst=[2001:db8:2::9]:80 from=left-qinq to=right-pppoe \
               priority=0 length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a02000000010088a800c88100012c86dd600000000014064020010db8000100000000000000\
               00000720010db800020000000000000000000913880050000003e9000007d15010020032be0000",
    },
    Regression {
        name: "a port as both in and out",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=left priority=0 length=65535 \
               state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a priority other than the learned one",
        expected: Expected::Punted(PuntReason::IngressContext),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left-vlan to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a0200000001008100e064080045000024000140004011d483c6336407cb0071091388005000\
               10c8607061796c6f616421",
    },
    Regression {
        name: "a flow by another port",
        expected: Expected::Punted(PuntReason::IngressContext),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=1 \
               frame=02000000000b020000000100080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a flow to another MAC address",
        expected: Expected::Punted(PuntReason::IngressContext),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000c020000000100080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a routed flow from another MAC address",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a02000000ffff080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a TTL of two",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a0200000001000800450000240001400002111284c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a TTL of one",
        expected: Expected::Punted(PuntReason::Ttl),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a0200000001000800450000240001400001111384c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a hop limit of one",
        expected: Expected::Punted(PuntReason::Ttl),
        line: "proto=tcp src=[2001:db8:1::7]:5000 dst=[2001:db8:2::9]:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a02000000010086dd600000000014060120010db800010000000000000000000720010db800\
               020000000000000000000913880050000003e9000007d15010020032be0000",
    },
    Regression {
        name: "as long as proved",
        expected: Expected::Flies,
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 length=36 \
               state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "longer than proved",
        expected: Expected::Punted(PuntReason::ProvedLength),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 length=35 \
               state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a first fragment",
        expected: Expected::Punted(PuntReason::Fragment),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000120004011f483c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "an IPv4 option",
        expected: Expected::Punted(PuntReason::IpOptions),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080046000028000140004011d17ec6336407cb007109010101001388005000\
               10c8607061796c6f616421",
    },
    Regression {
        name: "destination options",
        expected: Expected::Punted(PuntReason::ExtensionHeader),
        line: "proto=udp src=[2001:db8:1::7]:5000 dst=[2001:db8:2::9]:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a02000000010086dd6000000000103c4020010db800010000000000000000000720010db800\
               020000000000000000000911000104000000001388005000089081",
    },
    Regression {
        name: "a FIN",
        expected: Expected::Punted(PuntReason::TcpControl),
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000028000140004006d48ac6336407cb00710913880050000003e900\
               0007d15011020027fd0000",
    },
    Regression {
        name: "a bad IPv4 header checksum",
        expected: Expected::Dropped(DropReason::BadIpHeader),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a020000000100080045000024000140004011d484c6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "an IPv4 packet longer than its frame",
        expected: Expected::Dropped(DropReason::BadIpHeader),
        line: "proto=udp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left to=right priority=0 \
               length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000000a0200000001000800450000c8000140004011d3dfc6336407cb007109138800500010c86070\
               61796c6f616421",
    },
    Regression {
        name: "a bridged flow",
        expected: Expected::Flies,
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left-bridge to=right-bridge \
               priority=0 length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000010902000000010881000032080045000028000140004006d48ac6336407cb0071091388005000\
               0003e9000007d15010020027fe0000",
    },
    Regression {
        name: "a bridged flow from another MAC address",
        expected: Expected::Punted(PuntReason::IngressContext),
        line: "proto=tcp src=198.51.100.7:5000 dst=203.0.113.9:80 from=left-bridge to=right-bridge \
               priority=0 length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=02000000010902000000ffff81000032080045000028000140004006d48ac6336407cb0071091388005000\
               0003e9000007d15010020027fe0000",
    },
    Regression {
        name: "a bridged flow from a group",
        expected: Expected::Punted(PuntReason::IngressContext),
        line: "proto=udp src=[2001:db8:1::7]:5000 dst=[2001:db8:2::9]:80 from=left-bridge to=right-bridge \
               priority=0 length=65535 state=software refuse_longer=false verify=true port=0 \
               frame=0200000001090300000001088100003286dd600000000008114020010db800010000000000000000000720\
               010db80002000000000000000000091388005000089081",
    },
];
