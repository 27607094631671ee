//! Packets through a connection: what is right, and one to three things that are not.

use dataplane::flow::{FiveTuple, TCP, UDP};
use dataplane::packet::testing::{Faults, Frame, TcpFields, strategies};
use dataplane::packet::{checksum, tcp};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::bytes;
use super::connection::Connection;
use super::kernel::Opened;

/// The longest frame that is generated, padding included.
const LONGEST: usize = 12_000;

/// A packet, still without the connection that it belongs to.
#[derive(Clone, Debug)]
pub struct Packet {
    connection: Index,
    reply: bool,
    base: Frame,
    twists: Vec<Twist>,
}

/// Something that an ordinary packet does not have.
#[derive(Clone, Debug)]
enum Twist {
    /// A checksum of zero, in either form, before or after translation.
    Zero {
        after: bool,
        other_form: bool,
    },
    Faults(Faults),
    Ttl(u8),
    Fragment(u16),
    Options(Vec<u8>),
    Extensions(Vec<(u8, Vec<u8>)>),
    Protocol(u8),
    Source(FiveTuple),
    Destination(FiveTuple),
    Ports(u16, u16),
    Mac([u8; 6]),
    SourceMac([u8; 6]),
    Tags(Vec<(u16, u16)>),
    Priority(u8),
    Session(Option<u16>),
    OtherPort,
    Flags(u8),
    Control(u8),
    /// A length about that of the proved length, the egress MTU, or any.
    Length(Around, i16),
    /// Bits that are wrong, anywhere.
    Flips(Vec<(Index, u8)>),
    /// Bits that are wrong in the headers, and checksums that say that they are right.
    Mended(Vec<(Index, u8)>),
    EtherType(u16),
    Bytes(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
enum Around {
    Proved,
    Mtu,
    Jumbo,
    Absolute(u16),
}

/// A frame to be sent through both gateways.
#[derive(Clone, Debug)]
pub struct Input {
    /// The connection that it was made for, by number.
    pub connection: usize,
    /// Its direction: 0 for the original one, 1 for the reply.
    pub way: usize,
    /// The port that it comes in by.
    pub port: u16,
    /// Its bytes.
    pub frame: Vec<u8>,
    /// What is peculiar about it.
    pub kind: &'static str,
    /// The kernel may see it, even if Flyover punts it: it can't change the state of a connection.
    pub harmless: bool,
}

impl Twist {
    fn name(&self) -> &'static str {
        match self {
            Self::Zero { .. } => "zero checksum",
            Self::Faults(_) => "faults",
            Self::Ttl(_) => "ttl",
            Self::Fragment(_) => "fragment field",
            Self::Options(_) => "IPv4 options",
            Self::Extensions(_) => "extension headers",
            Self::Protocol(_) => "other protocol",
            Self::Source(_) => "other source",
            Self::Destination(_) => "other destination",
            Self::Ports(..) => "other ports",
            Self::Mac(_) => "other MAC",
            Self::SourceMac(_) => "other source MAC",
            Self::Tags(_) => "other tags",
            Self::Priority(_) => "other priority",
            Self::Session(_) => "other session",
            Self::OtherPort => "other port",
            Self::Flags(_) => "TCP flags",
            Self::Control(_) => "FIN, RST, SYN",
            Self::Length(..) => "length",
            Self::Flips(_) => "wrong bits",
            Self::Mended(_) => "wrong bits, mended",
            Self::EtherType(_) => "EtherType",
            Self::Bytes(_) => "any bytes",
        }
    }

    /// Whether a TCP segment may become one that the kernel takes for a FIN, RST or SYN, or may wait in its
    /// reassembly.
    const fn may_change_state(&self) -> bool {
        matches!(
            self,
            Self::Faults(_)
                | Self::Fragment(_)
                | Self::Extensions(_)
                | Self::Flags(_)
                | Self::Control(_)
                | Self::Flips(_)
                | Self::Mended(_)
                | Self::Bytes(_)
        )
    }
}

impl Packet {
    /// The packet through one of these connections.
    pub fn through(&self, connections: &[Opened]) -> Input {
        let number = self.connection.index(connections.len());
        self.through_one(number, &connections[number])
    }

    fn through_one(&self, number: usize, opened: &Opened) -> Input {
        let way = usize::from(self.reply);
        let Connection { from, to, priority, .. } = opened.connection;
        let (link, to) = if self.reply { (to, from) } else { (from, to) };
        let mut frame = self.base.clone();
        frame.tuple = opened.tuples[way];
        link.dress(&mut frame, to, priority);
        let mut port = link.port();
        for twist in &self.twists {
            if matches!(twist, Twist::OtherPort) {
                port = 1 - port;
            }
            change(&mut frame, twist, opened, way);
        }
        let l3 = frame.l2_len();
        let mut bytes = frame.build();
        for twist in &self.twists {
            match twist {
                Twist::Zero { other_form: true, .. } => bytes::other_zeros(&mut bytes, l3),
                Twist::Flips(flips) => bytes::flip(&mut bytes, flips),
                Twist::Mended(flips) => {
                    let headers = bytes.get_mut(l3..).unwrap_or_default();
                    let end = headers.len().min(80);
                    bytes::flip(&mut headers[..end], flips);
                    bytes::mend(&mut bytes, l3);
                }
                Twist::Bytes(any) => bytes.clone_from(any),
                _ => {}
            }
        }
        bytes.truncate(LONGEST);
        let control = frame.tcp.flags & (tcp::FIN | tcp::SYN | tcp::RST) != 0;
        let changes = self.twists.iter().any(Twist::may_change_state);
        let fragment = frame.fragment & 0x3fff != 0;
        Input {
            connection: number,
            way,
            port,
            frame: bytes,
            kind: self.twists.first().map_or("ordinary", Twist::name),
            harmless: !fragment && (opened.connection.tuple.proto == UDP || !(control || changes)),
        }
    }
}

/// Changes the description of a frame.
fn change(frame: &mut Frame, twist: &Twist, opened: &Opened, way: usize) {
    let egress_mtu = opened.egress[way].mtu();
    match twist {
        Twist::Zero { after, .. } => {
            bytes::absorb(frame, after.then(|| opened.tuples[1 - way].inverted()));
        }
        Twist::Faults(faults) => frame.faults = *faults,
        Twist::Ttl(ttl) => frame.ttl = *ttl,
        Twist::Fragment(field) => frame.fragment = *field,
        Twist::Options(options) => frame.options.clone_from(options),
        Twist::Extensions(extensions) => frame.extensions.clone_from(extensions),
        Twist::Protocol(protocol) => frame.tuple.proto = *protocol,
        Twist::Source(other) if other.src.is_ipv4() == frame.tuple.src.is_ipv4() => {
            frame.tuple.src = other.src;
        }
        Twist::Destination(other) if other.dst.is_ipv4() == frame.tuple.dst.is_ipv4() => {
            frame.tuple.dst = other.dst;
        }
        Twist::Ports(source, destination) => {
            (frame.tuple.sport, frame.tuple.dport) = (*source, *destination);
        }
        Twist::Mac(mac) => frame.dst_mac = *mac,
        Twist::SourceMac(mac) => frame.src_mac = *mac,
        Twist::Tags(tags) => frame.tags.clone_from(tags),
        Twist::Priority(priority) => {
            for (_, tci) in &mut frame.tags {
                *tci = *tci & 0xfff | u16::from(*priority) << 12;
            }
        }
        Twist::Session(session) => frame.pppoe = *session,
        Twist::Flags(flags) | Twist::Control(flags) => frame.tcp.flags = *flags,
        Twist::EtherType(kind) => frame.faults.ether_type = Some(*kind),
        Twist::Length(around, off) => {
            let length = match around {
                Around::Proved => opened.connection.length.min(egress_mtu),
                Around::Mtu => egress_mtu,
                Around::Jumbo => 9000,
                Around::Absolute(length) => *length,
            };
            lengthen(frame, usize::from(length.saturating_add_signed(*off)));
        }
        Twist::Source(_)
        | Twist::Destination(_)
        | Twist::OtherPort
        | Twist::Flips(_)
        | Twist::Mended(_)
        | Twist::Bytes(_) => {}
    }
}

/// Gives a packet a length, from its IP header on, as far as its headers allow.
fn lengthen(frame: &mut Frame, length: usize) {
    let headers = frame.ip().len() - frame.payload.len();
    frame.payload = bytes::filler(2, length as u64, length.min(LONGEST).saturating_sub(headers));
}

/// A packet that an ordinary host might send.
fn base() -> impl Strategy<Value = Frame> {
    let ip = (2u8.., any::<u8>(), any::<u16>(), any::<[bool; 2]>(), 0u32..1 << 20);
    let flags = (select(vec![0x10u8, 0x30]), any::<u8>()).prop_map(|(base, extra)| base | extra & 0xc8);
    let tcp =
        (any::<(u32, u32, u16, u16)>(), flags, 0u8..16, prop_oneof![1 => content(0..1), 2 => content(0..41)]);
    let payload = prop_oneof![8 => content(0..65), 1 => content(0..1500), 1 => content(1300..9000)];
    let padding = prop_oneof![3 => content(0..1), 3 => content(0..47), 1 => content(0..300)];
    (ip, tcp, weighted(0.15, Just(())), payload, padding).prop_map(|(ip, tcp, bare, payload, padding)| {
        let (ttl, tos, id, [reserved, dont], flow_label) = ip;
        let ((seq, ack, window, urgent), flags, reserved_bits, options) = tcp;
        let any_tuple =
            FiveTuple { proto: TCP, src: [1, 1, 1, 1].into(), dst: [1, 1, 1, 1].into(), sport: 0, dport: 0 };
        Frame {
            ttl,
            tos,
            id,
            fragment: u16::from(reserved) << 15 | u16::from(dont) << 14,
            flow_label,
            tcp: TcpFields { seq, ack, flags, reserved: reserved_bits, window, urgent, options },
            udp_without_checksum: bare.is_some(),
            payload,
            padding,
            ..Frame::of(any_tuple)
        }
    })
}

/// Bytes of some length: zeros, ones, or any.
fn content(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    (0u8..6, any::<u64>(), length).prop_map(|(pattern, seed, length)| bytes::filler(pattern, seed, length))
}

fn flips(most: usize) -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), 1u8..), 1..=most)
}

fn twist() -> impl Strategy<Value = Twist> {
    let extension =
        (select(vec![0u8, 43, 44, 51, 59, 60, 135, 139]), content(8..33)).prop_map(|(number, mut header)| {
            let whole = header.len() / 8 * 8;
            header.truncate(whole);
            // The length field is right half of the time.
            if header.last().is_some_and(|byte| byte & 1 == 0) {
                header[1] = (whole / 8 - 1) as u8;
            }
            (number, header)
        });
    let around = prop_oneof![
        2 => Just(Around::Proved),
        2 => Just(Around::Mtu),
        1 => Just(Around::Jumbo),
        1 => (0u16..12_000).prop_map(Around::Absolute),
    ];
    let mac = prop_oneof![
        Just([0; 6]),
        Just([0xff; 6]),
        any::<[u8; 6]>(),
        any::<[u8; 3]>().prop_map(|[a, b, c]| [1, 0, 0x5e, a & 0x7f, b, c]),
        any::<[u8; 4]>().prop_map(|[a, b, c, d]| [0x33, 0x33, a, b, c, d]),
    ]
    .boxed();
    let tags = prop_oneof![
        strategies::tags(),
        Just(vec![(0x8100, 0)]),
        Just(vec![(0x8100, 100); 3]),
        vec((any::<u16>(), any::<u16>()), 1..=3),
    ];
    let kinds = prop_oneof![
        Just(0x0806u16),
        Just(0x86dd),
        Just(0x0800),
        Just(0x8809),
        Just(0x8863),
        Just(0x88cc),
        any::<u16>()
    ];
    prop_oneof![
        4 => any::<[bool; 2]>().prop_map(|[after, other_form]| Twist::Zero { after, other_form }),
        4 => strategies::faults().prop_map(Twist::Faults),
        2 => prop_oneof![0u8..=2, any::<u8>()].prop_map(Twist::Ttl),
        2 => any::<u16>().prop_map(Twist::Fragment),
        2 => content(1..41).prop_map(Twist::Options),
        2 => vec(extension, 1..=3).prop_map(Twist::Extensions),
        1 => any::<u8>().prop_map(Twist::Protocol),
        1 => prop_oneof![strategies::tuples().boxed(), special().boxed()].prop_map(Twist::Source),
        1 => prop_oneof![strategies::tuples().boxed(), special().boxed()].prop_map(Twist::Destination),
        1 => any::<(u16, u16)>().prop_map(|(source, destination)| Twist::Ports(source, destination)),
        1 => mac.clone().prop_map(Twist::Mac),
        1 => mac.prop_map(Twist::SourceMac),
        2 => tags.prop_map(Twist::Tags),
        1 => (0u8..16).prop_map(Twist::Priority),
        1 => any::<Option<u16>>().prop_map(Twist::Session),
        1 => Just(Twist::OtherPort),
        2 => any::<u8>().prop_map(Twist::Flags),
        2 => select(vec![0x02u8, 0x22, 0x12, 0x04, 0x14, 0x11, 0x31]).prop_map(Twist::Control),
        5 => (around, -3i16..=3).prop_map(|(around, off)| Twist::Length(around, off)),
        3 => flips(4).prop_map(Twist::Flips),
        6 => flips(3).prop_map(Twist::Mended),
        1 => kinds.prop_map(Twist::EtherType),
        1 => content(0..200).prop_map(Twist::Bytes),
    ]
}

/// Tuples whose addresses routers do not forward, or that are at the edge of those.
fn special() -> impl Strategy<Value = FiveTuple> {
    let v4 = [
        "0.0.0.0",
        "0.1.2.3",
        "1.0.0.0",
        "126.255.255.255",
        "127.0.0.1",
        "128.0.0.0",
        "169.254.0.1",
        "223.255.255.255",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "10.99.0.1",
    ];
    let v6 = [
        "::",
        "::1",
        "::2",
        "fe80::1",
        "fec0::1",
        "febf::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:1.2.3.4",
        "2001:db8:99::1",
    ];
    let all: Vec<std::net::IpAddr> = v4.iter().chain(&v6).filter_map(|text| text.parse().ok()).collect();
    select(all).prop_map(|address| FiveTuple { proto: UDP, src: address, dst: address, sport: 0, dport: 0 })
}

/// Packets: about half of them ordinary, the others with one to three twists.
pub fn packets() -> impl Strategy<Value = Packet> {
    let twists = prop_oneof![9 => Just(Vec::new()), 8 => vec(twist(), 1), 3 => vec(twist(), 2..=3)];
    (any::<Index>(), any::<bool>(), base(), twists).prop_map(|(connection, reply, base, twists)| Packet {
        connection,
        reply,
        base,
        twists,
    })
}

/// Whether the L4 checksum of a packet that could fly is wrong.
pub fn has_bad_checksum(frame: &[u8], headers: &dataplane::packet::Headers) -> bool {
    let packet = headers.packet(frame);
    let l4 = headers.l4() - usize::from(headers.l3);
    let (Some(addresses), Some(segment)) =
        (packet.get(if l4 == 20 { 12..20 } else { 8..40 }), packet.get(l4..))
    else {
        return false;
    };
    let proto = headers.key.proto();
    let none = proto == UDP && segment.get(6..8) == Some(&[0, 0]);
    !none && checksum::compute_l4(addresses, proto, segment) != 0
}
